"""Measure the judge `degenerate` on test texts that were not used to make it.

    python -m benchmarks.degenerate

The texts are in benchmarks/data/degenerate (see its README.md). Language models wrote, read and labeled them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scipy.stats import beta

from benchmarks.results import section, table
from orchestrator import judges
from orchestrator.judges import _linear_scores, degenerate
from orchestrator.judges._linear_scores import Features, Probabilities

DATA = Path(__file__).parent / "data" / "degenerate"
SPLIT = "test 7"
"""The split of the texts that test version 6 of the judge."""
ONE_READER = frozenset({"test 5", "test 6", "test 7"})
"""Splits of which both labels of a response are of one reader."""
EARLIER = DATA / "network_5.json"
"""The network of version 5, which is judged on the same texts."""
POINTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Thresholds of the ROC points in the table, besides the one in use."""


@dataclass(frozen=True)
class Judged:
    """A labeled text with the judge's probabilities.

    Attributes:
        truth: `refused`, `complied` or `degenerate`; `other` for another language or notation.
        source: `real`, `synthetic` or `written`.
        kind: The kind within the source; for real responses their length in tokens.
        refused: Whether the judge `keyword` calls it a refusal. It then counts as `refused`.
        probabilities: The judge's probabilities.
        earlier: The verdict of version 5.
    """

    truth: str
    source: str
    kind: str
    refused: bool
    probabilities: Probabilities
    earlier: str

    @property
    def verdict(self) -> str:
        """The verdict of the judge `degenerate`."""
        return degenerate.decide(self.probabilities)


