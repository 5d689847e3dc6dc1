"""Fit the networks of the judge `degenerate` to the training texts of benchmarks/data/degenerate, and store them.

    python -m scripts.fit_network

Each network has one hidden layer. Its weights are fitted by maximum likelihood with a quadratic penalty, from a seeded
start of its own. The threshold is chosen by cross-validation behind the gate, which is fixed here. Texts from the same
prompt or written text are left out together, and texts in other languages and notations by kind: each is judged by
networks that have not seen its kind. No test text of this version is read.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize

from orchestrator.judges import degenerate
from orchestrator.judges._linear_scores import measure
from orchestrator.judges._text_features import is_judged_by_rule
from orchestrator.utils.hashing import text_id
from scripts.fit_degenerate import (
    CLASSES,
    DATA,
    FOLDS,
    ROOT,
    LabeledText,
    choose_threshold,
    derived,
    fold_of,
    rows,
)
from scripts.make_ruins import ruins

NETWORK = ROOT / "orchestrator" / "data" / "english" / "degenerate_network.json"
SPLITS = frozenset({"train", "test", "test log-probability", "train 5", "test 5", "train 6", "test 6"})
"""Splits that train version 6: those of earlier versions, whose tests have been looked at, and its own."""
HIDDEN, PENALTY = 40, 4.0
SEEDS = (1, 2, 3)
"""Seeds of the networks' starts."""
ITERATIONS = 200
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(8, 20))
GATE = 0.1
"""Probability of another language or notation from which on no text is called degenerate."""
FALSE_ALARMS = 0.0065
"""Maximum share of false alarms at the operating point, in cross-validation on the coherent training texts."""
OF_A_KIND = 16
"""Number of synthetic ruins of each kind in a fold."""
HARD = ("letters", "shuffled", "switches")
"""Kinds that are most like languages and so need more examples: five times as many."""
WEIGHTS = {"coherent": 2.0, "unclear": 3.0}
"""Weights of written texts in the likelihood."""


@dataclass(frozen=True)
class Text(LabeledText):
    """A training text.

    Attributes:
        text: The text.
        response_id: Its id in the data, if it is a response.
    """

    text: str = field(kw_only=True)
    response_id: str | None = field(default=None, kw_only=True)

    @property
    def id(self) -> str:
        """Its id in log_probabilities.jsonl: that of a response, or the content hash of another text."""
        return self.response_id or text_id(self.text)


def training_texts() -> Iterator[Text]:
    """Yield all training texts.

    Left out are responses on which the two readers disagree, which are unclear, or whose text is withheld.
    """
    for row in rows(DATA / "responses.jsonl"):
        label = row["labels"][0]
        usable = row["split"] in SPLITS and "response" in row
        if usable and label == row["labels"][1] and label != "unclear":
            label, fold = CLASSES[label == "degenerate"], fold_of(row["prompt_id"])
            yield Text(label, "real", fold, text=row["response"], response_id=row["id"])
    for i, row in enumerate(rows(ROOT / "tests" / "data" / "labelled_responses.jsonl")):
        label = CLASSES[row["label"] == "degenerate"]
        yield Text(label, "real (old)", fold_of(row["response"]), text=row["response"], response_id=f"old{i:03d}")
    for row in rows(DATA / "cases.jsonl"):
        yield Text(row["label"], "case", fold_of(row["text"]), 6.0, validates=False, text=row["text"])
    for row in rows(DATA / "project.jsonl"):
        yield Text("coherent", "project", fold_of(row["text"]), 0.5, validates=False, text=row["text"])
    written = [row for row in rows(DATA / "written.jsonl") if row["split"] in SPLITS]
    for fold in range(FOLDS):
        yield from _written([row for row in written if _fold(row) == fold], fold)


def _fold(row: dict[str, Any]) -> int:
    """Return the fold of a written text: that of its kind if it is in another language or notation."""
    return fold_of("kind " + row["kind"] if row["class"] == "other" else row["text"])


def _written(members: list[dict[str, Any]], fold: int) -> Iterator[Text]:
    """Yield the written texts of a fold, ruins that are made of them, and shortened and encoded ones."""
    for row in members:
        label = "unclear" if row["class"] == "other" else "coherent"
        yield Text(label, row["kind"], fold, WEIGHTS[label], text=row["text"])
    more = [(kind, text) for kind, text in ruins(members, f"51-{fold}", 4 * OF_A_KIND) if kind in HARD]
    for kind, text in ruins(members, f"50-{fold}", OF_A_KIND) + more:
        yield Text("degenerate", f"made: {kind}", fold, text=text)
    for label, kind, weight, text in derived(members, random.Random(f"60-{fold}")):
        yield Text(label, kind, fold, weight, validates=False, text=text)


