"""Run a command as another Unix user, for tests of what users of one machine can do to each other."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534

needs_two_users = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can act as a second user (and util-linux's setpriv is needed)",
)


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the user `nobody`, without any group of this user."""
    privileges = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return subprocess.run([*privileges, *command], capture_output=True, text=True, check=False, timeout=60)


@functools.cache
def nobody_has_python() -> bool:
    """Return whether `nobody` can run this Python; not, for example, if its libraries are in another user's home."""
    return as_nobody(sys.executable, "-c", "").returncode == 0


def nobody_runs(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code of this project as the user `nobody`, with Linux's usual umask."""
    if not nobody_has_python():
        pytest.skip("the user nobody cannot run this Python")
    return as_nobody(sys.executable, "-c", f"import os; os.umask(0o022)\n{code}")


def reachable_folder(tmp_path: Path, mode: int) -> Path:
    """Create a folder with this mode that every user can reach, although pytest's folders are private."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent not in (Path("/"), Path("/tmp")):
            parent.chmod(0o755)
    return folder
