"""What the page of a sweep shows while its adaptive grid refines."""

from __future__ import annotations

import pandas as pd

from orchestrator.analysis.inferred import add_inferred
from orchestrator.analysis.results.sweep import AdaptiveSummary
from orchestrator.store.sweep_folder import StoredSweep


def progress(adaptive: AdaptiveSummary | None) -> str:
    """Return how many points are measured and how many visits are saved so far. Empty unless a grid refines."""
    if adaptive is None or adaptive.complete:
        return ""
    waiting = adaptive.points - adaptive.measured - adaptive.inferred
    return (
        f"measured {adaptive.measured} of {adaptive.points} points, {waiting} under way or waiting, "
        f"{adaptive.inferred} visits saved so far"
    )


def surface(stored: StoredSweep, landscape: pd.DataFrame, adaptive: AdaptiveSummary | None) -> pd.DataFrame | None:
    """Return the landscape for the charts while a grid refines: points under way or waiting are inferred too.

    Without them, the surface would have holes wherever the grid is about to be refined. None unless a grid refines.
    """
    if adaptive is None or adaptive.complete:
        return None
    set_ids = {p.names: p.id for p in stored.pooled.sets}
    return add_inferred(landscape, stored.sweep.grid, set_ids, stored.pooled.keys(stored.generations))
