"""HarmBench's files of completions, one for each point.

In such a file, each behavior has a list of completions with `test_case` and `generation` (github.com/centerforaisafety/
HarmBench, docs/evaluation_pipeline.md). The id of a behavior is the prompt's id here, because prompts have no other id
that is theirs alone.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from orchestrator.report.exports.responses import exported_points
from orchestrator.store.sweep_folder import StoredSweep


def write(stored: StoredSweep, path: Path) -> None:
    """Write `POINT.json` for each point of a sweep, and `behaviors.csv`, which maps ids to requests."""
    path.mkdir()
    requests: dict[str, tuple[str, str]] = {}
    for point in exported_points(stored):
        completions: dict[str, list[dict[str, str]]] = {}
        for response in point.responses:
            prompt = response.prompt
            requests[prompt.id] = (prompt.request, prompt.category)
            completion = {"test_case": prompt.text, "generation": response.answer or ""}
            completions.setdefault(prompt.id, []).append(completion)
        text = json.dumps(completions, ensure_ascii=False, indent=1)
        (path / f"{point.name}.json").write_text(text, encoding="utf-8")
    _write_behaviors(path / "behaviors.csv", requests)


def _write_behaviors(path: Path, requests: dict[str, tuple[str, str]]) -> None:
    """Write the requests with the columns of HarmBench's table of behaviors that are known here."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Behavior", "SemanticCategory", "BehaviorID"])
        rows.writerows([request, category, prompt_id] for prompt_id, (request, category) in requests.items())
