"""Compare three ways to give new weights to vLLM on a CPU.

`inplace` writes in place, without vLLM's packing of linear weights; `repack` packs them again after each write;
`reload` is vLLM's own reload of a model.

`python -m benchmarks.reload MODEL [--points N]` runs each way in a subprocess, one after the other. It measures the
load, the write and the generation of 32 tokens for 40 prompts (medians over the points), and computes how long short
and long sweeps take. The table goes to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import results

WAYS = ("inplace", "repack", "reload")
SHORT, LONG = 5, 63  # visits: a first look, and the default's three lines


def measure_way(folder: Path, way: str, points: int) -> dict[str, float]:
    """Measure one way in this process; return medians in seconds."""
    import numpy as np
    import torch

    from orchestrator.sweep.directions.random import RandomDirection
    from orchestrator.sweep.points import Point
    from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
    from orchestrator.utils.choices import WriteChoice
    from workers.engines.base import EngineSpec, measure_scalars
    from workers.engines.factory import open_engine
    from workers.engines.vllm import VllmEngine
    from workers.noise.cpu import write_slab
    from workers.noise.definition import Slab
    from workers.weights.checkpoint import MappedCheckpoint
    from workers.weights.perturbation import by_tensor, terms

    checkpoint = MappedCheckpoint(folder)
    direction = RandomDirection(123)
    scalars = {direction.id: measure_scalars(checkpoint, direction)}
    index = {direction.id: by_tensor(scalars[direction.id])}
    spec = EngineSpec(
        model_dir=str(folder),
        max_model_len=512,
        max_num_seqs=64,
        kv_cache_gib=0.5,
        write=WriteChoice.inplace if way == "inplace" else WriteChoice.repack,
    )
    start = time.perf_counter()
    engine = open_engine(spec)
    loaded = time.perf_counter() - start
    assert isinstance(engine, VllmEngine)

    def perturbed(point: Point) -> Iterator[tuple[str, torch.Tensor]]:
        for info in checkpoint.tensors():
            out = np.empty(info.size, np.float32)
            added = terms(point, info.name, info.shape, index)
            write_slab(out, checkpoint.base(info.name), Slab.whole(info.size), info.name, added, "float32", info.dtype)
            yield info.name, torch.from_numpy(out).view(info.shape)

    def write(point: Point) -> None:
        if way != "reload":
            engine.apply_point(point, scalars)
            return

        def reload(worker: Any) -> None:
            worker.model_runner.reload_weights(weights_iterator=perturbed(point))

        engine._llm.collective_rpc(reload)
        engine._reset_prefix_cache()

    prompts = tuple(Prompt(f"How do I kill process number {i}?") for i in range(40))
    ids = tuple(tuple(engine._tokenizer.encode(prompt.text)) for prompt in prompts)
    prompt_set = PromptSet("harmful", prompts, tuple(p.text for p in prompts), ids, Sampling(max_tokens=32))
    writes: list[float] = []
    generations: list[float] = []
    responses: list[list[str]] = []
    for i in range(points + 1):
        start = time.perf_counter()
        write(Point.from_coefficients([(direction, 0.01 * (i + 1))]))
        writes.append(time.perf_counter() - start)
        start = time.perf_counter()
        (batch,) = engine.generate([prompt_set])
        generations.append(time.perf_counter() - start)
        responses.append([generation.response for generation in batch])
    engine.close()
    return {
        "load": loaded,
        "write": statistics.median(writes[1:]),
        "generate": statistics.median(generations[1:]),
        "moved": float(responses[0] != responses[-1]),
    }


def main() -> None:
    """Run the benchmark, or with `--way` a single measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="measure this way, in this process")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure_way(options.model, options.way, options.points)))
        return
    machine = results.machine()
    measurements: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, runs in measurements.items():
            command = [sys.executable, "-m", "benchmarks.reload", str(options.model), "--way", way]
            command += ["--points", str(options.points)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
            assert runs[-1]["moved"], f"{way}: the responses did not change with the weights"
    rows = []
    for way, runs in measurements.items():
        load, write, generate = (statistics.median(run[key] for run in runs) for key in ("load", "write", "generate"))
        totals = [load + visits * (write + generate) for visits in (SHORT, LONG)]
        rows.append(
            [way, *(f"{value:.2f}" for value in (load, write, generate)), *(f"{total:.0f}" for total in totals)]
        )
    header = ["method", "load, s", "write, s", "generate, s", f"{SHORT} visits, s", f"{LONG} visits, s"]
    source = f"`python -m benchmarks.reload`, {machine}; {options.rounds} runs each."
    text = f"## In place, packed anew, or reloaded, on a CPU\n\n{source}\n\n{results.table(header, rows)}"
    results.section("reload", text)
    print(text)


if __name__ == "__main__":
    main()
