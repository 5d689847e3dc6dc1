"""A sweep shared among processes that know nothing of each other, and one that heals what was damaged: each ends as an
undisturbed run does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Driver, call, parts, refused, responses, wait_for
from tests.e2e.test_run import DUMMY, record, sweep_folder

pytestmark = pytest.mark.cluster

Start = Callable[..., Driver]
SAME = ("visage", "basin", "origin_asr", "results", "points_done", "points_total", "tasks_failed", "primary", "grid")


def answer(out: Path) -> dict[str, Any]:
    """What must not depend on how a sweep was run."""
    summary = json.loads((sweep_folder(out) / "summary.json").read_text())
    return {key: summary[key] for key in SAME}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    said = call("run", *DUMMY, f"out={out}")
    assert said.code == 0, said.err
    return out


def test_parts_run_at_once_and_the_last_one_answers(tmp_path: Path, start: Start, whole: Path) -> None:
    sweep = ["run", *DUMMY, f"out={tmp_path}", "--json"]
    slow = start(*sweep, "engine.seconds=600", "cluster.part=1/3")  # to be killed
    wait_for(lambda: list(tmp_path.glob("*/sweeps/*/lease-1of3.json")))
    others = [start(*sweep, f"cluster.part={i}/3") for i in (2, 3)]
    ended = [driver.wait() for driver in others]
    for said in ended:
        assert said.code == 0, said.err
    last = json.loads(ended[0].out), json.loads(ended[1].out)
    assert [told["part"] for told in last] == ["2/3", "3/3"] and all(1 in told["waits_for"] for told in last)
    assert any(told["waits_for"] == [1] and told["points_left"] == 3 for told in last)
    assert all("cluster.part=1/3" in said.err for said in ended)
    assert len(parts(tmp_path)) == 6 and not (sweep_folder(tmp_path) / "summary.json").exists()
    refused(call(*sweep), "a driver is at work on its part 1/3", f"process {slow.process.pid}")
    (status,) = json.loads(call("status", str(tmp_path), "--json").out)
    assert (status["state"], status["done"]) == ("running", 6)
    slow.kill()
    said = call(*sweep, "cluster.part=1/3")
    assert said.code == 0, said.err
    assert responses(tmp_path) == responses(whole)
    assert answer(tmp_path) == answer(whole)
    runs = record(tmp_path).runs
    assert sorted(str(run.part) for run in runs) == ["1/3", "1/3", "2/3", "3/3"]
    assert [run.totals.visits for run in runs if run.outcome == "complete"] == [3, 3, 3]
    assert not list(sweep_folder(tmp_path).glob("lease*"))


def test_a_damaged_part_is_run_again_in_the_same_run(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "studies"
    shutil.copytree(whole, out)
    before, cut = parts(out)[2], parts(out)[5]
    flipped = bytearray(before.read_bytes())
    flipped[len(flipped) // 3] ^= 1  # a page: seen only when its rows are read
    before.write_bytes(flipped)
    os.truncate(cut, 100)
    (verdicts, *_) = sorted(out.glob("*/judgements/*/*.parquet"))
    spoilt = bytearray(verdicts.read_bytes())
    spoilt[len(spoilt) // 3] ^= 1
    verdicts.write_bytes(spoilt)
    said = call("run", *DUMMY, f"out={out}")
    assert said.code == 0, said.err
    for path in (before, cut, verdicts):
        assert f"{path.parent.name}/{path.name} does not verify" in said.err, said.err
    assert responses(out) == responses(whole) and answer(out) == answer(whole)
    assert len(list(out.glob("*/damaged/*/*.parquet"))) == 2
    assert call("verify", f"out={out}").code == 0
