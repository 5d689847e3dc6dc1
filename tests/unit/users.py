"""Run a command as another Unix user, for tests of what users of one machine can do to each other."""

from __future__ import annotations

import os
import shutil
import subprocess

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
