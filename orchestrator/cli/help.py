"""What `--help` says. Imports nothing heavy: it answers at once."""

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

exit codes: 0 complete, 1 gate not met or something unsound, 2 wrong input, 3 complete but for failed tasks,
            130 interrupted (the same command resumes)
"""


def usage(verbs: Mapping[str, Callable[..., Any]], verb: str | None) -> str:
    """The help text: of all verbs, or of one with every option there is."""
    if verb is None:
        listed = "\n".join(f"  {name:<9} {function.__doc__}" for name, function in verbs.items())
        return f"{_HEAD}\nverbs:\n{listed}\n\n{_EXAMPLES}\n`VERB --help` lists every option and preset."
    presets = Presets()
    groups = "\n".join(
        textwrap.fill(f"{group}= {', '.join(presets.options(group)) or '(none yet)'}", 118, initial_indent="  ",
                      subsequent_indent="      ")
        for group in GROUPS
    )  # fmt: skip
    values = "\n".join(f"  {key}={_shown(value)}" for key, value in options())
    told = f"{verb}: {verbs[verb].__doc__}"
    return f"{_HEAD}\n{told}\n\npresets:\n{groups}\n\noptions and their defaults (presets set some):\n{values}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
