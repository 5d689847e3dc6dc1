"""What a grid names: mistakes are refused, and attributed to the option that made them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from orchestrator.models.geometry import describe
from orchestrator.pipeline.grid import ResolvedGrid, resolve_grid
from orchestrator.utils.errors import UserError
from tests.unit.models.target_files import Q, adapter, half, model, trajectory, weights


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointInfo:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    return read_checkpoint(model(tmp_path / "base", weights(0)))


def resolve(base: CheckpointInfo, *overrides: str) -> ResolvedGrid:
    return resolve_grid(compose([f"model.path={base.path}", *overrides]), base, Presets())


def test_a_mistake_is_attributed_to_the_option_that_names_it(base: CheckpointInfo, tmp_path: Path) -> None:
    good, same = model(tmp_path / "good", weights(1)), model(tmp_path / "same", weights(1))
    chain = trajectory(tmp_path / "chain", (1, 2))
    odd = adapter(tmp_path / "odd", use_dora=True)
    spoilt = trajectory(tmp_path / "spoilt", (1,))
    adapter(spoilt / "epoch-2", bias="all")
    again = trajectory(tmp_path / "again", (1,))
    shutil.copytree(again / "epoch-1", again / "epoch-2")
    towards = f"grid.towards=[{good}]"
    for overrides, words in (
        ((towards, f"grid.beside=[{odd}]"), f"grid.beside={odd}: is DoRA"),
        ((towards, "grid.beside=[pair]"), "grid.beside=[pair]: base has no counterpart preset"),
        ((towards, f"grid.beside=[{same}]"), f"grid.beside=[{good}, {same}]: are the same weights"),
        ((f"grid.trajectory={spoilt}",), f"grid.trajectory={spoilt / 'epoch-2'}: changes biases"),
        ((f"grid.trajectory={again}",), "grid.trajectory=["),
        ((f"grid.trajectory={chain}", f"grid.beside=[{chain / 'epoch-1'}]"), "grid.beside=["),
    ):
        with pytest.raises(UserError) as caught:
            resolve(base, "grid=interpolate_1d", *overrides)
        assert str(caught.value).startswith(words), str(caught.value)
    assert len(resolve(base, "grid=interpolate_1d", towards, f"grid.beside=[{chain / 'epoch-1'}]").targets) == 2


def cancelling(folder: Path) -> Path:
    """Return an adapter whose factors are not zero but whose product is."""
    b = np.tile(np.array([[1, -1]], np.float32), (8, 1))
    return adapter(folder, half("A", 2, 8) | {f"base_model.model.{Q}.lora_B.weight": b})


def test_a_direction_of_length_zero_is_refused_before_the_division(base: CheckpointInfo, tmp_path: Path) -> None:
    nothing, lost = (
        cancelling(tmp_path / "nothing"),
        adapter(tmp_path / "lost", half("A", 2, 8, fill=1e-20) | half("B", 8, 2, fill=1e-20)),
    )
    one, good = model(tmp_path / "one", weights(1)), model(tmp_path / "good", weights(2))
    chain = trajectory(tmp_path / "chain", (1, 2))
    cancelling(chain / "epoch-3")
    for overrides, field in (
        (("grid=interpolate_1d", f"grid.towards=[{nothing}]"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.towards=[{lost}]", f"grid.beside=[{good}]"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.towards=[{good}]", f"grid.beside=[{nothing}]"), "grid.beside"),
        (("grid=interpolate_2d", f"grid.towards=[{good},{nothing}]", "grid.orthogonal=false"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.trajectory={chain}"), "grid.trajectory"),
        (("grid=interpolate_2d", f"grid.trajectory={chain}"), "grid.trajectory"),
    ):
        with pytest.raises(UserError, match="a direction of no length") as caught:
            resolve(base, *overrides)
        assert caught.value.field == field, str(caught.value)
    for other, words in (
        (lost, "a direction of no length"),
        (shutil.copytree(good, tmp_path / "same"), "same weights"),
    ):
        towards = ["grid=interpolate_1d", f"grid.towards=[{good}]", f"grid.beside=[{other}]"]
        with pytest.raises(UserError, match=rf"^grid\.beside=.*{words}"):
            describe(compose([f"model.path={base.path}", *towards]), Presets())
    twice = adapter(tmp_path / "twice", lora_alpha=8)
    line = f"grid.towards=[{adapter(tmp_path / 'once')},{twice}]"
    for beside in ("grid.beside=[]", f"grid.beside=[{one}]"):
        with pytest.raises(UserError, match=r"^grid\.towards=.*lie on one line through the base and make no plane"):
            resolve(base, "grid=interpolate_2d", line, "grid.orthogonal=false", beside)