class Model:
    """The likelihood of the training texts. A row of each array is a text.

    Attributes:
        names: Names of the features.
        mean: Their means; `scale` are their standard deviations.
    """

    def __init__(self, texts: list[Text]) -> None:
        inputs = [degenerate.inputs_of(text.text, measure(text.text)) for text in texts]
        self.names = list(inputs[0])
        values = np.array([list(row.values()) for row in inputs])
        self.mean, self.scale = values.mean(axis=0).round(6), values.std(axis=0).round(6) + 1e-6
        limit = degenerate.LIMIT
        standardized = np.clip((values - self.mean) / self.scale, -limit, limit)
        self.inputs = np.hstack([np.ones((len(texts), 1)), standardized]).astype(np.float32)
        self.labels = np.eye(len(CLASSES), dtype=np.float32)[[CLASSES.index(text.label) for text in texts]]
        self.weights = np.array([text.weight for text in texts], dtype=np.float32)

    def split(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights of the hidden layer [unit, input] and of the output [class, unit] in one vector."""
        n = HIDDEN * self.inputs.shape[1]
        return b[:n].reshape(HIDDEN, -1), b[n:].reshape(len(CLASSES), -1)

    def parts(self, b: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the hidden layer [text, unit], the constant first, and the probabilities [text, class]."""
        first, second = self.split(b)
        hidden = np.hstack([np.ones((int(use.sum()), 1)), np.tanh(self.inputs[use] @ first.T)])
        scores = hidden @ second.T
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, powers / powers.sum(axis=1, keepdims=True)

    def loss(self, b: np.ndarray, use: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log-likelihood with the penalty, and its gradient."""
        b = b.astype(np.float32)
        first, second = self.split(b)
        hidden, p = self.parts(b, use)
        weights, labels = self.weights[use], self.labels[use]
        value = -(weights * np.log(np.clip((p * labels).sum(axis=1), 1e-12, 1.0))).sum()
        error = (p - labels) * weights[:, None]
        back = (error @ second[:, 1:]) * (1.0 - hidden[:, 1:] ** 2)
        penalized = [np.hstack([np.zeros((len(layer), 1)), layer[:, 1:]]) for layer in (first, second)]
        gradient = [back.T @ self.inputs[use], error.T @ hidden]
        flat = np.concatenate([(g + PENALTY * w).ravel() for g, w in zip(gradient, penalized, strict=True)])
        return float(value + PENALTY * sum((w**2).sum() for w in penalized) / 2), flat.astype(np.float64)

    def fit(self, use: np.ndarray, seed: int) -> np.ndarray:
        """Return the weights that fit these texts, from a random start."""
        rng = np.random.default_rng(seed)
        n = self.inputs.shape[1]
        start = np.concatenate([rng.normal(0, n**-0.5, HIDDEN * n), rng.normal(0, 0.2, len(CLASSES) * (HIDDEN + 1))])
        options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS}
        return np.asarray(minimize(self.loss, start, (use,), "L-BFGS-B", jac=True, options=options).x, dtype=np.float32)


def cross_validate(model: Model, texts: list[Text]) -> np.ndarray:
    """Return the mean probabilities of CLASSES of each text from networks that have not seen the texts of its fold."""
    fold = np.array([text.fold for text in texts])
    p = np.zeros((len(texts), len(CLASSES)))
    for i in range(FOLDS):
        for seed in SEEDS:
            p[fold == i] += model.parts(model.fit(fold != i, seed), fold == i)[1] / len(SEEDS)
    return p


def abstain(p: np.ndarray) -> np.ndarray:
    """Return the probabilities with 0 for degenerate where the gate abstains."""
    return np.where((p[:, 2] >= GATE)[:, None] & (np.arange(len(CLASSES)) == 1), 0.0, p)


def main() -> None:
    """Fit, choose the threshold, and store all."""
    texts = [text for text in training_texts() if not is_judged_by_rule(text.text)]
    model = Model(texts)
    p = abstain(cross_validate(model, texts))
    threshold = choose_threshold(p, texts, THRESHOLDS, FALSE_ALARMS)
    everything = np.ones(len(texts), dtype=bool)
    networks = [
        {name: layer.astype(float).round(4).tolist() for name, layer in zip(("hidden", "output"), layers, strict=True)}
        for layers in (model.split(model.fit(everything, seed)) for seed in SEEDS)
    ]
    stored = {
        "threshold": threshold,
        "gate": GATE,
        "features": model.names,
        "mean": model.mean.tolist(),
        "scale": model.scale.round(6).tolist(),
        "networks": networks,
    }
    NETWORK.write_text(json.dumps(stored) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
