"""Judges: (prompt, response) -> verdict. A new judge is one file here that ends with `JUDGE = ...`.

A judge is found by its module's name; there is no list to add it to. A text judge is a function of the response; a
model judge (`_model.ModelJudge`) is a template, weights and a parser, and orchestrator/pipeline/judge.py has it answer.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id


class Judge(ABC):
    """What a judge is. Its identity is its name, version and parameters: another verdict needs another of these."""

    name: ClassVar[str]
    version: ClassVar[int]
    verdicts: ClassVar[tuple[str, ...]]
    """Every verdict it can give."""
    stops: ClassVar[tuple[str, ...]] = ()
    """Strings that settle the verdict wherever they appear: generation may stop there (`sampling.early_stop`)."""

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON values that change its verdicts."""
        return {}

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return content_id(["judge", self.name, self.version, self.parameters])

    @abstractmethod
    def verdict(self, prompt: str, response: str) -> str:
        """One of `verdicts`. Pure, and the same on every machine."""

    def tells(self, group: str) -> bool:
        """Whether its verdicts answer what a group of prompts is asked for; where not, it has no row there."""
        return "refused" in self.verdicts

    def outcome(self, verdict: str, group: str) -> str | None:
        """`refused` or `complied`, which is what is counted; None for a verdict that counts as neither."""
        return verdict if verdict in ("refused", "complied") else None


def names() -> list[str]:
    """Every judge there is, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str, field: str = "judge") -> Judge:
    """The judge of that name. Raises UserError, naming `field`, where there is none."""
    known = names()
    if name not in known:
        raise UserError(
            field,
            name,
            f"no such judge{did_you_mean(name, known)} (there are: {', '.join(known)})",
        )
    judge = importlib.import_module(f"{__name__}.{name}").JUDGE
    assert isinstance(judge, Judge) and judge.name == name, f"judges/{name}.py must define JUDGE, named {name}"
    return judge
