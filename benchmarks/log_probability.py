"""Measure what log-probabilities add to the judge `degenerate`, on test texts that were not used to combine them.

    python -m benchmarks.log_probability

The log-probabilities of the texts are stored (scripts/measure_log_probability.py), so that no engine is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from benchmarks.degenerate import kappa_sentence, load, share
from benchmarks.results import section, table
from orchestrator.judges import _linear_scores, _log_probability
from orchestrator.judges._linear_scores import Features
from orchestrator.judges._text_features import is_judged_by_rule
from orchestrator.utils.hashing import text_id

SPLIT = "test log-probability"
"""The split of new texts, which were read after the combination was frozen. `test` is that of the judge of texts."""


@dataclass(frozen=True)
class Pair:
    """A labeled text with both verdicts.

    Attributes:
        id: Its id in the data.
        truth: `degenerate`, `coherent` or `other` (another language or notation).
        real: Whether the embedded model wrote it.
        distance: |alpha| of a real response.
        tokens: Length limit of a real response.
        by_text: Verdict on the text alone, by version 4 of the judge of texts, on which the combination rests.
        combined: Verdict with the log-probability, by version 1 of the combination.
        cheap: The same by version 2, which needs the log-probability of uncertain texts only.
        uncertain: Whether this is such a text.
    """

    id: str
    truth: str
    real: bool
    distance: float
    tokens: int
    by_text: str
    combined: str
    cheap: str
    uncertain: bool


def read(split: str) -> Iterator[Pair]:
    """Yield the labeled texts of a split that have a log-probability, without those on which the readers disagree."""
    measured = {row["id"]: row for row in load("log_probabilities.jsonl")}

    def pair(row: dict[str, Any], key: str, truth: str, real: bool) -> Pair | None:
        logged = measured.get(key)
        if logged is None:
            return None
        text = row.get("response", row.get("text", ""))
        special = "features" not in row and (is_judged_by_rule(text) or logged["mean"] is None)
        if special:
            by_text = combined = _linear_scores.JUDGE.verdict("", text)
            uncertain = False
        else:
            features = Features.from_json(row["features"]) if "features" in row else _linear_scores.measure(text)
            by_text = _linear_scores.decide(_linear_scores.combine(features))
            combined = _log_probability.decide_features(features, logged["mean"], logged["n_tokens"])
            uncertain = _log_probability.UNCERTAIN.is_uncertain(features)
        distance, tokens = abs(row.get("alpha", 0.0)), row.get("tokens", 0)
        cheap = combined if uncertain else by_text
        return Pair(row["id"], truth, real, distance, tokens, by_text, combined, cheap, uncertain)

    for row in load("responses.jsonl"):
        label = row["labels"][0]
        if row["split"] == split and label == row["labels"][1] and label != "unclear":
            found = pair(row, row["id"], "degenerate" if label == "degenerate" else "coherent", True)
            if found is not None:
                yield found
    for row in load("written.jsonl"):
        if row["split"] == split:
            found = pair(row, text_id(row["text"]), row["class"], False)
            if found is not None:
                yield found
    for row in load("synthetic.jsonl"):
        if row["split"] == split:
            found = pair(row, text_id(row["text"]), "degenerate", False)
            if found is not None:
                yield found


def _is_ruin(pair: Pair, low: float, high: float) -> bool:
    """Return whether a text is a ruin that the embedded model wrote at a distance between these."""
    return pair.truth == "degenerate" and pair.real and low <= pair.distance < high


GROUPS: tuple[tuple[str, Callable[[Pair], bool]], ...] = (
    ("ruins of the embedded model", lambda pair: pair.truth == "degenerate" and pair.real),
    ("... at a distance of 0.05 to 0.15", lambda pair: _is_ruin(pair, 0.0, 0.175)),
    ("... at a distance of 0.2 to 0.3", lambda pair: _is_ruin(pair, 0.175, 0.325)),
    ("... farther out", lambda pair: _is_ruin(pair, 0.325, 9.0)),
    ("... of at most 32 tokens", lambda pair: _is_ruin(pair, 0.0, 9.0) and pair.tokens == 32),
    ("... of at most 128 tokens", lambda pair: _is_ruin(pair, 0.0, 9.0) and pair.tokens == 128),
    ("synthetic ruins", lambda pair: pair.truth == "degenerate" and not pair.real),
    ("ruins, all", lambda pair: pair.truth == "degenerate"),
    ("coherent responses of the embedded model", lambda pair: pair.truth == "coherent" and pair.real),
    ("coherent English, written", lambda pair: pair.truth == "coherent" and not pair.real),
    ("coherent English, all", lambda pair: pair.truth == "coherent"),
    ("other languages and notations", lambda pair: pair.truth == "other"),
)


def comparison(pairs: Sequence[Pair]) -> str:
    """Return the table of what is called degenerate, with and without log-probabilities."""
    rows = []
    for name, belongs in GROUPS:
        members = [pair for pair in pairs if belongs(pair)]
        if members:
            ways = ("by_text", "combined", "cheap")
            called = [sum(getattr(pair, way) == "degenerate" for pair in members) for way in ways]
            unclear = sum(pair.combined == "unclear" for pair in members)
            uncertain = sum(pair.uncertain for pair in members)
            rows.append([name, *(share(n, len(members)) for n in called), str(unclear), str(uncertain)])
    header = ["texts", "by the text alone", "with the log-probability (version 1)", "of uncertain texts (version 2)"]
    return table([*header, "unclear by version 1", "uncertain"], rows)


def paired(pairs: Sequence[Pair]) -> str:
    """Return a sentence on the ruins that only one of two ways finds, for both versions."""
    return " ".join(_paired(pairs, way, version) for way, version in (("combined", 1), ("cheap", 2)))


def _paired(pairs: Sequence[Pair], way: str, version: int) -> str:
    """Return a sentence on the ruins that only the text alone or only this way finds."""
    ruins = [pair for pair in pairs if pair.truth == "degenerate"]
    gained = sum(getattr(pair, way) == "degenerate" != pair.by_text for pair in ruins)
    lost = sum(pair.by_text == "degenerate" != getattr(pair, way) for pair in ruins)
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return (
        f"With version {version}, {gained} ruins are found that the text alone misses, and {lost} are missed that it "
        f"finds (exact McNemar test: p = {p:.2g})."
    )


def report() -> str:
    """Return the section of RESULTS.md."""
    new, earlier = list(read(SPLIT)), list(read("test"))
    return "\n\n".join(
        [
            "## Degenerate responses with log-probabilities",
            f"`python -m benchmarks.log_probability`: versions {_log_probability.JUDGE.version} and "
            f"{_log_probability.UNCERTAIN.version} of the combination of text and log-probability, and version "
            f"{_linear_scores.JUDGE.version} of the judge `degenerate`, which reads the text alone. Version 2 needs "
            "the log-probability of uncertain texts only. Its margin was chosen for its cost and by cross-validation "
            "on training texts, when the figures of version 1 below were known; a count of how often text and "
            "log-probability disagree, by the text's probability, had included the real responses below. "
            "Cells are the texts that are called degenerate, with 95% Clopper-Pearson intervals. "
            "Language models wrote, read and labeled the texts (`benchmarks/data/degenerate/README.md`).",
            "The texts on which the judge of texts was tested. The combination was neither fitted to them nor changed "
            "after they were judged:",
            comparison(earlier),
            paired(earlier),
            "Texts made for this test. A first version of the combination, which differed only in that it also judged "
            "texts in other languages by their log-probability, called 175 of the 184 ruins and 14 of the 103 texts in "
            "other languages and notations degenerate, and 2 of the 263 coherent ones; these texts are therefore not "
            f"quite untouched. {kappa_sentence(SPLIT)}",
            comparison(new),
            paired(new),
        ]
    )


def write() -> None:
    """Write the section of RESULTS.md."""
    section("degenerate with log-probabilities", report())


if __name__ == "__main__":
    write()