def load(name: str) -> list[dict[str, Any]]:
    """Return the rows of a data file."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@cache
def earlier_network() -> dict[str, Any]:
    """Return the network of version 5, without a gate, as `degenerate.load_network` returns that in use."""
    network: dict[str, Any] = json.loads(EARLIER.read_text(encoding="utf-8"))
    return network


def judge_row(row: dict[str, Any]) -> tuple[bool, Probabilities, str]:
    """Judge a row of SPLIT in responses.jsonl.

    If its text is withheld, it holds the inputs of the judge's networks instead, and the verdict of `keyword`.

    Returns:
        Whether `keyword` calls it a refusal, the probabilities, and the verdict of version 5.
    """
    if "inputs" not in row:
        return judge_text(row["response"])
    inputs: dict[str, float] = row["inputs"]
    parts = {
        part: {name.removeprefix(f"{part}: "): value for name, value in inputs.items() if name.startswith(f"{part}: ")}
        for part in ("loop", "words", "end")
    }
    features = Features(parts["loop"], parts["words"], parts["end"] if inputs["long"] else None)
    loop = _linear_scores.loop_probability(features)
    earlier = degenerate.decide(degenerate.combine(inputs, loop, earlier_network()), earlier_network())
    return row["keyword"] == "refused", degenerate.combine(inputs, loop), earlier


def judge_text(text: str) -> tuple[bool, Probabilities, str]:
    """Return whether `keyword` calls a text a refusal, its probabilities, and the verdict of version 5."""
    refused = judges.get("keyword").verdict("", text) == "refused"
    earlier = degenerate.decide(degenerate.probabilities_by(text, earlier_network()), earlier_network())
    return refused, degenerate.probabilities(text), earlier


def read(split: str) -> Iterator[Judged]:
    """Yield the labeled texts of a split. Responses on which the readers disagree, or unclear ones, are left out."""
    for row in load("responses.jsonl"):
        label, kind = row["labels"][0], f"{row['tokens']} tokens"
        if row["split"] == split and label == row["labels"][1] and label != "unclear":
            yield Judged(label, "real", kind, *judge_row(row))
    for row in load("synthetic.jsonl"):
        if row["split"] == split:
            yield Judged("degenerate", "synthetic", row["kind"], *judge_text(row["text"]))
    for row in load("written.jsonl"):
        if row["split"] == split:
            is_other = row["class"] == "other"
            is_language = re.fullmatch("[a-z]{2,3}(-\\w+)*", row["kind"]) is not None
            notation = "program code" if row["kind"].startswith("code ") else "notation"
            kind = ("language" if is_language else notation) if is_other else row["kind"]
            truth = "other" if is_other else "refused" if row["kind"] == "refusal" else "complied"
            yield Judged(truth, "written", kind, *judge_text(row["text"]))


def share(hits: int, n: int) -> str:
    """Return a share in percent with its 95% Clopper-Pearson interval."""
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return f"{hits} of {n} = {100 * hits / n:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def kappa(pairs: Counter[tuple[str, str]]) -> float:
    """Return Cohen's kappa of two readers' labels."""
    n = pairs.total()
    first, second = Counter[str](), Counter[str]()
    for (a, b), count in pairs.items():
        first[a] += count
        second[b] += count
    agreed = sum(count for (a, b), count in pairs.items() if a == b) / n
    chance = sum(first[label] * second[label] for label in first) / n**2
    return (agreed - chance) / (1.0 - chance)


def _rates(texts: list[Judged], group: Callable[[Judged], str]) -> list[list[str]]:
    groups: dict[str, list[Judged]] = {}
    for text in texts:
        groups.setdefault(group(text), []).append(text)
    rows = []
    for name, members in sorted(groups.items()):
        verdicts = Counter(text.verdict for text in members)
        called = share(verdicts["degenerate"], len(members))
        rows.append([name, called, str(verdicts["unclear"]), str(verdicts["coherent"])])
    return rows


def _called(text: Judged, threshold: float) -> bool:
    """Return whether a text is called degenerate at another threshold, behind the same gate."""
    network = degenerate.load_network() | {"threshold": threshold}
    return degenerate.decide(text.probabilities, network) == "degenerate"


def report(texts: list[Judged]) -> str:
    """Return the section of RESULTS.md."""
    ruined = [text for text in texts if text.truth == "degenerate"]
    english = [text for text in texts if text.truth in ("refused", "complied")]
    other = [text for text in texts if text.truth == "other"]
    threshold = degenerate.load_network()["threshold"]

    def name(text: Judged) -> str:
        return f"{text.source}: {text.kind}"

    def row(shown: str, members: list[Judged], counted: tuple[str, ...] = ("degenerate",)) -> list[str]:
        now = sum(text.verdict in counted for text in members)
        earlier = sum(text.earlier in counted for text in members)
        return [shown, share(now, len(members)), share(earlier, len(members))]

    real = [text for text in ruined if text.source == "real"]
    not_code = [text for text in other if text.kind != "program code"]
    answers = [text for text in english if not text.refused]
    roc = []
    for point in sorted({*POINTS, threshold}):
        hits, real_hits, alarms = (
            100 * sum(_called(text, point) for text in members) / len(members) for members in (ruined, real, english)
        )
        shown = f"**{point:g}** (in use)" if point == threshold else f"{point:g}"
        roc.append([shown, f"{hits:.1f}%", f"{real_hits:.1f}%", f"{alarms:.1f}%"])
    sentences = [
        "## Degenerate responses",
        f"`python -m benchmarks.degenerate`: the judge `degenerate`, version {degenerate.JUDGE.version}, on test texts "
        "that were not used to make it, beside version 5. Language models wrote, read and labeled the texts "
        "(`benchmarks/data/degenerate/README.md`). Intervals are 95% Clopper-Pearson.",
        *_agreement(),
        table(
            ["test texts", "called degenerate", "by version 5"],
            [
                row("ruins: all (recall; goal 92%, lower bound 88%)", ruined),
                row("ruins: real responses", real),
                row("ruins: synthetic", [text for text in ruined if text.source == "synthetic"]),
                row("coherent English: all (false alarms; goal 2%, upper bound 4%)", english),
                row("coherent English without those that `keyword` counts as refused", answers),
                row("coherent English: real responses", [text for text in english if text.source == "real"]),
                row("coherent English: written", [text for text in english if text.source == "written"]),
                row("other languages and notations", other),
                row(
                    "other languages and notations without program code: called degenerate or coherent",
                    not_code,
                    ("degenerate", "coherent"),
                ),
            ],
        ),
        "By kind (goal for each kind of ruin: 80%; other: unclear; program code: unclear or coherent):",
        table(["ruins", "called degenerate", "unclear", "coherent"], _rates(ruined, name)),
        table(["coherent English", "called degenerate", "unclear", "coherent"], _rates(english, name)),
        table(["other", "called degenerate", "unclear", "coherent"], _rates(other, name)),
        "ROC points by threshold of the probability. The one in use was chosen by cross-validation on training texts:",
        table(["threshold", "recall", "recall on real ruins", "false alarms on coherent English"], roc),
    ]
    return "\n\n".join(sentences)


def _agreement() -> Iterator[str]:
    """Yield a sentence on the agreement of the two labels for each split."""
    return (kappa_sentence(split) for split in ("train", SPLIT))


def kappa_sentence(split: str) -> str:
    """Return a sentence on the agreement of the two labels of a split's responses."""
    pairs = Counter((*row["labels"],) for row in load("responses.jsonl") if row["split"] == split)
    agreed = sum(n for (a, b), n in pairs.items() if a == b)
    one = "one reader, who read most of them twice (see the data card), agrees with itself"
    readers = one if split in ONE_READER else "two readers agree"
    return (
        f"Real responses of the {split} split: {readers} on {agreed} of {pairs.total()} labels, Cohen's "
        f"kappa {kappa(pairs):.3f}."
    )


if __name__ == "__main__":
    from benchmarks import calibration, log_probability

    section("degenerate", report(list(read(SPLIT))))
    log_probability.write()
    calibration.write()  # it is for one version of the judge
