"""The whole plan: totals computed by hand, notes, and its JSON form."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from orchestrator.planning.cost import Plan, estimate, estimate_reading
from orchestrator.planning.gpus import GPUS
from orchestrator.planning.limits import check_memory
from orchestrator.planning.timing import CPU_PREFILL_FLOPS
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad, Workload
from orchestrator.utils.choices import Dtype
from tests.unit.planning.sizes import LLAMA70, MISTRAL, SMOL, UNKNOWN, planned


def test_totals_count_only_missing_tasks() -> None:
    loads = {"a": PromptLoad(10, 500, 32), "b": PromptLoad(4, 100, 8)}
    visits = [("a", "b"), ("b",), ("b",)]  # of five points, two are complete and two lack `b`
    plan = estimate(SMOL, EngineSetup(), Workload(loads, visits, points=5, tasks=10))
    assert (plan.points, plan.tasks, plan.tasks_stored, plan.visits) == (5, 10, 6, 3)
    assert plan.responses == 10 + 4 + 4 + 4
    assert plan.prompt_tokens == 500 + 3 * 100
    assert plan.generated_tokens == 10 * 32 + 3 * 4 * 8


def test_unknown_sizes_give_a_plan_without_memory_and_time() -> None:
    plan = planned(UNKNOWN, EngineSetup(gpu="h100"))
    assert plan.memory is None and plan.wall_hours is None and plan.responses == 61 * 80
    assert any("unknown" in note for note in plan.notes)
    check_memory(plan)  # a plan of unknown size is accepted


def test_a_gpu_without_bfloat16_gets_a_note() -> None:
    assert any("float16" in note for note in planned(MISTRAL, EngineSetup(gpu="t4")).notes)
    half = dataclasses.replace(MISTRAL, dtype=Dtype.float16)
    assert not any("bfloat16" in note for note in planned(half, EngineSetup(gpu="t4")).notes)


def test_a_gpu_gets_a_note_about_bfloat16_if_the_model_is_in_float32() -> None:
    def offered(model: ModelSize, gpu: str | None) -> bool:
        return any("model.dtype=bfloat16" in note for note in planned(model, EngineSetup(gpu=gpu)).notes)

    assert offered(SMOL, "h100")
    assert not offered(SMOL, None), "float32 is the fast dtype on a CPU"
    assert not offered(SMOL, "t4"), "it has no bfloat16"
    assert not offered(MISTRAL, "h100")


@pytest.mark.parametrize(("model", "gpu"), list(itertools.product([MISTRAL, LLAMA70, SMOL, UNKNOWN], [None, *GPUS])))
def test_every_plan_is_written_as_json_and_read_again(model: ModelSize, gpu: str | None) -> None:
    plan = planned(model, EngineSetup(gpu=gpu))
    value = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert value["responses"] == 4880 and value["room"]["gpu"] == gpu
    assert Plan.from_json(value) == plan


def test_the_cost_of_reading_responses_at_the_origin_is_that_of_prompts_and_at_most_128_tokens_each() -> None:
    loads = {"short": PromptLoad(10, 500, 32), "long": PromptLoad(4, 100, 512)}
    workload = Workload(loads, [("short", "long"), ("long",)], points=2, tasks=4)
    setup = EngineSetup(cores=2)
    reading = estimate_reading(SMOL, setup, workload)
    assert reading.responses == 10 + 4 + 4
    assert reading.tokens == (500 + 10 * 32) + 2 * (100 + 4 * 128)
    assert reading.seconds == pytest.approx(2 * SMOL.parameters * reading.tokens / (2 * CPU_PREFILL_FLOPS))
    halved = estimate_reading(SMOL, dataclasses.replace(setup, actors=2), workload).seconds
    assert halved == pytest.approx(reading.seconds / 2)
    assert estimate_reading(UNKNOWN, setup, workload).seconds is None
    assert estimate_reading(SMOL, setup, Workload({}, [], 0, 0)).tokens == 0
    gpu = estimate_reading(MISTRAL, EngineSetup(gpu="h100"), workload).seconds
    assert gpu is not None and gpu > 2 * 7.2e9 * reading.tokens / 989e12, "no faster than the datasheet's peak"
