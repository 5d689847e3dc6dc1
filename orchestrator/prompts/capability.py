"""Questions with right answers: by the letter of a choice, or by what the response says. Pure.

Layouts that are understood, by the columns of a row:

* MMLU (cais/mmlu; tinyBenchmarks/tinyMMLU): `choices` a list of texts, `answer` the place of the right one, from 0
* ARC (allenai/ai2_arc; tinyBenchmarks/tinyAI2_arc): `choices` {"text": [...], "label": [...]}, `answerKey` a label
* HellaSwag (Rowan/hellaswag; tinyBenchmarks/tinyHellaswag): `endings` a list of texts, `label` a place, from 0
* WinoGrande (allenai/winogrande; tinyBenchmarks/tinyWinogrande): `option1`, `option2`, `answer` 1 or 2
* ours, and MMLU as CSV: `choices` a list or columns A, B, C, D; `answer` a letter
* GSM8K (openai/gsm8k; tinyBenchmarks/tinyGSM8k), for `exact`: `answer` a text whose last line is "#### 42"
* ours, for `exact`: `answer` a text, or several that are all right; where there are choices, the right one's text
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

GROUP = "capability"
LETTERS = tuple("ABCDEFGHIJ")
CHOICES, ANSWERS = ("choices", "endings"), ("answer", "answerKey", "label")
OPTIONS = ("option1", "option2")
FINAL = "####"  # before GSM8K's answer
OR = "\n"  # between right answers, as they are kept


def columns(there: Sequence[str], answers: str) -> list[str]:
    """Which of a file's columns hold choices and answers. Raises ValueError where there are none."""
    given = [name for name in ANSWERS if name in there]
    if not given:
        raise ValueError(f"has no column {', '.join(ANSWERS)} with the right answers: add one, or probes.answers=null")
    listed = [name for name in CHOICES if name in there][:1]
    if answers == "exact" or listed:
        return [*listed, given[0]]
    if all(name in there for name in OPTIONS):
        return [*OPTIONS, given[0]]
    lettered = [letter for letter in LETTERS if letter in there]
    if len(lettered) < 2:
        raise ValueError(
            "has no column choices (nor A, B, ...) with what to choose from: probes.answers=exact needs none"
        )
    return [*lettered, given[0]]


def question(text: str, row: Mapping[str, Any], answers: str, where: str) -> tuple[str, tuple[str, ...], str]:
    """(prompt, choices, right answer: a letter, or texts one a line) of a row. Raises ValueError, naming `where`."""
    given = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    if given is None or given == "" or given == []:
        raise ValueError(f"{where} has no right answer: give one in column answer")
    if answers == "exact" and not any(name in row for name in CHOICES):
        return text, (), _texts(given)
    choices, labels = _choices(row, where)
    letter = _letter(given, choices, labels, where)
    if answers == "exact":
        return text, (), choices[LETTERS.index(letter)]
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{text}\n{listed}", choices, letter


def _texts(given: Any) -> str:
    if isinstance(given, list | tuple):
        return OR.join(str(each).strip() for each in given)
    return str(given).rpartition(FINAL)[2].strip().replace(OR, " ")


def _choices(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], list[str]]:
    """The choices, and what the file calls them."""
    found = next((row[name] for name in CHOICES if name in row), None)
    labels: list[str] = []
    if isinstance(found, Mapping):
        labels, found = [str(label) for label in found.get("label", ())], found.get("text")
    elif found is None and all(name in row for name in OPTIONS):
        labels, found = ["1", "2"], [row[name] for name in OPTIONS]
    elif found is None:
        found = [row[letter] for letter in LETTERS if row.get(letter) not in (None, "")]
    if not isinstance(found, list | tuple) or not 2 <= len(found) <= len(LETTERS):
        raise ValueError(f"{where} has no choices: give between 2 and {len(LETTERS)}")
    return tuple(map(str, found)), labels or list(LETTERS[: len(found)])


def _letter(given: Any, choices: Sequence[str], labels: Sequence[str], where: str) -> str:
    place = labels.index(str(given).strip()) if str(given).strip() in labels else given
    if isinstance(place, str) and place.strip().isdigit():
        place = int(place)
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(choices):
        raise ValueError(f"{where} has the answer {given!r}, which is none of its {len(choices)} choices")
    return LETTERS[place]


# Scoring.


def is_right(target: str, choices: Sequence[str], response: str, scores: Sequence[float] | None) -> bool:
    """Whether a question was answered right: by the likeliest of its letters, or by what was said."""
    if choices:
        assert scores is not None and len(scores) >= len(choices), "a choice is scored by its letters"
        best = max(range(len(choices)), key=lambda i: scores[i])  # the first of equals
        return LETTERS[best] == target
    return any(says(response, right) for right in target.split(OR))


def says(response: str, right: str) -> bool:
    """A number: the last one in the response is that number. Words: they stand in it, whole, whatever their case."""
    number = _number(right)
    if number is not None:
        said = re.findall(r"-?\d[\d,]*(?:\.\d+)?", response)
        return bool(said) and _number(said[-1]) == number
    return f" {_plain(right)} " in f" {_plain(response)} "


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").strip().rstrip("."))
    except ValueError:
        return None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())
