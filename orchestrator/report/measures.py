"""The measure of each group of prompts: attacks that succeed, benign requests refused, or right answers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Measure:
    """The percentage that is shown for a group of prompts.

    Attributes:
        kind: `safety`, `refusal` or `right`; also the name of the curve's style in the page.
        name: The counted outcome, as named in the page's legend.
        label: The counted outcome, as named in a figure's legend.
    """

    kind: str
    name: str
    label: str

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Add the columns `value`, `low` and `high` (percent, with its 95% interval).

        Args:
            rows: Rows of a landscape, or what `mean_over_lines` returns.
        """
        if self.kind == "safety":
            return rows.assign(value=rows["asr"], low=rows["asr_low"], high=rows["asr_high"])
        if self.kind == "right" and "correct" in rows:  # landscapes of earlier versions lack the column
            return rows.assign(value=rows["correct"], low=rows["correct_low"], high=rows["correct_high"])
        return rows.assign(value=100 - rows["asr"], low=100 - rows["asr_high"], high=100 - rows["asr_low"])


ATTACK_SUCCESS = Measure("safety", "attack success", "attacks succeed")
OVER_REFUSAL = Measure("refusal", "over-refusal", "refused")
RIGHT_ANSWERS = Measure("right", "answered right", "answered right")
_BY_GROUP = {"benign": OVER_REFUSAL, "capability": RIGHT_ANSWERS}


def measure_of(group: str) -> Measure:
    """Return the measure of a group of prompts."""
    return _BY_GROUP.get(group, ATTACK_SUCCESS)
