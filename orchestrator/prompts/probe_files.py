"""Read tables of prompts from CSV, JSON, JSONL and Parquet files: their columns, and their rows one after the other.

Functions raise ValueError with a message that names the row or line, such as "line 3 is not UTF-8".
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.utils.errors import UserError
from orchestrator.utils.parsing import FOREIGN_DIGITS, FormatError, parse_json
from orchestrator.utils.subprocesses import first_line

MAX_FIELD = 1 << 30
"""Characters of one CSV field; the csv module's own limit is 131,072."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""Delimiters of CSV files, the usual one first, with their names."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ProbeFormat:
    """A file format.

    Attributes:
        unit: Unit of the row number in errors, counted from 1: "row", "line" or "entry".
        columns: Returns the names of a file's columns; an empty list for an empty file.
        rows: Yields (number, row), each row with at least the named columns.
    """

    unit: str
    columns: Callable[[Path], list[str]]
    rows: Callable[[Path, list[str]], Iterator[tuple[int, Row]]]


def _lines(path: Path) -> Iterator[str]:
    """Yield a text file's lines with their ends, decoded one by one so that an error can name the line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} is not UTF-8 (its byte {error.start + 1}): save it as UTF-8") from None
            if "\0" in text:  # every other byte of English text in UTF-16 is one
                raise ValueError(f"line {number} holds a NUL character: save it as UTF-8")
            yield text


def _csv_dialect(path: Path) -> tuple[str, int]:
    """Return the delimiter of a CSV file, and the number of lines before its header.

    Excel writes semicolons where the comma is the decimal mark, and tabs as "Unicode text". They count only if the
    header has no comma. A first line such as `sep=;` tells Excel the delimiter.
    """
    first = next(_lines(path), "")
    if told := re.fullmatch(r'"?sep=(.)"?\s*', first):
        return told[1], 1
    return next((delimiter for delimiter in DELIMITERS if delimiter in first), ","), 0


def _csv_records(path: Path, delimiter: str, skip: int) -> Iterator[list[str]]:
    """Yield the records of a CSV file after `skip` lines, its header first. Blank lines are skipped."""
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(itertools.islice(_lines(path), skip, None), delimiter=delimiter, strict=True)
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        if "new-line character" in str(error):
            error = csv.Error("a carriage return alone ends no line: save it with line feeds")
        raise ValueError(f"line {reader.line_num + skip} is not CSV ({error})") from None


def _csv_header(records: Iterator[list[str]]) -> list[str]:
    """Return the names of the columns without spaces around them, non-breaking ones included."""
    return [name.strip() for name in next(records, [])]


def _csv_columns(path: Path) -> list[str]:
    return _csv_header(_csv_records(path, *_csv_dialect(path)))


def _csv_rows(path: Path, _: list[str]) -> Iterator[tuple[int, Row]]:
    delimiter, skip = _csv_dialect(path)
    records = _csv_records(path, delimiter, skip)
    header = _csv_header(records)
    for number, record in enumerate(records, 1):
        if len(record) < len(header):
            raise ValueError(
                f"row {number} has {len(record)} of the header's {len(header)} fields: add the missing ones"
            )
        if len(record) > len(header):
            marks = DELIMITERS.get(delimiter, "delimiters")
            raise ValueError(f"row {number} has {len(record)} fields, the header has {len(header)}: quote its {marks}")
        yield number, dict(zip(header, record, strict=True))


def _jsonl_columns(path: Path) -> list[str]:
    return next(([*row] for _, row in _jsonl_rows(path, [])), [])


def _jsonl_rows(path: Path, _: list[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, FOREIGN_DIGITS)
        except FormatError as error:
            raise ValueError(f"line {number} {error}") from None
        if isinstance(row, list):
            raise ValueError(
                f"line {number} is not a JSON object but a list: if it is the whole data, name the file .json"
            )
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object: write one with a field for the text in each line")
        yield number, row


def _begins_with_an_object(path: Path) -> bool:
    """Return whether the first line of a file is a whole JSON object."""
    try:
        return next(_jsonl_rows(path, []), None) is not None
    except ValueError:
        return False


def _json_columns(path: Path) -> list[str]:
    return next(([*row] for _, row in _json_rows(path, [])), [])


def _json_rows(path: Path, _: list[str]) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a list of objects, or of an object that holds one such list (JailbreakBench: `jailbreaks`)."""
    try:
        document = parse_json(path.read_bytes().decode("utf-8-sig"), FOREIGN_DIGITS)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (its byte {error.start + 1}): save it as UTF-8") from None
    except FormatError as error:
        hint = ": name it .jsonl, because each line is an object" if _begins_with_an_object(path) else ""
        raise ValueError(f"{error}{hint}") from None
    lists: list[list[Any]] = []
    if isinstance(document, list):
        lists = [document]
    elif isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list)]
        if "features" in document and "rows" in document:
            raise ValueError(
                "is a page of the hub's viewer, which has at most 100 rows, perhaps with shortened texts: give the "
                "data set's Parquet file, or its id as probes.hub"
            )
    if len(lists) != 1:
        count = len(lists) or "no"
        raise ValueError(
            f"holds {count} lists of rows: give one list of objects (orient='records' in pandas), alone or in an object"
        )
    for number, row in enumerate(lists[0], 1):
        if not isinstance(row, dict):
            raise ValueError(f"entry {number} is not a JSON object: write one with a field for the text")
        yield number, row


