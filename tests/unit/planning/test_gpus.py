"""The table of GPUs."""

from __future__ import annotations

import pytest

from orchestrator.planning.gpus import GPUS, find_gpu, key_of_installed
from orchestrator.planning.workload import EngineSetup
from orchestrator.utils.errors import UserError
from tests.unit.planning.sizes import MISTRAL, planned


def test_a_misspelled_gpu_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'h100'") as error:
        planned(MISTRAL, EngineSetup(gpu="h10"))
    assert error.value.field == "cluster.gpu"
    assert find_gpu("A100") is GPUS["a100_80"]
    assert find_gpu("RTX 3090") is GPUS["rtx3090"]


@pytest.mark.parametrize("name", ["v100", "V100", "v100_32", "Tesla V100-SXM2-32GB".removeprefix("Tesla ")])
def test_no_plan_is_made_for_a_gpu_that_the_engine_does_not_run_on(name: str) -> None:
    with pytest.raises(UserError, match=r"does not run on it, because its compute capability is below 7\.5"):
        find_gpu(name)


def test_an_installed_gpu_is_found_by_the_name_that_its_driver_gives() -> None:
    assert key_of_installed("NVIDIA H100 80GB HBM3") == "h100"
    assert key_of_installed("NVIDIA A100-SXM4-40GB") == "a100_40"
    assert key_of_installed("Tesla K80") is None and key_of_installed("Tesla V100-SXM2-32GB") is None
    assert key_of_installed("NVIDIA A100-SXM4-40GB MIG 3g.20gb") is None
