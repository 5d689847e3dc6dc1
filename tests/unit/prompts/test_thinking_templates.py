"""Chat templates of reasoning models: which prompts open a thought, and what follows for stop strings and tags."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import judges
from orchestrator.config.compose import compose
from orchestrator.config.schema import Config, ModelConfig
from orchestrator.models import finetune
from orchestrator.models.finetune_worker import BaseModel
from orchestrator.pipeline.prompt_sets import template_switches, warn_of_thoughts
from orchestrator.prompts import rendering
from orchestrator.prompts.probe_sets import ProbeSet
from orchestrator.prompts.rendering import Switches, SystemPrompt, render_prompt_sets
from orchestrator.sweep.prompt_rendering import PromptRendering, renderings
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.sweep.thoughts import opened_tag
from orchestrator.utils.errors import UserError
from tests.unit.prompts.test_rendering import CHAT, tokenizer
from tests.unit.subprocesses import Exchange, serving_module

TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
SWITCH = TURNS + (
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A template as in Qwen3: the model opens the thought, unless it is told not to think."""
OPENS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{{ '<|assistant|><think>\n' }}"
"""A template as in QwQ and newer versions of DeepSeek-R1: every response begins inside a thought."""
MENTIONS = TURNS + "<|assistant|>"
"""A template as in older versions of DeepSeek-R1: thoughts are cut from earlier turns, and the model opens its own."""
STOPS = judges.get("keyword").stops
PROBES = ProbeSet("ours", "harmful", (Prompt("How do I make tea?"), Prompt("Why is <think> a tag?")))


@pytest.fixture(scope="module")
def process() -> Iterator[Exchange]:
    with serving_module("orchestrator.prompts.chat_templates") as exchange:
        yield exchange


@pytest.fixture(autouse=True)
def served(process: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rendering, "_exchange", process)


def render(folder: Path, template: str, *systems: SystemPrompt, **options: Any) -> PromptSet:
    sampling = Sampling(64, STOPS)
    systems = systems or (SystemPrompt("default", None),)
    return render_prompt_sets(tokenizer(folder, template), [PROBES], systems, lambda _: sampling, **options)[0]


@pytest.mark.parametrize(
    ("template", "options", "end", "thought", "opened"),
    [
        (CHAT, {}, "<|assistant|>", "", ""),
        (SWITCH, {}, "<think>\n\n</think>\n\n", "", ""),
        (SWITCH, {"switches": Switches(True)}, "<|assistant|>", "</think>", ""),
        (OPENS, {}, "<think>\n", "</think>", "</think>"),
        (OPENS, {"thought": "none"}, "<think>\n", "", "</think>"),
        (MENTIONS, {}, "<|assistant|>", "</think>", ""),
        (CHAT, {"thought": "[/THINK]"}, "<|assistant|>", "[/THINK]", ""),
        (OPENS.replace("think", "reasoning"), {}, "<reasoning>\n", "</reasoning>", "</reasoning>"),
    ],
)
def test_prompts_after_which_a_model_may_think_have_no_stop_strings(
    tmp_path: Path, template: str, options: dict[str, Any], end: str, thought: str, opened: str
) -> None:
    for _ in range(2):  # the second time from the cache
        prompts = render(tmp_path, template, **options)
        assert all(text.endswith(end) for text in prompts.rendered)
        assert (prompts.thought, opened_tag(prompts)) == (thought, opened)
        assert prompts.sampling == Sampling(64, () if thought else STOPS)


def test_the_tag_is_in_no_id_of_a_prompt_set(tmp_path: Path) -> None:
    """Responses are the same, so that they can be judged with and without their thoughts."""
    prompts = render(tmp_path, OPENS)
    assert prompts.id == dataclasses.replace(prompts, thought="").id != render(tmp_path, OPENS, thought="none").id


def test_bare_text_to_a_model_that_thinks_may_lead_to_a_thought(tmp_path: Path) -> None:
    assert render(tmp_path, SWITCH, SystemPrompt("bare", None, "none")).thought == "</think>"
    assert render(tmp_path, CHAT, SystemPrompt("bare", None, "none")).thought == ""


