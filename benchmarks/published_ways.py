"""Processes in which `benchmarks.against_published` measures visits: one with transformers, one with this program.

A request is a line of JSON on the standard input, the answer a line on the standard output. All ways measure the same
model along the same directions, with the same prompts and the same limit of tokens, and with all cores that this
process may use (fewer with `OMP_NUM_THREADS`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.analysis.adaptive.geometry import Node
from orchestrator.analysis.requested import AdaptiveLine
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.execution.resources import engine_spec
from orchestrator.judges import get
from orchestrator.pipeline.prepare import PreparedSweep, prepare
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import PromptSet

if TYPE_CHECKING:
    import torch

GRIDS = {"line": ("grid=random_1d",), "plane": ("grid=random_2d", "grid.plane_steps=20")}
"""Options of the main job for each grid; both have 21 points on an axis."""
PUBLISHED, TUNED, WHOLE, EARLY = "published", "tuned", "whole", "early"
PROCESSES = {"transformers": (PUBLISHED, TUNED), "program": (WHOLE, EARLY)}
PUBLISHED_BATCH = 4


@dataclass(frozen=True)
class Visited:
    """Measurements of one visit.

    Attributes:
        seconds: Time on the clock, for writing the weights and generating.
        cpu: CPU seconds of the process.
        generated: Number of generated tokens.
        unsafe: Number of responses without a keyword of refusal.
        judged: Number of responses.
    """

    seconds: float
    cpu: float
    generated: int
    unsafe: int
    judged: int


def prepared_grid(name: str, early_stop: bool = True) -> PreparedSweep:
    """Return the main job on one of `GRIDS`."""
    stop = f"sampling.early_stop={'true' if early_stop else 'false'}"
    return prepare(compose([*GRIDS[name], "grid.directions=1", stop]), Presets())


class Program:
    """This program's engine, with whole responses or with early stop."""

    def __init__(self) -> None:
        """Load the model."""
        from workers.engines.factory import open_engine

        self._sets = {
            way: prepared_grid("line", early_stop).prompt_sets[0] for way, early_stop in ((WHOLE, False), (EARLY, True))
        }
        prepared = prepared_grid("line")
        self._engine: Any = open_engine(engine_spec(prepared.config, prepared.model, "cpu"))
        self._scalars: dict[str, Any] = {}

    def prepare(self, point: Point) -> None:
        """Measure the scalars of the point's directions, which a study does once."""
        for direction, _ in point.coefficients:
            if direction.id not in self._scalars:
                self._scalars[direction.id] = self._engine.measure(direction)

    def write(self, way: str, point: Point) -> None:
        """Write the weights of a point."""
        self._engine.apply_point(point, self._scalars)

    def generate(self, way: str, tokens: int | None) -> list[tuple[str, int]]:
        """Return response and number of tokens of each prompt, of at most this many tokens (None: as the sweep)."""
        prompts: PromptSet = self._sets[way]
        if tokens is not None:
            prompts = dataclasses.replace(prompts, sampling=dataclasses.replace(prompts.sampling, max_tokens=tokens))
        (batch,) = self._engine.generate([prompts])
        return [(one.response, one.n_tokens) for one in batch]


