"""Probe files -> prompts: the project's own, any CSV, JSON, JSONL or Parquet file by its path, or a hub's data set."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.prompts import capability
from orchestrator.prompts import hub_datasets as hub_data
from orchestrator.sweep.tasks import Prompt
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.paths import DATA_DIR

DATA = DATA_DIR / "probes"
DEFAULT_COLUMN = "text"
USUAL_COLUMNS = (DEFAULT_COLUMN, "goal", "prompt", "question", "behavior", "Behavior")
PAIR, ROW_ID = "pair_id", "id"
GOAL = "goal"  # of an attack: the plain request inside it
REQUEST = "{request}"  # in a wrapper
MAX_FIELD = 1 << 30  # characters of one CSV field; the csv module's own limit is 131,072
Row = Mapping[str, Any]


class ProbesConfig(Protocol):
    """What is read of a probe preset."""

    name: str | None
    file: str | None
    path: str | None
    hub: str | None
    revision: str | None
    subset: str | None
    split: str
    where: str | None
    column: str
    group: str
    limit: int | None
    offset: int
    category: str | None
    target: str | None
    wrapper: str | None
    prefill: str
    skip_empty: bool
    license: str
    source: str

    @property
    def answers(self) -> str | None:
        """How answers are checked (`choice` or `exact`); None for prompts that have no right answer."""


@dataclass(frozen=True)
class ProbeSet:
    """Prompts of one group, in their file's order, no text twice.

    `prefill`: what each response is made to begin with. `letters`: the answer letters to be scored, if any. `origin`:
    of a hub's data set, ID@COMMIT.
    """

    name: str
    group: str
    prompts: tuple[Prompt, ...]
    prefill: str = ""
    letters: tuple[str, ...] = ()
    origin: str = ""


def load(conf: ProbesConfig) -> ProbeSet:
    """The rows [offset, offset + limit) of a probe file as prompts; fewer where the file ends before.

    `path` wins over `hub`, a data set that is fetched once, and over `file`, which is one of the project's own. A file
    with a `pair_id` column pairs its prompts: the pair's name is what that column says and, where it is empty in a
    harmful row, the row's own `id`. Rows after the last one wanted are neither read nor checked. `wrapper` is put
    around each request; with `answers`, rows are questions with right answers, in any layout that capability.py knows.

    Raises UserError, naming the row, for a file that cannot be read or holds no usable prompts.
    """
    if conf.limit is not None and conf.limit < 1:
        raise UserError("probes.limit", conf.limit, "must be at least 1; null takes all rows")
    if conf.offset < 0:
        raise UserError("probes.offset", conf.offset, "must be at least 0")
    if conf.wrapper is not None and conf.wrapper.count(REQUEST) != 1:
        raise UserError("probes.wrapper", conf.wrapper, f"must say once where the request goes, as {REQUEST}")
    path = _path(conf)
    try:
        prompts = tuple(_prompts(conf, path))
        most = max(len(prompt.choices) for prompt in prompts)
        letters, origin = capability.LETTERS[:most], _origin(conf)
        return ProbeSet(conf.name or path.stem, conf.group, prompts, conf.prefill, letters, origin)
    except OSError as error:
        raise UserError("probes.path", path, f"could not be read ({error.strerror or error})") from error
    except ValueError as error:  # what the readers below raise, and pyarrow
        raise UserError("probes.path", path, str(error).strip().partition("\n")[0]) from error


def _path(conf: ProbesConfig) -> Path:
    if conf.path is None:
        if conf.hub is not None:
            return hub_data.fetch(conf)
        if conf.file is None:
            raise UserError("probes.path", "null", "name the file with the prompts, probes.path=FILE")
        known = sorted(file.name for file in DATA.glob("*.jsonl"))
        if conf.file not in known:
            hint = did_you_mean(conf.file, known) or f": they are {', '.join(known)}"
            raise UserError("probes.file", conf.file, f"is none of the project's own probe files{hint}")
        return DATA / conf.file
    path = Path(conf.path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise UserError("probes.path", path, f"must end in {', '.join(FORMATS)}, which says what it holds")
    try:
        if not path.exists():
            siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError("probes.path", path, f"there is no such file{did_you_mean(path.name, siblings)}")
        if path.is_dir():
            raise UserError("probes.path", path, "is a folder: give one file")
    except OSError as error:
        raise UserError("probes.path", path, f"could not be read ({error.strerror or error})") from error
    return path


def _origin(conf: ProbesConfig) -> str:
    """Which commit of a hub's data set was read; nothing where it was a file."""
    return f"{conf.hub}@{hub_data.commit(conf)}" if conf.hub is not None and conf.path is None else ""


