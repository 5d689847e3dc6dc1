"""Endpoints of interpolations: a checkpoint, mapped and never copied, or a LoRA adapter on the base.

The module does not import torch: the driver checks targets with it before any model is loaded, and each actor checks
them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator.utils.errors import UserError
from workers.noise.definition import Array, DType
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo, read_json
from workers.weights.lora_config import (
    ADAPTER_CONFIG,
    TOWARDS_FIELD,
    LoraScales,
    check_plain_lora,
    not_plain_lora,
    scale_identity,
)

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # precedes the name of the adapted module in PEFT's files
SAMPLE_BYTES = 4096  # bytes that `sample_id` reads of each tensor at its beginning, middle and end


@dataclass(frozen=True)
class Target:
    """A checkpoint or adapter toward which a direction leads, as the driver resolved it.

    Attributes:
        fingerprint: Content hash of the checkpoint or adapter (see TowardsDirection).
        kind: Whether it is a full checkpoint or an adapter.
        path: Its folder.
        label: Human-readable name.
        sample: `sample_id` of its content, with which another node checks that its folder has the same content. Empty:
            not checked.
        former: Fingerprint of an adapter under version 1 of adapters, by which sweeps of that version name it. Empty
            for a checkpoint.
    """

    fingerprint: str
    kind: Literal["checkpoint", "adapter"]
    path: str
    label: str = ""
    sample: str = ""
    former: str = ""


class CheckpointEndpoint:
    """Endpoint of an interpolation: a full checkpoint of the base's shape, reproduced exactly at coefficient 1."""

    def __init__(self, folder: str | Path, base: MappedCheckpoint) -> None:
        self.checkpoint = MappedCheckpoint(folder, field=TOWARDS_FIELD)
        check_same_shapes(base, self.checkpoint)

    def dtype(self, info: TensorInfo) -> DType | None:
        """Return the dtype of `values`: that of this endpoint's tensor."""
        return self.checkpoint[info.name].dtype

    def values(self, info: TensorInfo, first: int = 0, last: int | None = None) -> Array:
        """Return elements first, ..., last - 1 of the tensor as a flat array, 16-bit dtypes as uint16.

        If `last` is None, the elements go to the end.
        """
        return self.checkpoint.base(info.name)[first:last]

    def weigh(self, info: TensorInfo, coefficient: float) -> tuple[float, float]:
        """Return (factor on `values`, what is taken from the base's coefficient 1) at a coefficient of this endpoint.

        A checkpoint replaces the base: W0 + c (W1 - W0) = (1 - c) W0 + c W1.
        """
        return coefficient, coefficient

    def release(self, info: TensorInfo) -> None:
        """Release the mapped pages of the tensor."""
        self.checkpoint.release(info.name)


@dataclass(frozen=True)
class Factors:
    """Update that an adapter adds to one tensor W (out, in): scale B A, in float32.

    Attributes:
        a: A, float32 (r, in).
        b: B, float32 (out, r).
        scale: Factor on B A.
    """

    a: Array
    b: Array
    scale: float


class AdapterEndpoint:
    """Endpoint of an interpolation: a plain LoRA adapter in a PEFT folder, which adds c s B A at coefficient c.

    Its values are the update B A, not weights. They are added to the base in float32 and rounded to the engine's dtype
    after the sum (docs/weights.md). They are computed one tensor at a time when they are needed, and not cached here.
    """

    def __init__(self, folder: str | Path, base: MappedCheckpoint) -> None:
        self.factors = read_adapter(folder, base)

    def dtype(self, info: TensorInfo) -> DType | None:
        """Return the dtype of `values`, float32; None if the adapter does not change the tensor."""
        return "float32" if info.name in self.factors else None

    def values(self, info: TensorInfo, first: int = 0, last: int | None = None) -> Array:
        """Compute elements first, ..., last - 1 of B A as a flat float32 array. They must be whole rows of the tensor.

        If `last` is None, the elements go to the end. The adapter must change the tensor (`dtype` is not None).
        """
        from workers.noise.cpu import product

        factors, width = self.factors[info.name], info.shape[1]
        assert first % width == 0 and (last or 0) % width == 0, "only whole rows of an adapter's update are computed"
        return product(factors.a, factors.b[first // width : None if last is None else last // width]).reshape(-1)

    def weigh(self, info: TensorInfo, coefficient: float) -> tuple[float, float]:
        """Return (factor on `values`, what is taken from the base's coefficient 1) at a coefficient of this endpoint.

        An adapter adds to the base and replaces nothing: W0 + c s B A.
        """
        return coefficient * self.factors[info.name].scale, 0.0

    def release(self, info: TensorInfo) -> None:
        """Do nothing: no pages of a file are mapped."""


Endpoint = CheckpointEndpoint | AdapterEndpoint


def open_endpoint(target: Target, base: MappedCheckpoint) -> Endpoint:
    """Open the target on this machine.

    Raises:
        UserError: It does not fit the base, or this machine's folder has other content than the driver's
            (grid.towards).
    """
    if target.sample and sample_id(target.path) != target.sample:
        remedy = "holds something else on this node than where the driver runs: copy it anew"
        raise UserError(TOWARDS_FIELD, target.path, remedy)
    if target.kind == "adapter":
        return AdapterEndpoint(target.path, base)
    return CheckpointEndpoint(target.path, base)


def open_endpoints(targets: Iterable[Target], base: MappedCheckpoint) -> dict[str, Endpoint]:
    """Open all targets; return fingerprint -> endpoint."""
    return {target.fingerprint: open_endpoint(target, base) for target in targets}


def check_same_shapes(base: MappedCheckpoint, other: MappedCheckpoint) -> None:
    """Raise UserError (grid.towards) unless the two have the same tensors of the same shapes; dtypes may differ."""
    ours, theirs = ({info.name: info.shape for info in c.tensors()} for c in (base, other))
    remedy = "give a checkpoint finetuned from the same base"
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            raise UserError(TOWARDS_FIELD, other.folder, f"lacks tensor {name}, which the base has: {remedy}")
        if name not in ours:
            raise UserError(TOWARDS_FIELD, other.folder, f"has tensor {name}, which the base lacks: {remedy}")
        if ours[name] != theirs[name]:
            shapes = f"{_shape_text(theirs[name])} and not {_shape_text(ours[name])}"
            raise UserError(TOWARDS_FIELD, other.folder, f"its tensor {name} is {shapes}, the base's shape: {remedy}")


def read_adapter(folder: str | Path, base: MappedCheckpoint) -> dict[str, Factors]:
    """Read a LoRA adapter; return checkpoint tensor -> the update that the adapter adds to it.

    Raises:
        UserError: It is not plain LoRA, does not fit the base's tensors, or is damaged (grid.towards).
    """
    folder = Path(folder)
    config = read_json(folder / ADAPTER_CONFIG, TOWARDS_FIELD)
    check_plain_lora(folder, config)
    matrices = _read_matrices(folder / ADAPTER_WEIGHTS)
    for name in sorted(matrices):
        _check_matrix_name(folder, name)
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in matrices})
    scales = LoraScales(folder, config, [module.removeprefix(PEFT_PREFIX) for module in modules])
    shapes = {info.name: info.shape for info in base.tensors()}
    factors = {}
    for module in modules:
        of_base = module.removeprefix(PEFT_PREFIX)
        name = f"{of_base}.weight"
        if name not in shapes:
            remedy = f"adapts {name}, which the base lacks: give an adapter of the same base"
            raise UserError(TOWARDS_FIELD, folder, remedy)
        if name in factors:
            raise UserError(TOWARDS_FIELD, folder, f"holds two updates of {name}: save it anew")
        a, b = matrices.get(f"{module}.lora_A.weight"), matrices.get(f"{module}.lora_B.weight")
        factors[name] = _checked_factors(folder, name, shapes[name], *scales.of(of_base), a, b)
    return factors


