"""LoRA adapters: scales, and names of tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.utils.errors import UserError
from tests.public.reports import reported
from tests.unit.models.target_files import adapter, half, model, weights
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.targets import Factors, read_adapter


def read(folder: Path, factors: dict[str, np.ndarray] | None = None, **config: object) -> Factors:
    """Return the update of the only tensor that an adapter changes."""
    base = MappedCheckpoint(model(folder / "base", weights(0)))
    (update,) = read_adapter(adapter(folder / "adapter", factors, **config), base).values()
    return update


@reported("sgl-project/sglang#40835", "NVIDIA/TensorRT-LLM#1668", "vllm-project/vllm#10798")
def test_rank_stabilized_adapters_are_scaled_by_the_root_of_the_rank(tmp_path: Path) -> None:
    """Servers ignored use_rslora, so that updates were too weak by the root of r; the scale is alpha over that root."""
    assert read(tmp_path, use_rslora=True).scale == pytest.approx(4 / np.sqrt(2))


@reported("huggingface/peft#1579", "huggingface/peft#2733")
def test_names_with_and_without_the_prefix_of_peft_are_the_same_tensor(tmp_path: Path) -> None:
    """An adapter whose names have another prefix than expected was merged as nothing; both forms move the tensor."""
    factors = half("A", 2, 8) | half("B", 8, 2)
    bare = {name.removeprefix("base_model.model."): values for name, values in factors.items()}
    for name, form in {"with": factors, "without": bare}.items():
        (tmp_path / name).mkdir()
        assert (read(tmp_path / name, form).b @ read_a(tmp_path / name)).any()


def read_a(folder: Path) -> np.ndarray:
    base = MappedCheckpoint(folder / "base")
    (update,) = read_adapter(folder / "adapter", base).values()
    return update.a


@reported("thinking-machines-lab/tinker-cookbook#75")
def test_an_adapter_whose_names_do_not_fit_is_refused(tmp_path: Path) -> None:
    """Adapter keys that a loader did not expect were left out with a warning; here the first such name is an error."""
    factors = {name.replace(".weight", ".default.weight"): values for name, values in half("A", 2, 8).items()}
    with pytest.raises(UserError, match=r"lora_A\.default\.weight, which is not plain LoRA"):
        read(tmp_path, factors)


@reported("vllm-project/vllm#9280")
def test_replaced_modules_are_refused(tmp_path: Path) -> None:
    """modules_to_save of an adapter is not supported by servers; such an adapter is refused instead of half applied."""
    with pytest.raises(UserError, match="replaces whole modules"):
        read(tmp_path, modules_to_save=["lm_head"])
