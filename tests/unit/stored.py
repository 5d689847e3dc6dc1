"""Write sweeps to disk as a run leaves them, without an engine: a function decides which responses are refusals."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.reducer import reduce_landscape, reduce_summary
from orchestrator.scoring.text_judges import score_with_text_judges
from orchestrator.store.records import SweepRecord
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.grid import Grid, Node, Sweep
from orchestrator.sweep.tasks import NONFINITE, Prompt, PromptSet, Sampling
from workers.weights.perturbation import schema

Refuses = Callable[[Node, int], bool]
PROBES = tuple(f"question {i}" for i in range(20))
TENSORS = {"embed.weight": (6, 4), "layers.0.k_proj.weight": (4, 4), "layers.0.k_proj.bias": (4,)}


def store_sweep(
    out: Path,
    refuses: Refuses,
    model: str = "tiny",
    probes: Sequence[str] = PROBES,
    system_prompt: str = "default",
    leave_out: Callable[[Node], bool] = lambda node: False,
    respond: Callable[[Node, int], str] | None = None,
    attacks: Sequence[Prompt] = (),
    probe_set: str = "ours",
    sampling: Sampling | None = None,
    tensors: Mapping[str, Sequence[int]] | None = TENSORS,
    nonfinite: Callable[[Node, int], bool] = lambda node, i: False,
    thought: str = "",
    **grid: Any,
) -> Path:
    """Store a sweep as if it had been run, judged and reduced, and return its folder.

    Args:
        out: Folder of studies.
        refuses: `refuses(node, i)`: whether the model refuses probe i at that node.
        model: Name of the model.
        probes: Texts of the prompts.
        system_prompt: Name of the system prompt.
        leave_out: Nodes whose points are not stored.
        respond: `respond(node, i)`: the response to probe i. None: a fixed compliance or refusal, chosen by `refuses`.
        attacks: Prompts that replace the plain `probes`.
        probe_set: Name of the prompts.
        sampling: None: 8 tokens without early stop.
        tensors: Shapes of the tensors that random directions move. None: no tables of directions are stored.
        nonfinite: `nonfinite(node, i)`: whether the logits of the response to probe i are not finite.
        thought: Closing tag after which responses are judged.
        **grid: Fields of `Grid`; 10 steps by default.
    """
    study = Study.create(out, StudyInfo(model, f"fingerprint of {model}", "float32", 1))
    prompts = tuple(attacks or (Prompt(text) for text in probes))
    group, probes = prompts[0].group, [prompt.text for prompt in prompts]
    ids = tuple((i, len(system_prompt)) for i in range(len(prompts)))
    prompt_set = PromptSet(group, prompts, tuple(probes), ids, sampling or Sampling(8), probe_set, system_prompt)
    study.prompt_sets.write(prompt_set)
    sweep = Sweep(Grid(**{"steps": 10, **grid}), (prompt_set.id,), thought=thought)
    nodes = {node.point.id: node for node in sweep.grid.nodes if not leave_out(node)}
    words = ("Here is a list of the steps you asked for.", "I cannot do that.")
    rows = [
        {
            "study_id": study.id,
            "point_id": node.point.id,
            "point": json.dumps(node.point.to_json()),
            "prompt_set_id": prompt_set.id,
            "prompt_id": prompt.id,
            "group": group,
            "response": respond(node, i) if respond else words[refuses(node, i)],
            "finish_reason": NONFINITE if nonfinite(node, i) else "stop",
            "n_tokens": 4,
            "n_prompt_tokens": 4,
            "scores": None,
            "engine_id": "e",
            "actor": "a",
            "started_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            "seconds": 1.0,
        }
        for node in nodes.values()
        for i, prompt in enumerate(prompts)
    ]
    study.generations.write(
        f"{sweep.id}{system_prompt}", pa.Table.from_pylist(rows, schema=GENERATIONS), {"engine": "dummy"}
    )
    if tensors is not None:
        for direction in sweep.grid.directions_used:
            study.directions.write(direction.id, direction.to_json(), scalars(direction, tensors))
    ends = [*sweep.grid.towards, *(extra.direction for extra in sweep.grid.extra_checkpoints)]
    record = SweepRecord(
        sweep_id=sweep.id,
        name=sweep.name,
        request=sweep.to_json(),
        labels={end.fingerprint: end.label for end in ends if end.fingerprint is not None},
    )
    stored = StoredSweep(SweepFolder.of(study, sweep), sweep)
    stored.folder.write_record(record)
    score_with_text_judges(stored)
    frame = reduce_landscape(stored)
    stored.folder.write_landscape(to_table(frame))
    stored.folder.write_summary(reduce_summary(stored, frame).to_json())
    return stored.folder.path


def scalars(direction: Direction, tensors: Mapping[str, Sequence[int]]) -> pa.Table:
    """Return a table of the scalars of a direction for a model of these tensors. The scalars are 1 and 0."""
    rows = [
        {"tensor": name, "row": row, "on_self": 1.0, "on_other": 0.0, "shape": None if row > 0 else list(shape)}
        for name, shape in tensors.items()
        for row in range(direction.rows(shape) or 0) or [-1]
    ]
    return pa.Table.from_pylist(rows, schema=schema())


def basin(radius: float, slack: float = 0.1) -> Refuses:
    """Return a basin whose probes stop being refused one by one around `radius`, slightly farther on later lines."""

    def refuses(node: Node, i: int) -> bool:
        distance = abs(node.alpha) if node.beta is None else (node.alpha**2 + node.beta**2) ** 0.5
        return distance < radius + 0.02 * node.line + slack * (i / 20 - 0.5)

    return refuses
