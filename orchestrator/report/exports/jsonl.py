"""One JSON object a line for each response: a flat table for any tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.report.exports.responses import ExportedPoint, ExportedResponse, exported_points
from orchestrator.store.sweep_folder import StoredSweep


def write(stored: StoredSweep, path: Path) -> None:
    """Write every response of a sweep, point by point. docs/howto/export.md lists the fields."""
    with path.open("w", encoding="utf-8") as file:
        for point in exported_points(stored):
            for response in point.responses:
                file.write(json.dumps(_line(point, response), ensure_ascii=False) + "\n")


def _line(point: ExportedPoint, response: ExportedResponse) -> dict[str, Any]:
    node = point.nodes[0]
    return {
        "line": node.line,
        "alpha": node.alpha,
        "beta": node.beta,
        "checkpoint": node.mark or None,
        "probe_set": response.prompt_set.probe_set,
        "group": response.prompt.group,
        "category": response.prompt.category or None,
        "system_prompt": response.prompt_set.system_prompt,
        "prompt": response.prompt.text,
        "response": response.text,
        "answer": response.answer,
        "finish_reason": response.finish_reason,
        "n_tokens": response.n_tokens,
        "classes": response.classes,
        "point_id": point.id,
        "prompt_set_id": response.prompt_set.id,
        "prompt_id": response.prompt.id,
    }
