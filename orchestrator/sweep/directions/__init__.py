"""Kinds of directions. A new kind is one file in this folder that ends with `DIRECTION = ...`, its class.

A kind is found by the name of its module; there is no list of kinds to extend. `grid.direction` selects a kind that is
drawn from a seed (`_seeded.DrawnDirection`). Most of these are noise that is scaled in each unit of the weights
(`_seeded.SeededDirection`). Other kinds lead to a checkpoint or adapter.

Installed packages add seeded kinds as entry points of the group ENTRY_POINTS. The kind of such a class is NAME@HASH,
with the first 16 digits of the SHA-256 of its file, so that directions of different code have different ids.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from orchestrator.utils import plugins
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

ENTRY_POINTS = "safety_landscape.directions"

NOISE_UNIT = 1.0 / 4096
"""The noise consists of integer multiples of this number (docs/noise.md)."""


@dataclass(frozen=True, slots=True)
class UnitSums:
    """Sums over one scaling unit of a tensor, from which a direction's scalars are computed.

    Attributes:
        size: Number of elements.
        weights: |W|^2 of the unperturbed weights W, in float64.
        noise: |z2|^2, exact, in units of NOISE_UNIT^2. z2 is the noise of the direction's seed.
        cross: <z1, z2>, likewise. z1 is the noise of the seed to which the direction is orthogonal; 0 without one.
        other_noise: |z1|^2, likewise.
        displacement: |D|^2, in float64, of the displacement D of the direction's `reference`. 0 without one.
    """

    size: int
    weights: float
    noise: int
    cross: int = 0
    other_noise: int = 0
    displacement: float = 0.0


class Direction(ABC):
    """Base class of all directions: movements in weight space, as immutable values identified by their content.

    A direction either leads to a checkpoint or adapter, or it is on_self z2 + on_other z1 in each scaling unit of a
    tensor, where z2 and z1 are the noise of its seeds. Subclasses are frozen dataclasses.

    Attributes:
        kind: Name of the kind, which is also the name of its module and the value of `kind` in JSON.
        seed: Seed from which it is drawn. None: it is not drawn.
        orthogonal_to: Seed to whose noise it is orthogonal. None: to none.
        fingerprint: Content hash of the checkpoint or adapter that is at coefficient 1. None: it leads to none.
        reference: Content hash of the checkpoint or adapter from whose displacement it is made. None: from none.
        label: Human-readable name, which is not part of the identity.
    """

    kind: ClassVar[str]
    seed: int | None
    orthogonal_to: int | None
    fingerprint: str | None
    reference: str | None
    label: str

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the fields that identify the direction, and `kind`."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the direction that `to_json` described."""

    @functools.cached_property
    def id(self) -> str:
        """Content hash: 16 hexadecimal digits."""
        return content_id(self.to_json())

    @property
    def needs_scalars(self) -> bool:
        """True if it consists of noise, whose factors (`scalars`) depend on the model's weights.

        The sums in `UnitSums` must then be computed over the weights before a point can be applied.
        """
        return False

    @property
    def endpoint(self) -> str | None:
        """Key of the weights toward which it leads, among those that an engine holds. None: it consists of noise."""
        return self.fingerprint

    def covers(self, tensor: str) -> bool:
        """Return whether this direction moves the tensor of that name."""
        return True

    def rows(self, shape: Sequence[int]) -> int | None:
        """Return the number of rows of a tensor if each row is a scaling unit. None: the tensor is one unit."""
        return None

    def scalars(self, sums: UnitSums) -> tuple[float, float]:
        """Return (on_self, on_other) of one unit. A pure function, rounded in the same way on every machine."""
        raise AssertionError(f"a direction of kind {self.kind} has no scalars")

    def rearrange(self, tensor: str, a: Floats, b: Floats) -> tuple[Floats, Floats]:
        """Return factors (A', B') of one tensor, made from those of the adapter that is its `reference`.

        A is float32 (r, in) and B float32 (out, r); the direction is s B' A' with the adapter's scale s. Only for kinds
        that have a `reference` and an `endpoint` of their own.
        """
        raise AssertionError(f"a direction of kind {self.kind} is not made from an adapter")


def names() -> list[str]:
    """Return the names of the kinds of this program, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


@functools.cache
def get(kind: str) -> type[Direction]:
    """Return the class of the kind with this name.

    Args:
        kind: Name of a kind of this program or of an installed package, or NAME@HASH. If the package that has this hash
            is not installed, the class can describe stored directions, but not measure them.

    Raises:
        ValueError: There is no such kind.
        UserError: The package of the kind cannot be used.
    """
    name, _, source = kind.partition("@")
    if name in plugins.installed(ENTRY_POINTS) and name not in names():
        try:
            installed = _installed(name)
        except UserError:
            if not source:  # else it describes what is stored, which needs no package
                raise
        else:
            if kind in (name, installed.kind):
                return installed
    if source:
        return importlib.import_module(f"{__name__}._unavailable").unavailable(kind)
    if kind not in names():
        raise ValueError(f"unknown kind of direction: {kind}")
    direction = importlib.import_module(f"{__name__}.{kind}").DIRECTION
    is_kind = isinstance(direction, type) and issubclass(direction, Direction) and direction.kind == kind
    assert is_kind, f"directions/{kind}.py must define DIRECTION, a class whose kind is {kind}"
    return direction


@functools.cache
def _installed(name: str) -> type[Direction]:
    """Return the class of a kind of an installed package. Raises UserError if it cannot be used."""
    field, plugin = f"entry point {name}", plugins.load_installed(ENTRY_POINTS, name, "DIRECTION")
    seeded = importlib.import_module(f"{__name__}._seeded").SeededDirection
    kind: type[Direction] = plugin.value
    if not (isinstance(kind, type) and issubclass(kind, seeded)):
        remedy = "DIRECTION is no subclass of SeededDirection: end the file with `DIRECTION = ...`, the class itself"
        raise UserError(field, plugin.origin, remedy)
    if kind.kind.partition("@")[0] != name:
        raise UserError(field, plugin.origin, f"its class has the kind {kind.kind!r}: give it the entry point's name")
    has_fields = len(fields(kind)) != len(fields(seeded))  # type: ignore[arg-type]
    if has_fields or not {"to_json", "from_json"}.isdisjoint(vars(kind)):
        raise UserError(field, plugin.origin, "its class has fields or JSON of its own: leave those of SeededDirection")
    kind.kind = f"{name}@{plugin.sha256[:16]}"
    return kind


def from_json(value: Mapping[str, Any]) -> Direction:
    """Return the direction that `to_json` described. Raises ValueError for an unknown kind."""
    return get(value["kind"]).from_json(value)
