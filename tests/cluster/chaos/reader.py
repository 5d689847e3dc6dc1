"""A reader of a study that others disturb: it checks every answer, again and again, while they are at work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from orchestrator.store.files import DamagedFileError
from orchestrator.store.parts import TaskParts
from orchestrator.store.study import Study
from orchestrator.utils.errors import UserError

Key = tuple[str, str, str]
"""Point, prompt set and prompt of an answer."""

PAUSE = 1.0  # seconds between two reads
ASK_EVERY = 3  # reads


def read_responses(study: Study, parts: TaskParts | None = None) -> tuple[dict[Key, str], int]:
    """Return every response that counts, and the number of rows that are stored twice. `parts`: None reads all."""
    stored: dict[Key, str] = {}
    n_duplicates = 0
    for _, table in study.generations.rows(study.generations.stored() if parts is None else parts):
        for row in table.select(["point_id", "prompt_set_id", "prompt_id", "response"]).to_pylist():
            key = row["point_id"], row["prompt_set_id"], row["prompt_id"]
            n_duplicates += key in stored
            stored[key] = row["response"]
    return stored, n_duplicates


class Reader:
    """Context manager that reads a study in a thread.

    Args:
        root: The study's folder.
        ask: Called now and then; returns a line for each wrong answer of the program.

    Attributes:
        reads: Number of times that the whole study was read.
        checked: Number of answers that were compared with the expected ones, over all reads.
        problems: One line for each answer that was wrong, doubled or gone, and for each error.
    """

    def __init__(self, root: Path, ask: Callable[[], Iterable[str]] = tuple) -> None:
        self._root, self._ask = root, ask
        self._expected: dict[Key, str] = {}
        self._seen: set[Key] = set()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._read_until_left, daemon=True)
        self.reads = self.checked = 0
        self.problems: list[str] = []

    def expect(self, responses: Mapping[Key, str]) -> None:
        """Add responses that may be stored from now on."""
        self._expected = {**self._expected, **responses}

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def read(self) -> None:
        """Read the study once and check every answer. Does nothing if there is no study yet."""
        with contextlib.suppress(UserError, DamagedFileError):
            study = Study.open(self._root)
            stored, doubled = read_responses(study)
            self.reads += 1
            self.checked += len(stored)
            wrong = {key for key, text in stored.items() if self._expected.get(key) != text}
            gone = self._seen - stored.keys()
            self._seen |= stored.keys()
            for what, n in (("wrong", len(wrong)), ("doubled", doubled), ("gone", len(gone))):
                if n:
                    self.problems.append(f"read {self.reads}: {n} of {len(stored)} answers are {what}")

    def _read_until_left(self) -> None:
        turn = 0
        while not self._left.wait(PAUSE):
            turn += 1
            try:
                self.read()
                if turn % ASK_EVERY == 0:
                    self.problems += self._ask()
            except Exception as error:
                self.problems.append(f"read {self.reads}: {type(error).__name__}: {error}")
