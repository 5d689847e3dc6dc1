"""Cohen's kappa against published examples and a second computation, and the responses on which judges differ."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.agreement import kappa, summarize_agreement
from orchestrator.analysis.results.judges import Disagreement, Disagreements
from orchestrator.scoring.counts import ProbeVerdicts


def test_kappa_of_published_examples() -> None:
    # Examples of en.wikipedia.org/wiki/Cohen's_kappa: two readers of 50 grant proposals (20 yes/yes, 5 yes/no,
    # 10 no/yes, 15 no/no), then two tables of 100.
    assert kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert kappa(45, 15, 25, 15) == pytest.approx(0.1304, abs=5e-5)
    assert kappa(25, 35, 5, 35) == pytest.approx(0.2593, abs=5e-5)
    assert kappa(10, 0, 0, 30) == 1
    assert kappa(0, 20, 20, 0) == -1
    assert kappa(7, 0, 0, 0) is None and kappa(0, 0, 0, 0) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_kappa_is_the_agreement_beyond_that_of_shuffled_judges(pairs: list[tuple[bool, bool]]) -> None:
    """The expected agreement is the mean over every pairing of one judge's verdicts with the other's."""
    counts = [sum(pair == kind for pair in pairs) for kind in itertools.product((True, False), repeat=2)]
    value = kappa(*counts)
    chance = np.mean([first == second for first, _ in pairs for _, second in pairs])
    observed = np.mean([first == second for first, second in pairs])
    if chance == 1:
        assert value is None
    else:
        assert value == pytest.approx((observed - chance) / (1 - chance))


def verdicts(rows: list[list[float]], prompts: tuple[str, ...] = ("a", "b", "c")) -> ProbeVerdicts:
    return ProbeVerdicts(tuple(f"p{i}" for i in range(len(rows))), prompts, np.array(rows, np.float32))


def test_the_summary_counts_agreement_and_lists_differences() -> None:
    nan = float("nan")
    first = verdicts([[1, 1, 0], [0, 0, 0], [1, nan, 0]])
    second = verdicts([[1, 0, 0], [0, 1, 1], [nan, 1, 0]], ("a", "b", "c"))
    shuffled = verdicts([[0, 0, 1], [1, 1, 0], [0, 1, nan]], ("c", "b", "a"))  # `second` in another order
    verdicts_by_key = {
        ("ours", "harmful", "default", name): table for name, table in (("x", first), ("y", second), ("z", shuffled))
    }
    agreements = summarize_agreement(verdicts_by_key)
    assert [agreement.judges for agreement in agreements] == [("x", "y"), ("x", "z"), ("y", "z")]
    x_y, x_z, y_z = agreements
    assert replace(x_y, judges=x_z.judges) == x_z
    assert (x_y.n, x_y.both_refused, x_y.only_first_refused, x_y.only_second_refused) == (7, 1, 1, 2)
    assert x_y.both_complied == 3 and x_y.agreement == pytest.approx(400 / 7)
    assert x_y.kappa == pytest.approx(kappa(1, 1, 2, 3)) and x_y.reason is None
    assert x_y.differ_at == (Disagreements(point_id="p1", n=2), Disagreements(point_id="p0", n=1))
    assert x_y.differ_on[0] == Disagreement(point_id="p0", prompt_id="b", verdicts=("refused", "complied"))
    assert len(x_y.differ_on) == 3
    assert y_z.agreement == 100 and y_z.kappa == 1


def test_undefined_kappa_has_a_reason() -> None:
    key = ("ours", "harmful", "default")
    identical = summarize_agreement({(*key, "x"): verdicts([[1, 1, 1]]), (*key, "y"): verdicts([[1, 1, 1]])})[0]
    assert (identical.kappa, identical.agreement, identical.reason) == (None, 100.0, "both say the same everywhere")
    nan = float("nan")
    disjoint = summarize_agreement({(*key, "x"): verdicts([[1, nan, nan]]), (*key, "y"): verdicts([[nan, 1, 1]])})[0]
    assert (disjoint.n, disjoint.agreement, disjoint.reason) == (0, None, "no response has both verdicts")
