"""Test how answers to questions with right answers are read: letters by their scores, and numbers in a text."""

from __future__ import annotations

import math

import pytest

from orchestrator.prompts.capability import chance_level, chosen_letter, is_correct, stated_number, states_answer
from orchestrator.sweep.tasks import Prompt
from workers.engines.base import log_sum

NAN, INFINITE = math.nan, math.inf


def test_highest_score_is_the_choice_and_the_first_of_equal_ones() -> None:
    assert chosen_letter(4, [-3.0, -1.0, -2.0, -4.0]) == "B"
    assert chosen_letter(3, [-1.0, -1.0, -1.0, 0.0]) == "A", "a fourth letter is none of three choices"
    assert chosen_letter(2, [-INFINITE, -9.0]) == "B", "one impossible letter leaves the others"


@pytest.mark.parametrize("scores", [[NAN] * 4, [NAN, -1.0, -2.0, -3.0], [-1.0, -2.0, -3.0, NAN], [-INFINITE] * 4])
def test_scores_that_are_not_numbers_are_no_answer(scores: list[float]) -> None:
    """Python's `max` keeps the first of incomparable values, so version 1 counted these as "A"."""
    assert chosen_letter(4, scores) is None
    assert not any(is_correct(letter, ("w", "x", "y", "z"), "", scores) for letter in "ABCD")


def test_nan_of_a_further_letter_does_not_matter() -> None:
    assert chosen_letter(2, [-2.0, -1.0, NAN]) == "B"


def test_chance_is_that_of_a_letter_drawn_at_random() -> None:
    two, four = Prompt("a", choices=("x", "y")), Prompt("b", choices=("w", "x", "y", "z"))
    assert chance_level([four, four]) == 25.0 and chance_level([two, four]) == 37.5
    assert chance_level([Prompt("How many?", target="3")]) is None


def test_sum_of_probabilities_with_a_nan_is_nan() -> None:
    assert log_sum([math.log(0.25), math.log(0.5)]) == pytest.approx(math.log(0.75))
    assert log_sum([-INFINITE, -INFINITE]) == -INFINITE
    for values in ([NAN], [-INFINITE, NAN], [NAN, -1.0]):
        assert math.isnan(log_sum(values))


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("18. That is 18 dollars in 2 days", 18),
        ("18\n\nThat is 18 dollars in 2 days.", 18),
        ("**$18.** She sells them for 2 dollars each.", 18),
        ("-7. Because 3 - 10 is below zero.", -7),
        ("\u22127. Because it is 10 below 3.", -7),
        ("5-10", 10),
        ("It takes 5-10 days", 10),
        ("f(2)-3", 3),
        ("The temperature is -3", -3),
        ("3 + 4 = 7", 7),
        ("2 x 9 = 18 and that is all", 18),
        ("The answer is 18. That is 9 dollars on each of 2 days.", 18),
        ("The answer is 2 x 9 = 18 dollars for 2 days.", 18),
        ("Answer: 1,005 apples in 3 boxes", 1005),
        ("The first answer is 4. No, the answer is 5. Check: 5 - 4 = 1.", 5),
        ("The answer is unknown to me, maybe 3", 3),
        ("She has 2 and buys 16.\n#### 18\nThat was 1 problem.", 18),
        ("#### 1. Sum the parts\n9 and 9 make 18", 18),
        ("1. Add 2 and 16.\n2. The sum is 18", 18),
        ("1. The sum of 2 and 16 is 18", 18),
        ("It costs 12.50", 12.5),
        ("So 5 and 1000 make 1005.", 1005),
        (".5", 0.5),
        ("It is -.5 or so", -0.5),
        ("That costs $.50.", 0.5),
        ("See section 3.5.2", 2),
        ("wait ...5", 5),
        ("2.5e3", 2500),
        ("The answer is 2.5E-3 m", 0.0025),
        ("#### 1e3", 1000),
        ("Room 2e", 2),
        ("1e999", None),
        (r"So \boxed{18} dollars in 2 days", 18),
        (r"\boxed{x = 2 \times 9 = \text{18 dollars}} in 2 days", 18),
        (r"First \boxed{4}, then \boxed{5}. The answer is above 3.", 5),
        (r"\boxed{3{,}000} of 2, or \boxed{none}", 3000),
        (r"\boxed{\frac{1}{2}} of 3", None),
        (r"\boxed{1/2}", None),
        (r"It is 7, that is \boxed{", 7),
        ("#### 18\nas \\boxed{19}", 18),
        ("none", None),
        ("", None),
    ],
)
def test_number_that_a_response_gives_as_its_answer(response: str, number: float | None) -> None:
    assert stated_number(response) == number


def test_a_number_is_compared_by_value_and_a_text_by_its_words() -> None:
    assert states_answer("18. That is 18 dollars in 2 days", "18") and not states_answer("18. It is 2 days", "2")
    assert states_answer("5-10", "10") and not states_answer("5-10", "-10")
    assert states_answer("Exactly 1005", "1,005.0")
    assert states_answer("From 5 - 10, as I said", "5-10"), "a range as the right answer is a text"
    assert not states_answer("a number", "nan") and states_answer("It is NaN.", "nan"), "nan is a word"
