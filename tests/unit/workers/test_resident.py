"""Live weights moved along every kind of direction, on a CPU and with the GPU code in Triton's interpreter."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.points import ORIGIN, Point
from workers.noise.definition import Array, DType, Slab
from workers.noise.reference import from_float32, perturb, product, to_float32
from workers.weights import device_memory as memory
from workers.weights import perturbation as directions
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.device_memory import TORCH_DTYPES, CpuMemory, GpuMemory
from workers.weights.layout import Region, uncovered
from workers.weights.materialize import from_bf16, lora_merged, to_bf16
from workers.weights.resident import ResidentWeights
from workers.weights.targets import Target, open_endpoints

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROOT = Path(__file__).parents[3]

SHAPES = {
    "q.weight": (24, 40),
    "k.weight": (24, 40),
    "down.weight": (40, 24),
    "norm.weight": (40,),
    "tied.weight": (7, 40),
}

RANDOM = RandomDirection(7)
BESIDE = RandomDirection(8, "filter", orthogonal_to=7)
FULL, LORA = TowardsDirection("full"), TowardsDirection("lora")


def save(folder: Path, tensors: dict[str, Array], name: str = "model.safetensors", **config: Any) -> Path:
    """Write float32 arrays, and uint16 arrays as bfloat16, to a safetensors file."""
    folder.mkdir()
    header: dict[str, Any] = {}
    position = 0
    for key, array in tensors.items():
        dtype = "F32" if array.dtype == np.float32 else "BF16"
        header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, position + array.nbytes]}
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(array.tobytes() for array in tensors.values())
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + data)
    kind = "adapter_config.json" if name.startswith("adapter") else "config.json"
    (folder / kind).write_text(json.dumps(config))
    return folder


@dataclass
class World:
    """A base in bfloat16, a float32 checkpoint and an adapter as targets, and the live memory of one rank.

    `merged` is the base with the adapter, float32: fl(W0 + fl(s B A)). `update` is B A, float32, and `scale` is s.
    """

    base: dict[str, Array]
    full: dict[str, Array]
    merged: dict[str, Array]
    update: Array
    scale: float
    checkpoint: MappedCheckpoint
    weights: ResidentWeights
    scalars: dict[str, Any]
    dtype: DType
    parameters: dict[str, torch.Tensor]

    def held(self, name: str) -> dict[int, int]:
        """Return element index -> bits for all elements of a tensor that this rank holds."""
        bits: dict[int, int] = {}
        for piece in self.weights.read(name):
            for r in range(piece.slab.rows):
                start = piece.slab.k_off + r * piece.slab.k_stride
                bits |= dict(zip(range(start, start + piece.slab.cols), piece.values[r].tolist(), strict=True))
        return bits

    def wrong(self, expected: dict[str, Array]) -> list[str]:
        """Return the tensors that differ from `expected` (any shape, bits or float32) or of which nothing is held."""
        wrong = []
        for name in SHAPES:
            bits = expected[name].reshape(-1).view(np.uint32 if self.dtype == "float32" else np.uint16).tolist()
            held = self.held(name)
            if not held or any(bits[k] != value for k, value in held.items()):
                wrong.append(name)
        return wrong

    def reference(self, point: Point, blends: dict[str, list[tuple[float, Array, DType]]]) -> dict[str, Array]:
        return {
            name: perturb(
                self.base[name].reshape(-1),
                name,
                directions.terms(point, name, SHAPES[name], self.scalars),
                self.dtype,
                "bfloat16",
                [(c, a.reshape(-1), kind) for c, a, kind in blends.get(name, [])] or None,
            )
            for name in SHAPES
        }


@pytest.fixture(params=["gpu-parts", "gpu-resident"] if INTERPRETED else ["cpu", "cpu-parts"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kind of memory, and whether a tensor is written in parts (on a CPU by several threads).

    The GPU's memory is tested in a process with Triton's interpreter (`test_this_file_with_the_gpus_code`).
    """
    if request.param == "cpu-parts":
        monkeypatch.setattr(memory, "PART", 100)
    if request.param == "gpu-parts":
        monkeypatch.setattr(memory, "GPU_PART", 200)
    return str(request.param)


