"""How long a perturbation takes, beside the memory's limit and the ways published code does it.

`python -m benchmarks.perturb [--model FOLDER] [--rounds N] [--quick]`: tensors of the shapes of a 135M model, all ways
in turn within each round, medians over the rounds, written to RESULTS.md. With `--model` also through the real engine.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from benchmarks import results
from workers.noise.cpu import spread, write_slab
from workers.noise.definition import PART, Slab, Term
from workers.noise.reference import from_float32

# SmolLM2-135M's: 30 layers of width 576
LAYER = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536), (576,), (576,)]
SHAPES = {"embed": (49152, 576)} | {f"layers.{i}.{j}": shape for i in range(30) for j, shape in enumerate(LAYER)}

FAR, PAPERS_TOKENS = 0.4, 512

LIMIT = "copy with add (memory's limit)"
RANDN = "torch.randn, added to each tensor"
KEPT = "a stored direction added to kept weights, load_state_dict (Peng et al.)"
COPIED = "a stored direction times a step, on a deep copy, load_state_dict (Li et al.)"
RESEEDED = "reseeded randn added and subtracted in place"

Way = Callable[[], None]


@numba.njit(parallel=True, cache=True)
def _copy_add(dst, src, addend):  # type: ignore[no-untyped-def]
    for i in numba.prange(len(dst)):
        dst[i] = src[i] + addend


def ways(dtype: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Way]:
    """Each a function that moves the whole model once."""
    generator = np.random.default_rng(0)
    flat = {
        name: generator.standard_normal(int(np.prod(shape))).astype(np.float32) * 0.02 for name, shape in shapes.items()
    }
    base = {name: from_float32(w, "float32" if dtype == "float32" else "bfloat16") for name, w in flat.items()}
    live = {name: np.empty_like(w) for name, w in base.items()}
    torch_dtype = getattr(torch, dtype)

    def as_torch(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
        views = {n: torch.from_numpy(a if a.itemsize == 4 else a.view(np.int16)) for n, a in arrays.items()}
        return {name: (view if view.dtype == torch.float32 else view.view(torch_dtype)) for name, view in views.items()}

    tensors, module = as_torch(base), torch.nn.Module()
    for name, tensor in as_torch(live).items():
        module.register_parameter(name.replace(".", "_"), torch.nn.Parameter(tensor, requires_grad=False))
    parameters = dict(module.named_parameters())
    stored: dict[str, torch.Tensor] = {}
    walked: dict[str, torch.Tensor] = {}

    def ours(n: int) -> Way:
        def put(job: tuple[str, Slab]) -> None:
            name, slab = job
            terms = [Term(seed, np.array([0.01], np.float32), base[name].size) for seed in range(n)]
            write_slab(live[name], base[name], slab, name, terms, dtype, dtype)  # type: ignore[arg-type]

        def run() -> None:
            spread(((name, part) for name, w in base.items() for part in Slab.whole(w.size).parts(PART)), put)

        return run

    def memory() -> None:
        for name, w in base.items():
            _copy_add(live[name], w, w.dtype.type(1))

    def randn() -> None:
        for name, tensor in tensors.items():
            torch.add(tensor, torch.randn_like(tensor), alpha=0.01, out=parameters[name.replace(".", "_")].data)

    def on(states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name.replace(".", "_"): state for name, state in states.items()}

    def direction() -> dict[str, torch.Tensor]:
        if not stored:
            stored.update({name: torch.randn_like(tensor) * 1e-4 for name, tensor in tensors.items()})
        return stored

    def stepped() -> None:
        if not walked:
            walked.update({name: tensor.clone() for name, tensor in tensors.items()})
        for name, step in direction().items():
            walked[name] += step
        module.load_state_dict(on(walked))

    def copied() -> None:
        changes = [step * 0.01 for step in direction().values()]
        states = copy.deepcopy(tensors)
        for state, change in zip(states.values(), changes, strict=True):
            state.add_(change.clone())
        module.load_state_dict(on(states))

    def reseeded() -> None:
        for sign in (1.0, -1.0):
            for seed, parameter in enumerate(parameters.values()):
                torch.manual_seed(seed)
                parameter.add_(torch.randn_like(parameter), alpha=sign * 0.01)

    return {
        "ours, 1 direction": ours(1),
        "ours, 2 directions": ours(2),
        LIMIT: memory,
        RANDN: randn,
        KEPT: stepped,
        COPIED: copied,
        RESEEDED: reseeded,
    }


def timed(found: dict[str, Way], rounds: int) -> dict[str, float]:
    """Way -> median seconds; the ways take turns, after one unmeasured turn each."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for round_ in range(rounds + 1):
        for name, way in found.items():
            start = time.perf_counter()
            way()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def kernels(rounds: int, shapes: dict[str, tuple[int, ...]]) -> str:
    """The table."""
    elements = sum(int(np.prod(shape)) for shape in shapes.values())
    rows, goals = [], []
    for dtype in ("float32", "bfloat16"):
        medians = timed(ways(dtype, shapes), rounds)
        one = medians["ours, 1 direction"]
        faster = [f"{medians[name] / one:.1f}" for name in (RANDN, KEPT, COPIED, RESEEDED)]
        goals.append(
            f"in {dtype} {one / medians[LIMIT]:.1f} times the memory's limit (4 at most), {faster[0]} times as fast as "
            f"randn (4 at least), {', '.join(faster[1:-1])} and {faster[-1]} times as fast as the published ways (5 at "
            "least)"
        )
        for name, seconds in medians.items():
            moved = 2 * elements * (4 if dtype == "float32" else 2)  # what must be read and written at least
            cells = [
                dtype,
                name,
                f"{seconds / elements * 1e9:.2f}",
                f"{moved / seconds / 1e9:.1f}",
                f"{seconds / one:.2f}",
            ]
            rows.append(cells)
    header = ["dtype", "way", "ns an element", "GB/s", "times ours (1 direction)"]
    table = results.table(header, rows)
    return f"{elements / 1e6:.0f}M elements, medians of {rounds} rounds.\n\n{table}\n\nGoals: {'; '.join(goals)}."


