"""Read figures.toml: what is measured, which pictures are drawn from it, and which numbers are quoted."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFINITIONS = Path(__file__).with_name("figures.toml")


@dataclass(frozen=True)
class Study:
    """One command of the product whose results are quoted.

    Attributes:
        name: Its name in figures.toml.
        verb: `run`, or `geometry`.
        overrides: The options of the command, without `out`.
        needs: Name of an environment variable that `overrides` contains as `$NAME`. None: there is none.
    """

    name: str
    verb: str
    overrides: tuple[str, ...]
    needs: str | None = None

    @property
    def command(self) -> str:
        """The command as it is defined, without `out`."""
        return shlex.join([self.verb, *self.overrides])

    def options(self) -> list[str] | None:
        """Return the options to call the product with. None if the variable that they need is not set."""
        if self.needs is None:
            return list(self.overrides)
        value = os.environ.get(self.needs)
        return [option.replace(f"${self.needs}", value) for option in self.overrides] if value else None


@dataclass(frozen=True)
class Picture:
    """A picture: `kind` is `landscape` or `results` of one study, or `compare` of several."""

    file: str
    kind: str
    studies: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """A quoted number: a field of a study's results, or of benchmarks/RESULTS.md.

    Attributes:
        name: Its name in the pages: the study's name, a point, and a name of its own.
        study: The study's name, or RESULTS.
        field: A name in `values.FIELDS`.
        options: What selects and formats the field.
        definition: Field, options and the study's command in one line. A stored text of another definition is outdated.
    """

    name: str
    study: str
    field: str
    options: Mapping[str, str]
    definition: str


COST = ("points", "new_tasks", "time", "machine")
"""The numbers that `cost = true` defines; each is also the name of its field."""

RESULTS = "RESULTS"
"""In place of a study: benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Definitions:
    """The contents of figures.toml.

    Attributes:
        out: Folder of the studies, relative to the repository.
        studies: By name, in the order in which they are measured.
        pictures: In the order of the file.
        numbers: By name.
    """

    out: str
    studies: Mapping[str, Study]
    pictures: tuple[Picture, ...]
    numbers: Mapping[str, Number]


def read_definitions(path: Path = DEFINITIONS) -> Definitions:
    """Read and check the definitions. Raises ValueError, with the name of the entry, if one cannot be understood."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    studies = {name: _study(name, text) for name, text in document["studies"].items()}
    pictures = tuple(_picture(file, text, studies) for file, text in document["pictures"].items())
    numbers = [
        _number(study, name, text, studies)
        for study, fields in document["numbers"].items()
        for name, text in _expanded(fields).items()
    ]
    return Definitions(document["out"], studies, pictures, {number.name: number for number in numbers})


def _study(name: str, text: str) -> Study:
    verb, *overrides = shlex.split(text)
    if verb not in ("run", "geometry"):
        raise ValueError(f"studies.{name}: '{verb}' is neither run nor geometry")
    variables = [part.split("/")[0] for option in overrides for part in option.split("$")[1:]]
    return Study(name, verb, tuple(overrides), variables[0] if variables else None)


def _picture(file: str, text: str, studies: Mapping[str, Study]) -> Picture:
    kind, *names = text.split()
    if kind not in ("landscape", "results", "compare") or not names or not set(names) <= set(studies):
        raise ValueError(f"pictures.{file}: write landscape, results or compare, and names of studies, not '{text}'")
    return Picture(file, kind, tuple(names))


def _expanded(fields: Mapping[str, str | bool]) -> dict[str, str]:
    """Return the numbers of a study, with those of COST in place of `cost = true`."""
    named = {name: str(text) for name, text in fields.items() if name != "cost"}
    return named | {name: name for name in COST if fields.get("cost")}


def _number(study: str, name: str, text: str, studies: Mapping[str, Study]) -> Number:
    field, *options = shlex.split(text)
    if study != RESULTS and study not in studies:
        raise ValueError(f"numbers.{study}: there is no such study")
    if any("=" not in option for option in options):
        raise ValueError(f"numbers.{study}.{name}: write options as key=value, not '{text}'")
    command = "" if study == RESULTS else f" of {studies[study].command}"
    return Number(f"{study}.{name}", study, field, dict(o.split("=", 1) for o in options), f"{text}{command}")
