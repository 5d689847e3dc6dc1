"""Keep a module of `orchestrator.utils.subprocesses` running for many requests of a test file."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Exchange = Callable[[dict[str, Any]], Any]
"""Sends a request and returns the response."""


@contextlib.contextmanager
def serving_module(module: str, environment: Mapping[str, str] | None = None) -> Iterator[Exchange]:
    """Start a process that answers requests with the module's `respond`. It takes seconds to start.

    Args:
        module: Dotted name.
        environment: All environment variables of the process. None: this process's, without network.
    """
    serve = (
        f"import json, sys; from {module} import respond\n"
        "for line in sys.stdin: print(json.dumps(respond(json.loads(line))), flush=True)"
    )
    if environment is None:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-P", "-c", serve]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        def exchange(request: dict[str, Any]) -> Any:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            return json.loads(stdout.readline())

        yield exchange
        stdin.close()
