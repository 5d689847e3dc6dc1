"""The private folder of a local Ray session: its sockets, its token and its logs. Removed after the run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.utils.private import locked, make_folder, open_private, session_root, share_like

PREFIX = "ray-"
LOCK, TOKEN = "lock", "token"
LONGEST_LOG = 16 << 20
"""Maximum bytes that are kept of a log, from its end."""


@contextlib.contextmanager
def session_folder(logs: Path | None) -> Iterator[Path]:
    """Create a folder that only this user can enter, with a token in it; remove it at the end.

    Folders of drivers that were killed are removed first.

    Args:
        logs: Folder to which Ray's logs are copied at the end. None: they are not kept.

    Yields:
        The folder, whose path is short enough for Ray's sockets.

    Raises:
        UserError: The temporary folder can hold no private folder.
    """
    root = session_root()
    with contextlib.ExitStack() as held:
        with locked(root / f"{PREFIX}folders.lock"):
            _remove_dead(root)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            held.callback(os.close, _lock(folder))
        try:
            descriptor = os.open(folder / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            yield folder
        finally:
            if logs is not None:
                with contextlib.suppress(OSError):  # such as a full disk: the run itself is stored
                    _copy_logs(folder, logs)
            shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Lock a folder for as long as this process lives. Raises BlockingIOError if another process holds it."""
    descriptor = open_private(folder / LOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_dead(root: Path) -> None:
    """Remove the folders whose driver no longer lives."""
    for folder in root.glob(f"{PREFIX}*/"):
        with contextlib.suppress(OSError):
            descriptor = _lock(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _copy_logs(folder: Path, logs: Path) -> None:
    """Copy the ends of Ray's logs, without empty ones and links. If Ray was started twice, the later logs remain."""
    for log in sorted(folder.glob("session_*/logs/**/*")):
        if log.is_symlink() or not log.is_file() or not log.stat().st_size or log.parent.parent.is_symlink():
            continue
        make_folder(logs)
        with open(log, "rb") as source, open(open_private(logs / log.name, os.O_WRONLY | os.O_TRUNC), "wb") as target:
            source.seek(max(0, log.stat().st_size - LONGEST_LOG))
            shutil.copyfileobj(source, target)
        share_like(logs / log.name, logs)
