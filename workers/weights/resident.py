"""Live weights of an engine: write them from the unperturbed base, read them back, compare them with a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orchestrator.sweep.points import ORIGIN, Point
from workers.noise.definition import Array, DType, Slab, Term
from workers.noise.reference import perturb, to_float32
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.device_memory import DeviceMemory, TensorWrite, WriteRecipe, memory_for
from workers.weights.layout import Layout
from workers.weights.perturbation import Scalars, blend, indexed, terms
from workers.weights.references import RearrangedAdapter
from workers.weights.targets import Endpoint

if TYPE_CHECKING:
    import pyarrow as pa

    from workers.weights.noise_writer import NoiseWriter

RecipeOf = Callable[[TensorInfo], WriteRecipe]

CANARY_SEED = 0xCA4A21
SAMPLED = 64  # maximum number of elements per region that are compared with the plain reference as well


def base_recipe(info: TensorInfo) -> WriteRecipe:
    """Return the recipe of the origin: the base itself."""
    return WriteRecipe()


def canary_recipe(base: Array, info: TensorInfo) -> WriteRecipe:
    """Return a recipe that moves every tensor, including norms, biases and zeros.

    It adds noise whose standard deviation is a quarter of the largest magnitude among the tensor's first 4,096
    elements, or 1/16 if these are all zero.
    """
    largest = float(np.max(np.abs(to_float32(base[:4096], info.dtype)), initial=0.0))
    scale = np.array([largest / 4 or 1 / 16], dtype=np.float32)
    return WriteRecipe([Term(seed=CANARY_SEED, scale=scale, row_size=max(1, info.size))])


@dataclass(frozen=True)
class Piece:
    """A region of a checkpoint tensor as the engine holds it: values[rows, cols], bits (uint32 or uint16)."""

    slab: Slab
    values: Array


class ResidentWeights:
    """The weights of one engine process in its memory: the whole model, or a rank's part of it.

    Every write is computed from the unperturbed base, so that errors do not accumulate, however many points are
    applied. A tensor is rewritten if the new point or the previous one moves it.
    """

    def __init__(
        self,
        checkpoint: MappedCheckpoint,
        layout: Layout,
        parameters: Mapping[str, torch.Tensor],
        dtype: DType,
        endpoints: Mapping[str, Endpoint] | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        """Open the engine's tensors for writing. They must contain the base.

        Args:
            checkpoint: The unperturbed base.
            layout: Checkpoint tensor -> regions of parameters.
            parameters: Name -> tensor of the engine.
            dtype: Dtype of the engine's tensors.
            endpoints: Fingerprint -> endpoint of each checkpoint and adapter from which directions are made.
            memory: Access to the device's memory. None: that of the parameters' device, with no copy of the base on a
                GPU.
        """
        self._checkpoint, self._layout, self._dtype = checkpoint, layout, dtype
        self._endpoints = dict(endpoints or {})
        device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
        self._device: DeviceMemory = memory or memory_for(device, checkpoint, resident=False)
        self._memory = {
            region.parameter: self._device.open_parameter(parameters[region.parameter])
            for regions in layout.values()
            for region in regions
        }
        self._moved: set[str] = set()
        self._opened_noise_writer = False  # it needs a resident base, which the first write copies
        self._noise_writer: NoiseWriter | None = None
        self._scalars: dict[str, Any] = {}

    def apply_point(self, point: Point, scalars: Mapping[str, pa.Table | Scalars]) -> None:
        """Write the weights of a point.

        Args:
            point: The point to apply.
            scalars: Direction id -> scalars of each direction of the point that needs them.
        """
        for direction, _ in point.coefficients:
            if direction.needs_scalars and direction.id not in self._scalars:
                # Scalars depend on the direction and the checkpoint, and this object has only one checkpoint.
                self._scalars[direction.id] = indexed(scalars[direction.id])
            if direction.endpoint is not None and direction.endpoint not in self._endpoints:
                adapter = self._endpoints[direction.reference or ""]
                self._endpoints[direction.endpoint] = RearrangedAdapter(adapter, direction)
        if not self._write_noise(point):
            self._write(
                lambda info: WriteRecipe(
                    terms(point, info.name, info.shape, self._scalars),
                    blend(point, info, self._endpoints),
                )
            )

    def apply_canary(self) -> None:
        """Move every tensor by its canary recipe."""
        self._write(self._canary_recipe)

    def restore(self) -> None:
        """Write the unperturbed base."""
        if not self._write_noise(ORIGIN):
            self._write(base_recipe)

    def _write_noise(self, point: Point) -> bool:
        """Write a point made of noise alone by the device's writer of noise. Return False if it cannot."""
        if not all(direction.needs_scalars and direction.endpoint is None for direction, _ in point.coefficients):
            return False
        if not self._opened_noise_writer:
            self._opened_noise_writer = True
            regions = ((info, region) for info in self._tensors() if info.size for region in self._layout[info.name])
            self._noise_writer = self._device.noise_writer(
                (info, self._memory[region.parameter], region.slab) for info, region in regions
            )
        if self._noise_writer is None:
            return False
        self._noise_writer.write(point, self._scalars, self._moved)
        self._device.synchronize()
        return True

    def _write(self, recipe_of: RecipeOf) -> None:
        """Write every region of every tensor that moves, or that the last write moved, by its recipe."""
        at_base = set()

        def jobs() -> Iterator[tuple[TensorWrite, list[tuple[Any, Slab]]]]:
            for info in self._tensors():
                recipe = recipe_of(info)
                if not recipe.changes_base and info.name not in self._moved:
                    continue
                self._moved.add(info.name)  # first, so that an interrupted write leaves it marked
                if not recipe.changes_base:
                    at_base.add(info.name)
                tensor, regions = TensorWrite(info, recipe), self._layout[info.name]
                parts = [(self._memory[r.parameter], part) for r in regions for part in self._device.parts(r.slab)]
                if recipe.needs_whole_tensor:
                    yield tensor, parts
                else:
                    yield from ((tensor, [part]) for part in parts)

        def put(job: tuple[TensorWrite, list[tuple[Any, Slab]]]) -> None:
            tensor, parts = job
            for handle, part in parts:
                self._put(handle, part, tensor)

        self._device.spread(jobs(), put)
        self._device.synchronize()
        self._moved -= at_base

    def differences_from_base(self) -> dict[str, str]:
        """Return tensor -> description of the difference, for the tensors that differ from the base."""
        return self._differences(base_recipe)

    def differences_from_canary(self) -> dict[str, str]:
        """Return tensor -> description of the difference, for the tensors that differ from their canary recipe."""
        return self._differences(self._canary_recipe)

    def read(self, name: str) -> list[Piece]:
        """Return copies of the regions of the engine's memory that hold a checkpoint tensor.

        The list is empty if this process holds no part of it.
        """
        return [
            Piece(region.slab, self._device.to_host(self._device.window(self._memory[region.parameter], region.slab)))
            for region in self._layout.get(name, ())
        ]

    def addresses(self) -> dict[str, set[int]]:
        """Return tensor -> addresses of the storages that its writes go to."""
        return {
            name: {self._device.address(self._memory[region.parameter]) for region in regions}
            for name, regions in self._layout.items()
        }

    def _tensors(self) -> Iterator[TensorInfo]:
        """Yield the tensors of which this process holds a part."""
        return (info for info in self._checkpoint.tensors() if info.name in self._layout)

    def _canary_recipe(self, info: TensorInfo) -> WriteRecipe:
        return canary_recipe(self._checkpoint.base(info.name), info)

    def _put(self, handle: Any, slab: Slab, tensor: TensorWrite) -> None:
        self._device.write(handle, slab, tensor, self._dtype)

    def _differences(self, recipe_of: RecipeOf) -> dict[str, str]:
        """Compare the weights in the engine's memory with their recipes, in bounded memory."""
        wrong: dict[str, str] = {}

        def check(info: TensorInfo) -> None:
            if difference := self._difference(TensorWrite(info, recipe_of(info))):
                wrong[info.name] = difference

        self._device.spread(self._tensors(), check)
        return {name: wrong[name] for name in sorted(wrong)}

    def _difference(self, tensor: TensorWrite) -> str | None:
        """Describe how one tensor differs from its recipe; return None if it does not.

        Every element is compared with a second computation by the same kernel, and a sample with the plain reference.
        """
        info, recipe = tensor.info, tensor.recipe
        base, count, unmoved = self._checkpoint.base(info.name), 0, True
        for region in self._layout[info.name]:
            for slab in self._device.parts(region.slab):
                live = self._device.window(self._memory[region.parameter], slab)
                packed = dataclasses.replace(slab, dst_off=0, dst_stride=slab.cols)
                expected = self._device.scratch(slab.rows * slab.cols, self._dtype)
                self._put(expected, packed, tensor)
                count += self._device.count_differences(live, self._device.window(expected, packed))
            sample = slice(region.slab.k_off, region.slab.k_off + min(SAMPLED, region.slab.cols))
            live = self._device.window(self._memory[region.parameter], region.slab)
            values = self._device.to_host(live[0, : sample.stop - sample.start])
            plain = perturb(base[sample], info.name, recipe.terms, self._dtype, info.dtype, start=sample.start)
            count += int(np.count_nonzero(values != _bits(plain)))
            if recipe.terms and unmoved:
                plain_base = perturb(base[sample], info.name, (), self._dtype, info.dtype)
                unmoved = np.array_equal(values, _bits(plain_base))
        if recipe.terms and unmoved and info.size:
            return "did not move"
        return f"{count} of {info.size} elements differ" if count else None


def _bits(values: Array) -> Array:
    return values.view(np.uint32 if values.itemsize == 4 else np.uint16)
