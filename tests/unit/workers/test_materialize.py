"""Materialized weights: bit-exact arithmetic, files that other libraries can read, and refusals."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from orchestrator.models import embedded
from orchestrator.models.checkpoint import read_checkpoint
from workers.weights import materialize

F32 = NDArray[np.float32]
RANK, ALPHA = 3, 6


def test_the_model_resolver_uses_the_current_versions() -> None:
    assert embedded.BASE_VERSION == materialize.BASE_VERSION
    assert embedded.MERGE_VERSION == materialize.MERGE_VERSION


def nearest_bf16(value: float) -> int:
    """Return the bits of the bfloat16 nearest to a float32 value (ties to even) by comparing with both neighbors."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    lower, upper = bits >> 16, (bits >> 16) + 1

    def real(pattern: int) -> float:
        if pattern & 0x7F80 == 0x7F80:  # beyond the largest number, use the value that would follow it
            return math.copysign(2.0**128, -1.0 if pattern & 0x8000 else 1.0)
        return float(struct.unpack("<f", struct.pack("<I", pattern << 16))[0])

    below, above = abs(value - real(lower)), abs(real(upper) - value)
    return lower if below < above or (below == above and lower % 2 == 0) else upper


def test_rounding_to_bfloat16() -> None:
    special = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, -1.00390625, 3.4e38, -3.4e38, 1e-40, -1e-40, 6e-39, 65504.0]
    random = np.random.default_rng(0)
    bits = random.integers(0, 1 << 32, 4000, dtype=np.uint32)
    halves = (bits & np.uint32(0xFFFF0000)) | np.uint32(0x8000)  # exactly halfway between two numbers
    drawn = np.concatenate([bits, halves]).view(np.float32)
    values = np.concatenate([np.array(special, dtype=np.float32), drawn[np.isfinite(drawn)]])
    expected = [nearest_bf16(float(value)) for value in values]
    assert materialize.to_bf16(values).tolist() == expected
    exact = materialize.from_bf16(np.array(expected, dtype=np.uint16))
    assert materialize.to_bf16(exact).tolist() == expected  # exact bfloat16 values are unchanged


def reference_lora(w: F32, a: F32, b: F32, scale: float) -> F32:
    """Merge with every product and sum rounded to float32, in the order of the rank."""
    result = np.empty_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            total = np.float32(b[i, 0] * a[0, j])
            for r in range(1, a.shape[0]):
                total = np.float32(total + np.float32(b[i, r] * a[r, j]))
            result[i, j] = np.float32(w[i, j] + np.float32(total * np.float32(scale)))
    return result


def normal(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_lora_product_is_summed_in_order() -> None:
    w, a, b = normal(5, 7), normal(16, 7, seed=1), normal(5, 16, seed=2)
    merged = materialize.lora_merged(w, a, b, 0.7)
    assert merged.tobytes() == reference_lora(w, a, b, 0.7).tobytes()
    turned = materialize.lora_merged(w, a[::-1], b[:, ::-1], 0.7)
    assert np.allclose(merged, turned, atol=1e-4)
    assert merged.tobytes() != turned.tobytes()  # so the test can see the order


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    weights = {"model.q_proj.weight": normal(4, 6), "model.norm.weight": normal(6, seed=1)}
    bits = {name: materialize.to_bf16(values) for name, values in weights.items()}
    shapes = {name: values.shape for name, values in weights.items()}
    materialize.write_safetensors(folder / "model.safetensors", shapes, bits.__getitem__)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / ".safety-landscape.json").write_text("remembered of the base, and of nothing else")
    return folder


def adapter_of(folder: Path, target: str = "model.q_proj", **config: Any) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    factors = {
        f"base_model.model.{target}.lora_A.weight": normal(RANK, 6, seed=2),
        f"base_model.model.{target}.lora_B.weight": normal(4, RANK, seed=3),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def test_safetensors_reads_the_written_files(base: Path) -> None:
    """Read with the safetensors library as a dtype that NumPy supports: the bits are those of bfloat16."""
    info = read_checkpoint(base)
    assert {name: (header.dtype, header.shape) for name, header in info.tensors.items()} == {
        "model.norm.weight": ("BF16", (6,)),
        "model.q_proj.weight": ("BF16", (4, 6)),
    }
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"BF16"', b'"U16" '))
    read = load_file(file)
    assert read["model.q_proj.weight"].tolist() == materialize.to_bf16(normal(4, 6)).tolist()


@pytest.mark.parametrize(("config", "scale"), [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / math.sqrt(RANK))])
def test_an_adapter_is_merged(config: dict[str, Any], scale: float, base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter", **config)
    materialize.merge(base, adapter, tmp_path / "out")
    before = materialize.read_safetensors(base / "model.safetensors")
    after = materialize.read_safetensors(tmp_path / "out" / "model.safetensors")
    assert after["model.norm.weight"][1].tolist() == before["model.norm.weight"][1].tolist()
    w0 = materialize.from_bf16(before["model.q_proj.weight"][1])
    w1 = reference_lora(w0, normal(RANK, 6, seed=2), normal(4, RANK, seed=3), scale)
    assert after["model.q_proj.weight"][1].tolist() == materialize.to_bf16(w1).tolist()
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json"}


def test_a_subprocess_merges_to_the_same_bytes(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "adapter")
    materialize.merge(base, adapter, tmp_path / "one")
    embedded.materialize("merge", base, adapter, tmp_path / "two")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_failure_in_the_subprocess_is_reported(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)workers\.weights\.materialize.*adapter_config\.json"):
        embedded.materialize("merge", base, tmp_path / "missing", tmp_path / "out")
    usage = subprocess.run(
        [sys.executable, "-m", "workers.weights.materialize"], capture_output=True, text=True, check=False
    )
    assert usage.returncode == 1 and "usage" in usage.stderr


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"peft_type": "IA3"},
    ],
)
def test_adapters_that_are_more_than_lora_are_refused(config: dict[str, Any], base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a plain LoRA"):
        materialize.merge(base, adapter_of(tmp_path / "adapter", **config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names tensors that the model lacks"):
        materialize.merge(base, adapter_of(tmp_path / "adapter", target="model.k_proj"), tmp_path / "out")
