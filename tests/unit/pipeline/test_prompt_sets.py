"""Messages on the prompts and the model of a run before it begins."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.pipeline.prepare import prepare
from orchestrator.pipeline.prompt_sets import load_blocks, log_rendering, warn_of_missing_template
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


@pytest.mark.parametrize(("limit", "blocks"), [("null", 1), ("3", 1), ("4", 1), ("3", 2), ("4", 2)])
def test_fewer_prompts_than_requested_are_logged_once(
    limit: str, blocks: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text\n" + "".join(f"request {i}\n" for i in range(3 * blocks)))
    config = compose(["engine=dummy", f"probes.path={path}", f"probes.limit={limit}", f"probes.blocks={blocks}"])
    with caplog.at_level(logging.INFO):
        load_blocks(config, Presets(), blocks)
    said = [message for message in caplog.messages if "requests" in message]
    expected = f"prompts of mine: only {3 * blocks} of the {4 * blocks} that probes.limit requests"
    assert said == [expected] * (limit == "4")


@pytest.mark.parametrize(("given", "notes"), [((), 0), (("model.path=/no/such/folder",), 1)])
def test_the_dummy_engine_logs_that_it_uses_no_weights(
    given: tuple[str, ...], notes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose(["engine=dummy", "probes.limit=1", f"out={tmp_path}", *given])
    with caplog.at_level(logging.INFO):
        prepare(config, Presets())
    note = "engine=dummy makes responses up: model.path=/no/such/folder is not used"
    assert [message for message in caplog.messages if "is not used" in message] == [note] * notes
