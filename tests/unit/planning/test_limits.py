"""Sweeps that do not fit memory or disk are refused before the start, with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.gpus import GB
from orchestrator.planning.limits import check_disk, check_memory
from orchestrator.planning.workload import EngineSetup, ModelSize
from orchestrator.utils.choices import BaseChoice, Dtype, EngineKind
from orchestrator.utils.errors import UserError
from tests.unit.planning.sizes import LAPTOP, LLAMA70, MISTRAL, SMOL, planned


@pytest.mark.parametrize(
    ("model", "gpu", "fewest"),
    [
        (MISTRAL, "rtx3090", 1),
        (MISTRAL, "t4", 2),
        (LLAMA70, "h100", 4),
        (LLAMA70, "h200", 2),
        (LLAMA70, "b200", 1),
        (LLAMA70, "rtx4090", 8),
        (LLAMA70, "t4", None),
    ],
)
def test_the_plan_names_the_fewest_gpus_that_hold_a_model(model: ModelSize, gpu: str, fewest: int | None) -> None:
    plan = planned(model, EngineSetup(gpu=gpu))
    assert plan.suggested_tensor_parallel == fewest
    assert plan.memory is not None
    assert plan.memory.fits is (fewest == 1)
    if fewest == 1:
        check_memory(plan)
        return
    with pytest.raises(UserError) as error:
        check_memory(plan)
    assert error.value.field == "engine.tensor_parallel"
    assert (f"engine.tensor_parallel={fewest} fits" if fewest else "not even eight") in str(error.value)


def test_the_embedded_model_fits_a_laptop() -> None:
    """21 points of 40 prompts and 32 tokens take about five minutes."""
    plan = planned(SMOL, EngineSetup(cores=2, max_model_len=1024), LAPTOP, points=21, left=21)
    assert plan.memory is not None and plan.wall_hours is not None
    assert plan.wall_hours * 60 < 8
    assert plan.gpu_hours is None
    check_memory(plan, 5 * GB)
    with pytest.raises(UserError, match=r"model=smollm2_135m: takes about 4.* 2\.0 GB are free") as error:
        check_memory(plan, 2 * GB)
    assert error.value.field == "model"


def test_actors_on_one_cpu_share_its_memory() -> None:
    check_memory(planned(SMOL, EngineSetup(actors=1), LAPTOP), 6 * GB)
    with pytest.raises(UserError, match=r"cluster\.actors=1"):
        check_memory(planned(SMOL, EngineSetup(actors=2), LAPTOP), 6 * GB)


def test_the_dummy_engine_needs_almost_nothing() -> None:
    dummy = ModelSize("dummy", Dtype.float32, 0)
    plan = planned(dummy, EngineSetup(engine=EngineKind.dummy), LAPTOP, points=1, left=1, measured=0.5)
    check_memory(plan, GB)
    assert plan.wall_hours == pytest.approx(0.5 / 3600)


@pytest.mark.parametrize(
    ("setup", "remedy"),
    [
        (EngineSetup(gpu="rtx4090", base=BaseChoice.gpu), "do not fit the GPU: use engine.base=host"),
        (EngineSetup(base=BaseChoice.gpu), "there is no GPU: use engine.base=mmap"),
        (EngineSetup(gpu="rtx4090", base=BaseChoice.host, host_free=GB), "shared memory has 0.9 GiB free"),
        (EngineSetup(base=BaseChoice.host, host_free=GB), "shared memory has 0.9 GiB free"),
    ],
)
def test_a_place_of_the_base_that_the_actor_would_refuse_is_refused_before_the_start(
    setup: EngineSetup, remedy: str
) -> None:
    plan = planned(MISTRAL, setup)
    assert plan.memory and plan.memory.fits is False and any(remedy in note for note in plan.notes)
    with pytest.raises(UserError, match=remedy) as error:
        check_memory(plan)
    assert error.value.field == "engine.base"


def test_responses_that_do_not_fit_the_disk_are_refused(tmp_path: Path) -> None:
    plan = planned(MISTRAL, EngineSetup(gpu="h100"))
    out = tmp_path / "not" / "yet"
    check_disk(out, plan)  # checked against the real disk
    assert not (tmp_path / "not").exists()
    with pytest.raises(UserError, match="make room") as error:
        check_disk(out, plan, free=10 * 10**6)
    assert error.value.field == "out"
