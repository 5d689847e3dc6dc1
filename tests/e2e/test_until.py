"""A sweep with a goal from the command line: killed with SIGKILL while it grows, it resumes to the same end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Driver, call, parts, wait_for

pytestmark = pytest.mark.cluster

SWEEP = ("run", "engine=dummy", "grid.directions=2", "grid.steps=4", "probes.limit=6", "until.visage=45")


@pytest.mark.slow
@pytest.mark.parametrize("over", ["directions", "both"])
def test_a_sweep_that_is_killed_while_it_grows_resumes_to_the_same_end(
    tmp_path: Path, start: Callable[..., Driver], over: str
) -> None:
    request = (*SWEEP, f"until.over={over}")
    whole = call(*request, f"out={tmp_path / 'whole'}", "--json")
    assert whole.code == 0, whole.err
    killed = tmp_path / "killed"
    driver = start(*request, "engine.seconds=0.3", f"out={killed}")
    wait_for(lambda: len(parts(killed)) >= 12 or driver.process.poll() is not None)  # 9 points are requested
    driver.kill()
    assert 12 <= len(parts(killed)) < 25
    (state,) = json.loads(call("status", str(killed), "--json").out)
    assert (state["state"], state["died"], state["open_goals"]) == ("incomplete", True, ["until.visage=45"])
    again = call(*request, f"out={killed}", "--json")
    assert again.code == 0, again.err
    first, second = (summaries(tmp_path / name) for name in ("whole", "killed"))
    assert first.keys() == second.keys() and len(first) == 2, "the requested sweep and the grown one"
    for sweep, summary in first.items():
        assert summary["until"]["goals"] == second[sweep]["until"]["goals"] and summary["until"]["goals"][0]["met"]
        assert summary["visage"]["paper"] == second[sweep]["visage"]["paper"]
        assert summary["until"]["sweep_id"] in first
        assert summary["until"]["probes"] == (12 if over == "both" else 6), "one more block of six, or none"
    stored = pa.concat_tables(pq.read_table(part, columns=["point_id", "prompt_id"]) for part in parts(killed))
    assert len(set(zip(*(column.to_pylist() for column in stored.columns), strict=True))) == len(stored), "reused"
    shown = json.loads(again.out)
    assert shown["sweep_id"] == first[shown["sweep_id"]]["until"]["sweep_id"], "the command prints the grown sweep"
    assert call("verify", str(killed)).code == 0


def summaries(out: Path) -> dict[str, dict[str, Any]]:
    """Return the summaries of all sweeps by their ids."""
    documents = [json.loads(path.read_text()) for path in out.glob("*/sweeps/*/summary.json")]
    return {document["sweep_id"]: document for document in documents}
