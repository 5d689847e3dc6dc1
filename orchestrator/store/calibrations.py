"""The calibration of the judge `degenerate` that a user made for a study's model: calibration.json in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.store.files import MissingFileError, publish_json, read_json
from orchestrator.store.study import Study

FILE_NAME = "calibration.json"


def calibration_path(study: Study) -> Path:
    """Return the path of a study's calibration."""
    return study.root / FILE_NAME


def read_calibration(study: Study) -> dict[str, Any] | None:
    """Return a study's calibration as JSON. None if it has none. Raises DamagedFileError if it does not verify."""
    try:
        return read_json(calibration_path(study))
    except MissingFileError:
        return None


def write_calibration(study: Study, document: Mapping[str, Any]) -> None:
    """Write a study's calibration, which replaces the one before it."""
    publish_json(study.out, calibration_path(study), document)
