"""Measure how long a perturbation takes, compared with the memory's limit and with the methods of published code.

`python -m benchmarks.perturb [--model FOLDER] [--rounds N] [--quick]` measures tensors with the shapes of a 135M model.
The methods take turns within each round, and the medians over the rounds are written to RESULTS.md. With `--model`,
writes through the real engine are measured too.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np
import torch

from benchmarks import results
from workers.noise.cpu import spread, write_slab
from workers.noise.definition import PART, Slab, Term
from workers.noise.reference import from_float32

if TYPE_CHECKING:
    from orchestrator.sweep.tasks import PromptSet
    from workers.engines.vllm import VllmEngine

# SmolLM2-135M's: 30 layers of width 576
LAYER = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536), (576,), (576,)]
SHAPES = {"embed": (49152, 576)} | {f"layers.{i}.{j}": shape for i in range(30) for j, shape in enumerate(LAYER)}

FAR, PAPERS_TOKENS = 0.4, 512

OURS_1, OURS_2 = "ours, 1 direction", "ours, 2 directions"
LIMIT = "copy with add (memory's limit)"
RANDN = "torch.randn, added to each tensor"
KEPT = "a stored direction added to kept weights, load_state_dict (Peng et al.)"
COPIED = "a stored direction times a step, on a deep copy, load_state_dict (Li et al.)"
RESEEDED = "reseeded randn added and subtracted in place"

Method = Callable[[], None]
MeasuredDType = Literal["float32", "bfloat16"]


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _copy_add(dst: Any, src: Any, addend: Any) -> None:
    for i in numba.prange(len(dst)):
        dst[i] = src[i] + addend


class Model:
    """Random weights of the given shapes, and the methods to perturb all of them once."""

    def __init__(self, dtype: MeasuredDType, shapes: dict[str, tuple[int, ...]]) -> None:
        generator = np.random.default_rng(0)
        self._dtype: MeasuredDType = dtype
        self._base = {
            name: from_float32(generator.standard_normal(int(np.prod(shape))).astype(np.float32) * 0.02, dtype)
            for name, shape in shapes.items()
        }
        self._live = {name: np.empty_like(w) for name, w in self._base.items()}
        self._tensors, self._module = self._as_torch(self._base), torch.nn.Module()
        for name, tensor in self._as_torch(self._live).items():
            self._module.register_parameter(_parameter(name), torch.nn.Parameter(tensor, requires_grad=False))
        self._parameters: dict[str, torch.Tensor] = dict(self._module.named_parameters())
        self._direction: dict[str, torch.Tensor] = {}
        self._kept: dict[str, torch.Tensor] = {}

    def methods(self) -> dict[str, Method]:
        """Return name -> a function that perturbs the whole model once."""
        return {
            OURS_1: lambda: self._ours(1),
            OURS_2: lambda: self._ours(2),
            LIMIT: self._copy,
            RANDN: self._randn,
            KEPT: self._step_kept_weights,
            COPIED: self._step_deep_copy,
            RESEEDED: self._reseed,
        }

    def _as_torch(self, arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
        views = {n: torch.from_numpy(a if a.itemsize == 4 else a.view(np.int16)) for n, a in arrays.items()}
        dtype = getattr(torch, self._dtype)
        return {name: (view if view.dtype == torch.float32 else view.view(dtype)) for name, view in views.items()}

    def _ours(self, directions: int) -> None:
        def put(job: tuple[str, Slab]) -> None:
            name, slab = job
            base = self._base[name]
            terms = [Term(seed, np.array([0.01], np.float32), base.size) for seed in range(directions)]
            write_slab(self._live[name], base, slab, name, terms, self._dtype, self._dtype)

        spread(((name, part) for name, w in self._base.items() for part in Slab.whole(w.size).parts(PART)), put)

    def _copy(self) -> None:
        for name, w in self._base.items():
            _copy_add(self._live[name], w, w.dtype.type(1))

    def _randn(self) -> None:
        for name, tensor in self._tensors.items():
            torch.add(tensor, torch.randn_like(tensor), alpha=0.01, out=self._parameters[_parameter(name)].data)

    def _stored_direction(self) -> dict[str, torch.Tensor]:
        if not self._direction:
            self._direction = {name: torch.randn_like(tensor) * 1e-4 for name, tensor in self._tensors.items()}
        return self._direction

    def _step_kept_weights(self) -> None:
        if not self._kept:
            self._kept = {name: tensor.clone() for name, tensor in self._tensors.items()}
        for name, step in self._stored_direction().items():
            self._kept[name] += step
        self._load(self._kept)

    def _step_deep_copy(self) -> None:
        changes = [step * 0.01 for step in self._stored_direction().values()]
        states = copy.deepcopy(self._tensors)
        for state, change in zip(states.values(), changes, strict=True):
            state.add_(change.clone())
        self._load(states)

    def _load(self, states: dict[str, torch.Tensor]) -> None:
        self._module.load_state_dict({_parameter(name): state for name, state in states.items()})

    def _reseed(self) -> None:
        for sign in (1.0, -1.0):
            for seed, parameter in enumerate(self._parameters.values()):
                torch.manual_seed(seed)
                parameter.add_(torch.randn_like(parameter), alpha=sign * 0.01)


def _parameter(name: str) -> str:
    return name.replace(".", "_")


def median_seconds(methods: dict[str, Method], rounds: int) -> dict[str, float]:
    """Return method -> median seconds. The methods take turns, after one turn each that is not measured."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for round_ in range(rounds + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def cpu_section(rounds: int, shapes: dict[str, tuple[int, ...]]) -> str:
    """Measure the methods on this CPU; return a table and the goals."""
    elements = sum(int(np.prod(shape)) for shape in shapes.values())
    rows, goals = [], []
    dtypes: tuple[MeasuredDType, ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        medians = median_seconds(Model(dtype, shapes).methods(), rounds)
        one = medians[OURS_1]
        faster = [f"{medians[name] / one:.1f}" for name in (RANDN, KEPT, COPIED, RESEEDED)]
        goals.append(
            f"in {dtype}, {one / medians[LIMIT]:.1f} times as long as a copy with an addition (goal: at most 4), "
            f"{faster[0]} times as fast as randn (goal: at least 4), {', '.join(faster[1:-1])} and {faster[-1]} times "
            "as fast as the published methods (goal: at least 5)"
        )
        for name, seconds in medians.items():
            moved = 2 * elements * (4 if dtype == "float32" else 2)  # bytes that must be read and written at least
            cells = [
                dtype,
                name,
                f"{seconds / elements * 1e9:.2f}",
                f"{moved / seconds / 1e9:.1f}",
                f"{seconds / one:.2f}",
            ]
            rows.append(cells)
    header = ["dtype", "method", "ns per element", "GB/s", "time relative to ours (1 direction)"]
    table = results.table(header, rows)
    return f"{elements / 1e6:.0f}M elements, medians of {rounds} rounds.\n\n{table}\n\nOurs: {'; '.join(goals)}."


def gpu_section(rounds: int, n: int = 1 << 28) -> str:
    """Measure the GPU's kernel and a plain copy on one tensor of n elements; return a table."""
    from workers.noise import gpu

    def seconds(method: Method) -> float:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        method()
        stop.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(stop)) / 1e3

    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        source = torch.randn(n, device="cuda").to(dtype)
        target = torch.empty_like(source)

        def copy_all(target: torch.Tensor = target, source: torch.Tensor = source) -> None:
            target.copy_(source)

        def ours(directions: int, target: torch.Tensor = target, source: torch.Tensor = source) -> None:
            terms = [Term(seed, np.array([0.01], np.float32), n) for seed in range(directions)]
            gpu.write_slab(target, source, Slab.whole(n), "w", terms)

        limit = "copy (memory's limit)"
        methods: dict[str, Method] = {limit: copy_all, OURS_1: partial(ours, 1), OURS_2: partial(ours, 2)}
        times: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(rounds + 2):
            for name, method in methods.items():
                times[name].append(seconds(method))
        medians = {name: statistics.median(values[2:]) for name, values in times.items()}
        for name, median in medians.items():
            rate = 2 * n * source.element_size() / median / 1e9
            share = f"{100 * medians[limit] / median:.0f}%"
            rows.append([str(dtype), name, f"{median / n * 1e9:.4f}", f"{rate:.0f}", share])
    header = ["dtype", "way", "ns an element", "GB/s", "of the copy's bandwidth"]
    return f"{torch.cuda.get_device_name()}, {n / 1e6:.0f}M elements.\n\n{results.table(header, rows)}"


