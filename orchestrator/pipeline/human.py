"""Export the responses of a sweep for people to judge, and import their verdicts.

The export is blind: it shows neither the point of a response nor what judges have said. Its rows are in a random order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from orchestrator.prompts.probe_files import FORMATS, check_is_table
from orchestrator.report.csv_export import to_csv
from orchestrator.scoring.human import ResponseKey, distinct_responses, unlabeled
from orchestrator.store.human_verdicts import (
    VERDICTS,
    HumanVerdict,
    add_verdicts,
    now,
    read_verdicts,
)
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.paths import writing
from orchestrator.utils.private import share_like

EXPORT_FIELD, IMPORT_FIELD, ANNOTATOR_FIELD = "export", "verdicts", "annotator"
COLUMNS = ("id", "request", "response", "verdict")
LETTERS = {verdict[0]: verdict for verdict in VERDICTS}
"""The first letter of each verdict, which stands for it."""


def export_responses(stored: StoredSweep, path: Path, rows: int | None, seed: int) -> int:
    """Write the different responses that nobody has judged to a CSV file, one row each.

    The columns are COLUMNS, the last of them empty. The order, and with `rows` the choice, are random. Responses are
    whole, so the file is open to those to whom the study is open.

    Args:
        stored: The sweep.
        path: The file.
        rows: The number of rows at most. None: all.
        seed: Seed of the order.

    Returns:
        The number of rows.

    Raises:
        UserError: The file cannot be written.
    """
    responses = distinct_responses(stored)
    keys = unlabeled(responses, read_verdicts(stored.study))
    random.Random(seed).shuffle(keys)
    table = [("-".join(key), responses[key].request, responses[key].text, "") for key in keys[:rows]]
    with writing(EXPORT_FIELD, path):
        to_csv(pd.DataFrame(table, columns=list(COLUMNS)), path)
        share_like(path, stored.study.root)
    return len(table)


def import_verdicts(stored: StoredSweep, path: Path, annotator: str | None) -> int:
    """Store the verdicts in a CSV or JSONL file with the columns `id` and `verdict`.

    Rows without a verdict are skipped. Verdicts that the same person has given already are not stored again.

    Args:
        stored: The sweep.
        path: The file.
        annotator: The person who gave the verdicts. None: the file's column `annotator`.

    Returns:
        The number of new verdicts.

    Raises:
        UserError: The file cannot be read, a row names no response of the sweep, or a verdict is unknown.
    """
    check_is_table(IMPORT_FIELD, path, "verdicts")
    known = {"-".join(key): key for key in distinct_responses(stored)}
    current = {(v.prompt_id, v.response_id, v.annotator): v.verdict for v in read_verdicts(stored.study)}
    seen: dict[tuple[ResponseKey, str], str] = {}
    new: list[HumanVerdict] = []
    at = now()
    try:
        for place, row_id, verdict, person in _read_rows(path, annotator):
            if row_id not in known:
                raise ValueError(f"{place} has the id '{row_id}', which is of no response of this sweep")
            key = known[row_id]
            if (key, person) in seen:
                raise ValueError(f"{place} judges the response of {seen[key, person]} again: keep one of them")
            seen[key, person] = place
            if current.get((*key, person)) != verdict:
                new.append(HumanVerdict(*key, verdict, person, at))
    except FileNotFoundError:
        raise UserError(IMPORT_FIELD, path, "there is no such file") from None
    except OSError as error:
        raise UserError(IMPORT_FIELD, path, f"cannot be read ({error.strerror})") from error
    except FormatError as error:
        raise UserError(ANNOTATOR_FIELD, annotator, str(error)) from error
    except ValueError as error:
        raise UserError(IMPORT_FIELD, path, str(error)) from error
    if not seen:
        raise UserError(IMPORT_FIELD, path, f"holds no verdicts: write {', '.join(VERDICTS)} into its column verdict")
    add_verdicts(stored.study, new)
    return len(new)


def _read_rows(path: Path, annotator: str | None) -> Iterator[tuple[str, str, str, str]]:
    """Yield (place, id, verdict, person) of each row that has a verdict. Raises ValueError for a row that is wrong."""
    file_format = FORMATS[path.suffix.lower()]
    wanted = ["id", "verdict", *(["annotator"] if annotator is None else [])]
    columns = file_format.columns(path)
    for name in wanted:
        if columns and name not in columns:
            remedy = f"name a column {name}" if name != "annotator" else "add annotator=NAME, or a column annotator"
            raise ValueError(f"has no column `{name}`, but {', '.join(columns)}: {remedy}")
    for number, row in file_format.rows(path, wanted):
        place = f"{file_format.unit} {number}"
        given = str(row.get("verdict") or "").strip().lower()
        if not given:
            continue
        verdict = LETTERS.get(given, given)
        if verdict not in VERDICTS:
            hint = did_you_mean(verdict, VERDICTS) or f": use one of {', '.join(VERDICTS)}, or its first letter"
            raise ValueError(f"{place} has the unknown verdict '{given}'{hint}")
        person = annotator if annotator is not None else str(row.get("annotator") or "").strip()
        if not person:
            raise ValueError(f"{place} names no annotator: fill the column, or add annotator=NAME")
        yield place, str(row.get("id") or "").strip(), verdict, person
