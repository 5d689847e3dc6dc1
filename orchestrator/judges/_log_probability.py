"""Verdicts on degeneracy that rest on the text and on its log-probability under the unperturbed model.

The judge `degenerate` reads the text alone. Where the engine has measured how probable the unperturbed model finds a
response, a logistic score of the text's scores and of this mean decides whether the response is degenerate. The scores
were fitted to labeled responses of particular models, and are used for these only.

Version 1 needs the log-probability of every response that is no refusal. Versions 2 and 3 need it only where the judge
of texts is uncertain, which is much cheaper; they decide all other responses by the text alone. Versions 1 and 2 read
the text by version 4 of the judge of texts, version 3 by the current version.

docs/judges.md defines the score and reports its accuracy.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from orchestrator.judges import Judge, _linear_scores, degenerate
from orchestrator.judges._linear_scores import DIGITS, Features, Probabilities, Scores
from orchestrator.judges._text_features import is_judged_by_rule
from orchestrator.utils.package_data import read_json_data

LOWEST_MEAN = -12.0
"""Mean log-probabilities below this value count as this value."""
LOWEST_LOOP, LOWEST_RUIN, HIGHEST = -3.0, -9.0, 9.0
"""Limits of the log-odds of the text's scores. That of repetition is higher: a text without loops may be a ruin."""
OTHER = 0.5
"""Texts whose words are at least this probably in another language or notation are judged by the text alone."""
MARGIN = 0.1
"""Version 2 needs the log-probability of texts whose probability of being degenerate is this close to the threshold of
the judge of texts. On the embedded model's main job, reading these takes less than 5% of the time of the sweep."""


class DegenerateWithLogProbability(Judge):
    """Rule with the verdicts of `degenerate`. Users do not select it: it counts for a sweep that has all evidence."""

    name = "degenerate_log_probability"
    version = 1
    verdicts = _linear_scores.JUDGE.verdicts
    accepts_cut = True

    @property
    def parameters(self) -> dict[str, Any]:
        """The fitted weights and threshold, and the judge that reads the text. Not for which models they are."""
        limits = [LOWEST_MEAN, LOWEST_LOOP, LOWEST_RUIN, HIGHEST, OTHER, DIGITS]
        fitted = {name: load_weights()[name] for name in ("threshold", "weights")}
        return {"text": _linear_scores.JUDGE.id, "limits": limits, **fitted}

    def verdict(self, prompt: str, response: str) -> str:
        """Return the verdict on a response without a log-probability, which rests on the text alone."""
        return _linear_scores.JUDGE.verdict(prompt, response)

    def needs_log_probability(self, response: str) -> bool:
        """Return whether this rule needs the log-probability of a response that is no refusal."""
        return True

    def decide(self, response: str, mean: float, n_tokens: int) -> str:
        """Return the verdict on a response with a log-probability.

        Args:
            response: The text.
            mean: Its mean log-probability per token under the unperturbed model, given its prompt.
            n_tokens: Number of tokens in this mean.
        """
        if is_judged_by_rule(response):
            return _linear_scores.JUDGE.verdict("", response)
        return decide_features(_linear_scores.measure(response), mean, n_tokens)


