"""Commands of this program that are printed for users to copy."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

SCRIPT = "safety-landscape"
"""The console script."""


def command_line(*arguments: str) -> str:
    """Return a command line of this program that works in the shell and folder from which this process was started.

    It begins as that process was started: with the console script, or with its Python.
    """
    script = Path(sys.argv[0])
    program = [_shortest(script)] if script.name == SCRIPT else [_shortest(Path(sys.executable)), "-m", "orchestrator"]
    return shlex.join([*program, *arguments])


def _shortest(program: Path) -> str:
    """Return a program's name if the shell finds it by that, else its path, relative if it is below this folder."""
    found = shutil.which(program.name)
    if found is not None and Path(found).absolute() == program.absolute():
        return program.name
    path = program.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
