"""The model presets: which ones exist, and which of them have their weights on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models.resolve import locate_model, resolve_model

PLACEHOLDERS = ("local", "dummy")
"""Presets without weights of their own."""


def presets(config_dir: str | None = None) -> list[dict[str, Any]]:
    """Describe every preset that has weights.

    Keys: name, source, revision, parameters, dtype, gated, license, and path (None if the weights are not on this
    machine).
    """
    described = []
    for name in Presets(config_dir).options("model"):
        if name in PLACEHOLDERS:
            continue
        model = compose([f"model={name}"], config_dir).model
        path = locate_model(model)
        described.append(
            {
                "name": name,
                "source": "embedded" if model.embedded else model.hub or model.path,
                "revision": model.revision,
                "parameters": model.size.parameters,
                "dtype": model.dtype,
                "gated": model.gated,
                "license": model.license,
                "path": None if path is None else str(path),
            }
        )
    return described


def rows(presets: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows of a table of presets, as text.

    The columns are preset, source of the weights, parameters, dtype, gated, and whether this machine has the weights.
    """
    return [
        (
            preset["name"],
            preset["source"],
            f"{preset['parameters'] / 1e9:.2f} B" if preset["parameters"] else "?",
            preset["dtype"],
            "yes" if preset["gated"] else "",
            "yes" if preset["path"] else "",
        )
        for preset in presets
    ]


def fetch(name: str, overrides: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    """Resolve a preset, downloading it if necessary. Returns the fields of `ResolvedModel`. Raises UserError."""
    resolved = resolve_model(compose([f"model={name}", *overrides], config_dir).model)
    return vars(resolved) | {"path": str(resolved.path)}
