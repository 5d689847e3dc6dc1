"""Host time of a write on a GPU that holds the base, measured on a CPU: the kernel's launches do nothing.

Every step of a write runs but the launches and the copies to a GPU: the models' tensors have their real names, shapes
and number, and their memory is reserved but never touched.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch

from benchmarks import results
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.utils.choices import Norm
from workers.noise import gpu
from workers.noise.definition import Array, Slab
from workers.weights.checkpoint import TensorInfo
from workers.weights.device_memory import GpuMemory
from workers.weights.layout import Region
from workers.weights.perturbation import schema
from workers.weights.resident import ResidentWeights

CPU = torch.device("cpu")
LINE, ACROSS = RandomDirection(11), RandomDirection(12, orthogonal_to=11)
ROWS, ROWS_ACROSS = RandomDirection(13, Norm.filter), RandomDirection(14, Norm.filter, orthogonal_to=13)


def llama_8b() -> dict[str, tuple[int, ...]]:
    """Return the tensors of Llama-3-8B."""
    hidden, wide, kv, vocabulary = 4096, 14336, 1024, 128256
    layer: dict[str, tuple[int, ...]] = {
        **{f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"},
        **{f"self_attn.{name}_proj.weight": (kv, hidden) for name in "kv"},
        **{f"mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")},
        "mlp.down_proj.weight": (hidden, wide),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    return _model(layer, 32, hidden, vocabulary)


def qwen3_30b_a3b() -> dict[str, tuple[int, ...]]:
    """Return the tensors of Qwen3-30B-A3B, a mixture of 128 experts in each of 48 layers."""
    hidden, wide, vocabulary = 2048, 768, 151936
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (4096, hidden),
        "self_attn.k_proj.weight": (512, hidden),
        "self_attn.v_proj.weight": (512, hidden),
        "self_attn.o_proj.weight": (hidden, 4096),
        "self_attn.q_norm.weight": (128,),
        "self_attn.k_norm.weight": (128,),
        "mlp.gate.weight": (128, hidden),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    for expert in range(128):
        layer |= {f"mlp.experts.{expert}.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
        layer[f"mlp.experts.{expert}.down_proj.weight"] = (hidden, wide)
    return _model(layer, 48, hidden, vocabulary)


def _model(
    layer: Mapping[str, tuple[int, ...]], layers: int, hidden: int, vocabulary: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    return shapes | {f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in layer.items()}


class UntouchedCheckpoint:
    """A checkpoint in bfloat16 whose tensors all share one memory, which the system provides only when it is read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._infos = {name: TensorInfo(name, shapes[name], "bfloat16") for name in sorted(shapes)}
        self._memory = np.zeros(max(info.size for info in self._infos.values()), np.uint16)

    def tensors(self) -> list[TensorInfo]:
        """Return every tensor, sorted by name."""
        return list(self._infos.values())

    def base(self, name: str) -> Array:
        """Return a tensor's bits."""
        return self._memory[: self._infos[name].size]


@dataclass
class Launches:
    """Calls that reached the stubs.

    Attributes:
        grids: (programs per slab, slabs) of each launch.
        copied: Bytes of each copy to the device.
        sums: Number of scales that each weighted sum computes on the device.
    """

    grids: list[tuple[int, int]] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)

    def clear(self) -> None:
        """Forget all calls."""
        for calls in (self.grids, self.copied, self.sums):
            calls.clear()


