"""Find numbers of stored results that changed because a rule or a definition has a new version. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from orchestrator.analysis.distances import changed_radii
from orchestrator.analysis.landscape import combinations
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.judges.degenerate import JUDGE as DEGENERATE
from orchestrator.prompts.capability import SCORING_VERSION

_JUDGED_AGAIN = (
    f"version {DEGENERATE.version} of the judge `degenerate` has judged them, with or without log-probabilities"
)
REASONS: Mapping[str, tuple[str, str]] = {
    "n_correct": ("right answers", f"they are read by version {SCORING_VERSION} of their scoring (docs/capability.md)"),
    "n_degenerate": ("degenerate successes", f"{_JUDGED_AGAIN} (docs/judges.md)"),
    "n_complied": (
        "complied responses",
        f"unclear ones are a class of their own now, and {_JUDGED_AGAIN} (docs/judges.md)",
    ),
}
"""Column of a landscape that counts responses -> (what it counts, why its counts of the same responses may change)."""


@dataclass(frozen=True)
class ScoreChange:
    """A number of a result in summary.json whose definition has changed since an earlier version.

    Attributes:
        path: Its place in the result, such as `visage.released`. It may name an interval, an object with low and high.
        name: Its name in sentences.
        reason: Why it may change: the end of a sentence, or the path of the field of the new result with the reason.
    """

    path: str
    name: str
    reason: str


SCORES = (
    ScoreChange("visage.paper", "VISAGE", "visage.reason"),
    ScoreChange("visage.released", "VISAGE as the published code computes it", "visage.released_reason"),
    ScoreChange("published", "the paper's VISAGE", "published_note"),
)

_NODE = ("line", "alpha", "beta", "point_id")


def changed_results(
    frame_before: pd.DataFrame, summary_before: Mapping[str, Any], frame: pd.DataFrame, summary: SweepSummary
) -> list[str]:
    """Return one sentence for each number that changed because a rule, a definition or a method has a new version.

    Args:
        frame_before: The landscape that is stored. It may lack columns, as those of earlier versions do.
        summary_before: The summary that is stored, as JSON. It may lack fields likewise.
        frame: The landscape of the same sweep, reduced again.
        summary: Its summary.
    """
    return [
        *changed_counts(frame_before, frame),
        *changed_scores(summary_before, summary),
        *changed_intervals(summary_before, summary),
        *changed_radii(summary_before, summary),
    ]


def changed_counts(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Return one sentence for each result whose counts changed although its responses did not.

    Points with more or fewer responses than before are left out, since new responses change counts too.

    Args:
        before: The landscape that is stored. It may lack columns, as those of earlier versions do.
        after: The landscape of the same sweep, reduced again.
    """
    sentences = []
    stored = dict(combinations(before))
    for key, rows in combinations(after):
        earlier = stored.get(key)
        if earlier is None:
            continue
        for column, (name, reason) in REASONS.items():
            if column not in earlier:
                continue
            pairs = rows.merge(earlier[[*_NODE, "n", column]], on=list(_NODE), suffixes=("", "_before"))
            pairs = pairs[(pairs["n"] == pairs["n_before"]) & pairs[column].notna() & pairs[f"{column}_before"].notna()]
            change = 100.0 * (pairs[column] - pairs[f"{column}_before"]).astype(float) / pairs["n"].astype(float)
            changed = change[change.notna() & (change != 0)]
            if len(changed):
                largest = max(changed.tolist(), key=abs)
                sentences.append(
                    f"{key.probe_set} under {key.system_prompt}: {name} changed at {len(changed)} of {len(pairs)} "
                    f"points, by up to {largest:+.1f} percentage points, because {reason}"
                )
    return list(dict.fromkeys(sentences))  # the judges of a set share its right answers


def changed_scores(before: Mapping[str, Any], after: SweepSummary) -> list[str]:
    """Return one sentence for each number of SCORES that changed in a result although its responses did not.

    Results with another number of prompts or of missing points than before are left out.

    Args:
        before: The summary that is stored, as JSON.
        after: The summary of the same sweep, reduced again.
    """
    sentences = []
    earlier = {ResultKey.from_json(result): result for result in before.get("results", ())}
    for result in after.results:
        stored, new = earlier.get(result.key), result.to_json()
        if stored is None or any(stored.get(name) != new[name] for name in ("prompts", "points_missing")):
            continue
        for change in SCORES:
            old, now = (_as_text(_at(values, change.path)) for values in (stored, new))
            if old != now:
                reason = _at(new, change.reason) or change.reason
                about = f"{result.probe_set} under {result.system_prompt}, judge {result.judge}"
                sentences.append(f"{about}: {change.name} changed from {old} to {now}: {reason}")
    return sentences


def _at(result: Mapping[str, Any], path: str) -> Any:
    """Return a value of a result as JSON. None if it lacks it."""
    value: Any = result
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _as_text(value: Any) -> str:
    """Return a number or an interval, rounded, as text."""
    if isinstance(value, Mapping):
        return f"{_as_text(value['low'])} to {_as_text(value['high'])}"
    return "undefined" if value is None else f"{value:.2f}"


def changed_intervals(before: Mapping[str, Any], after: SweepSummary) -> list[str]:
    """Return one sentence on the intervals of the primary result if their methods have a new version.

    Args:
        before: The stored summary, as JSON.
        after: The summary of the same sweep, reduced again.
    """
    version = before.get("intervals_version", 1)
    if version == after.intervals_version:
        return []
    over = (before.get("visage") or {}).get("over") or {}
    radius = before.get("basin") or {}
    now: Mapping[str, Any] = {} if after.visage.over is None else after.visage.over.to_json()
    pairs = [
        ("VISAGE over directions", over.get("directions"), now.get("directions")),
        ("VISAGE over probes", over.get("probes"), now.get("probes")),
        (
            "radius",
            {"low": radius.get("radius_low"), "high": radius.get("radius_high")},
            {"low": after.basin.radius_low, "high": after.basin.radius_high},
        ),
    ]
    changes = [f"{name} {_ends(old)}, now {_ends(new)}" for name, old, new in pairs if _ends(old) != _ends(new)]
    listed = f": {'; '.join(changes)}" if changes else ""
    return [
        f"intervals are computed by version {after.intervals_version} of their methods instead of {version} "
        f"(docs/statistics.md){listed}"
    ]


def _ends(interval: Mapping[str, Any] | None) -> str:
    """Return the ends of an interval as text."""
    low, high = ((interval or {}).get(end) for end in ("low", "high"))
    return " to ".join("unknown" if end is None else f"{end:.3g}" for end in (low, high))
