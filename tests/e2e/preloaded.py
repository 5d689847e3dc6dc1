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

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.e2e.preloaded"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True, bufsize=1
        )

    def run(
        self, arguments: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run one command line. Raises subprocess.TimeoutExpired, as subprocess.run does."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder, name) for name in ("out", "err"))
            request = {"arguments": arguments, "cwd": str(cwd), "env": env, "out": str(out), "err": str(err)}
            stdin.write(json.dumps(request) + "\n")
            pid = int(stdout.readline())
            in_time, _, _ = select.select([stdout], [], [], timeout)
            if not in_time:
                os.kill(pid, signal.SIGKILL)
            code = int(stdout.readline())
            texts = [path.read_text(encoding="utf-8") for path in (out, err)]
        if not in_time:
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