@pytest.fixture
def world(tmp_path: Path, kind: str) -> Callable[..., World]:
    def make(dtype: DType = "bfloat16") -> World:
        rng = np.random.default_rng(0)
        base = {name: to_bf16(rng.standard_normal(shape).astype(np.float32)) for name, shape in SHAPES.items()}
        full = {name: from_bf16(w) + rng.standard_normal(w.shape).astype(np.float32) / 10 for name, w in base.items()}
        a, b = rng.standard_normal((3, 40)).astype(np.float32), rng.standard_normal((24, 3)).astype(np.float32)
        scale = 4 / math.sqrt(3)
        merged = base | {"k.weight": lora_merged(from_bf16(base["k.weight"]), a, b, scale)}
        checkpoint = MappedCheckpoint(save(tmp_path / "base", base))
        prefix = "base_model.model.k.lora_"
        adapter = {f"{prefix}A.weight": a, f"{prefix}B.weight": b}
        config = {"peft_type": "LORA", "r": 3, "lora_alpha": 4, "use_rslora": True}
        targets = [
            Target("full", "checkpoint", str(save(tmp_path / "full", full))),
            Target("lora", "adapter", str(save(tmp_path / "lora", adapter, "adapter_model.safetensors", **config))),
        ]
        parameters = {
            "qk": torch.zeros(30, 40, dtype=TORCH_DTYPES[dtype]),  # rows 0..11 of q and 6..23 of k, fused
            "down": torch.zeros(40, 16, dtype=TORCH_DTYPES[dtype]),  # columns 8..19 of a row-parallel shard, padded
            "norm": torch.zeros(40, dtype=TORCH_DTYPES[dtype]),
            "tied": torch.zeros(8, 40, dtype=TORCH_DTYPES[dtype]),
        }
        layout = {
            "q.weight": [Region("qk", Slab(12, 40, 0, 40, 0, 40))],
            "k.weight": [Region("qk", Slab(18, 40, 240, 40, 480, 40))],
            "down.weight": [Region("down", Slab(40, 12, 8, 24, 0, 16))],
            "norm.weight": [Region("norm", Slab(1, 40, 0, 40, 0, 40))],
            "tied.weight": [Region("tied", Slab(7, 40, 0, 40, 0, 40))],
        }
        device = (
            CpuMemory(checkpoint)
            if kind.startswith("cpu")
            else GpuMemory(checkpoint, torch.device("cpu"), resident=kind == "gpu-resident")
        )
        resident = ResidentWeights(checkpoint, layout, parameters, dtype, open_endpoints(targets, checkpoint), device)
        resident._moved |= set(SHAPES)  # live memory starts with zeros, not with the base as in an engine
        resident.restore()
        tensors = [(t.name, checkpoint.base(t.name), t.shape, t.dtype) for t in checkpoint.tensors()]
        scalars = {d.id: directions.measure(d, tensors) for d in (RANDOM, BESIDE)}
        return World(base, full, merged, product(a, b), scale, checkpoint, resident, scalars, dtype, parameters)

    return make


