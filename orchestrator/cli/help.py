"""The texts of `--help`. This module imports nothing heavy, so that help appears at once."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.config.descriptions import sections
from orchestrator.config.presets import GROUPS, Presets
from orchestrator.config.schema import Config
from orchestrator.utils.errors import UserError

_HEAD = """\
Measures how safe a language model stays when its weights move: its safety landscape.

usage: python -m orchestrator VERB [key=value ...] [FLAG ...]
"""
_FLAGS = """\
flags:
  -h, --help           show help; `help VERB` and `VERB --help` list the verb's options and the presets
  -V, --version        show the version
  --json               print the result as JSON on stdout
  -m, --multirun       run every combination of comma-separated values, one sweep after another
  --config-dir DIR     search your own presets in DIR before the project's
  -q, --quiet          show warnings and errors only, no progress
  -v, --verbose        show every event of a run
  --log-level LEVEL    show messages from this level on: debug, info, warning or error
"""
_OWN_OPTIONS = ("gate", "compare", "export")
"""Verbs that take the options of the section of the same name, and no others."""

_WIDTH = 118
_EXAMPLES = """\
examples:
  python -m orchestrator run                                  the embedded model, 21 points, about 5 minutes on 2 cores
  python -m orchestrator run grid.directions=3                two more directions; only new points are run
  python -m orchestrator run model.path=DIR probes.limit=80   a model of yours
  python -m orchestrator plan model=mistral7b cluster.gpu=h100
  python -m orchestrator run -m model=smollm2_135m,smollm2_135m_base      several sweeps, one after another

exit codes: 0 complete, 1 gate not met or a damaged file, 2 wrong input, 3 complete but for failed tasks,
            130 interrupted (the same command resumes)
"""


def verb_summary(verb: Callable[..., Any]) -> str:
    """Return the first line of a verb's docstring."""
    return (verb.__doc__ or "").strip().partition("\n")[0]


def overview(verbs: Mapping[str, Callable[..., Any]]) -> str:
    """Return the help text of all verbs."""
    listed = "\n".join(f"  {verb_name:<10} {verb_summary(verb)}" for verb_name, verb in verbs.items())
    return f"{_HEAD}\nverbs:\n{listed}\n\n{_FLAGS}\n{_EXAMPLES}\n`help VERB` lists every option and preset."


def verb_help(name: str, verb: Callable[..., Any], overrides: Sequence[str] = (), config_dir: str | None = None) -> str:
    """Return the help text of one verb: each option with its value and description, and the presets.

    Args:
        name: The name of the verb.
        verb: Its function.
        overrides: Overrides `key=value`. The values shown are those that they give, presets included.
        config_dir: The user's own folder of presets, or None.
    """
    presets = "\n".join(_preset_line(group, config_dir) for group in GROUPS)
    own = f"{name}." if name in _OWN_OPTIONS else ""
    config, note = (Config(), "and their defaults") if own else _configuration(overrides, config_dir)
    lines = []
    for section in sections():
        if section.prefix.startswith(own):
            lines += [f"\n  {first_sentence(section.description)}"] if section.options else []
            for option in section.options:
                key = section.prefix + option.name
                value = functools.reduce(getattr, key.split("."), config)
                lines.append(_option_line(key.removeprefix(own), _option_value(value), option.comment))
    text = "\n".join(lines)
    shown = "" if own else f"\npresets:\n{presets}\n"
    return f"{_HEAD}\n{name}: {verb_summary(verb)}\n{shown}\noptions {note}:\n{text}\n\n{_FLAGS}"


def _configuration(overrides: Sequence[str], config_dir: str | None) -> tuple[Config, str]:
    """Return the configuration that the overrides give, and what its values are. It has the defaults if they fail."""
    from orchestrator.config.compose import compose

    try:
        config = compose(overrides, config_dir)
    except UserError as error:
        return Config(), f"and their defaults (without your overrides: {error})"
    return config, f"and the values that `{' '.join(('run', *overrides))}` uses"


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring without its full stop."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def _option_line(key: str, value: str, comment: str) -> str:
    """Return `  key=value  description`, the description in the next line if it would not fit."""
    head = f"  {key}={value}"
    indent = " " * 38
    if len(head) + 2 > len(indent):
        return "\n".join([head, textwrap.fill(comment, _WIDTH, initial_indent=indent, subsequent_indent=indent)])
    return textwrap.fill(comment, _WIDTH, initial_indent=head.ljust(len(indent)), subsequent_indent=indent)


def _preset_line(group: str, config_dir: str | None) -> str:
    names = ", ".join(Presets(config_dir).options(group)) or "(none yet)"
    return textwrap.fill(f"{group}= {names}", _WIDTH, initial_indent="  ", subsequent_indent="      ")


def _option_value(value: Any) -> str:
    """Return a default as it would be written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value)
