"""Compose a Config from presets and overrides, by Hydra. Hydra's instantiation of classes is never used.

Precedence, lowest first: the schema's defaults, the model's preset, the experiment, the command line. Overrides follow
Hydra's grammar; `+model=x` and `model=x` mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import judges
from orchestrator.config.overrides import Override, check_override, hydra_quoted, option_types, unfitting
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.config.validation import validate
from orchestrator.utils.errors import UserError
from orchestrator.utils.paths import expanded


def compose(overrides: Sequence[str], folder: str | None = None) -> Config:
    """Return the configuration composed from defaults, presets and these overrides.

    Args:
        overrides: Texts of the form `key=value`.
        folder: The user's own presets, searched before the project's.

    Raises:
        UserError: An unknown key or preset (with the nearest known one), or a value of the wrong kind or out of range.
    """
    presets = Presets(folder)
    texts = [text for override in overrides for text in _with_named_model(override, presets)]
    checked = [check_override(text, presets) for text in texts]
    presets.check(((override.key, override.value) for override in checked), option_types(Config))
    checked = _with_implied(checked, presets)
    config = _compose_by_hydra(checked, presets)
    _load_judge(config, {override.key for override in checked})
    _fill_in_names(config, {override.key for override in checked})
    validate(config)
    return config


def _with_named_model(override: str, presets: Presets) -> list[str]:
    """Replace `model=OWNER/NAME` by the preset that has this hub id, or else by `model.hub=OWNER/NAME`.

    Raises:
        UserError: It is a folder, which `model.path` names, or no id of a hub.
    """
    key, _, name = override.lstrip("+").partition("=")
    if key != "model" or "/" not in name:
        return [override]
    if expanded(name).exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, flags=re.ASCII):
        raise UserError("model", name, f"chooses a preset or an id of a hub; a folder is written model.path={name}")
    preset = presets.with_hub_id(name)
    return ["model=local", f"model.hub={name}"] if preset is None else [f"model={preset}"]


def _with_implied(checked: Sequence[Override], presets: Presets) -> list[Override]:
    """Add the presets that other overrides imply, such as `model=local` for `model.path=...` without a `model`."""
    keys = {override.key for override in checked}
    added = []
    if "model" not in keys:
        if Override("engine", "dummy") in checked:
            added.append(Override("model", "dummy"))
        elif "model.path" in keys or "model.hub" in keys:
            added.append(Override("model", "local"))
    if keys & {"probes.path", "probes.hub"} and "probes" not in keys:
        experiment = next((override.value for override in checked if override.key == "experiment"), "null")
        # An experiment that chooses a probe set also sets how the file is read.
        if experiment == "null" or not presets.experiment_sets(experiment, "probes"):
            added.append(Override("probes", "custom"))
    return [*added, *checked]


def _compose_by_hydra(checked: Sequence[Override], presets: Presets) -> Config:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for override in checked:
        if presets.is_plugin(override.key, override.value):  # Hydra finds files by itself
            node = presets.load(override.key, override.value)
            store.store(group=override.key, name=override.value, package=override.key, node=node)
    *user_folders, shipped = presets.folders
    overrides = [str(override) for override in checked]
    if user_folders:
        overrides.append(f"hydra.searchpath=[{hydra_quoted(f'file://{user_folders[0]}')}]")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(shipped), version_base="1.3"):
            composed = hydra_compose("config", overrides=overrides)
        config = OmegaConf.to_object(composed)
    except Exception as error:  # a slip in a preset makes Hydra, OmegaConf and PyYAML raise all kinds of exceptions
        _check_values(checked, presets)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            "config", ", ".join(map(str, checked)) or "defaults", f"cannot be composed: {reason}"
        ) from error
    assert isinstance(config, Config)
    return config


def _check_values(checked: Sequence[Override], presets: Presets) -> None:
    """Raise UserError for the first option of a chosen preset that does not exist or does not fit its type."""
    kinds = option_types(Config)
    for group, name in presets.chosen((override.key, override.value) for override in checked):
        preset = name if presets.is_plugin(group, name) else presets.file(group, name)
        for key, value in _options(presets.load(group, name), presets.prefix(group, name), kinds):
            if remedy := unfitting(key, value, kinds):
                raise UserError("preset", preset, f"{key}={value!s:.80}: {remedy}")


def _options(values: Mapping[str, Any], prefix: str, kinds: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each option in a preset."""
    for key, value in values.items():
        full = f"{prefix}{key}"
        if isinstance(value, dict) and full not in kinds:
            yield from _options(value, f"{full}.", kinds)
        elif key != "defaults":
            yield full, value


def _load_judge(config: Config, keys: Collection[str]) -> None:
    """Load the user's judge, and select it unless the command line (`keys`) names judges. Raises UserError."""
    if config.judging.file is None:
        return
    judge = judges.add_file(expanded(config.judging.file))
    if not {"judge", "judges"} & {*keys}:
        config.judge, config.judges = judge.name, []


def _fill_in_names(config: Config, checked: Iterable[str]) -> None:
    """Set the names and numbers of steps that are derived from other options."""
    keys = set(checked)
    if config.model.name in ("", "local"):
        source = config.model.path or config.model.hub or "model"
        config.model.name = _slug(expanded(source).absolute().name) or "model"
    if "system_prompt.text" in keys and not keys & {"system_prompt", "system_prompt.name"}:
        config.system_prompt.name = "custom"
    if "grid.steps" in keys:  # the user's number takes precedence over a preset's smaller ones
        if "grid.plane_steps" not in keys:
            config.grid.plane_steps = None
        if "grid.crowded_steps" not in keys:
            config.grid.crowded_steps = None
    if not config.probes.name:
        config.probes.name = _slug(Path(config.probes.path or config.probes.hub or "probes").stem) or "probes"
    config.name = _slug(config.name or config.grid.kind.replace("_", "-")) or "sweep"


def _slug(text: str) -> str:
    """Return a name for a folder: at most 60 letters, digits, dots, hyphens and underscores of the text.

    Hyphens replace other characters.
    """
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:60]
