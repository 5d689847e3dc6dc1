"""Numbers in Markdown: fill in generated ones, and find those that are neither generated nor have a stated source.

A generated number stands in `<!-- figure: NAME -->TEXT<!-- /figure -->`. A stated source is `<!-- source: SOURCE -->`;
it covers the block (paragraph, list or table) in which it stands or, if it stands alone, the next block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/**/*.md")
"""The pages that are checked and filled in, as patterns below the root."""

NOT_MEASURED = ("definition", "setting", "example", "arithmetic")
"""Sources of a block whose numbers were not measured."""

_FIGURE = re.compile(r"<!-- figure: (?P<name>[\w.-]+) -->(?P<text>.*?)<!-- /figure -->", re.DOTALL)
_SOURCE = re.compile(r"<!-- source: (?P<source>.+?) -->", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE_BLOCK = re.compile(
    r"^(?P<fence> *(?:```|~~~))[^\n]*\n.*?^(?P=fence)[^\n]*$|^ {4}[^\n]*$", re.DOTALL | re.MULTILINE
)
_INLINE_CODE = re.compile(r"(`+)[^`].*?\1", re.DOTALL)
_LINK_TARGET = re.compile(r"\]\([^)]*\)")
_BLOCK = re.compile(r"(?:^[^\n]*\S[^\n]*$\n?)+", re.MULTILINE)

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_WORD = r"(?:two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty|fifty|sixty)"
_TIME = r"(?:ms|milliseconds?|s|seconds?|min|minutes?|h|hours?|GPU-hours?)\b"
_UNIT = rf"(?:\s?%|\s(?:percent|times|{_TIME}|[KMGT]i?B\b)|x\b)"
_MEASURED = re.compile(
    rf"(?<![\w.])(?<!\w-)(?:[np] ?[=<>] ?{_NUMBER}|{_NUMBER}{_UNIT}|{_NUMBER} of (?:the )?{_NUMBER}"
    rf"|\d+\.\d+(?:e-?\d+)?(?!\.?\d)|\d+e-\d+|{_WORD}\s(?:percent|{_TIME}))"
)


@dataclass(frozen=True)
class Finding:
    """A number, or a source, that the rules do not allow: its line in the page, from 1, and what is wrong."""

    line: int
    problem: str


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that are checked, sorted."""
    return sorted(path for pattern in PAGES for path in root.glob(pattern))


def names(page: str) -> list[tuple[str, str]]:
    """Return the name and the text of each marker of a page, in their order."""
    return [(match["name"], match["text"]) for match in _FIGURE.finditer(page)]


def filled(page: str, texts: Mapping[str, str]) -> str:
    """Return the page with the text of each generated number whose name is in `texts`. Others stay as they are."""

    def replacement(match: re.Match[str]) -> str:
        text = texts.get(match["name"], match["text"])
        return f"<!-- figure: {match['name']} -->{text}<!-- /figure -->"

    return _FIGURE.sub(replacement, page)


def findings(page: str, generated: Collection[str], is_source: Callable[[str], bool]) -> list[Finding]:
    """Return the violations of the rules on a page.

    These are a measured number without a source, a text that is no source, a source that covers no number, and a marker
    at the beginning of a line, which Markdown would take for a separate block.

    Args:
        page: The page's text.
        generated: Names of the numbers that were measured. The text in other markers counts as written by hand.
        is_source: Whether the text of a source is one; see `is_stated_source`.
    """
    violations = []
    for match in _FIGURE.finditer(page):
        if "\n" not in match["text"] and not page[: match.start()].rpartition("\n")[2].strip():
            violations.append(Finding(_line(page, match.start()), f"the marker {match['name']} begins a line"))
    for match in _SOURCE.finditer(page):
        if not is_source(match["source"]):
            violations.append(Finding(_line(page, match.start()), f"'{match['source']}' is no source"))
    source_above: re.Match[str] | None = None
    for start, block in _blocks(page, generated):
        text = _blank(_COMMENT, block)
        source = _SOURCE.search(block)
        if source is not None and not text.strip():
            source_above = source
            continue
        numbers = list(_MEASURED.finditer(text))
        covering, source_above = source or source_above, None
        if covering is None:
            violations += [Finding(_line(page, start + n.start()), f"'{n[0]}' has no source") for n in numbers]
        elif not numbers:
            violations.append(Finding(_line(page, start), f"the source '{covering['source']}' covers no number"))
    return sorted(violations, key=lambda finding: finding.line)


def is_stated_source(source: str, root: Path = ROOT) -> bool:
    """Return whether a text names a source: a kind of NOT_MEASURED, a file, an address, a paper or a measurement.

    A paper is `paper, PLACE`. A measurement outside `make figures` is `measured DATE, HOW`.
    """
    first = re.split(r"[\s,]", source.strip(), maxsplit=1)[0]
    if first in NOT_MEASURED:
        return source.strip() == first
    if first in ("paper", "measured"):
        return re.fullmatch(r"paper, \S.*|measured \d{4}-\d\d-\d\d, \S.*", source.strip(), re.DOTALL) is not None
    return first.startswith("https://") or (root / first).is_file()


def _blocks(page: str, generated: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield the start and the text of each block of a page, without code, generated numbers and targets of links."""
    for pattern in (_CODE_BLOCK, _INLINE_CODE, _LINK_TARGET):
        page = _blank(pattern, page)
    page = _FIGURE.sub(lambda match: _spaces(match[0]) if match["name"] in generated else match[0], page)
    for match in _BLOCK.finditer(page):
        yield match.start(), match[0]


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Return the text with spaces in place of what the pattern matches; line breaks stay."""
    return pattern.sub(lambda match: _spaces(match[0]), text)


def _spaces(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _line(page: str, position: int) -> int:
    return page.count("\n", 0, position) + 1
