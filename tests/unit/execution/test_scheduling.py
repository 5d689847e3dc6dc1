"""The real dispatcher, queue and levels of an adaptive grid, with actors simulated on a clock of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import scheduling
from benchmarks.scheduling import Model, dispatch, empty_sweep
from orchestrator.analysis.requested import requested
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.choices import GridKind

pytestmark = pytest.mark.thorough


def simulated(folder: Path, kind: GridKind, steps: int) -> tuple[StoredSweep, Model]:
    stored = empty_sweep(folder, kind, steps)
    first = requested(stored, [scheduling.PROMPTS])
    return stored, Model.draw(np.random.default_rng(5), stored.sweep.grid, first)


def test_actors_are_used_while_more_visits_are_needed_than_actors(tmp_path: Path) -> None:
    stored, model = simulated(tmp_path, GridKind.random_2d, 10)
    for adaptive in (False, True):
        assert dispatch(model, stored, 8, adaptive).used >= scheduling.GOAL / 100


def test_speculation_uses_idle_actors_and_changes_nothing_that_is_needed(tmp_path: Path) -> None:
    stored, model = simulated(tmp_path, GridKind.random_1d, 80)
    alone, plain, speculating = (
        dispatch(model, stored, actors, adaptive=True, speculate=speculate)
        for actors, speculate in ((1, True), (16, False), (16, True))
    )
    assert alone.needed == plain.needed == speculating.needed
    assert alone.speculative == 0, "one actor always has something to do"
    assert (plain.speculative, plain.wasted, plain.visits) == (0, 0, len(plain.needed))
    assert speculating.visits == len(plain.needed) + speculating.wasted
    assert speculating.speculative > 0 and speculating.wasted <= 0.1 * 241
    assert speculating.time < 0.9 * plain.time and speculating.idle < plain.idle
