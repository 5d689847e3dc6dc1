"""Writes of noise on many slabs of a GPU: their launches, their copies, and the terms of all tensors at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.sweep.directions import Direction
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from workers.weights.checkpoint import TensorInfo
from workers.weights.perturbation import terms

pytest.importorskip("triton")

from benchmarks.gpu_writes import (
    ACROSS,
    LINE,
    ROWS,
    ROWS_ACROSS,
    llama_8b,
    open_weights,
    qwen3_30b_a3b,
    scalars_of,
    stub_launcher,
)
from workers.noise import gpu
from workers.weights.noise_scales import FlatScalars, NoiseScales

CPU = torch.device("cpu")

pytestmark = pytest.mark.thorough


SHAPES = {"a.weight": (6, 4), "b.bias": (5,), "c.norm": (4,), "d.weight": (3, 2, 4)}


@pytest.mark.parametrize(
    "directions",
    [
        [LINE],
        [LINE, ACROSS],
        [ROWS],
        [LINE, ROWS],
        [RandomDirection(12, "filter", orthogonal_to=11), LINE],  # one seed with scales per row and per tensor
        [RandomDirection(3, exclude=("a",)), RandomDirection(4, "filter", orthogonal_to=3, exclude=())],
        [LINE, RandomDirection(12, "filter", orthogonal_to=11), RandomDirection(15, orthogonal_to=11)],  # three on 11
    ],
)
@pytest.mark.parametrize("part", [gpu.SUM_PART, 3])
def test_terms_of_all_tensors_at_once_equal_those_of_each(
    directions: list[Direction], part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "SUM_PART", part)
    rng = np.random.default_rng(0)
    infos = [TensorInfo(name, shape, "bfloat16") for name, shape in SHAPES.items()]
    scalars = {
        d.id: {
            name: tuple(rng.standard_normal((2, d.rows(shape) or 1)) * (name != "b.bias"))  # a bias of zeros
            for name, shape in SHAPES.items()
            if d.covers(name)
        }
        for d in directions
    }
    point = Point.from_coefficients((d, float(c)) for d, c in zip(directions, rng.uniform(-1, 1, 9), strict=False))
    kept = [d for d, _ in point.coefficients]
    noise = NoiseScales([FlatScalars.of(d, infos, scalars[d.id], CPU) for d in kept], infos, CPU)
    at_once, coefficients = noise.terms, [c for _, c in point.coefficients]
    of_tensors, of_rows = noise.of_tensors(coefficients), noise.of_rows(coefficients)
    assert (of_rows is None) == all(d.norm != "filter" for d in kept)
    assert [t.seed for t in at_once] == sorted({t.seed for t in at_once})
    for i, info in enumerate(infos):
        one_by_one = {t.seed: t for t in terms(point, info.name, info.shape, scalars)}
        assert noise.moved()[i] == bool(one_by_one)
        for term, single in zip(at_once, of_tensors, strict=True):
            scale = single[i : i + 1]
            if term.by_row[i]:
                assert of_rows is not None
                scale = of_rows[term.starts[i] : term.starts[i + 1]].numpy()
            expected = one_by_one.get(term.seed)
            if expected is None:
                assert not np.any(scale)
            else:
                assert np.array_equal(
                    scale.view(np.uint32), np.broadcast_to(expected.scale, scale.shape).view(np.uint32)
                )
                assert term.row_sizes[i] * len(scale) == info.size


@pytest.mark.parametrize(
    ("shapes", "slabs", "launches"),
    [(llama_8b(), 226 + 2 * 7, 5), (qwen3_30b_a3b(), 18_674 + 2 * 4, 6)],  # two embeddings are written in parts
    ids=["8B", "mixture of experts"],
)
def test_a_write_is_one_copy_and_a_few_launches(shapes: dict[str, tuple[int, ...]], slabs: int, launches: int) -> None:
    weights = open_weights(shapes)
    moved = {name for name in shapes if "norm" not in name}
    scalars = {d.id: scalars_of(d, shapes) for d in (LINE, ACROSS)}
    one, two = (Point.from_coefficients(list(zip((LINE, ACROSS), c, strict=False))) for c in ((0.1,), (-0.2, 0.1)))
    with stub_launcher() as seen:
        weights.apply_point(ORIGIN, scalars)
        assert not seen.grids and not seen.copied  # an engine starts with the base
        for point, n_terms in ((one, 1), (two, 2), (ORIGIN, 0)):  # back at the origin, the base is copied
            weights.apply_point(point, scalars)
            assert len(seen.grids) == launches and sum(n for _, n in seen.grids) == slabs
            assert seen.copied == [slabs * 8 * (14 + 4 * n_terms)]
            assert weights._moved == (moved if n_terms else set())
            seen.clear()


def test_scales_of_rows_are_computed_on_the_gpu_and_not_copied_at_each_write() -> None:
    shapes = llama_8b()
    weights = open_weights(shapes)
    scalars = {d.id: scalars_of(d, shapes) for d in (ROWS, ROWS_ACROSS)}
    rows = sum(shape[0] for shape in shapes.values() if len(shape) > 1) + sum(len(s) == 1 for s in shapes.values())
    with stub_launcher() as seen:
        weights.apply_point(ORIGIN, scalars)
        for coefficients in ((0.1, 0.2), (0.2, -0.1)):
            weights.apply_point(Point.from_coefficients(zip((ROWS, ROWS_ACROSS), coefficients, strict=True)), scalars)
            assert seen.copied == [240 * 8 * (14 + 4 * 2)], "the records alone"
            assert seen.sums == [rows, rows]
            seen.clear()
