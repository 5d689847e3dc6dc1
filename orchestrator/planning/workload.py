"""Inputs of a plan: the model's size, the prompts, the engine's settings, the remaining visits."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.utils.choices import BaseChoice, Dtype, EngineKind, WriteChoice
from orchestrator.utils.model_config import HEAD_TENSORS, HIDDEN_SIZE_FIELDS, is_tied
from workers.engines.gpu_settings import CPU_BLOCK, VisitSize, kv_token_bytes
from workers.weights.checkpoint import config_integer

GPU_BLOCK = 16  # tokens of a block of vLLM's KV cache on most GPUs
ITEM_BYTES = {Dtype.float32: 4, Dtype.bfloat16: 2, Dtype.float16: 2}


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model. None means unknown.

    Attributes:
        name: Name shown to users.
        dtype: Dtype of the resident weights.
        parameters: Number of parameters.
        layers: Number of layers.
        hidden: Hidden size.
        kv_heads: Number of key-value heads.
        head_dim: Size of an attention head.
        vocabulary: Number of tokens.
        disk_bytes: Bytes of the published tensors. None assumes two bytes for each parameter.
        tied: Whether the output head shares the weights of the embedding.
    """

    name: str
    dtype: Dtype
    parameters: int | None
    layers: int | None = None
    hidden: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None
    disk_bytes: int | None = None
    tied: bool = False

    @property
    def item_bytes(self) -> int:
        """Bytes of one resident weight."""
        return ITEM_BYTES[self.dtype]

    @property
    def weights(self) -> int | None:
        """Bytes of the resident weights. None if the number of parameters is unknown."""
        return None if self.parameters is None else self.parameters * self.item_bytes

    @property
    def linear(self) -> int:
        """Bytes of the weights that are multiplied with activations: all but an untied embedding."""
        looked_up = 0 if self.tied else (self.vocabulary or 0) * (self.hidden or 0)
        return max(0, (self.parameters or 0) - looked_up) * self.item_bytes

    @property
    def base(self) -> int | None:
        """Bytes of the unperturbed base. None if unknown."""
        if self.disk_bytes is not None:
            return self.disk_bytes
        return None if self.parameters is None else 2 * self.parameters

    @property
    def kv_token(self) -> int | None:
        """Bytes of the KV cache for one token. None if unknown."""
        return self.kv_token_of_rank(1)

    def kv_token_of_rank(self, ranks: int) -> int | None:
        """Return the bytes of the KV cache for one token on one of several GPUs. None if unknown."""
        if self.layers is None or self.kv_heads is None or self.head_dim is None:
            return None
        return kv_token_bytes(self.layers, self.kv_heads, self.head_dim, self.item_bytes, ranks)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build the size that a plan's `to_json` described."""
        return cls(**{**value, "dtype": Dtype(value["dtype"])})


