"""Read questions with correct answers in common layouts, and score responses. Pure functions.

Supported layouts, by the columns of a row:

* MMLU (cais/mmlu; tinyBenchmarks/tinyMMLU): `choices` a list of texts, `answer` the index of the correct one, from 0
* ARC (allenai/ai2_arc; tinyBenchmarks/tinyAI2_arc): `choices` {"text": [...], "label": [...]}, `answerKey` a label
* HellaSwag (Rowan/hellaswag; tinyBenchmarks/tinyHellaswag): `endings` a list of texts, `label` an index, from 0
* WinoGrande (allenai/winogrande; tinyBenchmarks/tinyWinogrande): `option1`, `option2`, `answer` 1 or 2
* the project's own, and MMLU as CSV: `choices` a list or columns A, B, C, D; `answer` a letter
* GSM8K (openai/gsm8k; tinyBenchmarks/tinyGSM8k), for `exact`: `answer` a text whose last line is "#### 42"
* the project's own, for `exact`: `answer` a text, or a list of texts that are all correct; if there are choices, the
  correct one's text

`answers` is how a question is answered: "choice", by a letter, or "exact", by a text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.prompts.probe_files import cell_text, check_encodable
from orchestrator.sweep.tasks import Prompt

GROUP = "capability"
SCORING_VERSION = 3
"""Version of `is_correct`. Version 2 read ".5" as 5 and "2.5e3" as 3, and had no rule for LaTeX boxes. Version 1 took a
choice whose score is NaN for an answer, the last number of every response as its answer, and the hyphen of "5-10" for
a minus sign. Each `reduce` counts the right answers anew."""

LETTERS = tuple("ABCDEFGHIJ")
CHOICE_COLUMNS, ANSWER_COLUMNS = ("choices", "endings"), ("answer", "answerKey", "label")
OPTION_COLUMNS = ("option1", "option2")
FINAL_MARK = "####"
"""Mark before the answer in a GSM8K solution."""

SEPARATOR = "\n"
"""Separates several correct answers in a prompt's target."""


def answer_columns(available: Sequence[str], answers: str) -> list[str]:
    """Return the columns that hold choices and correct answers.

    Args:
        available: The columns of the file.
        answers: "choice" or "exact".

    Raises:
        ValueError: The file has no such columns.
    """
    answer = [name for name in ANSWER_COLUMNS if name in available]
    if not answer:
        names = ", ".join(ANSWER_COLUMNS)
        raise ValueError(f"has no column {names} with the right answers: add one, or probes.answers=null")
    choices = [name for name in CHOICE_COLUMNS if name in available][:1]
    if answers == "exact" or choices:
        return [*choices, answer[0]]
    if all(name in available for name in OPTION_COLUMNS):
        return [*OPTION_COLUMNS, answer[0]]
    letters = [letter for letter in LETTERS if letter in available]
    if len(letters) < 2:
        raise ValueError(
            "has no column choices (nor A, B, ...) with what to choose from: probes.answers=exact needs none"
        )
    return [*letters, answer[0]]


def build_question(text: str, row: Mapping[str, Any], answers: str, where: str) -> tuple[str, tuple[str, ...], str]:
    """Return (prompt, choices, target) of a row.

    Args:
        text: The question.
        row: The row, with the columns that `answer_columns` names.
        answers: "choice" or "exact".
        where: The row's place in the file for errors, such as "line 3".

    Returns:
        For "choice": the question with the lettered choices below it, the choices, and the correct letter. For "exact":
        the question, no choices, and the correct answers, one per line.

    Raises:
        ValueError: The row has no correct answer, or no usable choices.
    """
    answer = next((row[name] for name in ANSWER_COLUMNS if cell_text(row.get(name)) is not None), None)
    if answer is None or answer == "" or answer == []:
        raise ValueError(f"{where} has no right answer: give one in column answer")
    if answers == "exact" and not any(name in row for name in CHOICE_COLUMNS):
        target = _exact_target(answer, where)
        check_encodable(target, where, "its answer")
        return text, (), target
    choices, labels = _choices(row, where)
    letter = _letter(answer, choices, labels, where)
    if answers == "exact":
        return text, (), choices[LETTERS.index(letter)]
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{text}\n{listed}", choices, letter


