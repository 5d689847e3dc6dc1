"""Batch sizes, KV cache and memory of vLLM on a GPU, computed from the model, the card and the largest visit.

Nothing is measured, so that all actors on cards of one kind get the same settings, today and when a sweep is resumed.
The driver's plan (orchestrator/planning/memory.py) and the engine on the card use these functions alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from workers.noise.definition import GPU_PART
from workers.weights.base_placement import GPU_UTILIZATION

GIB = 1 << 30

# Without a GPU. Stored studies have these settings: they do not change.
CPU_SEQUENCES, CPU_BATCHED_TOKENS = 128, 4096
# Tokens of a block of the KV cache: the smallest that vLLM's attention on a CPU takes. Prompts share prefixes in whole
# blocks. Sweeps of earlier versions have 128, vLLM's default, and are resumed with it.
CPU_BLOCK = 32
DEFAULT_SEQUENCES = 128  # on a GPU if the largest visit is unknown

# On a GPU. A decoding step of 512 sequences costs about 1.3 times one of 128, and larger ones gain little.
MAX_SEQUENCES = 512
LARGE_CARD = 70 * GIB  # from this size on, a step may process more tokens of prompts at once
LARGE_BATCHED_TOKENS, SMALL_BATCHED_TOKENS = 8192, 4096

KV_BLOCK = 64  # tokens; the largest block of vLLM's attention backends on CUDA for these models (most use 16)
KV_SPARE = 1.125  # vLLM pads the layers of models with sliding windows to groups of equal size
KV_GRANULE = 64 << 20  # the size of a KV cache is a multiple of this

RUNTIME_BYTES = 1_500_000_000  # assumed: CUDA context, kernels, workspaces of libraries, communication
ACTIVATIONS_PER_TOKEN = 24  # assumed: values in memory per token, in units of the hidden size
WHOLE_ACTIVATIONS = 8  # assumed: those of them that every rank holds; the ranks share the others
LOGIT_COPIES = 3  # float32 copies of a batch's logits while tokens are chosen
GRAPH_BYTES_PER_LAYER = 1 << 18  # assumed: of one captured CUDA graph


@dataclass(frozen=True)
class VisitSize:
    """The size of the largest visit of a sweep.

    Attributes:
        prompts: Number of prompts that are generated in one batch.
        tokens: Tokens of the longest prompt and its longest possible response together.
    """

    prompts: int
    tokens: int

    @classmethod
    def largest(cls, prompt_sets: Iterable[tuple[int, int]], exact: bool) -> Self | None:
        """Return the size of a visit with all prompt sets, or with the largest if each is a batch of its own.

        Args:
            prompt_sets: (number of prompts, tokens of the longest prompt and response) of each.
            exact: Whether each prompt set is generated in a batch of its own.

        Returns:
            None if there are no prompts.
        """
        sizes = [(count, tokens) for count, tokens in prompt_sets if count]
        if not sizes:
            return None
        counts, lengths = zip(*sizes, strict=True)
        return cls(max(counts) if exact else sum(counts), max(lengths))


@dataclass(frozen=True, kw_only=True)
class RankSize:
    """The sizes of what one GPU holds of a model.

    Attributes:
        weights: Bytes of the engine's weights.
        base: Bytes of the unperturbed weights, wherever they are kept.
        layers: Number of layers.
        hidden: Hidden size of the whole model.
        vocabulary: Number of tokens.
        kv_token: Bytes of the KV cache for one token.
        item_bytes: Bytes of one value in the engine's dtype.
        base_item_bytes: Bytes of one stored value.
        ranks: Number of GPUs that share the model.
    """

    weights: int
    base: int
    layers: int
    hidden: int
    vocabulary: int
    kv_token: int
    item_bytes: int
    base_item_bytes: int
    ranks: int = 1


def kv_token_bytes(layers: int, kv_heads: int, head_dim: int, item_bytes: int, ranks: int = 1) -> int:
    """Return the bytes of the KV cache for one token on one of several ranks, each of which holds at least one head."""
    return 2 * layers * max(1, math.ceil(kv_heads / ranks)) * head_dim * item_bytes


@dataclass(frozen=True, kw_only=True)
class Requested:
    """Settings that the user set or that the stored rows of a sweep have. None: computed.

    Attributes:
        max_model_len: Maximum number of tokens of a prompt and its response together.
        max_num_seqs: Maximum number of sequences in one batch.
        max_num_batched_tokens: Maximum number of tokens in one step of the scheduler.
        kv_cache_bytes: Size of the KV cache on each GPU.
        eager: Whether to run without CUDA graphs. None means False on a GPU.
    """

    max_model_len: int
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_bytes: int | None = None
    eager: bool | None = None


@dataclass(frozen=True)
class GpuSettings:
    """Settings of vLLM on one GPU.

    Attributes:
        max_num_seqs: Maximum number of sequences in one batch.
        max_num_batched_tokens: Maximum number of tokens in one step of the scheduler.
        kv_cache_bytes: Size of the KV cache.
        eager: Whether it runs without CUDA graphs.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_bytes: int
    eager: bool


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of one GPU by use.

    Attributes:
        weights: Resident weights.
        base: Unperturbed weights; 0 if they are kept elsewhere.
        kv: KV cache.
        runtime: CUDA context, kernels, libraries.
        activations: Activations of the largest step.
        logits: Logits of the largest batch.
        graphs: CUDA graphs.
        part: What a comparison of written weights holds at a time (`part_bytes`).
    """

    weights: int
    base: int
    kv: int
    runtime: int
    activations: int
    logits: int
    graphs: int
    part: int

    @property
    def overhead(self) -> int:
        """Bytes besides weights, base and KV cache."""
        return self.runtime + self.activations + self.logits + self.graphs + self.part

    @property
    def total(self) -> int:
        """Bytes of all uses."""
        return self.weights + self.base + self.kv + self.overhead

    @property
    def vllm(self) -> int:
        """Bytes that vLLM allocates itself after it has looked at the free memory."""
        return self.weights + self.kv + self.activations + self.logits + self.graphs


def part_bytes(size: RankSize) -> int:
    """Return the bytes that a check of written weights holds: a part of the base, of its new values, and a mask.

    A part has at most GPU_PART elements. The mask takes a byte for each. A base that is not on the GPU is copied into
    two buffers of half a part (workers/weights/device_memory.py).
    """
    largest = min(GPU_PART, max(size.weights // size.item_bytes, 1))
    return largest * (size.base_item_bytes + size.item_bytes + 1)


def captured_batches(sequences: int) -> list[int]:
    """Return the batch sizes for which vLLM captures a graph: dense enough that little is padded, and the largest."""
    sizes = {1, 2, 4, *range(8, 256, 8), *range(256, MAX_SEQUENCES + 1, 16)}
    return [*sorted(size for size in sizes if size < sequences), sequences]


def gpu_memory(size: RankSize, settings: GpuSettings, base_on_gpu: bool) -> GpuMemory:
    """Return the memory of one GPU by use."""
    tokens, sequences = settings.max_num_batched_tokens, settings.max_num_seqs
    values = WHOLE_ACTIVATIONS + math.ceil((ACTIVATIONS_PER_TOKEN - WHOLE_ACTIVATIONS) / size.ranks)
    return GpuMemory(
        weights=size.weights,
        base=size.base if base_on_gpu else 0,
        kv=settings.kv_cache_bytes,
        runtime=RUNTIME_BYTES,
        activations=tokens * size.hidden * values * size.item_bytes,
        logits=LOGIT_COPIES * sequences * size.vocabulary * 4,
        graphs=0 if settings.eager else len(captured_batches(sequences)) * size.layers * GRAPH_BYTES_PER_LAYER,
        part=part_bytes(size),
    )


def card_bytes(reported: float) -> int:
    """Return the memory of a card for computing settings: a whole number of GiB, whatever its driver keeps for itself.

    Args:
        reported: Bytes that the driver reports, or the share of them that an actor gets.
    """
    return int(reported) // GIB * GIB


def usable_bytes(card: int) -> int:
    """Return the bytes of a card that an actor plans to use. The rest is a margin for what is not computed here."""
    return int(GPU_UTILIZATION * card)


def kv_bytes(size: RankSize, sequences: int, tokens: int, max_model_len: int) -> int:
    """Return the bytes of a KV cache that holds that many sequences of that many tokens, all at the same time.

    vLLM requires that it holds at least one sequence of the maximum length.
    """

    def rounded(length: int) -> int:
        return math.ceil((length + 1) / KV_BLOCK) * KV_BLOCK

    needed = max(sequences * rounded(tokens), rounded(max_model_len)) * size.kv_token * KV_SPARE
    return math.ceil(needed / KV_GRANULE) * KV_GRANULE


def wanted_settings(card: int, requested: Requested, visit: VisitSize | None) -> GpuSettings:
    """Return the settings of vLLM on a card before its memory limits them, with an empty KV cache if none is requested.

    Args:
        card: Bytes of the card (`card_bytes`).
        requested: Settings that are given.
        visit: The largest visit. None: DEFAULT_SEQUENCES sequences.
    """
    sequences = requested.max_num_seqs
    if sequences is None:
        sequences = DEFAULT_SEQUENCES if visit is None else max(1, min(visit.prompts, MAX_SEQUENCES))
    default = LARGE_BATCHED_TOKENS if card >= LARGE_CARD else SMALL_BATCHED_TOKENS
    batched = max(requested.max_num_batched_tokens or default, sequences)
    return GpuSettings(sequences, batched, requested.kv_cache_bytes or 0, bool(requested.eager))


def gpu_settings(
    size: RankSize, card: int, requested: Requested, visit: VisitSize | None, base_on_gpu: bool
) -> GpuSettings:
    """Return the settings of vLLM on a card: a pure function of the model, the card and what is requested.

    A batch holds the largest visit, at most MAX_SEQUENCES sequences, and no more than fit at their full length; so no
    sequence is ever preempted. The KV cache has the size that these need. If a given number of sequences does not fit,
    it gets what is left, and at least one sequence of the maximum length: `gpu_memory` then shows that a model does not
    fit.

    Args:
        size: Sizes of what one GPU holds.
        card: Bytes of the card (`card_bytes`).
        requested: Settings that are given.
        visit: The largest visit. None: DEFAULT_SEQUENCES sequences of the maximum length.
        base_on_gpu: Whether the unperturbed weights are on the GPU too.
    """
    wanted = wanted_settings(card, requested, visit)
    tokens = requested.max_model_len if visit is None else min(visit.tokens, requested.max_model_len)
    given = requested.kv_cache_bytes

    def left(sequences: int) -> int:
        """Return the bytes that are left for the KV cache."""
        empty = dataclasses.replace(wanted, max_num_seqs=sequences, kv_cache_bytes=0)
        return usable_bytes(card) - gpu_memory(size, empty, base_on_gpu).total

    def needed(sequences: int) -> int:
        return kv_bytes(size, sequences, tokens, requested.max_model_len)

    sequences = wanted.max_num_seqs
    if requested.max_num_seqs is None:
        sequences = _most(sequences, lambda n: needed(n) <= (left(n) if given is None else given))
    kv = given
    if kv is None:
        kv = max(needed(0), min(needed(sequences), left(sequences) // KV_GRANULE * KV_GRANULE))
    return dataclasses.replace(wanted, max_num_seqs=sequences, kv_cache_bytes=kv)


def _most(wanted: int, fits: Callable[[int], bool]) -> int:
    """Return the largest batch that fits: `wanted`, or a multiple of 8 below it, or 4, 2 or 1."""

    def candidates() -> Iterator[int]:
        yield wanted
        yield from range((wanted - 1) // 8 * 8, 0, -8)
        yield from (n for n in (4, 2) if n < wanted)

    return next((n for n in candidates() if fits(n)), 1)
