"""The sentence of `plan` on the share of points that an adaptive grid measures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.planning.adaptive_shares import simulated_share
from orchestrator.sweep.grid import Grid
from orchestrator.utils.choices import GridKind


@pytest.mark.parametrize(
    ("fields", "simulated"),
    [
        ({"steps": 20}, "lines of 21 points"),
        ({"steps": 30}, "lines of 21 points"),
        ({"steps": 60}, "lines of 81 points"),
        ({"steps": 400}, "lines of 81 points"),
        ({"kind": GridKind.random_2d, "steps": 6}, "planes of 21 x 21 points"),
    ],
)
def test_the_nearest_simulated_grid_is_named(fields: dict[str, Any], simulated: str) -> None:
    assert f"80% of simulated {simulated}, " in simulated_share(Grid(**fields))


def test_plan_states_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "engine=dummy", "grid.adaptive=true", "grid.steps=80", "grid.directions=1", "--json"]) == 0
    notes = " ".join(json.loads(capsys.readouterr().out)["notes"])
    assert "to 81 further points" in notes and "simulated lines of 81 points" in notes


@pytest.mark.parametrize(("actors", "is_warned"), [(8, False), (64, True)])
def test_plan_warns_where_levels_wait_for_each_other(
    actors: int, is_warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["engine=dummy", "grid.adaptive=true", "grid.steps=80", "grid.directions=1", f"cluster.actors={actors}"]
    assert main(["plan", *grid, "--json"]) == 0
    notes = " ".join(json.loads(capsys.readouterr().out)["notes"])
    assert (f"with {actors} actors for 81 visits" in notes) == is_warned