class UncertainWithLogProbability(DegenerateWithLogProbability):
    """Rule that needs log-probabilities only of the texts of which the judge of texts is uncertain."""

    version = 2

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of version 1, and the margin."""
        return super().parameters | {"margin": MARGIN}

    def needs_log_probability(self, response: str) -> bool:
        """Return whether the text alone leaves the verdict on a response uncertain."""
        return not is_judged_by_rule(response) and self.is_uncertain(_linear_scores.measure(response))

    def is_uncertain(self, features: Features) -> bool:
        """Return whether the text with these features is one that needs its log-probability."""
        by_text = _linear_scores.combine(features)
        near = abs(by_text.degenerate - _linear_scores.load_weights()["threshold"]) <= MARGIN
        return near and _linear_scores.scores(features).other < OTHER


class NetworkWithLogProbability(DegenerateWithLogProbability):
    """Rule that adds log-probabilities to the current judge of texts where its probability is below its threshold."""

    version = 3

    @property
    def parameters(self) -> dict[str, Any]:
        """The judge that reads the text, and the fitted weights and thresholds."""
        return {"text": degenerate.JUDGE.id, "limits": [LOWEST_MEAN, DIGITS], **load_uncertain()}

    def verdict(self, prompt: str, response: str) -> str:
        """Return the verdict of the judge of texts."""
        return degenerate.JUDGE.verdict(prompt, response)

    def needs_log_probability(self, response: str) -> bool:
        """Return whether the text alone leaves the verdict on a response uncertain."""
        return not is_judged_by_rule(response) and is_uncertain(degenerate.probabilities(response))

    def decide(self, response: str, mean: float, n_tokens: int) -> str:
        """Return the verdict on a response with a log-probability."""
        by_text = degenerate.probabilities(response)
        if self.needs_log_probability(response) and is_ruin(by_text.degenerate, mean, n_tokens):
            return "degenerate"
        return degenerate.decide(by_text)


JUDGE = DegenerateWithLogProbability()
UNCERTAIN = UncertainWithLogProbability()
NETWORK = NetworkWithLogProbability()
RULES: tuple[DegenerateWithLogProbability, ...] = (JUDGE, NETWORK, UNCERTAIN)
"""The rule that rests on most evidence first. The first one that has all its evidence counts for a sweep."""


@cache
def load_weights() -> dict[str, Any]:
    """Return the weights and the threshold of versions 1 and 2, and `uncertain`, those of version 3.

    `models` are the fingerprints of the models for which all were fitted.
    """
    return read_json_data("english", "degenerate_log_probability.json")


def load_uncertain() -> dict[str, Any]:
    """Return what version 3 uses: `low`, `threshold` and `weights`.

    A text is uncertain from the probability `low` of being degenerate to the threshold of the judge of texts.
    """
    return dict(load_weights()["uncertain"])


def is_uncertain(by_text: Probabilities) -> bool:
    """Return whether version 3 needs the log-probability of a text with these probabilities.

    Texts that may be in another language or notation are certain: a small model finds languages improbable that it
    hardly knows.
    """
    network = degenerate.load_network()
    below = load_uncertain()["low"] <= by_text.degenerate < network["threshold"]
    return below and by_text.unclear < network["gate"]


def is_ruin(by_text: float, mean: float, n_tokens: int) -> bool:
    """Return whether version 3 calls an uncertain text degenerate.

    Args:
        by_text: Probability that it is degenerate, by the text alone.
        mean: Its mean log-probability per token.
        n_tokens: Number of tokens in this mean.
    """
    fitted = load_uncertain()
    values = uncertain_inputs(by_text, mean, n_tokens)
    return sum(fitted["weights"][name] * value for name, value in values.items()) >= math.log(
        fitted["threshold"] / (1.0 - fitted["threshold"])
    )


def uncertain_inputs(by_text: float, mean: float, n_tokens: int) -> dict[str, float]:
    """Return the values that the weights of version 3 multiply, by the name of the weight.

    The mean counts with its square, because words without an order are less probable than language, and loops more.
    """
    mean = max(mean, LOWEST_MEAN)
    return {
        "constant": 1.0,
        "text": _log_odds(by_text, -HIGHEST),
        "mean": mean,
        "square": mean**2,
        "short": 1.0 / math.sqrt(n_tokens),
    }


def is_calibrated_for(fingerprint: str) -> bool:
    """Return whether the weights were fitted for the model with this fingerprint."""
    return fingerprint in load_weights()["models"]


def decide_features(features: Features, mean: float, n_tokens: int) -> str:
    """Return the verdict on a response with these features and this log-probability.

    Words in another language are judged by the text alone: a small model finds languages improbable that it hardly
    knows.
    """
    parts = _linear_scores.scores(features)
    if parts.other >= OTHER:
        return _linear_scores.decide(_linear_scores.combine(features))
    if probability(parts, mean, n_tokens) >= load_weights()["threshold"]:
        return "degenerate"
    return "coherent" if parts.coherent > parts.other else "unclear"


def probability(parts: Scores, mean: float, n_tokens: int) -> float:
    """Return the probability that a response with these scores is degenerate."""
    weights = load_weights()["weights"]
    total = sum(weights[name] * value for name, value in inputs(parts, mean, n_tokens).items())
    return round(1.0 / (1.0 + math.exp(-min(max(total, -30.0), 30.0))), DIGITS)


def inputs(parts: Scores, mean: float, n_tokens: int) -> dict[str, float]:
    """Return the values that the weights multiply, by the name of the weight.

    The error of a mean of n tokens falls with the root of n, and so a mean counts less in a short text.
    """
    mean, short = max(mean, LOWEST_MEAN), 1.0 / math.sqrt(n_tokens)
    return {
        "constant": 1.0,
        "loop": _log_odds(parts.loop, LOWEST_LOOP),
        "ruin": _log_odds(parts.ruin, LOWEST_RUIN),
        "mean": mean,
        "short": short,
        "mean short": mean * short,
    }


def _log_odds(p: float, lowest: float) -> float:
    """Return the logarithm of p / (1 - p), at least `lowest` and at most HIGHEST."""
    p = min(max(p, 1e-9), 1.0 - 1e-9)
    return min(max(math.log(p / (1.0 - p)), lowest), HIGHEST)
