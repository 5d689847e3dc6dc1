"""Make the table of English words and pairs that the judge `degenerate` uses, from the word lists of symspellpy.

    pip download --no-deps symspellpy==6.10.1
    python -m scripts.make_english symspellpy-6.10.1-py3-none-any.whl

The lists count words and pairs of neighbors in Google Books (see NOTICE). A line of the table is a word, and the
numbers of the lines (from 0, in base 36) of the words that follow it more often than chance. The common words come
first, in order of frequency, and then the rare ones.
"""

from __future__ import annotations

import gzip
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

TABLE = Path(__file__).parents[1] / "orchestrator" / "data" / "english" / "words.txt.gz"
WORDS = 20_000
"""Number of common words in the table, in order of frequency."""
RARE = 40_000
"""Number of rarer words after them, in alphabetical order, which compresses better."""
PAIRED = 10_000
"""Number of words whose pairs are in the table."""
LIFT = 1.5
"""Minimum ratio of a pair's frequency to the frequency expected if its words were independent."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _rows(wheel: zipfile.ZipFile, name: str) -> Iterator[list[str]]:
    text = wheel.read(f"symspellpy/{name}").decode("utf-8-sig")
    return (line.split() for line in text.splitlines() if line)


def _base36(number: int) -> str:
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def make(wheel: Path) -> bytes:
    """Return the table, compressed, from symspellpy's wheel."""
    with zipfile.ZipFile(wheel) as archive:
        single = {word: int(count) for word, count in _rows(archive, "frequency_dictionary_en_82_765.txt")}
        double = {(a, b): int(n) for a, b, n in _rows(archive, "frequency_bigramdictionary_en_243_342.txt")}
    ranked = sorted(single, key=lambda word: (-single[word], word))
    words = ranked[:WORDS] + sorted(ranked[WORDS : WORDS + RARE])
    number = {word: i for i, word in enumerate(words[:PAIRED])}
    factor = sum(single.values()) ** 2 / sum(double.values())
    followers: list[list[int]] = [[] for _ in words]
    for (a, b), count in double.items():
        if a in number and b in number and count * factor >= LIFT * single[a] * single[b]:
            followers[number[a]].append(number[b])
    lines = [" ".join([word, *map(_base36, sorted(follows))]) for word, follows in zip(words, followers, strict=True)]
    return gzip.compress("\n".join(lines).encode("ascii"), 9, mtime=0)


if __name__ == "__main__":
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_bytes(make(Path(sys.argv[1])))
