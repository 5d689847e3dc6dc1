"""Log-probabilities of stored responses under the unperturbed model: Parquet parts, written once, merged.

A row belongs to a continuation (a prompt and a text), not to a task, so that a text that occurs at many points is
measured and stored once. Rows are found by the content of both, (context id, response id).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.store.errors import StorageError
from orchestrator.store.files import (
    DamagedFileError,
    MissingFileError,
    publish_table,
    read_meta,
    read_table,
    remove,
    translate_read_errors,
)
from orchestrator.store.schemas import LOG_PROBABILITIES
from orchestrator.store.study_folder import StudyFolder
from orchestrator.sweep.continuations import SCORER_VERSION
from orchestrator.utils.hashing import content_id

MERGED_ROWS = 500_000  # maximum in a merged part
FOLDER = "log_probabilities"
KEY = ("context_id", "response_id")
NOT_STORED = -1
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 divided by the golden ratio


class LogProbabilities:
    """The log-probabilities that one version of the scorer has measured in a study.

    Attributes:
        path: The folder of its parts.
    """

    def __init__(self, study: StudyFolder, version: int = SCORER_VERSION) -> None:
        self.path = study.root / FOLDER / f"v{version}"
        self._version = version
        self._study = study

    def write(self, name: str, table: pa.Table, engine: Mapping[str, Any]) -> None:
        """Store the measurements of a batch under its id. Writing the same rows again is harmless."""
        meta = {
            "schema": "log_probabilities/1",
            "study_id": self._study.id,
            "scorer_version": self._version,
            "engine_id": content_id(dict(engine)),
            "engine": dict(engine),
        }
        publish_table(self._study.out, self.path / f"{name}.parquet", table, meta)

    def parts(self) -> Iterator[tuple[Path, dict[str, Any], pa.Table]]:
        """Yield path, metadata and rows of every part that verifies and is of this study. The others are rejected."""
        for path in self._paths():
            try:
                yield path, *self.read_part(path)
            except MissingFileError:
                continue  # another process has just merged it into another part
            except DamagedFileError as error:
                self._study.reject(path, error)

    def read_part(self, path: Path) -> tuple[dict[str, Any], pa.Table]:
        """Return metadata and rows of a part. Raises DamagedFileError if it does not verify or is of another study."""
        meta = read_meta(path)
        if meta.get("study_id") != self._study.id:
            raise DamagedFileError(f"{path}: belongs to study {meta.get('study_id')}")
        if meta.get("scorer_version") != self._version:
            raise DamagedFileError(f"{path}: was made by scorer version {meta.get('scorer_version')}")
        return meta, read_table(path, LOG_PROBABILITIES, meta=meta)

    def read(self) -> LogProbabilityIndex:
        """Return every stored measurement."""
        return LogProbabilityIndex(table for _, _, table in self.parts())

    def compact(self) -> tuple[int, int, int]:
        """Merge small parts of the same engine, each continuation once.

        A merged part is written, read back and compared before its sources are removed. It may run beside a driver,
        and may be killed and repeated at any time.

        Returns:
            The number of parts before, after, and removed.

        Raises:
            StorageError: A file cannot be written or removed.
            DamagedFileError: A merged part does not hold what was read. Its sources stay.
        """
        before, removed = len(self._paths()), 0
        batches: dict[str, list[tuple[Path, dict[str, Any], pa.Table]]] = {}
        for part in self.parts():
            _, meta, table = part
            batch = batches.setdefault(meta["engine_id"], [])
            if table.num_rows > MERGED_ROWS // 2:
                continue  # the part is large already
            if sum(other.num_rows for _, _, other in batch) + table.num_rows > MERGED_ROWS:
                removed += self._merge(batch)
                batch.clear()
            batch.append(part)
        removed += sum(map(self._merge, batches.values()))
        return before, len(self._paths()), removed

    def _merge(self, batch: Sequence[tuple[Path, Mapping[str, Any], pa.Table]]) -> int:
        """Merge parts of one engine. Returns how many parts were removed."""
        if len(batch) < 2:
            return 0
        table = _each_once(pa.concat_tables([table for _, _, table in batch]))
        name = f"merged-{content_id([table[name].to_pylist() for name in KEY])}"
        self.write(name, table, batch[0][1]["engine"])
        merged = self.path / f"{name}.parquet"
        if not self.read_part(merged)[1].equals(table):
            raise DamagedFileError(f"{merged}: what was merged is not what was read; nothing was removed")
        sources = [path for path, _, _ in batch if path != merged]
        for path in sources:
            try:
                remove(self._study.out, path)
            except OSError as error:
                raise StorageError("out", self._study.out, f"cannot remove a merged part ({error.strerror})") from error
        return len(sources)

    def _paths(self) -> list[Path]:
        with contextlib.suppress(MissingFileError), translate_read_errors(self.path), os.scandir(self.path) as entries:
            return [self.path / name for name in sorted(e.name for e in entries if e.name.endswith(".parquet"))]
        return []


def _each_once(table: pa.Table) -> pa.Table:
    """Return the rows sorted by continuation, each continuation once: of several rows the one with the lowest mean."""
    table = table.sort_by([(name, "ascending") for name in (*KEY, "mean", "n_tokens")])
    first = np.ones(table.num_rows, bool)
    first[1:] = False
    for name in KEY:
        values = table[name].to_numpy()
        first[1:] |= values[1:] != values[:-1]
    return table.filter(pa.array(first)).combine_chunks()


class LogProbabilityIndex:
    """Stored log-probabilities by continuation, in 20 bytes each.

    If a continuation was measured twice, for example by two engines, the lowest mean counts.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        columns = [LOG_PROBABILITIES.empty_table(), *tables]
        keys = np.concatenate([_keys(*(integers(table[name].to_pylist()) for name in KEY)) for table in columns])
        means = np.concatenate([table["mean"].to_numpy() for table in columns])  # NaN for null, which sorts last
        order = np.lexsort((means, keys))
        first = np.ones(len(order), bool)
        first[1:] = keys[order][1:] != keys[order][:-1]
        kept = order[first]
        self._keys, self._means = keys[kept], means[kept]
        self._n_tokens = np.concatenate([table["n_tokens"].to_numpy() for table in columns])[kept]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, contexts: np.ndarray, responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the measurements of continuations.

        Args:
            contexts: The context id of each continuation, as `integers` returns it.
            responses: The response id of each continuation, likewise.

        Returns:
            The mean of each, NaN where it is undefined or not stored; and the number of tokens of each, NOT_STORED
            where it is not stored.
        """
        wanted = _keys(contexts, responses)
        means, n_tokens = np.full(len(wanted), np.nan), np.full(len(wanted), NOT_STORED, np.int32)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            stored = self._keys[places] == wanted
            means[stored], n_tokens[stored] = self._means[places[stored]], self._n_tokens[places[stored]]
        return means, n_tokens


def integers(ids: Sequence[str]) -> np.ndarray:
    """Return content hashes of 16 hexadecimal digits as uint64."""
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64)


def _keys(contexts: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Return one uint64 per continuation. Both ids are hashes, so that equal keys are as unlikely as equal hashes."""
    return contexts * MULTIPLIER + responses
