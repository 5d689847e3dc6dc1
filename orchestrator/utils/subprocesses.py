"""Run a Python module in a subprocess, so that its heavy imports stay out of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from orchestrator.utils.limits import end_with_parent, limit_process

QUIET_TRANSFORMERS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""Environment of a process that loads a tokenizer or model from a folder: no network access, only errors are logged."""

QUIET_TRAINING = QUIET_TRANSFORMERS | {"TQDM_DISABLE": "1"}
"""Environment of QUIET_TRANSFORMERS that also hides the progress bars of libraries."""


FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment of a process of limited memory: each thread of a library reserves address space."""

GRACE = 10.0
"""Seconds that a process ends itself after its parent should have ended it."""


class MemoryLimitError(RuntimeError):
    """A process has reached its limit of memory, or was killed, for example because the machine has none left."""


def run_module(
    module: str, request: Mapping[str, Any], env: Mapping[str, str], timeout: float, memory: int | None = None
) -> Any:
    """Send a JSON request to `python -m module` and return its JSON response. The module calls `serve_module`.

    The limits hold in the process itself too, so that it ends if this process is killed or stopped.

    Args:
        module: Dotted name.
        request: JSON object for the module's standard input.
        env: Environment variables in addition to those of this process.
        timeout: Limit in seconds.
        memory: Limit of its address space in bytes, in addition to what Python needs to start. None: no limit.

    Raises:
        MemoryLimitError: It has reached `memory`, or was killed.
        RuntimeError: The process failed; the message ends with what it wrote to stderr.
        subprocess.TimeoutExpired: It took longer than `timeout`.
    """
    limited = {"seconds": timeout + GRACE, "memory": memory, "request": request}
    env = {**env, **FEW_THREADS} if memory is not None else env
    done = run_python(module, stdin=json.dumps(limited).encode(), env=env, timeout=timeout, check=False)
    if done.returncode < 0 or done.stderr.rstrip().endswith(b"MemoryError"):
        size = "" if memory is None else f" of {memory >> 30} GiB"
        raise MemoryLimitError(f"needs more memory than the limit{size}, or was killed")
    _check(done, f"{module} failed with {done.returncode}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        message = f"{module} wrote something other than its response: {done.stdout[:200]!r}"
        raise RuntimeError(message) from error


def serve_module(respond: Callable[[dict[str, Any]], Any]) -> None:
    """Answer the one request of `run_module` within its limits: read it from stdin, write the response to stdout.

    The process ends with its parent.

    Args:
        respond: Function from the request to the response, a JSON value. While it runs, output of libraries to stdout
            goes to stderr.
    """
    end_with_parent()
    stdout, sys.stdout = sys.stdout, sys.stderr
    limited = json.load(sys.stdin)
    limit_process(limited["seconds"], limited["memory"])
    json.dump(respond(limited["request"]), stdout)


def run_python(
    module: str,
    arguments: Sequence[object] = (),
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    show: Literal["stdout", "stderr"] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run `python -P -m module arguments` to its end and return its exit code and captured output.

    Args:
        module: Dotted name.
        arguments: Command-line arguments, converted to text.
        stdin: Bytes for its standard input.
        env: Environment variables in addition to those of this process.
        timeout: Limit in seconds. None: no limit.
        show: Stream of the child to show on this process's stderr while it runs, instead of capturing it. None captures
            both.
        check: Whether an exit code other than 0 raises RuntimeError.

    Raises:
        RuntimeError: The process failed; the message ends with what it wrote to stderr, if that was captured.
        subprocess.TimeoutExpired: It took longer than `timeout`.
    """
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command,
        input=stdin,
        env=os.environ | dict(env or {}),
        timeout=timeout,
        stdout=_stderr_descriptor() if show == "stdout" else subprocess.PIPE,
        stderr=_stderr_descriptor() if show == "stderr" else subprocess.PIPE,
        check=False,
    )
    if check and done.returncode:
        message = f"{' '.join(command)} failed with {done.returncode}"
        if show == "stderr":
            raise RuntimeError(f"{message}; its messages are above")
        _check(done, message)
    return done


def _check(done: subprocess.CompletedProcess[bytes], message: str) -> None:
    """Raise RuntimeError, with what the process wrote to stderr, if it failed."""
    if done.returncode:
        raise RuntimeError(f"{message}:\n{done.stderr.decode(errors='replace')[-4000:]}")


def _stderr_descriptor() -> int:
    """Return the file descriptor of the current `sys.stderr`; DEVNULL if it has none (a buffer, a notebook)."""
    try:
        sys.stderr.flush()
        return sys.stderr.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def first_line(error: BaseException, length: int = 160) -> str:
    """Return the first line of an error's message, at most `length` characters; its class's name if it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:length]
