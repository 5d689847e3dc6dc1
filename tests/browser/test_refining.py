"""The viewer's page of a running adaptive sweep, in a real browser: the plane sharpens while points are measured."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchestrator.analysis.adaptive.rule import RULE_VERSION
from orchestrator.analysis.requested import requested
from orchestrator.store.files import read_table
from orchestrator.store.lease import Lease
from orchestrator.store.schemas import GENERATIONS
from orchestrator.sweep.grid import Adaptive, Grid
from orchestrator.utils.choices import GridKind
from tests.browser.pages import ENGINE, DummyStudy, OpenedPage, make_study, prompt_set
from tests.browser.test_viewer import path_of, wait
from tests.viewing import viewing

pytestmark = pytest.mark.browser


class RefiningPlane:
    """A running adaptive sweep of a plane, measured level by level."""

    def __init__(self, folder: Path, steps: int) -> None:
        sets = (prompt_set("harmful", "harmful", "default", 8),)
        grid = Grid(GridKind.random_2d, steps=steps, directions=1, adaptive=Adaptive("keyword", RULE_VERSION))
        full = make_study(folder / "full", grid, sets)
        self._rows = read_table(full.study.generations.parts()[0].path, GENERATIONS)
        self.dummy: DummyStudy = make_study(folder / "studies", grid, sets, without=lambda point: True)
        self.folder = self.dummy.stored().folder
        record = self.folder.read_record()
        (run,) = record.runs
        running = dataclasses.replace(run, outcome="running", host=socket.gethostname(), pid=os.getpid())
        self.folder.write_record(dataclasses.replace(record, runs=(running,)))

    def measure_level(self) -> None:
        """Store the points that the rule asks for now."""
        stored, needed = self.dummy.stored(), self.requested_points()
        missing = sorted(needed - {point for point, _ in stored.generations})
        rows = self._rows.filter(pc.is_in(self._rows["point_id"], pa.array(missing)))
        self.dummy.study.generations.write(f"points-{len(needed)}", rows, ENGINE)

    def requested_points(self) -> set[str]:
        """Return the points that the rule asks for now or has asked for."""
        return {task.point.id for task in requested(self.dummy.stored()).tasks}


def test_a_running_plane_sharpens_and_says_how_many_visits_it_has_saved(
    tmp_path: Path, open_page: Callable[..., OpenedPage]
) -> None:
    plane = RefiningPlane(tmp_path, 12)
    plane.measure_level()
    root = plane.dummy.study.out
    with Lease(root, plane.folder.lease_path()), viewing(root, tmp_path / "scratch") as url:
        opened = open_page(f"{url}{path_of(plane.dummy)}")
        text = opened.page.locator("#progress-text").inner_text()
        waiting = len(plane.requested_points()) - 25
        assert waiting > 0
        assert f"measured 25 of 169 points, {waiting} under way or waiting, {144 - waiting} visits saved so far" in text
        hollow = opened.page.locator("#chart .dot.hollow")
        assert hollow.count() == 144, "points that are not measured yet are inferred too"
        assert opened.page.locator("#chart .missing").count() == 0, "the surface has no holes"
        inferred = hollow.first.evaluate("dot => dot.closest('.point').dataset.key.split(' ').at(-1)")
        linked = open_page(f"{url}{path_of(plane.dummy)}#point={inferred}").page
        linked.locator("#link-note", has_text="This point is inferred, not measured").wait_for()
        assert not linked.locator("#detail").is_visible()
        plane.measure_level()
        wait(opened, f"document.querySelector('#progress-text').textContent.includes('measured {25 + waiting} of 169')")
        assert hollow.count() == 144 - waiting
        opened.assert_clean(url)
