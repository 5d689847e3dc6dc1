"""`model.adapter`: a base with an adapter as the resident model, equal to the point toward the adapter at 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.config.schema import ModelConfig
from orchestrator.models import adapted
from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.resolve import locate_model, resolve_model
from orchestrator.models.trajectory import epoch_folders
from orchestrator.pipeline.prepare import prepare
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.utils.errors import UserError
from orchestrator.utils.subprocesses import run_python
from tests.unit.models.target_files import Q, adapter, half, model, weights
from workers.noise.definition import DType, Slab
from workers.weights.adapted import add_adapter
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.device_memory import TORCH_DTYPES, CpuMemory
from workers.weights.layout import Region
from workers.weights.resident import ResidentWeights
from workers.weights.targets import AdapterEndpoint, Endpoint

pytestmark = pytest.mark.thorough


K = "model.layers.0.self_attn.k_proj"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache. The sum is made in this process, except in `test_the_study_is_named_after_both`."""
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adapted, "run_python", lambda _, arguments: add_adapter(*map(Path, arguments)))
    return tmp_path / "cache"


def config(base: Path, folder: Path | None) -> ModelConfig:
    return ModelConfig(name="local", path=str(base), adapter=None if folder is None else str(folder), dtype="float32")


def wide_adapter(folder: Path, **options: Any) -> Path:
    """An adapter of two modules with ranks, scales and target modules of all kinds."""
    rng = np.random.default_rng(3)
    factors = {}
    for module, rank in ((K, 3), (Q, 2)):
        for letter, shape in (("A", (rank, 8)), ("B", (8, rank))):
            factors |= {name: rng.standard_normal(shape).astype(np.float32) for name in half(letter, 1, module=module)}
    patterns = {"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"^.*k_proj$": 5}}
    return adapter(folder, factors, **{"target_modules": "all-linear", "use_rslora": True, **patterns, **options})


def bfloat16_base(folder: Path) -> Path:
    """A base whose tensors are stored in bfloat16, except the norm."""
    arrays = weights(0)
    arrays[f"{K}.weight"] = weights(5)[f"{Q}.weight"]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model(folder, weights(0))
    kept = {name: w if name.endswith("norm.weight") else w.to(torch.bfloat16) for name, w in tensors.items()}
    save_tensors(kept, folder / "model.safetensors")
    return folder


def live_bits(folder: Path, dtype: DType, point: Point, endpoints: dict[str, Endpoint]) -> dict[str, bytes]:
    """Return the bytes of every tensor in an engine's memory at a point around a checkpoint."""
    checkpoint = MappedCheckpoint(folder)
    parameters = {t.name: torch.zeros(t.shape, dtype=TORCH_DTYPES[dtype]) for t in checkpoint.tensors()}
    layout = {t.name: [Region(t.name, Slab(1, t.size, 0, t.size, 0, t.size))] for t in checkpoint.tensors()}
    resident = ResidentWeights(checkpoint, layout, parameters, dtype, endpoints, CpuMemory(checkpoint))
    resident._moved |= set(parameters)  # memory starts with zeros, not with the base as in an engine
    resident.restore()
    resident.apply_point(point, {})
    return {name: p.view(torch.uint8).numpy().tobytes() for name, p in parameters.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_its_origin_is_the_point_toward_the_adapter_at_one(tmp_path: Path, dtype: DType) -> None:
    base, lora = bfloat16_base(tmp_path / "base"), wide_adapter(tmp_path / "lora")
    resolved = resolve_model(config(base, lora))
    endpoints: dict[str, Endpoint] = {"lora": AdapterEndpoint(lora, MappedCheckpoint(base))}
    toward = Point.from_coefficients([(TowardsDirection("lora"), 1.0)])
    expected = live_bits(base, dtype, toward, endpoints)
    assert live_bits(resolved.path, dtype, ORIGIN, {}) == expected
    changed = [name for name, bits in live_bits(base, dtype, ORIGIN, {}).items() if bits != expected[name]]
    assert changed == [f"{K}.weight", f"{Q}.weight"]


def test_the_sum_is_float32_and_the_rest_is_copied(tmp_path: Path) -> None:
    base, lora = bfloat16_base(tmp_path / "base"), wide_adapter(tmp_path / "lora")
    checkpoint = read_checkpoint(resolve_model(config(base, lora)).path)
    assert {name: t.dtype for name, t in checkpoint.tensors.items()} == {
        "model.embed_tokens.weight": "BF16",
        f"{K}.weight": "F32",
        f"{Q}.weight": "F32",
        "model.norm.weight": "F32",  # as in the base
    }
    assert checkpoint.config == read_checkpoint(base).config
    assert not (checkpoint.path / "adapter_config.json").exists()


def test_the_fingerprint_is_of_base_factors_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    base, lora = model(tmp_path / "base", weights(0)), adapter(tmp_path / "lora")
    assert locate_model(config(base, lora)) is None and not cache.exists(), "plan makes nothing"
    plain, resolved = resolve_model(config(base, None)), resolve_model(config(base, lora))
    assert locate_model(config(base, lora)) == resolved.path
    assert (resolved.name, resolved.source) == ("local-lora", "path with the adapter lora")
    assert plain.fingerprint == fingerprint(base), "that of a model without adapter stays as it was"
    copy = adapter(tmp_path / "copy")
    assert resolve_model(config(base, copy)).fingerprint == resolved.fingerprint, "content counts, not the folder"
    others = [
        resolve_model(config(base, adapter(tmp_path / "stronger", lora_alpha=8))),
        resolve_model(config(model(tmp_path / "other", weights(1)), lora)),
    ]
    monkeypatch.setattr(adapted, "ADAPTED_VERSION", 2)
    others.append(resolve_model(config(base, lora)))
    assert len({plain.fingerprint, resolved.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_tied_head_that_is_stored_again_is_left_out(tmp_path: Path) -> None:
    tensors = weights(0)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    base = model(tmp_path / "base", tensors, tie_word_embeddings=True)
    factors = {**half("A", 2, 8, module="model.embed_tokens"), **half("B", 5, 2, module="model.embed_tokens")}
    resolved = resolve_model(config(base, adapter(tmp_path / "lora", factors)))
    assert set(load_file(resolved.path / "model.safetensors")) == set(weights(0))


def test_shards_keep_their_files(tmp_path: Path) -> None:
    base = model(tmp_path / "base", weights(0))
    (base / "model.safetensors").unlink()
    shards = {name: f"model-{i}.safetensors" for i, name in enumerate(sorted(weights(0)))}
    for name, shard in shards.items():
        save_file({name: weights(0)[name]}, base / shard)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    resolved = resolve_model(config(base, adapter(tmp_path / "lora")))
    index = json.loads((resolved.path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == shards


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_the_output_of_a_trainer_is_recognized(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "output"
    output.mkdir()
    for step in (1000, 500):
        if kind == "adapter":
            adapter(output / f"checkpoint-{step}")
        else:
            model(output / f"checkpoint-{step}", weights(step))
    last = output / "checkpoint-1000"
    answer = f"model.adapter={last} beside the base's" if kind == "adapter" else f"model.path={last}"
    with pytest.raises(UserError, match="is the output of a trainer: give one of its 2 checkpoints") as error:
        read_checkpoint(output)
    assert answer in error.value.remedy
    assert [folder.name for folder in epoch_folders(output)] == ["checkpoint-500", "checkpoint-1000"]
    base = model(tmp_path / "base", weights(0))
    with pytest.raises(UserError, match=f"^model.adapter=.*such as model.adapter={last}$"):
        resolve_model(config(base, output))
    if kind == "adapter":
        assert resolve_model(config(base, last)).name == "local-checkpoint-1000"


def test_mistakes_name_the_option(tmp_path: Path) -> None:
    base, lora = model(tmp_path / "base", weights(0)), adapter(tmp_path / "lora")
    with pytest.raises(UserError, match=f"not a model: name its base and add model.adapter={lora}, or move"):
        read_checkpoint(lora)
    for folder, why in (
        (tmp_path / "none", "there is no such folder"),
        (base, "has no adapter_config.json: give a LoRA adapter"),
        (adapter(tmp_path / "dora", use_dora=True), "is DoRA"),
        (adapter(tmp_path / "far", {**half("A", 2, 9), **half("B", 8, 2)}), "do not make the base's 8 x 8"),
    ):
        with pytest.raises(UserError, match=why) as error:
            resolve_model(config(base, folder))
        assert error.value.field == "model.adapter"


def test_the_study_is_named_after_both(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole preparation: prompts use the base's tokenizer, and the study has the sum's fingerprint."""
    monkeypatch.setattr(adapted, "run_python", run_python)
    name = "model.layers.0.self_attn.q_proj"
    rows, columns = read_checkpoint(tiny_llama).tensors[f"{name}.weight"].shape
    factors = {**half("A", 2, columns, module=name), **half("B", rows, 2, fill=0.1, module=name)}
    lora = adapter(tmp_path / "refusals", factors)
    overrides = [f"model.path={tiny_llama}", f"model.adapter={lora}", "model.dtype=float32", f"out={tmp_path}/out"]
    prepared = prepare(compose([*overrides, "probes.limit=1", "sampling.max_tokens=4"]), Presets())
    assert prepared.info.model.endswith("-refusals")
    assert prepared.model is not None and prepared.info.fingerprint == prepared.model.fingerprint
