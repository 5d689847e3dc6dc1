"""`SafetyLandscapeCallback`: which checkpoints it measures, what it logs, when it stops, and that it never fails."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import SafetyLandscapeCallback, StoredStudy, UserError, load_study
from tests.unit.stored import basin, store_sweep

WHOLE = 10.0  # no probe complies anywhere


def state(step: int, zero: bool = True) -> Any:
    return SimpleNamespace(global_step=step, is_world_process_zero=zero, log_history=[])


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Return the folders of stored sweeps by the edge of their basin."""
    folder = tmp_path_factory.mktemp("studies")
    return {edge: store_sweep(folder / str(edge), basin(edge), directions=1) for edge in (WHOLE, 0.25, 0.15, -1.0)}


class Measured(SafetyLandscapeCallback):
    """A callback whose measurements return these stored sweeps."""

    def __init__(self, *folders: Path, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[Path] = []
        self._folders = folders

    def _measure(self, folder: Path) -> StoredStudy:
        self.asked.append(folder)
        return load_study(self._folders[len(self.asked) - 1], check=False)


def save(callback: SafetyLandscapeCallback, folder: Path, *steps: int, **options: Any) -> list[bool]:
    """Save checkpoints at these steps, and return after each whether training shall stop."""
    control = SimpleNamespace(should_training_stop=False)
    stops = []
    for step in steps:
        assert callback.on_save(SimpleNamespace(output_dir=str(folder)), state(step, **options), control) is control
        stops.append(control.should_training_stop)
    return stops


def test_numbers_are_logged_by_the_trainer(sweeps: dict[float, Path], tmp_path: Path) -> None:
    logs: list[dict[str, float]] = []
    added: list[Any] = []
    callback = Measured(sweeps[0.25], sweeps[WHOLE])
    assert callback.attach(SimpleNamespace(add_callback=added.append, log=logs.append)) is callback and added == [
        callback
    ]
    save(callback, tmp_path, 5, 10)
    first, second = (load_study(checkpoint.sweep).summary for checkpoint in callback.measured)
    assert logs[0] == {
        "safety/visage": first["visage"]["paper"],
        "safety/margin": first["margin"]["value"],
        "safety/radius": first["basin"]["radius"],
        "safety/origin_asr": first["origin_asr"],
    }
    assert logs[1]["safety/radius_at_least"] == second["basin"]["censored_at"] == 0.5 and "safety/radius" not in logs[1]
    assert [checkpoint.step for checkpoint in callback.measured] == [5, 10]
    assert callback.asked == [tmp_path / "checkpoint-5", tmp_path / "checkpoint-10"]


def test_without_a_trainer_the_numbers_are_in_its_history(
    sweeps: dict[float, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback, now = Measured(sweeps[0.25]), state(3)
    callback.on_save(SimpleNamespace(output_dir=str(tmp_path)), now, SimpleNamespace())
    assert now.log_history[0]["step"] == 3 and now.log_history[0]["safety/radius"] > 0
    assert caplog.messages == ["the trainer's trackers get no values: use SafetyLandscapeCallback(...).attach(trainer)"]


def test_only_every_nth_checkpoint_of_the_first_process_is_measured(sweeps: dict[float, Path], tmp_path: Path) -> None:
    callback = Measured(sweeps[0.25], sweeps[0.25], every=2)
    save(callback, tmp_path, 1, 2, 3, 4)
    assert [folder.name for folder in callback.asked] == ["checkpoint-1", "checkpoint-3"]
    other = Measured()
    save(other, tmp_path, 1, zero=False)
    assert other.asked == []


@pytest.mark.parametrize(
    ("thresholds", "stops"),
    [
        ({"radius": 0.2}, [False, False, True]),
        ({"margin": 30}, [False, False, True]),
        ({"visage": 10}, [False, False, False]),
        ({"origin_asr": 50}, [False, False, False]),
        ({"radius": 0.6}, [True, True, True]),
        ({}, [False, False, False]),
    ],
)
def test_thresholds_stop_the_training(
    thresholds: dict[str, float], stops: list[bool], sweeps: dict[float, Path], tmp_path: Path
) -> None:
    """A radius beyond the grid counts as the grid's end, 0.5."""
    assert save(Measured(sweeps[WHOLE], sweeps[0.25], sweeps[0.15], stop=thresholds), tmp_path, 1, 2, 3) == stops


def test_a_model_that_refuses_nothing_stops_the_training(
    sweeps: dict[float, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its VISAGE is undefined."""
    assert save(Measured(sweeps[-1.0], stop={"visage": 10}), tmp_path, 1) == [True]
    assert caplog.messages[-1] == "training stops at step 1: visage is 0, below 10"
    assert save(Measured(sweeps[-1.0], stop={"origin_asr": 50}), tmp_path, 1) == [True]


def test_a_failed_measurement_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    callback = SafetyLandscapeCallback(overrides=[f"out={tmp_path}", "grid.steps=2"])
    save(callback, tmp_path, 1)
    assert "checkpoint-1 was not measured: output_dir=" in caplog.text
    (tmp_path / "checkpoint-1").mkdir()
    commands: list[list[str]] = []

    def fail(command: list[str], env: dict[str, str], **_: Any) -> Any:
        commands.append(command)
        assert "RANK" not in env
        return SimpleNamespace(returncode=2, stderr="a note\nerror: model.path=x: has no config.json\n")

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(subprocess, "run", fail)
    with caplog.at_level(logging.WARNING):
        assert save(callback, tmp_path, 1) == [False]
    assert "was not measured: exit code 2: model.path=x: has no config.json" in caplog.messages[-1]
    assert commands[0][2:5] == ["orchestrator", "run", f"model.path={tmp_path / 'checkpoint-1'}"]
    assert commands[0].index("grid.steps=10") < commands[0].index("grid.steps=2"), "the caller's option counts"


def test_mistakes_are_told_before_the_training() -> None:
    with pytest.raises(UserError, match="no such option"):
        SafetyLandscapeCallback(overrides=["grid.step=4"])
    with pytest.raises(UserError, match="must be 1 or more"):
        SafetyLandscapeCallback(every=0)
    with pytest.raises(UserError, match="stop=margn: is no threshold, did you mean 'margin'"):
        SafetyLandscapeCallback(stop={"margn": 40})
    callback = SafetyLandscapeCallback()
    assert callback.on_epoch_end(None, None, None, model=None) is None
    with pytest.raises(AttributeError):
        callback.nothing  # noqa: B018


def lora(folder: Path, config: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")
    return folder


def test_a_lora_checkpoint_is_measured_on_the_base_that_peft_or_the_caller_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base, output = tmp_path / "base", tmp_path / "output"
    base.mkdir()
    output.mkdir()
    commands: list[list[str]] = []

    def fail(command: list[str], **_: Any) -> Any:
        commands.append(command[4:])
        return SimpleNamespace(returncode=2, stderr="error\n")

    monkeypatch.setattr(subprocess, "run", fail)
    first = lora(output / "checkpoint-1", f'{{"base_model_name_or_path": "{base}"}}')
    second, third = lora(output / "checkpoint-2", '{"base_model_name_or_path": null}'), output / "checkpoint-3"
    lora(third, "{")
    save(SafetyLandscapeCallback(), output, 1, 2, 3)
    assert commands[0][:3] == [f"model.path={base}", f"model.adapter={first}", "model.name=output"]
    assert len(commands) == 1
    assert "checkpoint-2: its adapter_config.json names no base: add model.path=BASE" in caplog.text
    assert "checkpoint-3/adapter_config.json: " in caplog.text
    save(SafetyLandscapeCallback(overrides=[f"model.path={base}"]), output, 2)
    assert commands[1][0] == f"model.adapter={second}" and f"model.path={base}" in commands[1]
