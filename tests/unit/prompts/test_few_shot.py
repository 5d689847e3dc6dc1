"""Prompts in the format of lm-evaluation-harness. tests/harness compares them with those of the harness itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import ProbesConfig
from orchestrator.prompts import rendering
from orchestrator.prompts.probe_sets import ProbeSet, load_probe_set
from orchestrator.prompts.rendering import SystemPrompt, render_prompt_sets
from orchestrator.sweep.tasks import PromptSet, Sampling
from orchestrator.utils.errors import UserError
from tests.unit.prompts.test_probe_sets import preset
from tests.unit.prompts.test_rendering import NO_SYSTEM, decode, tokenizer
from tests.unit.subprocesses import Exchange, serving_module

SUMS = [
    {"question": f" {i} + {i}? ", "subject": "easy_sums", "choices": [str(i), str(2 * i)], "answer": 1} for i in (1, 2)
]
SKY = [{"question": "The sky?", "subject": "sky", "choices": ["blue", "red"], "answer": 0}] * 2
ASKED = [{"question": "3 + 3?", "subject": "easy_sums", "choices": ["6", "7"], "answer": 0}]
HEAD = "The following are multiple choice questions (with answers) about easy sums.\n\n"
QUESTION = "3 + 3?\nA. 6\nB. 7\nAnswer:"
SOLVED = ("1 + 1?\nA. 1\nB. 2\nAnswer:", "2 + 2?\nA. 2\nB. 4\nAnswer:")


@pytest.fixture(scope="module")
def process() -> Iterator[Exchange]:
    """The subprocess that renders, reused because it takes seconds to start."""
    with serving_module("orchestrator.prompts.chat_templates") as exchange:
        yield exchange


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: Exchange) -> Path:
    monkeypatch.setattr(rendering, "_exchange", process)
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def conf(tmp_path: Path, **options: Any) -> ProbesConfig:
    solved = write(tmp_path / "dev.jsonl", [SKY[0], *SUMS])
    questions = write(tmp_path / "test.jsonl", ASKED)
    return preset("mmlu", **{"path": questions, "shots_path": solved, "shots": 2, **options})


def render(probes: ProbeSet, folder: Path | None, system: SystemPrompt, template: str = "tokenizer") -> PromptSet:
    sampling = Sampling(1, (), probes.letters)
    (rendered,) = render_prompt_sets(folder, [probes], [system], lambda _: sampling, template)
    return rendered


def test_plain_text_has_subject_examples_and_cue(tmp_path: Path) -> None:
    """The chat template is not applied, whatever the model's is; the tokenizer adds its <s>."""
    probes = load_probe_set(conf(tmp_path))
    assert (probes.name, probes.prompts[0].text) == ("mmlu_2shot", HEAD + QUESTION)
    folder = tokenizer(tmp_path, words="AB")
    plain = render(probes, folder, SystemPrompt("default", None))
    text = f"{HEAD}{SOLVED[0]} B\n\n{SOLVED[1]} B\n\n{QUESTION}"
    assert plain.rendered == (text,) and decode(plain, folder) == [f"<s>{text}"]
    system = render(probes, folder, SystemPrompt("stern", "Be stern."))
    assert system.rendered == (f"Be stern.\n\n{text}",)


def test_no_examples_leave_subject_and_cue(tmp_path: Path) -> None:
    probes = load_probe_set(conf(tmp_path, shots=0, shots_path=None))
    assert probes.name == "mmlu_0shot"
    assert render(probes, None, SystemPrompt("default", None)).rendered == (HEAD + QUESTION,)


