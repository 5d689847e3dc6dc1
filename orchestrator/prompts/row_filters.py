"""Select rows of a local file: `probes.where`, and `probes.subset` and `probes.split` if it has such columns.

A hub's data set is filtered when it is downloaded (`hub_datasets`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.prompts.probe_files import Row, cell_equals, cell_text
from orchestrator.utils.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

NumberedRows = Iterable[tuple[int, Row]]


class FilterConfig(Protocol):
    """The fields of a probe preset that select rows; `config.schema.ProbesConfig` describes them."""

    subset: str | None
    split: str | None
    where: str | None


def check_where(where: str | None) -> None:
    """Raise UserError if `probes.where` is not COLUMN=VALUE."""
    if where is not None and not where.partition("=")[0]:
        raise UserError("probes.where", where, "write a column and its value as COLUMN=VALUE")
    if where is not None and "=" not in where:
        raise UserError("probes.where", where, "has no value: write a column and its value as COLUMN=VALUE")


def row_filters(conf: FilterConfig, path: Path, available: Sequence[str]) -> dict[str, str]:
    """Return the values by column that a row of a local file must have.

    A file without a column `subset` or `split` is one subset or split as a whole, which is logged.

    Args:
        conf: The preset.
        path: The file, for messages.
        available: The file's columns.

    Raises:
        UserError: (probes.where) The file has no such column.
    """
    filters = {}
    for field in ("subset", "split"):
        value = getattr(conf, field)
        if value is not None and field in available:
            filters[field] = value
        elif value is not None:
            logger.info("%s has no column %s: all its rows are read as %s %s", path.name, field, field, value)
    if conf.where is not None:
        column, _, value = conf.where.partition("=")
        if column not in available:
            hint = did_you_mean(column, available).removeprefix(", ")
            shown = f" ({hint})" if hint else ""
            remedy = f"{path} has no column {column}; it has {', '.join(available)}{shown}: set probes.where=null to "
            raise UserError("probes.where", conf.where, f"{remedy}read all rows")
        if available.count(column) > 1:
            raise UserError("probes.where", conf.where, f"{path} has several columns {column}: rename all but one")
        filters[column] = value
    return filters


def select_rows(rows: NumberedRows, filters: dict[str, str]) -> Iterator[tuple[int, Row]]:
    """Yield the rows that have all these values (`cell_equals`), as it is done for a hub's data set."""
    for number, row in rows:
        if all(cell_equals(row.get(column), value) for column, value in filters.items()):
            yield number, row


def without_blank(rows: NumberedRows, column: str, path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows with something else than whitespace in a column; log how many have not."""
    blank = 0
    for number, row in rows:
        if (cell_text(row.get(column)) or "").strip():
            yield number, row
        else:
            blank += 1
    if blank:
        logger.info("%s: %d of its rows have no prompt and are left out", path.name, blank)


def without_duplicates(rows: NumberedRows, columns: Sequence[str], path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows whose values in some columns differ from those of all earlier rows; log how many do not."""
    seen, repeats = set(), 0
    for number, row in rows:
        key = tuple(str(row.get(column)) for column in columns)
        if key in seen:
            repeats += 1
            continue
        seen.add(key)
        yield number, row
    if repeats:
        logger.info("%s: %d of its rows repeat an earlier prompt and are left out", path.name, repeats)
