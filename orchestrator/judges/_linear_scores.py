"""Linear scores of a text: version 4 of the judge `degenerate`, on which the rules with log-probabilities rest.

It adds up features of repetition and, separately, features of words and signs. Two logistic scores, with weights that
scripts/fit_degenerate.py fitted to labeled texts, turn them into probabilities of the three verdicts. The current
version of the judge uses the same features and more (`orchestrator/judges/degenerate.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.judges import Judge
from orchestrator.judges._text_features import (
    is_number,
    is_uncalibrated,
    loop_features,
    regular,
    structure,
    word_features,
)
from orchestrator.utils.package_data import read_json_data
from orchestrator.utils.records import JsonRecord

HEAD, TAIL = 800, 400
"""Characters at the start and at the end of a longer text that are judged; 128 tokens are about 600 characters."""
END, MIN_SEPARATE = 0.4, 350
"""The last 40% of a text of more than 350 characters are also judged separately, because only the end may be ruined."""
DIGITS = 9
"""Digits to which probabilities are rounded, so that no machine decides differently."""


@dataclass(frozen=True)
class Probabilities:
    """Probabilities of the three verdicts, which add up to 1, and of repetition alone.

    Attributes:
        coherent: The text is language of the kinds on which the judge is calibrated.
        degenerate: It is repetitive or no language.
        unclear: It is in another language or notation.
        repetition: It is repetitive.
    """

    coherent: float
    degenerate: float
    unclear: float
    repetition: float


class LinearDegenerate(Judge):
    """Version 4 of the judge `degenerate`. Users do not select it."""

    name = "degenerate"
    version = 4
    verdicts = ("degenerate", "coherent", "unclear")

    @property
    def parameters(self) -> dict[str, Any]:
        """The fitted weights and thresholds, and the sizes of the excerpts that are judged."""
        return {"sizes": [HEAD, TAIL, END, MIN_SEPARATE, DIGITS], **load_weights()}

    def verdict(self, prompt: str, response: str) -> str:
        """Return `degenerate`, `coherent` or `unclear`."""
        return decide(probabilities(response))


JUDGE = LinearDegenerate()


@cache
def load_weights() -> dict[str, Any]:
    """Return the fitted weights: `loop`, `ruin` and `other` by the name of the feature, and the thresholds."""
    return read_json_data("english", "degenerate.json")


def decide(verdict_probabilities: Probabilities) -> str:
    """Return the verdict for these probabilities."""
    if verdict_probabilities.degenerate >= load_weights()["threshold"]:
        return "degenerate"
    return "coherent" if verdict_probabilities.coherent > verdict_probabilities.unclear else "unclear"


def excerpt(response: str) -> str:
    """Return the part of a response that is judged: all of it, or its start and its end if it is long."""
    text = response.strip()
    return response if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


@dataclass(frozen=True)
class Features(JsonRecord):
    """Features of a response that is not empty.

    Attributes:
        loop: The features of repetition.
        words: The features of its words and signs.
        end: The same features of its end (`end_of`). None for a short text.
    """

    loop: Mapping[str, float]
    words: Mapping[str, float]
    end: Mapping[str, float] | None


def measure(response: str) -> Features:
    """Return the features of a response that is not empty."""
    raw = excerpt(response)
    text = raw.strip()
    structured = structure(text)
    lines = regular(text)
    end = word_features(end_of(text), structured, lines) if len(text) > MIN_SEPARATE else None
    return Features(loop_features(raw, structured), word_features(text, structured, lines), end)


def probabilities(response: str) -> Probabilities:
    """Return the probabilities of the three verdicts."""
    if not response.strip():
        return Probabilities(0.0, 1.0, 0.0, 1.0)
    if is_number(response.strip()):
        return Probabilities(1.0, 0.0, 0.0, 0.0)
    features = measure(response)
    if is_uncalibrated(response):
        loop = loop_probability(features)
        return Probabilities(0.0, loop, 1.0 - loop, loop)
    return combine(features)


@dataclass(frozen=True)
class Scores:
    """The scores of a text from which its probabilities are computed.

    Attributes:
        loop: Probability that it is repetitive.
        coherent: Probability that its words are English. The next two add up to 1 with it.
        ruin: Probability that its words are no language.
        other: Probability that its words are in another language or notation.
        ruined_end: Probability that the words of its end are no language; 0 for a short text.
    """

    loop: float
    coherent: float
    ruin: float
    other: float
    ruined_end: float


def scores(features: Features) -> Scores:
    """Return the scores for these features."""
    ruined_end = 0.0 if features.end is None else _words(features.end)[1]
    return Scores(loop_probability(features), *_words(features.words), ruined_end)


def combine(features: Features) -> Probabilities:
    """Return the probabilities of the three verdicts for these features."""
    parts = scores(features)
    calm = (1.0 - parts.loop) * (1.0 - parts.ruined_end)
    coherent, other = round(parts.coherent * calm, DIGITS), round(parts.other * calm, DIGITS)
    return Probabilities(coherent, 1.0 - coherent - other, other, parts.loop)


def end_of(text: str) -> str:
    """Return the end of a text that is also judged separately."""
    return text[-int(END * len(text)) :]


def loop_probability(features: Features) -> float:
    """Return the probability that a text is repetitive."""
    return round(1.0 / (1.0 + math.exp(-_sum(load_weights()["loop"], features.loop))), DIGITS)


def _words(features: Mapping[str, float]) -> tuple[float, float, float]:
    """Return the probabilities that the words are English, no language, and another language."""
    weights = load_weights()
    ruin, other = math.exp(_sum(weights["ruin"], features)), math.exp(_sum(weights["other"], features))
    total = 1.0 + ruin + other
    return 1.0 / total, ruin / total, other / total


def _sum(weights: Mapping[str, float], features: Mapping[str, float]) -> float:
    """Return the weighted sum of the features, within the range of the exponential function."""
    total = weights["constant"] + sum(weights[name] * value for name, value in features.items())
    return min(max(total, -30.0), 30.0)
