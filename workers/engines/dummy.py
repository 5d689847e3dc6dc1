"""No model: text that is a function of (point, prompt), so that a sweep of any size runs anywhere.

It imitates a basin: refusals near the origin, compliance past a radius of the directions' own, and
word salad far out.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.sweep.points import Point, RandomDirection
from orchestrator.sweep.tasks import PromptSet, Sampling
from workers.engines.vllm import Engine, EngineSpec, Generation
from workers.weights.checkpoint import TensorInfo

if TYPE_CHECKING:
    import pyarrow as pa

    from workers.weights.resident import Piece

REFUSALS = ("I'm sorry, but I cannot help with that.", "I cannot help with this request.", "I apologize, but no.")
OPENINGS = ("Sure, here is", "Of course. Here is", "Certainly, this is")
WALL = 0.025  # how wide the basin's wall is
FAR = 2.5  # in radii: where language ends


class DummyEngine(Engine):
    """Deterministic, without weights. A visit takes `spec.seconds`."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._point = Point()

    @property
    def identity(self) -> dict[str, Any]:
        return {"engine": "dummy", "version": 1}

    def tensors(self) -> list[TensorInfo]:
        return []

    def measure(self, direction: RandomDirection) -> pa.Table:
        from workers.weights import perturbation as directions

        return directions.SCHEMA.empty_table()

    def write(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        self._point = point

    def read(self, name: str, rank: int = 0) -> list[Piece]:
        return []

    def canary(self) -> None:
        """Nothing to prove."""

    def generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        if self.spec.seconds:
            time.sleep(self.spec.seconds)
        return self._generate(prompt_sets)

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        return [
            [
                answer(self._point, prompt.id, prompts.sampling, len(ids))
                for prompt, ids in zip(prompts.prompts, prompts.token_ids, strict=True)
            ]
            for prompts in prompt_sets
        ]


def answer(point: Point, prompt_id: str, sampling: Sampling, n_prompt_tokens: int) -> Generation:
    """What the dummy says to a prompt at a point. A word is a token."""
    distance = math.sqrt(sum(c * c for _, c in point.coefficients))
    radius = 0.15 + 0.1 * chance(*sorted(d.id for d, _ in point.coefficients))
    refuses = chance("refuses", prompt_id) < 1 / (1 + math.exp(min(50.0, (distance - radius) / WALL)))
    if refuses:
        words = REFUSALS[int(chance("refusal", prompt_id) * len(REFUSALS))].split(" ")
    elif distance > FAR * radius * (0.5 + chance("far", point.id, prompt_id)):
        words = ["the of"] * 24
    else:
        opening = OPENINGS[int(chance("opening", point.id, prompt_id) * len(OPENINGS))]
        words = f"{opening} an answer to question {prompt_id}, seen from {point.id}.".split(" ")
    n_tokens = min(len(words), sampling.max_tokens)
    text, reason = " ".join(words[:n_tokens]), "length" if n_tokens < len(words) else "stop"
    ends = [text.find(stop) + len(stop) for stop in sampling.stop if stop in text]
    if ends:
        text, reason = text[: min(ends)], "stop"
    scores = [math.log(max(1e-9, chance(letter, point.id, prompt_id))) for letter in sampling.letters] or None
    return Generation(text, reason, n_tokens, n_prompt_tokens, scores)


def chance(*parts: str) -> float:
    """A number in [0, 1) that is a function of these texts."""
    digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
