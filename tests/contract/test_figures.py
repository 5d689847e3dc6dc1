"""Test that each measured number in README and docs is generated, and current, or has a stated source."""

from __future__ import annotations

import pytest

from scripts.figures.definitions import RESULTS, read_definitions
from scripts.figures.markdown import findings, is_stated_source, names, pages
from scripts.figures.numbers import read_numbers
from scripts.figures.values import FIELDS, Results
from tests.contract.rules import ROOT

GENERATED = {"study.radius": ("definition", "0.11 (0.08 to 0.13)")}


def problems(page: str) -> list[str]:
    return [finding.problem for finding in findings(page, GENERATED, is_stated_source)]


def test_every_measured_number_is_generated_or_has_a_source() -> None:
    numbers = read_numbers()
    violations = [
        f"{page.relative_to(ROOT)}:{finding.line}: {finding.problem}"
        for page in pages()
        for finding in findings(page.read_text(encoding="utf-8"), numbers, is_stated_source)
    ]
    assert violations == [], "CONTRIBUTING.md says how to write numbers"


def test_generated_numbers_are_those_of_the_last_make_figures() -> None:
    texts = {name: text for name, (_, text) in read_numbers().items()}
    old = [
        f"{page.relative_to(ROOT)}: {name} is not {texts[name]}"
        for page in pages()
        for name, text in names(page.read_text(encoding="utf-8"))
        if name in texts and text != texts[name]
    ]
    assert old == [], "run `make figures ARGS=--stored`"


def test_every_number_is_defined_and_quoted() -> None:
    definitions = read_definitions()
    quoted = {name for page in pages() for name, _ in names(page.read_text(encoding="utf-8"))}
    assert sorted(quoted ^ set(definitions.numbers)) == []
    assert {number.field for number in definitions.numbers.values()} <= set(FIELDS)


def test_no_stored_number_has_an_outdated_definition() -> None:
    numbers = read_definitions().numbers
    stored = read_numbers()
    assert [name for name, (definition, _) in stored.items() if definition != numbers[name].definition] == []
    assert len(stored) > 20


def test_numbers_from_the_benchmarks_are_current() -> None:
    stored = read_numbers()
    for number in read_definitions().numbers.values():
        if number.study == RESULTS:
            assert stored[number.name][1] == FIELDS[number.field](Results(number.study), number.options), number.name


def test_every_picture_is_made_by_one_definition_and_shown() -> None:
    drawn = {picture.file for picture in read_definitions().pictures}
    files = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.png")}
    assert files == drawn
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    assert [file for file in sorted(drawn) if f"]({file})" not in text] == []


@pytest.mark.parametrize(
    "planted",
    [
        "At the origin 7.5% of the attacks succeed.",
        "7.5 percent",
        "The radius is 0.11.",
        "VISAGE is 60.0",
        "It takes 40 s.",
        "It takes four minutes.",
        "The file has 20 MB.",
        "It is 9 times as long, or 3x.",
        "37 of the 40 requests",
        "p < 0.05",
        "n = 40",
        "an error of 3e-5",
        "| a | b |\n|---|---|\n| 1 | 12.5 |",
        "* an item\n* another with 12.5",
        "One paragraph. <!-- source: example -->\n\nAnother with 7.5%.",
        "<!-- figure: study.unknown -->7.5%<!-- /figure -->, which nobody has measured",
        "It has <!-- figure: study.radius -->0.11<!-- /figure -->, and 7.5%.",
    ],
)
def test_a_planted_number_fails(planted: str) -> None:
    assert any("has no source" in problem for problem in problems(f"# Title\n\n{planted}\n\nMore text.\n"))


@pytest.mark.parametrize(
    "page",
    [
        "Run 21 points with `grid.range=[-0.5,0.5]` or\n\n```sh\nrun alpha=0.5\n```\n\n    sampling.top_p=0.9\n",
        "[a link](https://host/v1.5/page) and Apache-2.0, vLLM 0.32.0, Llama-3.1",
        "It is <!-- figure: study.radius -->0.11 (0.08 to 0.13)<!-- /figure --> here.",
        "ASR crosses 50% there. <!-- source: definition -->",
        "<!-- source: paper, Table 1 -->\n\n| model | VISAGE |\n|---|---|\n| a | 85.32 |",
        "It took 67.4 s. <!-- source: measured 2026-11-27, by hand -->",
        "The proof differs by 1e-4. <!-- source: tests/contract/rules.py -->",
    ],
)
def test_other_numbers_pass(page: str) -> None:
    assert problems(f"# Title\n\n{page}\n\nMore text.\n") == []


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("It is 7.5%. <!-- source: trust me -->", "is no source"),
        ("It is 7.5%. <!-- source: no/such/file.md -->", "is no source"),
        ("It is 7.5%. <!-- source: definition, or so -->", "is no source"),
        ("It is 7.5%. <!-- source: measured yesterday -->", "is no source"),
        ("No number at all. <!-- source: example -->", "covers no number"),
        ("A line that ends\n<!-- figure: study.radius -->0.11<!-- /figure --> and begins so.", "begins a line"),
    ],
)
def test_markers_that_do_not_mean_anything_fail(page: str, problem: str) -> None:
    assert any(problem in found for found in problems(f"# Title\n\n{page}\n\nMore text.\n"))
