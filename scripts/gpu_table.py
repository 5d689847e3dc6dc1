"""Make the tables of docs/gpus.md: what a sweep takes on several cards, by the functions of `plan`.

`python -m scripts.gpu_table` writes them between their markers. A test fails if they are not current.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from orchestrator.planning.cost import Plan, estimate
from orchestrator.planning.gpus import find_gpu
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad, Workload
from orchestrator.utils.choices import Dtype

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gpus.md"

DOLLARS = {"rtx4090": 0.4, "a100_80": 1.5, "h100": 2.5, "b200": 5.0}  # assumed, for an hour of one card
MODELS = (  # parameters, layers, hidden, key-value heads, head size, vocabulary: Llama 3.2 1B, 3.1 8B and 3.3 70B
    ModelSize("1B", Dtype.bfloat16, 1_235_814_400, 16, 2048, 8, 64, 128256, tied=True),
    ModelSize("8B", Dtype.bfloat16, 8_030_261_248, 32, 4096, 8, 128, 128256),
    ModelSize("70B", Dtype.bfloat16, 70_553_706_496, 80, 8192, 8, 128, 128256),
)
PAPER_MODELS = (
    ModelSize("LLaMA2-7B", Dtype.bfloat16, 6_738_415_616, 32, 4096, 32, 128, 32000),
    ModelSize("Mistral-7B", Dtype.bfloat16, 7_241_732_096, 32, 4096, 8, 128, 32000),
)
LOAD = PromptLoad(prompts=80, prompt_tokens=80 * 60, max_tokens=512)
EARLY_LOAD = PromptLoad(prompts=80, prompt_tokens=80 * 60, max_tokens=32)  # every response is refused early
EARLY_SHARES = (0.0, 0.25, 0.5, 0.75)  # of visits that end early
GOAL_SECONDS, GOAL_CARDS = 300, ("h100", "h200", "b200")  # for the paper's plane
POINTS = {"1D": 61, "2D": 441}  # three lines of 21 points through one origin; a plane of 21 x 21
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def planned(model: ModelSize, gpu: str, points: int, gpus: int, group: int, load: PromptLoad = LOAD) -> Plan:
    """Return the plan of a sweep on a number of GPUs, of which each actor takes a group."""
    setup = EngineSetup(gpu=gpu, tensor_parallel=group, actors=gpus // group)
    return estimate(model, setup, Workload({"harmful": load}, [("harmful",)] * points, points, points))


def tables() -> dict[str, str]:
    """Return the text between each pair of markers by the marker's name."""
    return {"visits": visits_table(), "sweeps": sweeps_table(), "plane": plane_table(), "goal": goal_table()}


def groups() -> list[tuple[ModelSize, str, int]]:
    """Return (model, card, the fewest cards that hold the model), for each model and card."""
    chosen = []
    for model in MODELS:
        for gpu in DOLLARS:
            fewest = planned(model, gpu, 1, 1, 1).suggested_tensor_parallel
            if fewest is not None:
                chosen.append((model, gpu, fewest))
    return chosen


def visits_table() -> str:
    """Return the table of one visit: cards of an actor, its phases, and what binds."""
    rows = [
        "| model | card | cards an actor | base | write, s | prompts, s | responses, s | a visit, s | most of it is |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for model, gpu, group in groups():
        plan = planned(model, gpu, 1, group, group)
        seconds, memory = plan.seconds, plan.memory
        assert seconds is not None and memory is not None
        numbers = (f"{number:.2f}" for number in (seconds.write, seconds.prefill, seconds.decode, seconds.total))
        cells = (model.name, find_gpu(gpu).name, group, memory.base_at, *numbers, seconds.binds)
        rows.append(_row(cells))
    return "\n".join(rows)


def sweeps_table() -> str:
    """Return the table of whole sweeps: GPU-hours and dollars on the fewest cards, and hours on 1 to 64."""
    counts = " | ".join(str(count) for count in COUNTS)
    rows = [
        f"| sweep | model | card | GPU-hours | dollars | {counts} |",
        "|---|---|---|---|---|" + "---|" * len(COUNTS),
    ]
    for kind, points in POINTS.items():
        for model, gpu, group in groups():
            hours = planned(model, gpu, points, group, group).gpu_hours
            assert hours is not None
            walls = []
            for count in COUNTS:
                wall = planned(model, gpu, points, count, group).wall_hours if count >= group else None
                walls.append("" if wall is None else f"{60 * wall:.0f}")
            cells = (kind, model.name, find_gpu(gpu).name, f"{hours:.2f}", f"{hours * DOLLARS[gpu]:.2f}", *walls)
            rows.append(_row(cells))
    return "\n".join(rows)


def plane_table() -> str:
    """Return the table of the paper's plane on eight H100, with no early stop and with some visits that end early."""
    shares = " | ".join(f"{share:.0%}" for share in EARLY_SHARES)
    rows = [
        f"| model | a visit, s | one that ends early, s | visits an actor | start, s | {shares} |",
        "|---|---|---|---|---|" + "---|" * len(EARLY_SHARES),
    ]
    for model in PAPER_MODELS:
        whole = planned(model, "h100", POINTS["2D"], 8, 1)
        early = planned(model, "h100", POINTS["2D"], 8, 1, EARLY_LOAD)
        assert whole.seconds_per_visit is not None and early.seconds_per_visit is not None
        each = -(-whole.visits // 8)
        minutes = []
        for share in EARLY_SHARES:
            mean = share * early.seconds_per_visit + (1 - share) * whole.seconds_per_visit
            minutes.append(f"{(each * mean + whole.start_seconds) / 60:.1f}")
        seconds = (f"{whole.seconds_per_visit:.2f}", f"{early.seconds_per_visit:.2f}", each)
        rows.append(_row((model.name, *seconds, f"{whole.start_seconds:.0f}", *minutes)))
    return "\n".join(rows)


def goal_table() -> str:
    """Return the table of the paper's plane on several kinds of cards: what binds, and how many meet the goal."""
    rows = [
        "| model | card | a visit, s | most of it is | all visits on eight, s | start, s | minutes "
        "| cards for 5 minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in PAPER_MODELS:
        for gpu in GOAL_CARDS:
            plan = planned(model, gpu, POINTS["2D"], 8, 1)
            seconds, start = plane_seconds(model, gpu, 8), plan.start_seconds
            assert plan.seconds is not None
            fewest = next(n for n in range(1, POINTS["2D"]) if plane_seconds(model, gpu, n) <= GOAL_SECONDS)
            visit = (f"{plan.seconds.total:.2f}", plan.seconds.binds, f"{seconds - start:.0f}", f"{start:.0f}")
            rows.append(_row((model.name, find_gpu(gpu).name, *visit, f"{seconds / 60:.1f}", fewest)))
    return "\n".join(rows)


def plane_seconds(model: ModelSize, gpu: str, cards: int) -> float:
    """Return the time of the paper's plane on a number of cards, with every response of full length."""
    hours = planned(model, gpu, POINTS["2D"], cards, 1).wall_hours
    assert hours is not None
    return 3600 * hours


def _row(cells: tuple[object, ...]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def filled(page: str) -> str:
    """Return the page with current tables."""
    for name, table in tables().items():
        begin, end = f"<!-- table: {name} -->", "<!-- /table -->"
        pattern = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        text = f"{begin}\n<!-- source: scripts/gpu_table.py -->\n\n{table}\n{end}"
        page, count = pattern.subn(text.replace("\\", r"\\"), page)
        if count != 1:
            raise ValueError(f"{PAGE.name}: {begin} must occur once")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