def _prompts(conf: ProbesConfig, path: Path) -> Iterator[Prompt]:
    form = FORMATS[path.suffix.lower()]
    there = form.columns(path)
    if not there:
        raise UserError("probes.path", path, "is empty: give one with prompts")
    column = _column(conf, there)
    goal = conf.target or (GOAL if conf.group == "jailbreak" and GOAL in there and column != GOAL else None)
    for field in ("category", "target"):
        if (named := getattr(conf, field)) and named not in there:
            raise _lacking(f"probes.{field}", named, there)
    wanted = [name for name in dict.fromkeys((column, conf.category, goal, PAIR, ROW_ID)) if name in there]
    if conf.answers:
        wanted += [name for name in capability.columns(there, conf.answers) if name not in wanted]
    paired = PAIR in there
    rows = form.rows(path, wanted)
    if conf.skip_empty:
        rows = ((number, row) for number, row in rows if row.get(column))
    total = sum(1 for _ in itertools.islice(rows, conf.offset))
    seen: dict[str, int] = {}
    for number, row in itertools.islice(rows, conf.limit):
        where = f"{form.unit} {number}"
        text = _text(row.get(column), where, column)
        choices: tuple[str, ...] = ()
        target = row.get(goal) if goal else None
        if conf.answers:
            text, choices, target = capability.question(text, row, conf.answers, where)
        if conf.wrapper is not None:
            target, text = target or text, conf.wrapper.replace(REQUEST, text)
        if text in seen:
            remedy = f"has the same text in {form.unit}s {seen[text]} and {number} ({_short(text)}): keep one of them"
            raise UserError("probes.path", path, remedy)
        seen[text] = number
        own = row.get(ROW_ID) if conf.group in ("harmful", "jailbreak") else None
        pair = (row.get(PAIR) or own) if paired else None
        yield Prompt(
            text,
            group=conf.group,
            category=str((conf.category and row.get(conf.category)) or ""),
            pair_id=None if pair is None else str(pair),
            target=None if target is None else str(target),
            choices=choices,
        )
    if not seen:
        if total:
            raise UserError("probes.offset", conf.offset, f"must be less than {total}, the number of rows of {path}")
        raise UserError("probes.path", path, "has no rows: give one with prompts")


def _column(conf: ProbesConfig, there: Sequence[str]) -> str:
    if conf.column in there:
        if there.count(conf.column) > 1:
            raise UserError("probes.column", conf.column, "names several columns of the file: rename all but one")
        return conf.column
    usual = [name for name in USUAL_COLUMNS if there.count(name) == 1]
    asked = conf.column == DEFAULT_COLUMN if conf.hub is None else conf.column in USUAL_COLUMNS
    if (conf.path is not None or conf.hub is not None) and asked and len(usual) == 1:
        return usual[0]
    raise _lacking("probes.column", conf.column, there)


def _lacking(field: str, name: str, there: Sequence[str]) -> UserError:
    hint = did_you_mean(name, there).removeprefix(", ")
    return UserError(field, name, f"the file has no such column; it has {', '.join(there)}{hint and f' ({hint})'}")


def _text(value: object, where: str, column: str) -> str:
    if not isinstance(value, str):
        shown = "nothing" if value is None else f"{type(value).__name__} {_short(value)}"
        raise ValueError(f"{where} holds {shown} in column {column}: every prompt must be text")
    if not value.strip():
        raise ValueError(f"{where} is empty in column {column}: every prompt must hold text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half of a surrogate pair in column {column}: write the whole one") from None
    return value


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


# --- formats: what the columns are, and the rows with their numbers, one after the other ---------------------------


@dataclass(frozen=True)
class _Format:
    unit: str  # what a row's number counts, from 1
    columns: Callable[[Path], list[str]]  # [] for an empty file
    rows: Callable[[Path, list[str]], Iterator[tuple[int, Row]]]  # with the named columns at least


def _lines(path: Path) -> Iterator[str]:
    """A text file's lines with their ends, decoded one by one so that an error can name the line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} is not UTF-8 (its byte {error.start + 1}): save it as UTF-8") from None


def _csv_records(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(_lines(path), strict=True)
    try:
        yield from filter(None, reader)  # blank lines are nothing
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV ({error})") from None


def _csv_columns(path: Path) -> list[str]:
    return next(_csv_records(path), [])


def _csv_rows(path: Path, _: list[str]) -> Iterator[tuple[int, Row]]:
    records = _csv_records(path)
    header = next(records, [])
    for number, record in enumerate(records, 1):
        if len(record) != len(header):
            raise ValueError(f"row {number} has {len(record)} fields, the header has {len(header)}: quote its commas")
        yield number, dict(zip(header, record, strict=True))


def _jsonl_columns(path: Path) -> list[str]:
    return next(([*row] for _, row in _jsonl_rows(path, [])), [])


def _jsonl_rows(path: Path, _: list[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object: write one with a field for the text in each line")
        yield number, row


def _json_columns(path: Path) -> list[str]:
    return next(([*row] for _, row in _json_rows(path, [])), [])


def _json_rows(path: Path, _: list[str]) -> Iterator[tuple[int, Row]]:
    """A list of objects, or an object that holds one such list (JailbreakBench's attacks: `jailbreaks`)."""
    try:
        whole = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from None
    lists = (
        [whole]
        if isinstance(whole, list)
        else [v for v in whole.values() if isinstance(v, list)]
        if isinstance(whole, dict)
        else []
    )
    if len(lists) != 1:
        raise ValueError(
            f"holds {len(lists) or 'no'} lists of rows: give a list of objects, or an object with one list"
        )
    for number, row in enumerate(lists[0], 1):
        if not isinstance(row, dict):
            raise ValueError(f"entry {number} is not a JSON object: write one with a field for the text")
        yield number, row


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def _parquet_rows(path: Path, names: list[str]) -> Iterator[tuple[int, Row]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=1024, columns=names)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from enumerate(rows, 1)


FORMATS = {
    ".csv": _Format("row", _csv_columns, _csv_rows),
    ".json": _Format("entry", _json_columns, _json_rows),
    ".jsonl": _Format("line", _jsonl_columns, _jsonl_rows),
    ".parquet": _Format("row", _parquet_columns, _parquet_rows),
}
