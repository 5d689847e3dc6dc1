"""Where a direction towards something ends: a checkpoint, mapped and never copied, or a LoRA adapter on the base.

Light: the driver checks a target with these functions before anything is loaded, each actor once more.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orchestrator.utils.errors import UserError
from workers.noise.definition import Array, DType
from workers.weights.checkpoint import Checkpoint, TensorInfo, read_json

FIELD = "grid.towards"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before the name of the module that is adapted
PROBE = 4096  # bytes of each tensor that `sample_id` looks at, at its beginning, middle and end


@dataclass(frozen=True)
class Target:
    """A checkpoint or adapter as the driver found it. `fingerprint` is its identity (TowardsDirection); `path` is where
    it lies, `sample` tells on another machine that the same thing lies there; `label` is for people."""

    fingerprint: str
    kind: Literal["checkpoint", "adapter"]
    path: str
    label: str = ""
    sample: str = ""


class CheckpointEnd:
    """A full checkpoint of the base's shape: what stands at coefficient 1."""

    def __init__(self, folder: str | Path, base: Checkpoint) -> None:
        self.checkpoint = Checkpoint(folder, field=FIELD)
        refuse_other_shape(base, self.checkpoint)

    def dtype(self, info: TensorInfo) -> DType | None:
        """The dtype of this end's tensor; None where it is the base's own, untouched."""
        return self.checkpoint[info.name].dtype

    def rows(self, info: TensorInfo, first: int = 0, last: int | None = None) -> Array:
        """Rows first..last-1 (of the first dimension; all of them) of the tensor, flat, 16-bit kinds as bits."""
        whole = self.checkpoint.base(info.name)
        if first == 0 and last is None:
            return whole
        width = info.size // info.shape[0]
        return whole[first * width : (info.shape[0] if last is None else last) * width]


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to one tensor: scale B A, in float32. a: (r, in), b: (out, r)."""

    a: Array
    b: Array
    scale: float


class AdapterEnd:
    """A plain LoRA adapter in PEFT's folder: W1 = round(W0 + s B A), made tensor by tensor and let go again."""

    def __init__(self, folder: str | Path, base: Checkpoint) -> None:
        self._base = base
        self.factors = read_adapter(folder, base)

    def dtype(self, info: TensorInfo) -> DType | None:
        return info.dtype if info.name in self.factors else None

    def rows(self, info: TensorInfo, first: int = 0, last: int | None = None) -> Array:
        from workers.noise.cpu import lora

        found = self.factors[info.name]
        return lora(self._base.base(info.name), info.dtype, found.a, found.b[first:last], found.scale, first)


End = CheckpointEnd | AdapterEnd


def open_end(target: Target, base: Checkpoint) -> End:
    """The target on this machine. Raises UserError (grid.towards) where it isn't what the driver found."""
    if target.sample and sample_id(target.path) != target.sample:
        raise UserError(
            FIELD, target.path, "holds something else on this node than where the driver runs: copy it anew"
        )
    return AdapterEnd(target.path, base) if target.kind == "adapter" else CheckpointEnd(target.path, base)


def refuse_other_shape(base: Checkpoint, other: Checkpoint) -> None:
    """Raises UserError (grid.towards) unless the two have the same tensors of the same shapes (dtypes may differ)."""
    ours, theirs = ({info.name: info.shape for info in c.tensors()} for c in (base, other))
    remedy = "give a checkpoint finetuned from the same base"
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            raise UserError(FIELD, other.folder, f"lacks tensor {name}, which the base has: {remedy}")
        if name not in ours:
            raise UserError(FIELD, other.folder, f"has tensor {name}, which the base lacks: {remedy}")
        if ours[name] != theirs[name]:
            shapes = f"{_times(theirs[name])} and not {_times(ours[name])}"
            raise UserError(FIELD, other.folder, f"its tensor {name} is {shapes} as the base's: {remedy}")


