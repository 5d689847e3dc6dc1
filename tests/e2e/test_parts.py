"""Test sweeps shared among independent processes and sweeps with damaged files: both end like an undisturbed run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.documents import read_documents
from tests.e2e.conftest import Driver, assert_refused, call, parts, responses, wait_for
from tests.e2e.test_run import DUMMY, record, sweep_folder

pytestmark = pytest.mark.cluster

Start = Callable[..., Driver]
COMPARED_KEYS = (
    "visage",
    "basin",
    "origin_asr",
    "results",
    "points_done",
    "points_total",
    "tasks_failed",
    "primary",
    "grid",
)


def read_results(out: Path) -> dict[str, Any]:
    """Return the parts of the summary that must not depend on how a sweep was run."""
    summary = json.loads((sweep_folder(out) / "summary.json").read_text())
    return {key: summary[key] for key in COMPARED_KEYS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    result = call("run", *DUMMY, f"out={out}")
    assert result.code == 0, result.err
    return out


def test_parts_run_concurrently_and_the_last_one_writes_the_results(
    tmp_path: Path, start: Start, undisturbed: Path
) -> None:
    sweep = ["run", *DUMMY, f"out={tmp_path}", "--json"]
    slow = start(*sweep, "engine.seconds=600", "cluster.part=1/3")  # to be killed
    wait_for(lambda: list(tmp_path.glob("*/sweeps/*/lease-1of3.json")))
    others = [start(*sweep, f"cluster.part={i}/3") for i in (2, 3)]
    results = [driver.wait() for driver in others]
    for result in results:
        assert result.code == 0, result.err
    outputs = read_documents(results[0].out), read_documents(results[1].out)
    assert [output["part"] for output in outputs] == ["2/3", "3/3"] and all(
        1 in output["waits_for"] for output in outputs
    )
    assert any(output["waits_for"] == [1] and output["points_left"] == 3 for output in outputs)
    assert all("cluster.part=1/3" in result.err for result in results)
    assert len(parts(tmp_path)) == 6 and not (sweep_folder(tmp_path) / "summary.json").exists()
    assert_refused(call(*sweep), "a driver is at work on its part 1/3", f"process {slow.process.pid}")
    (status,) = json.loads(call("status", str(tmp_path), "--json").out)
    assert (status["state"], status["done"]) == ("running", 6)
    slow.kill()
    result = call(*sweep, "cluster.part=1/3")
    assert result.code == 0, result.err
    assert responses(tmp_path) == responses(undisturbed)
    assert read_results(tmp_path) == read_results(undisturbed)
    runs = record(tmp_path).runs
    assert sorted(str(run.part) for run in runs) == ["1/3", "1/3", "2/3", "3/3"]
    assert [run.totals.visits for run in runs if run.outcome == "complete"] == [3, 3, 3]
    assert not list(sweep_folder(tmp_path).glob("lease*"))


def test_a_damaged_part_is_run_again_in_the_same_run(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "studies"
    shutil.copytree(undisturbed, out)
    flipped, truncated = parts(out)[2], parts(out)[5]
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 1  # in a data page, which is noticed only when its rows are read
    flipped.write_bytes(content)
    os.truncate(truncated, 100)
    (verdicts, *_) = sorted(out.glob("*/judgements/*/*.parquet"))
    damaged_verdicts = bytearray(verdicts.read_bytes())
    damaged_verdicts[len(damaged_verdicts) // 3] ^= 1
    verdicts.write_bytes(damaged_verdicts)
    result = call("run", *DUMMY, f"out={out}")
    assert result.code == 0, result.err
    for path in (flipped, truncated, verdicts):
        assert f"{path.parent.name}/{path.name} does not verify" in result.err, result.err
    assert responses(out) == responses(undisturbed) and read_results(out) == read_results(undisturbed)
    assert len(list(out.glob("*/damaged/*/*.parquet"))) == 2
    assert call("verify", f"out={out}").code == 0
