"""The interface of an experiment tracker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

PROJECT = "safety-landscape"
"""Name of the project or experiment in a tracker, unless the tracker's own environment variable names another."""


class UnreachableError(Exception):
    """A tracker cannot be reached now, or does not accept what is sent. The sweep goes on without it."""


@dataclass(frozen=True)
class TrackedRun:
    """The run of a tracker that belongs to one sweep. Every run of the sweep continues it.

    Attributes:
        id: The sweep's id, and the id of the run where a tracker lets us choose one.
        name: The name of the sweep's folder.
        settings: What was measured: model, grid, prompts, judge.
        folder: Folder for files that the tracker writes on this machine.
    """

    id: str
    name: str
    settings: Mapping[str, str | int | float]
    folder: Path


class Tracker(ABC):
    """Sends a sweep's numbers to one tracker. Used in one thread; imports its library when it is used.

    Any exception, except those of `check`, means that the tracker could not take what was sent.

    Attributes:
        name: Its name in `track`, and that of its module.
        library: The module that it needs; `pip install "safety-landscape[NAME]"` installs it.
        warned: Whether the user was told that it cannot be reached.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    warned: bool = False

    @abstractmethod
    def destination(self) -> str:
        """Return where runs go now, such as a server and a project. What was sent elsewhere is sent again."""

    @abstractmethod
    def check(self) -> None:
        """Check before a sweep starts that runs may be written.

        Raises:
            UserError: The credentials are missing or wrong.
            UnreachableError: That cannot be found out now.
        """

    @abstractmethod
    def open(self, run: TrackedRun) -> None:
        """Begin the run, or continue it if it exists."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values of one point. `step` numbers the points of the run, from 0, in the order of sending."""

    @abstractmethod
    def finish(self, step: int, results: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """Send the results of the sweep and its files (`figure`, `report`, `summary`, `landscape`)."""

    @abstractmethod
    def close(self) -> None:
        """Send what is buffered and end the connection."""
