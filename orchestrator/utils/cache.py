"""The user's cache folder for downloaded and derived files that can be made again, and a lock between processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return this user's cache folder: $SAFETY_LANDSCAPE_CACHE, or safety-landscape in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("SAFETY_LANDSCAPE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "safety-landscape"


def write_json(path: Path, value: Any) -> bool:
    """Write a JSON file atomically, creating its folder if necessary. Return False if it cannot be written.

    Use it for caches only, because a failure raises no error.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file. If another process holds it, wait, and name that process in a log message.

    The operating system releases the lock when its owner dies, so a stale lock file does no harm.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            logger.info("waiting for process %s, which is doing the same work", file.read().strip() or "?")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
