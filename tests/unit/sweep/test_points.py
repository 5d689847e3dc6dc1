"""A point's id depends only on its position in weight space, not on how its coefficients were written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sweep.directions import from_json
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.points import DECIMALS, ORIGIN, Point
from orchestrator.utils.choices import Norm

random_directions = st.builds(
    RandomDirection,
    seed=st.integers(0, 2**63),
    norm=st.sampled_from(Norm),
    exclude=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    orthogonal_to=st.none() | st.integers(0, 99),
)
directions = random_directions | st.builds(TowardsDirection, st.text("0123456789abcdef", min_size=16, max_size=16))
coefficients = st.floats(-10, 10, allow_nan=False)
terms = st.lists(st.tuples(directions, coefficients), max_size=5)
tiny = st.tuples(directions, st.sampled_from([0.0, -0.0, 4e-10, -4e-10]))
Terms = list[tuple[RandomDirection, float]]


@given(terms)
def test_a_point_is_restored_from_json(given_terms: Terms) -> None:
    point = Point.from_coefficients(given_terms)
    restored = Point.from_json(json.loads(json.dumps(point.to_json())))
    assert restored.id == point.id
    assert [c for _, c in restored.coefficients] == [c for _, c in point.coefficients]


@given(terms, st.randoms())
def test_the_order_of_coefficients_is_not_part_of_the_identity(given_terms: Terms, random) -> None:  # type: ignore[no-untyped-def]
    once = {d.id: (d, c) for d, c in given_terms}  # coefficients of the same direction add up in floating point
    listed = list(once.values())
    shuffled = listed.copy()
    random.shuffle(shuffled)
    assert (
        Point.from_coefficients(listed) == Point.from_coefficients(shuffled)
        and Point.from_coefficients(listed).id == Point.from_coefficients(shuffled).id
    )


@given(directions, st.integers(-(10**9), 10**9), st.floats(-0.4, 0.4))
def test_coefficients_are_rounded_to_nine_decimals(direction: RandomDirection, units: int, rest: float) -> None:
    exact = units / 10**DECIMALS
    assert (
        Point.from_coefficients([(direction, exact + rest * 10**-DECIMALS)]).id
        == Point.from_coefficients([(direction, exact)]).id
    )
    assert (
        Point.from_coefficients([(direction, exact + 10**-DECIMALS)]).id
        != Point.from_coefficients([(direction, exact)]).id
    )


@given(
    st.lists(
        st.tuples(directions, st.sampled_from([0.0, -0.0, 4e-10, -4e-10])), max_size=4, unique_by=lambda t: t[0].id
    )
)
def test_zeros_are_dropped_and_all_origins_are_the_same_point(zeros: Terms) -> None:
    assert (
        Point.from_coefficients(zeros) == ORIGIN
        and Point.from_coefficients(zeros).id == ORIGIN.id
        and Point.from_coefficients(zeros).is_origin
    )


@given(terms, directions)
def test_coefficients_that_cancel_are_dropped(given_terms: Terms, extra: RandomDirection) -> None:
    others = [(d, c) for d, c in given_terms if d != extra]
    assert Point.from_coefficients([*others, (extra, 0.25), (extra, -0.25)]) == Point.from_coefficients(others)


def test_known_ids() -> None:
    """Ids name stored results: if they changed, the results of existing studies would no longer be found."""
    point = Point.from_coefficients([(RandomDirection(123), 0.05)])
    assert (ORIGIN.id, RandomDirection(123).id, point.id) == (
        "71857576257465c7",
        "969e0982d13a6625",
        "ee4ecc2aad4cdcbd",
    )


@pytest.mark.parametrize("norm", Norm)
def test_everything_that_moves_the_weights_is_part_of_a_directions_identity(norm: str) -> None:
    base = RandomDirection(1, norm)  # type: ignore[arg-type]
    others = [
        RandomDirection(2, norm),  # type: ignore[arg-type]
        RandomDirection(1, norm, ()),  # type: ignore[arg-type]
        RandomDirection(1, norm, orthogonal_to=0),  # type: ignore[arg-type]
        *(RandomDirection(1, other) for other in Norm if other != norm),
        TowardsDirection("1"),
    ]
    assert len({base.id, *(o.id for o in others)}) == len(others) + 1
    assert RandomDirection(1, exclude=("b", "a")).id == RandomDirection(1, exclude=("a", "b")).id


def test_a_targets_label_is_not_part_of_the_identity() -> None:
    assert TowardsDirection("f" * 16, "mine").id == TowardsDirection("f" * 16, "yours").id


def test_an_unknown_kind_of_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="sideways"):
        from_json({"kind": "sideways"})


def test_the_points_of_a_planes_axis_are_those_of_a_line() -> None:
    line = Grid(kind="random_1d", seed=7, steps=8, directions=1)
    plane = Grid(kind="random_2d", seed=7, steps=8, directions=1)
    on_axis = {node.point.id for node in plane.nodes if node.beta == 0}
    assert on_axis == {node.point.id for node in line.nodes}


def test_exclusions_match_parts_of_tensor_names() -> None:
    direction = RandomDirection(1, exclude=("norm", "bias"))
    assert direction.covers("model.layers.0.mlp.up_proj.weight")
    assert not direction.covers("model.norm.weight") and not direction.covers("q_proj.bias")
