"""From a command line to a Config: presets of conf/ and overrides, composed by Hydra; nothing is ever instantiated.

Precedence: defaults < model preset < experiment < command line. Overrides are Hydra's; `+model=x` and `model=x` both
work. Every key, option and kind of value is checked here first, so that a mistake gets one sentence and not Hydra's.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.schema import Config, validate
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.paths import CONF_DIR

GROUPS = ("model", "grid", "probes", "system_prompt", "engine", "cluster", "experiment")


def compose(overrides: Sequence[str], folder: str | None = None) -> Config:
    """The configuration that these overrides give. `folder`: a user's own, searched before conf/ of the project.

    Raises UserError for an unknown key or option (suggesting the right one), a value of the wrong kind or out of range.
    """
    presets = Presets(folder)
    given = _implied([_checked(text, presets) for text in overrides], presets)
    config = _composed(given, presets)
    _name_things(config, {o.key for o in given})
    validate(config)
    return config


def multirun(overrides: Sequence[str]) -> list[list[str]]:
    """Overrides with several values (`grid.seed=1,2 model=a,b`) as one list for each combination, the last fastest."""
    expanded = []
    for text in overrides:
        key, sign, value = text.partition("=")
        expanded.append([f"{key}{sign}{part}" for part in _split(value)])
    return [list(combination) for combination in itertools.product(*expanded)]


def _split(value: str) -> list[str]:
    """At commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += (not quote) * ((character in "[{(") - (character in "]})"))
        if character == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


class Presets:
    """The YAML files below conf/, and below a folder of the user's own, which goes first."""

    def __init__(self, folder: str | None = None) -> None:
        self.own = folder
        self.folders = [CONF_DIR]
        if folder is not None:
            own = Path(folder).expanduser().absolute()
            if not own.is_dir():
                raise UserError(
                    "--config-dir", folder, "there is no such folder: name one that holds model/, grid/, ..."
                )
            self.folders.insert(0, own)

    def options(self, group: str) -> list[str]:
        """The names that can be given for a group, sorted."""
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")})

    def file(self, group: str, name: str, field: str = "") -> Path:
        """Where an option of a group is written. Raises UserError, naming `field`, where there is no such option."""
        known = self.options(group)
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(field or group, name, f"there is no such {group}{hint} (there are: {', '.join(known)})")
        return next(path for folder in self.folders if (path := folder / group / f"{name}.yaml").is_file())

    def read(self, group: str, name: str, schema: type[Any], field: str) -> Any:
        """One file as an instance of a schema."""
        from omegaconf import OmegaConf

        loaded = OmegaConf.load(self.file(group, name, field))
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), loaded))


@dataclass(frozen=True)
class _Override:
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


def _checked(text: str, presets: Presets) -> _Override:
    """One override, whose key exists and whose value is of its kind; texts quoted for Hydra."""
    key, sign, value = text.lstrip("+").partition("=")
    if not sign or not key or key.startswith("~"):
        raise UserError("override", text, "write it as key=value, such as grid.steps=40")
    if key in GROUPS:
        if not (key == "experiment" and value == "null"):
            presets.file(key, value)
        return _Override(key, value)
    kinds = _kinds(Config)
    if key not in kinds:
        if any(known.startswith(f"{key}.") for known in kinds):
            raise UserError(
                key, value, f"set one of its fields, such as {next(k for k in kinds if k.startswith(key))}="
            )
        hint = did_you_mean(key, [*kinds, *GROUPS])
        raise UserError(key, value, f"there is no such option{hint or '; `--help` lists them'}")
    return _Override(key, _hydra_value(key, value, kinds[key]))


def _hydra_value(key: str, value: str, kind: Any) -> str:
    """The value in Hydra's grammar. Texts go quoted, so that they may hold commas, colons and brackets."""
    kinds = set(typing.get_args(kind)) if _is_union(kind) else {kind}
    if str in kinds:
        if value == "null" and type(None) in kinds:
            return value
        return _quoted(value)
    if list[str] in kinds and value.startswith("[") and value.endswith("]"):
        return f"[{','.join(_quoted(part.strip()) for part in _split(value[1:-1]) if part.strip())}]"
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    wrong = UserError(key, value, f"give {_in_words(kind)}")
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}")
        if parsed.is_sweep_override():
            raise UserError(key, value, f"give {_in_words(kind)} (several at once: add -m)")
        OmegaConf.update(OmegaConf.structured(Config), key, parsed.value())
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise wrong from error
    return value


