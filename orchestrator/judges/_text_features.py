"""Features of a text by which the judge `degenerate` decides: repetition, English words and their order, torn words.

Pure functions of the text: no locale, no compressor, no model. Features are near 0 in ordinary English and rarely
exceed 1, unless stated otherwise. scripts/fit_network.py and scripts/fit_degenerate.py fit their weights.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from orchestrator.judges import _english
from orchestrator.judges._languages import LANGUAGES

LONGEST_UNIT = 180
"""Length, in characters, of the longest piece whose repetition at the end of a text is detected."""
LONG_MATCH = 24
"""A repetition that breaks off before the piece is complete counts if it has at least this many characters."""
FEW_WORDS = 4
"""Number of ordinary words that are added to a text before shares of its words are computed. The shares in a text of a
few words are thus close to those in ordinary text."""
WINDOW, SHORT_WINDOW = 12, 4
"""Sizes of windows in characters. The fewer of a text's windows are distinct, the more it repeats itself."""

FUNCTION_WORDS = frozenset(
    """
    the of and to in is are was that it for on with as you your i my we be this not or by from at an a can do if they
    how what have has will which their there should must its but so our me no he she him his her them when who all
    been were had did than then because where would could may might into out up about only after before these those
    am us does some any more most very just also
    """.split()  # noqa: SIM905
)
_INFORMAL = frozenset(
    "ok okay lol haha yeah hmm oh um wow hey ur ppl pls thx btw yup nope app wi fi wifi blog selfie".split()  # noqa: SIM905
)
"""Words of everyday texts that the table, which is made of books, lacks."""
_ANY_LANGUAGE = frozenset[str]().union(*LANGUAGES.values())
_SHORT = {"m": "am", "re": "are", "ve": "have", "ll": "will", "d": "would", "s": "is", "t": "not"}

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,:]\d+)*|\n|[^\w\s]+|_+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_PIECE = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"https?://\S+|www\.\S+|[\w.]+@[\w.]+\w|(?<![\w#@])[#@][^\W\d]\w*")
_MARKER = re.compile(r"(?m)^\s*(?:(?:step\s+)?\d{1,3}[.):]|[a-z]:|[-*•])\s+", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_ONE_NUMBER = re.compile(r"[-+$€£]?\d[\d.,:/]*[%°]?\.?")
_DIGIT_RUN = re.compile(r"\d{9,}")
_USUAL_CHARACTERS = frozenset("°€£§©®™±×÷→←↑↓−≤≥≠≈√·½¼¾")
_TORN = re.compile(
    r"(?<![\w'’])[b-hj-zB-HJ-Z](?![\w'’.):])|[a-zà-ÿ][A-Z]|[^\W\d_]{2}\d|\d[^\W\d_]{3}|[a-z]{2}[.;:!?)][a-z]{2}"
)
_SIGNS = re.compile(r"[^\w\s]{2,}")
_USUAL_SIGNS = re.compile(
    r"-{2,3}|={2,}|\.{3}|#{2,}|\*{1,2}|[.,;:?!…)]?[\"'”’»)\]*`]+[.,;:?!)]*|[.?!]+[\"'”’»)]*|[.:,]?[\"'“‘«(\[*`]+|://"
    r"|\[\]|[%)][.,;:]"
)
_JOINT = re.compile(r"(?<=[^\W\d_])(?!/[^/])[^\w\s'’.\-–—@:&*,]+(?=[^\W\d_])")
_HYPHEN = re.compile(r"\w-(?=\w)|\w-(?=[\s,.]|$)")
_ELLIPSIS = re.compile(r"\.{2,}|…|\.,")
_LANGUAGE = re.compile(
    r"\b(?:Arabic|Bengali|Chinese|Greek|Hebrew|Hindi|Japanese|Korean|Persian|Russian|Thai|Ukrainian|translat(?:ed?|ion)|"
    r"alphabet|pronounced)\b"
)
_GAP = re.compile(r"\S {2,}(?=\S)")
_LOOSE_SIGN = re.compile(r"\s[,.;:)](?=\s|$)")
_LOWER_START = re.compile(r"[.!?]\s+[a-z](?![).:])")
_INNER_CAPITAL = re.compile(r"(?<=[a-z] )[A-Z][a-z]")
_STRUCTURE = re.compile(
    r"```\w*\n|</\w+>|<\w+ \w+=|<!--|\"\w+\": ?[\[{\"\d]|\w\(.*\)[;:{]?\s*$|;\s*$|[{}]\s*$|&&|\|\||\$[\w{(]|^\|.*\|$"
    r"|^\s*(?:def|class|import|from|return|elif|for|while|try|function|const|let|var|public|void|package|func|use|SELECT"
    r"|INSERT|CREATE|FROM|RUN|COPY|git|npm|pip|cd|ls|cp|mv|rm|mkdir|cat|grep|curl|ssh|tar|make|docker|apt|echo|sudo"
    r"|export|python3?)\b(?! (?:a|an|the|you|your|it|this)\b)|^\s*[$#>] ?\w|>>> |\w+ ?[-+*/]?= ?[\w\"'\[({]"
    r"|^[-+=|: ]{5,}$"
    r"|\S {2,}\S|\d ?[-+*/^=] ?\d|^\s*\(+\w[\w-]* |^\s*[\da-f]{6,}:|^\w[\w-]*: \S|\b\w+\.\w+\(|--\w+|^\[\w+",
    re.MULTILINE,
)


def structure(text: str) -> float:
    """Return how much a text looks like code, markup, a table or a formula, from 0 to 1: signs of it per line."""
    lines = sum(bool(line.strip()) for line in text.split("\n"))
    return min(len(_STRUCTURE.findall(text)) / max(lines, len(text) / 60, 1.0), 2.0) / 2.0


def regular(text: str) -> float:
    """Return the share of lines that begin like one of the two lines before them: with the same kinds of signs.

    Records, tables, code and lists have such lines. 0 if there are fewer than three lines.
    """
    shapes = [_shape(line) for line in text.split("\n") if line.strip()]
    if len(shapes) < 3:
        return 0.0
    same = sum(shape in shapes[max(0, i - 2) : i] for i, shape in enumerate(shapes))
    return same / (len(shapes) - 1)


def _shape(line: str) -> tuple[str, ...]:
    """Return the kinds of the first four pieces of a line: a word, a capitalized word, a number, or the sign itself."""
    return tuple(
        "0" if piece[0].isdigit() else ("A" if piece[0].isupper() else "a") if piece[0].isalpha() else piece
        for piece in (match[0] for match in itertools.islice(_PIECE.finditer(line), 4))
    )


# Repetition.


def tail_loop(text: str) -> tuple[int, int]:
    """Return the length of the longest end of a text that repeats one piece, and how many times it contains the piece.

    The piece has at most LONGEST_UNIT characters, and its first occurrence may be incomplete. (0, 0) if nothing is
    repeated.
    """
    best = (0, 0)
    n = len(text)
    for size in range(1, min(LONGEST_UNIT, n // 2) + 1):
        if text[-1] != text[-1 - size] or text[n - 4 :] != text[n - 4 - size : n - size]:
            continue
        run = 4
        while run < n - size and text[n - 1 - run] == text[n - 1 - run - size]:
            run += 1
        if (run >= size or run >= LONG_MATCH) and run + size > best[0]:
            best = (run + size, (run + size) // size)
    return best


def _distinct(text: str, size: int) -> float:
    """Return the share of the windows of `size` characters that are distinct; 1 in a shorter text."""
    windows = len(text) - size + 1
    return len({text[i : i + size] for i in range(windows)}) / windows if windows > 0 else 1.0


def _repeated(words: Sequence[str], size: int, start: int = 0) -> float:
    """Return the share of the groups of neighbors from `start` on that occur earlier in the text; 0 if too few."""
    groups = list(zip(*(words[i:] for i in range(size)), strict=False))
    if len(groups) - start < 5:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = 0
    for i, group in enumerate(groups):
        repeated += i >= start and group in seen
        seen.add(group)
    return repeated / (len(groups) - start)


def _same_numbers(pieces: Sequence[str]) -> float:
    """Return how often numbers occur again, if most of at least eight words and numbers are numbers; 0 otherwise."""
    words = [piece for piece in pieces if piece[0].isalnum()]
    numbers = [word for word in words if word[0].isdigit()]
    if len(numbers) < max(8, len(words) / 2):
        return 0.0
    return max(0.0, 0.65 - len(set(numbers)) / len(numbers))


def loop_features(raw: str, structured: float) -> dict[str, float]:
    """Return the features of repetition.

    Args:
        raw: The text.
        structured: What `structure` returned.
    """
    text = raw.strip()
    flat = " ".join(_MARKER.sub("", text).split()).casefold()
    level = _NUMBER.sub("0", flat)
    half = flat[len(flat) // 2 :]
    covered, times = tail_loop(flat)
    share = covered / max(len(flat), 1)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    words = _WORD.findall(flat)
    last = words[-40:]
    pieces = _PIECE.findall(flat)
    same = 1.0 - len(set(last)) / len(last) if len(last) >= 10 else 0.0
    pairs = _repeated(last, 2)
    again = 1.0 - _distinct(flat, WINDOW)
    same_numbers = _same_numbers(pieces[-60:])
    longest = max(flat.split(), key=len, default="")
    return {
        "tail share": share,
        "tail size": min(covered / 150, 1.0),
        "tail thrice": share if times >= 3 else 0.0,
        "tail most": max(0.0, share - 0.5),
        "again": again,
        "again much": max(0.0, again - 0.3),
        "again late": 1.0 - _distinct(half, WINDOW) if len(half) >= 40 else 0.0,
        "again short": max(0.0, 0.5 - _distinct(flat[:200], SHORT_WINDOW)) if len(flat) >= 16 else 0.0,
        "again short late": max(0.0, 0.6 - _distinct(flat[-60:], SHORT_WINDOW)) if len(flat) >= 60 else 0.0,
        "again in a piece": max(0.0, 0.75 - _distinct(longest, SHORT_WINDOW)) if len(longest) >= 20 else 0.0,
        "again counting": 0.0 if same_numbers else 1.0 - _distinct(level, WINDOW) - again,
        "lines": 1.0 - len(set(lines)) / len(lines) if len(lines) >= 3 else 0.0,
        "words": max(0.0, same - 0.35),
        "words much": max(0.0, same - 0.55),
        "pairs": pairs,
        "pairs much": max(0.0, pairs - 0.4),
        "triples": _repeated(last, 3),
        "late triples": _repeated(words, 3, len(words) * 3 // 5),
        "doubled": min(sum(a == b for a, b in itertools.pairwise(pieces)) / max(len(pieces), 4), 0.5),
        "piece triples": _repeated(pieces[-60:], 3) if len(last) < 8 else 0.0,
        "same numbers": same_numbers,
        "number triples": _repeated(pieces[-60:], 3) * sum(map(str.isdigit, flat)) / max(len(flat), 1),
        "blank": max(0.0, raw.count("\n") / max(len(raw), 1) - 0.15),
        "structured": structured * again,
        "short": max(0.0, 1.0 - len(flat) / 60),
    }


def is_uncalibrated(text: str) -> bool:
    """Return whether a text is in a notation that no feature describes: Morse code, emoji, or phonetic letters."""
    solid = "".join(text.split())
    if len(set(text.split())) < 4:
        return False
    phonetic = sum("\u0250" <= c <= "\u02df" for c in solid)
    return not solid.strip(".-/|·−–") or sum(map(_is_emoji, solid)) > 0.4 * len(solid) or phonetic > 0.08 * len(solid)


def is_number(text: str) -> bool:
    """Return whether a text is one number of at most nine digits, with or without a unit sign: a short answer."""
    return _ONE_NUMBER.fullmatch(text) is not None and sum(map(str.isdigit, text)) <= 9


def is_judged_by_rule(text: str) -> bool:
    """Return whether a text is judged without fitted weights: empty, one number, or a notation without features."""
    stripped = text.strip()
    return not stripped or is_number(stripped) or is_uncalibrated(text)


# Words.


@dataclass(frozen=True)
class Words:
    """Counts and shares of a text's words. Shares are from 0 to 1, of the words unless stated otherwise.

    Attributes:
        count: Number of words.
        known: Share of English words.
        function: Share of English function words.
        usual: Share of usual pairs, of the pairs of neighbors of which both words are known.
        pairs: Number of these pairs.
        clashes: Number of pairs of function words that are not usual, per word.
        rare: Share of English words that are rare.
        names: Share of words that are no English words and begin with a capital, among small letters.
        odd: Share of words with a group of letters that hardly occurs in English words.
        foreign: Share of function words of the likeliest other language; 0 if three quarters are English words.
        mixed: Share of function words of further languages.
        long: Share of words of 18 letters or more, of the letters.
        long_unknown: Share of words of 10 letters or more that are no English words.
    """

    count: int
    known: float
    function: float
    usual: float
    pairs: int
    clashes: float
    rare: float
    names: float
    odd: float
    foreign: float
    mixed: float
    long: float
    long_unknown: float


def _parts(word: str) -> list[str]:
    """Return the English words that a word in lower case stands for: "don't" is do, not."""
    head, _, end = word.replace("’", "'").partition("'")
    if not end:
        return ["can", "not"] if word == "cannot" else [word]
    if end == "t" and head.endswith("n"):
        head = {"ca": "can", "wo": "will"}.get(head[:-1], head[:-1])
    return [head, _SHORT.get(end, end)]


def is_common_word(word: str) -> bool:
    """Return whether a word in lower case is a common English one."""
    return _english.load().numbers.get(word, _english.COMMON) < _english.COMMON


def _is_known(word: str) -> bool:
    """Return whether a word, or the word of which it is a plural, is in the table."""
    numbers = _english.load().numbers
    return word in numbers or word in _INFORMAL or (len(word) > 4 and word[-1] == "s" and word[:-1] in numbers)


def is_known_word(word: str) -> bool:
    """Return whether a word in lower case, such as "don't", begins with an English one."""
    return _is_known(_parts(word)[0])


@lru_cache(maxsize=1 << 16)
def is_odd_word(word: str) -> bool:
    """Return whether a word in lower case has a group of letters that hardly occurs in English words."""
    marked, trigrams = f"^{word}$", _english.load().trigrams
    return not word.isascii() or any(marked[i : i + 3] not in trigrams for i in range(len(word)))


def words_of(text: str) -> Words:
    """Return the counts and shares of a text's words."""
    english = _english.load()
    numbers = english.numbers
    usual = pairs = clashes = 0
    before, small_before = -1, False
    seen: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for token in _TOKEN.findall(_NAME.sub("_", text)):
        if not token[0].isalpha():
            before = -1
            continue
        word = token.casefold()
        seen[word] += 1
        names[word] += token.istitle()
        for part in (word,) if word in numbers else _parts(word):
            number, small = numbers.get(part, -1), part in FUNCTION_WORDS
            if number >= 0 and before >= 0:
                pairs += 1
                is_usual = (before << 16) + number in english.pairs
                usual += is_usual
                clashes += small and small_before and not is_usual
            before, small_before = number, small
    first = {word: word if word in numbers else _parts(word)[0] for word in seen}
    total = max(seen.total(), 1)
    unknown = {word: n for word, n in seen.items() if not _is_known(first[word])}
    known = seen.total() - sum(unknown.values())
    foreign, mixed = _foreign(seen) if known < 0.75 * total else (0, 0)
    letters = sum(len(word) * n for word, n in seen.items())
    return Words(
        count=seen.total(),
        known=known / total,
        function=sum(n for word, n in seen.items() if first[word] in FUNCTION_WORDS) / total,
        usual=usual / max(pairs, 1),
        pairs=pairs,
        clashes=clashes / total,
        rare=sum(n for word, n in seen.items() if word not in unknown and not is_common_word(first[word])) / total,
        names=sum(names[word] for word in unknown) / total,
        odd=sum(n for word, n in unknown.items() if is_odd_word(first[word])) / total,
        foreign=foreign / total,
        mixed=mixed / total,
        long=sum(len(word) * n for word, n in seen.items() if len(word) > 17 and word < "\u2e80") / max(letters, 1),
        long_unknown=sum(n for word, n in unknown.items() if len(word) >= 10 and word < "\u2e80") / total,
    )


def _foreign(seen: Counter[str]) -> tuple[int, int]:
    """Count the function words of the likeliest other language, and the words that are only those of further ones."""
    numbers = _english.load().numbers
    candidates = {word: n for word, n in seen.items() if word in _ANY_LANGUAGE and word not in FUNCTION_WORDS}
    sums = {
        code: sum(n for word, n in candidates.items() if word in function_words)
        for code, function_words in LANGUAGES.items()
    }
    best = max(sums, key=sums.__getitem__)
    rest = sum(n for word, n in candidates.items() if word not in LANGUAGES[best] and word not in numbers)
    return sums[best], rest


# Scripts.


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    """Return the script of a letter, `EAST` for those without spaces between words, else an empty string."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").split(" ", 1)[0].split("-", 1)[0]
    return "EAST" if first in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH") else first


def _scripts(text: str) -> tuple[float, float, float]:
    """Return (share of the letters that are not Latin, share outside the main script, changes of script per word)."""
    scripts = [] if text.isascii() else [name for c in text if (name := _script(c))]
    if not scripts:
        return 0.0, 0.0, 0.0
    changes = sum(a != b for a, b in itertools.pairwise(scripts))
    (_, most), *_ = Counter(scripts).most_common(1)
    n = len(scripts)
    words = max(len(text.split()), n // 4)  # some scripts have no spaces
    return 1.0 - scripts.count("LATIN") / n, 1.0 - most / n, changes / max(words, 1)


def without_quotes(text: str) -> str:
    """Return a text without words of other scripts if it names one of their languages, and so may quote them."""
    if text.isascii() or not _LANGUAGE.search(text):
        return text
    return "".join(c for c in text if _script(c) in ("", "LATIN"))


def word_features(text: str, structured: float, regularity: float) -> dict[str, float]:
    """Return the features by which a text is English, another language or none.

    Args:
        text: The text, or its end.
        structured: What `structure` returned for the whole text.
        regularity: What `regular` returned for the whole text.
    """
    text = without_quotes(text)
    words = words_of(text)
    solid = "".join(text.split())
    n, size = words.count + FEW_WORDS, max(len(solid), 1)
    shrink = words.count / n
    unknown, odd = (1.0 - words.known) * shrink, words.odd * shrink
    disorder = (0.62 - words.usual) * words.pairs**0.5
    enough = min(1.0, words.count / 12)
    signs = _sign_features(text, solid, n)
    return signs | {
        "unknown": unknown,
        "mostly unknown": max(0.0, unknown - 0.4),
        "rare": words.rare * shrink,
        "names": words.names * shrink,
        "odd": odd,
        "some odd": odd**0.5,
        "some unknown": unknown**0.5,
        "disorder of few": disorder / (1.0 + words.pairs),
        "disorder": min(max(disorder, -1.5), 3.0),
        "much disorder": min(max(disorder - 1.0, 0.0), 3.0),
        "unknown beside English": unknown * min(words.function, 0.25) * 4.0,
        "odd beside English": odd * min(words.function, 0.25) * 4.0,
        "clashes": words.clashes * shrink,
        "some clashes": (words.clashes * shrink) ** 0.5,
        "few small words": max(0.0, 0.25 - words.function) * enough,
        "small words": min(words.function, 0.25) * enough,
        "long": words.long * max(0.0, 1.0 - 8.0 * words.foreign),
        "long unknown": words.long_unknown,
        "foreign": min(words.foreign, 0.25),
        "mixed": min(words.mixed, 0.25),
        "mostly mixed": words.mixed / max(words.mixed + words.foreign, 0.1),
        "mixed beside English": min(words.mixed + words.foreign, 0.25) * words.function,
        "digits": sum(c.isdigit() for c in solid) / size,
        "capitals": sum(c.isupper() for c in solid) / size,
        "few words": 1.0 / (1.0 + words.count),
        "structured": structured,
        "regular": regularity,
        "regular unknown": regularity * unknown,
        "structured unknown": structured * unknown,
        "structured torn": structured * signs["torn"],
        "structured symbols": structured * signs["symbols"],
    }


def _is_emoji(character: str) -> bool:
    return "\U0001f000" <= character < "\U00020000" or character in "☀☔☕⛄⚡⚽❤✅✨✂✈➡♀♂\u200d\ufe0f"


@lru_cache(maxsize=1 << 16)
def _is_symbol(character: str) -> bool:
    return unicodedata.category(character)[0] != "M" and not _is_emoji(character)


@lru_cache(maxsize=1 << 16)
def _is_glyph(character: str) -> bool:
    """Return whether a character is a sign that texts hardly use: no letter, digit or common sign, and no emoji."""
    if character < "\xa0" or character in _USUAL_CHARACTERS or _is_emoji(character):
        return False
    return unicodedata.category(character)[0] not in "LNMP" or "\u2e80" <= character < "\u3000"


def _rate(pattern: re.Pattern[str], text: str, words: int) -> float:
    """Return the square root of the matches per word, at most 1. The root gives the first matches more weight."""
    return math.sqrt(min(len(pattern.findall(text)) / words, 1.0))


def _sign_features(text: str, solid: str, n: int) -> dict[str, float]:
    """Return the features of a text's punctuation, scripts and spacing.

    Args:
        text: The text.
        solid: The text without white space.
        n: Its number of words plus FEW_WORDS.
    """
    size = max(len(solid), 1)
    ascii_only = text.isascii()
    symbols = sum(not c.isalnum() and (c < "\x80" or _is_symbol(c)) for c in solid) / size
    clusters = sum(not _USUAL_SIGNS.fullmatch(signs) for signs in _SIGNS.findall(text))
    other_letters, minority, changes = _scripts(text)
    glyphs = 0.0 if ascii_only else sum(_is_glyph(c) for c in solid) / size
    return {
        "torn": _rate(_TORN, text, n),
        "clusters": min(clusters / n, 1.0) ** 0.5,
        "joints": _rate(_JOINT, text, n),
        "hyphens": min(max(0.0, len(_HYPHEN.findall(text)) / n - 0.1), 0.5),
        "ellipses": min(len(_ELLIPSIS.findall(text)) / n, 0.6),
        "symbols": symbols,
        "mostly symbols": max(0.0, symbols - 0.4),
        "glyphs": min(glyphs, 0.5) ** 0.5,
        "digit runs": sum(map(len, _DIGIT_RUN.findall(text))) / size,
        "broken": float("\ufffd" in text.rstrip("\ufffd")),
        "blobs": sum(len(t) for t in text.split() if len(t) >= 32 and "-" not in t) / size,
        "diacritics": 0.0 if ascii_only else min(sum(c.isalpha() and c > "\x7f" for c in solid) / size, 0.15),
        "scripts": other_letters,
        "minority script": minority,
        "changes": min(changes, 1.0),
        "breaks": min(text.count("\n") / n, 0.5),
        "gaps": _rate(_GAP, text, n),
        "loose signs": _rate(_LOOSE_SIGN, text, n),
        "lower starts": _rate(_LOWER_START, text, n),
        "inner capitals": _rate(_INNER_CAPITAL, text, n),
        "commas": min(text.count(",") / n, 0.4),
    }
