"""Epochs of a trajectory, and adapters along its principal axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.models.geometry import measure_targets
from orchestrator.models.targets import resolve_target
from orchestrator.models.trajectory import epoch_folders, principal_axis_adapters
from orchestrator.utils.choices import Dtype
from orchestrator.utils.errors import UserError
from tests.unit.models.target_files import Q, adapter, half, model, trajectory
from workers.weights.adapters import write_adapter_sum
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.targets import AdapterEndpoint, Endpoint, open_endpoint


def test_epochs_are_found_in_order_in_either_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    folder = trajectory(tmp_path / "made" / "checkpoints", (1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    (folder / "notes").mkdir()
    names = [f"epoch-{i}" for i in range(1, 11)]
    assert (
        [path.name for path in epoch_folders(folder)]
        == [path.name for path in epoch_folders(tmp_path / "made")]
        == names
    )


def test_an_incomplete_trajectory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (trajectory(tmp_path / "gap", (1, 2, 5)), "has epoch-5 but not epoch-3, epoch-4: put back"),
        (trajectory(tmp_path / "late", (2,)), "has epoch-2 but not epoch-1"),
        (tmp_path / "empty", "holds no checkpoints epoch-1"),
        (tmp_path / "nowhere", "there is no such folder, nor a recipe"),
    ):
        with pytest.raises(UserError, match=message) as error:
            epoch_folders(folder)
        assert error.value.field == "grid.trajectory" and len(str(error.value).splitlines()) == 1


def test_principal_axis_adapters_equal_the_axes_up_to_rounding(base: CheckpointInfo, tmp_path: Path) -> None:
    """The update of each adapter equals the weighted sum of the updates of the epochs, in float64."""
    epochs = [resolve_target(path, base) for path in epoch_folders(trajectory(tmp_path / "t", (1, 2, 3)))]
    geometry = measure_targets(base, epochs, ["norm"], Dtype.float32)
    cached = measure_targets(base, epochs, ["norm"], Dtype.float32)
    assert np.array_equal(geometry.gram, cached.gram) and geometry.moved == cached.moved, "cached"
    _, mixing, share = geometry.principal_axes()
    assert 0 < share <= 1
    axes = principal_axis_adapters(base, epochs, mixing.tolist())
    assert axes == principal_axis_adapters(base, epochs, mixing.tolist())
    mapped = MappedCheckpoint(base.path)
    info = next(info for info in mapped.tensors() if info.name == f"{Q}.weight")
    updates = np.stack([update(open_endpoint(target, mapped), info) for target in epochs])
    for axis, row in zip(axes, mixing, strict=True):
        made = update(open_endpoint(resolve_target(axis, base), mapped), info)
        wanted = row @ updates
        assert np.linalg.norm(made - wanted) < 1e-6 * np.linalg.norm(wanted)


def update(endpoint: Endpoint, info: TensorInfo) -> np.ndarray:
    """Return s B A of an adapter's tensor, flat, from its factors in float64."""
    assert isinstance(endpoint, AdapterEndpoint)
    factors = endpoint.factors[info.name]
    return (factors.scale * (factors.b.astype(np.float64) @ factors.a.astype(np.float64))).reshape(-1)


def test_a_sum_of_adapters_is_exact(base: CheckpointInfo, tmp_path: Path) -> None:
    """Only the second adapter changes the embedding, and one row of its update is -0. Its scale is 2."""
    embedding = "model.embed_tokens"
    rng = np.random.default_rng(5)
    b = rng.standard_normal((5, 2)).astype(np.float32)
    b[0] = -0.0
    second = half("A", 2, 8, module=embedding) | {f"base_model.model.{embedding}.lora_B.weight": b}
    mapped = MappedCheckpoint(base.path)
    folders = [adapter(tmp_path / "one"), adapter(tmp_path / "two", half("A", 2, 8) | half("B", 8, 2) | second)]
    write_adapter_sum(mapped, folders, [0.3, 1.0], tmp_path / "sum")
    single, summed = (AdapterEndpoint(tmp_path / name, mapped) for name in ("two", "sum"))
    assert {factors.a.shape for factors in summed.factors.values()} == {(4, 8)}
    info = mapped[f"{embedding}.weight"]
    assert np.signbit(summed.values(info)[:8]).all()
    assert summed.weigh(info, 1.0) == (1.0, 0.0) and single.weigh(info, 1.0) == (2.0, 0.0)
    assert summed.values(info).tobytes() == (2 * single.values(info)).tobytes()


def test_the_principal_plane_of_full_checkpoints_is_refused(base: CheckpointInfo, tmp_path: Path) -> None:
    folder = trajectory(tmp_path / "whole", (1, 2, 3), lambda path, tensors: model(path, tensors))
    epochs = [resolve_target(path, base) for path in epoch_folders(folder)]
    with pytest.raises(UserError, match="use grid=interpolate_1d"):
        principal_axis_adapters(base, epochs, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
