"""Noise on many slabs of a GPU with a few launches: their records are made once, and each write adds the terms to them.

The time of a write on the host does not depend on Python's speed per slab, which matters with many experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from workers.noise import gpu
from workers.noise.definition import SeedTerms, Slab


@dataclass(frozen=True, eq=False)
class TableEntry:
    """A slab of a tensor whose base is on the device.

    Attributes:
        tensor: Position of its tensor in the table's names.
        slab: The elements to write.
        dst: The destination: a flat tensor.
        source: The slab's base: a flat tensor without gaps.
    """

    tensor: int
    slab: Slab
    dst: torch.Tensor
    source: torch.Tensor


class SlabTable:
    """Records of slabs, kept on the host. Destinations and sources must stay where they are."""

    def __init__(self, names: Sequence[str], entries: Sequence[TableEntry], device: torch.device) -> None:
        """Make the records.

        Args:
            names: Names of the tensors.
            entries: Their slabs, none of which is empty.
            device: The device of all destinations and sources.
        """
        self._names, self._device = list(names), device
        self._entries = list(entries)  # keeps the tensors alive whose addresses are in the records
        self._keys: dict[int, npt.NDArray[np.int64]] = {}
        self._tensors = np.array([entry.tensor for entry in entries], np.int64)
        words, shapes = [], []
        for entry in entries:
            slab, dst, source = entry.slab, entry.dst, entry.source
            gpu.check_slab(slab, slab.cols)
            words.append(gpu.slab_words(slab, gpu.address(dst, slab.dst_off), [gpu.address(source, 0)], slab.cols))
            shapes.append((dst.dtype, source.dtype, gpu.is_contiguous(slab, slab.cols), gpu.programs(slab)))
        self._words = np.array(words, np.int64).reshape(len(entries), gpu.TERMS)
        self._shapes = list(dict.fromkeys(shapes))
        positions = {shape: i for i, shape in enumerate(self._shapes)}
        self._shape_of = np.array([positions[shape] for shape in shapes], np.int64)

    def write(
        self,
        written: npt.NDArray[np.bool_],
        terms: Sequence[SeedTerms],
        scales: Sequence[npt.NDArray[np.float32]],
        row_scales: torch.Tensor | None,
    ) -> None:
        """Write all slabs of some tensors: the base, to which the terms are added in their order.

        Args:
            written: bool[tensors], the tensors to write.
            terms: The terms of all tensors.
            scales: float32[tensors] for each term, the scales of the tensors that have one.
            row_scales: Scales of all rows of all terms, float32 on the device. None if every tensor has one scale.
        """
        slabs = np.flatnonzero(written[self._tensors])
        tensors = self._tensors[slabs]
        records = np.empty((len(slabs), gpu.TERMS + gpu.TERM_WORDS * len(terms)), np.int64)
        records[:, : gpu.TERMS] = self._words[slabs]
        rows = np.zeros(len(slabs), np.int64)
        for t, (term, scale) in enumerate(zip(terms, scales, strict=True)):
            at, sizes, by_row = gpu.TERMS + gpu.TERM_WORDS * t, term.row_sizes[tensors], term.by_row[tensors]
            assert not np.any(by_row & (sizes >= gpu.MAX_SIZE)), "a row is too long"
            records[:, at + gpu.KEY] = self._key_words(term.seed)[tensors]
            records[:, at + gpu.SCALE] = scale.view(np.int32)[tensors]
            records[:, at + gpu.SIZE] = sizes
            records[:, at + gpu.SIZE_DIVISION] = gpu.divisions(sizes)
            if row_scales is not None:
                addresses = row_scales.data_ptr() + row_scales.element_size() * term.starts[:-1][tensors]
                np.copyto(records[:, at + gpu.SCALE], addresses, where=by_row)
                rows |= by_row.astype(np.int64) << t
        gpu.launch(self._groups(self._shape_of[slabs], rows, records, len(terms)), self._device)

    def _groups(
        self, shapes: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], records: npt.NDArray[np.int64], n_terms: int
    ) -> list[gpu.Group]:
        """Divide the records into launches, by shape and by which terms have one scale per row."""
        keys = (shapes << n_terms) | rows
        order = np.argsort(keys, kind="stable")
        groups = []
        for part in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(order) else []:
            dtype, source, contiguous, programs = self._shapes[shapes[part[0]]]
            form = gpu.Form(dtype, (source,), True, n_terms, int(rows[part[0]]), contiguous)
            groups.append(gpu.Group(form, programs, records[part]))
        return groups

    def _key_words(self, seed: int) -> npt.NDArray[np.int64]:
        if seed not in self._keys:
            self._keys[seed] = np.array([gpu.key_word(seed, name) for name in self._names], np.int64)
        return self._keys[seed]
