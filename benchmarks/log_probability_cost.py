"""Compare the time of reading responses at the origin with that of generating them, on the main job.

    OMP_NUM_THREADS=1 python -m benchmarks.log_probability_cost

The model, engine and sweep are those of `run` without options. The program alternates: it generates the responses of
three points, as a sweep does, and then reads those responses that `judging.log_probability=uncertain` reads, so that
other work on the machine slows both alike. It writes wall and CPU time into RESULTS.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.results import machine, section, table
from orchestrator import judges
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.execution.resources import engine_spec
from orchestrator.judges import _log_probability
from orchestrator.pipeline.log_probability import BATCH
from orchestrator.pipeline.prepare import prepare
from orchestrator.sweep.continuations import Continuation, context_id
from orchestrator.sweep.points import ORIGIN
from orchestrator.sweep.tasks import PromptSet
from workers.engines.base import Engine, Generation
from workers.engines.factory import open_engine

POINTS_A_ROUND = 3
GOAL = 5.0
"""Goal, in percent of the time of generating."""


@dataclass
class Spent:
    """Time and number of responses of a step.

    Attributes:
        responses: Number of responses that were generated or read.
        wall: Seconds.
        cpu: CPU seconds of this process, in which the engine runs.
    """

    responses: int = 0
    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def measuring(self, responses: int) -> Iterator[None]:
        """Add the time of the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.responses += responses


def uncertain(prompts: PromptSet, batch: Sequence[Generation], seen: set[tuple[str, str]]) -> Iterator[Continuation]:
    """Yield the different new responses of a point whose text is uncertain and that do not refuse."""
    keyword = judges.get("keyword")
    for prompt, ids, generation in zip(prompts.prompts, prompts.token_ids, batch, strict=True):
        continuation = Continuation(context_id(ids), prompt.id, ids, generation.response)
        key = (continuation.context_id, continuation.response_id)
        is_refused = keyword.verdict(prompt.text, generation.response) == "refused"
        if key not in seen and not is_refused and _log_probability.needs_log_probability(generation.response):
            yield continuation
        seen.add(key)


def read_all(engine: Engine, continuations: Sequence[Continuation]) -> None:
    """Read responses in batches of the usual size."""
    for start in range(0, len(continuations), BATCH):
        engine.log_probabilities(continuations[start : start + BATCH])


def measure() -> dict[str, Spent]:
    """Generate and read the main job's responses; return what each step took, by name."""
    config = compose([])
    prepared = prepare(config, Presets())
    (prompts,) = prepared.prompt_sets
    engine = open_engine(engine_spec(config, prepared.model, "cpu"))
    engine.verify_writes()
    points = prepared.sweep.grid.points()
    scalars = {direction.id: engine.measure(direction) for point in points for direction, _ in point.coefficients}
    spent = {"generating": Spent(), "reading uncertain texts": Spent()}
    seen: set[tuple[str, str]] = set()
    engine.generate([prompts])  # the first call takes longer
    for start in range(0, len(points), POINTS_A_ROUND):
        to_read: list[Continuation] = []
        for point in points[start : start + POINTS_A_ROUND]:
            with spent["generating"].measuring(len(prompts.prompts)):
                engine.apply_point(point, scalars)
                (batch,) = engine.generate([prompts])
            to_read += uncertain(prompts, batch, seen)
        engine.apply_point(ORIGIN, {})
        with spent["reading uncertain texts"].measuring(len(to_read)):
            read_all(engine, to_read)
        print(start, {name: (step.responses, round(step.wall, 1), round(step.cpu, 1)) for name, step in spent.items()})
    engine.close()
    return spent


def report(spent: Mapping[str, Spent], where: str) -> str:
    """Return the section of RESULTS.md."""
    base = spent["generating"]
    rows = [
        [
            name,
            f"{step.responses:,}",
            f"{step.wall:.1f}",
            f"{100 * step.wall / base.wall:.1f}%",
            f"{step.cpu:.1f}",
            f"{100 * step.cpu / base.cpu:.1f}%",
        ]
        for name, step in spent.items()
    ]
    header = ["step", "responses", "seconds", "of generating", "CPU seconds", "of generating"]
    return "\n\n".join(
        [
            "## Cost of log-probabilities",
            f"`python -m benchmarks.log_probability_cost`, {where}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread: "
            "the main job (21 points, 40 prompts, at most 32 tokens, vLLM in float32). Generating includes writing the "
            "weights of each point. The steps alternate every three points, so that other work on the machine slows "
            "both. CPU seconds do not depend on it much, and are the fairer measure on a shared machine.",
            table(header, rows),
            f"Goal: at most {GOAL:.0f}%.",
        ]
    )


if __name__ == "__main__":
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    here = machine()
    text = report(measure(), here)
    section("log-probability cost", text)
    print(text)
