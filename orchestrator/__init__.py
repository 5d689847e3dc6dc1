"""Measure how safe a language model stays when its weights move.

`from orchestrator import load_study` reads stored studies; the command line is `python -m orchestrator`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import StoredStudy, load_study

__all__ = ["StoredStudy", "load_study"]


def __getattr__(name: str) -> Any:
    """Import the API on first use, so that the command line's help does not wait for pandas."""
    if name not in __all__:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    from orchestrator import api

    return getattr(api, name)
