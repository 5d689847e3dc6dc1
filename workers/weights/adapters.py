"""Weighted sums of LoRA adapters. A sum of products of ranks r_1, r_2, ... is one product of rank r_1 + r_2 + ..."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import ADAPTER_CONFIG
from workers.weights.targets import ADAPTER_WEIGHTS, PEFT_PREFIX, read_adapter


def write_adapter_sum(base: MappedCheckpoint, folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Write an adapter that adds sum_i weights[i] s_i B_i A_i, in float32.

    Args:
        base: The checkpoint that the adapters belong to.
        folders: Folders of the adapters.
        weights: One weight per adapter.
        out: Folder of the new adapter. It must not exist.
    """
    from safetensors.numpy import save_file

    parts = [read_adapter(folder, base) for folder in folders]
    names = sorted(set().union(*parts))
    rank = max(sum(len(part[name].a) for part in parts if name in part) for name in names)
    factors = {}
    for name in names:
        of_tensor = [(weight, part[name]) for weight, part in zip(weights, parts, strict=True) if name in part]
        module = f"{PEFT_PREFIX}{name.removesuffix('.weight')}"
        a = np.concatenate([f.a for _, f in of_tensor], axis=0)
        b = np.concatenate([np.float32(weight * f.scale) * f.b for weight, f in of_tensor], axis=1)
        # All tensors of an adapter have the same rank. The padding adds 0 times -0, which changes no sum, not even -0.
        left = rank - len(a)
        a = np.pad(a, ((0, left), (0, 0)), constant_values=-0.0)
        b = np.pad(b, ((0, 0), (0, left)))
        factors[f"{module}.lora_A.weight"] = np.ascontiguousarray(a, dtype=np.float32)
        factors[f"{module}.lora_B.weight"] = np.ascontiguousarray(b, dtype=np.float32)
    out.mkdir(parents=True)
    save_file(factors, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
