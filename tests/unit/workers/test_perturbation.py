"""Scalars of random directions and the terms derived from them, compared with plain float64 geometry."""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
import pyarrow as pa
import pytest

from orchestrator.sweep.directions import UnitSums
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.utils.choices import Norm
from workers.noise import reference
from workers.noise.cpu import write_slab
from workers.noise.definition import UNIT, Array, DType, Slab, Term
from workers.weights import perturbation as directions

SHAPES = {
    "embed.weight": (50, 64),
    "layers.0.q.weight": (96, 64),
    "layers.0.k.weight": (96, 64),
    "layers.0.q.bias": (96,),
    "layers.0.norm.weight": (64,),
    "experts.weight": (3, 20, 64),
    "scale": (),
    "one": (1,),
    "column.weight": (30, 1),
    "zero.weight": (8, 64),
    "partly.weight": (8, 64),
    "empty.weight": (0, 64),
}


def model(dtype: DType = "float32") -> dict[str, Array]:
    rng = np.random.default_rng(7)
    arrays = {name: (rng.standard_normal(math.prod(s)) * 0.02).astype(np.float32) for name, s in SHAPES.items()}
    arrays["zero.weight"][:] = 0
    arrays["partly.weight"].reshape(8, 64)[3] = 0
    return {name: reference.from_float32(w, dtype) for name, w in arrays.items()}


@functools.cache
def measured(direction: RandomDirection, dtype: DType = "float32") -> directions.Scalars:
    return directions.by_tensor(table(direction, dtype))


def table(direction: RandomDirection, dtype: DType = "float32") -> pa.Table:
    return directions.measure(direction, ((name, w, SHAPES[name], dtype) for name, w in model(dtype).items()))


def z(seed: int, name: str) -> np.ndarray:
    return reference.z_int(seed, name, 0, math.prod(SHAPES[name])).astype(np.float64) * UNIT


def units(direction: RandomDirection, name: str) -> tuple[int, int]:
    """Return (number of scaling units, elements in each) by the definition in docs/noise.md."""
    shape = SHAPES[name]
    count = shape[0] if direction.norm == "filter" and len(shape) > 1 else 1
    return count, math.prod(shape) // count


def vector(direction: RandomDirection, name: str, dtype: DType = "float32") -> np.ndarray:
    """Return d by units, float64, from the measured scalars."""
    on_self, on_other = measured(direction, dtype)[name]
    d = on_self[:, None] * z(direction.seed, name).reshape(units(direction, name))
    if direction.orthogonal_to is not None:
        d = d + on_other[:, None] * z(direction.orthogonal_to, name).reshape(units(direction, name))
    return d


def reference_direction(direction: RandomDirection, name: str, dtype: DType = "float32") -> np.ndarray:
    """Return d by units, float64, by the definition in docs/noise.md."""
    w = reference.to_float32(model(dtype)[name], dtype).astype(np.float64).reshape(units(direction, name))
    d = z(direction.seed, name).reshape(w.shape)
    result = np.zeros_like(w)
    for row in range(len(w)):
        weight, drawn = w[row], d[row]
        if not weight.any():
            continue
        if direction.orthogonal_to is not None:
            first = z(direction.orthogonal_to, name).reshape(w.shape)[row]
            rest = drawn - (first @ drawn) / (first @ first) * first
            if len(drawn) == 1:
                continue
            drawn = rest * np.linalg.norm(drawn) / np.linalg.norm(rest)
        result[row] = drawn if direction.norm == "sigma" else drawn * np.linalg.norm(weight) / np.linalg.norm(drawn)
    return result


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("orthogonal_to", [None, 11])
@pytest.mark.parametrize("norm", ["layer", "filter", "sigma"])
def test_directions_are_as_defined(norm: str, orthogonal_to: int | None, dtype: DType) -> None:
    direction = RandomDirection(12, norm, orthogonal_to=orthogonal_to)
    scalars = measured(direction, dtype)
    assert set(scalars) == {name for name in SHAPES if "norm" not in name and name != "empty.weight"}
    for name in scalars:
        assert len(scalars[name][0]) == units(direction, name)[0]
        np.testing.assert_allclose(
            vector(direction, name, dtype), reference_direction(direction, name, dtype), rtol=1e-11, atol=1e-15
        )


