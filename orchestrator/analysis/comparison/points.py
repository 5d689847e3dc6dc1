"""Compare the ASR of two sweeps at each point that both measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.analysis import intervals
from orchestrator.analysis.comparison.correction import correct
from orchestrator.analysis.comparison.differences import PointDifference
from orchestrator.analysis.comparison.sweeps import ComparedSweep
from orchestrator.scoring.clusters import design_effect
from orchestrator.scoring.counts import ProbeVerdicts


@dataclass(frozen=True)
class _Tests:
    """The comparisons of ASR at nodes, each [node].

    Attributes:
        n: Number of probes.
        asr: ASR in the first and in the second sweep, percent.
        low: Lower end of the interval of the difference, as a proportion.
        high: Its upper end.
        p: p-value of the difference.
    """

    n: np.ndarray
    asr: tuple[np.ndarray, np.ndarray]
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def compare_points(first: ComparedSweep, second: ComparedSweep, prompts: Sequence[str]) -> tuple[PointDifference, ...]:
    """Return the difference at each point that both sweeps measured, each point once.

    Args:
        first: The first sweep.
        second: The other sweep.
        prompts: Ids of the probes to pair. Empty: the probes of the two sweeps are treated as independent.
    """
    distinct = [sweep.rows[sweep.rows["n"] > 0].drop_duplicates("point_id") for sweep in (first, second)]
    nodes = distinct[0].merge(distinct[1][["point_id", "n", "n_refused", "asr"]], on="point_id", suffixes=("", "_2"))
    if nodes.empty:
        return ()
    if prompts:
        assert first.verdicts is not None and second.verdicts is not None
        nodes, tests = _test_paired(nodes, first.verdicts, second.verdicts, prompts)
    else:
        tests = _test_unpaired(nodes, first, second)
    return tuple(
        PointDifference(
            line=int(node["line"]),
            alpha=float(node["alpha"]),
            beta=None if pd.isna(node["beta"]) else float(node["beta"]),
            point_id=node["point_id"],
            n=int(tests.n[i]),
            first=float(tests.asr[0][i]),
            second=float(tests.asr[1][i]),
            difference=float(tests.asr[1][i] - tests.asr[0][i]),
            low=100.0 * float(tests.low[i]),
            high=100.0 * float(tests.high[i]),
            p=float(tests.p[i]),
            p_corrected=corrected,
        )
        for i, (node, corrected) in enumerate(zip(nodes.to_dict("records"), correct(tests.p.tolist()), strict=True))
    )


def _test_paired(
    nodes: pd.DataFrame, first: ProbeVerdicts, second: ProbeVerdicts, prompts: Sequence[str]
) -> tuple[pd.DataFrame, _Tests]:
    """Compare the verdicts on the same probes. Nodes at which no probe has both verdicts are dropped."""
    one, two = (verdicts.at(nodes["point_id"].tolist(), prompts) for verdicts in (first, second))
    known = ~np.isnan(one) & ~np.isnan(two)  # [node, prompt]
    measured = known.any(axis=1)
    nodes, one, two, known = nodes[measured], one[measured], two[measured], known[measured]
    n = known.sum(axis=1)
    asr_1, asr_2 = (100.0 * ((refused == 0) & known).sum(axis=1) / n for refused in (one, two))
    gained, lost = ((one == 1) & (two == 0)).sum(axis=1), ((one == 0) & (two == 1)).sum(axis=1)
    labels = first.labels(prompts)
    effect = design_effect(np.where(known, one - two, np.nan), labels)
    share = intervals.effective_count(n, effect, len(labels), len(np.unique(labels))) / n
    low, high, p = intervals.matched(gained * share, lost * share, n * share)
    return nodes, _Tests(n, (asr_1, asr_2), low, high, p)


def _test_unpaired(nodes: pd.DataFrame, first: ComparedSweep, second: ComparedSweep) -> _Tests:
    """Compare the counts of two sweeps as those of independent probes."""
    n, m = nodes["n"].to_numpy(), nodes["n_2"].to_numpy()
    shares = [_effective_share(sweep, count) for sweep, count in ((first, n), (second, m))]
    successes = n - nodes["n_refused"].to_numpy(), m - nodes["n_refused_2"].to_numpy()
    low, high, p = intervals.unmatched(successes[0] * shares[0], n * shares[0], successes[1] * shares[1], m * shares[1])
    return _Tests(n, (nodes["asr"].to_numpy(), nodes["asr_2"].to_numpy()), low, high, p)


def _effective_share(sweep: ComparedSweep, n: np.ndarray) -> np.ndarray:
    """Return the ratio of the effective number of probes to n at each point; 1 if the sweep has no clusters."""
    clusters = sweep.summary.primary_result.clusters
    return np.ones(len(n)) if clusters is None else clusters.effective(n) / n
