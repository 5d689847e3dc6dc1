"""Merge many small parts into few.

Merging is safe at any moment. A merged part is written, read back and compared before the first of its sources is
removed, so each task is in a verified part all the time. A reader that finds both counts each task once, and one that
comes too late for a source finds its rows in the merged part. Nothing else is ever deleted.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from orchestrator.store.files import DamagedFileError, is_stored, read_meta, read_table
from orchestrator.store.observations import Judgements, PartFolder
from orchestrator.store.parts import Part, TaskKey, TaskParts
from orchestrator.store.study import Study
from orchestrator.utils.console import Progress, ignore_progress

MERGED_TASKS = 2000  # maximum in a merged part: 10^6 tasks take 500 files
MERGED_ROWS = 500_000  # maximum in a merged part: limits the memory for merging and reading


@dataclass(frozen=True)
class Compacted:
    """The result of merging.

    Attributes:
        before: Number of parts before merging.
        after: Number of parts after merging.
        removed: Number of source parts that were removed.
    """

    before: int
    after: int
    removed: int


@dataclass(frozen=True)
class _Source:
    """A part to merge, and those of its tasks that count."""

    part: Part
    counting: list[TaskKey]


def compact(study: Study, progress: Progress = ignore_progress) -> Compacted:
    """Merge the small parts of a study's generations, judgements and log-probabilities.

    It may run beside a driver, and may be killed and repeated at any time.

    Args:
        study: The study.
        progress: Called with the share of the files of generations and judgements that have been dealt with.

    Raises:
        StorageError: A file cannot be written or removed.
        DamagedFileError: A merged part does not hold what was read. Its sources stay.
    """
    before, after, removed = 0, 0, 0
    folders = [study.generations, *map(study.judgements, study.judge_ids())]
    for number, folder in enumerate(folders):
        read, parts = 0, folder.parts()  # scan first: parts that are stored later are not merged
        stored = study.generations.stored()
        counting = folder.parts_for(stored) if isinstance(folder, Judgements) else stored
        before += len(parts)
        for batch in _batches(parts, counting):
            removed += _merge(study, folder, batch, counting, stored)
            read += len(batch)
            progress((number + read / len(parts)) / len(folders))
        after += len(folder.parts())
    merged = study.log_probabilities.compact()
    before, after, removed = before + merged[0], after + merged[1], removed + merged[2]
    return Compacted(before, after, removed)


def _batches(parts: Sequence[Part], counting: Mapping[TaskKey, Part]) -> Iterator[list[_Source]]:
    """Yield batches of small parts to merge into one, each batch of one engine and one version of the schema.

    A part of which no task counts is merged with the others, which drops its rows: they are stored in another part too,
    or are verdicts on responses that no longer count.
    """
    batches: dict[tuple[str, str], list[_Source]] = {}
    sizes: collections.Counter[tuple[tuple[str, str], str]] = collections.Counter()
    for part in parts:
        rows, kind = int(part.meta["rows"]), (str(part.meta.get("engine_id", "")), str(part.meta.get("schema", "")))
        if len(part.tasks) > MERGED_TASKS // 2 or rows > MERGED_ROWS // 2:
            continue  # the part is large already
        source = _Source(part, [key for key in part.tasks if key in counting and counting[key].name == part.name])
        tasks = len(source.counting)
        if sizes[kind, "tasks"] + tasks > MERGED_TASKS or sizes[kind, "rows"] + rows > MERGED_ROWS:
            yield batches.pop(kind)
            sizes[kind, "tasks"] = sizes[kind, "rows"] = 0
        batches.setdefault(kind, []).append(source)
        sizes[kind, "tasks"] += tasks
        sizes[kind, "rows"] += rows
    yield from batches.values()


def _merge(study: Study, folder: PartFolder, batch: Sequence[_Source], counting: TaskParts, stored: TaskParts) -> int:
    """Merge a batch of parts.

    Args:
        study: The study.
        folder: The folder the parts are in.
        batch: The parts to merge.
        counting: The part of this folder that counts for each task.
        stored: The part of generations that counts for each task.

    Returns:
        How many parts were removed.
    """
    if len(batch) < 2:
        return 0
    to_read = {key: source.part for source in batch for key in source.counting}
    read = [(part, table, _tasks_of(table)) for part, table in folder.rows(to_read)]
    sources = {part.path: part for part, _, _ in read} | {s.part.path: s.part for s in batch if not s.counting}
    tasks = {key: part.tasks[key] for part, _, keys in read for key in keys}
    if len(sources) < 2 or not tasks or not sources.keys() <= {source.part.path for source in batch}:
        return 0  # nothing to merge, or another process has just merged some of it
    table = pa.concat_tables([table for _, table, _ in read])
    merged = folder.write_merged(table, [(part, keys) for part, _, keys in read])
    if not read_table(merged, folder.schema).equals(table) or _tasks_in(merged) != tasks:
        raise DamagedFileError(f"{merged}: what was merged is not what was read; nothing was removed")

    @functools.cache
    def is_whole(path: Path) -> bool:
        try:
            read_table(path, folder.schema)
            return is_stored(study.out, path)
        except DamagedFileError:
            return False

    removed = 0
    for part in sources.values():
        # If a task counts in another part, its rows must be readable there before the copy in this part is removed.
        # Rows of a task that the scan did not find are not removed.
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
