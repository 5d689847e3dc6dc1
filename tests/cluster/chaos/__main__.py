"""Run sweeps on three hosts while they are disturbed at random.

    python -m tests.cluster.chaos --seconds 180
    python -m tests.cluster.chaos --engine vllm --seconds 400    # the embedded model in the real engine
    python -m tests.cluster.chaos --seconds 1500 --record        # adds its counts to those in benchmarks/RESULTS.md

The raylets are real, each in a network namespace with a name, an address and a /tmp/ray of its own (see `hosts.py`).
The third host does not see the study's disk. The driver is the command `run`; when a sweep is complete, the next one
starts. Disturbances are random: SIGKILL of the driver, an actor, a raylet, the gcs_server, the head and everything on
it, or a verb that works on the sweep; SIGSTOP of an actor until its deadline; a cut cable; a full disk; no inode left;
a clock that is set wrong; a second driver. A reader checks every answer all the while. At the end the study must equal
an undisturbed one. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results import machine
from orchestrator.analysis.verification import verify_study
from orchestrator.store.compaction import compact
from orchestrator.store.events import read_all_events
from orchestrator.store.study import Study
from tests.cluster.chaos.answers import Answers, Viewer
from tests.cluster.chaos.clock import Clock
from tests.cluster.chaos.disturbances import Chaos
from tests.cluster.chaos.hosts import ROOT, Host, network, run
from tests.cluster.chaos.reader import Reader, read_responses
from tests.cluster.chaos.record import ChaosOutcome, Conditions, record
from tests.cluster.chaos.subject import (
    Expectations,
    Expected,
    difference,
    landscape_rows,
    subject,
    without_costs,
)
from tests.cluster.chaos.verbs import Verbs

INODES = 4000, 12  # of the study's file system, and more for each second
MEGABYTES = 96, 0.3


def chaos(engine: str, seconds: float, seed: int, to_record: bool) -> int:
    """Disturb sweeps, let the last one end, and compare their study with an undisturbed one. Returns an exit code."""
    conditions = Conditions(machine(), engine, seconds, seed)
    print(f"sweeps on 3 hosts, {engine}, disturbed for {seconds:.0f} s, seed {seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        out = stack.enter_context(_small_disk(folder / "studies", seconds))
        swept = subject(engine)
        expectations = stack.enter_context(Expectations(swept, folder / "undisturbed"))
        expected = [expectations.of(0)]
        hosts, clocks, switch = _hosts(folder, out)
        stack.enter_context(network(hosts, switch))
        chance = random.Random(seed)
        verbs = stack.enter_context(Verbs(out, clocks[0].env(_plain_env()), folder, chance))
        disturbed = Chaos(hosts, clocks, switch, out, folder, swept, verbs, chance, expected[0])
        root = out / expected[0].study
        answers = Answers(root, stack.enter_context(Viewer(out)))
        with Reader(root, lambda: answers.problems(expected[-1])) as reader:
            reader.expect(expected[0].responses)
            _disturb(disturbed, seconds, expectations, expected, reader)
        outcome = _compare(conditions, disturbed, expected, reader, answers)
    print("\n".join(outcome.lines()))
    if to_record:
        record(outcome)
    return 0 if outcome.is_sound else 1


@contextlib.contextmanager
def _small_disk(path: Path, seconds: float) -> Iterator[Path]:
    """Mount a small file system for the studies."""
    path.mkdir()
    size = f"size={MEGABYTES[0] + int(MEGABYTES[1] * seconds)}m,nr_inodes={INODES[0] + int(INODES[1] * seconds)}"
    run("mount", "-t", "tmpfs", "-o", f"{size},mode=700", "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", "-l", path, check=False)


def _plain_env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _hosts(folder: Path, out: Path) -> tuple[list[Host], list[Clock], str]:
    """Return the hosts, their clocks and the name of the switch that connects them."""
    label = f"sl{os.getpid() % 10000:x}"
    env = {
        **_plain_env(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "3000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        "RAY_worker_niceness": "0",
    }
    Path("/tmp/ray").mkdir(exist_ok=True)
    clocks = [Clock(folder / f"clock-{n}") for n in (1, 2, 3)]
    hosts = [Host(n, label, clocks[n - 1].env(env), hidden=out if n == 3 else None) for n in (1, 2, 3)]
    return hosts, clocks, f"{label}s"


def _disturb(
    chaos: Chaos, seconds: float, expectations: Expectations, expected: list[Expected], reader: Reader
) -> None:
    """Run one sweep after the other and disturb them for so long, then let the last one end."""
    deadline = time.monotonic() + 3 * seconds + 600
    started = next_disturbance = 0.0
    while True:
        now = time.monotonic()
        if not started and any((chaos.sweep.parents[1] / "generations").glob("*.parquet")):
            started = now
        is_over = bool(started) and now - started >= seconds
        if chaos.keep_running():
            if is_over:
                break
            expected.append(expectations.of(len(expected)))
            reader.expect(expected[-1].responses)
            chaos.number, chaos.expected = len(expected) - 1, expected[-1]
        if now > deadline:
            chaos.problems.append("the sweep does not come to an end")
            break
        if is_over:
            chaos.calm()
        elif started and now > next_disturbance:
            description = chaos.disturb()
            next_disturbance = now + chaos.random.uniform(*chaos.subject.pauses)
            if description:
                print(f"  {now - started:5.0f} s  sweep {chaos.number}  {description}", flush=True)
        time.sleep(0.2)
    chaos.end()


def _compare(
    conditions: Conditions, chaos: Chaos, expected: list[Expected], reader: Reader, answers: Answers
) -> ChaosOutcome:
    """Compare the disturbed study with the undisturbed one."""
    root = chaos.sweep.parents[1]
    study = Study.open(root)
    true = {key: text for one in expected for key, text in one.responses.items()}
    actual, duplicates = read_responses(study)
    report = verify_study(root)
    problems = [f"verify finds {finding.path}: {finding.why}" for finding in report.findings]
    unequal = [problem for one in expected for problem in _unequal(root, one)]
    compact(study)
    merged, _ = read_responses(Study.open(root))
    lost = len(true.keys() - actual.keys())
    checked = dict(sorted({"the rows": reader.checked, **answers.checked}.items()))
    for (verb, code), n in sorted(chaos.verbs.ended.items()):
        print(f"  {verb} was not killed in time {n} times and ended with {code}", flush=True)
        checked[verb] = checked.get(verb, 0) + n
    print(f"  drivers ended with {dict(sorted(chaos.codes.items()))}", flush=True)
    return ChaosOutcome(
        conditions=conditions,
        disturbances=dict(sorted(chaos.done.items())),
        sweeps=len(expected),
        drivers=chaos.drivers,
        deaths=sum(event["event"] == "actor_died" for event in read_all_events(root)),
        rows=len(actual),
        expected=len(true),
        lost=lost,
        doubled=duplicates,
        different=sum(actual.get(key) != text for key, text in true.items()) - lost,
        unreadable=len(report.findings) + len(study.damaged()),
        unequal=len(unequal),
        equal_after_merging=merged == true,
        reads=reader.reads,
        checked=checked,
        problems=(*chaos.problems, *chaos.verbs.problems, *reader.problems, *problems, *unequal),
    )


def _unequal(root: Path, expected: Expected) -> Iterator[str]:
    """Yield a line if a sweep's stored results are not those of the undisturbed sweep."""
    from orchestrator import load_study

    loaded = load_study(root / "sweeps" / expected.sweep)
    if landscape_rows(loaded.landscape) != expected.landscape:
        yield f"the landscape of {expected.sweep} differs"
    elif wrong := difference(without_costs(loaded.summary), expected.summary):
        yield f"the summary of {expected.sweep} differs: {wrong}"


def unavailable() -> str | None:
    """Return why chaos cannot run on this machine, or None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    for tool in ("ip", "unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    probe = f"sl{os.getpid() % 10000:x}probe"
    try:
        run("ip", "netns", "add", probe)
        run("ip", "netns", "del", probe)
    except RuntimeError as error:
        return f"no network namespace can be made: {error}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=180, help="how long to disturb")
    parser.add_argument("--seed", type=int, default=None, help="seed of the random disturbances")
    parser.add_argument("--engine", choices=("dummy", "vllm"), default="dummy", help="vllm: the embedded model")
    parser.add_argument("--record", action="store_true", help="add what was counted to benchmarks/RESULTS.md")
    options = parser.parse_args()
    reason = unavailable()
    if reason:
        print(f"skipped: chaos {reason}")
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    return chaos(options.engine, options.seconds, seed, options.record)


if __name__ == "__main__":
    sys.exit(main())
