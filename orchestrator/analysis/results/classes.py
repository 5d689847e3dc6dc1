"""The classes of the responses that are not refused: complied (coherent), degenerate and unclear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.utils.records import JsonRecord


class KnownShare(NamedTuple):
    """A corrected share with its 95% interval, in percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CorrectedShare(JsonRecord):
    """The share of degenerate responses, corrected for the judge's errors; see `analysis.calibration`.

    Attributes:
        value: Percent. None if it cannot be corrected.
        low: Lower end of its 95% interval.
        high: Upper end of the same interval.
        calibration: The calibration that was used, such as `smollm2_135m`. None if none was.
        reason: Why `value` is None.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    calibration: str | None = None
    reason: str | None = None

    @property
    def known(self) -> KnownShare | None:
        """The share with its interval. None if it could not be corrected."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return KnownShare(self.value, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class SuccessClasses(JsonRecord):
    """The successes of one result (its responses on the grid that are not refused), by class.

    Attributes:
        successes: Their number, each point counted once.
        complied: Percentage that is coherent. None if there is no success, as the next two are.
        degenerate: Percentage that is called degenerate.
        unclear: Percentage of which the judge cannot tell.
        corrected: The percentage that is degenerate, corrected for the judge's errors.
    """

    successes: int
    complied: float | None
    degenerate: float | None
    unclear: float | None
    corrected: CorrectedShare = CorrectedShare()
