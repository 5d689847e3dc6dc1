"""Take a seeded random sample of questions, stratified by category. Pure functions."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from orchestrator.utils.hashing import content_id


def stratified_order(categories: Sequence[str], keys: Sequence[str], seed: int) -> list[int]:
    """Return the indices of all items in an order of which every slice is a random sample, stratified by category.

    Within a category, items are in a random order. Item j of the n of a category is placed at (j + u) / n, with a
    uniform u in [0, 1) for each category, so that a slice holds each category in proportion to its size. Random numbers
    are hashes of the seed with an item's key or a category, so they depend neither on the order of the file nor on a
    library.

    Args:
        categories: The category of each item.
        keys: The identity of each item, all different.
        seed: Seed of the sample.
    """
    members = collections.defaultdict(list)
    for i, category in enumerate(categories):
        members[category].append(i)
    places = {}
    for category, positions in members.items():
        offset = _uniform(seed, "category", category)
        for j, i in enumerate(sorted(positions, key=lambda i: _uniform(seed, "item", keys[i]))):
            places[i] = (j + offset) / len(positions), categories[i]
    return sorted(places, key=lambda i: places[i])


def _uniform(seed: int, kind: str, name: str) -> float:
    """Return a number in [0, 1) that is uniform over seeds."""
    return int(content_id([seed, kind, name]), 16) / 2**64
