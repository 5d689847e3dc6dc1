"""A question to a module of ours in a process of its own, so that what it imports never enters this one.

JSON in, JSON out; whatever libraries print there is no part of the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any


def ask(module: str, request: Mapping[str, Any], quiet: Mapping[str, str], time_limit: float) -> Any:
    """What `python -m module` answers. `quiet`: environment variables besides ours; time_limit: seconds.

    Raises subprocess.TimeoutExpired, and RuntimeError with its last words where it failed.
    """
    command = [sys.executable, "-P", "-m", module]
    written = json.dumps(request).encode()
    done = subprocess.run(command, input=written, env=os.environ | quiet, capture_output=True, timeout=time_limit)
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{said[-4000:]}")
    return json.loads(done.stdout)


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """The other side: answer one request."""
    answers, sys.stdout = sys.stdout, sys.stderr
    json.dump(answer(json.load(sys.stdin)), answers)


def reason(error: Exception, length: int = 160) -> str:
    """An error of some library in a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:length]
