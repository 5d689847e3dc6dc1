"""The error of VISAGE over new probes: unseen probes count, missing verdicts do not, and the seed is fixed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.population import COORDINATES
from orchestrator.analysis import intervals, resampling


def line(refusing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return verdicts and coordinates of one line: at each of 21 points, the first `refusing` of 20 probes refuse."""
    refused = (np.arange(20) < refusing[:, None]).astype(float)
    return refused[None], COORDINATES[None]


def test_the_interval_allows_for_unseen_probes_if_all_probes_agree() -> None:
    """Twenty equal verdicts do not determine the twenty-first."""
    refusing = np.where(np.abs(np.linspace(-0.5, 0.5, 21)) < 0.2, 20, 0)
    half_width = resampling.error_over_probes(*line(refusing)).half_width()
    assert half_width is not None and 5 < half_width < 30


def test_more_probes_narrow_the_interval_and_the_seed_is_fixed() -> None:
    refusing = np.clip(40 - 100 * np.abs(np.linspace(-0.5, 0.5, 21)), 1, 20)
    refused, coordinates = line(refusing)
    few = resampling.error_over_probes(refused, coordinates)
    many = resampling.error_over_probes(np.tile(refused, (1, 1, 4)), coordinates)
    assert few.se is not None and many.se is not None and many.se < 0.7 * few.se
    assert resampling.error_over_probes(refused, coordinates) == few, "the same verdicts, another interval"


def test_padding_and_missing_verdicts_do_not_count() -> None:
    refused, coordinates = line(np.clip(40 - 100 * np.abs(np.linspace(-0.5, 0.5, 21)), 1, 20))
    padded = np.pad(refused, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    padded_coordinates = np.pad(coordinates, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    assert resampling.error_over_probes(padded, padded_coordinates).se == pytest.approx(
        resampling.error_over_probes(refused, coordinates).se
    )
    assert resampling.score_of_lines(padded) == pytest.approx(resampling.score_of_lines(refused))


def test_too_few_probes_have_a_reason() -> None:
    refused, coordinates = line(np.full(21, 1))
    assert "few probes" in str(resampling.error_over_probes(refused, coordinates).reason)
    assert "one probe" in str(resampling.error_over_probes(refused[..., :1], coordinates).reason)


def test_the_difference_of_a_sweep_from_itself_is_not_significant() -> None:
    refused, coordinates = line(np.clip(40 - 100 * np.abs(np.linspace(-0.5, 0.5, 21)), 1, 20))
    error = resampling.difference_error_over_probes(refused, refused, coordinates)
    alone = resampling.error_over_probes(refused, coordinates)
    assert error.se is not None and alone.se is not None and 0 < error.se < alone.se
    assert intervals.p_value(0.0, [error]) == 1.0


def test_whole_clusters_are_drawn() -> None:
    """Five copies of each of 20 probes are as uncertain as the 20 probes, and not as 100 independent ones."""
    refused, coordinates = line(np.clip(40 - 100 * np.abs(np.linspace(-0.5, 0.5, 21)), 1, 20))
    copies = np.repeat(refused, 5, axis=2)
    one, clustered, independent = (
        resampling.error_over_probes(values, coordinates, labels=labels)
        for values, labels in ((refused, None), (copies, np.repeat(np.arange(20), 5)), (copies, None))
    )
    assert one.se is not None and clustered.se is not None and independent.se is not None
    assert clustered.df == 19 and clustered.se == pytest.approx(one.se, rel=0.1)
    assert independent.df == 99 and independent.se < 0.6 * clustered.se
    assert resampling.error_over_probes(refused, coordinates, labels=np.arange(20)) == one
    alone = resampling.error_over_probes(refused, coordinates, labels=np.zeros(20))
    assert alone.se is None and "one cluster" in str(alone.reason)
