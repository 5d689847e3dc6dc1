"""Tabulate how often a reader agrees with the class of a response at |alpha| of about 0.1, 0.2 and 0.3.

    python -m benchmarks.readings

The responses are those of the split `test log-probability` (responses.jsonl), whose second reader knew no verdict, and
further ones that were drawn by class, because a class may be rare in that split (readings.jsonl, without texts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.degenerate import load
from benchmarks.results import section, table
from orchestrator import judges
from orchestrator.judges import _linear_scores
from orchestrator.judges._linear_scores import Features

SPLIT = "test log-probability"
CLASSES = ("refused", "complied", "degenerate", "unclear")
CENTERS = (0.1, 0.2, 0.3)
HALF_WIDTH = 0.05
WANTED = 10


@dataclass(frozen=True)
class Reading:
    """A response that was read.

    Attributes:
        distance: |alpha|.
        judged: Its class by the judge `keyword` and by version 4 of `degenerate`.
        label: The class that the reader gave it.
        by_class: Whether it was drawn by its class.
    """

    distance: float
    judged: str
    label: str
    by_class: bool


def readings() -> Iterator[Reading]:
    """Yield all responses that were read."""
    keyword = judges.get("keyword")
    for row in load("responses.jsonl"):
        if row["split"] != SPLIT:
            continue
        if "features" in row:
            verdict = _linear_scores.decide(_linear_scores.combine(Features.from_json(row["features"])))
            refused = row["keyword"] == "refused"
        else:
            verdict = _linear_scores.JUDGE.verdict("", row["response"])
            refused = keyword.verdict("", row["response"]) == "refused"
        judged = "refused" if refused else "complied" if verdict == "coherent" else verdict
        yield Reading(abs(row["alpha"]), judged, row["labels"][1], by_class=False)
    for row in load("readings.jsonl"):
        yield Reading(abs(row["alpha"]), row["judged"], row["label"], by_class=True)


def is_near(distance: float, center: float) -> bool:
    """Return whether a distance is from 0.05 below a center to less than 0.05 above it."""
    return -HALF_WIDTH <= round(distance - center, 6) < HALF_WIDTH


def share(chosen: list[Reading]) -> str:
    """Return how many labels agree with the class, and the other labels."""
    if not chosen:
        return "none"
    agreed = sum(reading.label == reading.judged for reading in chosen)
    others = Counter(reading.label for reading in chosen if reading.label != reading.judged)
    note = ", ".join(f"{n} {label}" for label, n in sorted(others.items()))
    return f"{agreed} of {len(chosen)}" + (f" ({note})" if note else "")


def report() -> str:
    """Return the section of RESULTS.md."""
    everything = list(readings())
    rows = []
    for center in CENTERS:
        for judged in CLASSES:
            near = [r for r in everything if r.judged == judged and is_near(r.distance, center)]
            at = [r for r in near if abs(r.distance - center) < 1e-9]
            few = f"only {len(at)} found" if len(at) < WANTED else str(len(at))
            drawn = [r for r in at if r.by_class]
            rows.append([f"{center:g}", judged, share([r for r in near if not r.by_class]), share(drawn), few])
    header = ["distance", "class by the judges", "reader agrees, band", "reader agrees, drawn by class", "read at it"]
    return "\n\n".join(
        [
            "## Responses read at 0.1, 0.2 and 0.3",
            f"`python -m benchmarks.readings`: class by the judges `keyword` and `degenerate` (version "
            f"{_linear_scores.JUDGE.version}, the text alone), and whether a language model that read the response "
            "without knowing it agrees; in parentheses, the labels that it gave instead. The third column holds "
            f"responses of the split {SPLIT} at distances from 0.05 below to less than 0.05 above; their share is "
            "that of the draw. The fourth holds responses at exactly this distance that were drawn by class from "
            "stored sweeps over random directions, to reach ten of each class; each share is that of its class.",
            table(header, rows),
        ]
    )


if __name__ == "__main__":
    section("readings", report())
