"""`Experiment` inside a Ray session that the caller has started, and the examples of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator import Experiment, MeasuredPoint, Progress
from tests.contract.rules import ROOT


def test_a_run_in_a_session_of_the_caller(ray_session: None, tmp_path: Path) -> None:
    """It reports what it measures, leaves the session alone, and resumes after an exception of the caller."""
    session = ray.get_runtime_context().get_job_id()
    overrides = {"engine": "dummy", "probes.limit": 6, "out": tmp_path, "cluster.cpus_per_actor": 0}
    experiment = Experiment(grid={"steps": 8, "directions": 1}, overrides=overrides)
    points: list[MeasuredPoint] = []

    def stop_after_four(point: MeasuredPoint) -> None:
        points.append(point)
        if len(points) == 4:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        experiment.run(on_point=stop_after_four, show_progress=False)
    assert ray.is_initialized() and 4 <= experiment.status().done < 9
    done, progress = experiment.status().done, list[Progress]()
    rest: list[MeasuredPoint] = []
    study = experiment.run(rest.append, progress.append, show_progress=False)
    assert ray.get_runtime_context().get_job_id() == session
    assert len(rest) == 9 - done and (progress[-1].points_done, progress[-1].points_total) == (9 - done, 9 - done)
    assert progress[-1].tokens == sum(point.tokens for point in rest) > 0
    stored = study.landscape.set_index("point_id")["asr"]
    for point in [*points, *rest]:
        assert point.asr == {"harmful": pytest.approx(stored[point.point_id])}
        assert {position.alpha for position in point.positions} == set(
            study.landscape.loc[study.landscape["point_id"] == point.point_id, "alpha"]
        )
    assert rest[-1].visage_so_far == pytest.approx(study.summary["visage"]["paper"])
    assert rest[-1].radius_so_far == pytest.approx(study.summary["basin"]["radius"])
    assert experiment.results.sweep == study.sweep and experiment.status().state == "complete"


def test_the_examples_of_the_documentation_run(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)  # noqa: S102 - our own page
    assert "ASR" in capsys.readouterr().out
