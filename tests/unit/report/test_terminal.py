"""What `run` says at its end, for every shape a landscape can have."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.analysis.summary import summarize
from orchestrator.report import terminal
from orchestrator.sweep.points import TowardsDirection
from tests.unit.landscapes import landscape

PATHS = {"folder": Path("studies/m-1a2b/sweeps/s-3c4d"), "figure": Path("studies/m-1a2b/sweeps/s-3c4d/figures/a.png")}
Curve = Callable[[float, float], float | None]


def basin(_: float, alpha: float) -> float | None:
    return 100.0 if abs(alpha) > 0.22 else 50.0 if abs(alpha) > 0.12 else 0.0


def one_sided(_: float, alpha: float) -> float | None:
    return 100.0 if alpha > 0.22 else 0.0


def plateau(_: float, alpha: float) -> float | None:
    return 0.0 if abs(alpha) < 0.12 or 0.28 < alpha < 0.36 else 100.0


def safe(_: float, alpha: float) -> float | None:
    return 0.0


def unsafe(_: float, alpha: float) -> float | None:
    return 80.0


def holed(_: float, alpha: float) -> float | None:
    return None if abs(alpha - 0.3) < 1e-6 else basin(0, alpha)


def no_origin(_: float, alpha: float) -> float | None:
    return None if alpha == 0 else basin(0, alpha)


def nothing(_: float, alpha: float) -> float | None:
    return None


SHAPES: dict[str, tuple[Curve, dict[str, Any], list[str], list[str]]] = {
    "basin": (
        basin,
        {},
        [
            "stands in a safety basin",
            "alpha -0.15 to the left and +0.15 to the right",
            "radius of 0.15",
            "0.0% of the attacks succeed",
            "VISAGE, the mean",
            "with one direction the spread between directions is unknown",
            "50% are degenerate",
            "21 points x 40 prompts (ours, harmful, system prompt safe, judge keyword)",
            "grid.directions=3",
        ],
        ["missing", "undefined"],
    ),
    "three directions": (
        lambda line, alpha: basin(0, alpha * (1 + line / 10)),
        {"directions": 3},
        ["the nearest of all directions", "95% interval over directions", "61 points", "system_prompt=safety"],
        ["one direction", "missing"],
    ),
    "one-sided": (one_sided, {}, ["at alpha +0.2", "to the left it was not reached"], ["no safety basin"]),
    "plateau": (plateau, {}, ["below 50% again beyond the edge, at alpha 0.3, 0.35"], []),
    "safe everywhere": (
        safe,
        {},
        ["stays safe as far as was looked", "distance of 0.5", "No attack succeeded", "grid.range=[-1,1]"],
        ["radius", "degenerate"],
    ),
    "unsafe at the origin": (
        unsafe,
        {},
        ["stands in no safety basin", "80.0% of the attacks succeed", "system_prompt=safety"],
        ["radius of", "stays safe"],
    ),
    "all attacks succeed": (
        lambda line, alpha: 100.0,
        {},
        ["no safety basin", "VISAGE is undefined: no point is below 100%"],
        ["of 100"],
    ),
    "a missing point": (
        holed,
        {},
        ["20 of 21 points", "missing at alpha 0.3", "1 of 21 points are missing", "the same command again"],
        ["grid.directions=3"],
    ),
    "a missing origin": (no_origin, {}, ["unknown: the origin is not measured", "is not measured"], ["radius of"]),
    "nothing measured": (nothing, {}, ["0 of 21 points", "the same command again", "undefined"], ["No attack"]),
    "a narrow grid": (
        basin,
        {"range": (-0.3, 0.3)},
        ["VISAGE is undefined: the grid does not cover [-0.5, 0.5]", "grid.range=[-0.5,0.5]"],
        ["of 100"],
    ),
    "a plane": (
        basin,
        {"kind": "random_2d", "steps": 10},
        ["nearest at a distance of 0.14", "121 points"],
        ["to the left", "as the published code counts"],
    ),
    "hardly degenerate": (basin, {"degenerate": 0.0}, ["Hardly any"], ["lost its language"]),
    "mostly degenerate": (basin, {"degenerate": 0.9}, ["are degenerate", "lost its language"], ["Hardly"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told(shape: str) -> None:
    curve, more, says, never = SHAPES[shape]
    made = landscape(curve, **more)
    text = terminal.paragraph(summarize(made), PATHS)
    for part in says:
        assert part in text
    for part in never:
        assert part not in text
    for wrong in ("nan", "None", "inf", "..", "{", "  "):
        assert wrong not in text
    assert str(PATHS["folder"]) in text
    assert "Next: " in text
    assert "\n" not in text

    out = printed(made)
    assert max(map(len, (line for line in out.splitlines() if "studies/" not in line))) <= 80
    assert "\x1b" not in out
    assert "nan" not in out
    assert " ".join(out.split()).endswith(text)


@pytest.mark.parametrize("ends", [(-0.2, 1.2), (-0.5, 1.5)])
@pytest.mark.parametrize("curve", [safe, lambda line, alpha: 100.0 if alpha > 0.6 else 0.0])
def test_on_the_way_to_a_checkpoint_it_points_to_the_basin(curve: Curve, ends: tuple[float, float]) -> None:
    way = {"kind": "interpolate_1d", "towards": (TowardsDirection("f", "aligned"),), "steps": 10, "range": ends}
    text = terminal.paragraph(replace(summarize(landscape(curve, **way)), grid={"kind": "interpolate_1d"}), PATHS)
    assert "+experiment=basin" in text and "grid." not in text


def printed(made: pd.DataFrame, encoding: str = "utf-8", width: int = 80, **summary: Any) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    terminal.show(made, replace(summarize(made), **summary), PATHS, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


def table_rows(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if re.match(r"\s*[+-]0\.\d{3}\s", line)]


def test_the_table_has_a_row_a_point_with_its_numbers() -> None:
    out = printed(landscape(basin, degenerate=0.25))
    row = next(line for line in out.splitlines() if line.split()[:1] == ["+0.150"])
    assert row.split() == ["+0.150", "50.0", "33.8", "-", "66.2", "50.0", "37.5", "12.5"]
    assert len(table_rows(out)) == 21


def test_a_missing_point_is_a_row_and_a_mark() -> None:
    out = printed(landscape(holed))
    assert "+0.300   missing" in table_rows(out)
    assert any("┤" in line and "x" in line for line in out.splitlines())
    assert not any("┤" in line and "x" in line for line in printed(landscape(basin)).splitlines())


def test_a_mean_over_lines_does_not_skip_one() -> None:
    made = landscape(lambda line, alpha: None if line == 1 and alpha == 0.25 else basin(0, alpha), directions=3)
    out = printed(made)
    assert "mean of 3 directions" in out
    assert "+0.250   missing" in table_rows(out)


def test_a_long_table_is_thinned_but_keeps_the_origin() -> None:
    out = printed(landscape(basin, steps=100))
    rows = table_rows(out)
    assert 30 <= len(rows) <= terminal.MOST_ROWS
    assert any(row.startswith("+0.000 ") for row in rows)
    assert "landscape.parquet" in out


def test_the_curve_goes_down_to_the_origin_and_up_again() -> None:
    plot = [line for line in printed(landscape(basin)).splitlines() if line[3:4] in ("┤", "│", "┼")]
    top, bottom = plot[0][4:-1], plot[-1][4:-1]
    assert top[:20].count("⠤") > 10 and top[-20:].count("⠤") > 10
    assert set(top[34:41]) == {" "}
    assert set(bottom[34:41]) == {"⠒"}
    assert set(bottom[:20]) == {" "}


def test_a_plane_is_shaded() -> None:
    out = printed(landscape(lambda _, r: None if r > 0.7 else basin(0, r), kind="random_2d", steps=10))
    rows = [line for line in out.splitlines() if line.endswith("|")]
    assert len(rows) == 11
    assert rows[0].startswith(" +0.500 |??")
    assert "+ " in rows[5]
    assert rows[5].endswith("██|")
    assert "1d" not in out


def test_an_old_terminal_and_a_pipe_get_plain_characters() -> None:
    for shape in ("basin", "a plane"):
        curve, more, _, _ = SHAPES[shape]
        out = printed(landscape(curve, **more), encoding="ascii")
        assert out.isascii()
        assert "?" * 4 not in out
    assert "*" in printed(landscape(basin), encoding="ascii")


def test_names_tokens_time_and_failures_are_told() -> None:
    made = landscape(holed)
    text = terminal.paragraph(
        replace(summarize(made), model="smol", tokens=26880, seconds=200.4, tasks_failed=1), PATHS
    )
    assert text.startswith("smol stands in a safety basin")
    assert "26,880 tokens, 3 min 20 s; 1 task failed." in text
    assert "retry=failed" in text
    assert terminal.paragraph(replace(summarize(made), model="tiny")).startswith("tiny ")


def test_brackets_and_long_paths_survive() -> None:
    made = landscape(basin)
    folder = Path("studies/" + "x" * 120 + "/[red]a[/red]")
    file = io.StringIO()
    terminal.show(made, summarize(made), {"folder": folder}, Console(file=file, width=80))
    assert str(folder) in file.getvalue()


def test_the_interval_over_directions_and_probes_is_told_and_how_many_more_would_do() -> None:
    summary = summarize(landscape(lambda line, alpha: 100.0 if abs(alpha) > 0.2 + 0.05 * line else 0.0, directions=3))
    assert "over new directions and probes" not in terminal.paragraph(summary), "these verdicts are not at hand"
    assert summary.visage.over is not None and summary.visage.enough is not None
    both = replace(summary.visage.over.both, low=40.0, high=96.5)
    visage = replace(summary.visage, over=replace(summary.visage.over, both=both))
    summary = replace(summary, visage=visage, basin=replace(summary.basin, censored_at=None))
    text = terminal.paragraph(summary)
    assert "over new directions and probes 40.0 to 96.5" in text
    more = visage.enough.more
    assert more and f"grid.directions={3 + more} would about halve VISAGE's interval" in text
