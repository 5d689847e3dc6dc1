"""The interval of a mean over directions covers new directions and new probes; that of one direction, new probes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.coverage import sweep_of
from orchestrator.analysis.landscape import mean_over_lines, primary_rows
from orchestrator.analysis.results.curves import MeanCurve
from orchestrator.scoring.clusters import ProbeClusters


def curve_of(refused: np.ndarray, clusters: ProbeClusters | None = None) -> tuple[pd.DataFrame, MeanCurve]:
    """Return the rows and the curve of verdicts [line, point, probe] at 21 points."""
    frame, summary = sweep_of(refused, clusters)
    (curve,) = summary.primary_result.curves
    return primary_rows(frame), curve


def test_three_directions_that_disagree_are_not_known_within_nine_percent() -> None:
    """At 100, 50 and 0% the mean of the three directions' own intervals is 41.7 to 58.3."""
    refused = np.ones((3, 21, 40))
    refused[0, 12], refused[1, 12, :20] = 0, 0
    rows, curve = curve_of(refused)
    assert curve.value[12] == 50.0 and curve.over == "new directions and probes" and curve.lines == 3
    assert (curve.low[12], curve.high[12]) == (0.0, 100.0), "Student's t is 4.3 times 28.9 on either side"
    mean = mean_over_lines(rows, (curve,))
    assert mean["asr_low"][12] == 0.0 and mean["asr_high"][12] == 100.0
    earlier = mean_over_lines(rows, ())  # a summary that has no curves
    assert earlier["asr"].equals(mean["asr"]) and earlier["asr_low"].isna().all()


def test_the_half_width_is_students_t_and_that_of_the_probes_added_in_squares() -> None:
    rng = np.random.default_rng(5)
    refused = (rng.random((4, 21, 40)) < np.array([0.3, 0.4, 0.5, 0.6])[:, None, None]).astype(float)
    _, curve = curve_of(refused)
    lines = 100 * (1 - refused[:, 5].mean(axis=1))
    over_directions = stats.t.ppf(0.975, 3) * np.sqrt((lines.var(ddof=1) + 2.5**2 / 12) / 4)
    of_probe = 1 - refused[:, 5].mean(axis=0)
    count = min(lines.mean() / 100 * (1 - lines.mean() / 100) / (of_probe.var(ddof=1) / 40), 4 * 40)
    hits = count * lines.mean() / 100
    low, high = stats.beta.ppf(0.025, hits, count - hits + 1), stats.beta.ppf(0.975, hits + 1, count - hits)
    assert curve.low[5] == pytest.approx(lines.mean() - np.hypot(over_directions, lines.mean() - 100 * low))
    assert curve.high[5] == pytest.approx(lines.mean() + np.hypot(over_directions, 100 * high - lines.mean()))


def test_one_direction_has_clopper_and_pearsons_interval_over_new_probes() -> None:
    refused = np.ones((1, 21, 40))
    refused[0, 3, :13] = 0
    rows, curve = curve_of(refused)
    exact = stats.binomtest(13, 40).proportion_ci(0.95, "exact")
    assert curve.over == "new probes"
    assert (curve.low[3], curve.high[3]) == (pytest.approx(100 * exact.low), pytest.approx(100 * exact.high))
    assert mean_over_lines(rows, ())["asr_low"].tolist() == list(curve.low), "an earlier summary says the same"


def test_the_origin_is_one_point_whatever_the_number_of_directions() -> None:
    refused = np.ones((3, 21, 40))
    refused[:, 10, :4] = 0
    _, curve = curve_of(refused)
    exact = stats.binomtest(4, 40).proportion_ci(0.95, "exact")
    assert (curve.low[10], curve.high[10]) == (pytest.approx(100 * exact.low), pytest.approx(100 * exact.high))


def test_a_missing_point_of_one_line_has_no_mean() -> None:
    refused = np.ones((2, 21, 8))
    refused[1, 4] = np.nan
    _, curve = curve_of(refused)
    assert curve.value[4] is None and curve.low[4] is None and curve.value[5] == 0.0


def test_clusters_of_probes_that_agree_widen_the_interval() -> None:
    """Five probes of each of eight clusters always agree: there are 8 observations, not 40."""
    labels = tuple(i // 5 for i in range(40))
    of_point = np.random.default_rng(2).random((1, 21, 8)) < 0.5
    refused = np.repeat(of_point, 5, axis=2).astype(float)
    _, alone = curve_of(refused)
    _, curve = curve_of(refused, ProbeClusters("category", labels))
    _, eight = curve_of(of_point.astype(float))
    for i in range(21):
        assert curve.low[i] <= eight.low[i] + 1e-9 and curve.high[i] >= eight.high[i] - 1e-9
        assert curve.low[i] < alone.low[i] or curve.high[i] > alone.high[i]
