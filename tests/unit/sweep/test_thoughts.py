"""The answer in a response that begins with a thought, and the prompts that open one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.sweep.thoughts import CLOSING_TAGS, Answers, can_think, opened_tag, tag_in, without_thought

END = "</think>"


def prompt_set(*rendered: str, text: str = "Hi") -> PromptSet:
    prompts = tuple(Prompt(f"{text} {i}") for i in range(len(rendered)))
    texts = tuple(template.replace("{}", prompt.text) for template, prompt in zip(rendered, prompts, strict=True))
    return PromptSet("harmful", prompts, texts, tuple((i,) for i in range(len(rendered))), Sampling(8))


@pytest.mark.parametrize(
    ("response", "opened", "answer"),
    [
        # the prompt opens the thought: the response begins inside it
        ("It might be illegal? No.\n</think>\n\nSure: boil water.", True, "Sure: boil water."),
        ("One boils water.</think>I won't help.", True, "I won't help."),
        ("I cannot say yet. First,", True, None),
        ("", True, None),
        ("Hmm.\n</think>", True, ""),
        # the model opens it, or none
        ("<think>\nIllegal?\n</think>\n\nSure.", None, "Sure."),
        ("\n<think>Illegal? Let me", None, None),
        ("Illegal?\n</think>\nSure.", None, "Sure."),
        ("Sure. Tags such as <think> open a thought.", None, "Sure. Tags such as <think> open a thought."),
        ("I'm sorry.", None, "I'm sorry."),
        # the prompt closes it: models that were told not to think do it seldom
        ("I'm sorry.", False, "I'm sorry."),
        ("<think>Well", False, None),
        # users see what follows the first tag
        ("a</think>b</think>c", True, "b</think>c"),
    ],
)
def test_the_answer_follows_the_first_closing_tag(response: str, opened: bool | None, answer: str | None) -> None:
    assert without_thought(response, END, opened) == answer


def test_a_tag_without_a_slash_must_be_in_every_response() -> None:
    assert without_thought("analysisTea.assistantfinalSure.", "assistantfinal", None) == "Sure."
    assert without_thought("analysisTea, then", "assistantfinal", None) is None


@pytest.mark.parametrize(
    ("rendered", "opened", "thinks"),
    [
        ("<|user|>{}<|assistant|><think>\n", END, True),
        ("<|user|>{}<|assistant|><think>\nSure, here is", END, True),  # with a prefill
        ("<|user|>{}<|assistant|>", "", True),
        ("<|user|>{}<|assistant|><think>\n\n</think>\n\n", "", False),
        ("<|user|>{}<|assistant|></think>", "", False),
        # an earlier turn's thought
        ("<|user|>a<|assistant|><think>b</think>c<|user|>{}<|assistant|>", "", True),
        ("<|user|>a<|assistant|><think>b</think>c<|user|>{}<|assistant|><think>\n", END, True),
    ],
)
def test_the_generation_prompt_decides_who_opens_the_thought(rendered: str, opened: str, thinks: bool) -> None:
    prompts = prompt_set(rendered)
    assert opened_tag(prompts) == opened
    assert can_think(prompts, END) is thinks and not can_think(prompts, "")


def test_tags_in_the_prompts_own_text_do_not_count() -> None:
    prompts = prompt_set("<|user|>{}<|assistant|>", text="Which tag follows <think>")
    assert opened_tag(prompts) == ""
    asked = prompt_set("<|user|>{}<|assistant|><think>\n", text="What does </think> mean?")
    assert opened_tag(asked) == END


@pytest.mark.parametrize("closing", CLOSING_TAGS)
def test_a_template_is_searched_for_either_tag(closing: str) -> None:
    assert tag_in(f"{{% if x %}}{closing}{{% endif %}}") == closing
    assert tag_in(f"assistant\n{closing.replace('/', '')}\n") == closing
    assert tag_in("{{ messages }}{{ reasoning_content }}") == ""


def test_each_prompt_of_a_set_is_looked_at() -> None:
    prompts = prompt_set("{}<think>", "{}")
    answers = Answers([prompts], END)
    first, second = (prompt.id for prompt in prompts.prompts)
    assert answers.of(prompts.id, first, "Tea.") is None
    assert answers.of(prompts.id, second, "Tea.") == "Tea."
    assert answers.shown(prompts.id, first, "Tea.") == "[unfinished thought]"
    assert answers.shown(prompts.id, second, "<think>a</think>b") == "b"


@given(st.text(), st.sampled_from(["<u>{}</u>", "{}"]))
def test_a_response_without_a_thought_is_its_own_answer(response: str, rendered: str) -> None:
    prompts = prompt_set(rendered)
    assert Answers([prompts], "").of(prompts.id, prompts.prompts[0].id, response) == response
    if "<think>" not in response and END not in response:
        assert Answers([prompts], END).of(prompts.id, prompts.prompts[0].id, response) == response


@given(st.text(), st.text())
def test_whatever_the_thought_is_the_answer_is_what_follows(thought: str, answer: str) -> None:
    if END not in thought:
        for response, opened in ((f"{thought}{END}{answer}", True), (f"<think>{thought}{END}{answer}", None)):
            assert without_thought(response, END, opened) == answer.lstrip()
