"""The engine's live weights: written from the pristine base, read back, held against what they should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from orchestrator.sweep.points import Point, RandomDirection
from workers.noise.definition import Array, DType, Slab, Term
from workers.weights.checkpoint import Checkpoint, TensorInfo
from workers.weights.device_memory import Made, Memory, Recipe, memory_for
from workers.weights.layout import Layout
from workers.weights.targets import End

RecipeOf = Callable[[TensorInfo], Recipe]

CANARY_SEED = 0xCA4A21
SAMPLED = 64  # elements a region held against the plain reference as well


def at_base(info: TensorInfo) -> Recipe:
    """The origin."""
    return Recipe()


def canary_recipe(base: Array, info: TensorInfo) -> Recipe:
    """A perturbation that moves every tensor, norms, biases and zeros included, by a quarter of its size."""
    from workers.noise.reference import to_float32

    largest = float(np.max(np.abs(to_float32(base[:4096], info.dtype)), initial=0.0))
    scale = np.array([largest / 4 or 1 / 16], dtype=np.float32)
    return Recipe([Term(seed=CANARY_SEED, scale=scale, row_size=max(1, info.size))])


@dataclass(frozen=True)
class Piece:
    """A region of a checkpoint tensor as the engine holds it: values[rows, cols], bits (uint32 or uint16)."""

    slab: Slab
    values: Array


class ResidentWeights:
    """What one process holds of the model: `layout` says where, `parameters` are the live tensors.

    Writes always start from the pristine base, so that no walk, however long, drifts; a tensor is
    rewritten when this point or the one before moves it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        layout: Layout,
        parameters: Mapping[str, torch.Tensor],
        dtype: DType,
        ends: Mapping[str, End] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._checkpoint, self._layout, self._dtype, self._ends = checkpoint, layout, dtype, ends or {}
        device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
        self._device: Memory = memory or memory_for(device, checkpoint, resident=False)
        self._memory = {
            region.parameter: self._device.hold(parameters[region.parameter])
            for regions in layout.values()
            for region in regions
        }
        self._moved: set[str] = set()
        self._scalars: dict[str, Any] = {}

    def move(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        """Stand at the point."""
        from workers.weights.perturbation import blend, by_tensor, terms

        for direction, _ in point.coefficients:
            if isinstance(direction, RandomDirection) and direction.id not in self._scalars:
                self._scalars[direction.id] = by_tensor(scalars[direction.id])  # one checkpoint: their id is enough
        self.write(
            lambda info: Recipe(
                terms(point, info.name, info.shape, self._scalars),
                blend(point, info, self._ends),
            )
        )

    def write(self, recipe_of: RecipeOf) -> None:
        """Every region of every tensor that moves or has moved, made by its recipe."""
        still = set()

        def jobs() -> Iterator[tuple[Made, list[tuple[Any, Slab]]]]:
            for info in self._here():
                recipe = recipe_of(info)
                if not recipe.moves and info.name not in self._moved:
                    continue
                self._moved.add(info.name)  # first: an interrupted write leaves it marked
                if not recipe.moves:
                    still.add(info.name)
                made, regions = Made(info, recipe), self._layout[info.name]
                parts = [(self._memory[r.parameter], part) for r in regions for part in self._device.parts(r.slab)]
                yield from [(made, parts)] if recipe.adapted else ((made, [part]) for part in parts)

        def put(job: tuple[Made, list[tuple[Any, Slab]]]) -> None:
            made, parts = job
            for held, part in parts:
                self._put(held, part, made)

        self._device.spread(jobs(), put)
        self._device.settle()
        self._moved -= still

    def canary(self) -> None:
        """Move every tensor."""
        self.write(self._canary_recipe)

    def origin(self) -> None:
        """Back to the base."""
        self.write(at_base)

    def holds_base(self) -> dict[str, str]:
        """Tensor -> what is wrong, for those that are not the base to the bit."""
        return self._wrong(at_base)

    def holds_canary(self) -> dict[str, str]:
        """Tensor -> what is wrong, for those that are not where `canary` should have put them."""
        return self._wrong(self._canary_recipe)

    def read(self, name: str) -> list[Piece]:
        """Copies of the live regions of a checkpoint tensor."""
        return [
            Piece(region.slab, self._device.host(self._device.window(self._memory[region.parameter], region.slab)))
            for region in self._layout.get(name, ())
        ]

    def addresses(self) -> dict[str, set[int]]:
        """Tensor -> where the memory that its writes go to begins."""
        return {
            name: {self._device.address(self._memory[region.parameter]) for region in regions}
            for name, regions in self._layout.items()
        }

    def _here(self) -> Iterator[TensorInfo]:
        return (info for info in self._checkpoint.tensors() if info.name in self._layout)

    def _canary_recipe(self, info: TensorInfo) -> Recipe:
        return canary_recipe(self._checkpoint.base(info.name), info)

    def _put(self, held: Any, slab: Slab, made: Made) -> None:
        self._device.write(held, slab, made, self._dtype)

    def _wrong(self, recipe_of: RecipeOf) -> dict[str, str]:
        """What differs from an own computation, in bounded memory; a sample of it from the plain reference."""
        wrong: dict[str, str] = {}

        def look(info: TensorInfo) -> None:
            if found := self._difference(Made(info, recipe_of(info))):
                wrong[info.name] = found

        self._device.spread(self._here(), look)
        return {name: wrong[name] for name in sorted(wrong)}

    def _difference(self, made: Made) -> str | None:
        """What is wrong with one tensor."""
        from workers.noise.reference import perturb

        info, terms = made.info, made.recipe.terms
        base, differing, still = self._checkpoint.base(info.name), 0, True
        for region in self._layout[info.name]:
            for slab in self._device.parts(region.slab):
                live = self._device.window(self._memory[region.parameter], slab)
                own = dataclasses.replace(slab, dst_off=0, dst_stride=slab.cols)
                expected = self._device.scratch(slab.rows * slab.cols, self._dtype)
                self._put(expected, own, made)
                differing += self._device.differing(live, self._device.window(expected, own))
            sample = slice(region.slab.k_off, region.slab.k_off + min(SAMPLED, region.slab.cols))
            live = self._device.window(self._memory[region.parameter], region.slab)
            found = self._device.host(live[0, : sample.stop - sample.start])
            plain = perturb(base[sample], info.name, terms, self._dtype, info.dtype, start=sample.start)
            differing += int(np.count_nonzero(found != _bits(plain)))
            if terms and still:
                still = np.array_equal(found, _bits(perturb(base[sample], info.name, (), self._dtype, info.dtype)))
        if terms and still and info.size:
            return "did not move"
        return f"{differing} of {info.size} elements differ" if differing else None


def _bits(values: Array) -> Array:
    return values.view(np.uint32 if values.itemsize == 4 else np.uint16)
