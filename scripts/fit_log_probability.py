"""Fit the weights that combine the scores of the judge `degenerate` with log-probabilities, and store them.

    python -m scripts.fit_log_probability

The log-probabilities of the training texts are in benchmarks/data/degenerate/log_probabilities.jsonl, measured by
scripts/measure_log_probability.py. The text's scores of each training text come from a fit without the texts of its
fold, so that they are as good as they are on new texts. The combination is fitted to them by maximum likelihood, and
checked by cross-validation in the same folds. No test text is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from orchestrator.judges import _linear_scores, _log_probability
from orchestrator.judges._linear_scores import Scores
from orchestrator.utils.hashing import text_id
from scripts.fit_degenerate import DATA, FOLDS, ROOT, Model, Text, rows, training_rows

WEIGHTS = ROOT / "orchestrator" / "data" / "english" / "degenerate_log_probability.json"
MODELS = {"884df66b5d54be53": "smollm2_135m"}
"""Fingerprint -> name of the models whose log-probabilities are used."""
PENALTY = 0.05
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(4, 20))
THRESHOLD = 0.5
"""A response is degenerate if that is at least as probable as not; no threshold is chosen."""
MIDDLE = (0.19, 0.31)
"""Distances |alpha| at which many ruins are almost language."""


@dataclass(frozen=True)
class Example:
    """A training text with a log-probability.

    Attributes:
        text: The text.
        inputs: The values that the weights multiply, by name.
        p_text: Probability that it is degenerate by the text alone.
        p_other: Probability that its words are in another language or notation.
        real: Whether a model wrote it.
        distance: |alpha| of a real response; NaN of another text.
    """

    text: Text
    inputs: dict[str, float]
    p_text: float
    p_other: float
    real: bool
    distance: float


def read_log_probabilities() -> dict[str, tuple[float, int]]:
    """Return (mean, number of tokens) by the id of a response or the content hash of another text."""
    measured = rows(DATA / "log_probabilities.jsonl")
    return {row["id"]: (row["mean"], row["n_tokens"]) for row in measured if row["mean"] is not None}


def examples() -> list[Example]:
    """Return the training texts that have features and a log-probability."""
    measured = read_log_probabilities()
    kept = []
    for row in training_rows():
        text = Text.of_row(row)
        if text is not None:
            kept.append((row, text))
    model = Model([text for _, text in kept])
    fold = np.array([text.fold for _, text in kept])
    out = []
    for i in range(FOLDS):
        used = np.flatnonzero(fold == i)
        repetitive, words, end = model.parts(model.fit(fold != i), fold == i)
        for j, loop, of_words, of_end in zip(used, repetitive, words, end, strict=True):
            row, text = kept[j]
            key = row.get("id") or text_id(row.get("response", row.get("text", "")))
            if key not in measured or not text.validates:
                continue
            ruined_end = float(of_end[1]) if text.features.end is not None else 0.0
            coherent, ruin, other = map(float, of_words)
            scores = Scores(float(loop), coherent, ruin, other, ruined_end)
            p_text = 1.0 - (1.0 - scores.loop) * (1.0 - scores.ruin) * (1.0 - ruined_end)
            values = _log_probability.inputs(scores, *measured[key])
            is_real = text.kind.startswith("real")
            out.append(Example(text, values, p_text, other, is_real, abs(row.get("alpha", float("nan")))))
    return out


def fit(inputs: np.ndarray, ruined: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the coefficients of the logistic regression; the first input is constant and is not penalized."""

    def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
        total = inputs @ b
        penalized = np.r_[0.0, b[1:]]
        value = (weights * (np.logaddexp(0.0, total) - ruined * total)).sum() + PENALTY * (penalized**2).sum() / 2
        error = weights * (1.0 / (1.0 + np.exp(-total)) - ruined)
        return value, inputs.T @ error + PENALTY * penalized

    return np.asarray(minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B").x)


def cross_validate(texts: list[Example]) -> np.ndarray:
    """Return the probability that each text is degenerate, from a fit without the texts of its fold."""
    inputs, ruined, weights = arrays(texts)
    fold = np.array([example.text.fold for example in texts])
    p = np.full(len(texts), np.nan)
    for i in range(FOLDS):
        b = fit(inputs[fold != i], ruined[fold != i], weights[fold != i])
        p[fold == i] = 1.0 / (1.0 + np.exp(-inputs[fold == i] @ b))
    return p


def arrays(texts: list[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs [text, weight], whether each text is degenerate, and its weight in the likelihood."""
    inputs = np.array([list(example.inputs.values()) for example in texts])
    ruined = np.array([example.text.label == "degenerate" for example in texts], dtype=float)
    return inputs, ruined, np.array([example.text.weight for example in texts])


def describe(called: np.ndarray, texts: list[Example]) -> str:
    """Return recall and false alarms of verdicts on the training texts."""
    labels = np.array([example.text.label for example in texts])
    real = np.array([example.real for example in texts])
    distance = np.array([example.distance for example in texts])
    middle = (distance >= MIDDLE[0]) & (distance <= MIDDLE[1])
    groups = {
        "real ruins": (labels == "degenerate") & real,
        "at |alpha| 0.2 to 0.3": (labels == "degenerate") & middle,
        "made ruins": (labels == "degenerate") & ~real,
        "false alarms": labels == "coherent",
        "on real": (labels == "coherent") & real,
        "other": labels == "unclear",
    }
    return ", ".join(f"{name} {called[of].sum()}/{of.sum()} = {called[of].mean():.1%}" for name, of in groups.items())


def main() -> None:
    """Fit, print the comparison with the text alone, and store the weights."""
    texts = examples()
    p = cross_validate(texts)
    p_text = np.array([example.p_text for example in texts])
    print("text alone:")
    for threshold in THRESHOLDS:
        print(f"{threshold:.2f}: {describe(p_text >= threshold, texts)}")
    by_text = np.array([example.p_other >= _log_probability.OTHER for example in texts])
    print("with log-probability:")
    for threshold in THRESHOLDS:
        called = np.where(by_text, p_text >= _linear_scores.load_weights()["threshold"], p >= threshold)
        print(f"{threshold:.2f}: {describe(called, texts)}")
    fitted = fit(*arrays(texts))
    weights = {name: round(float(value), 4) for name, value in zip(texts[0].inputs, fitted, strict=True)}
    WEIGHTS.write_text(
        json.dumps({"models": MODELS, "threshold": THRESHOLD, "weights": weights}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
