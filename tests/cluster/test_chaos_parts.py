"""Parts of `make chaos`: the clock of a process, wrong answers that are noticed, and the sum over recorded runs."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.chaos.answers import Answers, Viewer
from tests.cluster.chaos.clock import Clock
from tests.cluster.chaos.hosts import ROOT
from tests.cluster.chaos.record import ChaosOutcome, Conditions, markdown
from tests.cluster.chaos.subject import Expected, difference, subject, undisturbed
from tests.cluster.chaos.verbs import VERBS, Verbs

SECONDS = 40 * 86400

READS_THE_TIME = """
import logging, sys, time
logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stdout)
for _ in sys.stdin:
    start = time.monotonic()
    print(time.time(), time.time_ns() / 1e9, time.mktime(time.localtime()), time.monotonic() - start < 60, flush=True)
    logging.warning("a formatter has localtime as an attribute of its class")
    sys.stdout.flush()
"""


def test_the_clock_of_a_process_can_be_set_while_it_runs(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    process = subprocess.Popen(
        [sys.executable, "-c", READS_THE_TIME],
        env=clock.env(dict(os.environ)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    times = []
    for seconds in (0.0, SECONDS, -SECONDS):
        clock.set(seconds)
        process.stdin.write("\n")
        process.stdin.flush()
        *shown, is_monotonic = process.stdout.readline().split()
        assert is_monotonic == "True" and "formatter" in process.stdout.readline()
        times.append([float(value) for value in shown])
    process.stdin.close()
    assert process.wait() == 0
    for later, step in ((1, SECONDS), (2, -SECONDS)):
        assert all(abs(t - t0 - step) < 3600 for t, t0 in zip(times[later], times[0], strict=True))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    """A small sweep and what it gives."""
    out = tmp_path_factory.mktemp("undisturbed")
    overrides = (*subject("dummy").overrides(0), "grid.steps=4")
    return out, undisturbed(out, overrides)


def test_what_the_program_answers_is_compared_with_the_truth(stored: tuple[Path, Expected]) -> None:
    out, true = stored
    with Viewer(out) as viewer:
        for _ in range(600):  # it answers at once, with what it has read so far
            if viewer.get("sweeps"):
                break
            time.sleep(0.1)
        answers = Answers(out / true.study, viewer)
        assert list(answers.problems(true)) == []
        assert min(answers.checked[who] for who in ("status", "load_study", "viewer")) > 0
        point, prompts, prompt = min(true.responses)
        other = {**true.responses, (point, prompts, prompt): "something else"}
        fewer = {key: text for key, text in true.responses.items() if key[0] != point}
        rows = {key: {**row, "asr": 33.0} for key, row in true.landscape.items()}
        for changed, complaints in (
            ({"responses": other}, ["load_study: 1 wrong"]),
            ({"responses": fewer}, ["status: 18 of 18", "load_study: 12 wrong", "viewer: 18 of 18"]),
            ({"landscape": rows}, ["viewer: "]),
        ):
            found = list(answers.problems(dataclasses.replace(true, **changed)))
            assert len(found) >= len(complaints) and all(any(c in line for line in found) for c in complaints), found


def test_verbs_are_killed_or_checked(stored: tuple[Path, Expected], tmp_path: Path) -> None:
    out, true = stored
    with Verbs(out, {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path, random.Random(1)) as verbs:
        for verb in (*VERBS, *VERBS):
            assert verbs.start(verb, out / true.study / "sweeps" / true.sweep)
            assert not verbs.start(verb, out)
            while verbs._verb:
                verbs.attend()
        assert verbs.killed.total() + verbs.ended.total() == 2 * len(VERBS)
        assert verbs.problems == []


def test_the_place_of_the_first_difference_is_named() -> None:
    assert difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) is None
    assert difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a.1.b is 2, true is 3"
    assert difference({"a": 1}, {}) is not None


def outcome(**changed: Any) -> ChaosOutcome:
    values: dict[str, Any] = {
        "conditions": Conditions("a machine", "dummy", 60.0, 1), "disturbances": {"cut": 2}, "sweeps": 1, "drivers": 3,
        "deaths": 4, "rows": 10, "expected": 10, "lost": 0, "doubled": 0, "different": 0, "unreadable": 0, "unequal": 0,
        "equal_after_merging": True, "reads": 5, "checked": {"status": 6}, "problems": (),
    }  # fmt: skip
    return ChaosOutcome(**{**values, **changed})


@pytest.mark.parametrize("name", ["lost", "doubled", "different", "unreadable", "unequal"])
def test_a_run_with_a_fault_is_not_sound(name: str) -> None:
    assert outcome().is_sound
    assert not outcome(**{name: 1}).is_sound
    assert not outcome(rows=9).is_sound and not outcome(problems=("wrong",)).is_sound
    assert not outcome(equal_after_merging=False).is_sound


def test_recorded_runs_are_added_up_and_their_faults_told() -> None:
    problems = ("read 3: a fault in /tmp/chaos-x1/studies", "read 9: a fault in /tmp/chaos-x1/studies")
    faulty = outcome(disturbances={"cut": 1, "fill disk": 4}, problems=problems, note="It was mended.")
    again = ChaosOutcome.from_json(faulty.to_json())
    text = markdown([outcome(), again])
    for line in ("| cut | 3 |", "| fill disk | 4 |", "| all | 7 |", "| drivers started, actors replaced | 6, 8 |",
                 "2 runs, 120 s", "20 of 20", "* seed 1, 2 times: `a fault in studies`",
                 "* seed 1: It was mended."):  # fmt: skip
        assert line in text
