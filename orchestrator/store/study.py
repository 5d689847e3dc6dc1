"""The only file that knows a study folder's layout: evidence in Parquet, every write all or nothing.

    <out>/<model>-<id8>/
      study.json  directions/  prompts/  generations/  judgements/<judge>/  sweeps/<name>-<id8>/  events/  damaged/
    <out>/.tmp/     where files are written before they are renamed into place

A file counts because it verifies (what it says of itself, page checksums, row count, content hash), never
because a listing shows it. Every write is idempotent by id and rows are deduplicated on reading: a task
stored twice counts once, and the part whose rows of it have the smallest hash wins.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.store.files import (
    TMP,
    DamagedFile,
    MissingFile,
    StorageError,
    check_writable,
    publish,
    publish_json,
    publish_table,
    read_json,
    read_meta,
    read_table,
    reading,
    table_hash,
)
from orchestrator.store.parts import Hashes, Part, TaskKey
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Task
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id

if TYPE_CHECKING:
    import pandas as pd

GENERATIONS = pa.schema(
    [
        ("study_id", pa.string()),
        ("point_id", pa.string()),
        ("point", pa.string()),
        ("prompt_set_id", pa.string()),
        ("prompt_id", pa.string()),
        ("group", pa.string()),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
        ("n_tokens", pa.int32()),
        ("n_prompt_tokens", pa.int32()),
        ("scores", pa.list_(pa.float32())),
        ("engine_id", pa.string()),
        ("actor", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("seconds", pa.float64()),
    ]
)

JUDGEMENTS = pa.schema(
    [
        ("judge_id", pa.string()),
        ("point_id", pa.string()),
        ("prompt_set_id", pa.string()),
        ("prompt_id", pa.string()),
        ("response_id", pa.string()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
    ]
)

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("group", pa.string()),
        ("category", pa.string()),
        ("pair_id", pa.string()),
        ("text", pa.string()),
        ("rendered", pa.string()),
        ("target", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("system_prompt", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
    ]
)

TOKEN = "token-"  # how the name of a token begins

# What of a task's rows is the observation itself: who made it and when is not. Its hash is in the part's metadata,
# survives merging, and is what judgements refer to.
OBSERVED = {
    "generations": ("prompt_id", "response", "finish_reason", "n_tokens", "scores"),
    "judgements": ("prompt_id", "response_id", "verdict", "score"),
}


@dataclass(frozen=True)
class StudyInfo:
    """What a study is about. Its id is the model's content, its dtype and the noise version."""

    model: str
    fingerprint: str
    dtype: str
    noise_version: int
    source: str = ""
    revision: str | None = None

    @property
    def id(self) -> str:
        return content_id([self.fingerprint, self.dtype, self.noise_version])


