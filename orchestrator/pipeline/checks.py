"""Check that the model and the engine can run a sweep, before anything is loaded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from orchestrator.config.schema import Config
from orchestrator.execution.hardware import NOT_ON_LINUX
from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.choices import ClusterKind, EngineKind
from orchestrator.utils.errors import UserError

logger = logging.getLogger(__name__)

NEEDS_TORCHVISION = "Gemma3ForConditionalGeneration"
"""Architecture for which vLLM 0.32 imports torchvision, although no image is ever given to it."""


def check_platform(config: Config) -> None:
    """Check that the engine of a local run exists for this operating system. Raises UserError (engine)."""
    is_local = config.cluster.kind == ClusterKind.local
    if sys.platform != "linux" and is_local and config.engine.kind == EngineKind.vllm:
        raise UserError("engine", EngineKind.vllm, NOT_ON_LINUX)


def check_image_encoder(config: Config, checkpoint: CheckpointInfo) -> None:
    """Check that vLLM has torchvision if the model has an image encoder. Raises UserError (model.path)."""
    if config.engine.kind != EngineKind.vllm or config.cluster.kind != ClusterKind.local:
        return
    if checkpoint.architecture == NEEDS_TORCHVISION and find_spec("torchvision") is None:
        remedy = "has an image encoder, for which vLLM needs torchvision, and that is not installed: install the one "
        raise UserError("model.path", checkpoint.path, f"{remedy}for your PyTorch, or take a model of text alone")


def check_token_ids(checkpoint: CheckpointInfo | None, prompt_sets: Sequence[PromptSet]) -> None:
    """Check that the model has an embedding for every token of the prompts. Raises UserError (model.path)."""
    if checkpoint is None or checkpoint.vocabulary is None:
        return
    for prompts in prompt_sets:
        for prompt, ids in zip(prompts.prompts, prompts.token_ids, strict=True):
            highest = max((*ids, *prompts.sampling.letter_tokens), default=0)
            if highest >= checkpoint.vocabulary:
                remedy = (
                    f"its tokenizer gives token {highest} in the prompt {prompt.text[:60]!r}, and the embedding holds "
                )
                remedy += f"{checkpoint.vocabulary} tokens: give the tokenizer that belongs to these weights"
                raise UserError("model.path", checkpoint.path, remedy)


def lower_max_model_len(config: Config, checkpoint: CheckpointInfo | None) -> None:
    """Lower `model.max_model_len` to the number of tokens that the model was made for, and log that."""
    limit, made_for = config.model.max_model_len, _model_limit(checkpoint)
    if made_for is not None and limit > made_for:
        logger.info("model.max_model_len=%d is lowered to %d, for which the model was made.", limit, made_for)
        config.model.max_model_len = made_for


def check_lengths(config: Config, checkpoint: CheckpointInfo | None, prompt_sets: Sequence[PromptSet]) -> None:
    """Check that every prompt fits in `model.max_model_len` with its response.

    Raises:
        UserError: (model.max_model_len) It is too small.
    """
    limit, made_for = config.model.max_model_len, _model_limit(checkpoint)
    lengths = ((len(ids), prompts.sampling.max_tokens) for prompts in prompt_sets for ids in prompts.token_ids)
    longest, max_tokens = max(lengths, key=sum, default=(0, 0))
    needed = longest + max_tokens
    if needed <= limit:
        return
    remedy = f"raise it to {needed}, or lower sampling.max_tokens"
    if made_for is not None and made_for < needed:
        room = made_for - longest
        remedy = f"the model was made for {made_for}: " + (
            f"lower sampling.max_tokens to {room}" if room > 0 else "leave out prompts that are too long"
        )
    sizes = f"the longest prompt has {longest} tokens and its response may have {max_tokens}"
    raise UserError("model.max_model_len", limit, f"{sizes}: {remedy}")


def _model_limit(checkpoint: CheckpointInfo | None) -> int | None:
    """Return the number of tokens that the model was made for; None if its config does not say."""
    limit = None if checkpoint is None else checkpoint.config.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None
