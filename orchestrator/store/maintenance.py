"""Keeping a study in order: many small parts merged into few, and every stored byte checked.

Merging is safe at any moment. A merged part is written, read back and compared before the first of its sources is
removed, so each task lies in a verified part all the time; a reader that meets both counts each task once, and one
that comes too late for a source finds its rows in the merged part. Nothing else is ever deleted.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from orchestrator.store.files import DamagedFile, MissingFile, read_json, read_meta, read_table
from orchestrator.store.observations import Judgements, PartFolder
from orchestrator.store.parts import Part, TaskKey, TaskParts
from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS
from orchestrator.store.study import Study
from orchestrator.utils.errors import UserError

logger = logging.getLogger(__name__)

MERGED_TASKS = 2000  # tasks a merged part holds: 10^6 tasks are 500 files
MERGED_ROWS = 500_000  # rows it holds at most: bounds the memory that merging and reading take

Advance = Callable[[int], None]


# Merging.


@dataclass(frozen=True)
class Compacted:
    """What merging did: how many parts there were, how many there are, and sources that were removed."""

    before: int
    after: int
    removed: int


@dataclass(frozen=True)
class _Source:
    """A part to be merged, and those of its tasks that count."""

    part: Part
    counting: list[TaskKey]


def compact(study: Study, advance: Advance | None = None) -> Compacted:
    """Merge the small parts of a study's generations and judgements. `advance` hears how many parts were taken in.

    May run beside a driver, and be killed and repeated at any time. Raises StorageError where the disk refuses.
    """
    before, after, removed = 0, 0, 0
    for folder in (study.generations, *map(study.judgements, study.judge_ids())):
        parts = folder.parts()  # first: what is stored from here on is none of them, and stays
        stored = study.generations.stored()
        counting = folder.covering(stored) if isinstance(folder, Judgements) else stored
        before += len(parts)
        for batch in _batches(parts, counting):
            removed += _merge(folder, batch, counting, stored)
            if advance:
                advance(len(batch))
        after += len(folder.parts())
    return Compacted(before, after, removed)


def _batches(parts: Sequence[Part], counting: Mapping[TaskKey, Part]) -> Iterator[list[_Source]]:
    """Small parts to be merged into one, each batch of one engine.

    A part of which nothing counts (its tasks are stored twice, or its verdicts are on responses that count no more)
    goes with the rest.
    """
    batches: dict[str, list[_Source]] = {}
    sizes: collections.Counter[tuple[str, str]] = collections.Counter()
    for part in parts:
        rows, engine = int(part.meta["rows"]), str(part.meta.get("engine_id", ""))
        if len(part.tasks) > MERGED_TASKS // 2 or rows > MERGED_ROWS // 2:
            continue  # large already
        source = _Source(part, [key for key in part.tasks if key in counting and counting[key].name == part.name])
        tasks = len(source.counting)
        if sizes[engine, "tasks"] + tasks > MERGED_TASKS or sizes[engine, "rows"] + rows > MERGED_ROWS:
            yield batches.pop(engine)
            sizes[engine, "tasks"] = sizes[engine, "rows"] = 0
        batches.setdefault(engine, []).append(source)
        sizes[engine, "tasks"] += tasks
        sizes[engine, "rows"] += rows
    yield from batches.values()


def _merge(folder: PartFolder, batch: Sequence[_Source], counting: TaskParts, stored: TaskParts) -> int:
    """Merge a batch of parts.

    Args:
        folder: The folder the parts are in.
        batch: The parts to merge.
        counting: The part of this folder that counts for each task.
        stored: The part of generations that counts for each task.

    Returns:
        How many parts were removed.
    """
    if len(batch) < 2:
        return 0
    wanted = {key: source.part for source in batch for key in source.counting}
    read = [(part, table, _tasks_of(table)) for part, table in folder.rows(wanted)]
    sources = {part.path: part for part, _, _ in read} | {s.part.path: s.part for s in batch if not s.counting}
    tasks = {key: part.tasks[key] for part, _, keys in read for key in keys}
    if len(sources) < 2 or not tasks or not sources.keys() <= {source.part.path for source in batch}:
        return 0  # nothing to merge, or some of it was merged elsewhere a moment ago
    table = pa.concat_tables([table for _, table, _ in read])
    merged = folder.write_merged(table, [(part, keys) for part, _, keys in read])
    if not read_table(merged, folder.schema).equals(table) or _tasks_in(merged) != tasks:
        raise DamagedFile(f"{merged}: what was merged is not what was read; nothing was removed")

    @functools.cache
    def is_whole(path: Path) -> bool:
        try:
            read_table(path, folder.schema)
            return True
        except DamagedFile:
            return False

    removed = 0
    for part in sources.values():
        # What counts elsewhere must be readable there before the copy here goes; and nothing goes of a task that the
        # scan has not met.
        others = [key for key in part.tasks if key not in tasks]
        needed = {counting[key].path for key in others if key in counting}
        if part.path != merged and all(key in stored for key in others) and all(map(is_whole, needed)):
            folder.remove(part)
            removed += 1
    return removed


def _tasks_of(table: pa.Table) -> list[TaskKey]:
    return list(dict.fromkeys(zip(table["point_id"].to_pylist(), table["prompt_set_id"].to_pylist(), strict=True)))


def _tasks_in(path: Path) -> dict[TaskKey, str]:
    return {(point, prompts): observed for point, prompts, _, observed in read_meta(path)["tasks"]}


# Checking.


@dataclass(frozen=True)
class Finding:
    """A file that does not verify, why, and what `run` will do about it."""

    path: Path
    why: str
    remedy: str


@dataclass
class Report:
    """What a check of every byte found. `notes`: what is odd and harmless."""

    files: int = 0
    bytes: int = 0
    tasks: int = 0
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.findings


REMEDIES = {
    "generations": "`run` and `judge` move it aside, and `run` runs its tasks again",
    "judgements": "`run` and `judge` move it aside and judge again",
    "directions": "`run` moves it aside and measures the direction again",
    "prompts": "`run` moves it aside and stores the prompt set again",
    "study.json": "`run` moves it aside and writes it again",
    "sweep.json": "`run` writes it again",
    "runs": "`run` and `status` go without it: what that run measured is not lost",
    "answers": "`reduce` writes it again",
}


def file_kind(study: Study, path: Path) -> str:
    """Return the key of REMEDIES that a file of a study belongs to."""
    inside = path.relative_to(study.root).parts
    return next((kind for kind in (inside[0], path.name, path.parent.name) if kind in REMEDIES), "answers")


def log_damage(study: Study) -> None:
    """Log the files that do not verify, and what is done about each."""
    for path, why in study.problems.items():
        reason = why.removeprefix(f"{path}: ")
        remedy = REMEDIES[file_kind(study, path)]
        logger.warning("%s does not verify (%s): %s", path.relative_to(study.root), reason, remedy)


def verify_folder(root: Path) -> Report:
    """`verify` of the study in a folder; where its study.json does not verify, that alone is the finding."""
    try:
        study = Study.open(root)
    except UserError as error:
        path = root / "study.json"
        why = str(error.__cause__).removeprefix(f"{path}: ")
        rest = "nothing else was read: whose it is stands in study.json"
        return Report(files=1, findings=[Finding(path, why, REMEDIES["study.json"])], notes=[rest])
    return verify(study)


def verify(study: Study, advance: Advance | None = None) -> Report:
    """Read every file of a study and say what does not verify, and what would be done. Changes nothing.

    `advance` hears how many files were checked.
    """
    report = Report()
    seen: dict[str, set[TaskKey]] = {}
    for path in sorted(p for p in study.root.rglob("*") if p.is_file()):
        inside = path.relative_to(study.root)
        report.files += 1
        report.bytes += path.stat().st_size
        try:
            _check(study, path, inside.parts, report, seen)
        except MissingFile:
            pass  # merged away a moment ago
        except DamagedFile as error:
            report.findings.append(
                Finding(path, str(error).removeprefix(f"{path}: "), REMEDIES[file_kind(study, path)])
            )
        if advance:
            advance(1)
    report.tasks = len(seen.get("generations", ()))
    unasked = {prompts for _, prompts in seen.get("generations", ())} - {
        path.stem for path in (study.root / "prompts").glob("*.parquet")
    }
    for prompts in sorted(unasked):
        report.notes.append(
            f"prompt set {prompts} has responses and is not stored itself: a sweep that asks it stores it"
        )
    return report


def _check(study: Study, path: Path, inside: Sequence[str], report: Report, seen: dict[str, set[TaskKey]]) -> None:
    match inside:
        case ["generations", _] | ["judgements", _, _] if path.suffix == ".parquet":
            folder = "/".join(inside[:-1])
            tasks = _check_part(study, path, GENERATIONS if inside[0] == "generations" else JUDGEMENTS, report)
            twice = len(tasks & seen.setdefault(folder, set()))
            if twice:
                report.notes.append(f"{'/'.join(inside)}: {twice} of its tasks are stored elsewhere too and count once")
            seen[folder] |= tasks
        case ["directions", _]:
            if read_meta(path).get("study_id") != study.id:
                raise DamagedFile(f"{path}: belongs to another study")
            read_table(path)
        case ["prompts", name] if path.suffix == ".parquet":
            study.prompt_sets.read(name.removesuffix(".parquet"))
        case ["study.json"]:
            with contextlib.suppress(UserError):
                Study.open(study.root)
                return
            raise DamagedFile(f"{path}: is not what was written")
        case ["sweeps", _, "sweep.json" | "summary.json"] | ["sweeps", _, "runs", _]:
            read_json(path)
        case ["sweeps", _, name] if name.startswith("lease") and path.suffix == ".json":
            read_json(path)
        case ["sweeps", _, "landscape.parquet"]:
            read_table(path)
        case ["sweeps", _, *_]:
            pass  # pictures and pages: made again from what is verified
        case ["events", _]:
            _check_events(path, report)
        case ["damaged", *_]:
            report.notes.append(f"{'/'.join(inside)} was set aside; it counts nowhere and may be deleted")
        case _:
            report.notes.append(f"{'/'.join(inside)} is not part of a study and counts nowhere")


def _check_part(study: Study, path: Path, schema: pa.Schema, report: Report) -> set[TaskKey]:
    """Every byte of a part, and that its rows are those of the tasks it names."""
    meta = read_meta(path)
    if meta.get("study_id") != study.id:
        raise DamagedFile(f"{path}: belongs to study {meta.get('study_id')}")
    table = read_table(path, schema)
    counted = table.group_by(["point_id", "prompt_set_id"]).aggregate([([], "count_all")]).to_pylist()
    held = {(row["point_id"], row["prompt_set_id"]): row["count_all"] for row in counted}
    named = {(point, prompts): n for point, prompts, n, _ in meta["tasks"]}
    if held != named:
        raise DamagedFile(f"{path}: holds other tasks than it names")
    report.rows += table.num_rows
    return set(named)


def _check_events(path: Path, report: Report) -> None:
    lines = path.read_bytes().splitlines()
    bad = 0
    for line in lines:
        try:
            bad += not isinstance(json.loads(line), dict)
        except ValueError:
            bad += 1
    if bad:
        report.notes.append(f"events/{path.name}: {bad} of {len(lines)} lines were cut short and are passed over")
