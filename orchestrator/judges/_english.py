"""English words and the pairs of words that are usual in English. scripts/make_english.py made the table."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

USUAL = 4
"""Number of common words in which a group of three letters must occur to count as English."""
COMMON = 20_000
"""Number of common words, which come first in the table; rarer ones follow."""


@dataclass(frozen=True)
class English:
    """The table.

    Attributes:
        numbers: Each word's number. Those below COMMON are in order of frequency.
        pairs: The usual pairs, as first * 2**16 + second.
        trigrams: The groups of three letters in the common words, which have `^` before and `$` after them.
    """

    numbers: dict[str, int]
    pairs: frozenset[int]
    trigrams: frozenset[str]


@cache
def load() -> English:
    """Return the table. Reading it takes a tenth of a second, once in a process."""
    data = resources.files("orchestrator").joinpath("data", "english", "words.txt.gz").read_bytes()
    numbers: dict[str, int] = {}
    pairs: set[int] = set()
    trigrams: Counter[str] = Counter()
    for number, line in enumerate(gzip.decompress(data).decode("ascii").split("\n")):
        word, *followers = line.split(" ")
        numbers[word] = number
        pairs.update((number << 16) + int(follower, 36) for follower in followers)
        if number >= COMMON:
            continue
        marked = f"^{word}$"
        trigrams.update(marked[i : i + 3] for i in range(len(marked) - 2))
    return English(numbers, frozenset(pairs), frozenset(part for part, n in trigrams.items() if n >= USUAL))
