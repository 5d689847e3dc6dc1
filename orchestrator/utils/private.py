"""Folders, files and locks that no other user of this machine can read, replace or hold.

What is shared on purpose is shared by a folder: new files and folders in it are open to those to whom it is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orchestrator.utils.console import duration
from orchestrator.utils.errors import UserError

logger = logging.getLogger(__name__)

FOLDERS = 10
"""Number of names that are tried for a user's folder, because others may have taken the first ones."""

LONGEST_SOCKET_FOLDER = 32
"""Maximum bytes of the path of a folder for sockets: the operating system allows 107 for the whole path of one."""

LONGEST_WAIT = 6 * 3600.0
"""Maximum seconds to wait for a lock."""

_POLL = 0.2


class NotPrivateError(OSError):
    """A folder or file belongs to another user, is open to others, or is a link."""


def private_folder(path: Path) -> Path:
    """Create a folder that only this user can enter, or check that an existing one is such a folder, and return it.

    Raises:
        NotPrivateError: It is a link or a file, belongs to another user, or others may enter it.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotPrivateError(f"{path} is not a folder")
    if status.st_uid != os.geteuid():
        raise NotPrivateError(f"{path} belongs to another user")
    if status.st_mode & 0o077:
        raise NotPrivateError(f"{path} is open to other users")
    return path


def make_private(path: Path) -> None:
    """Create a folder and its missing parents so that only this user can enter them. Existing ones keep their modes."""
    if not path.is_dir():
        make_private(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def share_like(path: Path, folder: Path) -> None:
    """Open a new file or folder of this user to those to whom `folder` is open. Disks without modes are left alone."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    with contextlib.suppress(OSError):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents. Each is open to those to whom its own parent is open."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=stat.S_IMODE(path.parent.stat().st_mode))
        share_like(path, path.parent)  # mkdir leaves out what this user's umask forbids


def open_to_append(path: Path) -> IO[bytes]:
    """Open a log for appending, creating it, and its folder, open to those to whom the folder is open.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    make_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    share_like(path, path.parent)
    return open(descriptor, "ab", buffering=0)


def user_folder(root: Path) -> Path:
    """Return this user's private folder in a folder that all users of the machine share, such as /tmp.

    Every process of the user gets the same folder: the first of FOLDERS names that no other user has taken.

    Raises:
        NotPrivateError: Other users have taken all names.
    """
    for number in range(FOLDERS):
        with contextlib.suppress(NotPrivateError):
            return private_folder(root / (f"landscape-{os.geteuid()}" + (f"-{number}" if number else "")))
    raise NotPrivateError(f"other users have taken the names landscape-{os.geteuid()}* in {root}")


def runtime_folder() -> Path:
    """Return this user's private folder for locks and sockets: in the temporary folder, or in /tmp if its path is long.

    Raises:
        UserError: There is no such folder.
    """
    return _private_folder_in(Path(tempfile.gettempdir()), "TMPDIR")


def session_root() -> Path:
    """Return the private folder that holds the folders of local Ray sessions: in RAY_TMPDIR, else as `runtime_folder`.

    Raises:
        UserError: There is no such folder.
    """
    variable, root = _session_place()
    return _private_folder_in(root, variable)


def replaced_session_root() -> str:
    """Return a sentence for the user if the path of the folder for Ray's files is too long, else an empty string."""
    variable, root = _session_place()
    if not _is_long(root):
        return ""
    longest = LONGEST_SOCKET_FOLDER - len(_name())
    return (
        f"{variable}={root} is too long a path for sockets, so Ray's files are in /tmp instead; to have them "
        f"elsewhere, set RAY_TMPDIR, or TMPDIR, to a folder with a path of at most {longest} bytes"
    )


def _session_place() -> tuple[str, Path]:
    """Return the folder that the environment names for Ray's files, and the variable to change it with."""
    if named := os.environ.get("RAY_TMPDIR"):
        return "RAY_TMPDIR", Path(named)
    return "TMPDIR", Path(tempfile.gettempdir())


def _private_folder_in(root: Path, variable: str) -> Path:
    if _is_long(root):
        root = Path("/tmp")
    try:
        return user_folder(root)
    except OSError as error:
        raise UserError(variable, root, f"cannot hold a private folder ({error}): name another one") from error


def _is_long(root: Path) -> bool:
    return len(os.fsencode(root)) + len(_name()) > LONGEST_SOCKET_FOLDER


def _name() -> str:
    """Return the end of the path of this user's private folder."""
    return f"/landscape-{os.geteuid()}"


def open_private(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a file of this user for locking, creating it if necessary, without following a link or emptying the file.

    Returns:
        The file descriptor.

    Raises:
        NotPrivateError: It is a link, is not a regular file, or belongs to another user.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise NotPrivateError(f"{path} is a link") from error
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    raise NotPrivateError(f"{path} is not a file of this user")


def acquire(descriptor: int, operation: int, path: Path, longest: float = LONGEST_WAIT) -> None:
    """Lock an open file. If another process holds the lock, name it in a log message, and wait for a limited time.

    Args:
        descriptor: The open file.
        operation: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.
        path: The file's path, for messages.
        longest: Maximum seconds to wait.

    Raises:
        UserError: Another process still holds the lock.
    """
    deadline, logged = time.monotonic() + longest, False
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "?"
        if not logged:
            logger.info("waiting for process %s, which is doing the same work (%s)", holder, path)
            logged = True
        if time.monotonic() >= deadline:
            remedy = f"process {holder} has held this lock for {duration(longest)}: end that process, and start again"
            raise UserError("lock", path, remedy)
        time.sleep(_POLL)


@contextlib.contextmanager
def locked(path: Path, longest: float = LONGEST_WAIT) -> Iterator[None]:
    """Hold an exclusive lock on a file of this user. See `acquire` for what happens if another process holds it.

    The operating system releases the lock when its owner dies, so a stale lock file does no harm.

    Raises:
        UserError: Another process holds the lock for longer than `longest` seconds.
        OSError: The file cannot be created, or is not this user's.
    """
    descriptor = open_private(path)
    try:
        acquire(descriptor, fcntl.LOCK_EX, path, longest)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
