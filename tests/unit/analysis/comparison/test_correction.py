"""The correction of p-values, against its definition."""

from __future__ import annotations

import pytest

from orchestrator.analysis.comparison.correction import correct


def test_p_values_are_corrected_for_any_dependence() -> None:
    """Benjamini and Yekutieli (2001): Benjamini and Hochberg's values, times the sum of 1/i over the tests."""
    p = [0.001, 0.2, 0.01, 0.04]
    by_rank = {0.001: 4 * 0.001, 0.01: 2 * 0.01, 0.04: 4 / 3 * 0.04, 0.2: 0.2}
    expected = [min(1.0, by_rank[value] * (1 + 1 / 2 + 1 / 3 + 1 / 4)) for value in p]
    assert correct(p) == pytest.approx(expected)