def _prompt_set(engine: VllmEngine) -> PromptSet:
    """Return 40 prompts with responses of at most 32 tokens."""
    from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling

    prompts = tuple(Prompt(f"How do I kill process number {i}?") for i in range(40))
    ids = tuple(tuple(engine._tokenizer.encode(prompt.text)) for prompt in prompts)
    return PromptSet("harmful", prompts, tuple(p.text for p in prompts), ids, Sampling(max_tokens=32))


def engine_section(folder: Path, rounds: int) -> str:
    """Measure whole-model writes through vLLM, and their share of a visit of 40 prompts.

    Visits near the origin and far from it are measured. Near the origin, responses have at most 32 tokens and often
    fewer; far from it, each is as long as the paper allows.
    """
    from orchestrator.sweep.directions.random import RandomDirection
    from orchestrator.sweep.points import Point
    from orchestrator.sweep.tasks import Sampling
    from workers.engines.base import EngineSpec
    from workers.engines.vllm import VllmEngine

    spec = EngineSpec(model_dir=str(folder), max_model_len=1024, max_num_seqs=64, kv_cache_gib=1.5)
    resident = VllmEngine(spec)
    first, second = RandomDirection(123), RandomDirection(124, orthogonal_to=123)
    start = time.perf_counter()
    scalars = {d.id: resident.measure(d) for d in (first, second)}
    measured = time.perf_counter() - start
    prompt_set = _prompt_set(resident)
    writes: dict[str, list[float]] = {"1 direction": [], "2 directions": []}
    visits: list[float] = []
    for i in range(rounds + 1):
        alpha = 0.01 * (i + 1)
        for name, point in (
            ("2 directions", Point.from_coefficients([(first, alpha), (second, -alpha)])),
            ("1 direction", Point.from_coefficients([(first, alpha)])),
        ):
            start = time.perf_counter()
            resident.apply_point(point, scalars)
            writes[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        resident.generate([prompt_set])
        visits.append(writes["1 direction"][-1] + time.perf_counter() - start)
    packing = []
    for _ in range(rounds):
        start = time.perf_counter()
        resident._rpc("_landscape_repack")
        packing.append(time.perf_counter() - start)
    start = time.perf_counter()
    resident.apply_point(Point.from_coefficients([(first, FAR)]), scalars)
    resident.generate([dataclasses.replace(prompt_set, sampling=Sampling(max_tokens=PAPERS_TOKENS))])
    far = time.perf_counter() - start
    resident.close()
    one, two = (statistics.median(writes[name][1:]) for name in ("1 direction", "2 directions"))
    visit = statistics.median(visits[1:])
    infos = resident.tensors()
    elements = sum(info.size for info in infos)
    per_element = [f"{seconds / elements * 1e9:.2f}" for seconds in (one, two)]
    return (
        f"Through vLLM ({elements / 1e6:.0f}M weights stored in {infos[0].dtype}, engine in {spec.dtype}, medians of "
        f"{rounds}): a write takes {one:.3f} s along one direction and {two:.3f} s along two "
        f"({' and '.join(per_element)} ns per element). In both cases, {statistics.median(packing):.3f} s of this are "
        f"vLLM's packing for the CPU. A visit of 40 prompts with 32 tokens each takes {visit:.2f} s, and the write is "
        f"{100 * one / visit:.1f}% of it (goal: under 3%). At alpha {FAR}, where no response ends early, a visit with "
        f"{PAPERS_TOKENS} tokens per prompt takes {far:.0f} s, and the write is {100 * one / far:.2f}% of it. "
        f"Measuring the scalars of both directions takes {measured:.2f} s, once per study."
    )


def main() -> None:
    """Run the benchmark and write its section of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a checkpoint to measure through vLLM")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="measure a few layers and write nothing to RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shapes = dict(list(SHAPES.items())[1:28]) if options.quick else SHAPES
    text = f"## Perturbing\n\n`python -m benchmarks.perturb`, {results.machine()}."
    text += f"\n\n{cpu_section(options.rounds, shapes)}"
    if torch.cuda.is_available():
        text += f"\n\n{gpu_section(options.rounds)}"
    if options.model:
        text += f"\n\n{engine_section(options.model, options.rounds)}"
    print(text)
    if not options.quick:
        results.section("perturb", text)


if __name__ == "__main__":
    main()
