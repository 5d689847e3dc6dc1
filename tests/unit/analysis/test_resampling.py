"""The error of VISAGE over new probes: unseen probes count, missing verdicts do not, and the seed is fixed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.coverage import COORDINATES
from orchestrator.analysis import intervals, resampling


def line(refusing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One line, from how many of 20 probes refuse at each of 21 points: the same probes everywhere, easiest first."""
    refused = (np.arange(20) < refusing[:, None]).astype(float)
    return refused[None], COORDINATES[None]


def test_unseen_probes_are_reckoned_with_where_all_agree() -> None:
    """Twenty probes of one mind leave room for the twenty-first."""
    same = np.where(np.abs(np.linspace(-0.5, 0.5, 21)) < 0.2, 20, 0)
    half = resampling.over_probes(*line(same)).half_width()
    assert half is not None and 5 < half < 30


def test_more_probes_and_less_disagreement_narrow_the_interval() -> None:
    wall = np.clip(40 - 100 * np.abs(np.linspace(-0.5, 0.5, 21)), 1, 20)
    refused, coordinates = line(wall)
    few = resampling.over_probes(refused, coordinates)
    many = resampling.over_probes(np.tile(refused, (1, 1, 4)), coordinates)
    assert few.se is not None and many.se is not None and many.se < 0.7 * few.se
    assert resampling.over_probes(refused, coordinates) == few, "the same verdicts, another interval"


def test_padding_and_missing_answers_do_not_count() -> None:
    refused, coordinates = line(np.clip(40 - 100 * np.abs(np.linspace(-0.5, 0.5, 21)), 1, 20))
    padded = np.pad(refused, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    further = np.pad(coordinates, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    assert resampling.over_probes(padded, further).se == pytest.approx(resampling.over_probes(refused, coordinates).se)
    assert resampling.visage_of_lines(padded) == pytest.approx(resampling.visage_of_lines(refused))


def test_what_probes_cannot_say_is_explained() -> None:
    refused, coordinates = line(np.full(21, 1))
    assert "few probes" in str(resampling.over_probes(refused, coordinates).reason)
    assert "one probe" in str(resampling.over_probes(refused[..., :1], coordinates).reason)


def test_the_same_sweep_twice_differs_by_nothing() -> None:
    refused, coordinates = line(np.clip(40 - 100 * np.abs(np.linspace(-0.5, 0.5, 21)), 1, 20))
    error = resampling.difference_over_probes(refused, refused, coordinates)
    alone = resampling.over_probes(refused, coordinates)
    assert error.se is not None and alone.se is not None and 0 < error.se < alone.se
    assert intervals.p_value(0.0, [error]) == 1.0
