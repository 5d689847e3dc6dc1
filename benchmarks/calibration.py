"""Count how often the judge `degenerate` is right about the embedded model, and how often corrected shares are.

    python -m benchmarks.calibration

It writes the calibration that the package contains, from the real responses of the test split, which were not used to
make the judge (benchmarks/data/degenerate/README.md), and the coverage of corrected shares into RESULTS.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import log_probability
from benchmarks.degenerate import SPLIT, judge_row, load
from benchmarks.results import section, table
from orchestrator import judges
from orchestrator.analysis.calibration import (
    Calibration,
    CalibrationStratum,
    CountedSuccesses,
    LabeledResponse,
    correct,
    make_strata,
)
from orchestrator.judges import _linear_scores, _log_probability, degenerate
from orchestrator.judges._linear_scores import Features

NAME = "smollm2_135m"
FINGERPRINT = "884df66b5d54be53"
"""Fingerprint of the embedded model, as in study.json."""
FOLDER = Path(__file__).parents[1] / "orchestrator" / "data" / "calibrations"
SEED = 16


def read_successes(splits: Collection[str]) -> Iterator[tuple[dict[str, Any], LabeledResponse]]:
    """Yield the real responses that `keyword` does not call refused and on whose class the readers agree.

    Those of the split that tests the current judge of texts are judged by it, those of earlier splits by version 4.
    """
    for row in load("responses.jsonl"):
        label = row["labels"][0]
        if row["split"] not in splits or label != row["labels"][1] or label == "unclear":
            continue
        if row["split"] == SPLIT:
            is_refused, probabilities, _ = judge_row(row)
            verdict = degenerate.decide(probabilities)
        elif "features" in row:
            verdict = _linear_scores.decide(_linear_scores.combine(Features.from_json(row["features"])))
            is_refused = row["keyword"] == "refused"
        else:
            verdict = _linear_scores.JUDGE.verdict("", row["response"])
            is_refused = judges.get("keyword").verdict("", row["response"]) == "refused"
        if not is_refused:
            distance, called = abs(row["alpha"]), verdict == "degenerate"
            yield row, LabeledResponse(distance, row["tokens"], label == "degenerate", called)


def labeled_share(successes: Mapping[float, int], group: str, tokens: int) -> tuple[float, float, float]:
    """Return the share of degenerate responses by the labels alone, with its 95% interval, in percent.

    The labels of each |alpha|, of both splits, are weighted with a sweep's own number of successes there. No verdict of
    the judge `degenerate` is used, so this checks its corrected share. The responses are those of other directions.

    Args:
        successes: The sweep's successes by |alpha|. Those at an |alpha| without labels are left out.
        group: The group of prompts whose labels count.
        tokens: Length limit of the responses.
    """
    ruined, n = Counter[float](), Counter[float]()
    for row, response in read_successes(("train", "test")):
        if (row["group"], row["tokens"]) == (group, tokens):
            n[response.distance] += 1
            ruined[response.distance] += response.degenerate
    weights = {distance: count for distance, count in successes.items() if n[distance]}
    total, value, variance = sum(weights.values()), 0.0, 0.0
    for distance, count in weights.items():
        value += count / total * ruined[distance] / n[distance]
        padded = (ruined[distance] + 0.5) / (n[distance] + 1)
        variance += (count / total) ** 2 * padded * (1 - padded) / (n[distance] + 1)
    half = 1.96 * variance**0.5
    return 100 * value, 100 * max(value - half, 0.0), 100 * min(value + half, 1.0)


def read_combined() -> Iterator[LabeledResponse]:
    """Yield the responses of `read_successes` of SPLIT, called degenerate by text and log-probability."""
    called = {pair.id: pair.combined == "degenerate" for pair in log_probability.read()}
    for row, response in read_successes((SPLIT,)):
        yield dataclasses.replace(response, called=called[row["id"]])


def embedded_calibrations() -> dict[Path, Calibration]:
    """Return the calibrations of the embedded model by file: of the text alone, and with log-probabilities."""
    by_text = Calibration(
        name=NAME,
        fingerprint=FINGERPRINT,
        norm="layer",
        degenerate_id=degenerate.JUDGE.id,
        degenerate_version=degenerate.JUDGE.version,
        judge="keyword",
        source=f"benchmarks/data/degenerate, split {SPLIT}: labeled by a language model",
        strata=make_strata(response for _, response in read_successes((SPLIT,))),
    )
    combined = dataclasses.replace(
        by_text,
        name=f"{NAME}_with_log_probability",
        degenerate_id=_log_probability.JUDGE.id,
        strata=make_strata(read_combined()),
    )
    return {FOLDER / f"{calibration.name}.json": calibration for calibration in (by_text, combined)}


def coverage(
    case: tuple[list[float], list[float], list[float], list[int], list[int]], sweeps: int = 2000, seed: int = SEED
) -> tuple[float, float]:
    """Return how often the 95% interval covers the true share, and its mean width, both in percent.

    Args:
        case: True sensitivity, specificity and share of degenerate responses by stratum, then the number of the
            sweep's successes and of labels by stratum.
        sweeps: Number of simulated sweeps, each with labels of its own.
        seed: Seed of the random numbers.
    """
    sensitivity, specificity, share, n, labels = (np.array(column) for column in case)
    rng = np.random.default_rng(seed)
    ruined = rng.binomial(labels, share, (sweeps, len(n)))
    found, passed = rng.binomial(ruined, sensitivity), rng.binomial(labels - ruined, specificity)
    called = rng.binomial(n, share * sensitivity + (1 - share) * (1 - specificity), (sweeps, len(n)))
    truth = 100 * (n * share).sum() / n.sum()
    covered, widths = 0, []
    for i in range(sweeps):
        strata = tuple(
            CalibrationStratum(
                low=k / 10,
                high=(k + 1) / 10,
                max_tokens=32,
                found=int(found[i, k]),
                missed=int(ruined[i, k] - found[i, k]),
                passed=int(passed[i, k]),
                alarms=int(labels[k] - ruined[i, k] - passed[i, k]),
            )
            for k in range(len(n))
        )
        calibration = Calibration(
            name="", fingerprint="", norm="", degenerate_id="", degenerate_version=1, judge="", source="", strata=strata
        )
        counted = [CountedSuccesses((k + 0.5) / 10, 32, int(n[k]), int(called[i, k])) for k in range(len(n))]
        corrected = correct(calibration, counted)
        if corrected.low is not None and corrected.high is not None:
            covered += corrected.low - 1e-9 <= truth <= corrected.high + 1e-9
            widths.append(corrected.high - corrected.low)
    return 100 * covered / sweeps, float(np.mean(widths))


CASES: dict[str, tuple[list[float], list[float], list[float], list[int], list[int]]] = {
    "like the embedded model": (
        [0.9, 0.97, 0.85, 0.95],
        [0.97, 0.99, 0.98, 0.98],
        [0.03, 0.2, 0.6, 0.98],
        [10, 40, 60, 560],
        [63, 36, 19, 87],
    ),
    "a judge that misses 30 to 50%": (
        [0.5, 0.6, 0.65, 0.7],
        [0.99] * 4,
        [0.03, 0.2, 0.6, 0.98],
        [10, 40, 60, 560],
        [63, 36, 19, 87],
    ),
    "15 to 20% false alarms": ([0.9, 0.9, 0.9, 0.95], [0.8, 0.85, 0.8, 0.8], [0.1, 0.3, 0.6, 0.9], [100] * 4, [40] * 4),
    "even shares": ([0.9, 0.97, 0.85, 0.95], [0.97, 0.99, 0.98, 0.98], [0.1, 0.3, 0.6, 0.9], [100] * 4, [40] * 4),
    "20 labels a stratum": (
        [0.9, 0.9, 0.85, 0.95],
        [0.97, 0.99, 0.98, 0.98],
        [0.1, 0.3, 0.6, 0.9],
        [100] * 4,
        [20] * 4,
    ),
    "45 successes": (
        [0.9, 0.97, 0.85, 0.95],
        [0.97, 0.99, 0.98, 0.98],
        [0.03, 0.2, 0.6, 0.98],
        [2, 5, 8, 30],
        [63, 36, 19, 87],
    ),
    "few ruins": (
        [0.9, 0.97, 0.85, 0.95],
        [0.97, 0.99, 0.98, 0.98],
        [0.01, 0.02, 0.1, 0.5],
        [200] * 4,
        [63, 36, 19, 87],
    ),
    "nearly all ruined": (
        [0.9, 0.95, 0.95, 0.97],
        [0.97, 0.99, 0.98, 0.98],
        [0.9, 0.95, 1.0, 1.0],
        [100, 200, 300, 600],
        [63, 36, 19, 87],
    ),
    "a perfect judge": ([1.0] * 4, [1.0] * 4, [0.02, 0.2, 0.6, 1.0], [10, 40, 60, 560], [63, 36, 19, 87]),
}
"""Name -> true sensitivity, specificity and share by stratum, then successes and labels by stratum."""


def report(calibrations: Iterable[Calibration]) -> str:
    """Return the section of RESULTS.md."""
    simulated, coverages = [], []
    for name, case in CASES.items():
        covered, width = coverage(case)
        coverages.append(covered)
        simulated.append([name, f"{covered:.1f}%", f"{width:.1f}"])
    by_text, combined = (_rates(calibration) for calibration in calibrations)
    return "\n\n".join(
        [
            "## Corrected share of degenerate responses",
            f"`python -m benchmarks.calibration`: the judge `degenerate`, version {degenerate.JUDGE.version}, on "
            f"the embedded model's responses of the split {SPLIT} that `keyword` does not call refused.",
            by_text,
            f"With the log-probabilities of uncertain texts, version {_log_probability.JUDGE.version} of that rule, on "
            "the same responses:",
            combined,
            "How often the 95% interval of the corrected share covers the true share, in 2,000 simulated sweeps a row, "
            "each with labels of its own:",
            table(["sweeps", "coverage (goal: 93%)", "mean width, %"], simulated),
            f"Lowest row: {min(coverages):.1f}%. Highest row: {max(coverages):.1f}%.",
        ]
    )


def _rates(calibration: Calibration) -> str:
    """Return the table of a calibration's strata."""
    rows = []
    for stratum in calibration.strata:
        ruined, others = stratum.found + stratum.missed, stratum.passed + stratum.alarms
        place = f"{stratum.low:g} to {stratum.high:g}"
        rates = [f"{stratum.found} of {ruined}", f"{stratum.alarms} of {others}"]
        rows.append([str(stratum.max_tokens), place, *rates])
    return table(["tokens", "distance", "ruins called degenerate", "others called degenerate"], rows)


def write() -> None:
    """Write the package's calibrations and the section of RESULTS.md."""
    calibrations = embedded_calibrations()
    FOLDER.mkdir(exist_ok=True)
    for path, calibration in calibrations.items():
        path.write_text(json.dumps(calibration.to_json(), indent=1) + "\n", encoding="utf-8")
    section("calibration", report(calibrations.values()))


if __name__ == "__main__":
    write()
