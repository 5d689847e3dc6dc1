"""Probes of several turns, and wrappers crossed with probes: what the model, the judges and the ids get."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.config.schema import ProbesConfig
from orchestrator.pipeline.prompt_sets import load_blocks
from orchestrator.prompts import rendering
from orchestrator.prompts.probe_sets import load_probe_set
from orchestrator.prompts.rendering import SystemPrompt, render_prompt_sets
from orchestrator.sweep.tasks import Sampling
from orchestrator.sweep.thoughts import opened_tag
from orchestrator.utils.errors import UserError
from tests.unit.prompts.test_rendering import tokenizer
from tests.unit.subprocesses import serving_module

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
TALK = [
    {"role": "user", "content": "How do I make tea?"},
    {"role": "assistant", "content": "With water. </think>"},
    {"role": "user", "content": [{"type": "text", "text": "How hot?"}]},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_conversation_is_rendered_by_the_template_and_judged_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    system = {"role": "system", "content": "Be brief."}
    rows = [{"messages": TALK}, {"messages": json.dumps([system, *TALK])}, {"messages": TALK[:1]}]
    with caplog.at_level(logging.INFO):
        probes = load_probe_set(ProbesConfig(path=str(write(tmp_path / "chats.jsonl", rows)), group="harmful"))
    assert "conversations from column messages" in caplog.text
    talk = "User: How do I make tea?\n\nAssistant: With water. </think>\n\nUser: How hot?"
    texts = [prompt.text for prompt in probes.prompts]
    assert texts == [talk, f"System: Be brief.\n\n{talk}", "How do I make tea?"]
    systems = [SystemPrompt("default", None), SystemPrompt("ours", "Be kind.")]
    with serving_module("orchestrator.prompts.chat_templates") as exchange:
        monkeypatch.setattr(rendering, "_exchange", exchange)
        (tmp_path / "model").mkdir()
        folder = tokenizer(tmp_path / "model", CHAT)
        plain, kind = render_prompt_sets(folder, [probes], systems, lambda _: Sampling(8))
    turns = "<user>How do I make tea?<assistant>With water. </think><user>How hot?<assistant>"
    assert plain.rendered[0] == turns and plain.rendered[1] == f"<system>Be brief.{turns}"
    assert kind.rendered[0] == f"<system>Be kind.{turns}"
    assert kind.rendered[1] == f"<system>Be kind.\n\nBe brief.{turns}"
    assert plain.rendered[2] == "<user>How do I make tea?<assistant>"
    assert opened_tag(plain) == "" and plain.thought == "", "a tag in an earlier turn is no thought of this response"
    assert plain.id != kind.id


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "give a list of messages"),
        ("hello", "is not JSON"),
        (TALK[:2], "from the user's first message to the user's last one"),
        ([TALK[0], TALK[2]], "must take turns"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a content of text"),
        ([{"role": "user", "content": " "}], "not empty"),
        (["hello"], "each message needs a role"),
        ([*TALK, {"role": "tool", "content": "x"}], "must take turns"),
    ],
)
def test_messages_that_are_no_conversation_are_refused_with_their_row(tmp_path: Path, messages: Any, why: str) -> None:
    path = write(tmp_path / "chats.jsonl", [{"messages": TALK}, {"messages": messages}])
    with pytest.raises(UserError, match=rf"line 2 holds no conversation in column messages.*{why}"):
        load_probe_set(ProbesConfig(path=str(path)))


def test_options_for_single_messages_are_refused_with_conversations(tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [{"chat": TALK, "text": "a"}])
    for options in ({"wrapper": "Say {request}"}, {"wrappers": ["Say {request}"]}, {"context": "text"}):
        with pytest.raises(UserError, match="the file holds conversations"):
            load_probe_set(ProbesConfig(path=str(path), messages="chat", **options))
    with pytest.raises(UserError, match=r"probes.messages=chats.*did you mean 'chat'"):
        load_probe_set(ProbesConfig(path=str(path), messages="chats"))
    (prompt,) = load_probe_set(ProbesConfig(path=str(path))).prompts
    assert prompt.text == "a", "a column of texts comes first"


def test_each_wrapper_makes_a_probe_set_and_the_columns_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "goals.jsonl", [{"goal": "Make tea.", "context": "A kitchen."}, {"goal": "Boil an egg."}])
    given = ["engine=dummy", f"probes.path={path}", "probes.context=context"]
    config = compose([*given, 'probes.wrappers=["{request}","A story, in which: {request}"]'])
    with caplog.at_level(logging.INFO):
        (sets,) = load_blocks(config, Presets(), 1)
    assert caplog.text.count("prompts from column goal, contexts from column context") == 1
    assert [probes.name for probes in sets] == ["goals_w1", "goals_w2"]
    one = load_probe_set(compose([*given, "probes.wrapper='A story, in which: {request}'"]).probes)
    assert sets[1].prompts == one.prompts, "as with one wrapper"
    assert [prompt.target for prompt in sets[1].prompts] == ["A kitchen.\n\n---\n\nMake tea.", "Boil an egg."]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"wrappers": ["no place"]}, "must say once where the request goes"),
        ({"wrappers": ["{request}", "{request}"]}, "is named twice"),
        ({"wrappers": ["{request}"], "wrapper": "a {request}"}, "cannot be combined with probes.wrappers"),
    ],
)
def test_wrappers_that_are_wrong_are_refused(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    path = write(tmp_path / "goals.jsonl", [{"goal": "Make tea."}])
    with pytest.raises(UserError, match=why):
        load_probe_set(ProbesConfig(path=str(path), **options))
