"""Compare ways to process prompts on a CPU: the size of a cache block, the order of prompts, the tokens of a step.

    OMP_NUM_THREADS=1 python -m benchmarks.prefix_sharing

Prompts that begin alike share whole blocks of vLLM's cache of keys and values, so that smaller blocks share more. The
model, engine and prompts are those of `run` without options, and with the system prompt `llama2`. For each size of a
block an engine runs in a process of its own; they take turns, visit by visit, so that other work on the machine slows
all alike. The responses of each setting are compared with those of the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.results import machine, section, table
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.execution.resources import engine_spec
from orchestrator.pipeline.prepare import prepare
from orchestrator.sweep.points import Point
from workers.engines.factory import open_engine

BLOCKS = (128, 32)


@dataclass(frozen=True)
class Setting:
    """A way to process prompts.

    Attributes:
        block: Tokens of a cache block.
        is_sorted: Whether prompts are sorted by their tokens.
        step: Maximum number of tokens in a step of the scheduler.
    """

    block: int
    is_sorted: bool = False
    step: int = 4096


SETTINGS = {
    "blocks of 128, steps of 4,096": Setting(128),
    "blocks of 32": Setting(32),
    "blocks of 32, sorted prompts": Setting(32, is_sorted=True),
    "steps of 1,024": Setting(128, step=1024),
    "blocks of 32, steps of 1,024": Setting(32, step=1024),
}


@dataclass(frozen=True)
class Case:
    """Visits to measure.

    Attributes:
        options: Options of the main job that differ.
        coefficients: Places on the default direction.
        settings: Names of the settings.
    """

    options: tuple[str, ...]
    coefficients: tuple[float, ...]
    settings: tuple[str, ...] = tuple(SETTINGS)


CASES = {
    "the main job near the origin": Case((), (0.0, 0.1)),
    "the same with `system_prompt=llama2`": Case(("system_prompt=llama2",), (0.0, 0.1)),
    "8 long responses far out": Case(("probes.limit=8", "sampling.max_tokens=256"), (0.4,), tuple(SETTINGS)[:2]),
}
"""Near the origin most responses are short refusals, so that prompts take much of the time."""


def serve(block: int) -> None:
    """Run visits that the standard input names as lines of JSON; write a line about each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may write there
    prepared = [prepare(compose(list(case.options)), Presets()) for case in CASES.values()]
    spec = dataclasses.replace(engine_spec(prepared[0].config, prepared[0].model, "cpu"), block_size=block)
    longest = max(p.config.model.max_model_len for p in prepared)
    engine: Any = open_engine(dataclasses.replace(spec, max_model_len=longest, kv_cache_gib=0.5))
    (direction, _), *_ = next(p.coefficients for p in prepared[0].sweep.grid.points() if p.coefficients)
    scalars = {direction.id: engine.measure(direction)}
    outputs: list[Any] = []
    generate = engine._llm.generate

    def recorded(*args: Any, **options: Any) -> Any:
        outputs[:] = generate(*args, **options)
        return outputs

    engine._llm.generate = recorded
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        visit = json.loads(line)
        (prompts,) = prepared[visit["case"]].prompt_sets
        order = list(range(len(prompts.prompts)))
        if visit["is_sorted"]:
            order.sort(key=lambda i: prompts.token_ids[i])
        moved = dataclasses.replace(
            prompts,
            prompts=tuple(prompts.prompts[i] for i in order),
            rendered=tuple(prompts.rendered[i] for i in order),
            token_ids=tuple(prompts.token_ids[i] for i in order),
        )
        engine._llm.llm_engine.engine_core.engine_core.scheduler.max_num_scheduled_tokens = visit["step"]
        engine.apply_point(Point.from_coefficients([(direction, visit["coefficient"])]), scalars)
        start = time.process_time()
        (batch,) = engine.generate([moved])
        cpu = time.process_time() - start
        responses = {i: one.response for i, one in zip(order, batch, strict=True)}
        answer = {
            "cpu": cpu,
            "prompt_tokens": sum(map(len, moved.token_ids)),
            "computed": sum(len(o.prompt_token_ids) - (o.num_cached_tokens or 0) for o in outputs),
            "generated": sum(one.n_tokens for one in batch),
            "responses": [responses[i] for i in sorted(responses)],
        }
        print(json.dumps(answer), file=answers, flush=True)
    engine.close()


