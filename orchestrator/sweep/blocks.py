"""Blocks of probes: prompt sets of a sweep with the same names, which are measured apart and counted together.

A probe set that is divided into blocks (`probes.blocks`) is one prompt set for each block, so that a sweep with more
blocks reuses what is stored of the first ones. Every result is about the probes of all blocks. A point counts there
only if it has all of them, so that points are never compared by different probes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.sweep.tasks import PromptSet


@dataclass(frozen=True)
class PooledPrompts:
    """The prompt sets of a sweep with the blocks of each probe set joined.

    Attributes:
        sets: The joined prompt sets, in the order of their first blocks. One without further blocks is itself.
        ids: Id of a prompt set -> id of the joined one that contains it.
        blocks: Id of a joined prompt set -> ids of its blocks, in the order of the sweep.
    """

    sets: tuple[PromptSet, ...]
    ids: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt_sets: Iterable[PromptSet]) -> PooledPrompts:
        """Join the blocks among these prompt sets."""
        named: dict[tuple[str, str, str], list[PromptSet]] = {}
        for prompts in prompt_sets:
            named.setdefault(prompts.names, []).append(prompts)
        pooled = cls(tuple(map(_joined, named.values())))
        for whole, blocks in zip(pooled.sets, named.values(), strict=True):
            pooled.ids.update(dict.fromkeys((block.id for block in blocks), whole.id))
            pooled.blocks[whole.id] = tuple(block.id for block in blocks)
        return pooled

    @property
    def has_blocks(self) -> bool:
        """True if any probe set has more than one block."""
        return len(self.ids) > len(self.sets)

    def keys(self, keys: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return the keys of tasks, (point id, prompt set id), with the ids of the joined prompt sets."""
        return {(point, self.ids[set_id]) for point, set_id in keys}


def _joined(blocks: Sequence[PromptSet]) -> PromptSet:
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return dataclasses.replace(
        first,
        prompts=tuple(itertools.chain(*(block.prompts for block in blocks))),
        rendered=tuple(itertools.chain(*(block.rendered for block in blocks))),
        token_ids=tuple(itertools.chain(*(block.token_ids for block in blocks))),
    )
