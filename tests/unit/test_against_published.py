"""Test the estimates of `benchmarks.against_published`, and that its file of timings survives an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.against_published import Store, Timing, ratio
from benchmarks.published_ways import PUBLISHED, Visited


def test_a_ratio_of_everything_is_exact() -> None:
    estimate = ratio([(2, [4.0, 8.0], [1.0, 2.0]), (1, [6.0], [3.0])])
    assert (estimate.value, estimate.half_width) == (3.0, 0.0)


@pytest.mark.thorough
def test_the_interval_of_a_ratio_contains_it() -> None:
    rng, hits = np.random.default_rng(0), 0
    sizes, trials = (110, 110, 110, 111), 200
    x = [rng.uniform(1, 2 + i, n) for i, n in enumerate(sizes)]
    y = [(5 - i) * each * rng.lognormal(0, 0.2, len(each)) for i, each in enumerate(x)]
    true = sum(map(np.sum, y)) / sum(map(np.sum, x))
    for _ in range(trials):
        picked = [rng.permutation(n)[:10] for n in sizes]
        estimate = ratio([(n, b[i].tolist(), a[i].tolist()) for n, a, b, i in zip(sizes, x, y, picked, strict=True)])
        hits += abs(estimate.value - true) <= estimate.half_width
    assert hits / trials >= 0.92


def test_timings_are_read_again_and_half_a_line_is_not(tmp_path: Path) -> None:
    path = tmp_path / "timings.jsonl"
    timing = Timing("plane", PUBLISHED, (3, 4), None, Visited(2.5, 2.0, 100, 7, 40), 0.5)
    store = Store(path)
    store.add(timing)
    store.add_peak(1e11)
    with path.open("a") as file:
        file.write('\n{"grid": "pla')
    store = Store(path)
    store.add(Timing("plane", PUBLISHED, (3, 5), 1, timing.visited, 0.5))
    read = Store(path)
    assert read.timings["plane", PUBLISHED, (3, 4), None] == timing and len(read.timings) == 2
    assert read.peaks == [1e11]
    assert read.visits("plane", PUBLISHED) == {(3, 4): timing.visited}
    assert read.prompts_alone(PUBLISHED) == pytest.approx(2.5)
