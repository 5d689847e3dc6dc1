"""The studies below a folder, kept open between requests, and the sweeps in them."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.discovery import find_study_roots
from orchestrator.store.part_index import Signature, signature, signatures
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.working_copy import pull
from orchestrator.utils.errors import UserError

PULLED = 3.0
"""Seconds for which the working copy of a bucket is shown before it is pulled again."""


@dataclass
class _OpenStudy:
    """A study that can be opened.

    Attributes:
        document: The signature of its study.json.
        study: The study, which keeps an index of its parts.
    """

    document: Signature | None
    study: Study


class OpenStudies:
    """The studies below a root of studies; or the study, or the study of the sweep, at that path. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._studies: dict[Path, _OpenStudy] = {}
        self._lock = threading.Lock()
        self._pulled = -math.inf

    def studies(self) -> list[Study]:
        """Return the studies that can be opened. A study is opened again if its study.json has changed."""
        with self._lock:
            self._pull()
            roots: list[Path] = []
            with contextlib.suppress(UserError):
                roots = find_study_roots(self._root)
            self._studies = {root: known for root, known in self._studies.items() if root in roots}
            for root in roots:
                document = signature(root / "study.json")
                known = self._studies.get(root)
                if known is None or known.document != document:
                    self._studies.pop(root, None)
                    with contextlib.suppress(UserError):
                        study = Study.open(root)
                        study.indexes = {}
                        self._studies[root] = _OpenStudy(document, study)
            return [self._studies[root].study for root in roots if root in self._studies]

    def sweeps(self) -> list[tuple[SweepFolder, Signature]]:
        """Return every sweep with the signature of its sweep.json, the most recently used first."""
        sweeps = []
        for study in self.studies():
            folder = f"{study.root}/sweeps"
            for name in self._names(study):
                document = signature(f"{folder}/{name}/sweep.json")
                if document is not None:
                    sweeps.append((SweepFolder(study, study.root / "sweeps" / name), document))
        return sorted(sweeps, key=lambda entry: (-entry[1][1], entry[0].path.name))

    def find(self, study: str, sweep: str) -> SweepFolder | None:
        """Return the sweep with these folder names, or None. Names are compared and never used as paths."""
        for opened in self.studies():
            if opened.root.name == study and sweep in self._names(opened):
                path = opened.root / "sweeps" / sweep
                return SweepFolder(opened, path) if signature(path / "sweep.json") is not None else None
        return None

    def _pull(self) -> None:
        """Bring a working copy to the state of its bucket, if the last time is PULLED seconds ago."""
        if time.monotonic() - self._pulled < PULLED:
            return
        with contextlib.suppress(UserError):  # what is here can be shown without the bucket
            pull(self._root)
        self._pulled = time.monotonic()

    def _names(self, study: Study) -> Iterator[str]:
        """Yield the names of the folders of a study's sweeps. If the root is a sweep, only its own."""
        sweeps = study.root / "sweeps"
        is_one_sweep = self._root.parent == sweeps.absolute()
        for name in signatures(sweeps):
            if not is_one_sweep or name == self._root.name:
                yield name
