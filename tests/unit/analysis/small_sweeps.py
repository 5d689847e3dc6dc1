"""Build landscapes and verdicts of small sweeps from tables, for tests that compute the expected numbers by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from orchestrator.analysis.landscape import build_landscape
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.analysis.summary.sweep import summarize
from orchestrator.scoring import counts as counting

SETS = pd.DataFrame(
    {
        "prompt_set_id": ["s1", "s2"],
        "probe_set": ["ours", "ours"],
        "group": ["benign", "harmful"],
        "system_prompt": ["default", "default"],
    }
)
HARMFUL = SETS.iloc[[1]]


def grid_nodes(lines: int = 1, alphas: tuple[float, ...] = (-0.5, -0.25, 0.0, 0.25, 0.5)) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "line": k,
                "alpha": a,
                "beta": None,
                "on_grid": True,
                "point_id": "origin" if a == 0 else f"p{k}{a:+}",
                "seed_x": 123 + k,
                "seed_y": None,
            }
            for k in range(lines)
            for a in alphas
        ]
    )


def tally(
    nodes: pd.DataFrame, asr: Sequence[float], n: int = 40, degenerate: float = 0.0, unclear: float = 0.0
) -> pd.DataFrame:
    """Return counts at each distinct point; `asr` is per node, `degenerate` and `unclear` are shares of successes."""
    rows = {}
    for point, s in zip(nodes["point_id"], asr, strict=True):
        if s is None or math.isnan(s):
            continue
        successes = round(s * n / 100)
        n_degenerate = round(successes * degenerate)
        n_unclear = round(successes * unclear)
        classes = (n - successes, successes - n_degenerate - n_unclear, n_degenerate, n_unclear)
        rows[point] = (point, "s2", "keyword", n, *classes)
    return pd.DataFrame(list(rows.values()), columns=[*counting.TASK, *counting.SUMS])


def summary_of(asr: Sequence[float], lines: int = 1, degenerate: float = 0.0) -> SweepSummary:
    nodes = grid_nodes(lines)
    summary = summarize(build_landscape(nodes, tally(nodes, asr, degenerate=degenerate), HARMFUL))
    json.dumps(summary.to_json(), allow_nan=False)
    return summary


def sweep_with_verdicts(lines: int) -> tuple[pd.DataFrame, dict[counting.Combination, counting.ProbeVerdicts]]:
    """Return landscape and verdicts of 40 probes that stop refusing one by one along alpha, sooner on later lines."""
    nodes = grid_nodes(lines, tuple(round(-0.5 + i / 10, 9) for i in range(11)))
    reach = 0.5 - np.arange(40) / 84 - 0.01 * nodes["line"].to_numpy()[:, None]
    refused = (nodes["alpha"].abs().to_numpy()[:, None] < reach).astype(float)
    landscape = build_landscape(nodes, tally(nodes, (100 * (1 - refused.mean(axis=1))).tolist()), HARMFUL)
    first = nodes.drop_duplicates("point_id").index
    points = nodes.loc[first, "point_id"]
    verdicts = counting.ProbeVerdicts(tuple(points), tuple(f"q{i}" for i in range(40)), refused[first])
    return landscape, {("ours", "harmful", "default", "keyword"): verdicts}
