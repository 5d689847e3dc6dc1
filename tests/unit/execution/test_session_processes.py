"""The end of a process of Ray is seen at once, also while its last threads are still ending."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from orchestrator.execution.session_processes import has_ended

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_whose_first_thread_has_ended_counts_as_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS])
    try:
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert process.poll() is None and has_ended(process)
    finally:
        process.kill()
        process.wait()
    assert has_ended(process)


def test_a_running_process_has_not_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not has_ended(process)
    process.communicate()
    assert has_ended(process)
