"""Probe sets of installed packages: entry points of the group ENTRY_POINTS.

An entry point names a mapping PROBES with the options of a preset in `conf/probes`; `path` is a file of the package.
Prompt sets are identified by their texts, so neither the package's name nor its version is in an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from orchestrator.config.schema import ProbesConfig
from orchestrator.utils import plugins
from orchestrator.utils.errors import UserError, did_you_mean

ENTRY_POINTS = "safety_landscape.probes"


def names() -> list[str]:
    """Return the names of the probe sets of installed packages, sorted."""
    return sorted(plugins.installed(ENTRY_POINTS))


def load(name: str) -> dict[str, Any]:
    """Return the options of a probe set of an installed package. Raises UserError if the package cannot be used."""
    plugin = plugins.load_installed(ENTRY_POINTS, name, "PROBES")
    field, options = f"entry point {name}", plugin.value
    if not isinstance(options, Mapping) or not isinstance(options.get("path"), str | Path):
        remedy = "PROBES is no mapping with a path: write PROBES = {'path': FILE, 'group': 'harmful', ...}"
        raise UserError(field, plugin.origin, remedy)
    known = {option.name for option in fields(ProbesConfig)}
    for key in options:
        if key not in known:
            remedy = f"PROBES has {key!r}, which is no option of probes{did_you_mean(str(key), known)}"
            raise UserError(field, plugin.origin, remedy)
    return {"name": name, **options, "path": str(options["path"])}
