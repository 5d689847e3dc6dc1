"""Make synthetic ruins of the written test texts of benchmarks/data/degenerate, by a seeded draw.

    python -m scripts.make_ruins

scripts/fit_network.py and scripts/fit_degenerate.py make those for training, from training texts only.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "benchmarks" / "data" / "degenerate"
SPLITS = (("test", "sf", 41), ("test 5", "st", 42), ("test 6", "su", 43), ("test 7", "sw", 44))
"""Splits whose written texts are ruined, the beginning of the ids, and the seed."""
OF_A_KIND = 20
PROSE = frozenset({"prose", "long", "recipe", "dialogue", "poem", "anaphora", "refusal", "list"})
SMALL = (
    *("the", "of", "and", "to", "in", "is", "a", "that", "it", "for", "on", "with", "as", "you", "i", "be", "this"),
    *("not", "or", "by", "at", "an", "if", "so", "we", "our"),
)
GLYPHS = "⭕⯌ⱕ⬕⬿♦★☆●■□▲▼◆◇░▒▓█♪♫✓✗→←↑↓€¥§¶†‡•—_=#~^|/\\<>{}[]()*+%$@&0123456789"


@dataclass(frozen=True)
class Sources:
    """What ruins are made of: English prose, its words, and texts in other languages."""

    prose: Sequence[str]
    words: Sequence[str]
    foreign: Sequence[str]

    @classmethod
    def of(cls, written: Sequence[dict[str, Any]]) -> Sources:
        """Return the sources from rows of written.jsonl."""
        prose = [row["text"] for row in written if row["class"] == "coherent" and row["kind"] in PROSE]
        words = sorted({word.lower() for text in prose for word in re.findall(r"[A-Za-z]{3,}", text)})
        other = [row for row in written if row["class"] == "other" and re.fullmatch("[a-z]{2}", row["kind"])]
        return cls(prose, words, [row["text"] for row in other if len(row["text"].split()) > 12])

    def draw(self, rng: random.Random, n: int) -> list[str]:
        """Return `n` random words."""
        return [rng.choice(self.words) for _ in range(n)]


def late_loop(rng: random.Random, sources: Sources) -> str:
    """Return prose that begins to repeat a piece after 300 characters."""
    head = ""
    while len(head) < 300 + rng.randrange(120):
        head = (head + " " + rng.choice(sources.prose)).strip()
    head = head[: rng.randint(305, 430)].rsplit(" ", 1)[0]
    words = rng.choice(sources.prose).split()
    n = rng.randint(1, 12)
    start = rng.randrange(max(1, len(words) - n))
    unit = " ".join(words[start : start + n])
    loop = ""
    while len(loop) < rng.randint(180, 320):
        loop += rng.choice((" ", " ", "\n")) if not loop else ""
        loop += unit + " "
    return head + " " + loop.strip()


def shuffled(rng: random.Random, sources: Sources) -> str:
    """Return prose with its words in random order."""
    words = rng.choice(sources.prose).split()
    rng.shuffle(words)
    return " ".join(words)


def letters(rng: random.Random, sources: Sources) -> str:
    """Return prose with 10 to 30% of its letters replaced by random ones."""
    rate = rng.choice((0.1, 0.15, 0.2, 0.25, 0.3))

    def swap(character: str) -> str:
        if not (character.isascii() and character.isalpha()) or rng.random() >= rate:
            return character
        new = rng.choice(string.ascii_lowercase)
        return new.upper() if character.isupper() else new

    return "".join(map(swap, rng.choice(sources.prose)))


def switches(rng: random.Random, sources: Sources) -> str:
    """Return a text that changes its language every few words."""
    text, out = rng.choice(sources.prose).split(), list[str]()
    foreign = [rng.choice(sources.foreign).split() for _ in range(rng.randint(2, 4))]
    while len(out) < rng.randint(25, 60):
        source = rng.choice([text, *foreign])
        n = rng.randint(1, 4)
        i = rng.randrange(max(1, len(source) - n))
        out += source[i : i + n]
    return " ".join(out)


def hyphens(rng: random.Random, sources: Sources) -> str:
    """Return random words that hyphens join."""
    out = []
    for _ in range(rng.randint(8, 25)):
        part = sources.draw(rng, rng.randint(1, 5))
        if rng.random() < 0.25:
            part.insert(rng.randrange(len(part) + 1), rng.choice(SMALL))
        out.append("-".join(part) + rng.choice(("", "-", ",", "")))
    return " ".join(out)


def ellipses(rng: random.Random, sources: Sources) -> str:
    """Return random words between ellipses."""
    out = []
    for _ in range(rng.randint(8, 22)):
        out.append(" ".join(sources.draw(rng, rng.randint(1, 3))) + rng.choice(("...", "...", " ...", "....", "..,")))
    return rng.choice(("", " ")).join(out)


def torn(rng: random.Random, sources: Sources) -> str:
    """Return pieces of words among small words."""
    out = []
    for _ in range(rng.randint(20, 55)):
        if rng.random() < 0.45:
            out.append(rng.choice(SMALL))
            continue
        word = rng.choice(sources.words)
        cut = rng.randint(1, max(1, len(word) - 1))
        piece = word[:cut] if rng.random() < 0.5 else word[cut:]
        if rng.random() < 0.3:
            piece += rng.choice(sources.words)[: rng.randint(1, 3)]
        if rng.random() < 0.1:
            piece += rng.choice(("-", "'", ",", "."))
        out.append(piece or word)
    return " ".join(out)


def glyphs(rng: random.Random, sources: Sources) -> str:
    """Return a short loop of signs, with no or few words before it."""
    unit = "".join(rng.choice(GLYPHS) for _ in range(rng.randint(1, 4)))
    gap = rng.choice(("", "", " ", "\n"))
    start = " ".join(sources.draw(rng, rng.choice((0, 0, 1, 3))))
    return (start + " " + gap.join([unit] * rng.randint(4, 20))).strip()


def stars(rng: random.Random, sources: Sources) -> str:
    """Return asterisks, with no or few words before them."""
    unit = rng.choice(("***", "**", "*", "* * *", "****", "**-**", "***\n"))
    start = " ".join(sources.draw(rng, rng.choice((0, 0, 0, 2))))
    units = rng.choice((" ", "\n")), rng.choice((" ", "\n", "\n\n")), [unit] * rng.randint(1, 12)
    return (start + units[0] + units[1].join(units[2])).strip()


def two_lines(rng: random.Random, sources: Sources) -> str:
    """Return two lines in turn, sometimes with numbers."""
    lines = []
    for _ in range(2):
        words = rng.choice(sources.prose).split()
        n = rng.randint(2, 9)
        i = rng.randrange(max(1, len(words) - n))
        lines.append(" ".join(words[i : i + n]))
    times, numbered = rng.randint(3, 8), rng.random() < 0.3
    out = [line for _ in range(times) for line in lines]
    return "\n".join(f"{i}. {line}" if numbered else line for i, line in enumerate(out, 1))


def salad(rng: random.Random, sources: Sources) -> str:
    """Return random words among small words."""
    out, n = list[str](), rng.randint(20, 60)
    while len(out) < n:
        out += sources.draw(rng, rng.randint(1, 3)) + ([rng.choice(SMALL)] if rng.random() < 0.6 else [])
        if rng.random() < 0.15:
            out[-1] += rng.choice(".,;:")
    return " ".join(out)


Maker = Callable[[random.Random, Sources], str]

KINDS: dict[str, Maker] = {
    make.__name__: make
    for make in (
        late_loop,
        shuffled,
        letters,
        switches,
        hyphens,
        ellipses,
        torn,
        glyphs,
        stars,
        two_lines,
        salad,
    )
}


def ruins(written: Sequence[dict[str, Any]], seed: str, of_a_kind: int) -> list[tuple[str, str]]:
    """Return (kind, text) of different ruins of each kind that are made of these rows of written.jsonl."""
    sources = Sources.of(written)
    out = []
    for kind, make in KINDS.items():
        rng, seen = random.Random(f"{seed}-{kind}"), set[str]()
        while len(seen) < of_a_kind:
            text = make(rng, sources)
            if text and text not in seen:
                seen.add(text)
                out.append((kind, text))
    return out


def main() -> None:
    """Write synthetic.jsonl."""
    lines = (DATA / "written.jsonl").read_text(encoding="utf-8").splitlines()
    out = []
    for split, prefix, seed in SPLITS:
        written = [row for row in map(json.loads, lines) if row["split"] == split]
        for i, (kind, text) in enumerate(ruins(written, str(seed), OF_A_KIND)):
            out.append({"id": f"{prefix}-{i:03d}", "split": split, "kind": kind, "text": text})
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in out)
    (DATA / "synthetic.jsonl").write_text(rows, encoding="utf-8")


if __name__ == "__main__":
    main()
