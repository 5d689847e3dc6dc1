"""Closed sets of values that options may take. A member's name and value are what users write and what is stored."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """Data type of weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class GridKind(StrEnum):
    """Shape of a grid: lines or planes, along random directions or toward checkpoints."""

    random_1d = "random_1d"
    random_2d = "random_2d"
    interpolate_1d = "interpolate_1d"
    interpolate_2d = "interpolate_2d"
    interpolate_random = "interpolate_random"


class Norm(StrEnum):
    """Scaling of a random direction: per layer, per filter (row), or by one sigma for every element."""

    layer = "layer"
    filter = "filter"
    sigma = "sigma"


class EngineKind(StrEnum):
    """Implementation that generates the responses."""

    vllm = "vllm"
    transformers = "transformers"
    dummy = "dummy"


class DeviceChoice(StrEnum):
    """Device of an engine; `auto` takes a GPU if there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class BaseChoice(StrEnum):
    """Place of the unperturbed weights between visits; `auto` takes the fastest that fits."""

    auto = "auto"
    gpu = "gpu"
    host = "host"
    mmap = "mmap"


class WriteChoice(StrEnum):
    """Way of giving new weights to a CPU engine; `auto` follows what the sweep has stored."""

    auto = "auto"
    inplace = "inplace"
    repack = "repack"


class ClusterKind(StrEnum):
    """Where actors run."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


class AnswerKind(StrEnum):
    """How an answer to a capability question is checked: by the letter of a choice, or by its exact text."""

    choice = "choice"
    exact = "exact"


class Retry(StrEnum):
    """Which tasks a further run attempts again."""

    failed = "failed"
