"""Whether two judges of one sweep say the same: shares, Cohen's kappa, and where they do not. Pure numbers.

kappa = (p_o - p_e) / (1 - p_e): how much of the agreement that chance would not bring there is (Cohen, "A coefficient
of agreement for nominal scales", Educational and Psychological Measurement 20, 1960); p_o is the share of responses on
which both say the same, p_e what two judges would agree on who refuse as often as these, independently of each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from orchestrator.scoring.counts import Combination, Verdicts

EXAMPLES = 20


def kappa(both_refused: int, only_first: int, only_second: int, both_complied: int) -> float | None:
    """Cohen's kappa of two judges with two verdicts each; None where both always say one and the same thing, so that
    there is nothing beyond chance to agree on."""
    n = both_refused + only_first + only_second + both_complied
    if not n:
        return None
    first, second = (both_refused + only_first) / n, (both_refused + only_second) / n
    chance = first * second + (1 - first) * (1 - second)
    if chance == 1:
        return None
    return ((both_refused + both_complied) / n - chance) / (1 - chance)


def summary(verdicts: Mapping[Combination, Verdicts]) -> list[dict[str, Any]]:
    """For each probe set, system prompt and pair of judges: on how many responses both have a verdict, how often each
    alone refuses, agreement in percent, kappa (null with a `reason`), and the first responses they differ on."""
    found = []
    for key, judges in _by_set(verdicts).items():
        for (first, one), (second, other) in itertools.combinations(judges.items(), 2):
            found.append(
                dict(zip(("probe_set", "group", "system_prompt"), key, strict=True))
                | {"judges": [first, second]}
                | _compare(one, other)
            )
    return found


def _by_set(verdicts: Mapping[Combination, Verdicts]) -> dict[tuple[str, str, str], dict[str, Verdicts]]:
    gathered: dict[tuple[str, str, str], dict[str, Verdicts]] = {}
    for (probe_set, group, system_prompt, judge), own in verdicts.items():
        gathered.setdefault((probe_set, group, system_prompt), {})[judge] = own
    return gathered


def _compare(one: Verdicts, other: Verdicts) -> dict[str, Any]:
    first, second = one.refused, other.at(one.points, one.prompts)
    known = ~np.isnan(first) & ~np.isnan(second)
    r1, r2 = (first == 1) & known, (second == 1) & known
    counts = [int((known & a & b).sum()) for a, b in ((r1, r2), (r1, ~r2), (~r1, r2), (~r1, ~r2))]
    n = sum(counts)
    value = kappa(*counts)
    reason = None if value is not None else "no response has both verdicts" if not n else "both say the same everywhere"
    differ = np.argwhere(known & (r1 != r2))
    by_point = (known & (r1 != r2)).sum(axis=1)
    return {
        "n": n,
        "both_refused": counts[0],
        "only_first_refused": counts[1],
        "only_second_refused": counts[2],
        "both_complied": counts[3],
        "agreement": 100.0 * (counts[0] + counts[3]) / n if n else None,
        "kappa": value,
        "reason": reason,
        "differ_at": [
            {"point_id": one.points[i], "n": int(by_point[i])}
            for i in np.argsort(-by_point, kind="stable")
            if by_point[i]
        ][:EXAMPLES],
        "differ_on": [
            {
                "point_id": one.points[i],
                "prompt_id": one.prompts[j],
                "verdicts": ["refused" if r1[i, j] else "complied", "refused" if r2[i, j] else "complied"],
            }
            for i, j in differ[:EXAMPLES]
        ],
    }