class Study:
    """A resident model and everything ever observed around it, in one folder.

    `mends`: whether a file that does not verify is moved aside when it is met, so that it can be made again; the one
    who only looks leaves it where it is. `problems` names each one met, and why.
    """

    def __init__(self, root: Path, study_id: str, mends: bool = False) -> None:
        self.root = root
        self.id = study_id
        self.mends = mends
        self.problems: dict[Path, str] = {}
        self._received: set[str] = set()
        self._engines: dict[str, Mapping[str, Any]] = {}
        self._keys: dict[TaskKey, TaskKey] = {}

    @classmethod
    def locate(cls, out: Path, info: StudyInfo) -> Study:
        """Where this study is or would be; touches nothing."""
        return cls(out / f"{info.model}-{info.id[:8]}", info.id)

    @classmethod
    def create(cls, out: Path, info: StudyInfo) -> Study:
        """Open the study to add to it, writing its study.json if it is new. Raises UserError where `out` cannot
        hold it."""
        check_writable(out)
        study = cls(cls.locate(out, info).root, info.id, mends=True)
        path = study.root / "study.json"
        try:
            if _study_id(path) == info.id:
                return study
            raise DamagedFile(f"{path}: belongs to another study")
        except MissingFile:
            pass
        except DamagedFile as error:
            study.reject(path, error)
        document = {
            "schema": "study/1",
            "study_id": info.id,
            "model": info.model,
            "fingerprint": info.fingerprint,
            "dtype": info.dtype,
            "noise_version": info.noise_version,
            "source": info.source,
            "revision": info.revision,
        }
        publish_json(out, path, document)
        return study

    @classmethod
    def open(cls, root: Path) -> Study:
        """The study stored in folder `root`, to look at. Raises UserError where there is none."""
        try:
            return cls(root, _study_id(root / "study.json"))
        except MissingFile as error:
            raise UserError("study", root, "no study.json in that folder; name a study's folder") from error
        except DamagedFile as error:
            remedy = f"its study.json does not verify ({error}); `run` writes it again"
            raise UserError("study", root, remedy) from error

    @staticmethod
    def roots_under(out: Path) -> list[Path]:
        """The folder of every study below `out`."""
        return [path.parent for path in sorted(out.glob("*/study.json"))]

    @property
    def out(self) -> Path:
        return self.root.parent

    @staticmethod
    def at(root: Path) -> bool:
        """Whether there is a study in that folder."""
        return (root / "study.json").is_file()

    @property
    def exists(self) -> bool:
        """Whether it is stored already."""
        return self.at(self.root)

    @property
    def info(self) -> dict[str, Any]:
        return read_json(self.root / "study.json")

    # A token that tells an actor whether it sees this very disk.

    def show_token(self) -> str:
        """Leave a token for the time of one run; `shows` finds it from wherever this disk is mounted."""
        token = f"{TOKEN}{uuid.uuid4().hex}"
        publish(self.out, self.out / TMP / token, lambda path: path.write_text(token) and None)
        return token

    def hide_token(self, token: str) -> None:
        """The run is over."""
        with contextlib.suppress(OSError):
            (self.out / TMP / token).unlink()

    def shows(self, token: str) -> bool:
        """Whether this process sees the disk on which that token lies."""
        return bool(token) and (self.out / TMP / token).exists()

    # Directions and prompt sets: written once, named by content.

    def _direction_path(self, direction_id: str) -> Path:
        return self.root / "directions" / f"{direction_id}.parquet"

    def read_direction(self, direction_id: str) -> pa.Table | None:
        """The stored scalars of a direction; None where there are none yet, or none that verify for this model."""
        path = self._direction_path(direction_id)
        try:
            if read_meta(path).get("study_id") != self.id:
                raise DamagedFile(f"{path}: belongs to another study")
            return read_table(path)
        except MissingFile:
            return None
        except DamagedFile as error:
            self.reject(path, error)
            return None

    def write_direction(self, direction_id: str, described: Mapping[str, Any], scalars: pa.Table) -> None:
        meta = {"schema": "direction/1", "study_id": self.id, "direction": dict(described)}
        publish_table(self.out, self._direction_path(direction_id), scalars, meta)

    def _prompts_path(self, prompt_set_id: str) -> Path:
        return self.root / "prompts" / f"{prompt_set_id}.parquet"

    def write_prompt_set(self, prompts: PromptSet) -> None:
        """Store a prompt set unless it is stored already."""
        path = self._prompts_path(prompts.id)
        try:
            self.read_prompt_set(prompts.id)
            return
        except MissingFile:
            pass
        except DamagedFile as error:
            self.reject(path, error)
        columns = {
            "prompt_id": [p.id for p in prompts.prompts],
            "group": [prompts.group] * len(prompts.prompts),
            "category": [p.category for p in prompts.prompts],
            "pair_id": [p.pair_id for p in prompts.prompts],
            "text": [p.text for p in prompts.prompts],
            "rendered": list(prompts.rendered),
            "target": [p.target for p in prompts.prompts],
            "choices": [list(p.choices) for p in prompts.prompts],
            "system_prompt": [prompts.system_prompt] * len(prompts.prompts),
            "token_ids": [list(ids) for ids in prompts.token_ids],
        }
        meta = {
            "schema": "prompts/1",
            "prompt_set_id": prompts.id,
            "group": prompts.group,
            "sampling": prompts.sampling.to_json(),
            "probe_set": prompts.probe_set,
            "system_prompt": prompts.system_prompt,
            "origin": prompts.origin,
        }
        publish_table(self.out, path, pa.table(columns, schema=PROMPTS), meta)

    def read_prompt_set(self, prompt_set_id: str) -> PromptSet:
        """A stored prompt set, whose content gives its id again. Raises DamagedFile."""
        path = self._prompts_path(prompt_set_id)
        meta = read_meta(path)
        rows = read_table(path, PROMPTS, meta=meta).to_pylist()
        with reading(path):
            sampling = meta["sampling"]
            prompts = PromptSet(
                group=meta["group"],
                prompts=tuple(
                    Prompt(r["text"], r["group"], r["category"], r["pair_id"], r["target"], tuple(r["choices"]))
                    for r in rows
                ),
                rendered=tuple(r["rendered"] for r in rows),
                token_ids=tuple(tuple(r["token_ids"]) for r in rows),
                sampling=Sampling(sampling["max_tokens"], tuple(sampling["stop"]), tuple(sampling["letters"])),
                probe_set=meta["probe_set"],
                system_prompt=meta["system_prompt"],
                origin=meta.get("origin", ""),
            )
        if prompts.id != prompt_set_id:
            raise DamagedFile(f"{path}: holds another prompt set")
        return prompts

    # Generations: one part a visit, until parts are merged.

    def write_generations(self, name: str, table: pa.Table, engine: Mapping[str, Any]) -> None:
        """Store a visit's rows under its id; writing it again replaces it by its equal."""
        meta = {"schema": "generations/1", "engine_id": content_id(dict(engine)), "engine": dict(engine)}
        self._write_part("generations", name, table, meta)

    def _write_part(self, folder: str, name: str, table: pa.Table, meta: Mapping[str, Any]) -> None:
        schema = GENERATIONS if folder == "generations" else JUDGEMENTS
        table = table if table.schema.equals(schema, check_metadata=True) else table.cast(schema)
        tasks = describe_tasks(table, OBSERVED[folder.partition("/")[0]])
        path = self.root / folder / f"{name}.parquet"
        publish_table(self.out, path, table, {**meta, "study_id": self.id, "tasks": tasks})

    def write_merged(self, folder: str, table: pa.Table, sources: Sequence[tuple[Part, Sequence[TaskKey]]]) -> Path:
        """Store rows of several parts as one, named by its content: of each part the tasks given with it."""
        tasks = sorted([*key, part.tasks[key]] for part, keys in sources for key in keys)
        meta = {k: v for k, v in sources[0][0].meta.items() if k not in ("rows", "content", "study_id")}
        if folder != "generations":
            meta["judged"] = sorted([*key, part.judged[key]] for part, keys in sources for key in keys)
        name = f"merged-{content_id(tasks)}"
        self._write_part(folder, name, table, meta)
        return self.root / folder / f"{name}.parquet"

    def remove_merged(self, part: Part) -> None:
        """Delete a part whose every task was read back from another."""
        try:
            part.path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError("out", self.out, f"cannot remove a merged part ({error.strerror})") from error

    def read_visit(self, name: str) -> pa.Table | None:
        """The rows that were stored under this name, or None: none that verify."""
        try:
            return read_table(self.root / "generations" / f"{name}.parquet", GENERATIONS)
        except DamagedFile:
            return None

    def received(self, name: str) -> None:
        """An actor says that it has stored a part under this name: it is looked for even where a listing, which may be
        stale on a network's disk, does not show it."""
        self._received.add(name)

    def parts(self, folder: str = "generations") -> list[Part]:
        """Every part of a folder that says it is whole and belongs to this study; the others are rejected."""
        told = {f"{name}.parquet" for name in self._received.copy()} if folder == "generations" else set()
        names = [name for name in sorted(_names(self.root / folder) | told) if name.endswith(".parquet")]
        first, *rest = [names[i : i + 500] for i in range(0, len(names), 500)] or [[]]

        def scan(chunk: Sequence[str]) -> list[Part]:
            return [part for name in chunk if (part := self._part(self.root / folder, name)) is not None]

        began, spent = time.monotonic(), time.thread_time()
        found = scan(first)
        if time.monotonic() - began < 2 * (time.thread_time() - spent):  # else it waits for the disk, a network's say
            return found + [part for chunk in rest for part in scan(chunk)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # which would only get in each other's way otherwise
            return found + [part for chunk in pool.map(scan, rest) for part in chunk]

    def _part(self, folder: Path, name: str) -> Part | None:
        path = folder / name
        try:
            with reading(path):
                return self._described(folder, name, read_meta(path))
        except MissingFile:
            return None
        except DamagedFile as error:
            self.reject(path, error)
            return None

    def _described(self, folder: Path, name: str, meta: dict[str, Any]) -> Part:
        if meta["study_id"] != self.id:
            raise DamagedFile(f"{folder / name}: belongs to study {meta['study_id']}")
        # What parts have in common is held once: of a million tasks that is a gigabyte.
        tasks = Hashes([(self._key(point, prompts), observed) for point, prompts, _, observed in meta.pop("tasks")])
        judged = Hashes([(self._key(point, prompts), said) for point, prompts, said in meta.pop("judged", ())])
        if "engine" in meta:
            meta["engine"] = self._engines.setdefault(meta["engine_id"], meta["engine"])
        return Part(folder, name, meta["content"], tasks, judged, meta)

    def _key(self, point: str, prompts: str) -> TaskKey:
        key = (point, sys.intern(prompts))
        return self._keys.setdefault(key, key)

    def stored(self, without: Collection[Path] = ()) -> dict[TaskKey, Part]:
        """The part that counts for each stored task: the one whose rows of it have the smallest hash.

        `without`: parts that are known not to verify.
        """
        winners: dict[TaskKey, Part] = {}
        for part in self.parts():
            if without and part.path in without:
                continue
            for key, observed in part.tasks.items():
                other = winners.get(key)
                if other is None or (observed, part.content) < (other.tasks[key], other.content):
                    winners[key] = part
        return winners

    def stored_of(self, tasks: Iterable[Task]) -> dict[TaskKey, Part]:
        """The same for these tasks alone, in their order."""
        stored = self.stored()
        keys = (self._keys.get(task.key) for task in tasks)  # held already: a task's own would be there twice
        return {key: stored[key] for key in keys if key in stored}

    def rows(self, winners: Mapping[TaskKey, Part], schema: pa.Schema = GENERATIONS) -> Iterator[tuple[Part, pa.Table]]:
        """The rows of these tasks, part by part, no row twice and none left out while parts are being merged.

        A part that does not verify is rejected; tasks of which no other part has rows are left out.
        """
        left, bad = dict(winners), set[Path]()
        while left:
            missed: list[tuple[Part, list[TaskKey]]] = []
            for part, wanted in _by_part(left):
                try:
                    table = self._rows_of(part, wanted, schema)
                except DamagedFile as error:
                    if not isinstance(error, MissingFile):  # merged into another by now
                        self.reject(part.path, error)
                        bad.add(part.path)
                    missed.append((part, wanted))
                else:
                    yield part, table
            left = self._elsewhere(missed, bad) if missed else {}

    def _elsewhere(self, missed: Sequence[tuple[Part, list[TaskKey]]], bad: Collection[Path]) -> dict[TaskKey, Part]:
        """The parts that hold now what these held: rows of the same tasks, or verdicts on the same responses."""
        if "judge_id" not in missed[0][0].meta:
            keys = {key for _, wanted in missed for key in wanted}
            return {key: part for key, part in self.stored(without=bad).items() if key in keys}
        responses = {key: part.judged[key] for part, wanted in missed for key in wanted}
        return self._verdicts_on(missed[0][0].meta["judge_id"], responses.get, bad)

    def _rows_of(self, part: Part, wanted: Sequence[TaskKey], schema: pa.Schema) -> pa.Table:
        meta = read_meta(part.path)
        table = read_table(part.path, schema, meta=meta)
        if meta["content"] != part.content:  # written again since it was scanned
            now = self._described(part.folder, part.name, meta)
            if any(now.tasks.get(key) != part.tasks[key] for key in wanted):
                raise MissingFile(f"{part.path}: holds other rows by now")
        if len(wanted) < len(part.tasks):
            keys = pa.array([f"{point} {prompts}" for point, prompts in wanted])
            own = pc.binary_join_element_wise(table["point_id"], table["prompt_set_id"], " ")
            table = table.filter(pc.is_in(own, keys))
        return table

    # Judgements: one folder a judge.

    def write_judgements(self, judge_id: str, table: pa.Table, judged: Mapping[TaskKey, str]) -> None:
        """Store verdicts. `judged`: what was judged in each task, as `Part.tasks` of the generations names it."""
        entries = sorted([point, prompts, observed] for (point, prompts), observed in judged.items())
        meta = {"schema": "judgements/1", "judge_id": judge_id, "judged": entries}
        self._write_part(f"judgements/{judge_id}", content_id(entries), table, meta)

    def judged(self, judge_id: str, winners: Mapping[TaskKey, Part]) -> dict[TaskKey, Part]:
        """For each of these tasks that has verdicts on just the responses that count: the part that holds them."""

        def observed(key: TaskKey) -> str | None:
            return winners[key].tasks[key] if key in winners else None

        return self._verdicts_on(judge_id, observed)

    def _verdicts_on(
        self, judge_id: str, responses: Callable[[TaskKey], str | None], without: Collection[Path] = ()
    ) -> dict[TaskKey, Part]:
        found: dict[TaskKey, Part] = {}
        for part in self.parts(f"judgements/{judge_id}"):
            if without and part.path in without:
                continue
            for key, said in part.judged.items():
                if responses(key) == said and (key not in found or part.content < found[key].content):
                    found[key] = part
        return found

    # Sweeps and events.

    def sweep_folder(self, name: str, sweep_id: str) -> Path:
        return self.root / "sweeps" / f"{name}-{sweep_id[:8]}"

    def sweep_folders(self) -> list[Path]:
        """The folders of all sweeps of this study, the latest used last."""
        folders = [path.parent for path in (self.root / "sweeps").glob("*/sweep.json")]
        return sorted(folders, key=self.last_used)

    def last_used(self, folder: Path) -> int:
        """When a sweep was last asked for or run, in nanoseconds since 1970."""
        times = [path.stat().st_mtime_ns for path in (folder / "sweep.json", *folder.glob("runs/*.json"))]
        return max(times)

    def write_sweep(self, folder: Path, document: Mapping[str, Any]) -> None:
        publish_json(self.out, folder / "sweep.json", document)

    def write_run(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Record how a run of a sweep stands. A file for each, so that drivers of several parts do not overwrite what
        the others have written."""
        publish_json(self.out, folder / "runs" / f"{run['run']}.json", run)

    def read_sweep(self, folder: Path) -> dict[str, Any]:
        """A sweep's record with all its runs, in their order; empty where there is none that can be read."""
        try:
            record = read_json(folder / "sweep.json")
        except DamagedFile:
            return {}
        for path in sorted(folder.glob("runs/*.json")):  # their names begin with the time
            with contextlib.suppress(DamagedFile):
                record.setdefault("runs", []).append(read_json(path))
        return record

    def lease_path(self, folder: Path, part: str | None = None) -> Path:
        """The file that says who works on a sweep, or on its part `i/n`."""
        return folder / (f"lease-{part.replace('/', 'of')}.json" if part else "lease.json")

    def write_landscape(self, folder: Path, table: pa.Table) -> None:
        publish_table(self.out, folder / "landscape.parquet", table, {"schema": "landscape/2", "study_id": self.id})

    def write_judge(self, folder: Path, name: str, document: Mapping[str, Any]) -> None:
        """Which weights of a model judge have judged a sweep."""
        publish_json(self.out, folder / "judges" / f"{name}.json", document)

    def read_judge(self, folder: Path, name: str) -> dict[str, Any]:
        """The same; empty where that judge has not judged the sweep."""
        try:
            return read_json(folder / "judges" / f"{name}.json")
        except DamagedFile:
            return {}

    def write_summary(self, folder: Path, summary: Mapping[str, Any]) -> None:
        publish_json(self.out, folder / "summary.json", summary)

    def read_landscape(self, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        """A sweep's landscape and summary as they are stored. Raises UserError where there are none to read."""
        try:
            return read_table(folder / "landscape.parquet").to_pandas(), read_json(folder / "summary.json")
        except DamagedFile as error:
            remedy = f"has no landscape that can be read ({error}): `reduce` makes it"
            raise UserError("sweep", folder, remedy) from error

    def write_figure(self, folder: Path, name: str, draw: Callable[[Path], None]) -> Path:
        """Let `draw` write a picture's file; returns where it lies."""
        target = folder / "figures" / name
        publish(self.out, target, draw)
        return target

    def write_report(self, folder: Path, text: str) -> Path:
        """A sweep's report.html; returns where it lies."""
        target = folder / "report.html"
        publish(self.out, target, lambda path: path.write_text(text, encoding="utf-8", newline=""))
        return target

    def log_path(self, folder: Path, run: str) -> Path:
        """The file for what libraries in a run's driver write to its terminal."""
        return folder / "logs" / f"{run}.log"

    def events(self, run: str) -> EventLog:
        return EventLog(self.root / "events" / f"{run}.jsonl")

    def all_events(self) -> Iterator[dict[str, Any]]:
        """Every readable event of every run, run by run."""
        for path in sorted((self.root / "events").glob("*.jsonl")):
            yield from EventLog(path).read()

    # What does not verify, and what a crash left.

    def reject(self, path: Path, why: object) -> None:
        """Note a file that does not verify; where this study is mended, move it out of the way."""
        self.problems[path] = str(why)
        if self.mends:
            self.set_aside(path)

    def set_aside(self, path: Path) -> Path | None:
        """Move a file out of the way, under damaged/, and never delete it. None: it could not be moved."""
        target = self.root / "damaged" / path.relative_to(self.root)
        if target.exists():
            target = target.with_name(f"{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except OSError:
            return None  # gone already, or a disk that cannot be written: it does not count either way
        return target

    def damaged(self) -> list[Path]:
        """The files that were set aside."""
        return sorted(path for path in (self.root / "damaged").rglob("*") if path.is_file())

    def sweep_up(self, older_than: float = 24 * 3600) -> None:
        """Delete temporary files that a crash left long ago.

        `older_than`: seconds since they were written; for tokens thirty times that.
        """
        for path in (self.out / TMP).glob("*"):
            # A token is written once and needed as long as its run lasts. A run of months loses nothing either: actors
            # that see no token return their rows through Ray.
            patience = older_than * (30 if path.name.startswith(TOKEN) else 1)
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > patience:
                    path.unlink()


class EventLog:
    """One driver run's attempts, failures and restarts, a JSON object a line, appended as they happen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def write(self, event: str, **fields: Any) -> None:
        """Append one event. A full disk must not stop a sweep for the sake of its log."""
        line = json.dumps({"at": time.time(), "event": event, **fields}, ensure_ascii=False) + "\n"
        with contextlib.suppress(OSError):
            if self._file is None:  # and it stays open: there are two events a visit
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            self._file.write(line.encode())

    def read(self) -> Iterator[dict[str, Any]]:
        """Every readable event; a line cut short by a crash is passed over."""
        with contextlib.suppress(FileNotFoundError), open(self.path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


def describe_tasks(table: pa.Table, observed: Sequence[str]) -> list[list[Any]]:
    """[point id, prompt set id, rows, hash of the observed columns] for each task in a table."""
    indices: dict[TaskKey, list[int]] = {}
    keys = zip(table["point_id"].to_pylist(), table["prompt_set_id"].to_pylist(), strict=True)
    for index, key in enumerate(keys):
        indices.setdefault(key, []).append(index)
    columns = table.select(list(observed)).combine_chunks()
    described = []
    for (point, prompts), rows in indices.items():
        together = rows[-1] - rows[0] == len(rows) - 1
        own = columns.slice(rows[0], len(rows)) if together else columns.take(pa.array(rows))
        described.append([point, prompts, len(rows), table_hash(own)])
    return sorted(described)


def _by_part(winners: Mapping[TaskKey, Part]) -> list[tuple[Part, list[TaskKey]]]:
    gathered: dict[Path, tuple[Part, list[TaskKey]]] = {}
    for key, part in winners.items():
        gathered.setdefault(part.path, (part, []))[1].append(key)
    return list(gathered.values())


def _names(folder: Path) -> set[str]:
    with contextlib.suppress(MissingFile), reading(folder), os.scandir(folder) as entries:
        return {entry.name for entry in entries}
    return set()


def _study_id(path: Path) -> str:
    """The id in a study.json, which its own fields must give again. Raises DamagedFile."""
    document = read_json(path)
    with reading(path):
        if content_id([document[key] for key in ("fingerprint", "dtype", "noise_version")]) != document["study_id"]:
            raise DamagedFile(f"{path}: its study_id is not that of its model")
    return str(document["study_id"])