@contextmanager
def engine_process(block: int) -> Iterator[subprocess.Popen[str]]:
    """Start an engine with blocks of that size; end it afterwards."""
    command = [sys.executable, "-m", "benchmarks.prefix_sharing", "--block", str(block)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the engine did not start")
        yield process
        process.stdin.close()


def visit(process: subprocess.Popen[str], setting: Setting, case: int, coefficient: float) -> Mapping[str, Any]:
    """Let an engine run a visit; return what it measured."""
    assert process.stdout is not None and process.stdin is not None
    asked = {"case": case, "coefficient": coefficient, "is_sorted": setting.is_sorted, "step": setting.step}
    print(json.dumps(asked), file=process.stdin, flush=True)
    answer: Mapping[str, Any] = json.loads(process.stdout.readline())
    return answer


def measure(rounds: int) -> list[list[str]]:
    """Return the rows of the table: the means over the visits of each case and setting."""
    visits: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    with ExitStack() as stack:
        processes = {block: stack.enter_context(engine_process(block)) for block in BLOCKS}
        for process in processes.values():
            visit(process, Setting(128), 0, 0.0)  # the first call takes longer
        for _, (i, case) in itertools.product(range(rounds), enumerate(CASES.values())):
            for coefficient, name in itertools.product(case.coefficients, case.settings):
                setting = SETTINGS[name]
                answer = visit(processes[setting.block], setting, i, coefficient)
                visits.setdefault((i, name), []).append(answer)
                print(i, coefficient, name, f"{answer['cpu']:.2f} s", file=sys.stderr)
    rows = []
    for (i, name), answers in visits.items():
        today = visits[i, next(iter(SETTINGS))]
        ratio = sum(a["cpu"] for a in answers) / sum(a["cpu"] for a in today)
        pairs = [
            pair
            for a, b in zip(answers, today, strict=True)
            for pair in zip(a["responses"], b["responses"], strict=True)
        ]
        rows.append(
            [
                list(CASES)[i],
                name,
                *(f"{answers[0][key]:,}" for key in ("prompt_tokens", "computed")),
                f"{sum(a['generated'] for a in answers) / len(answers):,.0f}",
                f"{sum(a['cpu'] for a in answers) / len(answers):.2f}",
                f"{ratio:.2f}",
                f"{sum(a != b for a, b in pairs)} of {len(pairs)}",
            ]
        )
    return rows


def report(rows: list[list[str]], rounds: int, where: str) -> str:
    """Return the section of RESULTS.md."""
    header = [
        "visits",
        "setting",
        "prompt tokens",
        "computed",
        "generated",
        "CPU, s",
        "ratio",
        "other responses",
    ]
    return "\n\n".join(
        [
            "## Sharing prefixes of prompts on a CPU",
            f"`python -m benchmarks.prefix_sharing`, {where}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread: "
            f"visits of the embedded model at the origin, at 0.1 and, far out, at 0.4, {rounds} of each, without "
            "writing the weights. `computed` counts the tokens of a visit's prompts that no earlier prompt has. `CPU` "
            "is the mean time of a visit, and `ratio` that time over the first setting's. `other responses` counts "
            "those that differ from the first setting's.",
            table(header, rows),
        ]
    )


def main() -> None:
    """Run the benchmark, or with --block one of its engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--block", type=int)
    options = parser.parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if options.block is not None:
        serve(options.block)
        return
    here = machine()
    text = report(measure(options.rounds), options.rounds, here)
    section("prefix_sharing", text)
    print(text)


if __name__ == "__main__":
    main()
