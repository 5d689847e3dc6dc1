"""The numbers of many drawn grids at once: mean margin, VISAGE, released VISAGE, radius and area.

The definitions are those of `analysis.visage` and `analysis.basin`, which take one landscape at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from orchestrator.analysis import basin

_NEAR_MAX = 99.99


def released(grids: np.ndarray) -> np.ndarray:
    """Return `visage.released` of each line, in percent: [draw, node] to [draw]."""
    n = grids.shape[1]
    place, full = np.arange(n), grids > _NEAR_MAX
    falls = full[:, :-1] & ~full[:, 1:] & (place[1:] < n // 2)
    rises = ~full[:, :-1] & full[:, 1:] & (place[:-1] > n // 2)
    start = np.where(falls.any(axis=1), falls.argmax(axis=1) + 1, 0)
    end = np.where(rises.any(axis=1), n - 2 - rises[:, ::-1].argmax(axis=1), n - 1)
    inside = (place >= start[:, None]) & (place <= end[:, None])
    return np.asarray(((100.0 - grids) * inside).sum(axis=1) / inside.sum(axis=1))


def around(center: Sequence[int], regions: np.ndarray) -> np.ndarray:
    """Return the part of each region that is connected with the center along the axes, bool [draw, ...]."""
    axes = regions.ndim - 1
    connects = np.zeros((3,) * regions.ndim, dtype=bool)
    connects[1] = ndimage.generate_binary_structure(axes, 1)
    labels, _ = ndimage.label(regions, connects)
    at_center = labels.reshape(len(labels), -1)[:, np.ravel_multi_index(tuple(center), regions.shape[1:])].reshape(
        -1, *[1] * axes
    )
    return np.asarray(regions & (labels == at_center))


def radii(grids: np.ndarray, origin: Sequence[int], steps: Sequence[float]) -> np.ndarray:
    """Return the radius of each line or plane: the smallest distance at which the region below 50% ends.

    Args:
        grids: [draw, ...], percent.
        origin: Index of the origin on each axis.
        steps: Distance of neighboring nodes on each axis.

    Returns:
        In the unit of the steps, [draw]. 0 if the origin is not below 50%, NaN if the region does not end.
    """
    below = grids < basin.THRESHOLD
    inside = around(origin, below)
    places = np.stack([(a - o) * s for a, o, s in zip(np.indices(grids.shape[1:]), origin, steps, strict=True)], -1)
    radius = np.full(len(grids), np.inf)
    for axis in range(grids.ndim - 1):
        for ends in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            here, there = ((slice(None),) * axis + (part,) for part in ends)
            draw, *node = np.nonzero(inside[:, *here] & ~below[:, *there])
            before, after = (grids[:, *part][draw, *node] for part in (here, there))
            share = (basin.THRESHOLD - before) / (after - before)
            start, end = (places[part][*node] for part in (here, there))
            np.minimum.at(radius, draw, np.linalg.norm(start + share[:, None] * (end - start), axis=-1))
    radius[np.isinf(radius)] = np.nan
    return np.where(below.reshape(len(below), -1)[:, np.ravel_multi_index(tuple(origin), grids.shape[1:])], radius, 0.0)


def areas(grids: np.ndarray, center: Sequence[int]) -> np.ndarray:
    """Return the share of the nodes in the region below 50% around the center, in percent, [draw]."""
    inside = around(center, grids < basin.THRESHOLD)
    return np.asarray(100.0 * inside.reshape(len(grids), -1).mean(axis=1))