def test_chat_puts_the_subject_into_the_system_message(tmp_path: Path) -> None:
    probes = load_probe_set(conf(tmp_path, turns="chat"))
    folder = tokenizer(tmp_path)
    asked = f"{SOLVED[0]} B\n\n{SOLVED[1]} B\n\n{QUESTION}"
    chat = render(probes, folder, SystemPrompt("default", None))
    assert probes.name == "mmlu_2shot_chat"
    assert chat.rendered == (f"<s><|system|>{HEAD}<|end|><|user|>{asked}<|end|><|assistant|>",)
    stern = render(probes, folder, SystemPrompt("stern", "Be stern."))
    assert stern.rendered[0].startswith(f"<s><|system|>Be stern.\n\n{HEAD}<|end|><|user|>{SOLVED[0]} B")


def test_multiturn_has_a_turn_for_each_example(tmp_path: Path) -> None:
    probes = load_probe_set(conf(tmp_path, turns="multiturn"))
    folder = tokenizer(tmp_path)
    turns = "".join(f"<|user|>{asked}<|end|><|assistant|>B<|end|>" for asked in SOLVED)
    end = f"{turns}<|user|>{QUESTION}<|end|><|assistant|>"
    assert probes.name == "mmlu_2shot_multiturn"
    assert render(probes, folder, SystemPrompt("default", None)).rendered == (f"<s><|system|>{HEAD}<|end|>{end}",)
    folder = tokenizer(tmp_path, NO_SYSTEM)
    refusing = render(probes, folder, SystemPrompt("default", None)).rendered[0]
    assert refusing == f"<s><|user|>{HEAD}\n\n{end.removeprefix('<|user|>')}", "the subject is not lost"


def test_the_scored_token_is_the_letter_after_the_prompt(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path, words="AB")
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    system = SystemPrompt("default", None)
    plain = render(load_probe_set(conf(tmp_path)), folder, system)
    chat = render(load_probe_set(conf(tmp_path, turns="chat")), folder, system)
    assert plain.sampling.letter_tokens == (vocabulary["ĠA"], vocabulary["ĠB"])
    assert chat.sampling.letter_tokens == (vocabulary["A"], vocabulary["B"])
    cached = render(load_probe_set(conf(tmp_path)), folder, system)
    assert cached == plain
    ours = render(load_probe_set(conf(tmp_path, shots=None)), folder, system)
    assert ours.sampling.letter_tokens == () and ours.probe_set == "mmlu"
    assert not {prompt.id for prompt in ours.prompts} & {prompt.id for prompt in plain.prompts}, "they never pair"


def test_a_tokenizer_without_such_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no single token for each letter") as error:
        render(load_probe_set(conf(tmp_path)), tokenizer(tmp_path), SystemPrompt("default", None))
    assert error.value.field == "model.path"


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"shots": 3}, "probes.shots", "dev.jsonl has only 2 solved examples of easy_sums"),
        ({"shots_path": None}, "probes.shots_path", "name the file that holds the solved examples"),
        ({"shots": -1}, "probes.shots", "must be at least 0"),
        ({"answers": "exact"}, "probes.shots", "is for questions answered by letter"),
        ({"wrapper": "{request}!"}, "probes.wrapper", "cannot be combined with probes.shots"),
        ({"prefill": "Sure"}, "probes.prefill", "cannot be combined with probes.shots"),
        ({"shots_path": "none.jsonl"}, "probes.path", "there is no such file"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        load_probe_set(conf(tmp_path, **options))
    assert error.value.field == field


def test_an_incomplete_example_is_reported_with_its_file(tmp_path: Path) -> None:
    solved = write(tmp_path / "broken.jsonl", [{**SUMS[0], "answer": 7}])
    with pytest.raises(UserError, match="line 1 has the answer 7") as error:
        load_probe_set(conf(tmp_path, shots_path=solved))
    assert error.value.field == "probes.shots_path" and "broken" in str(error.value.value)


def test_the_same_question_in_two_subjects_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "two.jsonl", [ASKED[0], {**ASKED[0], "subject": "sky"}, ASKED[0]])
    probes = load_probe_set(conf(tmp_path, path=path, shots=1))
    assert [prompt.category for prompt in probes.prompts] == ["easy_sums", "sky"]