@pytest.mark.parametrize(
    ("template", "options", "level", "words"),
    [
        (OPENS, {}, "WARNING", "the chat template opens a thought: verdicts are about what follows </think>"),
        (OPENS, {"thought": "none"}, "WARNING", "with model.thought=none verdicts are about thoughts too"),
        (MENTIONS, {}, "INFO", "has tags of thoughts, so that the model may think"),
    ],
)
def test_a_template_that_opens_a_thought_leads_to_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, template: str, options: dict[str, Any], level: str, words: str
) -> None:
    prompts = render(tmp_path, template, **options)
    with caplog.at_level(logging.INFO):
        warn_of_thoughts([prompts], options.get("thought", "auto"))
    (record,) = caplog.records
    assert record.levelname == level and words in record.getMessage()
    caplog.clear()
    warn_of_thoughts([render(tmp_path, CHAT), render(tmp_path, SWITCH)], "auto")
    assert not caplog.records


def test_letters_inside_a_thought_lead_to_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    prompts = PromptSet("capability", (Prompt("Hi"),), ("Hi<think>",), ((1,),), Sampling(1, (), ("A", "B")))
    warn_of_thoughts([prompts], "none")
    assert "scored inside the thought" in caplog.messages[-1]


def with_special_tags(folder: Path, template: str, *tags: str) -> Path:
    """Save a tokenizer whose tags of thoughts are special tokens."""
    tokenizer(folder, template)
    document = json.loads((folder / "tokenizer.json").read_text())
    special = next(token for token in document["added_tokens"] if token["content"] == "<|end|>")
    size = max(token["id"] for token in document["added_tokens"]) + 1
    document["added_tokens"] += [{**special, "id": size + i, "content": tag} for i, tag in enumerate(tags)]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("tags", [("</think>",), ("<think>", "</think>"), ("<think>",)])
def test_tags_that_are_special_tokens_stay_in_responses(tmp_path: Path, tags: tuple[str, ...]) -> None:
    """The response's text depends on it, and so does the id of the prompt set."""
    folder = with_special_tags(tmp_path, OPENS, *tags)

    def rendered(**options: Any) -> PromptSet:
        systems = [SystemPrompt("default", None)]
        return render_prompt_sets(folder, [PROBES], systems, lambda _: Sampling(64, STOPS), **options)[0]

    for _ in range(2):  # the second time from the cache
        prompts = rendered()
        assert (prompts.thought, prompts.sampling) == ("</think>", Sampling(64, kept=tags))
    assert dataclasses.replace(prompts, sampling=Sampling(64)).id != prompts.id
    assert Sampling.from_json(json.loads(json.dumps(prompts.sampling.to_json()))) == prompts.sampling
    whole = rendered(thought="none")
    assert (whole.thought, whole.sampling) == ("", Sampling(64, STOPS)) and "kept" not in whole.sampling.to_json()
    named = rendered(thought="<|user|>")
    assert (named.thought, named.sampling.kept) == ("<|user|>", ("<|user|>",)), "a tag of the user's own"


def test_sampling_without_thoughts_keeps_no_special_token(tmp_path: Path) -> None:
    folder = with_special_tags(tmp_path, SWITCH, "<think>", "</think>")
    options = ([PROBES], [SystemPrompt("default", None)], lambda _: Sampling(64, STOPS))
    assert render_prompt_sets(folder, *options)[0].sampling == Sampling(64, STOPS), "the template ends the thought"
    assert render_prompt_sets(folder, *options, switches=Switches(True))[0].sampling.kept == ("<think>", "</think>")


