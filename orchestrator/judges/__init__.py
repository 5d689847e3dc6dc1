"""Judges: (prompt, response) -> verdict. A new judge is one file in this folder that ends with `JUDGE = ...`.

A judge is found by the name of its module; there is no list of judges to extend. A text judge computes its verdict from
the response. A model judge (`_model.ModelJudge`) has a template, weights and a parser; orchestrator/pipeline/judge.py
runs its model.
"""

from __future__ import annotations

import copy
import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id

UNFINISHED = "unfinished"
"""Verdict on a response whose thought has no end, and which so holds no answer. It is left out of every rate."""


class Judge(ABC):
    """Base class of all judges.

    A judge's identity is its name, version and parameters. If you change its verdicts, change the version or a
    parameter.

    Attributes:
        name: The judge's name, which is also the name of its module.
        version: Number of the version, from 1.
        verdicts: Every verdict that it can return.
        stops: Strings that decide the verdict wherever they appear in a response, so that generation may stop there
            (`sampling.early_stop`). Empty: the judge needs whole responses.
        thought: Closing tag of the thoughts after which it judges. Empty: it judges whole responses.
    """

    name: ClassVar[str]
    version: int
    verdicts: tuple[str, ...]
    thought: str = ""
    stops: ClassVar[tuple[str, ...]] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON object of the values on which its verdicts depend, besides the code of its version."""
        return {}

    @functools.cached_property
    def id(self) -> str:
        """Content hash of its identity: 16 hexadecimal digits."""
        answer = {"answer": "after_thought", "thought": self.thought} if self.thought else {}
        return content_id(["judge", self.name, self.version, self.parameters | answer])

    def after_thought(self, closing: str) -> Self:
        """Return this judge as one of what follows a thought, which is another judge with an id of its own.

        Whoever calls `verdict` removes the thought before (`sweep.thoughts`), and gives UNFINISHED if it has no end.

        Args:
            closing: The closing tag of the thought. Empty: the judge itself is returned.
        """
        if not closing:
            return self
        judge = copy.copy(self)
        judge.__dict__.pop("id", None)
        judge.thought, judge.verdicts = closing, (*self.verdicts, UNFINISHED)
        return judge

    def at_version(self, version: int) -> Self:
        """Return this judge as one of an earlier version: it has the id under which that version's verdicts are stored.

        Only its id, verdicts and outcomes may be used, not its rules, which are those of the current version.
        """
        if version == self.version:
            return self
        judge = copy.copy(self)
        judge.__dict__.pop("id", None)
        judge.version = version
        return judge

    @abstractmethod
    def verdict(self, prompt: str, response: str) -> str:
        """Return one of `verdicts`. A pure function, with the same result on every machine."""

    def applies_to(self, group: str) -> bool:
        """Return whether this judge applies to a prompt group. Judges that do not apply get no landscape rows."""
        return "refused" in self.verdicts

    def outcome(self, verdict: str, group: str) -> str | None:
        """Return how a verdict is counted for a prompt group: `refused` or `complied`, or None for neither."""
        return verdict if verdict in ("refused", "complied") else None


def names() -> list[str]:
    """Return the names of all judges, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str, field: str = "judge") -> Judge:
    """Return the judge with this name. Raises UserError, naming the option `field`, if there is none."""
    known = names()
    if name not in known:
        raise UserError(field, name, f"no such judge{did_you_mean(name, known)} (there are: {', '.join(known)})")
    judge = importlib.import_module(f"{__name__}.{name}").JUDGE
    assert isinstance(judge, Judge) and judge.name == name, f"judges/{name}.py must define JUDGE, named {name}"
    return judge
