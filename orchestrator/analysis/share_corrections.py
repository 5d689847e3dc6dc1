"""Correct a sweep's shares of degenerate responses with the calibration of its model."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Iterator
from importlib import resources

import numpy as np
import pandas as pd

from orchestrator.analysis.calibration import Calibration, CountedSuccesses, correct, why_not_applicable
from orchestrator.analysis.landscape import grid_points
from orchestrator.analysis.results.classes import CorrectedShare, SuccessClasses
from orchestrator.analysis.results.sweep import ResultSummary
from orchestrator.scoring.verdicts import degeneracy_id
from orchestrator.store.calibrations import read_calibration
from orchestrator.store.files import DamagedFileError
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import UserError

logger = logging.getLogger(__name__)


class ShareCorrections:
    """The calibrations that may apply to a sweep: its study's own, then those that this package contains."""

    def __init__(self, stored: StoredSweep) -> None:
        self._fingerprint = stored.study.info.fingerprint
        self._grid = stored.sweep.grid.to_json()
        self._degenerate_id = degeneracy_id(stored)
        self._calibrations = [*_own_calibration(stored), *packaged_calibrations()]

    def apply(self, result: ResultSummary, rows: pd.DataFrame, max_tokens: int) -> SuccessClasses | None:
        """Return a result's classes with the corrected share, or with the reason why there is none.

        Args:
            result: The result.
            rows: Its rows of the landscape.
            max_tokens: Length limit of its responses.
        """
        if result.classes is None:
            return None
        return dataclasses.replace(result.classes, corrected=self._correct(result, rows, max_tokens))

    def _correct(self, result: ResultSummary, rows: pd.DataFrame, max_tokens: int) -> CorrectedShare:
        reason = "no calibration of this model"
        for calibration in self._calibrations:
            about = (self._fingerprint, self._grid, result.judge, self._degenerate_id)
            inapplicable = why_not_applicable(calibration, *about)
            if inapplicable is None:
                return correct(calibration, _counted(rows, max_tokens))
            if calibration.fingerprint == self._fingerprint:
                reason = inapplicable
        return CorrectedShare(reason=reason)


def _counted(rows: pd.DataFrame, max_tokens: int) -> Iterator[CountedSuccesses]:
    """Yield the successes of each point on the grid."""
    points = grid_points(rows)
    distances = np.hypot(points["alpha"], points["beta"].fillna(0.0)).tolist()
    successes = (points["n"] - points["n_refused"]).tolist()
    for distance, n, called in zip(distances, successes, points["n_degenerate"].tolist(), strict=True):
        yield CountedSuccesses(distance, max_tokens, n, called)


@functools.cache
def packaged_calibrations() -> tuple[Calibration, ...]:
    """Return the calibrations that this package contains."""
    folder = resources.files("orchestrator").joinpath("data", "calibrations")
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.iterdir(), key=lambda path: path.name)]
    return tuple(Calibration.from_json(json.loads(text)) for text in texts)


def _own_calibration(stored: StoredSweep) -> list[Calibration]:
    """Return the study's own calibration, if it has one that can be read."""
    try:
        document = read_calibration(stored.study)
        return [] if document is None else [Calibration.from_json(document)]
    except (DamagedFileError, UserError, KeyError, TypeError, ValueError) as error:
        logger.warning("the study's calibration cannot be read (%s): `judge calibrate=FILE` makes it again", error)
        return []