def _quoted(value: str) -> str:
    """A text in Hydra's quotes, whatever it holds."""
    bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    escaped = bare.replace("\\", "\\\\") if bare.endswith("\\") else bare
    return "'" + escaped.replace("'", "\\'") + "'"


def _in_words(kind: Any) -> str:
    """What a value of this kind looks like."""
    kinds = [k for k in (typing.get_args(kind) if _is_union(kind) else [kind]) if k is not type(None)]
    names: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        list[float]: "numbers in brackets, such as [-0.5,0.5]",
        list[str]: "names in brackets, such as [a,b]",
    }
    text = " or ".join(names.get(k, str(k)) for k in kinds)
    return f"{text}, or null" if _is_union(kind) else text


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


@functools.cache
def _kinds(schema: type[Any], prefix: str = "") -> dict[str, Any]:
    """Every option's dotted name and type."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(schema)
    for f in dataclasses.fields(schema):
        kind = hints[f.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found |= _kinds(kind, f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = kind
    return found


def options() -> Iterator[tuple[str, Any]]:
    """Every option's dotted name and default, in the order of the schema."""
    config = Config()
    for key in _kinds(Config):
        yield key, functools.reduce(getattr, key.split("."), config)


def _implied(given: Sequence[_Override], presets: Presets) -> list[_Override]:
    """What one override says of another group: a path alone names no preset."""
    keys = {o.key for o in given}
    added = []
    if "model" not in keys:
        if _Override("engine", "dummy") in given:
            added.append(_Override("model", "dummy"))
        elif "model.path" in keys or "model.hub" in keys:
            added.append(_Override("model", "local"))
    experiment = next((o.value for o in given if o.key == "experiment"), "null")
    if keys & {"probes.path", "probes.hub"} and "probes" not in keys and not _chooses(experiment, "probes", presets):
        added.append(_Override("probes", "custom"))
    return [*added, *given]


def _chooses(experiment: str, group: str, presets: Presets) -> bool:
    """Whether an experiment names an option of that group: a path is of a file as that option describes it."""
    from omegaconf import OmegaConf

    if experiment == "null":
        return False
    written = OmegaConf.to_container(OmegaConf.load(presets.file("experiment", experiment)))
    assert isinstance(written, dict)
    return any(f"override /{group}" in entry for entry in written.get("defaults", []))


def _composed(given: Sequence[_Override], presets: Presets) -> Config:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=Config)
    *own, shipped = presets.folders
    overrides = [str(o) for o in given]
    if own:
        overrides.append(f"hydra.searchpath=['file://{own[0]}']")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(shipped), version_base="1.3"):
            composed = hydra_compose("config", overrides=overrides)
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise UserError("config", ", ".join(map(str, given)) or "defaults", f"cannot be composed: {reason}") from error
    assert isinstance(config, Config)
    return config


def _name_things(config: Config, given: Iterable[str]) -> None:
    """Names that follow from what was asked for."""
    asked = set(given)
    if config.model.name in ("", "local"):
        source = config.model.path or config.model.hub or "model"
        config.model.name = _slug(Path(source).expanduser().absolute().name) or "model"
    if "system_prompt.text" in asked and not asked & {"system_prompt", "system_prompt.name"}:
        config.system_prompt.name = "custom"
    if "grid.steps" in asked:
        for fewer in {"plane_steps", "crowded_steps"} - {key.removeprefix("grid.") for key in asked}:
            setattr(config.grid, fewer, None)
    if not config.probes.name:
        config.probes.name = _slug(Path(config.probes.path or config.probes.hub or "probes").stem) or "probes"
    config.name = _slug(config.name or config.grid.kind.replace("_", "-")) or "sweep"


def _slug(text: str) -> str:
    """Letters, digits, dots, hyphens and underscores only: fit for a folder's name."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:60]
