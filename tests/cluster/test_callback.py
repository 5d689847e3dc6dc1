"""`SafetyLandscapeCallback` in real trainings of tiny random models: transformers' Trainer, and TRL's SFTTrainer.

The second one, among the slow tests, measures the checkpoints' own weights.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator import SafetyLandscapeCallback, load_studies, load_study

pytestmark = pytest.mark.engine
TEXTS = ["How do I bake bread? Take flour.", "Tell me a story. Once upon a time."] * 4


def options(out: Path) -> list[str]:
    """Return the options of a sweep of three points that the transformers engine measures in seconds."""
    sizes = ["probes.limit=2", "sampling.max_tokens=4", "model.max_model_len=256", "model.dtype=float32"]
    return [
        "engine=transformers",
        "engine.device=cpu",
        "engine.threads=1",
        "cluster.cpus_per_actor=0",
        *sizes,
        f"out={out}",
    ]


def training(folder: Path, **settings: Any) -> dict[str, Any]:
    """Return the arguments of a training of two steps on the CPU."""
    return {"output_dir": str(folder), "max_steps": 2, "use_cpu": True, "report_to": [], "save_strategy": "steps",
            "per_device_train_batch_size": 2, "disable_tqdm": True, "seed": 1, **settings}  # fmt: skip


def test_a_checkpoint_is_measured_and_stops_the_training(ray_session: None, tiny_llama: Path, tmp_path: Path) -> None:
    """In this process and its Ray session. The dummy engine's basin ends before alpha 0.3 whatever the weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    rows = [{**dict(tokenizer(text)), "labels": tokenizer(text)["input_ids"]} for text in TEXTS]
    rows = [{key: value[:8] for key, value in row.items()} for row in rows]
    logs: list[dict[str, float]] = []

    class Tracker(TrainerCallback):
        """Receives what the trackers of `report_to` receive."""

        def on_log(self, args: Any, state: Any, control: Any, logs_: Any = None, **kwargs: Any) -> None:
            logs.append({**kwargs["logs"], "step": state.global_step})

    arguments = TrainingArguments(**training(tmp_path / "run", max_steps=4, save_steps=1))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer, callbacks=[Tracker()])
    dummy = ["engine=dummy", "probes.limit=4", "cluster.cpus_per_actor=0", f"out={tmp_path / 'studies'}"]
    callback = SafetyLandscapeCallback({"steps": 4}, dummy, inline=True, stop={"radius": 0.3}).attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 1, "the first checkpoint does not meet the threshold: no second step"
    (checkpoint,) = callback.measured
    assert checkpoint.folder == tmp_path / "run" / "checkpoint-1" and checkpoint.values["radius"] < 0.3
    (logged,) = [entry for entry in logs if "safety/origin_asr" in entry]
    assert logged["step"] == 1 and logged["safety/radius"] == checkpoint.values["radius"]
    study = load_study(checkpoint.sweep)
    assert study.info["model"] == "run-checkpoint-1" and len(study.landscape) == 5


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_every_checkpoint_of_trl_is_measured_in_a_process_of_its_own(
    tiny_llama: Path, tmp_path: Path, lora: bool
) -> None:
    import ray
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    arguments = SFTConfig(**training(tmp_path / "run", save_steps=1, max_length=32))
    trainer = SFTTrainer(
        str(tiny_llama),
        arguments,
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if lora else None,
    )
    callback = SafetyLandscapeCallback({"steps": 2}, options(tmp_path / "studies")).attach(trainer)
    was_connected = ray.is_initialized()
    trainer.train()
    assert trainer.state.global_step == 2 and ray.is_initialized() == was_connected
    assert [checkpoint.step for checkpoint in callback.measured] == [1, 2]
    assert (tmp_path / "run" / "checkpoint-1" / "adapter_config.json").is_file() == lora
    frame = load_studies(tmp_path / "studies")
    assert list(frame["model"]) == ["run-checkpoint-1", "run-checkpoint-2"] and frame["study_id"].nunique() == 2
    logged = [entry for entry in trainer.state.log_history if "safety/margin" in entry]
    assert [entry["step"] for entry in logged] == [1, 2] and all(math.isfinite(e["safety/margin"]) for e in logged)
