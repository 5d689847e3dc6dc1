"""What is committed works on anyone's machine: no path of a developer's, no address of a package index, nothing big."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.contract.rules import ROOT

LARGEST = 6_000_000  # bytes
HOMES = re.compile(r"(?<![\w.~<{$])/(?:home/|Users/|root/|work/|opt/wheels)\w")
INDEXES = re.compile(r"pypi\.org|files\.pythonhosted|/simple/|registry\.npmjs|--(?:extra-)?index-url|UV_\w*INDEX")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git has, or would take up; but for this one, which names what it looks for."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def found(pattern: re.Pattern[str], files: list[Path]) -> Iterator[str]:
    """`file:line: the line` for each line of a text file in which the pattern occurs."""
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # not a text
        hits = [(n, line) for n, line in enumerate(lines, 1) if pattern.search(line)]
        yield from (f"{path}:{n}: {line.strip()[:200]}" for n, line in hits)


def test_no_path_of_a_developers_machine(tracked: list[Path]) -> None:
    assert list(found(HOMES, tracked)) == []


def test_no_address_of_a_package_index(tracked: list[Path]) -> None:
    assert list(found(INDEXES, tracked)) == []


def test_no_large_file(tracked: list[Path]) -> None:
    assert {path.name: size for path in tracked if (size := path.stat().st_size) > LARGEST} == {}


def test_every_yaml_file_is_one(tracked: list[Path]) -> None:
    files = [path for path in tracked if path.suffix in (".yaml", ".yml")]
    assert files
    for path in files:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            assert document is None or isinstance(document, dict), path


@pytest.mark.parametrize(
    ("pattern", "wrong", "right"),
    [
        (HOMES, ["out=/home/ann/x", "'/Users/ann'", "cd /root/x"], ["~/x", "studies/", "gs://b/home/ann", "$HOME/x"]),
        (INDEXES, ["https://pypi.org/simple", "--index-url x"], ["the PyPI package", "PIP_NO_INDEX=1"]),
    ],
)
def test_the_search_finds_what_it_should(
    pattern: re.Pattern[str], wrong: list[str], right: list[str], tmp_path: Path
) -> None:
    for texts, hits in ((wrong, 1), (right, 0)):
        for text in texts:
            (tmp_path / "file").write_text(f"first\n{text}\n")
            assert len(list(found(pattern, [tmp_path / "file"]))) == hits, text
