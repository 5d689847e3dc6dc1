"""Test that committed files contain no personal path or package-index address, are small, and have valid metadata."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.contract.rules import ROOT

MAX_BYTES = 6_000_000
HOMES = re.compile(r"(?<![\w.~<{$])/(?:home/|Users/|root/|work/|opt/wheels)\w")
INDEXES = re.compile(r"pypi\.org|files\.pythonhosted|/simple/|registry\.npmjs|--(?:extra-)?index-url|UV_\w*INDEX")
SCHEMAS = (
    ("CITATION.cff", "vendor.citation-file-format"),
    (".github/workflows/ci.yml", "vendor.github-workflows"),
    (".github/actions/gate/action.yml", "vendor.github-actions"),
    (".github/ISSUE_TEMPLATE/config.yml", "vendor.github-issue-config"),
    (".github/ISSUE_TEMPLATE/bug.yml", "vendor.github-issue-forms"),
    (".github/ISSUE_TEMPLATE/feature.yml", "vendor.github-issue-forms"),
)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Return the files that git tracks or would add, except this one, which contains the patterns it searches for."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def matches(pattern: re.Pattern[str], files: list[Path]) -> Iterator[str]:
    """Yield `file:line: text` for each line of a text file that the pattern matches."""
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # binary
        hits = [(n, line) for n, line in enumerate(lines, 1) if pattern.search(line)]
        yield from (f"{path}:{n}: {line.strip()[:200]}" for n, line in hits)


def test_no_file_contains_a_path_of_a_developers_machine(tracked: list[Path]) -> None:
    assert list(matches(HOMES, tracked)) == []


def test_no_file_contains_the_address_of_a_package_index(tracked: list[Path]) -> None:
    assert list(matches(INDEXES, tracked)) == []


def test_no_file_is_large(tracked: list[Path]) -> None:
    assert {path.name: size for path in tracked if (size := path.stat().st_size) > MAX_BYTES} == {}


def test_every_yaml_file_parses(tracked: list[Path]) -> None:
    files = [path for path in tracked if path.suffix in (".yaml", ".yml")]
    assert files
    for path in files:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            assert document is None or isinstance(document, dict), path


@pytest.mark.parametrize(("name", "schema"), SCHEMAS, ids=[name for name, _ in SCHEMAS])
def test_metadata_files_follow_their_schemas(name: str, schema: str) -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    if not program.exists():
        pytest.skip("check-jsonschema is not installed (extra `dev`)")
    command = [program, "--builtin-schema", schema, ROOT / name]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_the_license_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text


@pytest.mark.parametrize(
    ("pattern", "wrong", "right"),
    [
        (HOMES, ["out=/home/ann/x", "'/Users/ann'", "cd /root/x"], ["~/x", "studies/", "gs://b/home/ann", "$HOME/x"]),
        (INDEXES, ["https://pypi.org/simple", "--index-url x"], ["the PyPI package", "PIP_NO_INDEX=1"]),
    ],
)
def test_patterns_match_what_they_should(
    pattern: re.Pattern[str], wrong: list[str], right: list[str], tmp_path: Path
) -> None:
    for texts, hits in ((wrong, 1), (right, 0)):
        for text in texts:
            (tmp_path / "file").write_text(f"first\n{text}\n")
            assert len(list(matches(pattern, [tmp_path / "file"]))) == hits, text
