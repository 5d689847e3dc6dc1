"""Presets: YAML files below `conf/` and below the user's own configuration folder, and probe sets of packages."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import probe_plugins
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.parsing import FormatError, read_yaml, read_yaml_scalars
from orchestrator.utils.paths import CONF_DIR, expanded
from orchestrator.utils.subprocesses import first_line

_GLOBAL = re.compile(r"^\s*#\s*@package\s+_global_\s*$", re.MULTILINE)
"""The line by which a preset of any group may set options of all."""

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
            path = expanded(folder).absolute()
            if not path.is_dir():
                remedy = "there is no such folder: name one that holds model/, grid/, ..."
                raise UserError("--config-dir", folder, remedy)
            self.folders.insert(0, path)

    def options(self, group: str) -> list[str]:
        """Return the sorted names of a group's presets. `group` is a folder of `conf/`, such as `model` or `recipe`."""
        files = {path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")}
        return sorted(files.union(probe_plugins.names()) if group == "probes" else files)

    def is_plugin(self, group: str, name: str) -> bool:
        """Return whether a preset is a probe set of an installed package, and no file."""
        if group != "probes" or name not in probe_plugins.names():
            return False
        return not any((folder / group / f"{name}.yaml").is_file() for folder in self.folders)

    def with_hub_id(self, hub: str) -> str | None:
        """Return the model preset whose weights have this id on the hub, upper or lower case; None if there is none."""
        for name in self.options("model"):
            model = self.load("model", name).get("model")
            if isinstance(model, dict) and str(model.get("hub")).lower() == hub.lower():
                return name
        return None

    def check_exists(self, group: str, name: str, field: str = "") -> None:
        """Check that there is a preset.

        Raises:
            UserError: There is no such preset. The message names `field`, or the group if `field` is empty.
        """
        known = self.options(group)
        if name not in known:
            hint = did_you_mean(name, known)
            for path in (path for folder in self.folders for path in (folder / group).glob("*.yml")):
                if path.stem == name:
                    hint = f": rename {path} to {name}.yaml"
            raise UserError(field or group, name, f"there is no such {group}{hint} (there are: {', '.join(known)})")

    def file(self, group: str, name: str, field: str = "") -> Path:
        """Return the file of a preset. Raises UserError if there is no such preset; see `check_exists`."""
        self.check_exists(group, name, field)
        return next(path for folder in self.folders if (path := folder / group / f"{name}.yaml").is_file())

    def read(self, group: str, name: str, schema: type[Any], field: str) -> Any:
        """Return a preset as an instance of its schema class.

        Raises:
            UserError: There is none of that name, which names `field`, or its file is not such a preset.
        """
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        loaded = self.load(group, name, field)
        try:
            return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), loaded))
        except OmegaConfBaseException as error:
            remedy = f"does not fit its options ({first_line(error)}): correct it"
            preset = name if self.is_plugin(group, name) else self.file(group, name, field)
            raise UserError("preset", preset, remedy) from error

    def load(self, group: str, name: str, field: str = "") -> dict[str, Any]:
        """Return the content of a preset. Raises UserError if there is none, or its file is not YAML."""
        if self.is_plugin(group, name):
            return probe_plugins.load(name)
        file = self.file(group, name, field)
        try:
            return read_yaml(file)
        except FormatError as error:
            raise UserError("preset", file, f"{error}: correct it") from error
        except OSError as error:
            raise UserError("preset", file, f"cannot be read ({error.strerror or error})") from error

    def check(self, overrides: Iterable[tuple[str, str]], kinds: Mapping[str, Any]) -> None:
        """Check the files that overrides choose, and those that these files choose in turn.

        Args:
            overrides: Pairs (group, name). Other overrides are ignored.
            kinds: The type annotation of every option, by dotted name.

        Raises:
            UserError: A file is not YAML, or YAML reads a text in it as something else, as it reads 12:00:00 as 43200.
        """
        for group, name in self.chosen(overrides):
            if not self.is_plugin(group, name):
                file = self.file(group, name)
                _check_header(file)
                _check_texts(file, self.prefix(group, name), kinds)

    def chosen(self, overrides: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Yield (group, name) of the presets that overrides choose, and of those that these choose in turn."""
        waiting, seen = list(overrides), set[tuple[str, str]]()
        while waiting:
            group, name = waiting.pop()
            if (group, name) in seen or group not in GROUPS or name not in self.options(group):
                continue
            seen.add((group, name))
            waiting += self._defaults(group, name)
            yield group, name

    def prefix(self, group: str, name: str) -> str:
        """Return the beginning of the dotted names of a preset's options: "probes.", or "" if its file names all."""
        if group == "experiment":
            return ""
        is_global = not self.is_plugin(group, name) and _GLOBAL.search(self.file(group, name).read_text("utf-8"))
        return "" if is_global else f"{group}."

    def _defaults(self, group: str, name: str) -> Iterator[tuple[str, str]]:
        """Yield (group, name) of the presets that a preset chooses."""
        defaults = self.load(group, name).get("defaults")
        for entry in defaults if isinstance(defaults, list) else ():
            for key, choice in entry.items() if isinstance(entry, dict) else ():
                yield str(key).removeprefix("override ").strip().removeprefix("/"), str(choice)

    def experiment_sets(self, experiment: str, group: str) -> bool:
        """Return whether an experiment chooses a preset of that group."""
        return group in dict(self._defaults("experiment", experiment))


def _check_header(file: Path) -> None:
    """Raise UserError for a line such as `# @package _global_ # why`, which Hydra refuses without naming the file."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            return
        if text[1:].lstrip().startswith("@") and len(text[1:].split()) > 2:
            raise UserError("preset", file, f"line {number} has more than a package ({text}): leave the rest out")


def _check_texts(file: Path, prefix: str, kinds: Mapping[str, Any]) -> None:
    """Raise UserError if an option that is a text has another text in the file than it would get from YAML.

    Args:
        file: The file of a preset.
        prefix: The beginning of the dotted names of its options.
        kinds: The type annotation of every option, by dotted name.
    """
    for key, line, written, value in read_yaml_scalars(file):
        kind = kinds.get(prefix + key)
        if str(value) != written and {str, list[str]} & {kind, *typing.get_args(kind)}:
            problem = f"YAML reads {key}: {written} in line {line} as {value}"
            raise UserError("preset", file, f"{problem}: put {written} in quotes")
