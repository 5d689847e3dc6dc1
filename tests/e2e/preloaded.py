"""Run command lines in forks of a process that has imported what they need: importing it anew takes three seconds.

`python -m tests.e2e.preloaded` is that process. A fork has its own arguments, folder, environment and output, and runs
the same module as `python -m orchestrator`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PRELOADED = (
    "orchestrator.pipeline.run",
    "hydra.core.override_parser.overrides_parser",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "PIL.JpegImagePlugin",
    "plotext",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "scipy.cluster.hierarchy",
    "scipy.stats",
)
"""Not huggingface_hub: it reads environment variables when it is imported, and those may be another test's."""
ROOT = Path(__file__).parents[2]


class Server:
    """The process that has imported the packages. It ends when its stdin is closed, and thus with this process."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tests.e2e.preloaded"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=env, text=True, bufsize=1
        )

    def start(self, arguments: list[str], cwd: Path, env: dict[str, str], out: Path, err: Path) -> int:
        """Start one command line, with its output in files. Returns its process id. `wait` must follow."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"arguments": arguments, "cwd": str(cwd), "env": env, "out": str(out), "err": str(err)}
        self._process.stdin.write(json.dumps(request) + "\n")
        return int(self._process.stdout.readline())

    def wait(self, timeout: float) -> int | None:
        """Return the exit code of the command line that was started last; None if it has not ended in time."""
        assert self._process.stdout is not None
        in_time, _, _ = select.select([self._process.stdout], [], [], timeout)
        return int(self._process.stdout.readline()) if in_time else None

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(
        self, arguments: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run one command line. Raises subprocess.TimeoutExpired, as subprocess.run does."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder, name) for name in ("out", "err"))
            pid = self.start(arguments, cwd, env, out, err)
            code = self.wait(timeout)
            if code is None:
                os.kill(pid, signal.SIGKILL)
                self.wait(timeout)
            texts = [path.read_text(encoding="utf-8") for path in (out, err)]
        if code is None:
            raise subprocess.TimeoutExpired(arguments, timeout, *texts)
        return subprocess.CompletedProcess(arguments, code, *texts)


@functools.cache
def server() -> Server:
    """Return this process's server; the first call starts it."""
    return Server()


def serve() -> None:
    """Fork for each request. Returns in the forks only; ends the process when there are no more requests."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if not pid:
            _become(json.loads(line))
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    sys.exit()


def _become(request: dict[str, Any]) -> None:
    """Give this process the folder, environment, output and arguments of a request."""
    for descriptor, path in enumerate((os.devnull, request["out"], request["err"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = request["arguments"]


if __name__ == "__main__":
    serve()
    runpy.run_module("orchestrator", run_name="__main__", alter_sys=True)
