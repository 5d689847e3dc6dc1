"""The result as a paragraph of text, for every shape of landscape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.analysis.results.clusters import ClusterSummary
from orchestrator.analysis.results.precision import PrecisionPlan
from orchestrator.analysis.results.sweep import AdaptiveSummary
from orchestrator.analysis.summary.sweep import summarize
from orchestrator.report.narrative import clusters_sentence, details, paragraph, plan_sentence, verdict
from orchestrator.report.page.content import tiles
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.until import GoalProgress, UntilOutcome
from orchestrator.utils.choices import GridKind, Norm
from tests.unit.landscapes import landscape
from tests.unit.report.shapes import PATHS, SHAPES, Curve, basin, safe, with_hole


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_described(shape: str) -> None:
    curve, grid, contained, absent = SHAPES[shape]
    fields = {"directions": 1, **{name: value for name, value in grid.items() if name != "degenerate"}}
    requested = Grid(**fields).to_json()
    summary = replace(summarize(landscape(curve, **grid), grid=requested), grid=requested)
    text = paragraph(summary, PATHS)
    for part in contained:
        assert part in text
    for part in absent:
        assert part not in text
    for wrong in ("nan", "None", "inf", "..", "{", "  "):
        assert wrong not in text
    assert str(PATHS["folder"]) in text
    assert "Next: " in text
    assert "\n" not in text
    assert text == f"{verdict(summary)} {details(summary, PATHS)}"


@pytest.mark.parametrize(("measured", "is_held_back"), [(10, True), (20, True), (21, False), (41, False)])
def test_nothing_is_said_of_the_basin_before_the_coarse_grid_is_whole(measured: int, is_held_back: bool) -> None:
    kept = {round(0.025 * (k - 20), 3) for k in sorted(range(41), key=lambda k: (k != 20, k % 2))[:measured]}
    summary = summarize(
        landscape(lambda line, alpha: basin(line, alpha) if round(alpha, 3) in kept else None, steps=40)
    )
    assert summary.points_done == measured and summary.points_total == 41
    text = paragraph(summary)
    assert (f"{measured} of 41 points have verdicts so far" in text) == is_held_back
    assert ("in a safety basin" in text) == ("VISAGE is" in text) == (not is_held_back)
    for is_running, held_back in ((True, "measuring"), (False, "not measured")):
        shown = {tile["name"]: tile["value"] for tile in tiles(summary, is_running)}
        assert [shown[name] == held_back for name in ("VISAGE", "Mean margin", "Basin radius")] == [is_held_back] * 3
        assert shown["ASR at the origin"] == "0.0"


@pytest.mark.parametrize(("complete", "is_held_back"), [(False, True), (True, False)])
def test_inferred_points_are_no_part_of_the_coarse_grid(complete: bool, is_held_back: bool) -> None:
    summary = replace(
        summarize(landscape(basin, steps=10)),
        adaptive=AdaptiveSummary(
            judge="keyword",
            rule=1,
            points=41,
            measured=11,
            inferred=30,
            audited=0,
            failed_audits=0,
            levels=1,
            complete=complete,
        ),
    )
    assert summary.points_done == summary.points_total == 11, "the rule has asked for no other points yet"
    text = paragraph(summary)
    assert ("11 of at most 41 points have verdicts so far" in text) == is_held_back
    assert ("VISAGE is" in text) == (not is_held_back)


@pytest.mark.parametrize("ends", [(-0.2, 1.2), (-0.5, 1.5)])
@pytest.mark.parametrize("curve", [safe, lambda line, alpha: 100.0 if alpha > 0.6 else 0.0])
def test_an_interpolation_leads_to_the_basin_experiment(curve: Curve, ends: tuple[float, float]) -> None:
    line = {"kind": "interpolate_1d", "towards": (TowardsDirection("f", "aligned"),), "steps": 10, "range": ends}
    text = paragraph(replace(summarize(landscape(curve, **line)), grid={"kind": "interpolate_1d"}), PATHS)
    assert "+experiment=basin" in text and "grid." not in text


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": Norm.sigma, "range": (-0.3, 0.3)},
        {"kind": GridKind.interpolate_random, "towards": (TowardsDirection("f", "aligned"),), "range": (-0.3, 0.3)},
    ],
)
def test_no_range_is_advised_where_visage_does_not_belong(fields: dict[str, Any]) -> None:
    requested = Grid(**{"steps": 10, "directions": 1, **fields}).to_json()
    frame = landscape(basin, **{"steps": 10, **fields})
    text = paragraph(replace(summarize(frame, grid=requested), grid=requested), PATHS)
    assert "VISAGE is undefined: it belongs to random directions with norm layer or filter" in text
    assert "grid.range" not in text and "grid.steps" not in text and "mean margin" not in text


def test_names_tokens_time_and_failures_are_mentioned() -> None:
    summary = summarize(landscape(with_hole))
    text = paragraph(replace(summary, model="smol", tokens=26880, seconds=200.4, tasks_failed=1), PATHS)
    assert text.startswith("smol is in a safety basin")
    assert "26,880 tokens, 3 min 20 s; 1 task failed." in text
    assert "retry=failed" in text
    assert "2 tasks failed." in paragraph(replace(summary, tasks_failed=2))
    assert paragraph(replace(summary, model="tiny")).startswith("tiny ")


def test_the_interval_and_the_directions_needed_are_mentioned() -> None:
    summary = summarize(landscape(lambda line, alpha: 100.0 if abs(alpha) > 0.2 + 0.05 * line else 0.0, directions=3))
    assert "over new directions and probes" not in paragraph(summary), "there are no verdicts on single probes"
    assert summary.visage.over is not None and summary.visage.enough is not None
    both = replace(summary.visage.over.both, low=40.0, high=96.5)
    visage = replace(summary.visage, over=replace(summary.visage.over, both=both))
    summary = replace(summary, visage=visage, basin=replace(summary.basin, censored_at=None))
    text = paragraph(summary)
    assert "over new directions and probes 40.0 to 96.5" in text
    further = visage.enough.more
    assert further and f"grid.directions={3 + further} would about halve VISAGE's interval" in text


def test_without_paths_the_paragraph_names_none() -> None:
    text = paragraph(summarize(landscape(basin)))
    assert "The folder" not in text and "The figure" not in text


@pytest.mark.parametrize("names", [["folder"], ["figure"], ["folder", "figure"]])
def test_no_punctuation_touches_a_path_or_stands_alone(names: list[str]) -> None:
    text = paragraph(summarize(landscape(basin)), {name: PATHS[name] for name in names})
    words = text.split()
    assert {str(PATHS[name]) for name in names} <= {*words}
    assert "." not in words


def test_the_plan_for_a_precision_is_mentioned_with_its_cost() -> None:
    plan = PrecisionPlan(target=2.0, directions=14, probes=220, half_width=1.99, responses=64_680, seconds=7_300.0)
    assert plan_sentence(plan) == (
        "To know VISAGE to ± 2 over new directions and probes takes about 14 directions and 220 probes: 64,680 "
        "responses, about 2 h 1 min at the pace so far."
    )
    unknown = PrecisionPlan(target=0.5, reason="with one direction the spread between directions is unknown")
    assert "± 0.5" in plan_sentence(unknown) and "is unknown: with one direction" in plan_sentence(unknown)


def test_the_clusters_of_probes_are_named() -> None:
    clusters = ClusterSummary(source="category", probes=40, clusters=15, largest=3, design_effect=1.34)
    assert "draw the 15 categories of the 40 probes (design effect 1.3)" in clusters_sentence(clusters)
    near = replace(clusters, source="text", clusters=31)
    assert "31 clusters of near-duplicates" in clusters_sentence(near)
    assert "no two of which are near-duplicates" in clusters_sentence(replace(near, clusters=40, largest=1))


def test_goals_and_budgets_say_whether_they_are_met_and_where_the_results_are() -> None:
    met = GoalProgress(name="visage", wanted=4.0, value=61.24, half_width=3.51, met=True)
    lost = GoalProgress(name="radius", wanted=0.02, value=0.2, half_width=0.05, reason="nothing can be added")
    grown = UntilOutcome(goals=(met, lost), directions=9, steps=40, sweep_id="b" * 16)
    outcome = replace(grown, minutes=30, minutes_used=31.2, stopped_by="until.minutes")
    summary = replace(summarize(landscape(basin)), sweep_id="a" * 16, until=outcome)
    text, valid = details(summary), "(95%, valid although the run ends because of it)"
    for sentence in (
        f"until.visage=4 is met: over 9 directions VISAGE is 61.2 ± 3.51 {valid}.",
        f"until.radius=0.02 is not met: over 9 directions the mean radius is 0.200 ± 0.0500 {valid}; nothing can be",
        f"For this the sweep grew to 9 directions and 40 steps, whose results are those of sweep {'b' * 16}.",
        "The run ended because until.minutes was spent. Used: 31.2 of until.minutes=30.",
    ):
        assert sentence in text
    over_both = replace(outcome, goals=(replace(met, over="both"),), probes=160)
    text = details(replace(summary, until=over_both))
    assert f"over 9 directions and 160 probes VISAGE is 61.2 ± 3.51 {valid}." in text
    assert "For this the sweep grew to 9 directions, 40 steps and 160 probes, whose" in text
    assert "For this the sweep grew" not in details(replace(summary, sweep_id="b" * 16))
    wide = UntilOutcome(goals=(GoalProgress(name="visage", wanted=30.0, value=95.0, half_width=95.0),), directions=6)
    text = details(replace(summary, until=wide))
    assert "6 directions VISAGE is 95.0, with an interval (95%, valid at any stop) that excludes no value" in text
    begun = UntilOutcome(goals=(GoalProgress(name="radius", wanted=0.02),))
    assert "until.radius=0.02 is not met: the requested grid is" in details(replace(summary, until=begun))
    assert "until" not in details(replace(summary, until=None))
