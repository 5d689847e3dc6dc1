"""The documentation is whole: the site builds without a broken link, names every option and verb, and asks nobody."""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

import pytest

from tests.contract.rules import ROOT

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
MADE = ("reference/cli.md", "reference/config.md", "results.md")  # by scripts/docs_hooks.py
ELSEWHERE = ("http://", "https://", "mailto:")


def build(folder: Path, docs: Path = ROOT / "docs") -> None:
    from mkdocs.commands.build import build as make
    from mkdocs.config import load_config

    make(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(folder)))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    return folder


def test_the_site_names_what_there_is(site: Path) -> None:
    from orchestrator.cli.main import VERBS
    from orchestrator.config.compose import options

    told = html.unescape((site / "reference/config.html").read_text(encoding="utf-8"))
    assert [key for key, _ in options() if f"<code>{key}</code>" not in told] == []
    assert "whole responses instead of their first words" in told
    told = (site / "reference/cli.html").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"<code>{verb}</code>" not in told] == []
    told = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in ("load_study", "StoredStudy.points", "StoredStudy.generations", "StoredStudy.landscape"):
        assert f'id="orchestrator.api.{name}"' in told, name


def test_the_site_asks_nobody(site: Path) -> None:
    fetched = re.compile(
        r'<(?:script|img|iframe)[^>]*src="https?:|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="https?:'
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    from mkdocs.exceptions import Abort

    docs = tmp_path / "docs"
    for page in (ROOT / "docs").rglob("*.*"):
        target = docs / page.relative_to(ROOT / "docs")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(page.read_bytes())
    with open(docs / "index.md", "a", encoding="utf-8") as page:
        page.write("\n[nowhere](no-such-page.md)\n")
    with pytest.raises(Abort):
        build(tmp_path / "site", docs)


def test_links_in_the_repository_lead_somewhere() -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no git checkout")
    broken = []
    for name in filter(None, done.stdout.split("\0")):
        page = ROOT / name
        for link in LINK.findall(page.read_text(encoding="utf-8")) if page.exists() else ():
            target = page.parent / link
            made = name.startswith("docs/") and link.removeprefix("../") in MADE
            if not (link.startswith(ELSEWHERE) or made or target.exists()):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_every_key_of_a_summary_is_described(tmp_path: Path) -> None:
    from orchestrator import load_study
    from tests.unit.stored import basin, store_sweep

    folder = store_sweep(tmp_path, basin(0.25), probes=tuple("abcd"), directions=2)
    told = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8").partition("## summary.json")[2]

    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()

    summary = {key: value for key, value in load_study(folder).summary.items() if key not in ("grid", "engines")}
    summary["judges"] = [{key: value for key, value in each.items() if key != "sets"} for each in summary["judges"]]
    assert len(keys(summary)) > 50
    assert sorted(key for key in keys(summary) if f"`{key}`" not in told) == []
