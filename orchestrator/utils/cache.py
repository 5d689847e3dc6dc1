"""The user's cache folder for downloaded and derived files that can be made again."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from orchestrator.utils.paths import expanded
from orchestrator.utils.private import make_private, share_like


def cache_dir() -> Path:
    """Return this user's cache folder: $SAFETY_LANDSCAPE_CACHE, or safety-landscape in $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("SAFETY_LANDSCAPE_CACHE"):
        return expanded(chosen).absolute()
    return expanded(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safety-landscape"


def write_json(path: Path, value: Any) -> bool:
    """Write a JSON file atomically, creating its folder if necessary. Return False if it cannot be written.

    Use it for caches only, because a failure raises no error.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        make_private(path.parent)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(value), encoding="utf-8")
        share_like(temporary, path.parent)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False
    return True
