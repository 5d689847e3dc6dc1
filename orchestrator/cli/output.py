"""Print results on stdout. All other output of the command line goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.documents import Error, Mistake
from orchestrator.utils.addresses import shown
from orchestrator.utils.errors import UserError
from orchestrator.utils.records import JsonRecord

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.store.sweep_folder import SweepFolder

_UNFOLDED = 100_000
"""Columns of an output that is no terminal: names and addresses in tables stay whole."""

_FIRST = 9
"""Minimum width of the first column of a table, if the others are not folded."""


def stderr_console() -> Console:
    """Return a console that writes to stderr, or nowhere if the command line asks for warnings only."""
    from orchestrator.utils.logs import is_quiet
    from orchestrator.utils.safe_console import SafeConsole

    return SafeConsole(stderr=True, quiet=is_quiet())


def print_json(value: Any) -> None:
    """Print a document, or several, as indented JSON. NaN and infinity are errors."""
    is_unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(shown(json.dumps(value, indent=2, ensure_ascii=not is_unicode, allow_nan=False)))


def print_error_json(error: UserError) -> None:
    """Print the user's mistake as a JSON object."""
    mistake = Mistake(
        field=error.field, value="" if error.value is None else shown(str(error.value)), remedy=shown(error.remedy)
    )
    print(json.dumps(Error(error=mistake).to_json()))


def print_record(record: JsonRecord, as_json: bool) -> None:
    """Print a flat document, as JSON or as one line for each key but `schema`."""
    document = record.to_json()
    if as_json:
        print_json(document)
    else:
        print_pairs([(key, str(item)) for key, item in document.items() if key != "schema"])


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns, and an empty line. Long values are folded on terminals only."""
    from rich.table import Table
    from rich.text import Text

    from orchestrator.utils.safe_console import SafeConsole

    console = SafeConsole()
    if console.is_terminal:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs:
            table.add_row(Text(name, style="bold"), Text(shown(value)))
        console.print(table)
    else:
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            console.print(Text(f"{name:{width}} {shown(value)}"), soft_wrap=True)
    print()


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; cells are plain text without markup.

    They are folded on terminals only, those of the first column rather than numbers and intervals.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from orchestrator.utils.safe_console import SafeConsole

    console = SafeConsole()
    if not console.is_terminal:
        console.width = _UNFOLDED
    rows = [[shown(cell) for cell in row] for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading, width in zip(headings, _column_widths(headings, rows, console.width), strict=True):
        table.add_column(heading, overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _column_widths(headings: Sequence[str], rows: Sequence[Sequence[str]], space: int) -> list[int | None]:
    """Return the widths of a table's columns in characters, None for those that share what is left.

    In a table that is too wide for `space`, only the first column gets what is left: the others are as wide as their
    longest word, number or interval. If that leaves less than _FIRST for it, all widths are None.
    """
    from rich.cells import cell_len

    def unfolded(cell: str) -> int:
        return max(map(cell_len, [cell] if any(map(str.isdecimal, cell)) else cell.split()), default=0)

    columns = list(zip(*rows, strict=True))
    space -= 2 * len(headings)  # between columns and at both edges
    if sum(max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)) <= space:
        return [None] * len(headings)
    words = [max(map(cell_len, heading.split()), default=0) for heading in headings]
    widths = [max(word, *map(unfolded, column)) for word, column in zip(words, columns, strict=True)][1:]
    return [None, *widths] if sum(widths) + _FIRST <= space else [None] * len(headings)


def print_results(folder: SweepFolder, as_json: bool) -> None:
    """Print a sweep's results: a plot and numbers, or (as JSON) summary.json with the paths of the result files."""
    paths = folder.result_paths()
    if as_json:
        print_json(folder.read_summary() | {"paths": {name: str(path) for name, path in paths.items()}})
        return
    from orchestrator.analysis.reducer import read_results
    from orchestrator.report import terminal
    from orchestrator.utils.safe_console import SafeConsole

    terminal.show(*read_results(folder), paths, SafeConsole())
