"""Files in `<out>/.tmp`: those of unfinished writes, and the disk token of each run.

A disk token is a file with a random name. An actor that sees it has the same disk as the driver and stores its rows
itself; any other actor sends them to the driver.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import uuid
from pathlib import Path

from orchestrator.store.errors import StorageError
from orchestrator.store.files import TMP, publish, temporary_folders
from orchestrator.store.working_copy import working_copy

TOKEN = "token-"  # prefix of a token's name
DAY = 24 * 3600


def create_disk_token(out: Path) -> str:
    """Create a token file for the duration of a run and return its name, for `sees_disk` on other machines."""
    token = f"{TOKEN}{uuid.uuid4().hex}"

    def write(path: Path) -> None:
        path.write_text(token)

    publish(out, out / TMP / token, write)
    return token


def remove_disk_token(out: Path, token: str) -> None:
    """Remove the token of a run that has ended."""
    with contextlib.suppress(OSError):
        (out / TMP / token).unlink()


def sees_disk(out: Path, token: str) -> bool:
    """Return whether `out`, as this process sees it, is on the disk on which the token was left.

    A working copy that this process could not upload from is not.
    """
    try:
        working_copy(out)
    except StorageError:  # its environment names another server or cache
        return False
    return bool(token) and (out / TMP / token).exists()


def remove_stale_files(out: Path, older_than: float = DAY) -> None:
    """Delete temporary files that a crash left behind.

    Args:
        out: The root of studies.
        older_than: Seconds since a file was written, by the clock of the file system. Tokens are kept thirty times as
            long.
    """
    now = _file_system_time(out)
    if now is None:
        return
    for path in itertools.chain.from_iterable(folder.glob("*") for folder in temporary_folders(out)):
        # A token is written once and needed for the whole run. A run that lasts longer loses nothing: actors that see
        # no token return their rows through Ray.
        limit = older_than * (30 if path.name.startswith(TOKEN) else 1)
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > limit:
                path.unlink()


def _file_system_time(out: Path) -> float | None:
    """Return the present time by the clock that dates files. None if no file can be written.

    This machine's clock may be wrong or differ from a file server's. Files that others are writing would look old.
    """
    for folder in temporary_folders(out):
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as probe:
            return os.stat(probe.name).st_mtime
    return None
