"""Test that the documentation names every option and verb and has no broken link, external request or stale path."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from scripts.draw_layers import PAGE, updated
from tests.contract.rules import ROOT

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]*)#([^)\s]+)\)")
GENERATED = ("reference/cli.md", "reference/config.md")  # by scripts/docs_hooks.py
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
EXTERNAL = ("http://", "https://", "mailto:")
CODE_PATH = re.compile(r"`((?:orchestrator|workers|tests|conf|scripts|benchmarks|docker)/[\w./-]+)`")


def build(folder: Path, docs: Path = ROOT / "docs") -> None:
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    mkdocs_build(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(folder)))


def pages_in_git() -> list[Path]:
    """Return the Markdown files that git tracks or would add."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    completed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if completed.returncode:
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in completed.stdout.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    return folder


@pytest.mark.thorough
def test_the_site_names_every_option_verb_and_table(site: Path) -> None:
    from orchestrator.cli.commands import VERBS
    from orchestrator.config.descriptions import descriptions

    text = html.unescape((site / "reference/config.html").read_text(encoding="utf-8"))
    assert [key for key in descriptions() if f"<code>{key}</code>" not in text] == []
    assert "whole responses instead of their first words" in text
    text = (site / "reference/cli.html").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"<code>{verb}</code>" not in text] == []
    text = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in (
        "Experiment.run",
        "load_studies",
        "load_study",
        "StoredStudy.points",
        "StoredStudy.generations",
        "StoredStudy.landscape",
    ):
        assert f'id="orchestrator.{name}"' in text, name


def test_the_site_requests_nothing_from_other_sites(site: Path) -> None:
    fetched = re.compile(
        r'<(?:script|img|iframe)[^>]*src="https?:|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="https?:'
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


def test_pages_lead_to_the_previous_and_the_next_one(site: Path) -> None:
    page = (site / "howto" / "model.html").read_text(encoding="utf-8")
    assert re.search(r'href="\.\./tutorial\.html"[^>]*md-footer__link--prev', page)
    assert re.search(r'href="probes\.html"[^>]*md-footer__link--next', page)


@pytest.mark.thorough
def test_the_index_for_search_without_a_server_has_every_page(site: Path) -> None:
    script = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    found = {entry["location"].partition("#")[0] for entry in json.loads(script.removeprefix("var __index = "))["docs"]}
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    assert pages - {"index.html"} == found - {"", "index.html"}
    assert 'src="../javascripts/offline_search.js"' in (site / "howto" / "model.html").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_notebooks_have_pages_that_are_linked(site: Path) -> None:
    assert NOTEBOOKS
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        assert f'href="../notebooks/{name}.html"' in text
        assert "load_study" in (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")


@pytest.mark.thorough
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


def test_relative_links_point_to_existing_files() -> None:
    broken = []
    for page in pages_in_git():
        name = page.relative_to(ROOT).as_posix()
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            generated = name.startswith("docs/") and link.removeprefix("../") in GENERATED
            if not (link.startswith(EXTERNAL) or generated or (page.parent / link).exists()):
                broken.append(f"{name}: {link}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", re.sub(r"\]\([^)]*\)", "", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_anchors_of_links_are_headings() -> None:
    broken = []
    for page in pages_in_git():
        for link, anchor in ANCHOR.findall(page.read_text(encoding="utf-8")):
            target = page.parent / link if link else page
            if not link.startswith(EXTERNAL) and target.suffix == ".md" and target.exists():
                broken += [f"{page.relative_to(ROOT)}: {link}#{anchor}"] if anchor not in anchors(target) else []
    assert broken == []


def test_the_index_links_every_page() -> None:
    docs = ROOT / "docs"
    linked = set(LINK.findall((docs / "index.md").read_text(encoding="utf-8")))
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} - {"index.md"}
    assert sorted(pages - linked) == []


def test_paths_in_the_documentation_exist() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
    missing = {
        f"{page.relative_to(ROOT)}: {path}"
        for page in pages
        for path in CODE_PATH.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    }
    assert missing == set()


def test_the_drawing_of_the_layers_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == updated(page), "update it with `python -m scripts.draw_layers`"


def test_the_architecture_page_names_every_package() -> None:
    text = PAGE.read_text(encoding="utf-8")
    packages = [path.parent for path in (ROOT / "orchestrator").glob("*/__init__.py")]
    assert packages
    assert [path.name for path in packages if f"| `orchestrator/{path.name}/` |" not in text] == []


def test_every_key_of_a_summary_is_described(tmp_path: Path) -> None:
    from orchestrator import load_study
    from tests.unit.stored import basin, store_sweep

    folder = store_sweep(tmp_path, basin(0.25), probes=tuple("abcd"), directions=2)
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8").partition("## summary.json")[2]

    def keys(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()

    summary = {key: value for key, value in load_study(folder).summary.items() if key not in ("grid", "engines")}
    summary["judges"] = [{key: value for key, value in judge.items() if key != "sets"} for judge in summary["judges"]]
    assert len(keys(summary)) > 50
    assert sorted(key for key in keys(summary) if f"`{key}`" not in text) == []


def test_every_column_of_a_stored_table_is_described() -> None:
    from orchestrator.analysis.landscape import LANDSCAPE_SCHEMA
    from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS, LOG_PROBABILITIES, PROMPTS

    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    tables = {"generations": GENERATIONS, "judgements": JUDGEMENTS, "log_probabilities": LOG_PROBABILITIES}
    tables |= {"prompts": PROMPTS, "landscape.parquet": LANDSCAPE_SCHEMA}
    for title, schema in tables.items():
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        assert [name for name in schema.names if not re.search(rf"\b{name}\b", section)] == [], title


def test_every_json_document_has_a_current_schema_and_a_row_in_the_documentation() -> None:
    from scripts.write_schemas import FOLDER, texts

    stored = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert stored == texts(), "update them with `python -m scripts.write_schemas`"
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert [name for name in stored if f"(schemas/{name})" not in page] == []
