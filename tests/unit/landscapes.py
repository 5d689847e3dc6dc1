"""Build landscapes from a curve for tests of reports. Nothing is run, judged or stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from orchestrator.analysis.landscape import build_landscape
from orchestrator.analysis.reducer import nodes
from orchestrator.scoring.counts import SUMS, TASK
from orchestrator.sweep.grid import Grid, Sweep


def landscape(
    curve: Callable[[int, float], float | None], degenerate: float = 0.5, unclear: float = 0.0, **grid: Any
) -> pd.DataFrame:
    """Return a landscape of 40 prompts with the ASR that `curve` gives.

    Args:
        curve: ASR in percent, from (line, alpha), or on a plane from (plane, distance from the origin). None: not
            measured.
        degenerate: Share of the successes that are degenerate.
        unclear: Share of the successes that are unclear.
        grid: Fields of `Grid`; one direction by default.
    """
    sweep = Sweep(Grid(**{"directions": 1, **grid}), ("s",))
    rows = []
    for node in {node.point.id: node for node in sweep.grid.nodes}.values():
        asr = curve(node.line, node.alpha if node.beta is None else math.hypot(node.alpha, node.beta))
        if asr is not None:
            successes = round(asr * 40 / 100)
            bad = round(successes * degenerate)
            doubtful = round(successes * unclear)
            classes = (40 - successes, successes - bad - doubtful, bad, doubtful)
            rows.append((node.point.id, "s", "keyword", 40, *classes))
    sets = pd.DataFrame(
        {"prompt_set_id": ["s"], "probe_set": ["ours"], "group": ["harmful"], "system_prompt": ["safe"]}
    )
    return build_landscape(nodes(sweep), pd.DataFrame(rows, columns=[*TASK, *SUMS]), sets, ["keyword"])
