"""Finetuning recipes: a preset of conf/recipe with overrides, such as `recipe=affirmative train.seed=1`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.presets import Presets
from orchestrator.config.schema import FinetuneConfig
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.names import safe_name
from orchestrator.utils.paths import expanded

_ABSENT = object()


def read_recipe(
    options: FinetuneConfig, overrides: Sequence[str] = (), config_dir: str | None = None
) -> tuple[dict[str, Any], Path]:
    """Return a recipe, with some of its fields overridden, and the folder for its result.

    Args:
        options: The recipe's name and the folder.
        overrides: Fields of the recipe as key=value, such as train.seed=1; `model.path` is an alias of `model`.
        config_dir: The user's own folder of presets, searched before the project's.

    Raises:
        UserError: The recipe or a field is unknown, or a value has a different type than the recipe's value.
    """
    from omegaconf import OmegaConf

    values: dict[str, str] = {}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        values[key] = value
    if not options.recipe:
        names = ", ".join(Presets(config_dir).options("recipe"))
        raise UserError("recipe", "", f"name one: recipe=NAME (there are: {names})")
    recipe = OmegaConf.create(Presets(config_dir).load("recipe", options.recipe))
    folder = expanded(options.to or f"finetuned/{safe_name(str(recipe.name))}")
    if "model.path" in values:
        values["model"] = values.pop("model.path")
    for key, value in values.items():
        _override(recipe, key, value)
    plain = OmegaConf.to_container(recipe, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}, folder


def _override(recipe: Any, key: str, text: str) -> None:
    """Set one field of a recipe (an OmegaConf container) that exists, to a value of the same kind."""
    import yaml  # type: ignore[import-untyped]
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    default = OmegaConf.select(recipe, key, throw_on_missing=False, default=_ABSENT)
    if default is _ABSENT:
        parts = OmegaConf.to_container(recipe)
        assert isinstance(parts, dict)
        groups = {str(part): fields for part, fields in parts.items() if isinstance(fields, dict)}
        known = [*parts, *(f"{part}.{name}" for part, fields in groups.items() for name in fields)]
        raise UserError(key, text, f"this recipe has no such field{did_you_mean(key, known)}")
    try:
        value = OmegaConf.create(f"value: {text}").value
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(key, text, "cannot be read: it must be a number, a word, or a list in brackets") from error
    if not _is_same_kind(value, default):
        raise UserError(key, text, f"must have the type of the recipe's value, {default}")
    OmegaConf.update(recipe, key, value)


def _is_same_kind(value: Any, default: Any) -> bool:
    """Return whether a value may replace this default.

    A float accepts any number, text accepts text or a number, and None accepts everything. Otherwise both must have the
    same type.
    """
    if default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, str):
        return isinstance(value, str | int | float)
    return type(value) is type(default)
