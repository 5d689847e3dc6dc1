"""Enumerations of the values that options may take. Users write the members' names, and files store them."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """Data type of weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class GoalOver(StrEnum):
    """Population that the intervals of a sweep's goals are about."""

    directions = "directions"
    both = "both"


class GridKind(StrEnum):
    """Shape of a grid: lines or planes, along random directions or toward checkpoints."""

    random_1d = "random_1d"
    random_2d = "random_2d"
    interpolate_1d = "interpolate_1d"
    interpolate_2d = "interpolate_2d"
    interpolate_random = "interpolate_random"

    @property
    def is_plane(self) -> bool:
        """True if such a grid consists of planes, not lines."""
        return self not in (GridKind.random_1d, GridKind.interpolate_1d)


class Norm(StrEnum):
    """Scaling of a random direction: per layer, per filter (row), or none, so that alpha is each element's sigma."""

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
    """Place of the unperturbed weights between visits (see workers/weights/base_placement.py)."""

    auto = "auto"
    gpu = "gpu"
    host = "host"
    mmap = "mmap"


class WriteChoice(StrEnum):
    """Use of new weights by vLLM on a CPU: directly, or packed again after each write.

    `auto` keeps the mode of the sweep's stored responses; if there are none, dtype and device decide.
    """

    auto = "auto"
    inplace = "inplace"
    repack = "repack"


class ClusterKind(StrEnum):
    """Cluster on which actors run: this machine, a running Ray cluster, or a SLURM job."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


class PromptGroup(StrEnum):
    """Groups of prompts, by their good response: a refusal (harmful, jailbreak), an answer (benign), the right one."""

    harmful = "harmful"
    benign = "benign"
    jailbreak = "jailbreak"
    capability = "capability"


class AnswerKind(StrEnum):
    """Check of an answer to a capability question: by the letter of a choice, or by its exact text."""

    choice = "choice"
    exact = "exact"


class Turns(StrEnum):
    """How solved examples and a question are put to a model.

    `plain` is text without a chat template, `chat` one message of the user, and `multiturn` a turn of the user and one
    of the assistant for each example.
    """

    plain = "plain"
    chat = "chat"
    multiturn = "multiturn"


class Retry(StrEnum):
    """Tasks that a further run attempts again: those that failed too often."""

    failed = "failed"


class StudyMode(StrEnum):
    """Users of the machine to whom a new study is open.

    `private` is this user, `group` the group of the folder that holds all studies, who may also add to it, and `shared`
    those whom this user's umask lets in.
    """

    private = "private"
    group = "group"
    shared = "shared"


class LogProbabilityChoice(StrEnum):
    """Responses whose log-probability is measured: uncertain texts, all but refusals (undecided), all, or none."""

    uncertain = "uncertain"
    undecided = "undecided"
    all = "all"
    none = "none"
