"""Correct p-values for the number of tests."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import false_discovery_control


def correct(p: Sequence[float]) -> list[float]:
    """Correct p-values by the method of Benjamini and Yekutieli (Annals of Statistics 29, 2001).

    At most 5% of the differences with a corrected p-value below 0.05 are expected to be false, however the tests depend
    on each other. Those of one comparison share probes, and two-sided tests need not depend on each other positively,
    as the method of Benjamini and Hochberg requires.
    """
    return [float(x) for x in false_discovery_control(p, method="by")] if len(p) else []