def on_gpu(rounds: int, n: int = 1 << 28) -> str:
    """The GPU's kernel beside a plain copy on it: one tensor of n elements."""
    from workers.noise import gpu

    def seconds(way: Way) -> float:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        way()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1e3

    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        source = torch.randn(n, device="cuda").to(dtype)
        target = torch.empty_like(source)

        def ours(count: int, target: torch.Tensor = target, source: torch.Tensor = source) -> None:
            terms = [Term(seed, np.array([0.01], np.float32), n) for seed in range(count)]
            gpu.write_slab(target, source, Slab.whole(n), "w", terms)

        found: dict[str, Way] = {
            "copy (memory's limit)": lambda target=target, source=source: target.copy_(source),  # type: ignore[misc]
            "ours, 1 direction": lambda: ours(1),
            "ours, 2 directions": lambda: ours(2),
        }
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds + 2):
            for name, way in found.items():
                times[name].append(seconds(way))
        medians = {name: statistics.median(values[2:]) for name, values in times.items()}
        limit = medians["copy (memory's limit)"]
        for name, median in medians.items():
            rate = 2 * n * source.element_size() / median / 1e9
            rows.append([str(dtype), name, f"{median / n * 1e9:.4f}", f"{rate:.0f}", f"{100 * limit / median:.0f}%"])
    header = ["dtype", "way", "ns an element", "GB/s", "of the copy's bandwidth"]
    return f"{torch.cuda.get_device_name()}, {n / 1e6:.0f}M elements.\n\n{results.table(header, rows)}"


def engine(folder: Path, rounds: int) -> str:
    """Whole-model writes through vLLM, and their share of a visit of 40 prompts: near the origin, where answers are at
    most 32 tokens and often shorter, and far from it, where each is as long as the paper lets it be."""
    from orchestrator.sweep.points import Point, RandomDirection
    from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
    from workers.engines.base import EngineSpec
    from workers.engines.factory import open_engine
    from workers.engines.vllm import VllmEngine

    spec = EngineSpec(model_dir=str(folder), max_model_len=1024, max_num_seqs=64, kv_cache_gib=1.5)
    resident = open_engine(spec)
    assert isinstance(resident, VllmEngine)
    first, second = RandomDirection(123), RandomDirection(124, orthogonal_to=123)
    start = time.perf_counter()
    scalars = {d.id: resident.measure(d) for d in (first, second)}
    measured = time.perf_counter() - start
    prompts = tuple(Prompt(f"How do I kill process number {i}?") for i in range(40))
    ids = tuple(tuple(resident._tokenizer.encode(prompt.text)) for prompt in prompts)
    asked = PromptSet("harmful", prompts, tuple(p.text for p in prompts), ids, Sampling(max_tokens=32))
    writes: dict[str, list[float]] = {"1 direction": [], "2 directions": []}
    visits: list[float] = []
    for i in range(rounds + 1):
        alpha = 0.01 * (i + 1)
        for name, point in (
            ("2 directions", Point.at([(first, alpha), (second, -alpha)])),
            ("1 direction", Point.at([(first, alpha)])),
        ):
            start = time.perf_counter()
            resident.apply_point(point, scalars)
            writes[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        resident.generate([asked])
        visits.append(writes["1 direction"][-1] + time.perf_counter() - start)
    packing = []
    for _ in range(rounds):
        start = time.perf_counter()
        resident._rpc("_landscape_repack")
        packing.append(time.perf_counter() - start)
    start = time.perf_counter()
    resident.apply_point(Point.at([(first, FAR)]), scalars)
    resident.generate([dataclasses.replace(asked, sampling=Sampling(max_tokens=PAPERS_TOKENS))])
    far = time.perf_counter() - start
    resident.close()
    one, two = (statistics.median(writes[name][1:]) for name in ("1 direction", "2 directions"))
    visit = statistics.median(visits[1:])
    infos = resident.tensors()
    elements = sum(info.size for info in infos)
    per_element = [f"{seconds / elements * 1e9:.2f}" for seconds in (one, two)]
    return (
        f"Through vLLM, {elements / 1e6:.0f}M weights stored in {infos[0].dtype}, engine in {spec.dtype}, medians of "
        f"{rounds}: a write {one:.3f} s along one direction, {two:.3f} s along two ({' and '.join(per_element)} ns an "
        f"element), {statistics.median(packing):.3f} s of either vLLM's packing for its CPU; a visit of 40 prompts and "
        f"32 tokens {visit:.2f} s, of which the write is {100 * one / visit:.1f}% (goal: under 3); at alpha {FAR}, "
        f"where nothing ends early, one of {PAPERS_TOKENS} tokens {far:.0f} s, of which it is {100 * one / far:.2f}%. "
        f"The scalars of both directions took {measured:.2f} s, once a study."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a checkpoint to measure through vLLM")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a few layers, nothing written to RESULTS.md")
    asked = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shapes = dict(list(SHAPES.items())[1:28]) if asked.quick else SHAPES
    text = f"## Perturbing\n\n`python -m benchmarks.perturb`, {results.machine()}.\n\n{kernels(asked.rounds, shapes)}"
    if torch.cuda.is_available():
        text += f"\n\n{on_gpu(asked.rounds)}"
    if asked.model:
        text += f"\n\n{engine(asked.model, asked.rounds)}"
    print(text)
    if not asked.quick:
        results.section("perturb", text)


if __name__ == "__main__":
    main()
