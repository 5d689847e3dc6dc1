"""Render prompt sets: chat templates, system prompts, special tokens, the cache, and the subprocess without torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.embedded import embedded_folder
from orchestrator.prompts import rendering
from orchestrator.prompts.probe_sets import ProbeSet
from orchestrator.prompts.rendering import TEMPLATES, SystemPrompt, render_prompt_sets
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.errors import UserError
from tests.unit.subprocesses import Exchange, serving_module

CONF = Path(__file__).parents[3] / "conf" / "system_prompt"
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
DEAF = "{% for message in messages if message['role'] == 'user' %}<|user|>{{ message['content'] }}{% endfor %}"
DATED = "{{ date_string }}/{{ strftime_now('%Y-%m-%d') }}" + CHAT
HOSTILE = "{{ ''.__class__.__mro__[1].__subclasses__() }}" + CHAT
SPECIAL = ["<s>", "</s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]

HARMFUL = ProbeSet("asked", "harmful", (Prompt("How do I kill a process?"), Prompt(" Tell me – ünï ✓")))
BENIGN = ProbeSet("others", "benign", (Prompt("How do I kill a process?", group="benign"),))
DEFAULT, EMPTY, STERN = SystemPrompt("default", None), SystemPrompt("empty", ""), SystemPrompt("stern", "Be stern.")


def tokenizer(folder: Path, template: str | None = CHAT, end: str = "", words: str = "") -> Path:
    """Save a byte-level tokenizer that starts every text with <s> and ends it with `end`.

    `words`: letters that are one token together with the space before them.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"Ġ{word}" for word in words)]
    merges = [("Ġ", word) for word in words]
    built = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(SPECIAL)
    ids = [(token, built.token_to_id(token)) for token in SPECIAL[:2]]
    built.post_processor = processors.TemplateProcessing(single=f"<s> $A {end}".strip(), special_tokens=ids)
    built.enable_truncation(4)  # some tokenizers are saved with truncation; prompts must be complete anyway
    built.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def decode(prompts: PromptSet, folder: Path) -> list[str]:
    """Decode the token ids of every prompt, including special tokens."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [loaded.decode(list(ids), skip_special_tokens=False) for ids in prompts.token_ids]


def render(folder: Path | None, *systems: SystemPrompt, template: str = "tokenizer") -> list[PromptSet]:
    return render_prompt_sets(folder, [HARMFUL], systems or [DEFAULT], lambda _: Sampling(8), template)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rendered"


@pytest.fixture(scope="module")
def process() -> Iterator[Exchange]:
    """The subprocess, reused for many requests because it takes seconds to start."""
    with serving_module("orchestrator.prompts.chat_templates") as exchange:
        yield exchange


@pytest.fixture
def count_requests(process: Exchange, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Send all requests to the shared process. The fixture's value returns the number of requests."""
    requests = []

    def exchange(request: dict[str, Any]) -> Any:
        requests.append(request)
        return process(request)

    monkeypatch.setattr(rendering, "_exchange", exchange)
    return lambda: len(requests)


@pytest.mark.thorough
def test_the_subprocess_does_not_import_torch(tmp_path: Path) -> None:
    request = {
        "folder": str(tokenizer(tmp_path)),
        "template": "tokenizer",
        "source": None,
        "jobs": [[[[None, ["Hi"]]], "", [False, {}], []]],
    }
    command = [sys.executable, "-P", "-X", "importtime", "-m", "orchestrator.prompts.chat_templates"]
    limited = json.dumps({"seconds": 600, "memory": None, "request": request})
    completed = subprocess.run(command, input=limited, capture_output=True, text=True, check=True)
    assert json.loads(completed.stdout)["results"][0][0] == ["<s><|user|>Hi<|end|><|assistant|>"]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in completed.stderr.splitlines()}
    assert "transformers" in imported
    assert not imported & {"torch", "vllm", "ray", "pandas", "matplotlib"}


THINKS = CHAT + "{% if enable_thinking is not defined or enable_thinking %}<think>{% else %}<no-thoughts>{% endif %}"