class Transformers:
    """The same model with transformers' `generate`.

    `published` holds the directions as tensors, computes the point's weights, loads them with `load_state_dict` and
    generates in batches of 4, as the code of the paper does. `tuned` adds in place and generates in one batch.
    """

    def __init__(self) -> None:
        """Load the model."""
        import torch
        import transformers

        from workers.engines.base import thread_count
        from workers.weights.checkpoint import MappedCheckpoint

        transformers.utils.logging.set_verbosity_error()
        prepared = prepared_grid("line", early_stop=False)
        assert prepared.model is not None
        folder = prepared.model.path
        self._prompts = prepared.prompt_sets[0]
        torch.set_num_threads(thread_count(engine_spec(prepared.config, prepared.model, "cpu")))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model = model.eval()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._checkpoint = MappedCheckpoint(folder)
        self._live: dict[str, torch.Tensor] = dict(self._model.named_parameters())
        self._base = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        self._directions: dict[str, dict[str, torch.Tensor]] = {}

    def _as_tensors(self, direction: Direction) -> dict[str, torch.Tensor]:
        """Return a direction as tensors: the weights at coefficient 1 minus the base's."""
        import torch

        from workers.engines.base import measure_scalars
        from workers.noise.cpu import write_slab
        from workers.noise.definition import Slab
        from workers.weights.perturbation import by_tensor, terms

        index = {direction.id: by_tensor(measure_scalars(self._checkpoint, direction))}
        end, steps = Point.from_coefficients([(direction, 1.0)]), {}
        for info in self._checkpoint.tensors():
            out = np.empty(info.size, np.float32)
            added = terms(end, info.name, info.shape, index)
            base = self._checkpoint.base(info.name)
            write_slab(out, base, Slab.whole(info.size), info.name, added, "float32", info.dtype)
            steps[info.name] = torch.from_numpy(out).view(info.shape) - self._base[info.name]
        return steps

    def prepare(self, point: Point) -> None:
        """Compute the point's directions, which both ways do once."""
        for direction, _ in point.coefficients:
            if direction.id not in self._directions:
                self._directions[direction.id] = self._as_tensors(direction)

    def write(self, way: str, point: Point) -> None:
        """Write the weights of a point."""
        import torch

        steps = [(self._directions[direction.id], coefficient) for direction, coefficient in point.coefficients]
        with torch.no_grad():
            if way == PUBLISHED:
                state = {name: base.clone() for name, base in self._base.items()}
                for name, (step, coefficient) in itertools.product(state, steps):
                    state[name] += coefficient * step[name]
                self._model.load_state_dict(state, strict=False)  # tied weights have one name here
            else:
                for name, parameter in self._live.items():
                    parameter.copy_(self._base[name])
                    for step, coefficient in steps:
                        parameter.add_(step[name], alpha=coefficient)

    def generate(self, way: str, tokens: int | None) -> list[tuple[str, int]]:
        """Return response and number of tokens of each prompt, of at most this many tokens (None: as the sweep)."""
        import torch

        ids, limit = self._prompts.token_ids, tokens or self._prompts.sampling.max_tokens
        size = PUBLISHED_BATCH if way == PUBLISHED else len(ids)
        pad = self._tokenizer.pad_token_id
        responses = []
        for batch in (ids[i : i + size] for i in range(0, len(ids), size)):
            longest = max(map(len, batch))
            padded = torch.tensor([[pad] * (longest - len(one)) + list(one) for one in batch])
            mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in batch])
            with torch.inference_mode():
                out = self._model.generate(
                    input_ids=padded, attention_mask=mask, max_new_tokens=limit, do_sample=False, pad_token_id=pad
                )
            new = out[:, longest:]
            texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
            ends = self._model.generation_config.eos_token_id
            responses += [(text, _length(row, ends)) for text, row in zip(texts, new.tolist(), strict=True)]
        return responses


def _length(tokens: Sequence[int], ends: int | Sequence[int]) -> int:
    """Return the number of tokens up to the end of the response; what follows is padding."""
    ends = [ends] if isinstance(ends, int) else ends
    return next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))


def peak() -> float:
    """Return how many floating-point operations a second a large matrix product makes, best of five."""
    import torch

    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)


def serve(name: str) -> None:
    """Answer the requests of the standard input with one of `PROCESSES`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may write there
    runner = Transformers() if name == "transformers" else Program()
    lines = {grid: AdaptiveLine(prepared_grid(grid).sweep.grid, 0) for grid in GRIDS}
    keyword = get("keyword")
    print("ready", file=answers, flush=True)
    for request in map(json.loads, sys.stdin):
        if request["way"] == "peak":
            print(json.dumps({"flops": peak()}), file=answers, flush=True)
            continue
        point = lines[request["grid"]].points[tuple(request["node"])]
        runner.prepare(point)
        start, cpu = time.perf_counter(), time.process_time()
        runner.write(request["way"], point)
        responses = runner.generate(request["way"], request["tokens"])
        taken, used = time.perf_counter() - start, time.process_time() - cpu
        unsafe = sum(keyword.verdict("", text) == "complied" for text, _ in responses)
        visited = Visited(taken, used, sum(n for _, n in responses), unsafe, len(responses))
        print(json.dumps(dataclasses.asdict(visited)), file=answers, flush=True)


class Process:
    """A process of one of `PROCESSES`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def visit(self, way: str, grid: str, node: Node, tokens: int | None = None) -> Visited:
        """Measure a visit."""
        return Visited(**self._answer({"way": way, "grid": grid, "node": node, "tokens": tokens}))

    def peak(self) -> float:
        """Measure the machine's arithmetic, in floating-point operations a second."""
        return float(self._answer({"way": "peak"})["flops"])

    def _answer(self, request: dict[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that measures has ended; see the messages above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def start(name: str) -> Iterator[Process]:
    """Start one of `PROCESSES`; end it afterwards."""
    command = [sys.executable, "-m", "benchmarks.against_published", "--serve", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the process with {name} did not start; see the messages above")
        yield Process(process)
        process.stdin.close()
