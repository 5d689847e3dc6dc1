"""Fit the linear scores of texts to training texts of benchmarks/data/degenerate, and store them.

    python -m scripts.fit_degenerate

They are version 4 of the judge `degenerate`, on which the rules with log-probabilities rest (fit_network.py fits the
current version). A text is coherent English, degenerate, or in another language or notation. The probability that it is
degenerate is 1 - (1 - loop) (1 - ruin) (1 - ruin of its end): `loop` is a logistic score of the features of repetition,
`ruin` one of three softmax scores of the features of words. Both are fitted together by maximum likelihood, with a
quadratic penalty. The operating point is chosen by cross-validation on the training texts, in which texts from the same
prompt or written text are left out together. No test text is read.
"""

from __future__ import annotations

import base64
import codecs
import json
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from orchestrator.judges import _english, _linear_scores
from orchestrator.judges._linear_scores import Features
from orchestrator.judges._text_features import is_judged_by_rule
from scripts.make_ruins import ruins

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data" / "degenerate"
WEIGHTS = ROOT / "orchestrator" / "data" / "english" / "degenerate.json"
CLASSES = ("coherent", "degenerate", "unclear")
PENALTY = 0.05
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(4, 19))
FALSE_ALARMS = 0.015
"""Maximum share of false alarms at the operating point, in cross-validation on the coherent training texts."""
FOLDS = 8
OF_A_KIND = 8
"""Number of synthetic ruins of each kind in a fold."""


@dataclass(frozen=True)
class LabeledText:
    """A training text, without what a fit reads of it.

    Attributes:
        label: One of CLASSES.
        kind: Its origin, as the rows of the data files name it.
        fold: The fold of the cross-validation in which it is left out.
        weight: Its weight in the likelihood.
        validates: Whether it counts in cross-validation. Texts derived from others are only used to fit.
    """

    label: str
    kind: str
    fold: int
    weight: float = 1.0
    validates: bool = True


@dataclass(frozen=True)
class Text(LabeledText):
    """A training text.

    Attributes:
        features: Its features, as `_linear_scores.measure` returns them.
    """

    features: Features = field(kw_only=True)

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Text | None:
        """Return a row of `training_rows`. None if it is judged without features."""
        features = features_of(row)
        if features is None:
            return None
        return cls(row["label"], row["kind"], row["fold"], row["weight"], row["validates"], features=features)


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file with one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def features_of(row: dict[str, Any]) -> Features | None:
    """Return the features of a row's response; None if it is judged without them.

    If the text is withheld, its features are stored in the row.
    """
    if "features" in row:
        return Features.from_json(row["features"])
    text = row.get("response", row.get("text", ""))
    return None if is_judged_by_rule(text) else _linear_scores.measure(text)


def training_texts() -> Iterator[Text]:
    """Yield all training texts that have features."""
    for row in training_rows():
        text = Text.of_row(row)
        if text is not None:
            yield text


def _row(label: str, kind: str, fold: int, weight: float, validates: bool = True, **text: Any) -> dict[str, Any]:
    return {"label": label, "kind": kind, "fold": fold, "weight": weight, "validates": validates, **text}


def fold_of(source: str) -> int:
    """Return the fold of all texts from a source: a prompt or a written text."""
    return zlib.crc32(source.encode()) % FOLDS


def training_rows() -> Iterator[dict[str, Any]]:
    """Yield all training texts, as the fields of Text.

    Responses on which the two readers disagree, or which are unclear, are left out.
    """
    for row in rows(DATA / "responses.jsonl"):
        label = row["labels"][0]
        if row["split"] == "train" and label == row["labels"][1] and label != "unclear":
            kept = {key: row[key] for key in ("id", "alpha", "response", "features") if key in row}
            yield _row(CLASSES[label == "degenerate"], "real", fold_of(row["prompt_id"]), 1.0, **kept)
    for i, row in enumerate(rows(ROOT / "tests" / "data" / "labelled_responses.jsonl")):
        label = CLASSES[row["label"] == "degenerate"]
        about = {"id": f"old{i:03d}", "alpha": row["alpha"]}
        yield _row(label, "real (old)", fold_of(row["response"]), 1.0, text=row["response"], **about)
    for row in rows(DATA / "cases.jsonl"):
        yield _row(row["label"], "case", fold_of(row["text"]), 6.0, validates=False, text=row["text"])
    for row in rows(DATA / "project.jsonl"):
        yield _row("coherent", "project", fold_of(row["text"]), 0.5, validates=False, text=row["text"])
    written = [row for row in rows(DATA / "written.jsonl") if row["split"] == "train"]
    for fold in range(FOLDS):
        members = [row for row in written if fold_of(row["text"]) == fold]
        for row in members:
            label, weight = ("unclear", 3.0) if row["class"] == "other" else ("coherent", 2.0)
            yield _row(label, row["kind"], fold, weight, text=row["text"])
        for kind, text in ruins(members, f"50-{fold}", OF_A_KIND):
            yield _row("degenerate", kind, fold, 1.0, text=text)
        for label, kind, weight, text in derived(members, random.Random(f"60-{fold}")):
            yield _row(label, kind, fold, weight, validates=False, text=text)


