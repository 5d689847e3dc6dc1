"""Check that the model and the engine can run a sweep, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from orchestrator.config.schema import Config
from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.choices import ClusterKind, EngineKind
from orchestrator.utils.errors import UserError

NEEDS_TORCHVISION = "Gemma3ForConditionalGeneration"
"""Architecture for which vLLM 0.32 imports torchvision, although no image is ever given to it."""


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


def check_lengths(config: Config, checkpoint: CheckpointInfo | None, prompt_sets: Sequence[PromptSet]) -> None:
    """Check that `model.max_model_len` fits the model, and every prompt with its response.

    Raises:
        UserError: (model.max_model_len) It is too large or too small.
    """
    limit = config.model.max_model_len
    model_limit = None if checkpoint is None else checkpoint.config.get("max_position_embeddings")
    if isinstance(model_limit, int) and limit > model_limit:
        remedy = f"the model was made for {model_limit} tokens: lower it to that"
        raise UserError("model.max_model_len", limit, remedy)
    lengths = ((len(ids), prompts.sampling.max_tokens) for prompts in prompt_sets for ids in prompts.token_ids)
    longest, max_tokens = max(lengths, key=sum, default=(0, 0))
    if longest + max_tokens > limit:
        remedy = f"raise it to {longest + max_tokens}, or lower sampling.max_tokens"
        raise UserError(
            "model.max_model_len",
            limit,
            f"the longest prompt has {longest} tokens and its response may have {max_tokens}: {remedy}",
        )
