"""Verdicts on degeneracy that rest on the text and on its log-probability under the unperturbed model.

The judge `degenerate` reads the text alone. Where the engine has measured how probable the unperturbed model finds a
response of which this judge is uncertain, a logistic score of both decides whether the response is degenerate. All
other responses are judged by the text alone. The score was fitted to labeled texts with the log-probabilities of
particular models, and is used for these only.

docs/judges.md defines the score and reports its accuracy.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from orchestrator.judges import Judge, degenerate
from orchestrator.judges._linear_scores import Probabilities
from orchestrator.judges._text_features import is_judged_by_rule
from orchestrator.utils.package_data import read_json_data

LOWEST_MEAN = -12.0
"""Mean log-probabilities below this value count as this value."""


class DegenerateWithLogProbability(Judge):
    """Rule with the verdicts of `degenerate`. Users do not select it: it counts for a sweep that has all evidence."""

    name = "degenerate_log_probability"
    version = 3
    verdicts = degenerate.JUDGE.verdicts
    accepts_cut = True

    @property
    def parameters(self) -> dict[str, Any]:
        """The judge that reads the text, and the fitted weights and thresholds. Not for which models they are."""
        fitted = {name: load_weights()[name] for name in ("low", "threshold", "weights")}
        return {"text": degenerate.JUDGE.id, "lowest_mean": LOWEST_MEAN, **fitted}

    def verdict(self, prompt: str, response: str) -> str:
        """Return the verdict on a response without a log-probability, which rests on the text alone."""
        return degenerate.JUDGE.verdict(prompt, response)


JUDGE = DegenerateWithLogProbability()
EARLIER_IDS = {1: "b52aa8b689a904e5", 2: "693a0052f39a1513"}
"""Version -> id of earlier versions. Their stored verdicts count until a sweep has the evidence of this version."""


@cache
def load_weights() -> dict[str, Any]:
    """Return the fitted `weights` and `threshold`, `low`, and `models`.

    A text is uncertain from the probability `low` of being degenerate to the threshold of the judge of texts. `models`
    are the fingerprints of the models for which the weights were fitted.
    """
    return read_json_data("english", "degenerate_log_probability.json")


def is_calibrated_for(fingerprint: str) -> bool:
    """Return whether the weights were fitted for the model with this fingerprint."""
    return fingerprint in load_weights()["models"]


def needs_log_probability(response: str) -> bool:
    """Return whether the text alone leaves the verdict on a response uncertain."""
    return not is_judged_by_rule(response) and is_uncertain(degenerate.probabilities(response))


def is_uncertain(by_text: Probabilities) -> bool:
    """Return whether a text with these probabilities needs its log-probability.

    Texts that may be in another language or notation do not: a small model finds languages improbable that it hardly
    knows.
    """
    network = degenerate.load_network()
    is_near = load_weights()["low"] <= by_text.degenerate < network["threshold"]
    return is_near and by_text.unclear < network["gate"]


def decide(response: str, mean: float, n_tokens: int) -> str:
    """Return the verdict on a response with a log-probability.

    Args:
        response: The text.
        mean: Its mean log-probability per token under the unperturbed model, given its prompt.
        n_tokens: Number of tokens in this mean.
    """
    by_text = degenerate.probabilities(response)
    if is_judged_by_rule(response) or not is_uncertain(by_text):
        return degenerate.decide(by_text)
    is_degenerate = probability(by_text.degenerate, mean, n_tokens) >= load_weights()["threshold"]
    return "degenerate" if is_degenerate else degenerate.decide(by_text)


def probability(by_text: float, mean: float, n_tokens: int) -> float:
    """Return the probability that an uncertain text is degenerate.

    Args:
        by_text: The same by the text alone, between 0 and 1.
        mean: Its mean log-probability per token.
        n_tokens: Number of tokens in this mean.
    """
    weights = load_weights()["weights"]
    total = sum(weights[name] * value for name, value in inputs(by_text, mean, n_tokens).items())
    return 1.0 / (1.0 + math.exp(-total))


def inputs(by_text: float, mean: float, n_tokens: int) -> dict[str, float]:
    """Return the values that the weights multiply, by the name of the weight.

    The mean counts with its square, because words without an order are less probable than language, and loops more.
    """
    mean = max(mean, LOWEST_MEAN)
    return {
        "constant": 1.0,
        "text": math.log(by_text / (1.0 - by_text)),
        "mean": mean,
        "square": mean**2,
        "short": 1.0 / math.sqrt(n_tokens),
    }
