"""Name the public reports that tests are made from, and write the table of them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

FOLDER = Path(__file__).parent
TABLE = FOLDER / "README.md"
FAILED, GUARDED = "failed here", "guarded"
SOURCE = re.compile(r"[\w.-]+/[\w.-]+#\d+")

T = TypeVar("T", bound=Callable[..., object])

HEADER = """# Tests from public bug reports

Each test has one small input, written for it, of a kind that another project's users reported as a fault.
*failed here*: the input failed in this program too, and the program was corrected. *guarded*: it did not fail; the
test was seen to fail when the program was broken on purpose. Sources are issues or pull requests on GitHub, as
PROJECT#NUMBER.

`python -m tests.public.reports` writes this table from the tests.

| what is right | source | kind |
|---|---|---|
"""


def reported(*sources: str, failed_here: bool = False) -> Callable[[T], T]:
    """Return a decorator that names the public reports from which a test is made.

    Args:
        *sources: Issues or pull requests on GitHub, as OWNER/NAME#NUMBER.
        failed_here: Whether the input failed in this program before it was corrected. Otherwise the test was seen to
            fail when the program was broken on purpose.
    """
    assert sources and all(map(SOURCE.fullmatch, sources)), sources
    assert isinstance(failed_here, bool)

    def decorate(test: T) -> T:
        assert inspect.getdoc(test), "say what was reported, and what is right"
        return test

    return decorate


@dataclass(frozen=True)
class Case:
    """A test: its docstring in one line, the reports it is made from, and FAILED or GUARDED."""

    name: str
    sentence: str
    sources: tuple[str, ...]
    kind: str


def cases() -> list[Case]:
    """Return all tests of this folder, by file and place, without importing them."""
    found = []
    for file in sorted(FOLDER.glob("test_*.py")):
        if file.name == "test_table.py":
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.append(_case(node))
    return found


def _case(test: ast.FunctionDef) -> Case:
    calls = [call for call in test.decorator_list if isinstance(call, ast.Call)]
    (call,) = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "reported"]
    sources = tuple(ast.literal_eval(argument) for argument in call.args)
    failed = any(ast.literal_eval(keyword.value) for keyword in call.keywords)
    sentence = " ".join((ast.get_docstring(test) or "").split())
    return Case(test.name, sentence, sources, FAILED if failed else GUARDED)


def table() -> str:
    """Return the text of README.md."""
    rows = []
    for case in cases():
        sentence = case.sentence.replace("|", "\\|")
        rows.append(f"| {sentence} | {', '.join(case.sources)} | {case.kind} |\n")
    return HEADER + "".join(rows)


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    print(TABLE, file=sys.stderr)
