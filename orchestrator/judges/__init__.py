"""Judges: (prompt, response) -> verdict. A new judge is one file in this folder that ends with `JUDGE = ...`.

A judge is found by the name of its module; there is no list to add it to. A text judge is a function of the response. A
model judge (`_model.ModelJudge`) is a template, weights and a parser; orchestrator/pipeline/judge.py runs its model.
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
    """Base of all judges.

    A judge's identity is its name, version and parameters: change one of them when its verdicts change.

    Attributes:
        name: The judge's name, and that of its module.
        version: Number of the version, from 1.
        verdicts: Every verdict that it can give.
        stops: Strings that decide the verdict wherever they appear, so that generation may stop there
            (`sampling.early_stop`).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    verdicts: ClassVar[tuple[str, ...]]
    stops: ClassVar[tuple[str, ...]] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON values that its verdicts depend on."""
        return {}

    @functools.cached_property
    def id(self) -> str:
        """Content hash of its identity: 16 hexadecimal digits."""
        return content_id(["judge", self.name, self.version, self.parameters])

    @abstractmethod
    def verdict(self, prompt: str, response: str) -> str:
        """Return one of `verdicts`. A pure function, with the same result on every machine."""

    def applies_to(self, group: str) -> bool:
        """Return whether this judge applies to a prompt group. Judges that do not apply get no landscape rows."""
        return "refused" in self.verdicts

    def outcome(self, verdict: str, group: str) -> str | None:
        """Return `refused` or `complied`, which is what is counted; None for a verdict that counts as neither."""
        return verdict if verdict in ("refused", "complied") else None


def names() -> list[str]:
    """Return the names of all judges, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str, field: str = "judge") -> Judge:
    """Return the judge of that name. Raises UserError, naming the option `field`, if there is none."""
    known = names()
    if name not in known:
        raise UserError(field, name, f"no such judge{did_you_mean(name, known)} (there are: {', '.join(known)})")
    judge = importlib.import_module(f"{__name__}.{name}").JUDGE
    assert isinstance(judge, Judge) and judge.name == name, f"judges/{name}.py must define JUDGE, named {name}"
    return judge
