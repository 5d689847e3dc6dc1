"""Find the studies and sweeps below a path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.store.study import Study, is_study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.utils.errors import UserError

OnUnreadable = Callable[[UserError], object]
"""Called with the reason why one of several studies cannot be opened. Raises it, or lets the search go on."""


def refuse(error: UserError) -> None:
    """Go on without no study: raise the error."""
    raise error


def ignore(error: UserError) -> None:
    """Go on without the study."""


def find_sweeps(path: Path, on_unreadable: OnUnreadable = ignore) -> Iterator[SweepFolder]:
    """Yield every sweep below a root of studies, in a study, or the sweep in whose folder `path` is.

    Raises:
        UserError: There is no sweep.
    """
    found = False
    for study in _open_studies(_study_roots(path), on_unreadable):
        for folder in SweepFolder.all_of(study):
            if path.absolute() in (folder.path.absolute(), *folder.path.absolute().parents):
                found = True
                yield folder
    if not found:
        raise UserError("path", path, "there is no sweep in that folder: name a sweep, a study, or the root of studies")


def find_studies(path: Path, on_unreadable: OnUnreadable = refuse) -> list[Study]:
    """Return the study in whose folder `path` is, or every study below `path`. Raises UserError if there is none."""
    return _open_studies(find_study_roots(path), on_unreadable)


def find_study_roots(path: Path) -> list[Path]:
    """Return the folders of these studies, including those that cannot be opened. Raises UserError if there is none."""
    roots = _study_roots(path)
    if not roots:
        raise UserError("path", path, "there is no study in that folder: name a study, or the root of studies")
    return roots


def latest_sweep(path: Path) -> SweepFolder:
    """Return the sweep below `path` that was used last.

    It may be in any study below `path`, so each of them must open.

    Raises:
        UserError: There is no sweep, or a study cannot be opened.
    """
    return max(find_sweeps(path, refuse), key=SweepFolder.last_used)


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
                raise  # there is no other to go on with
            on_unreadable(error)
    return studies