def read_adapter(folder: str | Path, base: Checkpoint) -> dict[str, Factors]:
    """Tensor -> what the adapter adds to it. Raises UserError (grid.towards) unless it is plain LoRA on this base."""
    folder = Path(folder)
    config = read_json(folder / ADAPTER_CONFIG, FIELD)

    def refusal(why: str) -> UserError:
        return UserError(FIELD, folder, f"{why}: merge the adapter into a checkpoint, and walk towards that")

    if config.get("peft_type") != "LORA":
        raise refusal(f"is an adapter of type {config.get('peft_type')}, and only plain LoRA can be followed")
    if config.get("use_dora"):
        raise refusal("is DoRA, which rescales weights besides adding B A")
    if config.get("modules_to_save"):
        raise refusal(f"replaces whole modules (modules_to_save: {config['modules_to_save']})")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise refusal("changes biases besides adding B A")
    if str(start := config.get("init_lora_weights")).lower() not in STARTS:
        raise refusal(f"belongs to a changed base, as far as is known here (init_lora_weights: {start})")
    for key in sorted(config.keys() - CHECKED - HARMLESS):
        if config[key]:
            raise refusal(f"uses {key}, which is not plain LoRA")
    r: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    if type(r) is not int or r < 1 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        remedy = f"its {ADAPTER_CONFIG} gives B A no scale (r={r}, lora_alpha={alpha}): save it anew"
        raise UserError(FIELD, folder, remedy)
    scale = alpha / (math.sqrt(r) if config.get("use_rslora") else r)
    halves = _factors(folder / ADAPTER_WEIGHTS)
    for name in sorted(halves):
        module = name.removeprefix(PREFIX)
        if ".lora_embedding_" in module:
            raise refusal(f"adapts {module.split('.lora_')[0]} as an embedding, and only matrices can be followed")
        if ".lora_" not in module:
            raise refusal(f"replaces {module} whole")
        if not module.endswith((".lora_A.weight", ".lora_B.weight")):
            raise refusal(f"holds {module}, which is not plain LoRA")
    known, found = {info.name: info for info in base.tensors()}, {}
    for module in sorted({name.rsplit(".lora_", 1)[0] for name in halves}):
        name = f"{module.removeprefix(PREFIX)}.weight"
        a, b = halves.get(f"{module}.lora_A.weight"), halves.get(f"{module}.lora_B.weight")
        if name not in known:
            raise UserError(FIELD, folder, f"adapts {name}, which the base lacks: give an adapter of the same base")
        if (
            a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]
            or known[name].shape != (b.shape[0], a.shape[1])
        ):  # fmt: skip
            shape = _times(known[name].shape)
            remedy = f"its factors for {name} do not make the base's {shape}: give an adapter of the same base"
            raise UserError(FIELD, folder, remedy)
        if a.shape[0] != r:
            ranks = f"its {ADAPTER_CONFIG} says r={r}, and its factors for {name} are of rank {a.shape[0]}"
            raise UserError(FIELD, folder, f"{ranks}: put two files that belong together there")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise UserError(FIELD, folder, f"has NaN or infinity in its factors for {name}: train it again")
        found[name] = Factors(a, b, scale)
    return found


# Of PEFT's LoraConfig: what `read_adapter` looks at, and what is harmless, since it leaves W + s B A on matrices named
# by their module as it is. Anything else that is set, a later PEFT's inventions too, is not plain LoRA.
CHECKED = frozenset(
    "peft_type r lora_alpha use_rslora use_dora bias lora_bias modules_to_save init_lora_weights".split()  # noqa: SIM905
)
HARMLESS = frozenset(
    (  # noqa: SIM905
        "task_type auto_mapping peft_version base_model_name_or_path revision inference_mode target_modules "
        "exclude_modules layers_to_transform layers_pattern lora_dropout eva_config ensure_weight_tying "
        "megatron_core qalora_group_size"  # both say nothing without megatron_config and use_qalora, which are refused
    ).split()
)
STARTS = ("none", "true", "false", "gaussian", "orthogonal", "eva", "mica")  # that leave the base alone


def _factors(file: Path) -> dict[str, Array]:
    """Name -> matrix, float32, of an adapter's safetensors."""
    from workers.noise.reference import to_float32

    reader = Checkpoint.of_file(file, FIELD)
    return {
        info.name: np.array(to_float32(reader.base(info.name), info.dtype)).reshape(info.shape)
        for info in reader.tensors()
    }


def sample_id(path: str | Path) -> str:
    """16 hexadecimal digits of a checkpoint's or adapter's tensors: names, dtypes, shapes, some bytes of each.

    Cheap, for telling two things apart that both passed the checks; a fingerprint reads every byte.
    """
    folder = Path(path)
    adapter = (folder / ADAPTER_CONFIG).exists()
    reader = Checkpoint.of_file(folder / ADAPTER_WEIGHTS, FIELD) if adapter else Checkpoint(folder, FIELD)
    digest = hashlib.blake2b(digest_size=8)
    if adapter:
        config = read_json(folder / ADAPTER_CONFIG, FIELD)
        digest.update(json.dumps([config.get(key) for key in ("r", "lora_alpha", "use_rslora")]).encode())
    for info in reader.tensors():
        digest.update(json.dumps([info.name, info.dtype, list(info.shape)]).encode())
        data = reader.base(info.name).view(np.uint8)
        middle = len(data) // 2
        for start in (0, middle, max(0, len(data) - PROBE)):
            digest.update(data[start : start + PROBE].tobytes())
    return digest.hexdigest()


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def open_ends(targets: Iterable[Target], base: Checkpoint) -> dict[str, End]:
    """Fingerprint -> what stands at its coefficient 1."""
    return {target.fingerprint: open_end(target, base) for target in targets}
