"""Comparison of two stored sweeps: paired points and lines, differences, and the text that describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.comparison.compare import compare
from orchestrator.analysis.comparison.differences import Comparison
from orchestrator.analysis.comparison.sweeps import read_sweeps
from orchestrator.config.compose import compose
from orchestrator.config.overrides import section_only
from orchestrator.report import comparison
from orchestrator.store.discovery import latest_sweep
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.utils.choices import GridKind, Norm
from orchestrator.utils.errors import UserError
from tests.unit.stored import TENSORS, basin, store_sweep

pytestmark = pytest.mark.thorough


QUESTIONS = tuple(f"question {i}" for i in range(20))


def compared(*folders: Path) -> Comparison:
    comparison_result = compare(read_sweeps(folders))
    json.dumps(comparison_result.to_json(), allow_nan=False)
    return comparison_result


def test_the_same_sweep_under_another_name_does_not_differ(tmp_path: Path) -> None:
    result = compared(*(store_sweep(tmp_path, basin(0.25), model) for model in ("one", "two")))
    (difference,) = result.differences
    score = difference.visage
    assert score.difference == 0.0 and score.p == 1.0 and score.low < 0 < score.high
    assert score.about == "both" and score.paired_lines == 3
    assert difference.paired_probes == 20 and difference.paired_points == 31 == len(difference.points)
    assert all(p.difference == 0 and p.p == 1 and p.low < 0 < p.high for p in difference.points)
    assert difference.reason is None
    assert "does not differ beyond chance" in comparison.describe(difference)


def test_a_wider_basin_is_safer_only_where_it_is_wider(tmp_path: Path) -> None:
    result = compared(store_sweep(tmp_path, basin(0.15), "one"), store_sweep(tmp_path, basin(0.35), "two"))
    (difference,) = result.differences
    significant = {abs(p.alpha) for p in difference.points if p.p_corrected < 0.05}
    assert {0.2, 0.3} <= significant <= {0.2, 0.3, 0.4}
    for point in difference.points:
        assert point.p_corrected >= point.p
        assert point.low <= point.difference <= point.high
        if abs(point.alpha) == 0.2:
            assert point.difference <= -60 and point.high < 0
    one, two = (sweep.visage.paper for sweep in result.sweeps)
    assert difference.visage.difference == pytest.approx(two - one)
    narrow, wide = (sweep.margin.value for sweep in result.sweeps)
    margin = difference.margin
    assert margin.difference == pytest.approx(wide - narrow) and margin.difference > 25
    assert margin.about == "both" and margin.low > 0 and margin.p_corrected < 0.05
    assert f"The mean margin differs by {margin.difference:+.1f}" in comparison.describe(difference)
    assert [row[0] for row in comparison.difference_rows(difference)[:2]] == ["VISAGE", "mean margin"]
    assert comparison.sweep_row(result.sweeps[0])[3] == f"{narrow:.1f}"


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ({"norm": Norm.sigma}, "norm sigma"),
        ({"kind": GridKind.interpolate_1d, "towards": (TowardsDirection("f" * 16, "aligned"),)}, "toward a checkpoint"),
    ],
)
def test_grids_without_visage_are_compared_by_points_only(tmp_path: Path, grid: dict[str, Any], reason: str) -> None:
    (difference,) = compared(*(store_sweep(tmp_path, basin(0.25), name, **grid) for name in ("one", "two"))).differences
    for score in (difference.visage, difference.margin):
        assert score.difference is None and reason in score.reason
    assert difference.points


def test_a_line_without_visage_is_named_and_stays_in_the_margin(tmp_path: Path) -> None:
    """On line 1 of the second sweep every attack succeeds."""
    first = store_sweep(tmp_path, basin(0.25), "one")
    second = store_sweep(tmp_path, lambda node, i: node.line != 1 and basin(0.25)(node, i) and bool(node.alpha), "two")
    (difference,) = compared(first, second).differences
    assert difference.visage.paired_lines == 2 and difference.margin.paired_lines == 3
    assert "VISAGE is undefined on line 1, which is left out" in difference.visage.reason
    assert difference.margin.reason is None


def test_probes_are_paired_by_their_text_and_not_by_their_position(tmp_path: Path) -> None:
    """The second sweep asks the same questions backwards, and ten others before them."""
    other = tuple(f"question {100 + i}" for i in range(10)) + QUESTIONS[::-1]
    first = store_sweep(tmp_path, lambda node, i: i % 3 > 0 and abs(node.alpha) < 0.3, "one")
    second = store_sweep(tmp_path, lambda node, i: i >= 10 and (29 - i) % 3 > 0 and abs(node.alpha) < 0.3, "two", other)
    (difference,) = compared(first, second).differences
    assert difference.paired_probes == 20
    assert "only the 20 probes in common" in difference.reason
    assert {p.difference for p in difference.points} == {0.0}
    assert difference.visage.difference == 0.0


def test_without_common_probes_the_errors_add_up(tmp_path: Path) -> None:
    other = tuple(f"question {100 + i}" for i in range(20))
    paired = compared(store_sweep(tmp_path, basin(0.2), "one"), store_sweep(tmp_path, basin(0.24), "two"))
    unpaired = compared(store_sweep(tmp_path, basin(0.2), "three"), store_sweep(tmp_path, basin(0.24), "four", other))
    paired_difference, unpaired_difference = (result.differences[0] for result in (paired, unpaired))
    assert unpaired_difference.paired_probes == 0 and "not paired" in unpaired_difference.reason
    assert unpaired_difference.visage.difference == pytest.approx(paired_difference.visage.difference)
    assert unpaired_difference.visage.over.probes.se > paired_difference.visage.over.probes.se
    assert all(p.low < p.difference < p.high or abs(p.difference) == 100 for p in unpaired_difference.points)


def test_lines_are_paired_by_seed(tmp_path: Path) -> None:
    """The seeds are 123 to 125 and 124 to 126: two are shared."""
    first = store_sweep(tmp_path, basin(0.2), "one")
    second = store_sweep(tmp_path, lambda node, i: abs(node.alpha) < 0.2, "two", seed=124)
    (difference,) = compared(first, second).differences
    assert difference.visage.paired_lines == 2
    assert difference.paired_points == 21
    third = store_sweep(tmp_path, basin(0.3), "three", seed=900)
    (difference,) = compared(first, third).differences
    assert difference.visage.paired_lines == 0 and difference.paired_points == 1
    assert difference.visage.low is not None


def test_the_reason_says_that_one_direction_has_no_interval(tmp_path: Path) -> None:
    folders = [
        store_sweep(tmp_path, lambda node, i, every=every: i % every == 0, name, directions=1)
        for every, name in ((1, "one"), (2, "two"))
    ]
    difference = compared(*folders).differences[0]
    score, text = difference.visage, comparison.describe(difference)
    assert score.about == "probes" and "one direction" in score.reason
    assert score.over.directions.low is None and score.low is not None
    assert score.p_corrected < 0.05, "a gap of 50% is no accident of the probes"
    assert "differs along this direction; nothing is known about others" in text
    assert "safer" not in text and "less safe" not in text


def test_one_direction_each_and_not_the_same_tells_nothing(tmp_path: Path) -> None:
    """The radii 0.15 and 0.35 may be those of the two directions, whatever the probes are."""
    first = store_sweep(tmp_path, basin(0.15), "one", directions=1)
    second = store_sweep(tmp_path, basin(0.35), "two", directions=1, seed=900)
    difference = compared(first, second).differences[0]
    score = difference.visage
    assert score.difference is not None and score.over.probes.low is not None
    assert (score.about, score.low, score.p, score.p_corrected) == (None, None, None, None)
    assert "share no direction" in score.reason
    assert "may or may not differ" in comparison.describe(difference)


def test_missing_points_are_not_paired_and_undefined_scores_have_a_reason(tmp_path: Path) -> None:
    first = store_sweep(tmp_path, basin(0.2), "one", leave_out=lambda node: node.alpha == 0.2)
    second = store_sweep(tmp_path, lambda node, i: False, "two")
    (difference,) = compared(first, second).differences
    assert difference.paired_points == 28
    assert difference.visage.difference is None and "two" in difference.visage.reason
    assert "cannot be compared by VISAGE" in comparison.describe(difference)


def test_planes_are_compared(tmp_path: Path) -> None:
    grid: dict[str, Any] = {"kind": "random_2d", "directions": 2, "steps": 4}
    first, second = (
        store_sweep(tmp_path, basin(radius, 0.3), name, **grid) for radius, name in ((0.2, "one"), (0.5, "two"))
    )
    (difference,) = compared(first, second).differences
    assert difference.paired_points == 49 and difference.visage.difference is not None
    comparison.write_page(compared(first, second), read_sweeps([first, second]), tmp_path / "a.html")
    assert "<img" not in (tmp_path / "a.html").read_text()


LARGER = {**TENSORS, "layers.0.k_proj.weight": (2, 4)}  # equal names, another shape


@pytest.mark.parametrize(
    ("tensors", "norm", "differing"),
    [
        (LARGER, Norm.layer, "layers.0.k_proj.weight (4 x 4 in one, 2 x 4 in two)"),
        (LARGER, Norm.filter, "layers.0.k_proj.weight (4 x 4 in one, 2 x 4 in two)"),
        ({**TENSORS, "lm_head.weight": (6, 4)}, Norm.layer, "lm_head.weight (only in two)"),
        (
            {f"h.{i}.weight": (6, 4) for i in range(4)},
            Norm.layer,
            "embed.weight (only in one), h.0.weight (only in two), h.1.weight (only in two) and 4 more",
        ),
    ],
)
@pytest.mark.parametrize("seed", [123, 900])
def test_models_of_two_architectures_are_not_compared(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], norm: Norm, differing: str, seed: int
) -> None:
    """One sentence names both models and the tensors, and there is no test, whether or not seeds are shared."""
    first = store_sweep(tmp_path, basin(0.15), "one", norm=norm)
    second = store_sweep(tmp_path, basin(0.35), "two", tensors=tensors, norm=norm, seed=seed)
    result = compared(first, second)
    (difference,) = result.differences
    assert difference.points == () and difference.paired_points == difference.paired_probes == 0
    for score in (difference.visage, difference.margin):
        assert (score.difference, score.p, score.p_corrected, score.over) == (None, None, None, None)
    assert comparison.describe(difference) == (
        f"{difference.second} and {difference.first} cannot be compared by VISAGE: their directions do not move the "
        f"same tensors: {differing}."
    )
    assert "two / " in difference.second and "one / " in difference.first
    comparison.write_page(result, read_sweeps([first, second]), tmp_path / "a.html")
    assert "do not move the same tensors" in (tmp_path / "a.html").read_text()


def test_tensors_that_only_one_sweep_excludes_do_not_count(tmp_path: Path) -> None:
    first = store_sweep(tmp_path, basin(0.15), "one")
    fewer = {name: shape for name, shape in TENSORS.items() if "bias" not in name}
    second = store_sweep(tmp_path, basin(0.35), "two", tensors=fewer, exclude=("norm", "bias"))
    (difference,) = compared(first, second).differences
    assert difference.visage.difference is not None and difference.reason is None


def test_directions_stored_without_shapes_are_compared_by_names_and_rows(tmp_path: Path) -> None:
    """Tables of the schema direction/1 have rows under the norm `filter`, and otherwise names only."""
    first, same, other = (
        store_sweep(tmp_path, basin(0.2), name, tensors=tensors, norm=norm)
        for name, tensors, norm in (
            ("one", TENSORS, Norm.layer),
            ("two", LARGER, Norm.layer),
            ("three", LARGER, Norm.filter),
        )
    )
    for folder in (first, same, other):
        stored = StoredSweep.open(latest_sweep(folder))
        for direction in stored.sweep.grid.directions_used:
            table = stored.study.directions.read(direction.id).drop_columns(["shape"])
            stored.study.directions.write(direction.id, direction.to_json(), table)
    (difference,) = compared(first, same).differences
    assert difference.points and "hold no shapes: only the tensors' names were compared" in difference.reason
    filtered = store_sweep(tmp_path, basin(0.2), "four", norm=Norm.filter)
    (difference,) = compared(filtered, other).differences
    assert not difference.points and "layers.0.k_proj.weight (4 x 4 in four, 2 in three)" in difference.reason


def test_without_stored_directions_sweeps_are_compared_with_a_note(tmp_path: Path) -> None:
    first = store_sweep(tmp_path, basin(0.2), "one", tensors=None)
    second = store_sweep(tmp_path, basin(0.2), "two")
    (difference,) = compared(first, second).differences
    assert difference.points and difference.visage.p == 1.0
    assert f"no directions are stored for {difference.first}" in difference.reason


def test_sweeps_of_equal_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    same = [store_sweep(tmp_path / machine / "studies", basin(0.2), "one") for machine in ("a", "b")]
    other = store_sweep(tmp_path / "a" / "studies", basin(0.2), "two")
    sweeps = [read.name for read in read_sweeps([*same, other])]
    folders = [latest_sweep(folder).path for folder in (*same, other)]
    name, study = f"one / {folders[0].name}", folders[0].parent.parent.name
    assert sweeps == [f"{name} in a/studies/{study}", f"{name} in b/studies/{study}", f"two / {folders[2].name}"]


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two sweeps"):
        read_sweeps([tmp_path])
    with pytest.raises(UserError, match="did you mean 'html'"):
        section_only(["htm=x"], "compare")
    with pytest.raises(UserError, match="give a value"):
        compose(section_only(["html="], "compare"))
