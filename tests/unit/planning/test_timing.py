"""Time of visits and sweeps: lower bounds, scaling with actors, and the precedence of measured times."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.cli.plan_table import plan_rows
from orchestrator.planning.gpus import GPUS
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad
from orchestrator.utils.choices import EngineKind
from tests.unit.planning.sizes import LAPTOP, LLAMA70, MISTRAL, PAPER, SMOL, planned

MULTIPLIED = 7241732096 - 32000 * 4096  # weights of Mistral-7B without its embedding, of which a step looks up rows


def test_a_complete_sweep_takes_no_time() -> None:
    plan = planned(MISTRAL, EngineSetup(gpu="h100"), left=0)
    assert (plan.tasks_stored, plan.responses, plan.wall_hours, plan.gpu_hours) == (61, 0, 0.0, 0.0)
    assert plan.seconds_per_visit is None


def test_a_model_that_does_not_fit_is_timed_on_as_many_gpus_as_hold_it() -> None:
    one = planned(LLAMA70, EngineSetup(gpu="h100"))
    four = planned(LLAMA70, EngineSetup(gpu="h100", tensor_parallel=4))
    assert one.seconds == four.seconds
    assert one.gpu_hours == four.gpu_hours
    assert planned(LLAMA70, EngineSetup(gpu="t4")).wall_hours is None


def test_a_visit_takes_at_least_the_time_of_reading_the_weights() -> None:
    seconds = planned(MISTRAL, EngineSetup(gpu="h100", eager=False)).seconds
    assert seconds is not None
    assert seconds.decode >= 512 * 2 * MULTIPLIED / GPUS["h100"].bandwidth
    assert seconds.prefill >= 2 * MULTIPLIED * 4800 / GPUS["h100"].flops16


@pytest.mark.parametrize(
    ("model", "setup", "whole_blocks"),
    [
        (MISTRAL, EngineSetup(gpu="h100"), 112),  # blocks of 16 tokens
        (SMOL, EngineSetup(cores=2), 96),  # of 32
        (SMOL, EngineSetup(cores=2, kv_block=128), 0),  # of a sweep begun with an earlier version
        (SMOL, EngineSetup(cores=2, engine=EngineKind.transformers), 0),  # shares none
        (SMOL, EngineSetup(gpu="h100", engine=EngineKind.transformers), 0),
    ],
)
def test_the_prefix_that_prompts_share_is_processed_once(
    model: ModelSize, setup: EngineSetup, whole_blocks: int
) -> None:
    alone = PromptLoad(80, 80 * 160, 512)
    shared = dataclasses.replace(alone, shared_prefix=120)
    assert [dataclasses.replace(shared, prompts=n).shared_tokens(16) for n in (0, 1, 2)] == [0, 0, 112]
    seconds = [planned(model, setup, {"a": load}).seconds for load in (alone, shared)]
    assert seconds[0] and seconds[1]
    assert seconds[1].prefill / seconds[0].prefill == pytest.approx((80 * 160 - 79 * whole_blocks) / (80 * 160))
    assert (seconds[1].write, seconds[1].decode) == (seconds[0].write, seconds[0].decode)


def test_decoding_reads_weights_and_half_of_the_responses_at_each_step() -> None:
    """Computed by hand from the datasheet's bandwidth, at the share of it that engines reach."""
    seconds = planned(MISTRAL, EngineSetup(gpu="h100")).seconds
    assert seconds is not None and seconds.binds == "reading weights"
    cache = 80 * (60 + 512 / 2) * 2 * 32 * 8 * 128 * 2
    assert seconds.decode == pytest.approx(512 * (2 * MULTIPLIED + cache) / (0.65 * 3.35e12))
    tied = planned(dataclasses.replace(MISTRAL, tied=True), EngineSetup(gpu="h100")).seconds
    assert tied is not None, "a tied embedding is the head, which is multiplied"
    assert tied.decode == pytest.approx(512 * (2 * 7241732096 + cache) / (0.65 * 3.35e12))


@pytest.mark.parametrize(
    ("model", "setup", "load", "binds"),
    [
        (MISTRAL, EngineSetup(gpu="h100"), PromptLoad(512, 512 * 60, 512), "reading keys and values"),
        (SMOL, EngineSetup(gpu="h100"), PromptLoad(8, 480, 64), "launching kernels"),
        (MISTRAL, EngineSetup(gpu="l4"), PromptLoad(80, 80 * 1500, 1), "arithmetic of prompts"),
        (MISTRAL, EngineSetup(gpu="rtx4090"), PromptLoad(4, 240, 4), "writing weights"),
    ],
)
def test_a_plan_says_what_binds(model: ModelSize, setup: EngineSetup, load: PromptLoad, binds: str) -> None:
    plan = planned(model, setup, {"a": load})
    assert plan.seconds is not None and plan.seconds.binds == binds
    assert any(binds in text for label, text in plan_rows(plan) if label == "a visit")


def test_five_system_prompts_cost_less_than_five_sweeps() -> None:
    five_sets = {f"prompt{i}": PAPER["harmful"] for i in range(5)}
    one = planned(MISTRAL, EngineSetup(gpu="h100"))
    five = planned(MISTRAL, EngineSetup(gpu="h100", max_num_seqs=512), five_sets)
    assert one.seconds_per_visit and five.seconds_per_visit
    assert one.seconds_per_visit < five.seconds_per_visit < 4 * one.seconds_per_visit


def test_more_actors_shorten_the_sweep_and_keep_the_gpu_hours() -> None:
    one, four = (planned(MISTRAL, EngineSetup(gpu="h100", actors=n), points=200, left=200) for n in (1, 4))
    assert one.wall_hours and four.wall_hours and one.gpu_hours and four.gpu_hours
    assert 3 < one.wall_hours / four.wall_hours < 4
    assert one.gpu_hours < four.gpu_hours < 1.5 * one.gpu_hours  # three more starts
    split = planned(MISTRAL, EngineSetup(gpu="h100", tensor_parallel=2), points=200, left=200)
    assert split.gpu_hours and split.wall_hours
    assert split.gpu_hours == pytest.approx(2 * split.wall_hours)


def test_a_measured_time_has_precedence() -> None:
    plan = planned(SMOL, EngineSetup(cores=2), LAPTOP, points=10, left=10, measured=4.0)
    assert (plan.seconds_per_visit, plan.basis) == (4.0, "measured")
    assert plan.wall_hours == pytest.approx((10 * 4.0 + plan.start_seconds) / 3600)
