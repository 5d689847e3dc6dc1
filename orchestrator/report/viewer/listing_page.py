"""The templates of the list of sweeps, which the viewer serves and a bundle contains."""

from __future__ import annotations

import datetime
from pathlib import Path

import jinja2

from orchestrator.report.page.render import template_environment
from orchestrator.report.viewer.sweep_list import Listing

VIEWER_FOLDER = Path(__file__).parent


def listing_environment() -> jinja2.Environment:
    """Return the environment of the viewer's templates, with the filter `iso_time`."""
    environment = template_environment(VIEWER_FOLDER)
    environment.filters["iso_time"] = _iso_time
    return environment


def count_text(listing: Listing) -> str:
    """Return the number of sweeps as text, for browsers without JavaScript."""
    if listing.total is None or len(listing.rows) < listing.total:
        return f"{len(listing.rows):,} sweeps have been read so far; reload the page for the others."
    return f"{listing.total:,} sweeps" if listing.total else "No sweep yet: `python -m orchestrator run` creates one."


def _iso_time(seconds: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 to the second, in UTC."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).isoformat()
