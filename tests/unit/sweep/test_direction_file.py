"""A new kind of direction is one file. It is found by its name, and a grid uses it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.sweep import directions
from orchestrator.sweep.directions._seeded import seeded_kind
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.points import Point
from orchestrator.utils.errors import UserError

DIRECTION_FILE = '''"""Random directions in the attention matrices."""

import math
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.sweep.directions import UnitSums
from orchestrator.sweep.directions._seeded import SeededDirection


@dataclass(frozen=True)
class Attention(SeededDirection):
    """Noise whose standard deviation is the root mean square of the weights; only attention moves."""

    kind: ClassVar[str] = "attention"

    def covers(self, tensor: str) -> bool:
        return "self_attn" in tensor and super().covers(tensor)

    def factor(self, sums: UnitSums) -> float:
        return math.sqrt(sums.weights / sums.size)


DIRECTION = Attention
'''


@pytest.fixture
def attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[directions.Direction]:
    """Add the file to the package's folders, as if it were in the package."""
    package = tmp_path / "more_directions"
    package.mkdir()
    (package / "attention.py").write_text(DIRECTION_FILE, encoding="utf-8")
    monkeypatch.setattr(directions, "__path__", [*directions.__path__, str(package)])
    return directions.get("attention")


def test_a_direction_file_is_all_that_a_new_kind_needs(attention: type[directions.Direction]) -> None:
    assert directions.names() == ["attention", "matched", "random", "shuffled", "towards"]
    plane = Grid("random_2d", directions=1, steps=2, direction="attention")
    x, y = plane.axes(0)
    assert type(x) is type(y) is attention and (x.seed, y and y.seed, y and y.orthogonal_to) == (123, 124, 123)
    assert x.to_json() == {
        "kind": "attention", "seed": 123, "norm": "layer", "exclude": ["norm"], "orthogonal_to": None,
    }  # fmt: skip
    assert [x.covers(name) for name in ("a.self_attn.q.weight", "a.self_attn.q_norm.weight", "a.mlp.weight")] == [
        True, False, False,
    ]  # fmt: skip
    stored = json.loads(json.dumps(plane.to_json()))
    assert stored["direction"] == "attention" and Grid.from_json(stored) == plane
    assert Grid.from_json(stored).nodes == plane.nodes
    for point in plane.points():
        assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point
    assert len({point.id for kind in ("random", "attention") for point in Grid(steps=2, direction=kind).points()}) == 13


@pytest.mark.parametrize(
    ("grid", "sweep_id"),
    [
        (Grid(steps=4, directions=2), "cd4c84a9911fadb9"),
        (Grid("random_2d", steps=2, norm="filter"), "50937bf9c1bb8282"),  # type: ignore[arg-type]
        (Grid("interpolate_1d", towards=(TowardsDirection("aa"),)), "2288db42565944a0"),  # type: ignore[arg-type]
        (Grid("interpolate_random", towards=(TowardsDirection("aa"),)), "01be84a83571fef3"),  # type: ignore[arg-type]
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_default_kind_is_not_part_of_a_grids_json(grid: Grid, sweep_id: str) -> None:
    """The ids were computed before there were other kinds to select."""
    assert "direction" not in grid.to_json() and grid == dataclasses.replace(grid, direction="random")
    assert Sweep(grid, ("p",)).id == sweep_id


@pytest.mark.parametrize("name", ["atention", "towards", "_seeded", "../judges/keyword"])
def test_an_unknown_seeded_kind_is_refused_with_the_known_ones(
    attention: type[directions.Direction], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match=r"no such kind of seeded direction.*there are: attention, matched, random, shuffled"
    ):
        seeded_kind(name)
    assert main(["plan", "engine=dummy", f"grid.direction='{name}'"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"grid.direction={name}: no such kind of seeded direction" in line


def test_a_module_that_defines_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "misnamed_kind.py").write_text(DIRECTION_FILE, encoding="utf-8")
    monkeypatch.setattr(directions, "__path__", [*directions.__path__, str(tmp_path)])
    with pytest.raises(AssertionError, match=r"directions/misnamed_kind\.py must define DIRECTION"):
        directions.get("misnamed_kind")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["grid.direction=matched"], "grid.direction=matched: has the lengths of a checkpoint: add grid.match="),
        (["grid.direction=random", "grid.match=pair"], "grid.direction=random: has lengths of its own"),
        (["grid=random_2d", "grid.match=pair"], "grid.match=pair: gives random lines their lengths"),
        (["grid=interpolate_1d", "grid.towards=[a]", "grid.match=pair"], "grid.match=pair: gives random lines"),
        (["engine=dummy", "model=dummy", "grid.match=pair"], "grid.match=pair: the dummy has no weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_contradict_each_other_are_refused(
    overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", f"out={tmp_path}", *overrides]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