def size_of_checkpoint(checkpoint: CheckpointInfo, name: str, dtype: Dtype) -> ModelSize:
    """Return the sizes of a model whose weights are on this machine, from its config and its tensors' headers."""
    config = checkpoint.config
    heads, hidden = config_integer(config, "num_attention_heads", "n_head"), config_integer(config, *HIDDEN_SIZE_FIELDS)
    stored_heads = [tensor for tensor in checkpoint.tensors.values() if tensor.name in HEAD_TENSORS]
    tied = is_tied(config)
    # Engines read the embedding alone if the head shares its weights, even if the checkpoint stores both.
    unread = stored_heads if tied and len(checkpoint.tensors) > 1 else []
    return ModelSize(
        name=name,
        dtype=dtype,
        parameters=checkpoint.n_parameters - sum(head.size for head in unread),
        layers=config_integer(config, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        kv_heads=config_integer(config, "num_key_value_heads") or heads,
        head_dim=config_integer(config, "head_dim") or (hidden // heads if hidden and heads else None),
        vocabulary=config_integer(config, "vocab_size"),
        disk_bytes=checkpoint.bytes - sum(head.stop - head.start for head in unread),
        tied=tied or not (stored_heads or "embed_out.weight" in checkpoint.tensors),
    )


@dataclass(frozen=True)
class PromptLoad:
    """The size of a prompt set.

    Attributes:
        prompts: Number of prompts.
        prompt_tokens: Tokens of all prompts together.
        max_tokens: Maximum number of tokens of a response.
        longest_prompt: Tokens of the longest prompt. None: the prompts are assumed to have the same length.
        shared_prefix: Number of tokens with which all prompts of the set begin alike.
    """

    prompts: int
    prompt_tokens: int
    max_tokens: int
    longest_prompt: int | None = None
    shared_prefix: int = 0

    def shared_tokens(self, block: int) -> int:
        """Return those of `prompt_tokens` that vLLM does not process, because the first prompt has the same prefix.

        Args:
            block: Tokens of a block of the KV cache. Whole blocks are shared.
        """
        return max(0, self.prompts - 1) * (self.shared_prefix // block * block)


@dataclass(frozen=True)
class EngineSetup:
    """The engine's settings and the device that it runs on.

    Attributes:
        gpu: A key of `GPUS`. None for a CPU.
        tensor_parallel: Number of GPUs that share one model.
        actors: Number of actors.
        cores: CPU cores of an actor.
        engine: Kind of engine.
        eager: Whether the engine runs without CUDA graphs. None: as `memory.resolve_setup` decides.
        max_model_len: Tokens of a prompt and its response together.
        max_num_seqs: Sequences in one batch. None: as `memory.resolve_setup` decides.
        max_num_batched_tokens: Tokens in one step of the scheduler. None: as `memory.resolve_setup` decides.
        kv_cache_bytes: Size of the KV cache. None: as `memory.resolve_setup` decides on a GPU, 1 GiB on a CPU.
        kv_block: Tokens of a block of the KV cache. None: GPU_BLOCK on a GPU, CPU_BLOCK on a CPU.
        exact: Whether each prompt set is generated in a batch of its own.
        write: How weights reach vLLM on a CPU; with `repack` the engine holds its linear weights twice.
        base: Requested place of the unperturbed base.
        gpu_memory: Bytes of each GPU that belong to an actor. None uses the size in `GPUS`.
        gpu_share: The share of a GPU that belongs to an actor, if actors share GPUs.
        host_free: Bytes of free shared memory. None if unknown.
        host_copy: Bytes of shared memory that a copy of the base still needs. None: those of the whole base.
    """

    gpu: str | None = None
    tensor_parallel: int = 1
    actors: int = 1
    cores: int = 1
    engine: EngineKind = EngineKind.vllm
    eager: bool | None = None
    max_model_len: int = 2048
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_bytes: int | None = None
    kv_block: int | None = None
    exact: bool = False
    write: WriteChoice = WriteChoice.inplace
    base: BaseChoice = BaseChoice.auto
    gpu_memory: int | None = None
    gpu_share: float = 1.0
    host_free: int | None = None
    host_copy: int | None = None

    @property
    def shared_block(self) -> int:
        """Tokens of a block of the KV cache, in whose multiples prompts share prefixes."""
        return self.kv_block or (GPU_BLOCK if self.gpu else CPU_BLOCK)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build the setup that a plan's `to_json` described."""
        enums = {
            "engine": EngineKind(value["engine"]),
            "write": WriteChoice(value["write"]),
            "base": BaseChoice(value["base"]),
        }
        return cls(**{**value, **enums})


@dataclass(frozen=True)
class Workload:
    """The sweep's tasks and the remaining visits.

    Attributes:
        loads: Each prompt set by its id.
        visits: For each point with missing tasks, the ids of the prompt sets that are missing there.
        points: Number of points of the whole sweep.
        tasks: Number of tasks of the whole sweep, stored ones included.
    """

    loads: Mapping[str, PromptLoad]
    visits: Sequence[Sequence[str]]
    points: int
    tasks: int

    @functools.cached_property
    def visits_by_load(self) -> list[tuple[int, list[PromptLoad]]]:
        """A pair (number of visits, prompt sets of each visit) for every combination of missing prompt sets."""
        combinations = Counter(tuple(visit) for visit in self.visits)
        return [(count, [self.loads[set_id] for set_id in set_ids]) for set_ids, count in combinations.items()]

    @property
    def missing_tasks(self) -> int:
        """Number of missing tasks."""
        return sum(len(visit) for visit in self.visits)

    @property
    def responses(self) -> int:
        """Number of missing responses."""
        return sum(count * load.prompts for count, loads in self.visits_by_load for load in loads)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts of all missing responses."""
        return sum(count * load.prompt_tokens for count, loads in self.visits_by_load for load in loads)

    @property
    def generated_tokens(self) -> int:
        """Tokens of all missing responses, if every response has its maximum length."""
        return sum(count * load.prompts * load.max_tokens for count, loads in self.visits_by_load for load in loads)


def largest_visit(loads: Sequence[PromptLoad], exact: bool = False) -> VisitSize | None:
    """Return the size of a visit with all these prompt sets. None if there are none.

    Args:
        loads: Every prompt set of the sweep.
        exact: Whether each prompt set is generated in a batch of its own.
    """
    return VisitSize.largest(((load.prompts, _longest(load)) for load in loads), exact)


def _longest(load: PromptLoad) -> int:
    """Return the tokens of the longest prompt and its longest possible response."""
    if not load.prompts:
        return 0
    mean = math.ceil(load.prompt_tokens / load.prompts)
    return (mean if load.longest_prompt is None else load.longest_prompt) + load.max_tokens


def batch_size(setup: EngineSetup, loads: Sequence[PromptLoad]) -> int:
    """Return the number of sequences in a batch, before the size of the KV cache limits it."""
    visit = largest_visit(loads, setup.exact)
    prompts = 0 if visit is None else visit.prompts
    return prompts if setup.max_num_seqs is None else min(setup.max_num_seqs, prompts)


def sequence_tokens(loads: Sequence[PromptLoad]) -> int:
    """Return the tokens of an average prompt plus its longest possible response: the maximum over the prompt sets."""
    lengths = [math.ceil(load.prompt_tokens / load.prompts) + load.max_tokens for load in loads if load.prompts]
    return max(lengths, default=0)
