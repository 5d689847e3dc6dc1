"""Probe sets: the prompts of one of the project's own files, of a user's file, or of a hub's data set."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.prompts.capability import LETTERS, answer_columns, build_question
from orchestrator.prompts.conversations import MESSAGES_COLUMN, read_messages, transcript, under_system
from orchestrator.prompts.few_shot import CUE, Conversation, FewShot, few_shot, subject_line
from orchestrator.prompts.hub_datasets import fetch_dataset, fetched_commit
from orchestrator.prompts.probe_files import (
    FORMATS,
    LONGEST_MARK,
    MARKS,
    OTHER_SUFFIXES,
    Row,
    cell_text,
    check_encodable,
)
from orchestrator.prompts.row_filters import check_where, row_filters, select_rows, without_blank, without_duplicates
from orchestrator.prompts.sampling import stratified_order
from orchestrator.sweep.tasks import Prompt
from orchestrator.utils.choices import Turns
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.paths import DATA_DIR, expanded

logger = logging.getLogger(__name__)

OWN_FILES = DATA_DIR / "probes"
DEFAULT_COLUMN = "text"
USUAL_COLUMNS = (
    DEFAULT_COLUMN,
    "goal",
    "prompt",
    "question",
    "behavior",
    "behaviour",
    "instruction",
    "request",
    "forbidden_prompt",
    "turns",
)
"""Usual names of a column of prompts, in any mixture of upper and lower case; the last two as in StrongREJECT and
SORRY-Bench."""

CONTEXT_COLUMNS = ("context", "contextstring", "context_str")
"""Usual names of a column of contexts, in lower case."""

INSTRUCTION_COLUMN, INPUT_COLUMN = "instruction", "input"
"""Columns as in Alpaca, where the text to which an instruction refers is the input."""

CONTEXT_RULE = "\n\n---\n\n"
"""Text between a context and the request, as in HarmBench."""

PAIR_COLUMN, ID_COLUMN = "pair_id", "id"
GOAL_COLUMN = "goal"
"""Column of a file of attacks with the plain request inside each attack."""

REQUEST_MARK = "{request}"
"""Placeholder for the request in a wrapper."""


class NoRowsLeftError(UserError):
    """All rows of a probe file come before the requested ones."""


class ProbesConfig(Protocol):
    """The fields of a probe preset that this module reads; `config.schema.ProbesConfig` describes them."""

    name: str | None
    file: str | None
    path: str | None
    hub: str | None
    revision: str | None
    subset: str | None
    split: str | None
    where: str | None
    column: str
    limit: int | None
    offset: int
    shuffle: int | None
    sample: int | None
    category: str | None
    target: str | None
    wrapper: str | None
    wrappers: list[str]
    messages: str | None
    prefill: str
    shots: int | None
    shots_split: str
    shots_path: str | None
    turns: Turns
    context: str | None
    max_mib: int
    skip_empty: bool
    skip_duplicates: bool
    license: str
    source: str

    @property
    def group(self) -> str:
        """Group of the prompts: `harmful`, `benign`, `jailbreak` or `capability`."""

    @property
    def answers(self) -> str | None:
        """Check of answers: `choice`, `exact`, or None for prompts that have no right answer."""


@dataclass(frozen=True)
class ProbeSet:
    """Prompts of one group, in their file's order, all different.

    Attributes:
        name: The preset's name, or the file's. With solved examples, their number and form are appended, as in
            `mmlu_5shot`, because results in different forms are not comparable.
        group: "harmful", "benign", "jailbreak" or "capability".
        prompts: The prompts.
        prefill: Text that every response is forced to begin with.
        letters: The answer letters to score. Empty unless the prompts are multiple choice.
        origin: ID@COMMIT of a hub's data set; empty for a file.
        few_shot: Solved examples for the format of lm-evaluation-harness. None: the project's own format.
        conversations: Text of a prompt of several turns -> its conversation. Prompts that are one message have none.
        is_in_random_order: Whether any number of the file's first prompts, in the order in which limits take them, is
            a random sample.
    """

    name: str
    group: str
    prompts: tuple[Prompt, ...]
    prefill: str = ""
    letters: tuple[str, ...] = ()
    origin: str = ""
    few_shot: FewShot | None = None
    conversations: Mapping[str, Conversation] = dataclasses.field(default_factory=dict)
    is_in_random_order: bool = False

    def conversation(self, system: str | None, prompt: Prompt) -> Conversation:
        """Return what the chat template renders for a prompt, under a system prompt."""
        if self.few_shot is not None:
            return self.few_shot.conversation(system, prompt)
        return under_system(self.conversations.get(prompt.text, Conversation(None, (prompt.text,))), system)


def load_probe_set(conf: ProbesConfig) -> ProbeSet:
    """Read the rows [offset, offset + limit) of a probe file as prompts; fewer if the file is shorter.

    With `sample` and `limit`, rows of a file with several categories are first put into the order of
    `stratified_order`; the selected rows are then returned in the order of the file. The project's own files already
    are in such an order and are read from the beginning. With `shuffle` and `limit`, rows of any file are first put
    into a random order.

    `path` (a user's file) has priority over `hub` (a data set that is downloaded once) and over `file` (one of the
    project's own). A column `pair_id` pairs prompts: a pair's name is the value of that column or, if that is empty in
    a harmful row, the row's own `id`. Without either, rows after the last requested one are neither read nor checked.
    `where`, and `subset` and `split` if there are such columns, select rows first. `context` is a column whose text is
    put before the request. `wrapper` is put around each request. With `answers`, rows are questions with correct
    answers, in any layout that capability.py lists, and questions that repeat an earlier one are left out with a
    message.

    Raises:
        UserError: The file cannot be read or holds no usable prompts. It names the row.
    """
    if conf.limit is not None and conf.limit < 1:
        raise UserError("probes.limit", conf.limit, "must be at least 1; null takes all rows")
    if conf.offset < 0:
        raise UserError("probes.offset", conf.offset, "must be at least 0")
    if conf.shuffle is not None and conf.sample is not None:
        raise UserError("probes.shuffle", conf.shuffle, "cannot be combined with probes.sample: set one to null")
    _check_wrappers(conf)
    check_where(conf.where)
    _check_shots(conf)
    path = _path(conf)
    conversations: dict[str, Conversation] = {}
    with _reading("probes.path", path):
        prompts = _read_prompts(conf, path, conversations)
    letters = LETTERS[: max(len(prompt.choices) for prompt in prompts)]
    examples = _examples(conf, prompts)
    name, origin = _name(conf, path), _origin(conf)
    is_stratified = conf.sample is not None and len({prompt.category for prompt in prompts}) > 1
    is_random = path.parent == OWN_FILES or conf.shuffle is not None or is_stratified
    return ProbeSet(name, str(conf.group), prompts, conf.prefill, letters, origin, examples, conversations, is_random)


def with_wrappers(probe_set: ProbeSet, wrappers: Sequence[str]) -> list[ProbeSet]:
    """Return a probe set for each wrapper, named after its number from 1; the set itself if there are none."""
    return [
        dataclasses.replace(
            probe_set,
            name=f"{probe_set.name}_w{number}",
            prompts=tuple(
                dataclasses.replace(
                    prompt, text=wrapper.replace(REQUEST_MARK, prompt.text), target=prompt.target or prompt.text
                )
                for prompt in probe_set.prompts
            ),
        )
        for number, wrapper in enumerate(wrappers, 1)
    ] or [probe_set]


def _check_wrappers(conf: ProbesConfig) -> None:
    """Raise UserError for a wrapper without its place, for one that is named twice, and for messages with others."""
    given = {"wrapper": [conf.wrapper] if conf.wrapper is not None else [], "wrappers": conf.wrappers}
    for name, wrappers in given.items():
        for wrapper in wrappers:
            if wrapper.count(REQUEST_MARK) != 1:
                remedy = f"must say once where the request goes, as {REQUEST_MARK}"
                raise UserError(f"probes.{name}", wrapper, remedy)
            if wrappers.count(wrapper) > 1:
                raise UserError(f"probes.{name}", wrapper, "is named twice: name each once")
    if conf.wrapper is not None and conf.wrappers:
        raise UserError("probes.wrapper", conf.wrapper, "cannot be combined with probes.wrappers: add it to that list")
    if conf.shots is not None and conf.wrappers:
        raise UserError("probes.wrappers", len(conf.wrappers), "cannot be combined with probes.shots: leave it out")


def _check_chat(conf: ProbesConfig) -> None:
    """Raise UserError for an option that cannot be combined with conversations."""
    for name in ("wrapper", "wrappers", "context", "answers"):
        if getattr(conf, name):
            remedy = "is for requests of one message, and the file holds conversations: leave it out"
            raise UserError(f"probes.{name}", getattr(conf, name), remedy)


@contextlib.contextmanager
def _reading(field: str, path: Path) -> Iterator[None]:
    """Raise UserError for a file that cannot be read."""
    try:
        yield
    except OSError as error:
        raise UserError(field, path, f"could not be read ({error.strerror or error})") from error
    except ValueError as error:  # raised by probe_files, capability or pyarrow
        raise UserError(field, path, str(error).strip().partition("\n")[0]) from error


def _check_shots(conf: ProbesConfig) -> None:
    """Raise UserError if solved examples cannot be combined with the other options."""
    if conf.shots is None:
        return
    if conf.shots < 0:
        raise UserError("probes.shots", conf.shots, "must be at least 0; null is the project's own format")
    if conf.answers != "choice":
        raise UserError("probes.shots", conf.shots, "is for questions answered by letter: set probes.answers=choice")
    for name in ("wrapper", "prefill"):
        if getattr(conf, name):
            raise UserError(f"probes.{name}", getattr(conf, name), "cannot be combined with probes.shots: leave it out")
    if conf.shots and conf.shots_path is None and (conf.path is not None or conf.hub is None):
        remedy = "name the file that holds the solved examples, probes.shots_path=FILE, or set probes.shots=0"
        raise UserError("probes.shots_path", "null", remedy)


def _name(conf: ProbesConfig, path: Path) -> str:
    name = conf.name or path.stem
    if conf.shots is None:
        return name
    return f"{name}_{conf.shots}shot" + ("" if conf.turns == Turns.plain else f"_{conf.turns}")


def _examples(conf: ProbesConfig, prompts: Sequence[Prompt]) -> FewShot | None:
    """Return the solved examples for these prompts. None for the project's own format. Raises UserError."""
    if conf.shots is None:
        return None
    solved: tuple[Prompt, ...] = ()
    if conf.shots:
        whole = copy.copy(conf)
        whole.path, whole.split, whole.limit, whole.offset = conf.shots_path, conf.shots_split, None, 0
        path = _path(whole)
        with _reading("probes.shots_path", path):
            solved = _read_prompts(whole, path, {})
    where = conf.shots_path or f"split {conf.shots_split}"
    return few_shot(conf.turns, conf.shots, solved, [prompt.category for prompt in prompts], where)


def _path(conf: ProbesConfig) -> Path:
    """Return the file to read, downloading a hub's data set if necessary. Raises UserError."""
    if conf.path is not None:
        return _checked_path(expanded(conf.path), conf.max_mib)
    if conf.hub is not None:
        return fetch_dataset(conf)
    if conf.file is None:
        raise UserError("probes.path", "null", "name the file with the prompts, probes.path=FILE")
    known = sorted(file.name for file in OWN_FILES.glob("*.jsonl"))
    if conf.file not in known:
        hint = did_you_mean(conf.file, known) or f": they are {', '.join(known)}"
        raise UserError("probes.file", conf.file, f"is none of the project's own probe files{hint}")
    return OWN_FILES / conf.file


def _checked_path(path: Path, max_mib: int) -> Path:
    """Return the user's file. Raises UserError if there is none, it has an unknown suffix, or it is too large."""
    if path.suffix.lower() not in FORMATS:
        known = f"must end in {', '.join(FORMATS)}, which says what it holds"
        if remedy := OTHER_SUFFIXES.get(path.suffix.lower()):
            known = f"{known}: {remedy}"
        raise UserError("probes.path", path, known)
    try:
        if not path.exists():
            siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError("probes.path", path, f"there is no such file{did_you_mean(path.name, siblings)}")
        if path.is_dir():
            raise UserError("probes.path", path, "is a folder: give one file")
        if not path.is_file():
            raise UserError("probes.path", path, "is a device, pipe or socket: give one file")
        if (size := path.stat().st_size) > max_mib << 20:
            remedy = (
                f"has {size >> 20:,} MiB, and probes.max_mib={max_mib} is the most: raise that option, or give a part"
            )
            raise UserError("probes.path", path, remedy)
        with path.open("rb") as file:
            start = file.read(LONGEST_MARK)
    except OSError as error:
        raise UserError("probes.path", path, f"could not be read ({error.strerror or error})") from error
    for mark, remedy in MARKS.items():
        if start.startswith(mark) and path.suffix.lower() != ".parquet":
            raise UserError("probes.path", path, remedy)
    return path


def _origin(conf: ProbesConfig) -> str:
    """Return ID@COMMIT of the hub's data set that was read; an empty string for a file."""
    return f"{conf.hub}@{fetched_commit(conf)}" if _is_hub(conf) else ""


def _is_hub(conf: ProbesConfig) -> bool:
    """Return whether the prompts are those of a hub's data set."""
    return conf.hub is not None and conf.path is None


@dataclass(frozen=True)
class _Columns:
    """The columns of a file that are read.

    `target`: the plain request inside an attack, or the reference answer. `is_chat`: whether the column of the prompts
    holds conversations.
    """

    text: str
    is_chat: bool
    context: str | None
    category: str | None
    target: str | None
    has_pairs: bool
    all: list[str]


def _read_prompts(conf: ProbesConfig, path: Path, conversations: dict[str, Conversation]) -> tuple[Prompt, ...]:
    """Return the requested prompts of a file, and add those of several turns to `conversations`, by their text.

    Raises UserError or ValueError, naming the row.
    """
    file_format = FORMATS[path.suffix.lower()]
    available = file_format.columns(path)
    if not available:
        raise UserError("probes.path", path, "is empty: give one with prompts")
    columns = _choose_columns(conf, available)
    filters = {} if _is_hub(conf) else row_filters(conf, path, available)
    rows = file_format.rows(path, list(dict.fromkeys([*columns.all, *filters])))
    if filters:
        rows = select_rows(rows, filters)
    if conf.skip_empty:
        rows = without_blank(rows, columns.text, path)
    if conf.skip_duplicates:
        rows = without_duplicates(rows, [name for name in (columns.text, columns.context) if name], path)
    if columns.is_chat:
        rows = _with_transcripts(rows, columns.text, file_format.unit, conversations)
    numbered = ((number, _prompt(conf, columns, row, f"{file_format.unit} {number}")) for number, row in rows)
    is_sampled = conf.sample is not None and path.parent != OWN_FILES
    samples = conf.limit is not None and (is_sampled or conf.shuffle is not None)
    skipped = 0 if samples else sum(1 for _ in itertools.islice(rows, conf.offset))
    requested = numbered if samples else itertools.islice(numbered, conf.limit)
    prompts = _without_repeats(requested, bool(conf.answers), path, file_format.unit)
    if conf.path is not None:
        _log_columns(path, columns, filters)
    _warn_of_unused_contexts(str(conf.hub) if _is_hub(conf) else path.name, columns, available)
    if samples and prompts:
        skipped = len(prompts)
        prompts = _sample(conf, prompts)
    if not prompts:
        if skipped:
            raise NoRowsLeftError(
                "probes.offset", conf.offset, f"must be less than {skipped}, the number of rows of {path}"
            )
        if filters:
            wanted = " and ".join(f"{column}={value}" for column, value in filters.items())
            raise UserError("probes.where", conf.where or "null", f"{path} has no row with {wanted}")
        raise UserError("probes.path", path, "has no rows: give one with prompts")
    return prompts


def _with_transcripts(
    rows: Iterable[tuple[int, Row]], column: str, unit: str, conversations: dict[str, Conversation]
) -> Iterator[tuple[int, Row]]:
    """Yield the rows with the text of each conversation instead of its messages. Raises ValueError."""
    for number, row in rows:
        conversation = read_messages(row.get(column), f"{unit} {number}", column)
        text = transcript(conversation)
        conversations[text] = conversation
        yield number, {**row, column: text}


def _without_repeats(
    numbered: Iterable[tuple[int, Prompt]], leave_out: bool, path: Path, unit: str
) -> tuple[Prompt, ...]:
    """Return the prompts. Raises UserError for a text that occurs twice, or leaves the second one out."""
    number_of: dict[str, int] = {}
    prompts, repeats = [], 0
    for number, prompt in numbered:
        first = number_of.setdefault(prompt.text, number)
        if first == number:
            prompts.append(prompt)
        elif leave_out:
            repeats += 1
        else:
            where = f"{unit}s {first} and {number}"
            remedy = f"has the same text in {where} ({_shortened(prompt.text)}): keep one of them, set "
            remedy += "probes.skip_duplicates=true, or name the column in which they differ, probes.context=COLUMN"
            raise UserError("probes.path", path, remedy)
    if repeats:
        logger.info(
            "%s: %d of %d questions repeat an earlier one and are left out", path.name, repeats, repeats + len(prompts)
        )
    return tuple(prompts)


def _sample(conf: ProbesConfig, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Return the requested prompts of a whole file.

    These are a random sample (`shuffle`), or a stratified one (`sample`): the first prompts if all are of one category.
    """
    assert conf.limit is not None
    categories, ids = [prompt.category for prompt in prompts], [prompt.id for prompt in prompts]
    order = list(range(len(prompts)))
    if conf.shuffle is not None:
        order = stratified_order([""] * len(prompts), ids, conf.shuffle)
    elif conf.sample is not None and len(set(categories)) > 1:
        order = stratified_order(categories, ids, conf.sample)
    return tuple(prompts[i] for i in sorted(order[conf.offset : conf.offset + conf.limit]))


def _choose_columns(conf: ProbesConfig, available: Sequence[str]) -> _Columns:
    is_chat, text = _text_column(conf, available)
    if is_chat:
        _check_chat(conf)
    target = conf.target
    if not target and conf.group == "jailbreak" and GOAL_COLUMN in available and text != GOAL_COLUMN:
        target = GOAL_COLUMN
    for field, name in (("category", conf.category), ("target", conf.target), ("context", conf.context)):
        if name and name not in available:
            raise _no_such_column(f"probes.{field}", name, available)
    candidates = dict.fromkeys((text, conf.category, target, conf.context, PAIR_COLUMN, ID_COLUMN))
    read = [name for name in candidates if name and name in available]
    if conf.answers:
        read += [name for name in answer_columns(available, conf.answers) if name not in read]
    repeated = next((name for name in read if available.count(name) > 1), None)
    if repeated is not None:
        names = {conf.context: "context", conf.target: "target", conf.category: "category"}
        field = f"probes.{names.get(repeated, 'column')}"
        raise UserError(field, repeated, "names several columns of the file: rename all but one")
    return _Columns(text, is_chat, conf.context, conf.category, target, PAIR_COLUMN in available, read)


def _text_column(conf: ProbesConfig, available: Sequence[str]) -> tuple[bool, str]:
    """Return whether the prompts are conversations, and their column. Raises UserError.

    A user's file without a usual column of texts may have one of conversations, MESSAGES_COLUMN.
    """
    if conf.messages is not None:
        if conf.messages not in available:
            raise _no_such_column("probes.messages", conf.messages, available)
        return True, conf.messages
    has_text = conf.column in available or any(name.lower() in USUAL_COLUMNS for name in available)
    if conf.path is not None and conf.column == DEFAULT_COLUMN and not has_text and MESSAGES_COLUMN in available:
        return True, MESSAGES_COLUMN
    return False, _column_of_texts(conf, available)


def _column_of_texts(conf: ProbesConfig, available: Sequence[str]) -> str:
    """Return the column with the prompts: the requested one, or the only one whose name is in USUAL_COLUMNS.

    The latter is used only if the requested name does not exist and is the default (in a user's file) or itself in
    USUAL_COLUMNS (in a data set).

    Raises:
        UserError: There is no such column, or several columns have usual names.
    """
    if conf.column in available:
        return conf.column
    usual = [name for name in available if name.lower() in USUAL_COLUMNS]
    replaceable = conf.column == DEFAULT_COLUMN if conf.hub is None else conf.column.lower() in USUAL_COLUMNS
    if conf.path is not None and conf.column == DEFAULT_COLUMN and not usual:
        remedy = f"the file has no such column; it has {', '.join(available)}: name the one with the prompts"
        raise UserError("probes.column", conf.column, f"{remedy}, probes.column=NAME, or probes.messages=NAME")
    if (conf.path is None and conf.hub is None) or not replaceable or not usual:
        raise _no_such_column("probes.column", conf.column, available)
    if len(set(usual)) == 1:
        return usual[0]
    remedy = f"the file has no such column; it has {', '.join(available)}: choose between {' and '.join(usual)}"
    raise UserError("probes.column", conf.column, remedy)


def _log_columns(path: Path, columns: _Columns, filters: Mapping[str, str]) -> None:
    """Log the columns that were read from a user's file."""
    prompts = "conversations" if columns.is_chat else "prompts"
    roles = {prompts: columns.text, "contexts": columns.context, "categories": columns.category}
    roles["targets"] = columns.target
    read = ", ".join(f"{role} from column {name}" for role, name in roles.items() if name)
    only = "".join(f", only rows with {column}={value}" for column, value in filters.items())
    logger.info("%s: %s%s", path.name, read, only)


def _warn_of_unused_contexts(source: str, columns: _Columns, available: Sequence[str]) -> None:
    """Warn of a column that seems to hold contexts and is not read. `source` is the name of the file or data set."""
    if columns.context is not None:
        return
    usual = (*CONTEXT_COLUMNS, *([INPUT_COLUMN] if columns.text.lower() == INSTRUCTION_COLUMN else []))
    for name in available:
        if name.lower() in usual:
            logger.warning(
                "%s has a column %s that is not used: probes.context=%s puts its text before each prompt",
                source,
                name,
                name,
            )


def _no_such_column(field: str, name: str, available: Sequence[str]) -> UserError:
    hint = did_you_mean(name, available).removeprefix(", ")
    shown = f" ({hint})" if hint else ""
    return UserError(field, name, f"the file has no such column; it has {', '.join(available)}{shown}")


def _prompt(conf: ProbesConfig, columns: _Columns, row: Row, where: str) -> Prompt:
    """Make the prompt of a row. Raises ValueError, naming `where` (such as "line 3")."""
    text = _checked_text(row.get(columns.text), where, columns.text)
    choices: tuple[str, ...] = ()
    target = _cell(row, columns.target, where)
    category = _cell(row, columns.category, where) or ""
    if conf.answers:
        question = text if conf.shots is None else text.strip()
        text, choices, target = build_question(question, row, conf.answers, where)
        if conf.shots is not None:
            text = f"{subject_line(category)}{text}{CUE}"
    context = _cell(row, columns.context, where)
    if isinstance(row.get(columns.context or ""), list | dict):
        raise ValueError(f"{where} holds {_shortened(context)} in column {columns.context}: a context must be text")
    if context is not None and context.strip():
        text = f"{context}{CONTEXT_RULE}{text}"
    if conf.wrapper is not None:
        target, text = target or text, conf.wrapper.replace(REQUEST_MARK, text)
    pair = None
    if columns.has_pairs:
        own_id = _cell(row, ID_COLUMN, where) if conf.group in ("harmful", "jailbreak") else None
        pair = _cell(row, PAIR_COLUMN, where) or own_id
    return Prompt(
        text,
        group=str(conf.group),
        category=category,
        pair_id=pair,
        target=target,
        choices=choices,
    )


def _cell(row: Row, column: str | None, where: str) -> str | None:
    """Return the text in a column; None if the column is None or the value is missing. Raises ValueError."""
    text = cell_text(row.get(column)) if column else None
    if text is not None:
        check_encodable(text, where, f"column {column}")
    return text


def _checked_text(value: object, where: str, column: str) -> str:
    """Return `value`, or the only text in it, if it is text, not blank, and can be encoded as UTF-8.

    Raises ValueError, naming `where`.
    """
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        raise ValueError(f"{where} holds a conversation in column {column}: set probes.messages={column}")
    if not isinstance(value, str):
        shown = "nothing" if value is None else f"{type(value).__name__} {_shortened(value)}"
        raise ValueError(f"{where} holds {shown} in column {column}: every prompt must be text")
    if not value.strip():
        raise ValueError(f"{where} is empty in column {column}: fill it in, or set probes.skip_empty=true")
    check_encodable(value, where, f"column {column}")
    return value


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
