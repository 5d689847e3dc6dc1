"""Presets: YAML files below `conf/` and below the user's own configuration folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.paths import CONF_DIR

GROUPS = ("model", "grid", "probes", "system_prompt", "engine", "cluster", "experiment")
"""The folders of `conf/` from which an override `GROUP=NAME` chooses a file."""


class Presets:
    """Preset files of the project and of the user's own folder, which is searched first.

    Args:
        folder: The user's own folder (`--config-dir`), or None.

    Raises:
        UserError: `folder` does not exist.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.user_folder = folder
        self.folders = [CONF_DIR]
        if folder is not None:
            path = Path(folder).expanduser().absolute()
            if not path.is_dir():
                remedy = "there is no such folder: name one that holds model/, grid/, ..."
                raise UserError("--config-dir", folder, remedy)
            self.folders.insert(0, path)

    def options(self, group: str) -> list[str]:
        """Return the sorted names of a group's presets. `group` is a folder of `conf/`, such as `model` or `recipe`."""
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")})

    def file(self, group: str, name: str, field: str = "") -> Path:
        """Return the file of a preset.

        Raises:
            UserError: There is no such preset. The message names `field`, or the group if `field` is empty.
        """
        known = self.options(group)
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(field or group, name, f"there is no such {group}{hint} (there are: {', '.join(known)})")
        return next(path for folder in self.folders if (path := folder / group / f"{name}.yaml").is_file())

    def read(self, group: str, name: str, schema: type[Any], field: str) -> Any:
        """Return a preset as an instance of its schema class. Raises UserError, naming `field`, if there is none."""
        from omegaconf import OmegaConf

        loaded = OmegaConf.load(self.file(group, name, field))
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), loaded))

    def experiment_sets(self, experiment: str, group: str) -> bool:
        """Return whether an experiment chooses a preset of that group."""
        from omegaconf import OmegaConf

        written = OmegaConf.to_container(OmegaConf.load(self.file("experiment", experiment)))
        assert isinstance(written, dict)
        return any(f"override /{group}" in entry for entry in written.get("defaults", []))