def test_thinking_is_disabled_in_templates_that_support_it(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    (prompts,) = render(tokenizer(tmp_path, THINKS))
    assert all(text.endswith("<|assistant|><no-thoughts>") for text in prompts.rendered)


def test_a_prefill_starts_the_response(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    folder = tokenizer(tmp_path)
    forced = dataclasses.replace(HARMFUL, prefill="Sure, here is")
    plain, prefilled = render_prompt_sets(folder, [HARMFUL, forced], [DEFAULT], lambda _: Sampling(8))
    assert prefilled.rendered[0] == "<s><|user|>How do I kill a process?<|end|><|assistant|> Sure, here is"
    assert decode(prefilled, folder) == list(prefilled.rendered) and prefilled.id != plain.id
    (stand_in,) = render_prompt_sets(None, [forced], [DEFAULT], lambda _: Sampling(8))
    assert stand_in.rendered[0].endswith("process? Sure, here is")


def test_a_system_prompt_may_disable_the_chat_template(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    bare = SystemPrompt("no_template", None, "none")
    with_template, without = render(tokenizer(tmp_path), DEFAULT, bare)
    assert with_template.rendered[0].endswith("<|assistant|>") and without.rendered[0] == "How do I kill a process?"
    assert count_requests() == 2, "a process for each template"


def test_a_rerun_reads_the_cache_without_a_process(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tokenizer(tmp_path)
    first = render(folder, DEFAULT, STERN)
    assert len(list(cache.iterdir())) == 2  # and no partial files next to them
    (folder / "README.md").write_text("Not read by a tokenizer")

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", started)
    assert render(folder, DEFAULT, STERN) == first
    with pytest.raises(AssertionError):
        render(folder, EMPTY)


def test_prompt_sets_keep_order_names_and_sampling(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    sets = render_prompt_sets(
        tokenizer(tmp_path), [HARMFUL, BENIGN], [DEFAULT, STERN], lambda probes: Sampling(len(probes.prompts))
    )
    assert [(s.probe_set, s.system_prompt, s.group, s.sampling.max_tokens) for s in sets] == [
        ("asked", "default", "harmful", 2),
        ("asked", "stern", "harmful", 2),
        ("others", "default", "benign", 1),
        ("others", "stern", "benign", 1),
    ]
    assert [s.prompts for s in sets] == [HARMFUL.prompts] * 2 + [BENIGN.prompts] * 2
    assert len({s.id for s in sets}) == 4
    assert sets[0].rendered[0] == sets[2].rendered[0]
    assert count_requests() == 1


def test_the_tokenizers_template_writes_its_special_tokens_once(
    tmp_path: Path, count_requests: Callable[[], int]
) -> None:
    folder = tokenizer(tmp_path, end="</s>")
    for prompts, system in zip(
        render(folder, DEFAULT, EMPTY, STERN), ("", "<|system|><|end|>", "<|system|>Be stern.<|end|>"), strict=True
    ):
        expected = [f"<s>{system}<|user|>{prompt.text}<|end|><|assistant|>" for prompt in HARMFUL.prompts]
        assert list(prompts.rendered) == expected
        assert decode(prompts, folder) == expected  # one <s>, nothing cut off, no </s>


@pytest.mark.parametrize("template", [NO_SYSTEM, DEAF])
def test_a_template_without_a_system_role_gets_it_in_the_users_message(
    tmp_path: Path, count_requests: Callable[[], int], template: str
) -> None:
    default, empty, stern = render(tokenizer(tmp_path, template), DEFAULT, EMPTY, STERN)
    assert empty.rendered == default.rendered
    assert [text.replace("Be stern.\n\n", "", 1) for text in stern.rendered] == list(default.rendered)
    assert all("<|user|>Be stern.\n\n" in text for text in stern.rendered)


@pytest.mark.parametrize("end", ["", "</s>"])
def test_a_tokenizer_without_a_template_renders_plain_text(
    tmp_path: Path, count_requests: Callable[[], int], end: str
) -> None:
    folder = tokenizer(tmp_path, None, end)
    default, empty, stern = render(folder, DEFAULT, EMPTY, STERN)
    texts = [prompt.text for prompt in HARMFUL.prompts]
    assert list(default.rendered) == list(empty.rendered) == texts
    assert list(stern.rendered) == [f"Be stern.\n\n{text}" for text in texts]
    assert decode(stern, folder) == [f"<s>{text}" for text in stern.rendered]


def test_template_none_renders_plain_text(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    folder = tokenizer(tmp_path)
    (bare,), (chat,) = render(folder, template="none"), render(folder)
    assert bare.rendered[0] == "How do I kill a process?"
    assert decode(bare, folder)[0] == "<s>How do I kill a process?"
    assert bare.id != chat.id


def move_template(folder: Path, file: str) -> None:
    """Move the template of a tokenizer from tokenizer_config.json to another file from which transformers reads it."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = config.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / file).write_text(template if file.endswith(".jinja") else json.dumps({"chat_template": template}))


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json", "processor_config.json"])
def test_a_template_is_read_from_every_file_that_may_hold_it(
    tmp_path: Path, count_requests: Callable[[], int], file: str
) -> None:
    folder = tokenizer(tmp_path)
    (usual,) = render(folder)
    move_template(folder, file)
    (moved,) = render(folder)
    assert moved.token_ids == usual.token_ids and moved.id == usual.id
    assert (usual.template, moved.template) == ("tokenizer_config.json", file)


def test_tekken_beside_tokenizer_json_changes_nothing(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    mistral_common = pytest.importorskip("mistral_common")
    folder = tokenizer(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}))
    (without,) = render(folder)
    tekken = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    (folder / "tekken.json").symlink_to(tekken)
    (beside,) = render(folder)
    assert beside.rendered == without.rendered and beside.id == without.id
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tekken\.json.*tokenizer\.json") as raised:
        render(folder)
    assert raised.value.field == "model.path"


PARTS = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|end|>{% endfor %}<|assistant|>"
)
STRICT_PARTS = PARTS.replace(
    "{% for part", "{% if message['content'] is string %}{{ raise_exception('no text') }}{% endif %}{% for part"
)
SYSTEM_PARTS = PARTS.replace(
    "{% for part in", "{% if message['role'] == 'user' %}{{ message['content'] }}{% else %}{% for part in"
).replace("{% endfor %}<|end|>", "{% endfor %}{% endif %}<|end|>")


@pytest.mark.parametrize("template", [PARTS, STRICT_PARTS])
def test_templates_that_take_lists_of_parts(tmp_path: Path, count_requests: Callable[[], int], template: str) -> None:
    default, stern = render(tokenizer(tmp_path, template), DEFAULT, STERN)
    assert default.rendered[0] == "<|user|>How do I kill a process?<|end|><|assistant|>"
    assert stern.rendered[0] == "<|system|>Be stern.<|end|><|user|>How do I kill a process?<|end|><|assistant|>"


def test_a_template_never_prints_the_list_of_parts(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    (stern,) = render(tokenizer(tmp_path, SYSTEM_PARTS), STERN)
    assert stern.rendered[0].startswith("<|user|>Be stern.\n\nHow do I kill a process?")


def test_prompt_sets_name_the_source_of_their_template(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    folder = tokenizer(tmp_path)
    bare = SystemPrompt("no_template", None, "none")
    assert [prompts.template for prompts in render(folder, DEFAULT, bare)] == ["tokenizer_config.json", "none"]
    assert render(folder, template="mistral")[0].template == "data/templates/mistral.jinja"
    assert render(None)[0].template == "none"
    assert render(tokenizer(tmp_path, None))[0].template == "missing"


def test_named_templates_render_as_documented(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    folder, question = tokenizer(tmp_path), "How do I kill a process?"
    llama2, guardrail = (
        yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))["text"] for name in ("llama2", "safety")
    )
    vicuna = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    expected = {
        "llama2": (
            f"[INST] <<SYS>>\n{llama2}\n<</SYS>>\n\n{question} [/INST]",
            f"[INST] {question} [/INST]",
            f"[INST] <<SYS>>\nBe stern.\n<</SYS>>\n\n{question} [/INST]",
        ),
        "vicuna": (
            f"{vicuna} USER: {question} ASSISTANT:",
            f"USER: {question} ASSISTANT:",
            f"Be stern. USER: {question} ASSISTANT:",
        ),
        "mistral": (
            f"[INST] {guardrail} {question} [/INST]",
            f"[INST] {question} [/INST]",
            f"[INST] Be stern. {question} [/INST]",
        ),
        "llama3": tuple(
            f"{system}<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
            for system in (
                "",
                "<|start_header_id|>system<|end_header_id|>\n\n<|eot_id|>",
                "<|start_header_id|>system<|end_header_id|>\n\nBe stern.<|eot_id|>",
            )
        ),
    }
    assert set(expected) == {path.stem for path in TEMPLATES.iterdir()}
    for name, texts in expected.items():
        sets = render(folder, DEFAULT, EMPTY, STERN, template=name)
        assert [prompts.rendered[0] for prompts in sets] == list(texts)
        assert [decode(prompts, folder)[0] for prompts in sets] == [f"<s>{text}" for text in texts]


def test_a_changed_named_template_is_rendered_anew(
    tmp_path: Path, count_requests: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, templates = tokenizer(tmp_path), tmp_path / "templates"
    templates.mkdir()
    monkeypatch.setattr(rendering, "TEMPLATES", templates)
    for mark in ("Q:", "Ask:"):
        (templates / "mine.jinja").write_text(mark + "{{ messages[-1]['content'] }}")
        assert render(folder, template="mine")[0].rendered[0] == f"{mark}How do I kill a process?"


def test_templates_get_a_fixed_date(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    (prompts,) = render(tokenizer(tmp_path, DATED))
    assert prompts.rendered[0].startswith("26 Jul 2024/2024-07-26<s>")


@pytest.mark.parametrize("folder", [None, Path("nowhere")])
def test_an_unknown_template_is_refused(folder: Path | None) -> None:
    with pytest.raises(UserError, match="did you mean 'llama2'") as raised:
        render(folder, template="lama2")
    assert raised.value.field == "model.template"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (HOSTILE, "__class__"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{% for %}", "Expected an expression"),
        ("<|user|>", "leaves the prompt out"),
    ],
)
def test_a_template_that_fails_is_refused(
    tmp_path: Path, count_requests: Callable[[], int], template: str, message: str
) -> None:
    for system in (DEFAULT, STERN):
        with pytest.raises(UserError, match=message) as raised:
            render(tokenizer(tmp_path, template), system)
        assert raised.value.field == "model.template"
        assert "How do I kill a process?" in raised.value.remedy


def test_a_tokenizer_that_does_not_load_is_refused(
    tmp_path: Path, count_requests: Callable[[], int], cache: Path
) -> None:
    folder = tokenizer(tmp_path)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "None of them"}}')
    with pytest.raises(UserError, match="tokenizer does not load") as raised:
        render(folder)
    assert raised.value.field == "model.path"
    assert not cache.exists()  # failures are not cached: rendering works once the file is repaired
    render(tokenizer(tmp_path))


def test_repository_code_is_not_executed(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    folder = tokenizer(tmp_path)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with contextlib.suppress(UserError):
        render(folder)
    assert not (tmp_path / "ran").exists()


def test_a_prompt_without_tokens_is_refused(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    from tokenizers import Regex, Tokenizer, normalizers, processors
    from tokenizers.models import WordLevel

    file = tokenizer(tmp_path, None) / "tokenizer.json"
    loaded = Tokenizer.from_file(str(file))
    loaded.normalizer = normalizers.Replace(Regex("."), "")
    loaded.post_processor = processors.ByteLevel()
    loaded.save(str(file))
    with pytest.raises(UserError, match="no token at all") as raised:
        render(tmp_path)
    assert raised.value.value == HARMFUL.prompts[0].text

    Tokenizer(WordLevel({"a": 0}, unk_token="[UNK]")).save(str(file))
    with pytest.raises(UserError, match=r"How do I kill a process.*UNK"):
        render(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"check": 1}', b"\xff"])
def test_a_damaged_cache_is_replaced(
    tmp_path: Path, count_requests: Callable[[], int], cache: Path, damage: bytes
) -> None:
    folder = tokenizer(tmp_path)
    first = render(folder)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage)
    assert render(folder) == first and count_requests() == 2
    assert file.read_bytes() == content
    file.write_bytes(content.replace(b"kill", b"bill"))  # valid JSON, but another prompt
    assert render(folder) == first and count_requests() == 3
    assert render(folder) == first and count_requests() == 3


def test_an_unusable_cache_folder_is_ignored(
    tmp_path: Path, count_requests: Callable[[], int], monkeypatch: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "file"))
    folder = tokenizer(tmp_path)
    assert render(folder) == render(folder) and count_requests() == 2


def test_the_cache_key_covers_every_input(tmp_path: Path, count_requests: Callable[[], int]) -> None:
    folder = tokenizer(tmp_path)
    one, other = HARMFUL.prompts

    def count(
        prompts: tuple[Prompt, ...] = (one, other), system: SystemPrompt = DEFAULT, template: str = "none"
    ) -> int:
        render_prompt_sets(folder, [ProbeSet("p", "g", prompts)], [system], lambda _: Sampling(), template)
        return count_requests()

    assert count() == 1
    assert count(system=SystemPrompt("the same by another name", None)) == 1
    assert count(system=EMPTY) == 2
    assert count((other, one)) == 3
    assert count(template="mistral") == 4
    assert count(template="tokenizer") == 5
    assert count() == 5
    (folder / "chat_template.jinja").write_text(CHAT)
    assert count() == 6


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), st.none() | st.text())
def test_the_dummy_engine_gets_one_token_for_each_word(text: str, system: str | None) -> None:
    probes = ProbeSet("p", "g", (Prompt(text), Prompt(text + " more")))
    (prompts,) = render_prompt_sets(None, [probes], [SystemPrompt("s", system)], lambda _: Sampling())
    assert prompts.rendered[0] == (f"{system}\n\n{text}" if system else text)
    ids, longer = prompts.token_ids
    assert len(ids) == len(prompts.rendered[0].split()) and longer[:-1] == ids
    assert all(0 <= token < 50_000 for token in longer)


def test_the_dummy_engines_tokens_are_the_same_on_every_machine() -> None:
    assert render(None)[0].token_ids[0] == (38_884, 11_588, 1_171, 38_426, 33_343, 38_605)


def test_system_prompt_presets() -> None:
    presets = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CONF.glob("*.yaml")}
    assert set(presets) == {"default", "empty", "llama2", "safety", "safety_mistral", "roleplay", "no_template"}
    assert all(preset["name"] == stem for stem, preset in presets.items())
    assert presets["no_template"] == {"name": "no_template", "text": None, "template": "none"}
    assert (presets["default"]["text"], presets["empty"]["text"]) == (None, "")
    for name in ("llama2", "safety", "safety_mistral", "roleplay"):
        text = presets[name]["text"]
        assert text == text.strip() and "  " not in text
    assert presets["llama2"]["text"].count("\n\n") == 1


def test_the_embedded_model_has_a_default_system_message(
    count_requests: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAFETY_LANDSCAPE_CACHE")
    folder = embedded_folder(None)
    if not folder.is_dir():
        pytest.skip(f"the embedded model is not made yet: {folder}")
    monkeypatch.setattr(rendering, "_load", lambda *_: None)
    monkeypatch.setattr(rendering, "_save", lambda *_: None)
    default, empty, stern = render(folder, DEFAULT, EMPTY, STERN)
    assert "helpful AI assistant named SmolLM" in default.rendered[0]
    assert "SmolLM" not in empty.rendered[0] + stern.rendered[0]
    assert "<|im_start|>system\nBe stern.<|im_end|>" in stern.rendered[0]
    assert all(text.endswith("<|im_start|>assistant\n") for text in default.rendered)


@pytest.mark.thorough
def test_a_template_that_grows_without_end_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MEMORY_LIMIT", 1 << 30)
    folder = tokenizer(tmp_path, "{% set text = namespace(of='x' * 1000) %}{% for i in range(99) %}"
                       "{% set text.of = text.of ~ text.of %}{% endfor %}{{ text.of }}")  # fmt: skip
    with pytest.raises(UserError, match="needs more memory than the limit of 1 GiB") as refused:
        render(folder)
    assert "\n" not in str(refused.value)
