"""The source of the chat template and one rendered prompt, as plan, run, summary and report show them."""

from __future__ import annotations

import pytest

from orchestrator.sweep.prompt_rendering import EXAMPLE_LENGTH, PromptRendering, renderings
from orchestrator.sweep.tasks import MISSING_TEMPLATE, NO_TEMPLATE, Prompt, PromptSet, Sampling


def prompt_set(template: str, rendered: str = "<s>Hi\n", system_prompt: str = "default") -> PromptSet:
    return PromptSet(
        "harmful", (Prompt("Hi"),), (rendered,), ((1,),), Sampling(), "p", system_prompt, template=template
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("chat_template.json", "chat template of chat_template.json; for example '<s>Hi\\n'"),
        (NO_TEMPLATE, "bare text without a chat template; for example '<s>Hi\\n'"),
        (MISSING_TEMPLATE, "no chat template: bare text; for example '<s>Hi\\n'"),
        ("", "chat template not recorded (stored by an earlier version); for example '<s>Hi\\n'"),
    ],
)
def test_the_text_names_the_source_and_shows_a_prompt_on_one_line(template: str, text: str) -> None:
    assert str(PromptRendering.of(prompt_set(template))) == text


def test_a_long_example_keeps_its_beginning_and_its_end() -> None:
    example = PromptRendering.of(prompt_set("none", "<s>" + "x" * 3 * EXAMPLE_LENGTH + "[/INST]")).example
    assert example.startswith("<s>x") and example.endswith("x[/INST]") and " ... " in example
    assert len(example) == EXAMPLE_LENGTH + len(" ... ")


def test_there_is_one_for_each_template_and_system_prompt() -> None:
    sets = [prompt_set("none"), prompt_set("none", "other"), prompt_set("none", system_prompt="stern"), prompt_set("a")]
    rendered = renderings(sets)
    assert [(r.template, r.system_prompt, r.example) for r in rendered] == [
        ("none", "default", "<s>Hi\n"),
        ("none", "stern", "<s>Hi\n"),
        ("a", "default", "<s>Hi\n"),
    ]
    assert PromptRendering.from_json(rendered[0].to_json()) == rendered[0]
