"""Fit the weights of the judge `degenerate` to the training texts of benchmarks/data/degenerate, and store them.

    python -m scripts.fit_degenerate

A text is coherent English, degenerate, or in another language or notation. The probability that it is degenerate is
1 - (1 - loop) (1 - ruin) (1 - ruin of its end): `loop` is a logistic score of the features of repetition, `ruin` one of
three softmax scores of the features of words. Both are fitted together by maximum likelihood, with a quadratic penalty.
The operating point is chosen by cross-validation on the training texts. No test text is read.
"""

from __future__ import annotations

import base64
import codecs
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from orchestrator.judges import degenerate
from orchestrator.judges._text_features import is_uncalibrated
from orchestrator.judges.degenerate import Features
from scripts.make_ruins import KINDS, Sources

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "degenerate"
WEIGHTS = ROOT / "orchestrator" / "data" / "english" / "degenerate.json"
CLASSES = ("coherent", "degenerate", "unclear")
PENALTY = 0.1
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(4, 19))
RECALL = 0.92
"""Minimum recall at the operating point, in cross-validation on the training texts."""
FOLDS = 8


@dataclass(frozen=True)
class Text:
    """A training text.

    Attributes:
        features: Its features, as `degenerate.measure` returns them.
        label: One of CLASSES.
        kind: Its origin, as the rows of the data files name it.
        weight: Its weight in the likelihood.
        validates: Whether it counts in cross-validation. Texts derived from others are only used to fit.
        refused: Whether it is a refusal, which counts as one even if it is also degenerate.
    """

    features: Features
    label: str
    kind: str
    weight: float = 1.0
    validates: bool = True
    refused: bool = False


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file with one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def features_of(row: dict[str, Any]) -> Features | None:
    """Return the features of a row's response; None if it is empty or in a notation that no feature describes.

    If the text is withheld, its features are stored in the row.
    """
    if "features" in row:
        return Features.from_json(row["features"])
    text = row.get("response", row.get("text", ""))
    return degenerate.measure(text) if text.strip() and not is_uncalibrated(text) else None


def training_texts() -> Iterator[Text]:
    """Yield all training texts that have features."""
    for row in training_rows():
        features = features_of(row)
        if features is not None:
            yield Text(features, row["label"], row["kind"], row["weight"], row["validates"], row["refused"])


def _row(
    label: str, kind: str, weight: float, validates: bool = True, refused: bool = False, **text: Any
) -> dict[str, Any]:
    return {"label": label, "kind": kind, "weight": weight, "validates": validates, "refused": refused, **text}


def training_rows() -> Iterator[dict[str, Any]]:
    """Yield all training texts, as the fields of Text.

    Responses on which the two readers disagree, or which are unclear, are left out.
    """
    for row in rows(DATA / "responses.jsonl"):
        label = row["labels"][0]
        if row["split"] == "train" and label == row["labels"][1] and label != "unclear":
            kept = {key: row[key] for key in ("response", "features") if key in row}
            yield _row(CLASSES[label == "degenerate"], "real", 1.0, refused=label == "refused", **kept)
    for row in rows(ROOT / "tests" / "data" / "labelled_responses.jsonl"):
        label = CLASSES[row["label"] == "degenerate"]
        yield _row(label, "real", 1.0, refused=row["label"] == "refused", text=row["response"])
    for row in rows(DATA / "synthetic.jsonl"):
        if row["split"] == "train":
            yield _row("degenerate", row["kind"], 1.5, text=row["text"])
    written = [row for row in rows(DATA / "written.jsonl") if row["split"] == "train"]
    for row in written:
        label = "unclear" if row["class"] == "other" else "coherent"
        yield _row(label, row["kind"], 2.5, text=row["text"])
    yield from _derived(written)


