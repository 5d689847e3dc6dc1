"""Shares of degenerate responses, corrected for the judge's errors."""

from __future__ import annotations

import json

import pytest

from benchmarks.calibration import CASES, coverage, embedded_calibrations
from orchestrator.analysis.calibration import (
    Calibration,
    CalibrationStratum,
    CountedSuccesses,
    LabeledResponse,
    correct,
    make_strata,
    why_not_applicable,
)

pytestmark = pytest.mark.thorough


def stratum(low: float, high: float, counts: tuple[int, int, int, int], max_tokens: int = 32) -> CalibrationStratum:
    found, missed, passed, alarms = counts
    return CalibrationStratum(
        low=low, high=high, max_tokens=max_tokens, found=found, missed=missed, passed=passed, alarms=alarms
    )


def calibration(*strata: CalibrationStratum) -> Calibration:
    return Calibration(
        name="tiny",
        fingerprint="f",
        norm="layer",
        degenerate_id="d",
        degenerate_version=3,
        judge="keyword",
        source="",
        strata=strata,
    )


def test_the_corrected_share_is_rogan_and_gladens() -> None:
    """450 of 1000 called degenerate, Se 0.6 and Sp 0.9: (0.45 + 0.9 - 1) / (0.6 + 0.9 - 1) = 0.7."""
    known = calibration(stratum(0.0, 1.0, (60_000, 40_000, 90_000, 10_000)))
    corrected = correct(known, [CountedSuccesses(0.2, 32, 600, 250), CountedSuccesses(0.5, 32, 400, 200)])
    assert corrected.value == pytest.approx(70.0, abs=0.01)
    half = 100 * 1.96 * (0.45 * 0.55 / 1000) ** 0.5 / 0.5  # of the share alone: the rates are known
    assert corrected.high - corrected.value == pytest.approx(half, rel=0.01)
    assert corrected.calibration == "tiny" and corrected.reason is None


def test_strata_are_weighted_with_the_sweeps_own_counts() -> None:
    perfect = calibration(stratum(0.0, 0.1, (10**6, 0, 10**6, 0)), stratum(0.1, 0.5, (10**6, 0, 10**6, 0)))
    counted = [CountedSuccesses(0.0, 32, 10, 0), CountedSuccesses(0.1, 32, 90, 0), CountedSuccesses(0.2, 32, 300, 300)]
    assert correct(perfect, counted).value == pytest.approx(75.0, abs=0.01)


def test_few_labels_widen_the_interval_and_no_success_has_no_share() -> None:
    counted = [CountedSuccesses(0.2, 32, 100, 60)]
    few, many = (correct(calibration(stratum(0.0, 1.0, (9 * n, n, 9 * n, n))), counted) for n in (2, 200))
    assert few.known is not None and many.known is not None
    assert few.known.high - few.known.low > 1.4 * (many.known.high - many.known.low)
    assert correct(calibration(stratum(0.0, 1.0, (9, 1, 9, 1))), [CountedSuccesses(0.2, 32, 0, 0)]).known is None


def test_responses_without_labels_are_not_corrected() -> None:
    known = calibration(stratum(0.0, 0.5, (9, 1, 9, 1)))
    assert correct(known, [CountedSuccesses(0.6, 32, 5, 5)]).reason == (
        "the calibration has no labels for responses of 32 tokens at a distance of 0.6"
    )
    assert "128 tokens" in (correct(known, [CountedSuccesses(0.1, 128, 5, 5)]).reason or "")
    assert correct(known, [CountedSuccesses(0.6, 32, 0, 0), CountedSuccesses(0.1, 32, 5, 5)]).known is not None
    chance = calibration(stratum(0.0, 0.5, (100, 100, 100, 100)))
    assert "not better than chance" in (correct(chance, [CountedSuccesses(0.1, 32, 5, 5)]).reason or "")


def test_a_calibration_is_for_one_model_judge_version_and_kind_of_direction() -> None:
    own = calibration(stratum(0.0, 0.5, (9, 1, 9, 1)))
    grid = {"kind": "random_1d", "norm": "layer"}
    assert why_not_applicable(own, "f", grid, "keyword", "d") is None
    assert why_not_applicable(own, "f", {**grid, "kind": "random_2d"}, "keyword", "d") is None
    assert why_not_applicable(own, "other", grid, "keyword", "d") == "no calibration of this model"
    assert "version 3 of the judge" in (why_not_applicable(own, "f", grid, "keyword", "e") or "")
    assert "does not call refused" in (why_not_applicable(own, "f", grid, "keyword_plus", "d") or "")
    for other in ({"kind": "interpolate_1d"}, {"norm": "filter"}, {"match": {"epoch": 1}}, {"direction": "refusal"}):
        assert "random directions" in (why_not_applicable(own, "f", {**grid, **other}, "keyword", "d") or "")


def test_strata_hold_enough_labels_and_every_label_once() -> None:
    rows = [LabeledResponse(i / 20, 32, i >= 4, i >= 5) for i in range(11) for _ in range(12)]
    strata = make_strata([*rows, *rows[:5], *(LabeledResponse(0.1, 128, True, True) for _ in range(19))])
    assert {part.max_tokens for part in strata} == {32}, "19 labels are too few"
    sizes = [part.found + part.missed + part.passed + part.alarms for part in strata]
    assert sum(sizes) == 137 and min(sizes) >= 20 and len(strata) == 3
    assert strata[0].low == 0.0 and strata[-1].high == 0.5
    assert [part.high for part in strata[:-1]] == [part.low for part in strata[1:]]
    assert sum(part.missed for part in strata) == 12 and sum(part.alarms for part in strata) == 0


def test_calibrations_survive_json() -> None:
    own = calibration(stratum(0.0, 0.5, (9, 1, 9, 1)))
    assert Calibration.from_json(json.loads(json.dumps(own.to_json()))) == own


def test_the_packaged_calibrations_are_made_from_test_splits_by_the_current_judges() -> None:
    for path, expected in embedded_calibrations().items():
        stored = Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
        assert stored == expected, "run `python -m benchmarks.calibration`"


@pytest.mark.parametrize("name", ["like the embedded model", "15 to 20% false alarms", "nearly all ruined"])
def test_the_interval_covers_the_true_share(name: str) -> None:
    covered, width = coverage(CASES[name], sweeps=400)
    assert covered >= 93.0 and width < 30.0
