"""Features of a text's form by which the judge `degenerate` tells notations and languages that it does not know.

Notations obey a grammar of signs, and languages spell and punctuate regularly, even where no word is English. The
features describe this regularity and name no notation. Pure functions of the text, without a locale.
"""

from __future__ import annotations

import itertools
import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from orchestrator.judges._text_features import FUNCTION_WORDS, is_common_word, is_known_word, is_odd_word

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,:]\d+)*|\n|[^\w\s]|_+")
_MARK = re.compile(r"(.?)([.,;:!?]+)(.?)")
_START = re.compile(r"(?:^|[.!?]\s+)[\"'“‘¿¡«(]*([^\W\d_])")
_END = re.compile(r"[.!?][\"'”’)]*$")
_ELISION = re.compile(r"(?<!\w)['’]\w|\w['’](?!\w)")
_VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýāēīōūąęěůűőıyœ")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_PLAIN = frozenset({"a", "A", "x"})
"""Shapes of the words of prose. Rows of these say nothing about a grammar of signs."""
_INFORMAL = frozenset(
    """
    lol lmao rofl omg wtf tbh idk ikr imo imho ngl smh brb btw fyi jk nvm tfw rn ur u r n w k im ive ill id dont didnt
    doesnt isnt wasnt arent havent hasnt wont cant couldnt wouldnt shouldnt aint thats whats theres hes shes lets
    gonna gotta wanna gimme lemme dunno kinda sorta gotcha whatcha yall ya yo nah nope yep yup yeah meh ugh
    geez welp yikes bro dude fam mate legit srsly rlly prob pls plz thx ty np tho thru cuz bc til sup hey haha hahaha
    """.split()  # noqa: SIM905
)
"""Words of messages between friends, which books lack or spell otherwise."""
FEW_CHARACTERS = 12
"""Texts with fewer characters have no measurable alphabet."""
LONG_WORD = 5
"""Shorter words differ from some English word in one letter by chance."""
MOST_CONSONANTS, MOST_VOWELS = 4, 3
"""Longest runs of consonants and of vowels in a word that can be pronounced."""


def format_features(text: str) -> dict[str, float]:
    """Return the features of a text's form. They are from 0 to about 1, unless their name says otherwise."""
    text = text.strip()
    tokens = _TOKEN.findall(text)
    shapes = [_shape(token) for token in tokens]
    words = [token for token in tokens if token[0].isalpha()]
    return {
        **_brackets(text, len(tokens)),
        **_grammar(tokens, shapes),
        **_alphabet(text),
        **_lines(text),
        **_spelling(text, tokens, words),
        **_words(words),
    }


def _shape(token: str) -> str:
    """Return the kind of a token: a word by its case and length, a number by its length, or the sign itself."""
    first = token[0]
    if first.isdigit():
        return "0" if len(token) < 4 else "9"
    if not first.isalpha():
        return first
    if token.isupper():
        return "X" if len(token) == 1 else "AA"
    if first.isupper():
        return "A" if token[1:].islower() else "Ab"
    if len(token) == 1:
        return "x"
    return "a" if token.islower() else "aB"


def _brackets(text: str, n_tokens: int) -> dict[str, float]:
    """Return how many brackets a text has, and how many of them are paired."""
    opened: list[str] = []
    paired = total = 0
    for character in text:
        if character in "([{":
            opened.append(character)
            total += 1
        elif character in ")]}":
            total += 1
            if opened and _CLOSING[opened[-1]] == character:
                opened.pop()
                paired += 2
    n = max(n_tokens, 1)
    share = paired / total if total else 0.0
    return {
        "brackets": min(total / n, 0.5),
        "paired": share,
        "many paired": share * min(total / 6, 1.0),
        "unpaired": min(10.0 * (total - paired) / n, 1.0),
    }


def _grammar(tokens: Sequence[str], shapes: Sequence[str]) -> dict[str, float]:
    """Return how far the second half of a text repeats the sequences of shapes of its first half, and the shares."""
    n = max(len(shapes), 1)
    counts = Counter(shapes)
    signs = [token for token in tokens if not token[0].isalnum() and token != "\n"]
    small = sum(shape == "x" and token not in ("a", "i") for shape, token in zip(shapes, tokens, strict=True))
    return {
        "pairs of shapes": _foretold(shapes, 2),
        "triples of shapes": _foretold(shapes, 3),
        "kinds of shapes": len(counts) / n**0.5,
        "kinds of signs": len(set(signs)) / len(signs) ** 0.5 if signs else 0.0,
        "signs": len(signs) / n,
        "numbers": (counts["0"] + counts["9"]) / n,
        "codes": (counts["AA"] + counts["X"]) / n,
        "capitals within": (counts["aB"] + counts["Ab"]) / n,
        "single letters": small / n,
    }


def _foretold(shapes: Sequence[str], size: int) -> float:
    """Return the share of the groups of neighbors in the second half that occur in the first, but for plain words."""
    groups = list(zip(*(shapes[i:] for i in range(size)), strict=False))
    half = len(groups) // 2
    seen = set(groups[:half])
    later = [group for group in groups[half:] if not _PLAIN.issuperset(group)]
    return sum(group in seen for group in later) / len(later) if len(later) >= 4 else 0.0


