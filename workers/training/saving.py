"""Save the result of finetuning: a LoRA adapter or a whole checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import ADAPTER_CONFIG
from workers.weights.targets import ADAPTER_WEIGHTS


def save_adapter(model: Any, folder: Path, strength: float = 1.0) -> None:
    """Write a PEFT folder with its factors in bfloat16.

    Its config contains no paths, and none of PEFT's fields for other kinds of adapters.

    Args:
        model: The PEFT model.
        folder: Folder to write.
        strength: Factor on the adapter's scale; 1 applies it as it was trained.
    """
    import peft
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    factors = peft.get_peft_model_state_dict(model)
    save_file(
        {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in factors.items()},
        folder / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    lora = model.peft_config["default"]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha * strength,
        "lora_dropout": lora.lora_dropout,
        "target_modules": sorted(lora.target_modules),
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def save_checkpoint(model: Any, base: Path, folder: Path) -> None:
    """Write the weights under the base's names and in its dtypes, with copies of its configuration and tokenizer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    save_file(
        {
            info.name: state[info.name].detach().to("cpu", getattr(torch, info.dtype)).contiguous()
            for info in MappedCheckpoint(base).tensors()
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    for file in base.iterdir():
        if file.is_file() and not file.name.startswith(".") and ".safetensors" not in file.name:
            shutil.copyfile(file, folder / file.name)