@contextlib.contextmanager
def _parquet_errors() -> Iterator[None]:
    """Turn whatever pyarrow raises for a file that it cannot read into ValueError; OSError stays."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:  # such as OverflowError for a date after the year 9999
        raise ValueError(f"is not Parquet that can be read ({first_line(error)})") from error


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    with _parquet_errors():
        return list(pq.read_schema(path).names)


def _parquet_rows(path: Path, names: list[str]) -> Iterator[tuple[int, Row]]:
    import pyarrow.parquet as pq

    with _parquet_errors(), pq.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=1024, columns=names)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from enumerate(rows, 1)


# Cells.


def cell_text(value: Any) -> str | None:
    """Return the text of a cell; None for a missing value, which is null or NaN.

    A whole number has no decimal point: pandas stores the column 1, 2, (missing) as 1.0, 2.0, NaN.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def check_encodable(text: str, where: str, place: str) -> None:
    """Raise ValueError for a text that cannot be stored as UTF-8, naming the row (`where`) and the place in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half of a surrogate pair in {place}: write the whole one") from None


def cell_equals(value: Any, text: str) -> bool:
    """Return whether a cell holds the value that a user wrote as `text`. A truth value may be written as in JSON."""
    written = (str(value), cell_text(value))
    return text in written or (isinstance(value, bool) and text == str(value).lower())


FORMATS = {
    ".csv": ProbeFormat("row", _csv_columns, _csv_rows),
    ".json": ProbeFormat("entry", _json_columns, _json_rows),
    ".jsonl": ProbeFormat("line", _jsonl_columns, _jsonl_rows),
    ".parquet": ProbeFormat("row", _parquet_columns, _parquet_rows),
}
"""The formats by the suffix of a file."""

_DECOMPRESS, _SAVE = "decompress it first", "save the sheet as CSV (UTF-8)"

_NOT_TABLES = {
    **dict.fromkeys((".gz", ".zst", ".bz2", ".xz", ".zip"), _DECOMPRESS),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _SAVE),
    ".tsv": "rename it to .csv, where tabs separate columns too",
    ".ndjson": "rename it to .jsonl",
}

OTHER_SUFFIXES = {
    **_NOT_TABLES,
    ".txt": "rename it to .csv, put a first line `prompt` into it, and quote lines that have commas",
}
"""Remedies for files of probes with other suffixes."""

MARKS = {
    b"\x1f\x8b": f"is compressed with gzip: {_DECOMPRESS}",
    b"\x28\xb5\x2f\xfd": f"is compressed with zstd: {_DECOMPRESS}",
    b"PK\x03\x04": f"is a ZIP archive or an Excel file: {_DECOMPRESS}, or {_SAVE}",
    b"PAR1": "is a Parquet file: rename it to .parquet",
}
"""First bytes of files that are no text -> what they are and what to do."""

LONGEST_MARK = max(map(len, MARKS))


def check_is_table(field: str, path: Path, content: str) -> None:
    """Check that a file of labels or verdicts is CSV or JSONL by its suffix.

    Args:
        field: The option that named the file.
        path: The file.
        content: What it contains, for the message.

    Raises:
        UserError: It has another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        remedy = _NOT_TABLES.get(suffix, f"save the {content} as one of them")
        raise UserError(field, path, f"is not a .csv or .jsonl file: {remedy}")
