"""Notice that a process of a local Ray session has died, before Ray ends the driver without a word.

Ray's own client ends the whole process, natively and with exit code 1, 14 s after the raylet has died and 60 s after
the gcs_server has. Until then the driver can shut the session down and start another one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from rich.console import Console

from orchestrator.execution.cluster import ended_process
from orchestrator.utils.errors import ExitCode, SessionLostError

CHECK_INTERVAL = 0.5  # seconds between two looks at the processes
STUCK_AFTER = 8.0  # seconds within which the driver has to leave a lost session, less than Ray's own 14


def check_session() -> None:
    """Raise SessionLostError if a process of Ray that this driver needs has ended."""
    if name := ended_process():
        raise SessionLostError(f"Ray's process {name} has ended")


@contextlib.contextmanager
def watched(console: Console, close: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Watch the session in a thread while the context is open.

    If the context is still open STUCK_AFTER seconds after a process has ended, the main thread waits for an answer of
    Ray that will not come. This process then ends, with one sentence and exit code INTERRUPTED.

    Args:
        console: The terminal.
        close: Called before such an end, to close what others read.
    """
    left = threading.Event()

    def watch() -> None:
        while not left.wait(CHECK_INTERVAL):
            name = ended_process()
            if name is None:
                continue
            if not left.wait(STUCK_AFTER):
                _leave(name, console, close)
            return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def _leave(name: str, console: Console, close: Callable[[], object]) -> None:
    try:
        close()
        console.show_cursor()
        console.print(
            f"Ray's process {name} has ended, and Ray does not answer; stored results are kept, and the same command "
            "resumes",
            soft_wrap=True,
        )
    finally:
        os._exit(ExitCode.INTERRUPTED)