@contextmanager
def stub_launcher() -> Iterator[Launches]:
    """Record the launches and copies of `workers.noise.gpu` instead of making them.

    Memory for copies is reused, as torch reuses pinned memory, which cannot be had without a GPU.
    """
    launches = Launches()

    @functools.cache
    def host_memory(n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.zeros(n, dtype=dtype)

    def run(form: gpu.Form, grid: tuple[int, int], records: torch.Tensor, quantiles: torch.Tensor) -> None:
        launches.grids.append(grid)

    def upload(packed: torch.Tensor, buffer: torch.Tensor) -> None:
        launches.copied.append(packed.nbytes)

    def weighted_sum(total: torch.Tensor, summands: Sequence[tuple[float, torch.Tensor]]) -> None:
        launches.sums.append(len(total))

    with mock.patch.multiple(gpu, _run=run, _upload=upload, host_memory=host_memory, weighted_sum=weighted_sum):
        yield launches


def open_weights(shapes: Mapping[str, tuple[int, ...]]) -> ResidentWeights:
    """Open the untouched weights of a model, each tensor a parameter of its own, with the base resident."""
    checkpoint: Any = UntouchedCheckpoint(shapes)
    memory = torch.empty(max(info.size for info in checkpoint.tensors()), dtype=torch.bfloat16)
    infos = checkpoint.tensors()
    parameters = {info.name: memory for info in infos}
    layout = {info.name: [Region(info.name, Slab.whole(info.size))] for info in infos}
    device = GpuMemory(checkpoint, CPU, resident=True)
    return ResidentWeights(checkpoint, layout, parameters, "bfloat16", memory=device)


def scalars_of(direction: Direction, shapes: Mapping[str, tuple[int, ...]]) -> pa.Table:
    """Return scalars of a direction that were not measured."""
    names: list[str] = []
    rows: list[int] = []
    for name in sorted(shapes):
        if direction.covers(name):
            units = direction.rows(shapes[name])
            names += [name] * (units or 1)
            rows += [-1] if units is None else range(units)
    return pa.table([names, rows, [0.5] * len(rows), [0.1] * len(rows), [None] * len(rows)], schema=schema())


def cases() -> list[tuple[str, dict[str, tuple[int, ...]], Sequence[Direction]]]:
    """Return (name, tensors, directions) of each case."""
    llama, experts = llama_8b(), qwen3_30b_a3b()
    return [
        ("Llama-3-8B, one direction", llama, [LINE]),
        ("Llama-3-8B, two directions", llama, [LINE, ACROSS]),
        ("Llama-3-8B, filter norm", llama, [ROWS]),
        ("Llama-3-8B, two directions, filter norm", llama, [ROWS, ROWS_ACROSS]),
        ("Qwen3-30B-A3B, one direction", experts, [LINE]),
        ("Qwen3-30B-A3B, two directions", experts, [LINE, ACROSS]),
        ("Qwen3-30B-A3B, filter norm", experts, [ROWS]),
        ("Qwen3-30B-A3B, two directions, filter norm", experts, [ROWS, ROWS_ACROSS]),
    ]


def main() -> None:
    """Run the benchmark and write its section of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    machine = results.machine()
    rows: list[list[str]] = []
    for name, shapes, directions in cases():
        weights = open_weights(shapes)
        scalars = {direction.id: scalars_of(direction, shapes) for direction in directions}
        times, cpu = [], []
        with stub_launcher() as launches:
            weights.apply_point(ORIGIN, {})
            for i in range(options.rounds + 1):
                point = Point.from_coefficients((direction, 0.01 * (i + 1)) for direction in directions)
                launches.clear()
                start, cpu_start = time.perf_counter(), time.thread_time()
                weights.apply_point(point, scalars)
                times.append(time.perf_counter() - start)
                cpu.append(time.thread_time() - cpu_start)
        slabs = sum(n for _, n in launches.grids)
        median, worst = statistics.median(times[1:]), max(times[1:])
        copied = f"{sum(launches.copied) / 1e6:.1f}"
        rows.append(
            [name, f"{slabs:,}", str(len(launches.grids)), str(len(launches.copied)), copied]
            + [f"{1e3 * seconds:.1f}" for seconds in (statistics.median(cpu[1:]), median, worst, times[0])]
        )
    header = ["model", "slabs", "launches", "copies", "MB copied", "CPU, ms", "median, ms", "slowest, ms", "first, ms"]
    text = (
        f"## Host time of a write on a GPU\n\n`python -m benchmarks.gpu_writes`, {machine}.\n\n"
        f"The base is on the GPU. Launches and copies do nothing here, everything else runs ({options.rounds} rounds). "
        "With the filter norm every row of a matrix has a scale, which the GPU computes from scalars that it keeps. "
        "The first write of a direction also arranges its scalars and computes its keys. On a busy machine the median "
        "of the CPU's time says more than those of the clock.\n\n"
        f"{results.table(header, rows)}\n\n"
        "Goals: under 5 ms for an 8B, under 100 ms for a mixture of experts."
    )
    print(text)
    results.section("gpu_writes", text)


if __name__ == "__main__":
    main()
