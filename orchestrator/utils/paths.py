"""Folders that are installed with the package, and paths that users wrote."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.utils.errors import UserError

_PACKAGE = Path(__file__).parents[1]

DATA_DIR = _PACKAGE / "data"
"""Probe sets, chat templates, adapters and the SLURM template."""

CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Hydra's presets: inside an installed wheel, at the top of a repository."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` replaced by the home folder. `~NAME` is kept if this machine has no such user."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def writing(field: str, path: Path) -> Iterator[None]:
    """Create the folder of a file that the user named, and let the body write the file.

    Args:
        field: The option that named it.
        path: The file.

    Raises:
        UserError: (`field`) The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(field, path, f"cannot be written ({error.strerror or error}): name another file") from error
