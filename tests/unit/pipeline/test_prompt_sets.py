"""Messages on how prompts were rendered."""

from __future__ import annotations

import logging

import pytest

from orchestrator.pipeline.prompt_sets import log_rendering, warn_of_missing_template
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling


@pytest.mark.parametrize(("template", "warns"), [("missing", True), ("none", False), ("chat_template.jinja", False)])
def test_a_missing_template_leads_to_a_warning_and_a_requested_bare_text_does_not(
    caplog: pytest.LogCaptureFixture, template: str, warns: bool
) -> None:
    prompts = PromptSet("harmful", (Prompt("Hi"),), ("<s>Hi",), ((1,),), Sampling(), "ours", template=template)
    warn_of_missing_template([prompts], "tiny")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warns
    assert all("tiny has no chat template" in message for message in caplog.messages)


def test_a_run_logs_the_source_and_an_example(caplog: pytest.LogCaptureFixture) -> None:
    prompts = PromptSet("harmful", (Prompt("Hi"),), ("<s>Hi",), ((1,),), Sampling(), "ours", template="vocab.jinja")
    with caplog.at_level(logging.INFO):
        log_rendering([prompts])
    assert caplog.messages == ["prompts of ours: chat template of vocab.jinja; for example '<s>Hi'"]
