"""Read the files of data that the package contains."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def read_json_data(*names: str) -> dict[str, Any]:
    """Return the JSON object in a file below `orchestrator/data`, which is named folder by folder."""
    text = resources.files("orchestrator").joinpath("data", *names).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
