"""Errors in the checkpoints of a grid are refused and attributed to the option that names them."""

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


def test_an_error_is_attributed_to_the_option_that_names_the_checkpoint(base: CheckpointInfo, tmp_path: Path) -> None:
    checkpoint, copy = model(tmp_path / "good", weights(1)), model(tmp_path / "same", weights(1))
    epochs = trajectory(tmp_path / "chain", (1, 2))
    dora = adapter(tmp_path / "odd", use_dora=True)
    invalid = trajectory(tmp_path / "spoilt", (1,))
    adapter(invalid / "epoch-2", bias="all")
    repeated = trajectory(tmp_path / "again", (1,))
    shutil.copytree(repeated / "epoch-1", repeated / "epoch-2")
    towards = f"grid.towards=[{checkpoint}]"
    for overrides, message in (
        ((towards, f"grid.beside=[{dora}]"), f"grid.beside={dora}: is DoRA"),
        ((towards, "grid.beside=[pair]"), "grid.beside=[pair]: base has no counterpart preset"),
        ((towards, f"grid.beside=[{copy}]"), f"grid.beside=[{checkpoint}, {copy}]: are the same weights"),
        ((f"grid.trajectory={invalid}",), f"grid.trajectory={invalid / 'epoch-2'}: changes biases"),
        ((f"grid.trajectory={repeated}",), "grid.trajectory=["),
        ((f"grid.trajectory={epochs}", f"grid.beside=[{epochs / 'epoch-1'}]"), "grid.beside=["),
    ):
        with pytest.raises(UserError) as error:
            resolve(base, "grid=interpolate_1d", *overrides)
        assert str(error.value).startswith(message), str(error.value)
    assert len(resolve(base, "grid=interpolate_1d", towards, f"grid.beside=[{epochs / 'epoch-1'}]").targets) == 2


def cancelling(folder: Path) -> Path:
    """Return an adapter whose factors are not zero but whose product is."""
    b = np.tile(np.array([[1, -1]], np.float32), (8, 1))
    return adapter(folder, half("A", 2, 8) | {f"base_model.model.{Q}.lora_B.weight": b})


def test_a_direction_of_length_zero_is_refused_before_the_division(base: CheckpointInfo, tmp_path: Path) -> None:
    zero, underflow = (
        cancelling(tmp_path / "nothing"),
        adapter(tmp_path / "lost", half("A", 2, 8, fill=1e-30) | half("B", 8, 2, fill=1e-30)),
    )
    other, checkpoint = model(tmp_path / "one", weights(1)), model(tmp_path / "good", weights(2))
    epochs = trajectory(tmp_path / "chain", (1, 2))
    cancelling(epochs / "epoch-3")
    for overrides, field in (
        (("grid=interpolate_1d", f"grid.towards=[{zero}]"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.towards=[{underflow}]", f"grid.beside=[{checkpoint}]"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.towards=[{checkpoint}]", f"grid.beside=[{zero}]"), "grid.beside"),
        (("grid=interpolate_2d", f"grid.towards=[{checkpoint},{zero}]", "grid.orthogonal=false"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.trajectory={epochs}"), "grid.trajectory"),
        (("grid=interpolate_2d", f"grid.trajectory={epochs}"), "grid.trajectory"),
    ):
        with pytest.raises(UserError, match="the direction has length 0") as error:
            resolve(base, *overrides)
        assert error.value.field == field, str(error.value)
    for extra, message in (
        (underflow, "the direction has length 0"),
        (shutil.copytree(checkpoint, tmp_path / "same"), "same weights"),
    ):
        towards = ["grid=interpolate_1d", f"grid.towards=[{checkpoint}]", f"grid.beside=[{extra}]"]
        with pytest.raises(UserError, match=rf"^grid\.beside=.*{message}"):
            describe(compose([f"model.path={base.path}", *towards]), Presets())
    doubled = adapter(tmp_path / "twice", lora_alpha=8)
    line = f"grid.towards=[{adapter(tmp_path / 'once')},{doubled}]"
    for extra_option in ("grid.beside=[]", f"grid.beside=[{other}]"):
        with pytest.raises(UserError, match=r"^grid\.towards=.*lie on one line through the base and make no plane"):
            resolve(base, "grid=interpolate_2d", line, "grid.orthogonal=false", extra_option)


def test_the_rounding_of_targets_is_recorded_and_a_coarse_dtype_warns(
    base: CheckpointInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = adapter(tmp_path / "small", lora_alpha=1e-3)
    fine = resolve(base, "grid=interpolate_1d", f"grid.towards=[{small}]", "model.dtype=float32")
    assert caplog.messages == []
    coarse = resolve(base, "grid=interpolate_1d", f"grid.towards=[{small}]", "model.dtype=bfloat16")
    assert fine.grid == coarse.grid and fine.geometry is not None and coarse.geometry is not None
    assert fine.geometry.lengths == coarse.geometry.lengths and fine.geometry.adapter_version == 2
    ((name, share),) = coarse.geometry.rounding.items()
    assert name == fine.targets[0].fingerprint and fine.geometry.rounding[name] < 1e-3 < 0.1 < share
    assert [f"small ({100 * share:.2g}%)" in message for message in caplog.messages] == [True]
