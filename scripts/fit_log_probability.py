"""Fit what log-probabilities add to the judge `degenerate`, and store it.

    python -m scripts.fit_log_probability

The log-probabilities of the training texts are in benchmarks/data/degenerate/log_probabilities.jsonl, measured by
scripts/measure_log_probability.py. The text's probability of each training text comes from networks that have not seen
the texts of its fold, so that it is as good as it is on new texts. Only texts that this probability leaves uncertain
count. The weights are fitted to them by maximum likelihood, and the threshold is chosen by cross-validation in the same
folds. No test text is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from orchestrator.judges import _log_probability, degenerate
from orchestrator.judges._text_features import is_judged_by_rule
from scripts.fit_degenerate import DATA, FOLDS, ROOT, rows
from scripts.fit_network import GATE, Model, Text, cross_validate, training_texts

WEIGHTS = ROOT / "orchestrator" / "data" / "english" / "degenerate_log_probability.json"
MODELS = {"884df66b5d54be53": "smollm2_135m"}
"""Fingerprint -> name of the models whose log-probabilities are used."""
LOW = 0.2
"""Lowest probability by the text alone of an uncertain text. Lower ones hold few ruins and cost more time to read."""
PENALTY = 0.05
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(10, 20))
FURTHER_ALARMS = 1
"""Maximum number of uncertain training texts that are no ruins and are called degenerate, at the operating point."""


@dataclass(frozen=True)
class Example:
    """An uncertain training text with a log-probability.

    Attributes:
        text: The text.
        inputs: The values that the weights multiply, by name.
    """

    text: Text
    inputs: dict[str, float]


def uncertain_texts() -> Iterator[tuple[Text, float]]:
    """Yield each training text that is uncertain without it, with its probability of being degenerate."""
    texts = [text for text in training_texts() if not is_judged_by_rule(text.text)]
    threshold = degenerate.load_network()["threshold"]
    for text, p in zip(texts, cross_validate(Model(texts), texts), strict=True):
        if text.validates and LOW <= p[1] < threshold and p[2] < GATE:
            yield text, float(p[1])


def examples() -> list[Example]:
    """Return the uncertain training texts that have a log-probability."""
    measured = {row["id"]: (row["mean"], row["n_tokens"]) for row in rows(DATA / "log_probabilities.jsonl")}
    return [
        Example(text, _log_probability.inputs(p, *measured[text.id]))
        for text, p in uncertain_texts()
        if measured.get(text.id, (None, 0))[0] is not None
    ]


def fit(inputs: np.ndarray, ruined: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the coefficients of the logistic regression; the first input is constant and is not penalized."""

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        total = inputs @ b
        penalized = np.r_[0.0, b[1:]]
        value = (weights * (np.logaddexp(0.0, total) - ruined * total)).sum() + PENALTY * (penalized**2).sum() / 2
        error = weights * (1.0 / (1.0 + np.exp(-total)) - ruined)
        return value, inputs.T @ error + PENALTY * penalized

    return np.asarray(minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B").x)


def main() -> None:
    """Fit, print the figures of each threshold, choose one, and store all."""
    texts = examples()
    inputs = np.array([list(example.inputs.values()) for example in texts])
    weights = np.array([example.text.weight for example in texts])
    fold = np.array([example.text.fold for example in texts])
    label = np.array([example.text.label for example in texts])
    real = np.array([example.text.kind.startswith("real") for example in texts])
    p = np.full(len(texts), np.nan)
    for i in range(FOLDS):
        use = fold != i
        b = fit(inputs[use], (label == "degenerate")[use].astype(float), weights[use])
        p[~use] = 1.0 / (1.0 + np.exp(-inputs[~use] @ b))
    groups = {
        "real ruins": (label == "degenerate") & real,
        "made ruins": (label == "degenerate") & ~real,
        "coherent": label == "coherent",
        "other": label == "unclear",
    }
    chosen = max(THRESHOLDS)
    for threshold in reversed(THRESHOLDS):
        called = p >= threshold
        counts = ", ".join(f"{name} {(called & of).sum()} of {of.sum()}" for name, of in groups.items())
        print(f"{threshold:.2f}: {counts}")
        if (called & (label != "degenerate")).sum() <= FURTHER_ALARMS:
            chosen = threshold
    fitted = fit(inputs, (label == "degenerate").astype(float), weights)
    stored = {
        "models": MODELS,
        "low": LOW,
        "threshold": chosen,
        "weights": {name: round(float(value), 4) for name, value in zip(texts[0].inputs, fitted, strict=True)},
    }
    WEIGHTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