def test_table_has_the_documented_schema() -> None:
    layer, by_row = table(RandomDirection(1)), table(RandomDirection(1, "filter"))
    for scalars in (layer, by_row):
        assert scalars.schema.names == ["tensor", "row", "on_self", "on_other", "shape"]
        assert scalars.schema.types == [pa.string(), pa.int32(), pa.float64(), pa.float64(), pa.list_(pa.int64())]
        shapes = {r["tensor"]: tuple(r["shape"]) for r in scalars.to_pylist() if r["shape"] is not None}
        assert shapes == {name: SHAPES[name] for name in shapes} and set(shapes) == set(scalars["tensor"].to_pylist())
    assert set(layer["row"].to_pylist()) == {-1}
    rows = [r["row"] for r in by_row.to_pylist() if r["tensor"] == "experts.weight"]
    assert rows == [0, 1, 2]
    assert [r["row"] for r in by_row.to_pylist() if r["tensor"] == "layers.0.q.bias"] == [-1]
    assert directions.measure(RandomDirection(1), []).num_rows == 0


@pytest.mark.parametrize("norm", ["layer", "filter"])
def test_a_direction_has_the_norm_of_the_weights(norm: str) -> None:
    """This also holds with float32 scalars: measure the result of the kernel on zeros at alpha 1."""
    for name in ("embed.weight", "experts.weight", "layers.0.q.bias"):
        for other in (None, 3):
            direction = RandomDirection(4, norm, orthogonal_to=other)
            d = added(direction, name).reshape(units(direction, name))
            w = model()[name].astype(np.float64).reshape(d.shape)
            np.testing.assert_allclose(np.linalg.norm(d, axis=1), np.linalg.norm(w, axis=1), rtol=3e-7)


def added(direction: RandomDirection, name: str) -> np.ndarray:
    n = math.prod(SHAPES[name])
    terms = directions.terms(
        Point.from_coefficients([(direction, 1.0)]), name, SHAPES[name], {direction.id: measured(direction)}
    )
    result = np.empty(n, np.float32)
    write_slab(result, np.zeros(n, np.float32), Slab.whole(n), name, terms, "float32", "float32")
    return result.astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_cosines_of_two_directions() -> None:
    """In each unit, orthogonal directions have cosine zero up to float32; others about 1 / sqrt(n), as in the paper."""
    for name in ("embed.weight", "layers.0.q.weight"):
        n = math.prod(SHAPES[name])
        first = added(RandomDirection(5), name)
        assert abs(cosine(first, added(RandomDirection(6, orthogonal_to=5), name))) < 1e-7
        free = cosine(first, added(RandomDirection(6), name))
        assert 1e-4 < abs(free) < 5 / math.sqrt(n)
        a, b = (added(RandomDirection(s, "filter", orthogonal_to=o), name) for s, o in ((5, None), (6, 5)))
        rows = [abs(cosine(u, v)) for u, v in zip(a.reshape(-1, 64), b.reshape(-1, 64), strict=True)]
        assert max(rows) < 1e-6


def test_tensors_of_equal_shape_get_different_noise() -> None:
    q, k = added(RandomDirection(5), "layers.0.q.weight"), added(RandomDirection(5), "layers.0.k.weight")
    assert abs(cosine(q, k)) < 5 / math.sqrt(q.size)


def test_units_that_are_not_perturbed() -> None:
    layer, by_row = measured(RandomDirection(5)), measured(RandomDirection(5, "filter"))
    assert layer["zero.weight"][0].tolist() == [0.0]
    assert by_row["zero.weight"][0].tolist() == [0.0] * 8
    assert [row == 0 for row in by_row["partly.weight"][0]] == [row == 3 for row in range(8)]
    assert measured(RandomDirection(5, "sigma"))["zero.weight"][0].tolist() == [0.0]
    assert layer["one"][0][0] != 0 and layer["scale"][0][0] != 0
    second = measured(RandomDirection(6, "filter", orthogonal_to=5))
    for name in ("one", "scale", "column.weight"):
        assert not second[name][0].any() and not second[name][1].any(), name
    # noise that is zero everywhere has no direction (a single element draws t = 0 once in 10,900)
    assert RandomDirection(5).scalars(UnitSums(size=1, weights=1.0, noise=0)) == (0.0, 0.0)
    second = RandomDirection(6, Norm.sigma, orthogonal_to=5)
    assert second.scalars(UnitSums(size=1, weights=1.0, noise=9, cross=0, other_noise=0)) == (1.0, 0.0)


def test_excluded_tensors_are_not_perturbed() -> None:
    everything = measured(RandomDirection(5, exclude=()))
    assert set(everything) == set(SHAPES) - {"empty.weight"}
    some = RandomDirection(5, exclude=("norm", "embed"))
    assert "embed.weight" not in measured(some)
    point = Point.from_coefficients([(some, 0.1)])
    scalars = {some.id: measured(some)}
    assert directions.terms(point, "embed.weight", SHAPES["embed.weight"], scalars) == []
    assert directions.terms(point, "layers.0.norm.weight", (64,), scalars) == []
    assert len(directions.terms(point, "layers.0.q.weight", (96, 64), scalars)) == 1