def _exact_target(answer: Any, where: str) -> str:
    """Return the correct answers, one per line. A GSM8K solution is cut to the text after its last FINAL_MARK.

    Raises:
        ValueError: One of several alternatives is missing or blank; an empty response would be right.
    """
    if isinstance(answer, list | tuple):
        alternatives = [(cell_text(alternative) or "").strip() for alternative in answer]
        if not all(alternatives):
            raise ValueError(f"{where} has an empty answer among its right ones: leave it out")
        return SEPARATOR.join(alternatives)
    return str(answer).rpartition(FINAL_MARK)[2].strip().replace(SEPARATOR, " ")


def _choices(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the choices, and the label of each in the file."""
    choices = next((row[name] for name in CHOICE_COLUMNS if name in row), None)
    labels: list[str] = []
    if isinstance(choices, Mapping):
        labels, choices = choices.get("label") or [], choices.get("text")
        if not isinstance(labels, list | tuple):
            raise ValueError(f"{where} has no labels for its choices: give a list")
        labels = [str(label) for label in labels]
    elif choices is None and all(name in row for name in OPTION_COLUMNS):
        labels, choices = ["1", "2"], [row[name] for name in OPTION_COLUMNS]
    elif choices is None:
        choices = [row[letter] for letter in LETTERS if row.get(letter) not in (None, "")]
    if not isinstance(choices, list | tuple) or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"{where} has no choices: give between 2 and {len(LETTERS)}")
    texts = []
    for letter, choice in zip(LETTERS, choices, strict=False):
        text = cell_text(choice)
        if text is None:
            raise ValueError(f"{where} has nothing as its choice {letter}: write it, or leave the question out")
        check_encodable(text, where, f"choice {letter}")
        texts.append(text)
    return tuple(texts), labels or list(LETTERS[: len(choices)])


def _letter(answer: Any, choices: Sequence[str], labels: Sequence[str], where: str) -> str:
    """Return the letter of the correct choice. `answer`: a label, or an index from 0."""
    label = (cell_text(answer) or "").strip()
    index = labels.index(label) if label in labels else label if isinstance(answer, float) else answer
    if isinstance(index, str) and index.strip().isdecimal():
        index = int(index)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise ValueError(f"{where} has the answer {answer!r}, which is none of its {len(choices)} choices")
    return LETTERS[index]


# Scoring.

# A hyphen after a digit is a range: 5-10. No two parts can match the same text, so that it takes linear time.
_NUMBER = re.compile(r"(?:(?<![\w)\]])[-\u2212])?(?:\d[\d,]*+(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][-+\u2212]?\d+(?!\w))?")
_MARKED = re.compile(rf"^{FINAL_MARK}\s*\$?({_NUMBER.pattern})[^\w\n]*$", re.MULTILINE)
_BOX = "\\boxed{"
_FRACTION = re.compile(r"frac\b|/")
_LATEX_IN_NUMBERS = re.compile(r"\{,\}|\\[,!]")  # 3{,}000 and 3\,000
_ANSWER_CUE = re.compile(r"\banswer(?:\s+is\b|\s*[:=])", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[*_]*\s+|\n")
_DECORATION = re.compile(r"[*_$\u00a3\u20ac\s]|[.!?]+$")
_FIRST_LIST_ITEM = re.compile(r"\s*1\.\s+\S")


def chosen_letter(n_choices: int, scores: Sequence[float]) -> str | None:
    """Return the letter with the highest score, the first of equal ones.

    Args:
        n_choices: Number of choices.
        scores: Score of each letter; further ones are ignored.

    Returns:
        None if the model gave no answer: a score is NaN, or none is finite, as after weights that overflow.
    """
    assert len(scores) >= n_choices, "a choice is scored by its letters"
    choice_scores = scores[:n_choices]
    if any(math.isnan(score) for score in choice_scores) or not any(math.isfinite(score) for score in choice_scores):
        return None
    return LETTERS[max(range(n_choices), key=lambda i: choice_scores[i])]


def chance_level(prompts: Sequence[Prompt]) -> float | None:
    """Return the percentage of questions that letters drawn at random answer right; None without choices."""
    shares = [1 / len(prompt.choices) for prompt in prompts if prompt.choices]
    return 100 * sum(shares) / len(shares) if shares else None


def is_correct(target: str, choices: Sequence[str], response: str, scores: Sequence[float] | None) -> bool:
    """Return whether a question was answered correctly.

    Args:
        target: The correct letter, or the correct answers, one per line.
        choices: The choices. Empty if the answer is a text in the response.
        response: The model's response.
        scores: Score of each letter, of which the highest is the model's choice. Only needed with choices.
    """
    if choices:
        assert scores is not None, "a choice is scored by its letters"
        return chosen_letter(len(choices), scores) == target
    return any(states_answer(response, answer) for answer in target.split(SEPARATOR))


def states_answer(response: str, answer: str) -> bool:
    """Return whether a response states an answer.

    A number is stated if it equals `stated_number` of the response. A text is stated if its words occur in the response
    one after the other, ignoring case and punctuation.
    """
    number = _number(answer)
    if number is not None:
        return stated_number(response) == number
    return f" {_words(answer)} " in f" {_words(response)} "


def stated_number(response: str) -> float | None:
    r"""Return the number that a response gives as its answer. None if it has no number.

    The first rule that applies:

    1. a line that is "####" and a number, as in the solutions of GSM8K; the last such line;
    2. the last `\boxed{}` of LaTeX that ends and holds a number: the first number after its last equals sign, or else
       in it; none if it is a fraction;
    3. a sentence or line with "answer is", "answer:" or "answer =": in the last such one, the number after the last
       equals sign, or else the first number after these words;
    4. a number that is the whole first sentence or line, as in "18. That is 18 dollars in 2 days", but not the first
       item of a numbered list;
    5. the last number of the response.
    """
    marked = _MARKED.findall(response)
    if marked:
        return _number(marked[-1])
    boxed = _last_box(response)
    if boxed is not None:
        number = _NUMBER.search(boxed)
        return None if number is None or _FRACTION.search(boxed) else _number(number[0])
    cues = list(_ANSWER_CUE.finditer(response))
    if cues:
        statement = _first_sentence(response[cues[-1].end() :])
        after_equals = _NUMBER.search(statement.rpartition("=")[2])
        if after_equals:
            return _number(after_equals[0])
    opening = _number(_DECORATION.sub("", _first_sentence(response)))
    if opening is not None and not _FIRST_LIST_ITEM.match(response):
        return opening
    numbers = _NUMBER.findall(response)
    return _number(numbers[-1]) if numbers else None


def _last_box(response: str) -> str | None:
    r"""Return what the last `\boxed{}` that ends and holds a number has after its last equals sign, or else in it."""
    end = len(response)
    while (start := response.rfind(_BOX, 0, end)) >= 0:
        content = _LATEX_IN_NUMBERS.sub("", _in_braces(response[start + len(_BOX) : end]))
        if _NUMBER.search(value := content.rpartition("=")[2]):
            return value
        end = start
    return None


def _in_braces(text: str) -> str:
    """Return the text before the brace that closes one opened before it; empty if none does."""
    depth = 1
    for i, sign in enumerate(text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return text[:i]
    return ""


def _first_sentence(text: str) -> str:
    """Return the first sentence or line of a text, without the whitespace before it."""
    return _SENTENCE_END.split(text.lstrip(), maxsplit=1)[0]


def _number(text: str) -> float | None:
    """Return a text that is one number as that number; None for any other text, and for numbers beyond float64."""
    plain = text.strip().rstrip(".").replace(",", "").replace("\u2212", "-")
    if not re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", plain):
        return None
    number = float(plain)
    return number if math.isfinite(number) else None


def _words(text: str) -> str:
    """Return the text in lower case without punctuation, one space between words."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())
