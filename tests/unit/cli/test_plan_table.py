"""Rows of the printed plan."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from orchestrator.analysis.results.precision import PrecisionPlan
from orchestrator.cli.plan_table import plan_rows
from orchestrator.planning.cost import Plan
from orchestrator.planning.gpus import GPUS
from orchestrator.planning.limits import check_memory
from orchestrator.planning.workload import EngineSetup, ModelSize
from orchestrator.utils.choices import BaseChoice
from tests.unit.planning.sizes import LLAMA70, MISTRAL, SMOL, UNKNOWN, planned


@pytest.mark.parametrize(("model", "gpu"), list(itertools.product([MISTRAL, LLAMA70, SMOL, UNKNOWN], [None, *GPUS])))
def test_every_plan_can_be_printed(model: ModelSize, gpu: str | None) -> None:
    plan = planned(model, EngineSetup(gpu=gpu))
    rows = dict(plan_rows(plan))
    assert rows["points"] == "61"
    assert rows["tokens"] == "292,800 in prompts, at most 2,498,560 generated"
    assert ("GPU-hours" in rows) == (plan.gpu_hours is not None)


@pytest.mark.parametrize(
    ("base", "place"),
    [
        (BaseChoice.auto, "in the host's memory"),
        (BaseChoice.host, "in the host's memory"),
        (BaseChoice.mmap, "mapped from disk"),
    ],
)
def test_the_rows_name_the_place_of_the_base(base: BaseChoice, place: str) -> None:
    plan = planned(MISTRAL, EngineSetup(gpu="rtx4090", base=base))
    check_memory(plan)
    assert dict(plan_rows(plan))["memory per GPU"].endswith(f"pristine base 14.5 GB ({place})")
    assert any(place in note for note in plan.notes)


def test_the_precision_of_a_stored_sweep_is_a_row_and_is_kept_in_json() -> None:
    precision = PrecisionPlan(target=2.0, directions=14, probes=220, responses=64_680)
    plan = dataclasses.replace(planned(SMOL, EngineSetup()), precision=precision)
    assert dict(plan_rows(plan))["precision"].startswith("To know VISAGE to ± 2 ")
    assert "precision" not in dict(plan_rows(planned(SMOL, EngineSetup())))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
