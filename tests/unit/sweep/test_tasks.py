"""Tasks, visits and the identity of prompt sets."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling, Task, Visit, assign_parts, visits

POINTS = [ORIGIN, *(Point.from_coefficients([(RandomDirection(1), c)]) for c in (0.1, 0.2, 0.3))]
SET = PromptSet(
    group="harmful",
    prompts=(Prompt("how?"), Prompt("why?")),
    rendered=("<how?>", "<why?>"),
    token_ids=((1, 2), (3,)),
    sampling=Sampling(32),
    probe_set="ours",
    system_prompt="empty",
)


@given(st.lists(st.tuples(st.sampled_from(POINTS), st.sampled_from("abcd")), unique=True))
def test_visits_contain_every_task_once_in_order(pairs: list[tuple[Point, str]]) -> None:
    tasks = [Task(point, set_id) for point, set_id in pairs]
    gathered = visits(tasks)
    assert sorted(t.key for t in tasks) == sorted((v.point.id, s) for v in gathered for s in v.prompt_set_ids)
    assert [v.point for v in gathered] == list(dict.fromkeys(t.point for t in tasks))
    for visit in gathered:
        assert list(visit.prompt_set_ids) == [t.prompt_set_id for t in tasks if t.point == visit.point]


def test_a_task_is_identified_by_its_point_and_prompt_set() -> None:
    assert Task(POINTS[1], "a").key == (POINTS[1].id, "a")


def test_a_visit_is_identified_by_its_point_and_prompt_sets() -> None:
    ids = {Visit(p, s).id for p in POINTS for s in (("a",), ("b",), ("a", "b"), ("b", "a"))}
    assert len(ids) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"group": "benign"},
        {"prompts": (Prompt("why?"), Prompt("how?"))},
        {"prompts": (Prompt("how?", choices=("A", "B")), Prompt("why?"))},
        {"token_ids": ((1, 2), (4,))},
        {"token_ids": ((1,), (2, 3))},
        {"sampling": Sampling(33)},
        {"sampling": Sampling(32, stop=("Sorry",))},
        {"sampling": Sampling(32, letters=("A", "B"))},
    ],
)
def test_everything_that_changes_a_response_is_part_of_a_prompt_sets_identity(change: dict[str, Any]) -> None:
    assert dataclasses.replace(SET, **change).id != SET.id


@pytest.mark.parametrize(
    "change",
    [
        {"probe_set": "theirs"},
        {"system_prompt": "none"},
        {"rendered": ("", "")},
        {"prompts": (Prompt("how?", category="x", pair_id="p", target="Sure"), Prompt("why?"))},
    ],
)
def test_labels_are_not_part_of_a_prompt_sets_identity(change: dict[str, Any]) -> None:
    assert dataclasses.replace(SET, **change).id == SET.id


@given(st.text(), st.text())
def test_prompts_are_paired_by_their_text(one: str, other: str) -> None:
    assert (Prompt(one).id == Prompt(other, "benign", "category").id) == (one == other)


def test_text_that_cannot_be_encoded_is_a_valid_prompt() -> None:
    assert Prompt("\ud800").id != Prompt("\ud801").id


@given(st.integers(1, 40), st.integers(1, 50))
def test_parts_are_of_equal_size_and_go_from_coarse_to_fine(n_points: int, n: int) -> None:
    points = [Point.from_coefficients([(RandomDirection(1), (k + 1) / 64)]) for k in range(n_points)]
    places = assign_parts([Task(point, set_id) for point in points for set_id in ("a", "b")], n)
    assert list(places) == points, "each point is in one share"
    sizes = collections.Counter(places.values())
    assert set(sizes) <= set(range(1, n + 1)) and max(sizes.values()) - min(sizes[i] for i in range(1, n + 1)) <= 1
    assert [places[point] for point in points[:n]] == list(range(1, min(n, n_points) + 1))
