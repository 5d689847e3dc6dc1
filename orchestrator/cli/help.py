"""The texts of `--help`. This module imports nothing heavy, so that help appears at once."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.config.overrides import options
from orchestrator.config.presets import GROUPS, Presets

_HEAD = """\
Measures how safe a language model stays when its weights move: its safety landscape.

usage: python -m orchestrator VERB [key=value ...] [--json] [--config-dir DIR] [-m]
"""
_EXAMPLES = """\
examples:
  python -m orchestrator run                                  the embedded model, 21 points, about 4 minutes on 2 cores
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


def usage(verbs: Mapping[str, Callable[..., Any]], name: str | None) -> str:
    """Return the help text of all verbs, or that of one verb with every option and preset.

    Args:
        verbs: Every verb by name.
        name: The verb to describe; None for an overview.
    """
    if name is None:
        listed = "\n".join(f"  {verb_name:<9} {verb_summary(verb)}" for verb_name, verb in verbs.items())
        return f"{_HEAD}\nverbs:\n{listed}\n\n{_EXAMPLES}\n`VERB --help` lists every option and preset."
    presets = "\n".join(_preset_line(group) for group in GROUPS)
    values = "\n".join(f"  {key}={_option_value(value)}" for key, value in options())
    return (
        f"{_HEAD}\n{name}: {verb_summary(verbs[name])}\n\npresets:\n{presets}\n\n"
        f"options and their defaults (presets set some):\n{values}"
    )


def _preset_line(group: str) -> str:
    names = ", ".join(Presets().options(group)) or "(none yet)"
    return textwrap.fill(f"{group}= {names}", 118, initial_indent="  ", subsequent_indent="      ")


def _option_value(value: Any) -> str:
    """Return a default as it would be written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value)
