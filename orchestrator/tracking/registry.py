"""Find trackers by name, and check them before a sweep starts."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
import re
from collections.abc import Sequence

from orchestrator.tracking import trackers
from orchestrator.tracking.base import Tracker, UnreachableError
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.subprocesses import first_line

logger = logging.getLogger(__name__)

_PASSWORD = re.compile(r"//[^/@\s]+@")  # as in http://user:password@host


def names() -> list[str]:
    """Return the names of all trackers, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(trackers.__path__))


def get(name: str) -> Tracker:
    """Return a tracker by name. Raises UserError if there is none, or if its library is not installed."""
    if name not in names():
        known = ", ".join(names())
        raise UserError("track", name, f"there is no such tracker{did_you_mean(name, names())} (there are: {known})")
    tracker = importlib.import_module(f"{trackers.__name__}.{name}").TRACKER()
    assert isinstance(tracker, Tracker) and tracker.name == name
    if importlib.util.find_spec(tracker.library) is None:
        raise UserError("track", name, f'is not installed: pip install "safety-landscape[{name}]"')
    return tracker


def checked(chosen: Sequence[str]) -> list[Tracker]:
    """Return the trackers with these names, after checking their credentials.

    A tracker that cannot be reached is kept: a warning says so, and what it misses is sent later.

    Raises:
        UserError: There is no such tracker, its library is not installed, or its credentials are wrong.
    """
    found = [get(name) for name in dict.fromkeys(chosen)]
    for tracker in found:
        try:
            tracker.check()
        except UnreachableError as error:
            warn_unreachable(tracker, error)
    return found


def warn_unreachable(tracker: Tracker, error: Exception) -> None:
    """Log that a tracker cannot be reached, once for each tracker."""
    if tracker.warned:
        return
    tracker.warned = True
    logger.warning(
        "%s cannot be reached (%s): the sweep goes on, and what is missing there is sent at its end or by the next run",
        tracker.name,
        _PASSWORD.sub("//", first_line(error)) or type(error).__name__,
    )
