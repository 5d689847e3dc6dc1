"""From responses through a user's labels to the corrected share, on the dummy engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import load_study
from tests.e2e.conftest import assert_refused, call

pytestmark = pytest.mark.cluster


def test_labels_of_stored_responses_correct_the_share_in_later_results(tmp_path: Path) -> None:
    """The labels are the verdicts of the judge of degeneracy, but three coherent responses are ruins."""
    ran = call("run", f"out={tmp_path}", "engine=dummy", "grid.steps=4", "grid.directions=1")
    assert ran.code == 0, ran.err
    (sweep,) = tmp_path.glob("*/sweeps/*")
    responses = load_study(sweep).generations.drop_duplicates("response_id")
    labels = responses["degenerate"].replace({"coherent": "complied", "unclear": "complied"})
    labels[labels.index[labels == "complied"][-3:]] = "degenerate"
    file = tmp_path / "labels.csv"
    responses.assign(label=labels)[["response_id", "response", "label"]].to_csv(file, index=False)

    assert_refused(call("judge", str(sweep), f"calibrate={tmp_path / 'none.csv'}"), "there is no such file")
    judged = call("judge", str(sweep), f"calibrate={file}", "--json")
    assert judged.code == 0, judged.err
    reduced = call("reduce", str(sweep), "--json")
    for printed in (judged, reduced):
        classes = json.loads(printed.out)["classes"]
        corrected = classes["corrected"]
        assert corrected["calibration"] == "labels" and corrected["reason"] is None
        assert 0.0 <= corrected["low"] < corrected["value"] < corrected["high"] <= 100.0
    assert json.loads(judged.out)["classes"] == classes
