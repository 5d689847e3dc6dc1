"""The watch on reads of weights, and the search for copies of weights, on small modules."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workers.engines.vllm_watch import KERNELS_IN_PLACE, ReadWatch, derived_copies


class Compiled(torch.nn.Module):
    """A model that runs compiled code unless `do_not_compile` is set, as vLLM's models do."""

    do_not_compile = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def __call__(self) -> torch.Tensor:
        return self.forward() if self.do_not_compile else torch.zeros(3)  # compiled code hides its operations

    def forward(self) -> torch.Tensor:
        return self.weight * 2


def reads(model: Any, parameter: torch.Tensor) -> set[str]:
    with torch.inference_mode(), ReadWatch(model) as watch:
        model()
    return watch.operations.get(parameter.untyped_storage().data_ptr(), set())


def test_reads_of_a_compiled_model_are_seen() -> None:
    model = Compiled()
    assert reads(model, model.weight) == {"aten.mul.Tensor"}
    assert model.do_not_compile is False


def test_a_model_that_is_not_compiled_stays_as_it_is() -> None:
    model = Compiled()
    model.do_not_compile = True
    assert reads(model, model.weight) and model.do_not_compile is True


def test_an_error_under_the_watch_restores_the_model() -> None:
    model = Compiled()
    with pytest.raises(ZeroDivisionError), ReadWatch(model):
        raise ZeroDivisionError
    assert model.do_not_compile is False


class Attention(torch.nn.Module):
    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.sinks = torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
        self.impl = SimpleNamespace(sinks=self.sinks.data.float() if copied else self.sinks.data)


def test_copies_that_vllm_keeps_are_found() -> None:
    model = torch.nn.Module()
    model.shared, model.copied = Attention(copied=False), Attention(copied=True)
    model.dense, model.fused = torch.nn.Linear(2, 2), torch.nn.Module()
    model.fused._fse_fuse_gate = True  # type: ignore[assignment]
    found = dict(derived_copies(model))
    assert set(found) == {"copied", "fused"}
    assert "sinks" in found["copied"] and "gates" in found["fused"]


@pytest.mark.parametrize(("kernels", "refused"), [("TRITON", False), ("CPU", False), ("FlashInfer TRTLLM", True)])
def test_kernels_that_rearrange_experts_are_found(kernels: str, refused: bool) -> None:
    model = torch.nn.Module()
    model.experts = torch.nn.Module()
    model.experts.quant_method = SimpleNamespace(unquantized_backend=SimpleNamespace(value=kernels))  # type: ignore[assignment]
    assert [name for name, _ in derived_copies(model)] == ["experts"] * refused


def test_the_names_of_kernels_are_those_of_vllm() -> None:
    from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend, map_unquantized_backend

    assert map_unquantized_backend("triton").value in KERNELS_IN_PLACE
    assert set(KERNELS_IN_PLACE) < {backend.value for backend in UnquantizedMoeBackend}
