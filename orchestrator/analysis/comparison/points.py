"""Compare the ASR of two sweeps at each point that both measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from orchestrator.analysis import intervals
from orchestrator.analysis.comparison.correction import correct
from orchestrator.analysis.comparison.differences import PointDifference
from orchestrator.analysis.comparison.sweeps import ComparedSweep
from orchestrator.scoring.clusters import design_effect


def compare_points(first: ComparedSweep, second: ComparedSweep, prompts: Sequence[str]) -> tuple[PointDifference, ...]:
    """Return the difference at each point that both sweeps measured, each point once."""
    distinct = [sweep.rows[sweep.rows["n"] > 0].drop_duplicates("point_id") for sweep in (first, second)]
    nodes = distinct[0].merge(distinct[1][["point_id", "n", "n_refused", "asr"]], on="point_id", suffixes=("", "_2"))
    if nodes.empty:
        return ()
    if prompts:
        assert first.verdicts is not None and second.verdicts is not None
        one, two = (verdicts.at(nodes["point_id"].tolist(), prompts) for verdicts in (first.verdicts, second.verdicts))
        known = ~np.isnan(one) & ~np.isnan(two)  # [point, prompt]
        measured = known.any(axis=1)
        nodes, one, two, known = nodes[measured], one[measured], two[measured], known[measured]
        n = known.sum(axis=1)
        asr1, asr2 = (100.0 * ((refused == 0) & known).sum(axis=1) / n for refused in (one, two))
        gained, lost = ((one == 1) & (two == 0)).sum(axis=1), ((one == 0) & (two == 1)).sum(axis=1)
        labels = first.verdicts.labels(prompts)
        effect = design_effect(np.where(known, one - two, np.nan), labels)
        share = intervals.effective_count(n, effect, len(labels), len(np.unique(labels))) / n
        low, high, p = intervals.matched(gained * share, lost * share, n * share)
    else:
        n, m = nodes["n"].to_numpy(), nodes["n_2"].to_numpy()
        asr1, asr2 = nodes["asr"].to_numpy(), nodes["asr_2"].to_numpy()
        shares = [_effective_share(sweep, count) for sweep, count in ((first, n), (second, m))]
        successes = n - nodes["n_refused"].to_numpy(), m - nodes["n_refused_2"].to_numpy()
        low, high, p = intervals.unmatched(
            successes[0] * shares[0], n * shares[0], successes[1] * shares[1], m * shares[1]
        )
    return tuple(
        PointDifference(
            line=int(node["line"]),
            alpha=float(node["alpha"]),
            beta=None if pd.isna(node["beta"]) else float(node["beta"]),
            point_id=node["point_id"],
            n=int(n[i]),
            first=float(asr1[i]),
            second=float(asr2[i]),
            difference=float(asr2[i] - asr1[i]),
            low=100.0 * float(low[i]),
            high=100.0 * float(high[i]),
            p=float(p[i]),
            p_corrected=corrected,
        )
        for i, (node, corrected) in enumerate(zip(nodes.to_dict("records"), correct(p.tolist()), strict=True))
    )


def _effective_share(sweep: ComparedSweep, n: np.ndarray) -> np.ndarray:
    """Return the ratio of the effective number of probes to n at each point; 1 if the sweep has no clusters."""
    clusters = sweep.summary.primary_result.clusters
    return np.ones(len(n)) if clusters is None else clusters.effective(n) / n
