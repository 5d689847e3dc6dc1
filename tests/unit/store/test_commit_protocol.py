"""Kill the commit protocol at each of its system calls: a reader sees the old or the new state, never half of one.

A server process forks a child for each case. strace attaches to the child and kills it with SIGKILL when it enters the
n-th call of one name. A first run without a kill lists the calls.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.compaction import compact
from orchestrator.store.files import TMP
from orchestrator.store.records import SweepRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.store.temporary import remove_stale_files
from orchestrator.store.verification import verify
from orchestrator.utils.errors import UserError
from tests.unit.store.studies import INFO, all_rows, judge, reopen, rows, write_part
from tests.unit.store.test_compaction import damage, ordered, verdicts

CALLS = "openat,write,pwrite64,fsync,rename,renameat,renameat2,link,unlink,unlinkat,mkdir,mkdirat,close,ftruncate"
STRACE = shutil.which("strace")

pytestmark = pytest.mark.skipif(STRACE is None, reason="strace, which kills at a chosen system call, is not installed")


# The actions that are killed. The child performs each on a copy of the study that `prepare` made.


def repairing_study(study: Study) -> Study:
    return Study(study.root, study.id, moves_damaged=True)


def store_part(study: Study) -> None:
    write_part(study, "new", "point9")


def store_part_again(study: Study) -> None:
    write_part(study, "visit1", "point1", response="otherwise")


def store_verdicts(study: Study) -> None:
    judge(study, {"point1": study.generations.stored()["point1", "set"].tasks["point1", "set"]})


def record_sweep(study: Study) -> None:
    SweepFolder(study, study.root / "sweeps" / "s-00000000").write_record(
        SweepRecord(sweep_id="0", name="s", request={"version": 2})
    )


def merge(study: Study) -> None:
    compact(study)


def heal(study: Study) -> None:
    all_rows(study)


def create(study: Study) -> None:
    Study.create(study.out / "others", INFO)


ACTIONS = {f.__name__: f for f in (store_part, store_part_again, store_verdicts, record_sweep, merge, heal, create)}


def prepare(out: Path) -> Study:
    """Create a study with three visits, two of them judged, and a sweep that ran once."""
    study = Study.create(out, INFO)
    for k in range(3):
        write_part(study, f"visit{k}", f"point{k}")
    winners = study.generations.stored()
    for point in ("point0", "point2"):
        judge(study, {point: winners[point, "set"].tasks[point, "set"]})
    SweepFolder(study, study.root / "sweeps" / "s-00000000").write_record(
        SweepRecord(sweep_id="0", name="s", request={"version": 1})
    )
    return study


# What is on disk, and what a reader sees of it.


def files(study: Study) -> dict[str, bytes]:
    """Return the content of every file below `out` except temporary ones."""
    paths = (path for path in study.out.rglob("*") if path.is_file() and TMP not in path.parts)
    return {str(path.relative_to(study.out)): path.read_bytes() for path in paths}


def observe(study: Study) -> Any:
    reader = reopen(study)
    state = {
        "rows": ordered(all_rows(reader)),
        "verdicts": verdicts(reader),
        "sweep": SweepFolder.all_of(reader)[0].read_record(),
        "created": None,
        "problems": sorted(path.name for path in reader.problems),
    }
    with contextlib.suppress(UserError):
        state["created"] = Study.open(study.out / "others" / study.root.name).id
    return state


# The server and its children.


def serve() -> None:
    """For each line of stdin, `[action, study, start_file]`, fork a child that waits for the file and then acts."""
    import pandas  # noqa: F401 - otherwise pyarrow would import it in every child

    for line in sys.stdin:
        action, root, start_file = json.loads(line)
        pid = os.fork()
        if pid == 0:
            while not os.path.exists(start_file):
                time.sleep(0.001)
            ACTIONS[action](repairing_study(Study.open(Path(root))))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tests.unit.store.test_commit_protocol import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )

    def act(self, action: str, root: Path, *options: str) -> tuple[int, list[str]]:
        """Perform an action under strace; return the child's wait status and the system calls of its main thread."""
        assert STRACE is not None and self.process.stdin is not None and self.process.stdout is not None
        start_file, log = self.folder / "go", self.folder / "log"
        start_file.unlink(missing_ok=True)
        self.process.stdin.write(json.dumps([action, str(root), str(start_file)]) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        command = [STRACE, "-f", "-o", str(log), "-e", f"trace={CALLS}", *options, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            message = tracer.stderr.readline()
            start_file.touch()
            status = int(self.process.stdout.readline())
        if "attached" not in message:
            pytest.skip(f"strace may not attach to a process here: {message.strip()}")
        calls = re.findall(rf"^{pid} +(\w+)\(", log.read_text(), re.MULTILINE)
        return status, calls

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.mark.thorough
@pytest.mark.parametrize("action", ACTIONS)
def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_state(
    server: Server, tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = prepare(tmp_path / "origin")
    if action == "heal":
        damage(origin.root / "generations" / "visit1.parquet")

    def fresh(name: str) -> Study:
        shutil.copytree(origin.out, tmp_path / name)
        return Study.open(tmp_path / name / origin.root.name)

    before = observe(fresh("before"))
    undisturbed = fresh("undisturbed")
    status, calls = server.act(action, undisturbed.root)
    assert status == 0
    after = observe(undisturbed)
    assert after != before or action == "merge"
    assert verify(reopen(undisturbed)).is_sound
    counted = collections.Counter(calls)
    killed, states = 0, list[dict[str, bytes]]()
    for name, times in counted.items():
        for n in range(1, times + 1):
            study = fresh(f"{name}{n}")
            status, _ = server.act(action, study.root, "-e", f"inject={name}:signal=SIGKILL:when={n}")
            killed += status == 9
            state = files(study)
            if state not in states:  # most calls concern a temporary file and change nothing that is read
                states.append(state)
                assert observe(study) in (before, after), f"killed at {name} number {n}"
                ACTIONS[action](repairing_study(study))  # the action still succeeds afterwards
                assert observe(study) == after, f"again after {name} number {n}"
            shutil.rmtree(study.out)
    with capsys.disabled():
        print(f"\n    {action}: killed {killed} times, at", *(f"{name} x{n}" for name, n in counted.items()), end=" ")
    assert killed == sum(counted.values())
    assert {"write", "fsync", "close"} <= counted.keys() or action == "heal"
    assert {"rename", "renameat", "renameat2"} & counted.keys()


def test_temporary_files_of_a_killed_process_are_removed(server: Server, tmp_path: Path) -> None:
    study = prepare(tmp_path / "studies")
    server.act("store_part", study.root, "-e", "inject=fsync:signal=SIGKILL:when=1")
    (left,) = (study.out / TMP).iterdir()
    remove_stale_files(study.out, older_than=-1)
    assert not left.exists() and len(all_rows(study)) == len([row for k in range(3) for row in rows(study, f"p{k}")])