def _check_matrix_name(folder: Path, name: str) -> None:
    """Raise UserError (grid.towards) unless the tensor's name is that of a plain LoRA factor."""
    module = name.removeprefix(PEFT_PREFIX)
    if ".lora_embedding_" in module:
        problem = f"adapts {module.split('.lora_')[0]} as an embedding, and only matrices are supported"
        raise not_plain_lora(folder, problem)
    if ".lora_" not in module:
        raise not_plain_lora(folder, f"replaces {module} whole")
    if not module.endswith((".lora_A.weight", ".lora_B.weight")):
        raise not_plain_lora(folder, f"holds {module}, which is not plain LoRA")


def _checked_factors(
    folder: Path, name: str, shape: tuple[int, ...], r: int, scale: float, a: Array | None, b: Array | None
) -> Factors:
    """Return the factors of one tensor. Raises UserError (grid.towards) if they do not make a matrix of its shape."""
    if (
        a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]
        or shape != (b.shape[0], a.shape[1])
    ):  # fmt: skip
        problem = f"its factors for {name} do not make the base's {_shape_text(shape)}"
        raise UserError(TOWARDS_FIELD, folder, f"{problem}: give an adapter of the same base")
    if a.shape[0] != r:
        ranks = f"its {ADAPTER_CONFIG} says r={r}, and its factors for {name} are of rank {a.shape[0]}"
        raise UserError(TOWARDS_FIELD, folder, f"{ranks}: put two files that belong together there")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError(TOWARDS_FIELD, folder, f"has NaN or infinity in its factors for {name}: train it again")
    return Factors(a, b, scale)


def _read_matrices(file: Path) -> dict[str, Array]:
    """Return name -> float32 matrix of an adapter's safetensors."""
    from workers.noise.reference import to_float32

    checkpoint = MappedCheckpoint.of_file(file, TOWARDS_FIELD)
    return {
        info.name: np.array(to_float32(checkpoint.base(info.name), info.dtype)).reshape(info.shape)
        for info in checkpoint.tensors()
    }


def sample_id(path: str | Path) -> str:
    """Return a cheap hash of a checkpoint's or adapter's content: 16 hexadecimal digits.

    It covers names, dtypes, shapes, sampled bytes of every tensor, and an adapter's scale. It distinguishes two valid
    checkpoints but does not detect damage; a fingerprint, which does, reads every byte.
    """
    folder = Path(path)
    is_adapter = (folder / ADAPTER_CONFIG).exists()
    if is_adapter:
        checkpoint = MappedCheckpoint.of_file(folder / ADAPTER_WEIGHTS, TOWARDS_FIELD)
    else:
        checkpoint = MappedCheckpoint(folder, TOWARDS_FIELD)
    digest = hashlib.blake2b(digest_size=8)
    if is_adapter:
        config = read_json(folder / ADAPTER_CONFIG, TOWARDS_FIELD)
        digest.update(json.dumps(scale_identity(config)).encode())
    for info in checkpoint.tensors():
        digest.update(json.dumps([info.name, info.dtype, list(info.shape)]).encode())
        data = checkpoint.base(info.name).view(np.uint8)
        middle = len(data) // 2
        for start in (0, middle, max(0, len(data) - SAMPLE_BYTES)):
            digest.update(data[start : start + SAMPLE_BYTES].tobytes())
    return digest.hexdigest()


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
