"""An adapter's update with its rows and columns in random order and with random signs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from orchestrator.sweep.directions._seeded import DrawnDirection
from orchestrator.utils.choices import Norm
from orchestrator.utils.records import check_types

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from orchestrator.sweep.directions import Floats


@dataclass(frozen=True)
class ShuffledDirection(DrawnDirection):
    """A random direction of the rank and the singular values of an adapter, tensor by tensor.

    The rows of B and the columns of A are put into a random order, and each of them gets a random sign: B' = P B and
    A' = A Q with signed permutation matrices P and Q. These are orthogonal, so B' A' = P (B A) Q has the same singular
    values as B A, and therefore its Frobenius norm, its spectral norm and its rank. Factors that are drawn anew would
    have only the rank, because the spectrum of a trained update is not that of a product of random matrices.

    Attributes:
        reference: Content hash of the adapter.
    """

    kind: ClassVar[str] = "shuffled"
    needs_reference: ClassVar[bool] = True
    needs_adapter: ClassVar[bool] = True
    seed: int
    reference: str
    orthogonal_to = None
    fingerprint = None

    @classmethod
    def draw(
        cls, seed: int, norm: Norm, exclude: tuple[str, ...], orthogonal_to: int | None, reference: str | None
    ) -> Self:
        """Return the direction of a seed. The norm and the exclusions of a grid do not apply."""
        assert reference is not None and orthogonal_to is None, "a shuffled direction needs an adapter, and no other"
        return cls(seed, reference)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that identify the direction."""
        return {"kind": self.kind, "seed": self.seed, "reference": self.reference}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the direction that `to_json` described."""
        return check_types(cls(value["seed"], value["reference"]))

    @property
    def label(self) -> str:  # type: ignore[override]
        """Human-readable name."""
        return f"{self.kind} {self.seed}"

    @property
    def endpoint(self) -> str:
        """The direction's id: the engine holds its rearranged factors like those of a further adapter."""
        return self.id

    def rearrange(self, tensor: str, a: Floats, b: Floats) -> tuple[Floats, Floats]:
        """Return the factors (A', B') of one tensor, from the adapter's A (r, in) and B (out, r)."""
        rows, row_signs = self._signed_order(f"{tensor}\nrows", b.shape[0])
        columns, column_signs = self._signed_order(f"{tensor}\ncolumns", a.shape[1])
        return a[:, columns] * column_signs, b[rows] * row_signs[:, None]

    def _signed_order(self, name: str, n: int) -> tuple[npt.NDArray[np.intp], Floats]:
        """Return a random order of 0, ..., n - 1 and n random signs, as docs/noise.md defines them."""
        import numpy as np  # the command line loads all kinds before it needs numpy

        text = f"{self.kind}\n{self.seed}\n{name}".encode()
        words = np.frombuffer(hashlib.shake_128(text).digest(8 * n), "<u8")
        order = np.argsort(words, kind="stable")
        signs = np.where(words & np.uint64(1), np.float32(-1), np.float32(1))
        return order, signs


DIRECTION = ShuffledDirection