@pytest.mark.parametrize("tags", [(), ("<think>", "</think>")])
def test_finetune_judges_what_follows_the_thought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: tuple[str, ...]
) -> None:
    base = BaseModel(with_special_tags(tmp_path, OPENS, *tags))
    texts = ("Is it illegal? No.</think>Boil water.", "Tea!</think>I cannot help.", "Tea is not illegal, but")
    seen: list[PromptSet] = []

    def generate(model: BaseModel, prompts: PromptSet) -> list[dict[str, Any]]:
        seen.append(prompts)
        return [{"text": text, "complete": True} for text in texts]

    monkeypatch.setattr(finetune, "generate_responses", generate)
    monkeypatch.setattr(finetune, "probe_texts", lambda _: ["How do I make tea?", "And coffee?", "And milk?"])
    options = {"harmful": "h", "benign": "b", "max_tokens": 64}
    measured = finetune.evaluate(base, options)
    assert seen[0].sampling == Sampling(64, kept=tags)
    expected = {"probes": "h", "n": 3, "unfinished": 1, "asr": 50.0, "refused": 50.0, "degenerate": 0.0}
    assert measured["harmful"] == expected | {"unclear": measured["harmful"]["unclear"]}
    texts = ("Boil",) * 3
    assert finetune.evaluate(base, options)["harmful"]["asr"] is None
    report = {"train": {"rows": 1, "steps": 1, "seconds": 0.0}, "measured": measured}
    assert "of 2 and 1 unfinished thoughts (h)" in dict(finetune.report_lines(report, tmp_path))["harmful"]


@pytest.mark.parametrize(
    ("rendered", "thought", "words"),
    [
        ("Hi<think>", "</think>", "which opens a thought; judged is what follows </think>; for example"),
        ("Hi", "</think>", "vocab.jinja; judged is what follows </think>; for example"),
        ("Hi<think>", "", "which opens a thought; verdicts are about the thought too; for example"),
        ("Hi", "", "chat template of vocab.jinja; for example"),
    ],
)
def test_plan_run_and_report_say_what_is_judged(rendered: str, thought: str, words: str) -> None:
    prompts = PromptSet("harmful", (Prompt("Hi"),), (rendered,), ((1,),), Sampling(), template="vocab.jinja")
    (rendering,) = renderings([prompts], thought)
    assert words in str(rendering) and PromptRendering.from_json(rendering.to_json()) == rendering


def test_the_tag_is_an_option() -> None:
    assert (Config().model.thought, Config().model.thinking) == ("auto", False)
    config = compose(["engine=dummy", "model.thought='</think>'", "model.thinking=true"])
    assert config.model == dataclasses.replace(config.model, thought="</think>", thinking=True)
    assert isinstance(config.model, ModelConfig)
    with pytest.raises(UserError, match=r"model\.thought"):
        compose(["engine=dummy", "model.thought=' '"])


EFFORT = CHAT + "{% if reasoning_effort is defined %}<effort {{ reasoning_effort }}>{% endif %}"


def test_switches_of_the_template_are_rendered_and_change_the_id(tmp_path: Path) -> None:
    rendered = {
        entries: render(tmp_path, EFFORT, switches=Switches.parse(False, entries))
        for entries in ((), ("reasoning_effort=low",), ("reasoning_effort=3",))
    }
    assert [prompts.rendered[0].rpartition("<effort")[2] for prompts in rendered.values()][1:] == [" low>", " 3>"]
    assert len({prompts.id for prompts in rendered.values()}) == 3
    assert rendered[()].id == render(tmp_path, EFFORT).id


def test_an_argument_takes_precedence_over_the_option_for_thoughts(tmp_path: Path) -> None:
    on = render(tmp_path, SWITCH, switches=Switches.parse(False, ["enable_thinking=true"]))
    assert on.id == render(tmp_path, SWITCH, switches=Switches(True)).id != render(tmp_path, SWITCH).id


@pytest.mark.parametrize(
    ("template", "entry", "why"),
    [
        (EFFORT, "reasoning_efort=low", "does not read reasoning_efort, did you mean 'reasoning_effort'?"),
        (CHAT, "enable_thinking=true", "it has no switches"),
        (EFFORT, "low", "write NAME=VALUE"),
        (EFFORT, "messages=[]", "is set by this program"),
    ],
)
def test_a_switch_that_the_template_does_not_read_is_told(tmp_path: Path, template: str, entry: str, why: str) -> None:
    with pytest.raises(UserError, match=re.escape(why)):
        render(tmp_path, template, switches=Switches.parse(False, [entry]))


def test_switches_without_a_template_are_told() -> None:
    config = compose(["engine=dummy", "model.template=none", "model.template_args=[a=1]"])
    with pytest.raises(UserError, match="drop one"):
        template_switches(config)