def _derived(written: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield shortened, encoded and ruined training texts, and paragraphs and code of this project."""
    rng = random.Random(16)

    def cut(text: str) -> str:
        return text[: rng.randint(60, 170)].rsplit(" ", 1)[0]

    english = [row for row in written if row["class"] == "coherent"]
    foreign = [row["text"] for row in written if row["class"] == "other" and re.fullmatch("[a-z]{2}", row["kind"])]
    for row in english:
        if len(row["text"]) > 150:
            yield _row("coherent", "cut", 1.0, validates=False, text=cut(row["text"]))
    for text in foreign:
        if len(text) > 100:
            part = cut(text) if " " in text[:50] else text[:60]
            yield _row("unclear", "cut", 1.0, validates=False, text=part)
    for row in rows(DATA / "project.jsonl"):
        yield _row("coherent", "project", 1.0, validates=False, text=row["text"])
    prose = [row["text"] for row in english if row["kind"] in ("prose", "long", "recipe", "dialogue", "poem")]
    for i, text in enumerate(rng.sample(prose, 24)):
        part = text[: rng.randint(80, 300)]
        encoded = (
            codecs.encode(part, "rot13"),
            base64.b64encode(part.encode()).decode(),
            part.encode().hex(" "),
            base64.b32encode(part.encode()).decode(),
        )[i % 4]
        yield _row("unclear", "encoded", 1.0, validates=False, text=encoded)
    sources = Sources.of(written)
    for kind, make in KINDS.items():
        kind_rng = random.Random(f"33-{kind}")
        for text in (make(kind_rng, sources) for _ in range(40)):
            yield _row("degenerate", kind, 0.5, validates=False, text=text)


class Model:
    """The likelihood of the training texts. A row of each array is a text.

    Attributes:
        names: Names of the features of repetition, and of those of words.
    """

    def __init__(self, texts: list[Text]) -> None:
        features = [text.features for text in texts]
        self.names = list(features[0].loop), list(features[0].words)
        self.loop = np.array([[f.loop[name] for name in self.names[0]] for f in features])
        self.words = np.array([[f.words[name] for name in self.names[1]] for f in features])
        self.end = np.array([[(f.end or f.words)[name] for name in self.names[1]] for f in features])
        self.has_end = np.array([f.end is not None for f in features])
        self.labels = np.array([CLASSES.index(text.label) for text in texts])
        self.weights = np.array([text.weight for text in texts])

    def split(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the weights of `loop`, `ruin` and `other` in one vector; the constant comes first."""
        n, m = self.loop.shape[1] + 1, self.words.shape[1] + 1
        return b[:n], b[n : n + m], b[n + m :]

    def _parts(self, b: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return P(loop) [text], the softmax of the words [text, class] and of the end."""
        loop, ruin, other = self.split(b)
        repetitive = 1.0 / (1.0 + np.exp(-np.clip(self.loop[use] @ loop[1:] + loop[0], -30, 30)))
        both = []
        for words in (self.words[use], self.end[use]):
            scores = np.stack([np.zeros(len(words)), words @ ruin[1:] + ruin[0], words @ other[1:] + other[0]], 1)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            both.append(scores / scores.sum(axis=1, keepdims=True))
        return repetitive, both[0], both[1]

    def probabilities(self, b: np.ndarray, use: np.ndarray) -> np.ndarray:
        """Return the probabilities of CLASSES, [text, class]."""
        repetitive, words, end = self._parts(b, use)
        calm = (1.0 - repetitive) * (1.0 - np.where(self.has_end[use], end[:, 1], 0.0))
        coherent, other = words[:, 0] * calm, words[:, 2] * calm
        return np.stack([coherent, 1.0 - coherent - other, other], 1)

    def loss(self, b: np.ndarray, use: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log-likelihood with the penalty, and its gradient."""
        repetitive, words, end = self._parts(b, use)
        ruined_end = np.where(self.has_end[use], end[:, 1], 0.0)
        p = np.clip(self.probabilities(b, use), 1e-9, 1.0)
        label, weight = self.labels[use], self.weights[use]
        value = -(weight * np.log(p[np.arange(len(label)), label])).sum()
        # derivatives of log p with respect to log P(coherent) and log P(other)
        of_coherent = np.where(label == 0, 1.0, np.where(label == 1, -p[:, 0] / p[:, 1], 0.0))
        of_other = np.where(label == 2, 1.0, np.where(label == 1, -p[:, 2] / p[:, 1], 0.0))
        both = of_coherent + of_other
        loop = -both * repetitive * weight
        ruin = -both * words[:, 1] * weight
        other = (of_other - both * words[:, 2]) * weight
        ruin_end = -both * ruined_end * weight
        other_end = both * ruined_end * end[:, 2] / np.clip(1.0 - ruined_end, 1e-9, 1.0) * weight
        gradient = np.concatenate(
            [
                [loop.sum()],
                loop @ self.loop[use],
                [(ruin + ruin_end).sum()],
                ruin @ self.words[use] + ruin_end @ self.end[use],
                [(other + other_end).sum()],
                other @ self.words[use] + other_end @ self.end[use],
            ]
        )
        penalized = np.concatenate([np.r_[0.0, part[1:]] for part in self.split(b)])
        return value + PENALTY * (penalized**2).sum() / 2, PENALTY * penalized - gradient

    def fit(self, use: np.ndarray) -> np.ndarray:
        """Return the weights that fit these texts. Those of repetition are not negative, except in two features."""
        free = ("structured", "again counting")
        loop = [(None, None) if name in free else (0.0, None) for name in self.names[0]]
        rest = [(None, None)] * (2 * (self.words.shape[1] + 1))
        start = np.zeros(len(loop) + 1 + len(rest))
        options = {"maxiter": 3000, "maxfun": 6000}
        bounds = [(None, None), *loop, *rest]
        fitted = minimize(self.loss, start, (use,), "L-BFGS-B", jac=True, bounds=bounds, options=options)
        return np.asarray(fitted.x)


def cross_validate(model: Model, texts: list[Text]) -> np.ndarray:
    """Return the probabilities of CLASSES of each text from a fit without it; NaN for texts that only help to fit."""
    fold = np.random.default_rng(0).integers(0, FOLDS, len(texts))
    validates = np.array([text.validates for text in texts])
    p = np.full((len(texts), 3), np.nan)
    for i in range(FOLDS):
        held_out = (fold == i) & validates
        p[held_out] = model.probabilities(model.fit(~held_out), held_out)
    return p


def choose_threshold(p: np.ndarray, texts: list[Text]) -> float:
    """Return the highest threshold with a recall of at least RECALL, averaged over real and made ruins."""
    coherent = np.array([t.validates and t.label == "coherent" and not t.refused for t in texts])
    ruined = np.array([t.validates and t.label == "degenerate" for t in texts])
    real = np.array([t.kind == "real" for t in texts])
    recalls = {}
    for threshold in THRESHOLDS:
        called = p[:, 1] >= threshold
        recall = called[ruined & real].mean(), called[ruined & ~real].mean()
        recalls[threshold] = sum(recall) / 2
        print(
            f"{threshold:.2f}: recall {recall[0]:.3f} of real ruins, {recall[1]:.3f} of made ones; false alarms "
            f"{called[coherent].mean():.3f} ({called[coherent & real].mean():.3f} real, "
            f"{called[coherent & ~real].mean():.3f} written)"
        )
    return max(threshold for threshold, recall in recalls.items() if recall >= RECALL)


def main() -> None:
    """Fit, choose the threshold, and store both."""
    texts = list(training_texts())
    model = Model(texts)
    threshold = choose_threshold(cross_validate(model, texts), texts)
    fitted = model.split(model.fit(np.ones(len(texts), dtype=bool)))
    names = (model.names[0], model.names[1], model.names[1])
    stored: dict[str, Any] = {"threshold": threshold}
    for part, feature_names, values in zip(("loop", "ruin", "other"), names, fitted, strict=True):
        stored[part] = {n: round(float(v), 4) for n, v in zip(["constant", *feature_names], values, strict=True)}
    WEIGHTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
