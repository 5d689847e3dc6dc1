"""Inferred points: what they add to the error of a score and to the interval of a radius."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.inferred import line_errors, through_all_points
from orchestrator.analysis.summary.basin import widened_radius
from orchestrator.analysis.visage import mean_from_margins

AXIS = np.linspace(-0.5, 0.5, 11).round(9)


def rows(alpha: np.ndarray, beta: np.ndarray, inferred: np.ndarray) -> pd.DataFrame:
    """Return rows of one line or plane at 40% ASR; at inferred points it is inferred."""
    n = np.where(inferred, 0, 20)
    columns = {"alpha": alpha, "beta": beta, "on_grid": True, "inferred": inferred, "n": n, "n_refused": n * 3 // 5}
    return pd.DataFrame({**columns, "n_unfinished": 0, "n_nonfinite": 0, "asr": 40.0})


def test_on_a_line_margins_are_interpolated_between_measured_points() -> None:
    inferred = np.isin(np.arange(11), [1, 2, 6, 9])
    part = rows(AXIS, np.full(11, np.nan), inferred).sample(frac=1, random_state=0)  # in any order
    rng = np.random.default_rng(0)
    margins = rng.uniform(0, 100, size=(3, 1, 7))
    known = part.loc[~part["inferred"], "alpha"].to_numpy()
    order = np.argsort(known)
    expected = [np.interp(AXIS, known[order], each[0][order]).mean() for each in margins]
    assert through_all_points(mean_from_margins, [part])(margins)[:, 0] == pytest.approx(expected)


def test_on_a_plane_a_slope_is_interpolated_exactly() -> None:
    alpha, beta = (axis.ravel() for axis in np.meshgrid(AXIS, AXIS))
    measured = (np.arange(121) % 7 == 0) | ((np.abs(alpha) == 0.5) & (np.abs(beta) == 0.5))
    part = rows(alpha, beta, ~measured)
    slope = 50 + 30 * alpha - 20 * beta
    score = through_all_points(mean_from_margins, [part])
    assert score(slope[measured][None, None, :])[0, 0] == pytest.approx(slope.mean())


def test_only_inferred_points_add_an_error() -> None:
    none = np.zeros(11, dtype=bool)
    whole = rows(AXIS, np.full(11, np.nan), none)
    assert line_errors(whole) is None
    assert through_all_points(mean_from_margins, [whole]) is mean_from_margins
    errors = line_errors(rows(AXIS, np.full(11, np.nan), np.isin(np.arange(11), [1, 2, 3])))
    assert errors is not None and errors.margin is not None and errors.margin > 0


def test_the_interval_of_a_radius_is_widened_on_both_sides() -> None:
    half = math.hypot(0.03, 1.959964 * 0.02)
    assert widened_radius(0.2, 0.17, 0.02) == pytest.approx(0.2 - half)
    assert widened_radius(0.2, 0.23, 0.02) == pytest.approx(0.2 + half)
    assert widened_radius(0.2, 0.17, 0.0) == 0.17 and widened_radius(0.2, 0.17, 1.0) == 0.0
    assert widened_radius(None, 0.5, 0.1) == 0.5 and widened_radius(0.2, None, 0.1) is None
