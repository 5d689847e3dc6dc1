"""Continuations: texts after a prompt, whose log-probability under the unperturbed model is measured.

A continuation is a stored response with the token ids of its prompt. It is measured once, however often it occurs: its
identity is the content of both, (context id, response id).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.utils.hashing import content_id, text_id
from orchestrator.utils.records import JsonRecord

SCORER_VERSION = 1
"""Version of the measurement, which defines the tokens of a text and which of them count (docs/log_probability.md)."""

SCORED_TOKENS = 128
"""Maximum number of tokens of a text that count, from its beginning."""


def context_id(token_ids: Sequence[int]) -> str:
    """Return a content hash of a rendered prompt: 16 hexadecimal digits."""
    return content_id(list(token_ids))


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text after a prompt.

    Attributes:
        context_id: The `context_id` of the prompt.
        prompt_id: Id of the prompt, for people who read the stored rows.
        token_ids: The token ids of the rendered prompt.
        text: The text.
    """

    context_id: str
    prompt_id: str
    token_ids: tuple[int, ...]
    text: str

    @property
    def response_id(self) -> str:
        """Content hash of the text, as in the judgements."""
        return text_id(self.text)


@dataclass(frozen=True, slots=True)
class ContinuationBatch:
    """Continuations that an actor measures together: a unit of scheduling, as a visit is."""

    continuations: tuple[Continuation, ...]

    @property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        return content_id(
            sorted([continuation.context_id, continuation.response_id] for continuation in self.continuations)
        )


@dataclass(frozen=True, slots=True)
class LogProbability:
    """The measurement of one continuation.

    Attributes:
        mean: Mean natural log-probability of the tokens that count. None if no token counts, or if it is not finite.
        n_tokens: Number of tokens that count.
    """

    mean: float | None
    n_tokens: int


@dataclass(frozen=True)
class LogProbabilityCoverage(JsonRecord):
    """Counts of a sweep's judged responses with and without a log-probability. Multiple-choice sets are left out.

    Attributes:
        measured: Responses that have one.
        decided: Responses that have none and do not need one, because they are refusals (docs/log_probability.md).
        missing: The other responses that have none.
    """

    measured: int = 0
    decided: int = 0
    missing: int = 0