def test_scalars_depend_on_neither_order_nor_threads() -> None:
    direction = RandomDirection(9, "layer", orthogonal_to=8)
    big = np.random.default_rng(1).standard_normal(300_000).astype(np.float32)
    tensors = [(name, w, SHAPES[name], "float32") for name, w in model().items()] + [
        ("big", big, (300, 1000), "float32")
    ]
    before = numba.get_num_threads()
    expected = directions.by_tensor(directions.measure(direction, tensors))
    try:
        numba.set_num_threads(1)
        remeasured = directions.by_tensor(directions.measure(direction, reversed(tensors)))
    finally:
        numba.set_num_threads(before)
    assert set(remeasured) == set(expected)
    for name in expected:
        assert [a.tolist() for a in remeasured[name]] == [a.tolist() for a in expected[name]]


def test_terms_are_sorted_summed_and_rounded_once() -> None:
    name, shape = "layers.0.q.weight", SHAPES["layers.0.q.weight"]
    n = math.prod(shape)
    second, first, by_row = RandomDirection(20, orthogonal_to=30), RandomDirection(30), RandomDirection(25, "filter")
    scalars = {
        d.id: table(d) if d is first else measured(d) for d in (second, first, by_row)
    }  # a table is accepted too
    point = Point.from_coefficients([(first, 0.3), (second, -0.7), (by_row, 0.1)])
    added = directions.terms(point, name, shape, scalars)
    assert [term.seed for term in added] == [20, 25, 30]
    assert [term.row_size for term in added] == [n, 64, n]
    assert all(term.scale.dtype == np.float32 for term in added)
    on_self, on_other = measured(second)[name]
    first_scalars = measured(first)[name][0]
    assert added[0].scale.tolist() == [np.float32(-0.7 * on_self[0])]
    ordered = {first.id: 0.3 * first_scalars[0], second.id: -0.7 * on_other[0]}
    assert added[2].scale.tolist() == [np.float32(sum(ordered[key] for key in sorted(ordered)))]
    assert np.array_equal(added[1].scale, (0.1 * measured(by_row)[name][0]).astype(np.float32))


def test_mixed_units_of_one_seed_add_up_by_row() -> None:
    name, shape = "layers.0.q.weight", SHAPES["layers.0.q.weight"]
    layer, by_row = RandomDirection(20), RandomDirection(20, "filter")
    scalars = {d.id: measured(d) for d in (layer, by_row)}
    (term,) = directions.terms(Point.from_coefficients([(layer, 0.3), (by_row, 0.1)]), name, shape, scalars)
    assert term.row_size == 64
    expected = 0.3 * measured(layer)[name][0] + 0.1 * measured(by_row)[name][0]
    np.testing.assert_allclose(term.scale, expected, rtol=1e-7)


def test_unperturbed_tensors_have_no_terms() -> None:
    name, shape = "embed.weight", SHAPES["embed.weight"]
    direction = RandomDirection(20)
    scalars = {direction.id: measured(direction)}
    assert directions.terms(ORIGIN, name, shape, {}) == []
    assert directions.terms(Point.from_coefficients([(direction, 0.0)]), name, shape, scalars) == []
    assert directions.terms(Point.from_coefficients([(direction, 0.5)]), "zero.weight", (8, 64), scalars) == []
    assert directions.terms(Point.from_coefficients([(direction, 0.5)]), "empty.weight", (0, 64), scalars) == []
    assert directions.terms(Point.from_coefficients([(TowardsDirection("abc"), 0.5)]), name, shape, {}) == []


def test_alpha_zero_is_the_base_bit_for_bit() -> None:
    direction = RandomDirection(20)
    scalars = {direction.id: measured(direction, "bfloat16")}
    for name, w in model("bfloat16").items():
        n = w.size
        result = np.empty_like(w)
        for alpha, same in ((0.4, False), (0.0, True)):
            terms: list[Term] = directions.terms(
                Point.from_coefficients([(direction, alpha)]), name, SHAPES[name], scalars
            )
            write_slab(result, w, Slab.whole(n), name, terms, "bfloat16", "bfloat16")
            moves = n > 0 and direction.covers(name) and name != "zero.weight"
            assert np.array_equal(result, w) == (same or not moves), (name, alpha)


def test_scalars_out_of_order_are_refused() -> None:
    shuffled = table(RandomDirection(1, "filter"))
    with pytest.raises(AssertionError, match="order"):
        directions.by_tensor(shuffled.take(list(range(shuffled.num_rows))[::-1]))
