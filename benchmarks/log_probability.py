"""Measure what log-probabilities add to the judge `degenerate`, on test texts that were not used to combine them.

    python -m benchmarks.log_probability

The log-probabilities of the texts are stored (scripts/measure_log_probability.py), so that no engine is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from benchmarks.degenerate import SPLIT, judge_row, kappa_sentence, load, share
from benchmarks.results import section, table
from orchestrator.judges import _log_probability, degenerate
from orchestrator.utils.hashing import text_id


@dataclass(frozen=True)
class Pair:
    """A labeled text with both verdicts.

    Attributes:
        id: Its id in the data, or the content hash of a text that is no response.
        truth: `degenerate`, `coherent` or `other` (another language or notation).
        real: Whether the embedded model wrote it.
        by_text: Verdict on the text alone.
        combined: Verdict with the log-probability.
        uncertain: Whether the text alone leaves the verdict uncertain.
    """

    id: str
    truth: str
    real: bool
    by_text: str
    combined: str
    uncertain: bool


def read() -> Iterator[Pair]:
    """Yield the labeled texts of SPLIT, without responses on which the readings disagree or that are unclear.

    Raises:
        KeyError: The log-probability of an uncertain text is not stored.
    """
    measured = {row["id"]: (row["mean"], row["n_tokens"]) for row in load("log_probabilities.jsonl")}
    for row in load("responses.jsonl"):
        label = row["labels"][0]
        if row["split"] == SPLIT and label == row["labels"][1] and label != "unclear":
            _, by_text, _ = judge_row(row)
            verdict, uncertain = degenerate.decide(by_text), _log_probability.is_uncertain(by_text)
            combined = _log_probability.decide(row["response"], *measured[row["id"]]) if uncertain else verdict
            truth = "degenerate" if label == "degenerate" else "coherent"
            yield Pair(row["id"], truth, True, verdict, combined, uncertain)
    for name in ("written", "synthetic"):
        for row in load(f"{name}.jsonl"):
            if row["split"] == SPLIT:
                text, key = row["text"], text_id(row["text"])
                verdict, uncertain = degenerate.JUDGE.verdict("", text), _log_probability.needs_log_probability(text)
                combined = _log_probability.decide(text, *measured[key]) if uncertain else verdict
                yield Pair(key, row.get("class", "degenerate"), False, verdict, combined, uncertain)


GROUPS: tuple[tuple[str, Callable[[Pair], bool]], ...] = (
    ("ruins of the embedded model", lambda pair: pair.truth == "degenerate" and pair.real),
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
        by_text = sum(pair.by_text == "degenerate" for pair in members)
        combined = sum(pair.combined == "degenerate" for pair in members)
        uncertain = sum(pair.uncertain for pair in members)
        rows.append([name, share(by_text, len(members)), share(combined, len(members)), str(uncertain)])
    return table(["texts", "by the text alone", "with the log-probability", "uncertain"], rows)


def paired(pairs: Sequence[Pair]) -> str:
    """Return a sentence on the texts whose verdict changes."""
    changed = [pair for pair in pairs if pair.combined != pair.by_text]
    gained = sum(pair.truth == "degenerate" for pair in changed)
    p = binomtest(gained, gained, 0.5).pvalue if gained else 1.0
    return (
        f"The log-probability can only add ruins. It finds {gained} that the text alone misses (exact McNemar test: "
        f"p = {p:.2g}), and calls {len(changed) - gained} other texts degenerate."
    )


def report() -> str:
    """Return the section of RESULTS.md."""
    pairs = list(read())
    return "\n\n".join(
        [
            "## Degenerate responses with log-probabilities",
            f"`python -m benchmarks.log_probability`: version {_log_probability.JUDGE.version} of the combination of "
            f"text and log-probability, and version {degenerate.JUDGE.version} of the judge `degenerate`, which reads "
            f"the text alone, on the split {SPLIT}. The log-probability counts for uncertain texts only. Weights and "
            "thresholds were fitted to training texts and frozen before any log-probability of the test was used. The "
            "results of the text alone on this split were known by then. "
            "Cells are the texts that are called degenerate, with 95% Clopper-Pearson intervals. "
            f"{kappa_sentence(SPLIT)}",
            comparison(pairs),
            paired(pairs),
        ]
    )


def write() -> None:
    """Write the section of RESULTS.md."""
    section("degenerate with log-probabilities", report())


if __name__ == "__main__":
    write()
