"""The transformers engine on a device that only pretends to be a GPU: every tensor it makes is made there."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from orchestrator.sweep.continuations import Continuation
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.errors import UserError
from workers.engines import hf
from workers.engines.base import Engine, EngineSpec
from workers.engines.factory import open_engine

pytestmark = pytest.mark.engine

FACTORIES = (torch.tensor, torch.arange, torch.zeros, torch.ones, torch.empty, torch.full)
CUDA = torch.device("cuda")


class PretendGpu(TorchFunctionMode):
    """Use the CPU wherever a GPU is named, and record the devices on which the engine makes tensors.

    Attributes:
        made: The device of each tensor that `hf.py` made, as a factory's argument.
        moved: Whether the model was moved to the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.moved = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTORIES and sys._getframe(1).f_code.co_filename == hf.__file__:
            self.made.append(kwargs.get("device"))
        devices = [arg for arg in args if isinstance(arg, torch.device)]
        self.moved |= devices == [CUDA]  # `Module.to` passes its argument to a function of torch first
        if kwargs.get("device") == CUDA:
            kwargs["device"] = torch.device("cpu")
        return func(
            *(torch.device("cpu") if isinstance(arg, torch.device) and arg == CUDA else arg for arg in args), **kwargs
        )


def use(engine: Engine) -> tuple[Any, ...]:
    prompts = PromptSet(
        "harmful", (Prompt("a"), Prompt("b")), ("a", "b"), ((40, 41, 42), (7, 9)), Sampling(6, letters=("A", "B"))
    )
    engine.verify_writes()
    return engine.generate([prompts]), engine.log_probabilities([Continuation("c", "p", (40, 41), "hello there")])


def test_the_engine_makes_its_tensors_on_its_device(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "device_name", lambda kind: f"a {kind}")
    spec = EngineSpec("transformers", str(tiny_llama), max_model_len=64)  # type: ignore[arg-type]
    expected = use(open_engine(spec))
    with PretendGpu() as gpu:
        engine = open_engine(dataclasses.replace(spec, device="cuda"))
        assert gpu.moved
        assert use(engine) == expected
    assert engine.identity["device"] == "a cuda"
    assert len(gpu.made) > 5 and set(gpu.made) == {CUDA}
    engine.close()


def test_several_gpus_are_refused(tiny_llama: Path) -> None:
    spec = EngineSpec("transformers", str(tiny_llama), tensor_parallel=2)  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        open_engine(spec)
    assert error.value.field == "engine.tensor_parallel"
