"""Every figure is drawn, contains what it should, and changes with the numbers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from orchestrator.analysis.summary.sweep import summarize
from orchestrator.report.figures import planes, results
from orchestrator.report.figures.landscape import draw_landscape
from orchestrator.report.figures.results import draw_results
from orchestrator.report.style import BLUE, SERIES_COLORS, VERMILION
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import ExtraCheckpoint
from tests.unit import landscapes

pytestmark = pytest.mark.thorough


landscape = functools.partial(landscapes.landscape, steps=10)


def basin(line: int, alpha: float) -> float:
    return 100 / (1 + math.exp(-(abs(alpha) * (1 + line / 8) - 0.2) / 0.03))


def draw_pixels(frame: pd.DataFrame, path: Path, title: str = "a model") -> np.ndarray:
    """Draw the figure and return its pixels; any warning fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_landscape(frame, summarize(frame), path, title)
    return np.asarray(matplotlib.image.imread(path))[..., :3]


def share(pixels: np.ndarray, color: str) -> float:
    """Return the share of pixels that are near this color."""
    rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(pixels - rgb).max(axis=-1) < 0.06).mean())


SHAPES: dict[str, tuple[Callable[[int, float], float | None], dict[str, Any]]] = {
    "one line": (basin, {}),
    "three lines": (basin, {"directions": 3}),
    "holes": (lambda k, a: None if 0.25 < a < 0.35 else basin(k, a), {}),
    "unsafe": (lambda k, a: 80.0, {}),
    "safe": (lambda k, a: 0.0, {}),
    "nothing": (lambda k, a: None, {}),
    "odd steps": (basin, {"steps": 3}),
    "a plane": (basin, {"kind": "random_2d"}),
    "a plane with holes": (lambda k, a: None if a > 0.6 else basin(k, a), {"kind": "random_2d"}),
    "a plane of nothing": (lambda k, a: None, {"kind": "random_2d"}),
    "planes": (basin, {"kind": "random_2d", "directions": 4, "steps": 4}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_can_be_drawn(shape: str, tmp_path: Path) -> None:
    curve, grid = SHAPES[shape]
    pixels = draw_pixels(landscape(curve, **grid), tmp_path / "a.png")
    assert pixels.shape[0] > 500 and pixels.shape[1] > 700
    assert (pixels < 0.9).any(axis=-1).mean() > 0.005
    assert np.allclose(pixels[:4], 1.0) and np.allclose(pixels[:, :4], 1.0), "something is cut off at the border"


def test_outcomes_are_drawn(tmp_path: Path) -> None:
    blue = draw_pixels(landscape(lambda k, a: 0.0), tmp_path / "safe.png")
    orange = draw_pixels(landscape(lambda k, a: 100.0), tmp_path / "unsafe.png")
    assert share(blue, "#268BC1"[:7]) + share(blue, BLUE) > 0.05
    assert share(orange, "#DA6F1A") + share(orange, VERMILION) > 0.05
    assert not np.array_equal(blue, orange)


def test_missing_points_are_marked(tmp_path: Path) -> None:
    curve, grid = SHAPES["a plane with holes"]
    complete = draw_pixels(landscape(basin, **grid), tmp_path / "whole.png")
    incomplete = draw_pixels(landscape(curve, **grid), tmp_path / "holed.png")
    assert share(complete, VERMILION) < 1e-4 < share(incomplete, VERMILION)


@pytest.mark.parametrize(("kind", "word"), [("random_1d", "degenerate"), ("random_2d", "origin")])
def test_vector_formats_keep_text_and_are_reproducible(kind: str, word: str, tmp_path: Path) -> None:
    frame = landscape(basin, kind=kind, steps=4)
    for name in ("a.svg", "b.svg"):
        draw_landscape(frame, summarize(frame), tmp_path / name, "my model <&>")
    svg = (tmp_path / "a.svg").read_text()
    assert svg == (tmp_path / "b.svg").read_text()
    summary = summarize(frame)
    for text in ("my model", f"VISAGE {summary.visage.paper:.1f}", "ASR at the origin 0.0%", word):
        assert text in svg
    draw_landscape(frame, summary, tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_basin_edges_are_marked_with_their_alpha(tmp_path: Path) -> None:
    frame = landscape(basin, steps=20)
    summary = summarize(frame)
    draw_landscape(frame, summary, tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    assert f"+{summary.basin.right:.2f}" in svg
    assert f"\N{MINUS SIGN}{-summary.basin.left:.2f}" in svg
    flat = landscape(lambda k, a: 0.0)
    draw_landscape(flat, summarize(flat), tmp_path / "b.svg")
    assert "+0.20" not in (tmp_path / "b.svg").read_text()


def test_undefined_visage_is_stated(tmp_path: Path) -> None:
    frame = landscape(basin, range=(-0.3, 0.3))
    draw_landscape(frame, summarize(frame), tmp_path / "a.svg")
    assert "VISAGE undefined" in (tmp_path / "a.svg").read_text()


def test_no_heavy_library_is_imported_with_the_numbers() -> None:
    """The numbers need no plotting library, the figures no model library."""
    code = (
        "import sys, orchestrator.analysis.summary.sweep, orchestrator.report.terminal, orchestrator.judges; "
        "assert not {'matplotlib', 'plotext'} & set(sys.modules); "
        "import orchestrator.report.figures.landscape; "
        "assert not {'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_checkpoints_are_drawn_and_labeled(tmp_path: Path) -> None:
    frame = landscape(basin)
    marked = frame.assign(mark=["epoch-1" if a == 0.2 else None for a in frame["alpha"]])
    plain, with_checkpoints = draw_pixels(frame, tmp_path / "plain.png"), draw_pixels(marked, tmp_path / "marked.png")
    assert share(with_checkpoints, VERMILION) > share(plain, VERMILION)


def test_checkpoints_outside_a_plane_are_drawn_and_their_names_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = tuple(TowardsDirection(str(i) * 16, f"epoch-{i}") for i in (1, 2, 3))
    extra = (
        ExtraCheckpoint(ends[0], 0.7, -0.45),
        ExtraCheckpoint(ends[1], 0.38, 0.1),
        ExtraCheckpoint(ends[2], 0.39, 0.12),
    )
    frame = landscape(basin, kind="random_2d", steps=4, range=(-0.4, 0.4), extra_checkpoints=extra)
    figures: list[Figure] = []
    monkeypatch.setattr(planes, "save", lambda figure, path: figures.append(figure))
    draw_landscape(frame, summarize(frame), Path("nowhere.png"), "a model: harmful")
    (figure,) = figures
    figure.canvas.draw()
    axes = figure.axes[0]
    assert figure._suptitle is not None and "degenerate successes" in figure._suptitle.get_text()
    assert not figure._suptitle.get_window_extent().overlaps(axes.title.get_window_extent())
    names = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert [name.split()[0] for name in sorted(names)] == ["epoch-1", "epoch-2", "epoch-3"]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(names.values(), 2))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (left, top) == (-0.4, 0.4) and right > 0.7 and bottom < -0.45
    plt.close(figure)


def test_long_names_of_checkpoints_on_a_line_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of neighbors have different lengths, and some are to the left of their markers."""
    marks = {0.0: "shuffled 125", 0.2: "affirmative samples=50 safe=50", 0.4: "affirmative samples=10", 0.3: "epoch-3"}
    frame = landscape(basin, steps=10, range=(-0.5, 0.5))
    frame = frame.assign(mark=[marks.get(round(alpha, 1)) for alpha in frame["alpha"]])
    figures: list[Figure] = []
    monkeypatch.setattr("orchestrator.report.figures.landscape.save", lambda figure, path: figures.append(figure))
    draw_landscape(frame, summarize(frame), Path("nowhere.png"))
    (figure,) = figures
    figure.canvas.draw()
    names = [text.get_window_extent() for text in figure.axes[0].texts if "%" in text.get_text()]
    assert len(names) == len(marks)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(names, 2))
    plt.close(figure)


def test_all_results_are_drawn_in_one_figure(tmp_path: Path) -> None:
    """Each of three groups shows its own measure in its own color."""
    harmful = landscape(basin)
    benign = harmful.assign(group="benign", probe_set="benign", asr=80.0, asr_low=70.0, asr_high=90.0)
    capability = harmful.assign(
        group="capability", probe_set="known", correct=60.0, correct_low=50.0, correct_high=70.0
    )
    both = pd.concat([harmful, benign, capability], ignore_index=True)
    draw_results(both, summarize(both), tmp_path / "all.png", "a model")
    pixels = np.asarray(matplotlib.image.imread(tmp_path / "all.png"))[..., :3]
    for color in SERIES_COLORS[:3]:
        assert share(pixels, color) > 0.0005, color
    assert share(pixels, SERIES_COLORS[3]) == 0
    height = pixels.shape[0]
    rows = [
        np.where((np.abs(pixels[height // 4 :] - rgb(c)).max(axis=-1) < 0.06).any(axis=1))[0]
        for c in SERIES_COLORS[1:3]
    ]
    assert rows[0].mean() > rows[1].mean(), "20% refused lies below 60% answered right"


def test_chance_levels_are_drawn_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets with the same level share a line; answers in words have none."""
    frame = landscape(basin)
    known = frame.assign(group="capability", correct=60.0, correct_low=50.0, correct_high=70.0)
    names = {"letters": 25.0, "mmlu_5shot": 25.0, "pairs": 50.0, "words": None}
    both = pd.concat([frame, *(known.assign(probe_set=name) for name in names)], ignore_index=True)
    summary = summarize(both)
    levels = tuple(dataclasses.replace(one, chance=names.get(one.probe_set)) for one in summary.results)
    figures: list[Figure] = []
    monkeypatch.setattr(results, "save", lambda figure, path: figures.append(figure))
    draw_results(both, dataclasses.replace(summary, results=levels), tmp_path / "all.png")
    (axes,) = figures[0].axes
    named = [text.get_text() for text in axes.get_legend().get_texts() if "chance" in text.get_text()]
    assert named == ["letters, mmlu_5shot: chance, 25%", "pairs: chance, 50%"]
    flat = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2]
    assert sorted(flat) == [25.0, 50.0, 50.0], "the two levels, and half of the attacks"
    plt.close(figures[0])


def rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def test_a_home_that_cannot_be_written_is_not_talked_about(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    program = "from orchestrator.utils import logs; logs.configure(); import orchestrator.report.figures.common"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, env=kept | {"HOME": str(tmp_path / "home")}, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
