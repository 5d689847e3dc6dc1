"""The model presets: which there are, and where their weights lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models import resolve as models

PLACEHOLDERS = ("local", "dummy")  # presets without weights of their own


def presets(config_dir: str | None = None) -> list[dict[str, Any]]:
    """Every preset with weights: name, source, revision, parameters, dtype, gated, license, and its folder if here."""
    found = []
    for name in Presets(config_dir).options("model"):
        if name in PLACEHOLDERS:
            continue
        model = compose([f"model={name}"], config_dir).model
        place = models.locate(model)
        found.append(
            {
                "name": name,
                "source": "embedded" if model.embedded else model.hub or model.path,
                "revision": model.revision,
                "parameters": model.size.parameters,
                "dtype": model.dtype,
                "gated": model.gated,
                "license": model.license,
                "path": None if place is None else str(place),
            }
        )
    return found


def rows(presets: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """For people: preset, weights, parameters, dtype, gated, here."""
    return [
        (
            p["name"],
            p["source"],
            f"{p['parameters'] / 1e9:.2f} B" if p["parameters"] else "?",
            p["dtype"],
            "yes" if p["gated"] else "",
            "yes" if p["path"] else "",
        )
        for p in presets
    ]


def fetch(name: str, overrides: Sequence[str], config_dir: str | None, out: TextIO) -> dict[str, Any]:
    """Fetch a preset's weights unless they are here; what and where they are. Raises UserError."""
    found = models.resolve(compose([f"model={name}", *overrides], config_dir).model, out)
    return vars(found) | {"path": str(found.path)}
