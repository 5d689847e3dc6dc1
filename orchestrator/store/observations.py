"""Generations and judgements: folders of Parquet parts, written once, merged, and deduplicated on reading.

A task that is stored twice counts once: its rows are taken from the part in which they have the smallest hash.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.store.errors import StorageError
from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    publish_table,
    read_meta,
    read_table,
    remove,
    table_hash,
    translate_read_errors,
)
from orchestrator.store.part_index import add_winners
from orchestrator.store.parts import Hashes, Part, TaskKey, TaskParts, group_by_part
from orchestrator.store.schemas import GENERATIONS, GENERATIONS_SCHEMA, JUDGEMENTS, OBSERVED
from orchestrator.store.study_folder import StudyFolder
from orchestrator.sweep.tasks import Task
from orchestrator.utils.hashing import content_id

SCAN_CHUNK = 500  # number of parts that one thread scans at a time


class PartFolder(ABC):
    """A folder of parts: rows of many tasks in Parquet files, each of which describes itself in its metadata.

    Attributes:
        path: The folder.
        schema: The columns of every part.
        observed: The columns that define a task's result.
    """

    def __init__(self, study: StudyFolder, name: str, schema: pa.Schema, observed: Sequence[str]) -> None:
        self.path = study.path(*name.split("/"))
        self.schema = schema
        self.observed = observed
        self._study = study
        self._engines: dict[str, Mapping[str, Any]] = {}

    def part_path(self, name: str) -> Path:
        """Return the path of the part of this name."""
        return self.path / f"{name}.parquet"

    def parts(self) -> list[Part]:
        """Scan the folder and return every part that is whole and belongs to this study. The others are rejected."""
        if (index := self._study.part_index(self.path)) is not None:
            return index.parts(self._scan_all)
        return self._scan_all(sorted(self._names()))

    def _scan_all(self, names: Sequence[str]) -> list[Part]:
        """Scan the files of these names that are Parquet files."""
        names = [name for name in names if name.endswith(".parquet")]
        chunks = [names[i : i + SCAN_CHUNK] for i in range(0, len(names), SCAN_CHUNK)]
        if not chunks:
            return []
        began, spent = time.monotonic(), time.thread_time()
        parts = self._scan(chunks[0])
        waits_for_disk = time.monotonic() - began >= 2 * (time.thread_time() - spent)  # such as one on a network
        if waits_for_disk:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                scans = list(pool.map(self._scan, chunks[1:]))
        else:  # scanning is limited by the CPU: threads would not help
            scans = [self._scan(chunk) for chunk in chunks[1:]]
        for scanned in scans:
            parts += scanned
        return parts

    def rows(self, parts: TaskParts) -> Iterator[tuple[Part, pa.Table]]:
        """Yield the rows of these tasks, part by part: each row once, even while parts are merged.

        A part that does not verify is rejected, and its tasks are read from other parts. Tasks that no other part
        contains are left out.
        """
        remaining, bad = dict(parts), set[Path]()
        while remaining:
            missed: list[tuple[Part, list[TaskKey]]] = []
            for part, keys in group_by_part(remaining):
                try:
                    table = self._rows_of(part, keys)
                except DamagedFileError as error:
                    if (index := self._study.part_index(self.path)) is not None:
                        index.forget(part.name)
                    if not isinstance(error, MissingFileError):  # a missing part has been merged into another one
                        self._study.reject(part.path, error)
                        bad.add(part.path)
                    missed.append((part, keys))
                else:
                    yield part, table
            remaining = self._relocate(missed, bad) if missed else {}

    def write_merged(self, table: pa.Table, sources: Sequence[tuple[Part, Sequence[TaskKey]]]) -> Path:
        """Store rows of several parts as one part, named by its content.

        Args:
            table: The rows.
            sources: Each source part with those of its tasks that are in `table`.

        Returns:
            The path of the new part.
        """
        tasks = sorted([*key, part.tasks[key]] for part, keys in sources for key in keys)
        meta = {k: v for k, v in sources[0][0].meta.items() if k not in ("rows", "content", "study_id")}
        meta |= self._merged_meta(sources)
        name = f"merged-{content_id(tasks)}"
        self._write_part(name, table, meta)
        return self.part_path(name)

    def remove(self, part: Part) -> None:
        """Delete a part whose tasks have all been read back from another part. Raises StorageError if that fails."""
        try:
            remove(self._study.out, part.path)
        except OSError as error:
            raise StorageError("out", self._study.out, f"cannot remove a merged part ({error.strerror})") from error

    def _names(self) -> set[str]:
        return _file_names(self.path)

    def _scan(self, names: Sequence[str]) -> list[Part]:
        return [part for name in names if (part := self._read_part(name)) is not None]

    def _read_part(self, name: str) -> Part | None:
        path = self.path / name
        try:
            with translate_read_errors(path):
                return self._describe(name, read_meta(path))
        except MissingFileError:
            return None
        except DamagedFileError as error:
            self._study.reject(path, error)
            return None

    def _describe(self, name: str, meta: dict[str, Any]) -> Part:
        if meta["study_id"] != self._study.id:
            raise DamagedFileError(f"{self.path / name}: belongs to study {meta['study_id']}")
        intern = self._study.task_keys.intern
        tasks = Hashes([(intern(point, prompts), observed) for point, prompts, _, observed in meta.pop("tasks")])
        judged = Hashes([(intern(point, prompts), observed) for point, prompts, observed in meta.pop("judged", ())])
        if "engine" in meta:  # parts of one engine share the object, which saves memory
            meta["engine"] = self._engines.setdefault(meta["engine_id"], meta["engine"])
        return Part(self.path, name, meta["content"], tasks, judged, meta)

    def _rows_of(self, part: Part, keys: Sequence[TaskKey]) -> pa.Table:
        meta = read_meta(part.path)
        table = read_table(part.path, self.schema, meta=meta)
        if meta["content"] != part.content:  # the part was written again after the scan
            current = self._describe(part.name, meta)
            if any(current.tasks.get(key) != part.tasks[key] for key in keys):
                raise MissingFileError(f"{part.path}: holds other rows by now")
        if len(keys) < len(part.tasks):
            names = pa.array([f"{point} {prompts}" for point, prompts in keys])
            keys_of_rows = pc.binary_join_element_wise(table["point_id"], table["prompt_set_id"], " ")
            table = table.filter(pc.is_in(keys_of_rows, names))
        return table

    def _write_part(self, name: str, table: pa.Table, meta: Mapping[str, Any]) -> None:
        if not table.schema.equals(self.schema, check_metadata=True):
            table = table.cast(self.schema)
        tasks = describe_tasks(table, self.observed)
        meta = {**meta, "study_id": self._study.id, "tasks": tasks}
        publish_table(self._study.out, self.part_path(name), table, meta)

    @abstractmethod
    def _merged_meta(self, sources: Sequence[tuple[Part, Sequence[TaskKey]]]) -> dict[str, Any]:
        """Return the metadata of a merged part that cannot be copied from its first source."""

    @abstractmethod
    def _relocate(self, missed: Sequence[tuple[Part, list[TaskKey]]], bad: Collection[Path]) -> dict[TaskKey, Part]:
        """Scan again for other parts with the rows of these tasks. `bad`: parts that are known not to verify."""


class Generations(PartFolder):
    """The responses of a study: one part per visit, until parts are merged."""

    def __init__(self, study: StudyFolder) -> None:
        super().__init__(study, "generations", GENERATIONS, OBSERVED["generations"])
        self._expected: set[str] = set()

    def write(self, name: str, table: pa.Table, engine: Mapping[str, Any]) -> None:
        """Store the rows of a visit under its id. Writing the same rows again is harmless."""
        meta = {"schema": GENERATIONS_SCHEMA, "engine_id": content_id(dict(engine)), "engine": dict(engine)}
        self._write_part(name, table, meta)

    def read_visit(self, name: str) -> pa.Table | None:
        """Return the rows of the part with this name, or None if it does not exist or does not verify."""
        try:
            return read_table(self.part_path(name), GENERATIONS)
        except DamagedFileError:
            return None

    def add_expected_part(self, name: str) -> None:
        """Include the part with this name in later scans, even if a directory listing does not show it.

        Call this when an actor reports that it has stored the part: on a network disk, a listing may be stale.
        """
        self._expected.add(name)

    def stored(self, without: Collection[Path] = ()) -> dict[TaskKey, Part]:
        """Scan the folder and return the part that counts for each stored task.

        If several parts hold a task, the one in which its rows have the smallest hash counts.

        Args:
            without: Parts that are known not to verify.
        """
        winners: dict[TaskKey, Part] = {}
        add_winners(winners, (part for part in self.parts() if part.path not in without))
        return winners

    def snapshot(self) -> tuple[int, dict[TaskKey, Part]]:
        """Return a number that changes with the parts, and what `stored` returns; callers must not change it.

        Both are from the study's index if it keeps one. Otherwise the number is 0.
        """
        index = self._study.part_index(self.path)
        return (0, self.stored()) if index is None else index.winners(self._scan_all)

    def stored_of(self, tasks: Iterable[Task], stored: TaskParts | None = None) -> dict[TaskKey, Part]:
        """Like `stored`, but only for those of these tasks that are stored, in the order of `tasks`.

        Args:
            tasks: The tasks.
            stored: What `stored` has returned. None: the folder is scanned.
        """
        if stored is None:
            _, stored = self.snapshot()
        # the shared key objects: a task's own key would be a second copy in memory
        shared = (self._study.task_keys.get(task.key) for task in tasks)
        return {key: stored[key] for key in shared if key is not None and key in stored}

    def _names(self) -> set[str]:
        return super()._names() | {f"{name}.parquet" for name in self._expected.copy()}

    def _merged_meta(self, sources: Sequence[tuple[Part, Sequence[TaskKey]]]) -> dict[str, Any]:
        return {}

    def _relocate(self, missed: Sequence[tuple[Part, list[TaskKey]]], bad: Collection[Path]) -> dict[TaskKey, Part]:
        keys = {key for _, missed_keys in missed for key in missed_keys}
        return {key: part for key, part in self.stored(without=bad).items() if key in keys}


class Judgements(PartFolder):
    """The verdicts of one judge. A verdict is valid only for exactly the responses that were judged."""

    def __init__(self, study: StudyFolder, judge_id: str) -> None:
        super().__init__(study, f"judgements/{judge_id}", JUDGEMENTS, OBSERVED["judgements"])
        self.judge_id = judge_id

    def write(self, table: pa.Table, judged: Mapping[TaskKey, str]) -> None:
        """Store verdicts.

        Args:
            table: The verdicts, a row for each response.
            judged: For each task, the hash of the responses that were judged, as in `Part.tasks` of the generations.
        """
        entries = sorted([point, prompts, observed] for (point, prompts), observed in judged.items())
        meta = {"schema": "judgements/1", "judge_id": self.judge_id, "judged": entries}
        self._write_part(content_id(entries), table, meta)

    def parts_for(self, generations: TaskParts) -> dict[TaskKey, Part]:
        """Scan the folder and return the part that holds the verdicts of each judged task.

        A task whose responses in `generations` differ from those that were judged is left out.
        """

        def observed(key: TaskKey) -> str | None:
            return generations[key].tasks[key] if key in generations else None

        return self._parts_for(observed)

    def _parts_for(
        self, observed: Callable[[TaskKey], str | None], without: Collection[Path] = ()
    ) -> dict[TaskKey, Part]:
        winners: dict[TaskKey, Part] = {}
        for part in self.parts():
            if part.path in without:
                continue
            for key, judged in part.judged.items():
                if observed(key) == judged and (key not in winners or part.content < winners[key].content):
                    winners[key] = part
        return winners

    def _merged_meta(self, sources: Sequence[tuple[Part, Sequence[TaskKey]]]) -> dict[str, Any]:
        return {"judged": sorted([*key, part.judged[key]] for part, keys in sources for key in keys)}

    def _relocate(self, missed: Sequence[tuple[Part, list[TaskKey]]], bad: Collection[Path]) -> dict[TaskKey, Part]:
        responses = {key: part.judged[key] for part, keys in missed for key in keys}
        return self._parts_for(responses.get, bad)


def describe_tasks(table: pa.Table, observed: Sequence[str]) -> list[list[Any]]:
    """Return [point id, prompt set id, rows, hash of the observed columns] for each task in a table."""
    indices: dict[TaskKey, list[int]] = {}
    keys = zip(table["point_id"].to_pylist(), table["prompt_set_id"].to_pylist(), strict=True)
    for index, key in enumerate(keys):
        indices.setdefault(key, []).append(index)
    columns = table.select(list(observed)).combine_chunks()
    described = []
    for (point, prompts), rows in indices.items():
        together = rows[-1] - rows[0] == len(rows) - 1
        task_rows = columns.slice(rows[0], len(rows)) if together else columns.take(pa.array(rows))
        described.append([point, prompts, len(rows), table_hash(task_rows)])
    return sorted(described)


def _file_names(folder: Path) -> set[str]:
    with contextlib.suppress(MissingFileError), translate_read_errors(folder), os.scandir(folder) as entries:
        return {entry.name for entry in entries}
    return set()
