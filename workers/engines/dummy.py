"""Dummy engine: responses are a function of point and prompt, so that a sweep of any size runs without a model.

It imitates a safety basin: refusals near the origin, compliance beyond a radius that depends on the directions, and
repetitive text far out.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.sweep.directions import Direction
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import PromptSet, Sampling
from workers.engines.base import Engine, EngineSpec, Generation, TokenSequence
from workers.weights.checkpoint import TensorInfo

if TYPE_CHECKING:
    import pyarrow as pa

    from workers.weights.resident import Piece

REFUSALS = ("I'm sorry, but I cannot help with that.", "I cannot help with this request.", "I apologize, but no.")
OPENINGS = ("Sure, here is", "Of course. Here is", "Certainly, this is")
BASIN_WALL_WIDTH = 0.025  # scale of the logistic curve at the basin's edge
VOCABULARY = 10_000  # number of token ids that words are hashed to
DEGENERATE_DISTANCE = 2.5  # in basin radii: beyond it (times a random factor) responses are repetitive text


class DummyEngine(Engine):
    """Deterministic engine without weights. A visit, or a batch to read, takes `spec.seconds`."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._point = Point()

    @property
    def identity(self) -> dict[str, Any]:
        """Name and version of this engine."""
        return {"engine": "dummy", "version": 1}

    def tensors(self) -> list[TensorInfo]:
        """Return an empty list."""
        return []

    def measure(self, direction: Direction) -> pa.Table:
        """Return an empty table: without weights there are no scalars."""
        from workers.weights import perturbation

        return perturbation.schema().empty_table()

    def apply_point(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        """Remember the point."""
        self._point = point

    def read(self, name: str, rank: int = 0) -> list[Piece]:
        """Return an empty list."""
        return []

    def verify_writes(self) -> None:
        """Do nothing: there are no weights."""

    def generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        """Wait for `spec.seconds`, then return the responses. Unlike other engines, accept prompts of any length."""
        if self.spec.seconds:
            time.sleep(self.spec.seconds)
        return self._generate(prompt_sets)

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        return [
            [
                dummy_response(self._point, prompt.id, prompts.sampling, len(ids))
                for prompt, ids in zip(prompts.prompts, prompts.token_ids, strict=True)
            ]
            for prompts in prompt_sets
        ]

    def _encode(self, text: str) -> list[int]:
        return [int(hash_fraction(word) * VOCABULARY) for word in text.split()]

    def _token_log_probabilities(self, sequences: Sequence[TokenSequence]) -> list[list[float]]:
        """Wait for `spec.seconds`, then return a value for each word: a lower one if the text has the word already."""
        if self.spec.seconds:
            time.sleep(self.spec.seconds)
        return [
            [-1.0 - token / VOCABULARY - 4.0 * (token in text[:i]) for i, token in enumerate(text)]
            for _, text in sequences
        ]


def dummy_response(point: Point, prompt_id: str, sampling: Sampling, n_prompt_tokens: int) -> Generation:
    """Return the dummy's response to a prompt at a point. Each word counts as a token."""
    distance = math.sqrt(sum(c * c for _, c in point.coefficients))
    radius = 0.15 + 0.1 * hash_fraction(*sorted(d.id for d, _ in point.coefficients))
    p_refusal = 1 / (1 + math.exp(min(50.0, (distance - radius) / BASIN_WALL_WIDTH)))
    if hash_fraction("refuses", prompt_id) < p_refusal:
        words = REFUSALS[int(hash_fraction("refusal", prompt_id) * len(REFUSALS))].split(" ")
    elif distance > DEGENERATE_DISTANCE * radius * (0.5 + hash_fraction("far", point.id, prompt_id)):
        words = ["the of"] * 24
    else:
        opening = OPENINGS[int(hash_fraction("opening", point.id, prompt_id) * len(OPENINGS))]
        words = f"{opening} an answer to question {prompt_id}, seen from {point.id}.".split(" ")
    n_tokens = min(len(words), sampling.max_tokens)
    text, reason = " ".join(words[:n_tokens]), "length" if n_tokens < len(words) else "stop"
    ends = [text.find(stop) + len(stop) for stop in sampling.stop if stop in text]
    if ends:
        text, reason = text[: min(ends)], "stop"
    scores = [math.log(max(1e-9, hash_fraction(letter, point.id, prompt_id))) for letter in sampling.letters] or None
    return Generation(text, reason, n_tokens, n_prompt_tokens, scores)


def hash_fraction(*parts: str) -> float:
    """Return a number in [0, 1) derived from a hash of these texts."""
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
