"""Chat templates: system messages, and special tokens that a template already holds."""

from __future__ import annotations

from typing import Any

import jinja2.sandbox
import pytest

from orchestrator.prompts import chat_templates
from tests.public.reports import reported

CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<model>"


class FakeTokenizer:
    """A tokenizer whose tokens are characters, and which begins texts with <s> unless it is told not to."""

    eos_token_id = 1

    def __init__(self, template: str) -> None:
        self.chat_template = template
        self.added_tokens_decoder: dict[int, Any] = {}

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment()
        template = environment.from_string(options.get("chat_template") or self.chat_template)
        return template.render(messages=messages, bos_token="<s>", raise_exception=refuse)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": list(map(ord, ("<s>" if add_special_tokens else "") + text))}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, ids))


def render(
    monkeypatch: pytest.MonkeyPatch, tokenizer: FakeTokenizer, system: str | None, template: str = "tokenizer"
) -> str:
    """Return the text of the token ids of one prompt."""
    monkeypatch.setattr(chat_templates, "load_tokenizer", lambda folder: tokenizer)
    monkeypatch.setattr(chat_templates, "template_file", lambda folder, tokenizer: "")
    request = {
        "folder": "",
        "template": template,
        "source": None,
        "jobs": [([(system, ["Hello"])], "", [False, {}], [])],
    }
    ((_, ids, _),) = chat_templates.respond(request)["results"]
    return "".join(map(chr, ids[0]))


@reported("vllm-project/vllm#16976", "vllm-project/vllm#27515", "princeton-pli/retaining-by-doing#5")
def test_a_template_with_the_beginning_token_gets_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendered templates were tokenized with special tokens again, which doubled the first one; it is there once."""
    assert render(monkeypatch, FakeTokenizer(CHAT), None) == "<s><user>Hello<model>"
    assert render(monkeypatch, FakeTokenizer(CHAT), None, "none") == "<s>Hello"


@reported("EleutherAI/lm-evaluation-harness#2109", "EleutherAI/lm-evaluation-harness#2069", "huggingface/chat-ui#1386")
def test_a_template_without_system_messages_gets_them_before_the_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's template raises an error for a system message; its text comes before the user's, and is not lost."""
    picky = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT
    assert render(monkeypatch, FakeTokenizer(picky), "Be brief.") == "<s><user>Be brief.\n\nHello<model>"
