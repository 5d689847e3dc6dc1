"""Judges: (prompt, response) -> verdict. A new judge is one file in this folder that ends with `JUDGE = ...`.

A judge is found by the name of its module; there is no list of judges to extend. A text judge computes its verdict from
the response. A model judge (`_model.ModelJudge`) has a template, weights and a parser; orchestrator/pipeline/judge.py
runs its model.

Judges outside of this folder are files that `judge.path` names (`add_file`), and entry points of installed packages in
the group ENTRY_POINTS. The hash of their file is part of their id.
"""

from __future__ import annotations

import copy
import functools
import importlib
import pkgutil
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from orchestrator.utils import plugins
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id
from orchestrator.utils.plugins import Plugin, described

ENTRY_POINTS = "safety_landscape.judges"
PATH_FIELD = "judge.path"
RESERVED = ("text", "verdict", "coherence", "judge", "point_id", "prompt_set_id", "prompt_id", "degenerate")
"""Names that no judge may have, because tables have columns of these names, or a judge of this program has it."""

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
        least_share: Share of a task's responses that it must have judged for the task to be in the landscape.
        accepts_cut: Whether it judges responses that early stopping has cut at the stop strings of another judge.
        is_described: Whether options are part of its id, so that its description is stored with a sweep that it judged.
        is_text: Whether `verdict` computes the verdict. It does not for models and people.
        stops: Strings that decide the verdict wherever they appear in a response, so that generation may stop there
            (`sampling.early_stop`). Empty: the judge needs whole responses.
        thought: Closing tag of the thoughts after which it judges. Empty: it judges whole responses.
        source: SHA-256 of the file that defines a judge outside of this folder, else empty. It is part of the id.
        origin: Name of that file, or of the package that holds it.
    """

    name: ClassVar[str]
    version: int
    verdicts: tuple[str, ...]
    thought: str = ""
    source: str = ""
    origin: str = ""
    stops: ClassVar[tuple[str, ...]] = ()
    is_text: ClassVar[bool] = True
    is_described: ClassVar[bool] = False
    accepts_cut: ClassVar[bool] = False
    least_share: float = 0.0

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON object of the values on which its verdicts depend, besides the code of its version."""
        return {}

    @functools.cached_property
    def id(self) -> str:
        """Content hash of its identity: 16 hexadecimal digits."""
        answer = {"answer": "after_thought", "thought": self.thought} if self.thought else {}
        source = {"source": self.source} if self.source else {}
        return content_id(["judge", self.name, self.version, self.parameters | answer | source])

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


_added: dict[str, Judge] = {}
"""The judges of files that this process has loaded, by name."""


def shipped() -> list[str]:
    """Return the names of the judges of this program, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def first_text_judge(names: Iterable[str]) -> Judge | None:
    """Return the first of these judges that is part of this program and judges texts without a model. None if none is.

    Such a judge can judge stored responses wherever they are read, so its verdicts may decide what is measured.
    """
    known = shipped()
    return next((judge for name in names if name in known and (judge := get(name)).is_text), None)


def names() -> list[str]:
    """Return the names of all judges, sorted."""
    return sorted({*shipped(), *_added, *plugins.installed(ENTRY_POINTS)})


def get(name: str, field: str = "judge") -> Judge:
    """Return the judge with this name. Raises UserError, naming the option `field`, if there is none."""
    judge = find(name)
    if judge is None:
        known = names()
        remedy = (
            f"no such judge{did_you_mean(name, known)} (there are: {', '.join(known)}; your own: {PATH_FIELD}=FILE)"
        )
        raise UserError(field, name, remedy)
    return judge


def find(name: str) -> Judge | None:
    """Return the judge with this name. None if there is none. Raises UserError for a package that cannot be used."""
    if name in shipped():
        judge = importlib.import_module(f"{__name__}.{name}").JUDGE
        assert isinstance(judge, Judge) and judge.name == name, f"judges/{name}.py must define JUDGE, named {name}"
        return judge
    if name in _added:
        return _added[name]
    if name in plugins.installed(ENTRY_POINTS):
        return _checked(plugins.load_installed(ENTRY_POINTS, name, "JUDGE"), f"entry point {name}", name)
    return None


def checked_verdict(judge: Judge, prompt: str, response: str) -> str:
    """Return the verdict of a text judge that a user wrote. Raises UserError if it raises, or returns no verdict."""
    try:
        verdict = judge.verdict(prompt, response)
    except Exception as error:
        what = f"raises {described(error, sys.modules[type(judge).__module__].__file__)}"
        raise UserError("judge", judge.name, _failed(judge, what, prompt, response)) from error
    if verdict not in judge.verdicts:
        what = f"returns {verdict!r}, which is none of its verdicts ({', '.join(judge.verdicts)}),"
        raise UserError("judge", judge.name, _failed(judge, what, prompt, response))
    return verdict


def _failed(judge: Judge, what: str, prompt: str, response: str) -> str:
    texts = " and ".join(repr(text if len(text) <= 40 else f"{text[:37]}...") for text in (prompt, response))
    return f"{what} for the prompt and response {texts}: mend {judge.origin}; what is stored stays"


def add_file(path: Path) -> Judge:
    """Load the judge that a Python file defines as JUDGE, and let `get` find it by its name.

    Raises:
        UserError: The file cannot be read, raises an exception, or defines no judge that can be used.
    """
    judge = _checked(plugins.load_file(path, "JUDGE", PATH_FIELD), PATH_FIELD)
    judge.origin = path.name
    _added[judge.name] = judge
    return judge


def _checked(plugin: Plugin, field: str, name: str | None = None) -> Judge:
    """Return the judge of a plug-in with its source. Raises UserError if it cannot be used.

    `name`: the name that it must have. None: any that is not taken.
    """
    judge = plugin.value
    if isinstance(judge, type):
        raise UserError(field, plugin.origin, f"JUDGE is a class: end it with `JUDGE = {judge.__name__}()`")
    if not isinstance(judge, Judge):
        raise UserError(field, plugin.origin, "JUDGE is no instance of a subclass of orchestrator.judges.Judge")
    problem = _problem(judge)
    if problem is None and name not in (None, judge.name):
        problem = f"its JUDGE is named {judge.name}: give entry point and judge one name"
    if problem is not None:
        raise UserError(field, plugin.origin, problem)
    judge = copy.copy(judge)
    judge.__dict__.pop("id", None)
    judge.source, judge.origin = plugin.sha256, plugin.origin
    return judge


def _problem(judge: Judge) -> str | None:
    """Return what is wrong with the attributes of a user's judge; None if nothing is."""
    name, version, verdicts = (getattr(judge, field, None) for field in ("name", "version", "verdicts"))
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name):
        return f"its judge has the name {name!r}: write 1 to 60 lower-case letters, digits and underscores"
    if name in (*shipped(), *RESERVED):
        return f"its judge has the name of a judge or column of this program, {name}: choose another"
    if not isinstance(version, int) or version < 1:
        return f"its judge has the version {version!r}: write a whole number from 1"
    if not isinstance(verdicts, tuple) or not verdicts or not all(isinstance(verdict, str) for verdict in verdicts):
        return f"its judge has the verdicts {verdicts!r}: write a tuple of texts, such as ('refused', 'complied')"
    return None