def _alphabet(text: str) -> dict[str, float]:
    """Return how many different characters a text has for its length, and how unusual its share of vowels is."""
    solid = "".join(text.split()).casefold()
    size, kinds = max(len(solid), 1), len(set(solid))
    letters = [character for character in solid if character.isalpha()]
    vowels = sum(letter in _VOWELS for letter in letters)
    return {
        "characters": kinds / size**0.5,
        "few characters": max(0.0, 1.0 - kinds / (4.0 + 1.9 * size**0.5)) if size >= FEW_CHARACTERS else 0.0,
        "unusual vowels": abs(vowels / len(letters) - 0.4) if letters else 0.0,
    }


def _lines(text: str) -> dict[str, float]:
    """Return how much the lengths of a text's lines vary, and how many lines end like the line before."""
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    if len(lines) < 3:
        return {"spread of lines": 0.5, "like ends": 0.0}
    sizes = [len(line) for line in lines]
    mean = sum(sizes) / len(sizes)
    spread = math.sqrt(sum((size - mean) ** 2 for size in sizes) / len(sizes)) / mean
    same = sum(before[-1] == line[-1] for before, line in itertools.pairwise(lines))
    return {"spread of lines": min(spread, 1.0), "like ends": same / (len(lines) - 1)}


def _spelling(text: str, tokens: Sequence[str], words: Sequence[str]) -> dict[str, float]:
    """Return how regularly a text is punctuated and capitalized."""
    marks = _MARK.findall(text.replace("\n", " "))
    tidy = sum(
        (before.isalnum() or before in "'\"”’)»") and after in " \"”’')»" and len(mark) == 1
        for before, mark, after in marks
    )
    share = tidy / len(marks) if marks else 0.5
    starts = _START.findall(text)
    inner = sum(a[0].islower() and b[0].isupper() for a, b in itertools.pairwise(tokens))
    return {
        "tidy": share,
        "much tidy": share * min(len(marks) / 4, 1.0),
        "capital starts": sum(start.isupper() for start in starts) / len(starts) if starts else 0.5,
        "ended": float(_END.search(text) is not None),
        "capitals after small": min(4.0 * inner / max(len(tokens), 1), 1.0),
        "elisions": min(len(_ELISION.findall(text)) / max(len(words), 1), 0.5),
        "log tokens": math.log(max(len(tokens), 1)),
    }


def _words(words: Sequence[str]) -> dict[str, float]:
    """Return the features of a text's words, above all of those that are not English."""
    n = max(len(words), 1)
    counts = Counter(word.casefold() for word in words)
    unknown = {word: count for word, count in counts.items() if not is_known_word(word)}
    total = sum(unknown.values())

    def share(chosen: Sequence[bool]) -> float:
        return sum(itertools.compress(unknown.values(), chosen)) / total if total else 0.0

    mean = sum(map(len, words)) / n
    long_enough = {word: count for word, count in unknown.items() if len(word) >= LONG_WORD}
    near_ones = {word: count for word, count in long_enough.items() if _is_nearly_english(word)}
    near = sum(near_ones.values())
    odd = sum(count for word, count in near_ones.items() if is_odd_word(word))
    return {
        "not English": total / n,
        "pronounced": share([_is_pronounced(word) for word in unknown]),
        "odd unknown": share([is_odd_word(word) for word in unknown]),
        "nearly English": near / (sum(long_enough.values()) + 1),
        "nearly English, but odd": odd / (sum(long_enough.values()) + 1),
        "informal": sum(counts[word] for word in counts if word.replace("’", "").replace("'", "") in _INFORMAL) / n,
        "unknown again": 1.0 - len(unknown) / total if total >= 3 else 0.0,
        "short unknown": share([len(word) <= 4 for word in unknown]),
        "ASCII unknown": share([word.isascii() for word in unknown]) if total else 1.0,
        "length of words": mean / 10,
        "spread of words": math.sqrt(sum((len(word) - mean) ** 2 for word in words) / n) / 5,
        "small letters": sum(word.islower() for word in words) / n,
        "English small words": sum(count for word, count in counts.items() if word in FUNCTION_WORDS) / n,
    }


def _is_pronounced(word: str) -> bool:
    """Return whether a word has a vowel, and no long run of consonants or vowels."""
    vowels = [character in _VOWELS for character in word if character.isalpha()]
    longest = {False: 0, True: 0}
    for is_vowel, run in itertools.groupby(vowels):
        longest[is_vowel] = max(longest[is_vowel], len(list(run)))
    return longest[True] > 0 and longest[False] <= MOST_CONSONANTS and longest[True] <= MOST_VOWELS


@lru_cache(maxsize=1 << 16)
def _is_nearly_english(word: str) -> bool:
    """Return whether a word differs from a common English one in one letter, as after noise."""
    return any(
        is_common_word(word[:i] + letter + word[i + 1 :]) for i in range(len(word)) for letter in string.ascii_lowercase
    )
