"""What a file of generations or judgements says of itself, in little memory: a large study has a million tasks."""

from __future__ import annotations

import bisect
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TaskKey = tuple[str, str]  # (point id, prompt set id)


class Hashes(Mapping[TaskKey, str]):
    """A hash for each of some tasks. The keys are the caller's own objects, so that many of these can share them; the
    hashes are kept as bytes in one array, a third of what a dictionary of strings takes."""

    __slots__ = ("_hashes", "_keys")

    def __init__(self, entries: Sequence[tuple[TaskKey, str]]) -> None:
        ordered = sorted(dict(entries).items())
        self._keys = [key for key, _ in ordered]
        self._hashes = np.array([said for _, said in ordered], dtype=np.bytes_)

    def __getitem__(self, key: TaskKey) -> str:
        place = bisect.bisect_left(self._keys, key)
        if place == len(self._keys) or self._keys[place] != key:
            raise KeyError(key)
        return str(self._hashes[place], "ascii")

    def __iter__(self) -> Iterator[TaskKey]:
        return iter(self._keys)

    def items(self) -> ItemsView[TaskKey, str]:
        """As a dictionary's, without looking each key up."""
        return dict(zip(self._keys, self._hashes.astype(str).tolist(), strict=True)).items()

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True, slots=True)
class Part:
    """A file of generations or judgements: what it says of itself.

    `tasks`: the hash of what was observed in each. `judged`: of judgements, the hash of the responses they are on, as
    `tasks` of the generations has it; empty otherwise. `meta`: the rest.
    """

    folder: Path
    name: str
    content: str
    tasks: Mapping[TaskKey, str]
    judged: Mapping[TaskKey, str]
    meta: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / self.name
