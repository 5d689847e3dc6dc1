"""Find numbers of a stored landscape that changed because a rule has a new version. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from orchestrator.analysis.landscape import combinations
from orchestrator.prompts.capability import SCORING_VERSION

REASONS: Mapping[str, tuple[str, str]] = {
    "n_correct": ("right answers", f"they are read by version {SCORING_VERSION} of their scoring (docs/capability.md)")
}
"""Column of a landscape that counts responses -> (what it counts, why its counts of the same responses may change)."""

_NODE = ("line", "alpha", "beta", "point_id")


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
            changed = change[change != 0]
            if len(changed):
                largest = max(changed.tolist(), key=abs)
                sentences.append(
                    f"{key.probe_set} under {key.system_prompt}: {name} changed at {len(changed)} of {len(pairs)} "
                    f"points, by up to {largest:+.1f} percentage points, because {reason}"
                )
    return list(dict.fromkeys(sentences))  # the judges of a set share its right answers
