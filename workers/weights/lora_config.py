"""Configuration of a LoRA adapter, `adapter_config.json`: which adapters are plain LoRA, and the scale of each module.

Does not import torch or PEFT.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.utils.errors import UserError
from workers.weights.lora_patterns import PatternError, first_matches

TOWARDS_FIELD = "grid.towards"
ADAPTER_CONFIG = "adapter_config.json"
SCALE_FIELDS = ("r", "lora_alpha", "use_rslora")
PATTERN_FIELDS = ("rank_pattern", "alpha_pattern")

# Fields of PEFT's LoraConfig: those that `check_plain_lora` and `LoraScales` read, and harmless ones, which do not
# change the formula W + s B A. An adapter that sets any other field, such as one of a later version of PEFT, does not
# count as plain LoRA.
CHECKED_LORA_FIELDS = frozenset(SCALE_FIELDS + PATTERN_FIELDS) | frozenset(
    ("peft_type", "use_dora", "bias", "lora_bias", "modules_to_save", "init_lora_weights")
)
HARMLESS_LORA_FIELDS = frozenset(
    (  # noqa: SIM905
        "task_type auto_mapping peft_version base_model_name_or_path revision inference_mode target_modules "
        "exclude_modules layers_to_transform layers_pattern lora_dropout eva_config ensure_weight_tying "
        "megatron_core qalora_group_size"  # no effect without megatron_config and use_qalora, which are not allowed
    ).split()
)
# Values of init_lora_weights with which PEFT does not change the base's weights.
BASE_KEEPING_INITS = ("none", "true", "false", "gaussian", "orthogonal", "eva", "mica")


def not_plain_lora(folder: Path, why: str) -> UserError:
    """Return the error (grid.towards) for an adapter that is more than plain LoRA."""
    return UserError(TOWARDS_FIELD, folder, f"{why}: merge the adapter into a checkpoint, and use that instead")


def check_plain_lora(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError (grid.towards) if the adapter changes the base in another way than by adding s B A."""
    if config.get("peft_type") != "LORA":
        problem = f"is an adapter of type {config.get('peft_type')}, and only plain LoRA is supported"
        raise not_plain_lora(folder, problem)
    if config.get("use_dora"):
        raise not_plain_lora(folder, "is DoRA, which rescales weights besides adding B A")
    if config.get("modules_to_save"):
        raise not_plain_lora(folder, f"replaces whole modules (modules_to_save: {config['modules_to_save']})")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise not_plain_lora(folder, "changes biases besides adding B A")
    if str(init := config.get("init_lora_weights")).lower() not in BASE_KEEPING_INITS:
        problem = f"may belong to a changed base (init_lora_weights: {init})"
        raise not_plain_lora(folder, problem)
    for key in sorted(config.keys() - CHECKED_LORA_FIELDS - HARMLESS_LORA_FIELDS):
        if config[key]:
            raise not_plain_lora(folder, f"uses {key}, which is not plain LoRA")


class LoraScales:
    """Rank r and scale s of each module of an adapter, W1 = W0 + s B A: s = alpha / r, or alpha / sqrt(r) with rsLoRA.

    r and alpha are those of the first pattern of `rank_pattern` and `alpha_pattern` that matches the module's name, or
    else the adapter's `r` and `lora_alpha` (PEFT, `LoraModel._create_and_replace`).
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], modules: Sequence[str]) -> None:
        """Read the configuration of the adapter in `folder`.

        Args:
            folder: The adapter's folder, for errors.
            config: Its `adapter_config.json`.
            modules: Modules of the base model that it adapts, such as `model.layers.0.self_attn.q_proj`.

        Raises:
            UserError: A rank or alpha is no usable number, a pattern is no regular expression, or the patterns take too
                long (grid.towards).
        """
        self._uses_rslora = config.get("use_rslora") or False
        if not isinstance(self._uses_rslora, bool):
            problem = f"its {ADAPTER_CONFIG} has use_rslora={self._uses_rslora!r}, which must be true or false"
            raise UserError(TOWARDS_FIELD, folder, f"{problem}: save it anew")
        r: Any = config.get("r")
        alpha: Any = config.get("lora_alpha")
        if not (_is_rank(r) and _is_alpha(alpha)):
            remedy = f"its {ADAPTER_CONFIG} gives B A no scale (r={r}, lora_alpha={alpha}): save it anew"
            raise UserError(TOWARDS_FIELD, folder, remedy)
        ranks, alphas = (_by_pattern(folder, config, field, modules) for field in PATTERN_FIELDS)
        self._of: dict[str, tuple[int, float]] = {}
        for module in modules:
            self._of[module] = ranks.get(module, r), alphas.get(module, alpha)

    def of(self, module: str) -> tuple[int, float]:
        """Return (r, s) of one of the modules."""
        r, alpha = self._of[module]
        return r, alpha / (math.sqrt(r) if self._uses_rslora else r)


def _by_pattern(folder: Path, config: Mapping[str, Any], field: str, modules: Sequence[str]) -> dict[str, Any]:
    """Return the value of each module that a pattern of a field matches. Raises UserError (grid.towards)."""
    values = config.get(field) or {}
    if not isinstance(values, dict):
        problem = f"its {ADAPTER_CONFIG} has a {field} that is not an object: save it anew"
        raise UserError(TOWARDS_FIELD, folder, problem)
    is_valid, expected = (_is_rank, "a rank of at least 1") if field == "rank_pattern" else (_is_alpha, "a number")
    for key, value in values.items():
        if not is_valid(value):
            problem = f"its {ADAPTER_CONFIG} has {field}[{key!r}]={value!r}, which is not {expected}: save it anew"
            raise UserError(TOWARDS_FIELD, folder, problem)
    keys = list(values)
    try:
        first = first_matches(keys, modules)
    except PatternError as error:
        problem = f"the {field} of its {ADAPTER_CONFIG} {error}: name the modules there"
        raise UserError(TOWARDS_FIELD, folder, problem) from None
    return {module: values[keys[i]] for module, i in zip(modules, first, strict=True) if i is not None}


def _is_rank(value: object) -> bool:
    return type(value) is int and 1 <= value <= sys.maxsize


def _is_alpha(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # False for NaN and infinity


def scale_identity(config: Mapping[str, Any]) -> list[Any]:
    """Return the values that determine the scales. Patterns keep their order, because the first match counts."""
    patterns = [{field: config[field]} for field in PATTERN_FIELDS if config.get(field)]
    return [config.get(key) for key in SCALE_FIELDS] + patterns
