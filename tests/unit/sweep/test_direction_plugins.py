"""A kind of direction in an installed package: found by its name, identified and sent to actors by its content."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.sweep import directions
from orchestrator.sweep.directions import UnitSums
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.points import Point
from orchestrator.utils.errors import UserError
from tests.unit.packages import declare, forget_packages
from tests.unit.sweep.test_direction_file import DIRECTION_FILE

SUMS = UnitSums(size=4, weights=16.0, noise=1)


def forget() -> None:
    forget_packages()
    directions.get.cache_clear()
    directions._installed.cache_clear()
    sys.modules.pop("my_directions", None)


def write(site: Path, code: str) -> None:
    (site / "my_directions.py").write_text(code, encoding="utf-8")
    forget()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package with an entry point for a kind of direction, as pip leaves it."""
    declare(tmp_path, "my-directions", directions.ENTRY_POINTS, "attention = my_directions:DIRECTION")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "dont_write_bytecode", True)  # else a change within a second is not noticed
        patched.syspath_prepend(tmp_path)
        write(tmp_path, DIRECTION_FILE)
        yield tmp_path
    forget()


def point() -> Point:
    kind = directions.get("attention")
    return Grid("random_1d", directions=1, steps=2, direction=kind.kind).point_at(0, 0.5)


def test_a_kind_of_an_installed_package_is_identified_by_its_file(site: Path) -> None:
    first = point()
    ((direction, _),) = first.coefficients
    assert (direction.scalars(SUMS), direction.label) == ((2.0, 0.0), "attention 123 (layer)")
    assert Point.from_json(first.to_json()) == first
    write(site, DIRECTION_FILE.replace("sums.weights / sums.size", "sums.weights"))
    second = point()
    assert first.id != second.id, "other code, another direction"
    ((stored, _),) = Point.from_json(first.to_json()).coefficients
    assert stored.id == direction.id
    with pytest.raises(UserError, match="no installed file whose SHA-256 begins with"):
        stored.scalars(SUMS)


def test_what_is_stored_is_read_without_the_package(site: Path) -> None:
    first = point()
    value, ids = first.to_json(), [direction.id for direction, _ in first.coefficients]
    grid = Grid("random_1d", directions=1, steps=2, direction=value[0]["direction"]["kind"])
    write(site, "raise RuntimeError('broken')")
    read = Point.from_json(value)
    assert ([direction.id for direction, _ in read.coefficients], read.id) == (ids, first.id)
    assert Grid.from_json(grid.to_json()).point_at(0, 0.5).id == first.id


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("x = 1\nraise RuntimeError('broken')", r"raises RuntimeError \(broken\) in line 2 of .*my_directions\.py"),
        ("def f(:", r"raises SyntaxError .* in line 1 of .*my_directions\.py"),
        ("import no_such_module", r"raises ModuleNotFoundError .* in line 1 of .*my_directions\.py"),
        ("DIRECTION = 3", "no subclass of SeededDirection"),
        (DIRECTION_FILE.replace('"attention"', '"other"'), "give it the entry point's name"),
        (DIRECTION_FILE.replace("    kind:", "    more: int = 3\n    kind:"), "leave those of SeededDirection"),
    ],
)
def test_a_package_that_cannot_be_used_is_named_with_its_file(
    site: Path, capsys: pytest.CaptureFixture[str], code: str, why: str
) -> None:
    write(site, code)
    assert main(["plan", "engine=dummy", "grid.direction=attention"]) == 2
    error = capsys.readouterr().err
    assert re.search(why, error) and "my-directions" in error, error


def test_a_kind_that_does_not_exist_is_told_with_those_of_packages(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "engine=dummy", "grid.direction=atention"]) == 2
    assert "did you mean 'attention'? (there are: matched, random, shuffled, attention)" in capsys.readouterr().err


@pytest.mark.thorough
def test_an_actor_needs_no_package(site: Path) -> None:
    import ray

    from orchestrator.execution.actor_pool import ship_plugins

    sent = point()
    ship_plugins()
    code = (
        "import sys, pickle, ray\n"
        "from orchestrator.sweep.directions import UnitSums\n"
        "((direction, _),) = pickle.load(sys.stdin.buffer).coefficients\n"
        "print(direction.id, direction.scalars(UnitSums(size=4, weights=16.0, noise=1)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=ray.cloudpickle.dumps(sent), capture_output=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.stdout.decode().split() == [sent.coefficients[0][0].id, "(2.0,", "0.0)"], done.stderr.decode()
