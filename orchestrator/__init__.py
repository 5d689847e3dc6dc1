"""Measure how safe a language model stays when its weights move.

`from orchestrator import Experiment, load_study, load_studies` measures and reads studies from Python; the command line
is `python -m orchestrator`. The names in `__all__` are the public API.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.analysis.live_points import MeasuredPoint
    from orchestrator.api.callback import MeasuredCheckpoint, SafetyLandscapeCallback
    from orchestrator.api.experiment import Experiment
    from orchestrator.api.studies import StoredStudy, load_studies, load_study
    from orchestrator.execution.run_counts import Progress
    from orchestrator.utils.errors import FailedTasksError, SessionLostError, UserError

__all__ = [
    "Experiment",
    "FailedTasksError",
    "MeasuredCheckpoint",
    "MeasuredPoint",
    "Progress",
    "SafetyLandscapeCallback",
    "SessionLostError",
    "StoredStudy",
    "UserError",
    "load_studies",
    "load_study",
]
_MODULES = {
    "Experiment": "api.experiment",
    "FailedTasksError": "utils.errors",
    "MeasuredCheckpoint": "api.callback",
    "MeasuredPoint": "analysis.live_points",
    "Progress": "execution.run_counts",
    "SafetyLandscapeCallback": "api.callback",
    "SessionLostError": "utils.errors",
    "StoredStudy": "api.studies",
    "UserError": "utils.errors",
    "load_studies": "api.studies",
    "load_study": "api.studies",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line's help does not wait for pandas."""
    if name not in _MODULES:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(importlib.import_module(f"orchestrator.{_MODULES[name]}"), name)
