"""Chat templates of any content render, or are reported with a reason."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.prompts import chat_templates
from tests.fuzz.fuzzing import JSON, damaged, fuzz
from tests.public.test_templates import CHAT, FakeTokenizer


def test_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    @fuzz(80)
    @given(damaged(CHAT.encode()).map(lambda data: data.decode(errors="replace")), st.none() | st.text(max_size=9))
    def attempt(template: str, system: str | None) -> None:
        monkeypatch.setattr(chat_templates, "load_tokenizer", lambda folder: FakeTokenizer(template))
        monkeypatch.setattr(chat_templates, "template_file", lambda folder, tokenizer: "")
        request = {
            "folder": "",
            "template": "tokenizer",
            "source": None,
            "jobs": [([(system, ["Hello"])], "", (False, {}), ["A"])],
        }
        response = chat_templates.respond(request)
        assert response.keys() & {"results", "text", "continuation"}

    attempt()


def test_files_that_may_hold_a_template(tmp_path_factory: pytest.TempPathFactory) -> None:
    file: Path = tmp_path_factory.mktemp("model") / "processor_config.json"

    @fuzz(80)
    @given(JSON | st.fixed_dictionaries({"chat_template": JSON}))
    def attempt(document: Any) -> None:
        file.write_text(json.dumps(document), encoding="utf-8")
        with contextlib.suppress(KeyError, TypeError, ValueError):  # `respond` reports them
            chat_templates._processor_template(file.parent)

    attempt()
