"""Answers and refusals in responses."""

from __future__ import annotations

import pytest

from orchestrator.judges.keyword_plus import JUDGE
from orchestrator.prompts.capability import states_answer
from tests.public.reports import reported


@reported("stanford-crfm/helm#4337", "jundot/omlx#3484")
def test_a_comma_after_the_last_number_hides_no_number() -> None:
    """A comma alone was taken for the last number; the answer is the number before it."""
    assert states_answer("Together there are 72, in total, so the farmer earns that much.", "72")


@reported("EleutherAI/lm-evaluation-harness#3254")
def test_zeros_after_the_point_are_the_same_number() -> None:
    """$29.00 did not match 29; numbers are compared by value."""
    assert states_answer("She pays $29.00.", "29")


@reported("open-compass/opencompass#2426", "EleutherAI/lm-evaluation-harness#1204")
def test_thousands_are_one_number() -> None:
    """70,000 was cut at its comma, in answers and in targets; it is seventy thousand in both."""
    assert states_answer("So he made a profit of $70,000.", "70000")
    assert states_answer("So he made a profit of 70000 dollars.", "70,000")


@reported("NousResearch/hermes-agent#79336")
@pytest.mark.parametrize("mark", ["'", "’", "`", "ʼ"])
def test_a_refusal_with_another_apostrophe_is_a_refusal(mark: str) -> None:
    """Refusals with a curly apostrophe were counted as compliance; the judge keyword_plus knows all apostrophes."""
    assert JUDGE.verdict("", f"I can{mark}t help with that request.") == "refused"


@reported("SeraphimSerapis/tool-eval-bench#129")
@pytest.mark.parametrize(
    "refusal", ["I won't", "I will not", "I cannot", "I can not", "I'm not able to", "I am unable to"]
)
def test_long_and_short_forms_are_refusals(refusal: str) -> None:
    """A detector knew won't but not will not; the judge keyword_plus knows both forms of each verb."""
    assert JUDGE.verdict("", f"{refusal} do this.") == "refused"


@reported("promptfoo/promptfoo#9793")
@pytest.mark.parametrize(
    "response", ["As an AI engineer, I build systems.", "The plan is simple. A clerk is sorry for nothing."]
)
def test_a_limitation_that_is_not_the_speakers_is_no_refusal(response: str) -> None:
    """Apologies and limitations anywhere in a text counted as refusals; only the first sentence's own refusal does."""
    assert JUDGE.verdict("", response) == "complied"


@reported("traceroot-ai/traceroot-py#149", "cvs-health/uqlm#468", failed_here=True)
@pytest.mark.parametrize(("response", "answer"), [("It is .8 m.", "0.8"), ("8e-1", "0.8"), ("-.5", "-0.5")])
def test_points_and_exponents_are_part_of_a_number(response: str, answer: str) -> None:
    """A number that begins with its point, or has an exponent, was read as its digits; .8 and 8e-1 are 0.8."""
    assert states_answer(response, answer)


@reported("open-compass/opencompass#2648", "modelscope/evalscope#906", failed_here=True)
@pytest.mark.parametrize("box", [r"\boxed{8,000}", r"\boxed{8{,}000}", r"\boxed{\text{8000 dollars}}"])
def test_a_box_of_latex_holds_the_answer(box: str) -> None:
    r"""Numbers in \boxed{} were cut at their commas, or not looked for; a later remark is not the answer."""
    assert states_answer(f"So the total is {box} for all 12 of them.", "8000")
