"""Displacements of targets from the base are measured once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.models.geometry import measure_targets, warn_of_rounding
from orchestrator.models.targets import resolve_target
from orchestrator.utils.choices import Dtype
from tests.unit.models.target_files import SHAPES, Q, adapter, model, weights
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.geometry import Geometry

pytestmark = pytest.mark.thorough


def test_displacements_are_measured_once(
    base: CheckpointInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        resolve_target(model(tmp_path / "tuned", weights(1)), base),
        resolve_target(adapter(tmp_path / "a"), base),
    )
    monkeypatch.setattr("orchestrator.utils.console.PLAIN_EVERY", 0.0)
    coefficient, scale = measure_targets(base, [first, second], ["norm"], Dtype.float32).eq4()
    origin, checkpoint, adapter_tensors = (
        weights(0),
        weights(1),
        load_file(tmp_path / "a" / "adapter_model.safetensors"),
    )
    d1 = np.concatenate([(checkpoint[k] - origin[k]).ravel() for k in sorted(SHAPES)]).astype(np.float64)
    displacement = {k: np.zeros(s) for k, s in SHAPES.items()}
    factors = [adapter_tensors[f"base_model.model.{Q}.lora_{k}.weight"].astype(np.float64) for k in "BA"]
    displacement[f"{Q}.weight"] = 2 * factors[0] @ factors[1]
    d2 = np.concatenate([displacement[k].ravel() for k in sorted(SHAPES)])
    assert coefficient == pytest.approx(d1 @ d2 / (d1 @ d1), abs=1e-6)
    assert scale == pytest.approx(np.linalg.norm(d1) / np.linalg.norm(d2 - coefficient * d1), rel=1e-6)
    assert "reading the distances of the weights from the model: 100%" in capsys.readouterr().err
    monkeypatch.setattr(MappedCheckpoint, "base", lambda self, name: pytest.fail("measured again"))
    assert measure_targets(base, [first, second], ["norm"], Dtype.float32).eq4() == (coefficient, scale)


def test_the_rounding_of_each_engine_dtype_is_measured_and_remembered(base: CheckpointInfo, tmp_path: Path) -> None:
    targets = [resolve_target(adapter(tmp_path / "a", lora_alpha=1e-3), base)]
    kept, lost = (measure_targets(base, targets, ["norm"], dtype) for dtype in (Dtype.float32, Dtype.bfloat16))
    assert kept.rounding[0] < 1e-3 and lost.rounding[0] > 0.1
    assert np.array_equal(kept.gram, lost.gram), "the displacement itself is the same"
    assert measure_targets(base, targets, ["norm"], Dtype.bfloat16).rounding == lost.rounding


def test_a_warning_names_the_targets_that_rounding_changes_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    measured = Geometry(("epoch-1", "epoch-2", "far"), np.eye(3), 1.0, rounding=(0.8711, 0.012, 0.0099))
    warn_of_rounding(measured, Dtype.bfloat16)
    (message,) = caplog.messages
    assert message.startswith("model.dtype=bfloat16: ") and "epoch-1 (87%), epoch-2 (1.2%): " in message
    assert "far" not in message and "model.dtype=float32" in message
    caplog.clear()
    warn_of_rounding(Geometry(("far",), np.eye(1), 1.0, rounding=(0.01,)), Dtype.bfloat16)
    assert caplog.messages == []
