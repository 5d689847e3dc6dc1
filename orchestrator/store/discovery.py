"""Find the studies and sweeps below a path."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.store.files import DamagedFileError, check_owner
from orchestrator.store.study import Study, StudyInfo, is_study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.working_copy import pull, working_copy
from orchestrator.utils.choices import StudyMode
from orchestrator.utils.errors import UserError

logger = logging.getLogger(__name__)

OnUnreadable = Callable[[UserError], object]
"""Called with the reason if one of several studies cannot be opened. If it does not raise, the search continues."""


def raise_error(error: UserError) -> None:
    """Raise the error, so that the search fails if any study cannot be opened."""
    raise error


def ignore_error(error: UserError) -> None:
    """Do nothing, so that the search continues without the study."""


def find_sweeps(path: Path, on_unreadable: OnUnreadable = ignore_error) -> Iterator[SweepFolder]:
    """Yield the sweeps at `path`: all below a root of studies, all of a study, or the one sweep whose folder it is.

    Args:
        path: The root of studies, a study or a sweep.
        on_unreadable: Called with the reason if one of several studies cannot be opened.

    Raises:
        UserError: There is no sweep, or the only study cannot be opened.
    """
    any_sweep = False
    for study in _open_studies(_study_roots(path), on_unreadable):
        for folder in SweepFolder.all_of(study):
            if path.absolute() in (folder.path.absolute(), *folder.path.absolute().parents):
                any_sweep = True
                yield folder
    if not any_sweep:
        raise _nothing_found(path, "sweep", "name a sweep, a study, or the root of studies")


def find_studies(path: Path, on_unreadable: OnUnreadable = raise_error) -> list[Study]:
    """Return the study that is or contains `path`, or every study in `path`. Raises UserError if there is none."""
    return _open_studies(find_study_roots(path), on_unreadable)


def find_study_roots(path: Path) -> list[Path]:
    """Like `find_studies`, but return the folders, also of studies that cannot be opened."""
    roots = _study_roots(path)
    if not roots:
        raise _nothing_found(path, "study", "name a study, or the root of studies")
    return roots


def stored_identity(out: Path, info: StudyInfo, mode: StudyMode) -> StudyInfo:
    """Return the identity under which a root of studies has, or would have, the study of these weights.

    A study of the same name comes first. Without one, the first study of the same weights under another name is
    continued, if this user may write to it. Studies in a bucket are pulled to compare them.

    Raises:
        StorageError: The bucket cannot be read.
    """
    copy, own = working_copy(out), Study.locate(out, info).root
    listed = [path.name for path in out.glob("*/")] if copy is None else copy.bucket.folders()
    names = sorted(name for name in listed if name.endswith(f"-{info.id[:8]}"))
    if own.name in names:
        return info
    for root in (out / name for name in names):
        pull(root)
        with contextlib.suppress(DamagedFileError, UserError):
            stored = StudyInfo.read(root / "study.json")
            if stored.id == info.id and Study.locate(out, stored).root == root and os.access(root, os.W_OK):
                check_owner(out, root, mode)
                logger.info("the study of these weights is continued under its name, %s", stored.model)
                return dataclasses.replace(info, model=stored.model)
    return info


def latest_sweep(path: Path) -> SweepFolder:
    """Return the sweep below `path` that was used last.

    Every study below `path` must open, because the sweep may be in any of them.

    Raises:
        UserError: There is no sweep, or a study cannot be opened.
    """
    return max(find_sweeps(path, raise_error), key=SweepFolder.last_used)


def latest_results(path: Path) -> SweepFolder:
    """Return the sweep below `path` that was used last, of those that have results; if none has, of all.

    A sweep has none if its first run was killed. The log says so if an earlier sweep is taken instead.

    Raises:
        UserError: There is no sweep, or a study cannot be opened.
    """
    sweeps = sorted(find_sweeps(path, raise_error), key=SweepFolder.last_used)
    return last_with_results(sweeps)


def last_with_results(sweeps: Sequence[SweepFolder]) -> SweepFolder:
    """Return the last of these sweeps that has results, and log if that is not the last one. If none has, the last."""
    chosen = next((sweep for sweep in reversed(sweeps) if sweep.has_results), sweeps[-1])
    if chosen is not sweeps[-1]:
        last = sweeps[-1].path
        logger.warning(
            "%s was used last and has no results yet: taking %s, the last sweep that has. `reduce %s` computes what is "
            "stored of the other one.",
            last.name,
            chosen.path,
            last,
        )
    return chosen


def check_readable(path: Path) -> None:
    """Check that this user can read a root of studies, a study or a sweep. A folder without any sweep may be read.

    Raises:
        UserError: There is no sweep that can be read, and a folder there is closed to this user.
    """
    try:
        next(find_sweeps(path))
    except UserError:
        if _closed_folder(path) is not None:
            raise


def _nothing_found(path: Path, wanted: str, remedy: str) -> UserError:
    """Return the error that nothing was found at a path. It names a folder there that this user cannot read, if any."""
    closed = _closed_folder(path)
    if closed is None:
        return UserError("path", path, f"there is no {wanted} in that folder: {remedy}")
    why = f"there is no {wanted} that you can read in that folder, and {closed} cannot be read"
    if closed == path:
        why = "that folder cannot be read"
    return UserError("path", path, f"{why}: name another one, or let its owner open it to you")


def _closed_folder(path: Path) -> Path | None:
    """Return a folder that this user cannot read: `path`, a study in it, or one of sweeps. None if there is none."""
    patterns = ("sweeps", "sweeps/*", "[!.]*", "[!.]*/sweeps", "[!.]*/sweeps/*")
    folders = (path, *(folder for pattern in patterns for folder in sorted(path.glob(pattern))))
    return next((folder for folder in folders if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)), None)


def _study_roots(path: Path) -> list[Path]:
    for folder in (path, *list(path.absolute().parents)[:2]):
        if is_study(folder):
            return [folder]
    return [document.parent for document in sorted(path.glob("*/study.json"))]


def _open_studies(roots: Sequence[Path], on_unreadable: OnUnreadable) -> list[Study]:
    studies = []
    for root in roots:
        try:
            studies.append(Study.open(root))
        except UserError as error:
            if len(roots) == 1:
                raise  # there is no other study to continue with
            on_unreadable(error)
    return studies