def rounded(tensors: dict[str, Array], dtype: DType) -> dict[str, Array]:
    return {
        name: from_float32(to_float32(w, "bfloat16" if w.itemsize == 2 else "float32"), dtype)
        for name, w in tensors.items()
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_coefficient_one_is_the_checkpoint_bit_for_bit(world: Callable[..., World], dtype: DType) -> None:
    w = world(dtype)
    for direction, expected in ((FULL, w.full), (LORA, w.merged)):
        w.weights.apply_point(Point.from_coefficients([(direction, 1.0)]), {})
        assert w.wrong(rounded(expected, dtype)) == []
    w.weights.apply_point(ORIGIN, {})
    assert w.wrong(rounded(w.base, dtype)) == []


def test_an_adapter_moves_only_the_tensors_that_it_names(world: Callable[..., World]) -> None:
    w = world()
    w.weights.apply_point(Point.from_coefficients([(LORA, -3.7)]), {})
    assert w.wrong(w.base) == ["k.weight"]


def test_two_targets_and_noise_combine_as_documented(world: Callable[..., World]) -> None:
    """Blend targets in the order of direction ids, the base first. Then noise is added, with one final rounding."""
    w = world()
    point = Point.from_coefficients([(FULL, 0.25), (LORA, -0.6), (RANDOM, 0.3), (BESIDE, -0.1)])
    blends: dict[str, list[tuple[float, Array, DType]]] = {}
    for name in SHAPES:
        parts = {FULL.id: (0.25, w.full[name], "float32"), LORA.id: (-0.6 * w.scale, w.update, "float32")}
        moving = [parts[key] for key in sorted(parts) if key == FULL.id or name == "k.weight"]
        blends[name] = [(0.75, w.base[name], "bfloat16"), *moving]
    w.weights.apply_point(point, w.scalars)
    assert w.wrong(w.reference(point, blends)) == []


def test_noise_with_a_scale_per_row_or_tensor_is_that_of_the_reference(world: Callable[..., World]) -> None:
    """A GPU that holds the base writes noise alone by a table of all slabs."""
    w = world()
    for coefficients in ([(BESIDE, 0.3)], [(RANDOM, 0.2), (BESIDE, -0.4)], [(RANDOM, -0.1)], [(BESIDE, -0.2)]):
        point = Point.from_coefficients(coefficients)
        w.weights.apply_point(point, w.scalars)
        assert w.wrong(w.reference(point, {})) == []


def test_only_checkpoints_replace_the_base(world: Callable[..., World]) -> None:
    """A checkpoint at 1 leaves the base out. An adapter adds to the base, whatever its coefficient."""
    w = world()

    def coefficients(on_full: float, on_adapter: float, name: str) -> list[tuple[bool, float]]:
        point = Point.from_coefficients([(FULL, on_full), (LORA, on_adapter)])
        blend = directions.blend(point, w.checkpoint[name], w.weights._endpoints)
        return sorted((end is None, c) for c, end in blend)

    assert coefficients(0.3, 0.7, "k.weight") == [(False, 0.3), (False, 0.7 * w.scale), (True, 0.7)]
    assert coefficients(0.3, 0.7, "q.weight") == [(False, 0.3), (True, 0.7)]
    assert coefficients(1.0, 0.0, "k.weight") == [(False, 1.0)]
    assert coefficients(0.0, 1.0, "k.weight") == [(False, w.scale), (True, 1.0)]


def test_a_sequence_of_fifty_points_leaves_no_trace(world: Callable[..., World]) -> None:
    w = world()
    rng = np.random.default_rng(1)
    for i in range(50 if not INTERPRETED else 5):
        drawn = rng.choice(4, size=rng.integers(1, 5), replace=False)
        some = [(RANDOM, BESIDE, FULL, LORA)[k] for k in drawn]
        w.weights.apply_point(Point.from_coefficients((d, float(rng.uniform(-1, 1))) for d in some), w.scalars)
        if i % 10 == 0:
            w.weights.apply_point(Point.from_coefficients([(RANDOM, 0.2)]), w.scalars)
            assert w.wrong(w.reference(Point.from_coefficients([(RANDOM, 0.2)]), {})) == []
    assert "q.weight" in w.wrong(w.base)
    w.weights.apply_point(ORIGIN, {})
    assert w.wrong(w.base) == []


def test_memory_outside_a_region_is_not_written(world: Callable[..., World]) -> None:
    w = world()
    w.weights.apply_point(Point.from_coefficients([(FULL, 0.5), (RANDOM, 0.2)]), w.scalars)
    memories = w.weights._memory["down"], w.weights._memory["tied"]
    down, tied = (np.asarray(m if isinstance(m, np.ndarray) else m.view(torch.int16).numpy()) for m in memories)
    assert not down.reshape(40, 16)[:, 12:].any() and down.reshape(40, 16)[:, :12].any()
    assert not tied.reshape(8, 40)[7].any()


def test_the_check_names_the_wrong_tensors(world: Callable[..., World]) -> None:
    w = world()
    assert w.weights.differences_from_base() == {}
    w.weights.apply_canary()
    assert w.weights.differences_from_canary() == {} and set(w.weights.differences_from_base()) == set(SHAPES)
    w.weights.restore()
    assert set(w.weights.differences_from_canary()) == set(SHAPES)
    memory = w.weights._memory["qk"]
    memory[5] = memory[5] * 0 + 3
    assert set(w.weights.differences_from_base()) == {"q.weight"}


MUTATIONS: dict[str, tuple[str, Slab]] = {
    "an off-by-one in a slice": ("k.weight", Slab(18, 40, 239, 40, 480, 40)),
    "a shard of the wrong rank": ("k.weight", Slab(18, 40, 0, 40, 480, 40)),
    "a shard one row too far": ("q.weight", Slab(12, 40, 0, 40, 40, 40)),
    "a transposed shard": ("down.weight", Slab(12, 40, 8, 24, 0, 40)),
    "the wrong columns": ("down.weight", Slab(40, 12, 12, 24, 0, 16)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_layout_that_is_wrong_is_detected(world: Callable[..., World], mutation: str) -> None:
    """The engine's memory holds the base, but the described layout is wrong."""
    w = world()
    name, slab = MUTATIONS[mutation]
    layout = dict(w.weights._layout)
    layout[name] = [Region(layout[name][0].parameter, slab)]
    mutant = ResidentWeights(w.checkpoint, layout, w.parameters, w.dtype, memory=w.weights._device)
    assert set(mutant.differences_from_base()) == {name}


def test_a_tensor_that_is_skipped_is_detected(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    assert uncovered(w.checkpoint["q.weight"].size, [r.slab for r in w.weights._layout["q.weight"]]) == 12 * 40
    assert uncovered(w.checkpoint["norm.weight"].size, [r.slab for r in w.weights._layout["norm.weight"]]) == 0
    assert uncovered(960, []) == 960
    original_put = ResidentWeights._put

    def skip(self: ResidentWeights, written: Any, slab: Slab, tensor: Any) -> None:
        if tensor.info.name != "norm.weight" or not any(written is memory for memory in self._memory.values()):
            original_put(self, written, slab, tensor)

    monkeypatch.setattr(ResidentWeights, "_put", skip)
    w.weights.apply_canary()
    assert w.weights.differences_from_canary() == {"norm.weight": "did not move"}


def test_equal_noise_for_equal_shapes_is_detected(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    """q and k have one shape: a kernel whose noise ignores the tensor's name differs from the reference."""
    from workers.noise import cpu, gpu
    from workers.noise.definition import tensor_key

    w = world()
    point = Point.from_coefficients([(RANDOM, 0.3)])
    for kernel in (cpu, gpu):
        monkeypatch.setattr(kernel, "tensor_key", lambda seed, name: tensor_key(seed, ""))
    w.weights.apply_point(point, w.scalars)
    assert w.wrong(w.reference(point, {})) == ["q.weight", "k.weight", "down.weight", "tied.weight"]
    w.weights.apply_canary()
    assert set(w.weights.differences_from_canary()) == set(SHAPES)


@pytest.mark.parametrize(
    "slab",
    [Slab(7, 40, 80, 40, 0, 40), Slab(24, 13, 17, 40, 0, 16), Slab.whole(960), Slab(1, 100, 130, 960, 0, 960)],
    ids=["rows", "columns", "whole", "a run across rows"],
)
def test_a_gpu_computes_only_the_slab_of_an_adapters_update(world: Callable[..., World], slab: Slab) -> None:
    pytest.importorskip("triton")
    w = world()
    device = GpuMemory(w.checkpoint, torch.device("cpu"), resident=False)
    adapter = w.weights._endpoints[LORA.endpoint]
    update = device._update(adapter, w.checkpoint["k.weight"], slab).numpy()
    columns = np.arange(slab.cols)
    expected = w.update.reshape(-1)[slab.k_off + np.arange(slab.rows)[:, None] * slab.k_stride + columns]
    assert np.array_equal(update.view(np.uint32), expected.reshape(-1).view(np.uint32))


@pytest.mark.thorough
@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_this_file_with_the_gpus_code() -> None:
    """Run this file on the GPU's code in Triton's interpreter, which covers all but the transfers to a device."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
    completed = subprocess.run(
        command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert completed.returncode == 0, completed.stdout[-4000:]
    assert "40 passed" in completed.stdout, completed.stdout[-1000:]
