"""A subprocess of orchestrator/utils/subprocesses.py that is kept for many requests of a test file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def kept(module: str) -> Iterator[subprocess.Popen[str]]:
    """Answers a JSON document a line by the module's `_answer`; it takes seconds to start."""
    serve = (
        f"import json, sys; from {module} import _answer\n"
        "for line in sys.stdin: print(json.dumps(_answer(json.loads(line))), flush=True)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-P", "-c", serve]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as child:
        yield child
        assert child.stdin is not None
        child.stdin.close()