def derived(members: list[dict[str, Any]], rng: random.Random) -> Iterator[tuple[str, str, float, str]]:
    """Yield (label, kind, weight, text) of shortened and encoded texts and single words."""
    for row in members:
        text, is_foreign = row["text"], re.fullmatch("[a-z]{2}", row["kind"]) is not None
        label = "unclear" if row["class"] == "other" else "coherent"
        if (label == "coherent" and len(text) > 150) or (is_foreign and len(text) > 100):
            part = text[: rng.randint(60, 170)].rsplit(" ", 1)[0] if " " in text[:50] else text[:60]
            yield label, "cut", 1.0, part
        first = re.split(r"(?<=[.!?。।])\s", text, maxsplit=1)[0]
        if (
            (is_foreign or row["kind"] in ("prose", "long", "dialogue", "recipe"))
            and first != text
            and len(first) < 150
        ):
            yield label, "first sentence", 0.5, first
    common = [word for word, number in _english.load().numbers.items() if 100 <= number < 5000 and len(word) > 2]
    for _ in range(8):
        word = rng.choice(common)
        yield "coherent", "word", 0.3, rng.choice((word, word.title())) + rng.choice(("", ".", "!"))
    english = [row["text"] for row in members if row["kind"] in ("prose", "long", "recipe", "dialogue", "poem")]
    for i, text in enumerate(rng.sample(english, 6)):
        part = text[: rng.randint(80, 300)].encode()
        encoded = (
            codecs.encode(part.decode(), "rot13"),
            base64.b64encode(part).decode(),
            part.hex(" "),
            base64.b32encode(part).decode(),
        )[i % 4]
        yield "unclear", "encoded", 1.0, encoded


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

    def parts(self, b: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        repetitive, words, end = self.parts(b, use)
        calm = (1.0 - repetitive) * (1.0 - np.where(self.has_end[use], end[:, 1], 0.0))
        coherent, other = words[:, 0] * calm, words[:, 2] * calm
        return np.stack([coherent, 1.0 - coherent - other, other], 1)

    def loss(self, b: np.ndarray, use: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative log-likelihood with the penalty, and its gradient."""
        repetitive, words, end = self.parts(b, use)
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
    """Return the probabilities of CLASSES of each text from a fit without the texts of its fold."""
    fold = np.array([text.fold for text in texts])
    p = np.full((len(texts), 3), np.nan)
    for i in range(FOLDS):
        p[fold == i] = model.probabilities(model.fit(fold != i), fold == i)
    return p


def choose_threshold(
    p: np.ndarray, texts: Sequence[LabeledText], thresholds: Sequence[float], false_alarms: float
) -> float:
    """Return the lowest of the thresholds with at most a share of `false_alarms` among the coherent texts.

    Args:
        p: Probabilities of the classes by cross-validation: float[text, class].
        texts: The texts.
        thresholds: The thresholds of the probability of `degenerate` to choose from.
        false_alarms: The share of coherent texts that may be called degenerate.
    """
    validates = np.array([text.validates for text in texts])
    labels = np.array([text.label for text in texts])
    real = np.array([text.kind.startswith("real") for text in texts])
    alarms = {}
    for threshold in thresholds:
        called = p[:, 1] >= threshold

        def share(label: str, source: np.ndarray, called: np.ndarray = called) -> str:
            members = called[validates & (labels == label) & source]
            return f"{members.sum()}/{len(members)} = {members.mean():.1%}"

        alarms[threshold] = called[validates & (labels == "coherent")].mean()
        print(
            f"{threshold:.2f}: recall {share('degenerate', real)} of real ruins, {share('degenerate', ~real)} of made "
            f"ones; false alarms {alarms[threshold]:.1%} ({share('coherent', real)} real, {share('coherent', ~real)} "
            f"written); other {share('unclear', ~real)}"
        )
    return min(threshold for threshold, share in alarms.items() if share <= false_alarms)


def main() -> None:
    """Fit, choose the threshold, and store both."""
    texts = list(training_texts())
    model = Model(texts)
    threshold = choose_threshold(cross_validate(model, texts), texts, THRESHOLDS, FALSE_ALARMS)
    fitted = model.split(model.fit(np.ones(len(texts), dtype=bool)))
    names = (model.names[0], model.names[1], model.names[1])
    stored: dict[str, Any] = {"threshold": threshold}
    for part, feature_names, values in zip(("loop", "ruin", "other"), names, fitted, strict=True):
        stored[part] = {n: round(float(v), 4) for n, v in zip(["constant", *feature_names], values, strict=True)}
    WEIGHTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
