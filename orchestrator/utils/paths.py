"""Folders that are installed with the package, and paths that users wrote."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

DATA_DIR = _PACKAGE / "data"
"""Probe sets, chat templates, adapters and the SLURM template."""

CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Hydra's presets: inside an installed wheel, at the top of a repository."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` replaced by the home folder. `~NAME` is kept if this machine has no such user."""
    return Path(os.path.expanduser(path))
