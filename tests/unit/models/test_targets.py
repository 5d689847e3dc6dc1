"""What can be walked towards, and each thing that can't, in one clear sentence before anything is loaded."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models import checkpoint
from orchestrator.models import geometry as verb
from orchestrator.models.targets import (
    TELLING,
    around,
    epochs,
    principal_ends,
    refuse_nan,
    refuse_twins,
    resolve_target,
)
from orchestrator.pipeline import prepare as request
from orchestrator.utils.errors import UserError
from workers.weights.adapters import write_adapter_sum
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.targets import CHECKED_LORA_FIELDS, HARMLESS_LORA_FIELDS, AdapterEndpoint, open_endpoint

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "rope_parameters": {"rope_theta": 1e4},
    "vocab_size": 5,
}
SHAPES = {
    "model.embed_tokens.weight": (5, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.norm.weight": (8,),
}
Q = "model.layers.0.self_attn.q_proj"


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def model(folder: Path, tensors: dict[str, np.ndarray], vocabulary: str = "abcde", **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    tokenizer = {"model": {"vocab": {t: i for i, t in enumerate(vocabulary)}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def adapter(folder: Path, factors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(9)
    halves = {"A": (2, 8), "B": (8, 2)}
    given = {
        f"base_model.model.{Q}.lora_{k}.weight": rng.standard_normal(s).astype(np.float32) for k, s in halves.items()
    }
    save_file(given if factors is None else factors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> checkpoint.Checkpoint:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    return checkpoint.check(model(tmp_path / "base", weights(0)))


def test_a_checkpoint_is_known_by_its_content(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    told: list[float] = []
    found = resolve_target(model(tmp_path / "tuned", weights(1), eos_token_id=3), base, told.append)
    again = resolve_target(model(tmp_path / "copy", weights(1), eos_token_id=3), base)
    assert (found.kind, found.label, found.path) == ("checkpoint", "tuned", str(tmp_path / "tuned"))
    assert found.fingerprint == again.fingerprint == checkpoint.fingerprint(tmp_path / "tuned")
    assert told[-1] == 1.0
    other = resolve_target(model(tmp_path / "other", weights(2)), base)
    assert other.fingerprint != found.fingerprint and other.sample != found.sample
    refuse_twins((found, other))
    with pytest.raises(UserError, match="same weights"):
        refuse_twins((found, other, again))


def test_an_adapter_is_known_by_its_content(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    found = resolve_target(adapter(tmp_path / "tuned"), base)
    assert (found.kind, found.label) == ("adapter", "tuned")
    assert resolve_target(adapter(tmp_path / "copy", lora_dropout=0.5), base).fingerprint == found.fingerprint
    assert resolve_target(adapter(tmp_path / "stronger", lora_alpha=8), base).fingerprint != found.fingerprint
    assert resolve_target(adapter(tmp_path / "rooted", use_rslora=True), base).fingerprint != found.fingerprint


CHECKPOINTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nowhere": (lambda folder: folder, "no such folder"),
    "another shape": (
        lambda folder: model(folder, weights(1) | {f"{Q}.weight": np.ones((8, 4), np.float32)}),
        "q_proj.weight is 8 x 4 and not 8 x 8",
    ),
    "a missing tensor": (
        lambda folder: model(folder, {k: v for k, v in weights(1).items() if "norm" not in k}),
        "lacks tensor model.norm.weight",
    ),
    "an extra tensor": (
        lambda folder: model(folder, weights(1) | {"lm_head.weight": np.ones((5, 8), np.float32)}),
        "has tensor lm_head.weight",
    ),
    "another tokenizer": (lambda folder: model(folder, weights(1), vocabulary="abced"), "token 3 is 'e', and 'd' in"),
    "another architecture": (
        lambda folder: model(folder, weights(1), architectures=["MistralForCausalLM"]),
        "is a MistralForCausalLM, and the base a LlamaForCausalLM",
    ),
    "other settings": (
        lambda folder: model(folder, weights(1), rope_parameters={"rope_theta": 5e5, "rope_type": "default"}),
        "rope_parameters.rope_theta=500000.0",
    ),
    "NaN": (
        lambda folder: model(folder, weights(1) | {"model.norm.weight": np.array([1.0] * 7 + [np.nan], np.float32)}),
        "model.norm.weight holds NaN or infinity",
    ),
    "infinity in float16": (
        lambda folder: model(folder, weights(1) | {"model.norm.weight": np.array([-np.inf] * 8, np.float16)}),
        "model.norm.weight holds NaN or infinity",
    ),
    "the base itself": (lambda folder: model(folder, weights(0)), "is the base itself"),
    "the base's weights": (lambda folder: model(folder, weights(0), eos_token_id=2), "has the base's weights"),
}


def tokenized(folder: Path, **changes: Any) -> Path:
    """A checkpoint with another tokenizer.json; its vocabulary stays the same unless that is changed."""
    file = model(folder, weights(1)) / "tokenizer.json"
    value = json.loads(file.read_text())
    value["model"] |= changes.pop("model", {})
    file.write_text(json.dumps(value | changes))
    return folder


ODD = "holds no vocabulary that can be read: fetch it again"
CHECKPOINTS |= {
    "another order of merges": (
        lambda folder: tokenized(folder, model={"merges": ["a b"]}),
        "merges is not the",
    ),
    "ids that are words": (lambda folder: tokenized(folder, model={"vocab": {"a": "x"}}), ODD),
    "a vocabulary of numbers": (lambda folder: tokenized(folder, model={"vocab": [1, 2]}), ODD),
    "an empty entry": (lambda folder: tokenized(folder, model={"vocab": [[]]}), ODD),
    "no vocabulary": (lambda folder: tokenized(folder, model={"vocab": None}), ODD),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_checkpoints_that_do_not_fit(base: checkpoint.Checkpoint, tmp_path: Path, what: str) -> None:
    make, story = CHECKPOINTS[what]
    with pytest.raises(UserError, match=r"^grid\.towards=") as caught:
        resolve_target(make(tmp_path / "other"), base)
    assert story in str(caught.value), str(caught.value)


def bpe(folder: Path, seed: int, **parts: Any) -> Path:
    """A checkpoint with a tokenizer that loads, of some parts and else none."""
    from tokenizers import Tokenizer, models

    letters = sorted({*TELLING.replace(" ", "▁"), "▁▁", "▁H", "<b"})
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(letters)}, [("▁", "▁"), ("▁", "H"), ("<", "b")]))
    for key, part in parts.items():
        setattr(tokenizer, key, part)
    tokenizer.save(str(model(folder, weights(seed)) / "tokenizer.json"))
    return folder


def test_a_tokenizer_is_another_where_it_makes_other_tokens(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    """Llama's spaces as transformers 4 wrote them, as 5 does, and split by somebody else's rule."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    old = checkpoint.check(bpe(tmp_path / "old", 0, normalizer=spaces))
    new = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    file = bpe(tmp_path / "new", 1, pre_tokenizer=new) / "tokenizer.json"
    value = json.loads(file.read_text())
    value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
    file.write_text(json.dumps(value))
    truncating = Tokenizer.from_file(str(bpe(tmp_path / "short", 2, pre_tokenizer=new) / "tokenizer.json"))
    truncating.enable_truncation(2)
    truncating.save(str(tmp_path / "short" / "tokenizer.json"))
    assert resolve_target(tmp_path / "short", old).kind == "checkpoint"
    assert resolve_target(tmp_path / "new", old).kind == "checkpoint"
    bpe(tmp_path / "other", 1, normalizer=spaces, pre_tokenizer=pre_tokenizers.Punctuation())
    with pytest.raises(UserError, match=r"tokenizer\.json, pre_tokenizer is not the base's, and makes other tokens"):
        resolve_target(tmp_path / "other", old)
    with pytest.raises(UserError, match=r"its tokenizer\.json, normalizer is not the base's"):
        resolve_target(bpe(tmp_path / "lower", 1, normalizer=normalizers.Lowercase()), old)
    file.write_text(json.dumps(value | {"pre_tokenizer": {"type": "Tomorrow"}}))
    with pytest.raises(UserError, match=r"^grid\.towards=.*new/tokenizer\.json: does not load"):
        resolve_target(tmp_path / "new", old)


def test_sentencepiece_files_are_compared_where_there_is_nothing_else(
    tmp_path: Path, base: checkpoint.Checkpoint
) -> None:
    for name, content in (("one", b"one"), ("same", b"one"), ("other", b"two")):
        folder = model(tmp_path / name, weights(len(name)))
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(content)
    one = checkpoint.check(tmp_path / "one")
    assert resolve_target(tmp_path / "same", one).kind == "checkpoint"
    with pytest.raises(UserError, match=r"^grid\.towards=.*\(its tokenizer\.model is not the base's\)"):
        resolve_target(tmp_path / "other", one)


def configured(folder: Path, text: str) -> Path:
    """An adapter with another configuration."""
    (adapter(folder) / "adapter_config.json").write_text(text)
    return folder


def headed(folder: Path, header: str, data: bytes = b"") -> Path:
    """An adapter with another file of weights."""
    file = adapter(folder) / "adapter_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)
    return folder


def settings(tmp_path: Path, name: str, fields: dict[str, Any], seed: int = 1) -> Path:
    """A checkpoint with these fields alone beside architecture and sizes."""
    folder = model(tmp_path / name, weights(seed))
    config = {key: value for key, value in CONFIG.items() if key != "rope_parameters"}
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


OLD, NEW = {"rope_theta": 1e4, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
SCALED = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}
LAYERED = {"rope_parameters": {"full_attention": {"rope_theta": 1e4, "rope_type": "default"}}}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (OLD, NEW),
        (OLD, {}),
        ({}, NEW),
        ({"rope_theta": 10000}, NEW),
        (NEW, LAYERED),
        (SCALED, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4}}),
        (SCALED, {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0}}),
        ({"rope_scaling": {"type": "su"}}, {"rope_scaling": {"rope_type": "longrope"}}),
        ({"sliding_window": None}, {}),
        ({}, {"sliding_window": 4096}),  # Mistral's, where its config.json is silent
        ({"sliding_window": 32768, "use_sliding_window": False}, {"sliding_window": None, "use_sliding_window": False}),
        ({}, {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),  # Gemma 2's
        ({"text_config": OLD}, {"text_config": NEW}),
    ],
)
def test_what_versions_of_transformers_write_differently_is_the_same(
    tmp_path: Path, base: checkpoint.Checkpoint, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    first, second = settings(tmp_path, "first", ours, 1), settings(tmp_path, "second", theirs, 2)
    for one, other in ((first, second), (second, first)):
        assert resolve_target(one, checkpoint.check(other)).kind == "checkpoint"


@pytest.mark.parametrize(
    ("ours", "theirs", "story"),
    [
        (OLD, SCALED, "rope_parameters.rope_type=linear, the base's rope_parameters.rope_type=default"),
        ({}, SCALED, "rope_parameters.rope_type=linear"),
        (NEW, SCALED, "rope_parameters.rope_type=linear"),
        (SCALED, NEW, "rope_parameters.rope_type=default"),
        (SCALED, SCALED | {"rope_scaling": {"type": "linear", "factor": 8.0}}, "rope_parameters.factor=8.0"),
        (OLD, {"rope_parameters": {"rope_theta": 5e5}}, "rope_parameters.rope_theta=500000.0"),
        ({"sliding_window": None}, {"sliding_window": 4096}, "sliding_window=4096, the base's sliding_window=None"),
        ({}, {"sliding_window": 2048}, "sliding_window=2048"),
        ({"final_logit_softcapping": None}, {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"attn_logit_softcapping": 20.0}, {}, "attn_logit_softcapping=None, the base's attn_logit_softcapping=20.0"),
        ({}, {"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ({"text_config": OLD}, {"text_config": SCALED}, "text_config.rope_parameters.rope_type=linear"),
    ],
)
def test_a_setting_that_one_side_has_is_a_difference(
    tmp_path: Path, base: checkpoint.Checkpoint, ours: dict[str, Any], theirs: dict[str, Any], story: str
) -> None:
    with pytest.raises(UserError, match=r"^grid\.towards=") as caught:
        resolve_target(settings(tmp_path, "tuned", theirs), checkpoint.check(settings(tmp_path, "first", ours, 2)))
    assert story in str(caught.value), str(caught.value)


def half(letter: str, *shape: int, fill: float = 1.0, module: str = Q) -> dict[str, np.ndarray]:
    return {f"base_model.model.{module}.lora_{letter}.weight": np.full(shape, fill, np.float32)}


ADAPTERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "DoRA": (lambda folder: adapter(folder, use_dora=True), "is DoRA"),
    "modules saved": (lambda folder: adapter(folder, modules_to_save=["lm_head"]), "modules_to_save: ['lm_head']"),
    "ranks by pattern": (lambda folder: adapter(folder, rank_pattern={"q_proj": 4}), "uses rank_pattern"),
    "alphas by pattern": (lambda folder: adapter(folder, alpha_pattern={"q_proj": 4}), "uses alpha_pattern"),
    "PiSSA": (lambda folder: adapter(folder, init_lora_weights="pissa_niter_4"), "(init_lora_weights: pissa_niter_4)"),
    "OLoRA": (lambda folder: adapter(folder, init_lora_weights="OLoRA"), "belongs to a changed base"),
    "LoRA-GA": (lambda folder: adapter(folder, init_lora_weights="lora_ga"), "belongs to a changed base"),
    "KaSA": (lambda folder: adapter(folder, kasa_config={"beta": 1e-4}), "uses kasa_config"),
    "an invention": (lambda folder: adapter(folder, use_tomorrow=True), "uses use_tomorrow, which is not plain LoRA"),
    "biases": (lambda folder: adapter(folder, bias="all"), "changes biases"),
    "another kind": (lambda folder: adapter(folder, peft_type="IA3"), "of type IA3"),
    "another shape": (
        lambda folder: adapter(folder, half("A", 2, 7) | half("B", 8, 2)),
        "do not make the base's 8 x 8",
    ),
    "another rank": (lambda folder: adapter(folder, r=16), "says r=16, and its factors for model"),
    "no rank": (
        lambda folder: configured(folder, '{"peft_type": "LORA", "lora_alpha": 4}'),
        "no scale (r=None, lora_alpha=4)",
    ),
    "no alpha": (
        lambda folder: configured(folder, '{"peft_type": "LORA", "r": 2}'),
        "lora_alpha=None): save it anew",
    ),
    "rank 0": (lambda folder: adapter(folder, r=0), "no scale (r=0, lora_alpha=4)"),
    "a list": (lambda folder: configured(folder, "[]"), "adapter_config.json: does not hold an object: fetch it again"),
    "null": (lambda folder: configured(folder, "null"), "adapter_config.json: does not hold an object: fetch it again"),
    "a header that is a list": (
        lambda folder: headed(folder, "[]"),
        "a header that is not safetensors: fetch it again",
    ),
    "a header without places": (lambda folder: headed(folder, '{"x": {"dtype": "F32"}}'), "not safetensors: fetch it"),
    "fewer bytes than its shape": (
        lambda folder: headed(folder, '{"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', b"1234"),
        "has a header that is damaged at x: fetch it again",
    ),
    "an empty file": (lambda folder: headed(folder, ""), "has a header that is not safetensors: fetch it again"),
    "vectors": (lambda folder: adapter(folder, half("A", 8) | half("B", 8)), "do not make the base's 8 x 8"),
    "half a pair": (lambda folder: adapter(folder, half("A", 2, 8)), "do not make the base's 8 x 8"),
    "an unknown tensor": (
        lambda folder: adapter(folder, half("A", 2, 8, module="x.y") | half("B", 8, 2, module="x.y")),
        "adapts x.y.weight, which the base lacks",
    ),
    "a saved head": (
        lambda folder: adapter(folder, {"base_model.model.lm_head.weight": np.ones((5, 8), np.float32)}),
        "replaces lm_head.weight whole: merge the adapter",
    ),
    "an embedding": (
        lambda folder: adapter(folder, {"base_model.model.model.embed_tokens.lora_embedding_A": np.float32([[1]])}),
        "adapts model.embed_tokens as an embedding, and only matrices can be followed: merge the adapter",
    ),
    "a bias beside its factors": (
        lambda folder: adapter(folder, half("A", 2, 8) | half("B", 8, 2) | {f"{Q}.lora_B.bias": np.float32([1])}),
        "holds model.layers.0.self_attn.q_proj.lora_B.bias, which is not plain LoRA: merge",
    ),
    "NaN": (lambda folder: adapter(folder, half("A", 2, 8, fill=np.nan) | half("B", 8, 2)), "NaN or infinity"),
    "nothing": (lambda folder: adapter(folder, half("A", 2, 8) | half("B", 8, 2, fill=0.0)), "no length"),
    "times nothing": (lambda folder: adapter(folder, lora_alpha=0), "no length"),
}


@pytest.mark.parametrize("what", ADAPTERS)
def test_adapters_that_do_not_fit(base: checkpoint.Checkpoint, tmp_path: Path, what: str) -> None:
    make, story = ADAPTERS[what]
    with pytest.raises(UserError, match=r"^grid\.towards=") as caught:
        resolve_target(make(tmp_path / "other"), base)
    assert story in str(caught.value), str(caught.value)


@pytest.mark.parametrize("start", [None, True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_adapters_that_began_beside_the_base_are_plain(
    base: checkpoint.Checkpoint, tmp_path: Path, start: str | bool | None
) -> None:
    assert resolve_target(adapter(tmp_path / "lora", init_lora_weights=start), base).kind == "adapter"


# Fields of PEFT's LoraConfig that make of an adapter something else.
UNUSUAL = (  # noqa: SIM905
    "fan_in_fan_out rank_pattern alpha_pattern megatron_config trainable_token_indices loftq_config "
    "corda_config lora_ga_config velora_config alora_invocation_tokens use_qalora monteclora_config "
    "layer_replication target_parameters use_bdlora arrow_config kasa_config"
).split()


def test_every_field_of_the_installed_peft_is_known(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    """A field that is neither free nor refused here is new: read what it does. PEFT is read: loading takes seconds."""
    (package,) = importlib.util.find_spec("peft").submodule_search_locations
    found = set()
    for file, names in (("tuners/lora/config.py", ["LoraConfig"]), ("config.py", ["PeftConfigMixin", "PeftConfig"])):
        for node in ast.parse((Path(package) / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                found |= {ast.unparse(field.target) for field in node.body if isinstance(field, ast.AnnAssign)}
    assert found - {"runtime_config"} == CHECKED_LORA_FIELDS | HARMLESS_LORA_FIELDS | set(UNUSUAL), (
        "runtime_config is never saved"
    )
    for i, key in enumerate(UNUSUAL):
        with pytest.raises(UserError, match=f"uses {key}"):
            resolve_target(adapter(tmp_path / f"{i}", **{key: {"set": 1}}), base)


def test_an_adapter_that_may_not_be_read_is_refused(
    base: checkpoint.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(file: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "read_headers", denied)
    with pytest.raises(UserError, match=r"^grid\.towards=.*lora: could not be read \(Permission denied\)"):
        resolve_target(adapter(tmp_path / "lora"), base)


def test_a_node_where_something_else_lies_is_refused(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    mapped = MappedCheckpoint(base.path)
    for made, name in ((model(tmp_path / "tuned", weights(1)), "model"), (adapter(tmp_path / "lora"), "adapter_model")):
        target = resolve_target(made, base)
        open_endpoint(target, mapped)
        file = made / f"{name}.safetensors"
        tensors = load_file(file)
        tensors[min(tensors)] = tensors[min(tensors)] + 1
        save_file(tensors, file)
        with pytest.raises(UserError, match="holds something else on this node"):
            open_endpoint(target, mapped)


def test_the_bases_weights_in_another_dtype_are_no_direction(tmp_path: Path, base: checkpoint.Checkpoint) -> None:
    exact = {name: w.astype(np.float16) for name, w in weights(0).items()}
    rounded = checkpoint.check(model(tmp_path / "rounded", {name: w.astype(np.float32) for name, w in exact.items()}))
    with pytest.raises(UserError, match=r"^grid\.towards=.*has the base's weights, a direction of no length"):
        resolve_target(model(tmp_path / "half", exact), rounded)
    assert resolve_target(tmp_path / "half", base).kind == "checkpoint", "here it rounds the base"


def test_a_base_with_nan_is_refused_and_a_sound_one_read_once(
    base: checkpoint.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_nan(base)
    monkeypatch.setattr(MappedCheckpoint, "base", lambda self, name: pytest.fail("read again"))
    refuse_nan(base)
    monkeypatch.undo()
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    spoilt = weights(3)
    spoilt["model.norm.weight"][2] = np.inf
    with pytest.raises(UserError, match=r"^model\.path=.*model\.norm\.weight holds NaN or infinity"):
        refuse_nan(checkpoint.check(model(tmp_path / "spoilt", spoilt)))


@pytest.mark.thorough
def test_a_plane_is_measured_once(base: checkpoint.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        resolve_target(model(tmp_path / "tuned", weights(1)), base),
        resolve_target(adapter(tmp_path / "a"), base),
    )
    told: list[float] = []
    c, s = around(base, [first, second], ["norm"], told.append).eq4()
    origin, one, two = weights(0), weights(1), load_file(tmp_path / "a" / "adapter_model.safetensors")
    d1 = np.concatenate([(one[k] - origin[k]).ravel() for k in sorted(SHAPES)]).astype(np.float64)
    moved = {k: np.zeros(s) for k, s in SHAPES.items()}
    halves = [two[f"base_model.model.{Q}.lora_{k}.weight"].astype(np.float64) for k in "BA"]
    moved[f"{Q}.weight"] = 2 * halves[0] @ halves[1]
    d2 = np.concatenate([moved[k].ravel() for k in sorted(SHAPES)])
    assert c == pytest.approx(d1 @ d2 / (d1 @ d1), abs=1e-6)
    assert s == pytest.approx(np.linalg.norm(d1) / np.linalg.norm(d2 - c * d1), rel=1e-6)
    assert told[-1] == 1.0
    monkeypatch.setattr(MappedCheckpoint, "base", lambda self, name: pytest.fail("measured again"))
    assert around(base, [first, second], ["norm"]).eq4() == (c, s)


def trajectory(folder: Path, numbers: tuple[int, ...], save: Callable[..., Path] = adapter) -> Path:
    """Adapters (or what `save` makes) epoch-N of different strengths and directions."""
    folder.mkdir()
    for i in numbers:
        rng = np.random.default_rng(i)
        factors = {
            f"base_model.model.{Q}.lora_{k}.weight": rng.standard_normal(shape).astype(np.float32) * np.float32(0.1 * i)
            for k, shape in {"A": (2, 8), "B": (8, 2)}.items()
        }
        save(folder / f"epoch-{i}", factors if save is adapter else weights(i))
    return folder


def test_a_trajectorys_epochs_come_in_order_from_either_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    place = trajectory(tmp_path / "made" / "checkpoints", (1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    (place / "notes").mkdir()
    names = [f"epoch-{i}" for i in range(1, 11)]
    assert [path.name for path in epochs(place)] == [path.name for path in epochs(tmp_path / "made")] == names


def test_a_trajectory_that_lacks_something_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in (
        (trajectory(tmp_path / "gap", (1, 2, 5)), "has epoch-5 but not epoch-3, epoch-4: put back"),
        (trajectory(tmp_path / "late", (2,)), "has epoch-2 but not epoch-1"),
        (tmp_path / "empty", "holds no checkpoints epoch-1"),
        (tmp_path / "nowhere", "there is no such folder, nor a recipe"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            epochs(folder)
        assert caught.value.field == "grid.trajectory" and len(str(caught.value).splitlines()) == 1


def test_principal_ends_are_the_axes_to_rounding(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    """Adapters of summed factors against the sum of the displacements."""
    chain = [resolve_target(path, base) for path in epochs(trajectory(tmp_path / "t", (1, 2, 3)))]
    found = around(base, chain, ["norm"])
    again = around(base, chain, ["norm"])
    assert np.array_equal(found.gram, again.gram) and found.moved == again.moved, "remembered"
    _, mixing, share = found.principal_axes()
    assert 0 < share <= 1
    ends = principal_ends(base, chain, mixing.tolist())
    assert ends == principal_ends(base, chain, mixing.tolist())
    opened = MappedCheckpoint(base.path)
    info = next(info for info in opened.tensors() if info.name == f"{Q}.weight")
    own = opened.base(info.name)
    moved = [open_endpoint(target, opened).rows(info) - own for target in chain]
    for end, row in zip(ends, mixing, strict=True):
        made = open_endpoint(resolve_target(end, base), opened).rows(info) - own
        assert np.allclose(made, sum(w * m for w, m in zip(row, moved, strict=True)), atol=1e-5)


def test_a_sum_is_of_one_rank_and_adds_the_same_to_the_bit(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    """Only the second adapter has the embedding; there a row of weights, and what is added to it, are -0."""
    wide = "model.embed_tokens"
    rng = np.random.default_rng(5)
    b = rng.standard_normal((5, 2)).astype(np.float32)
    b[0] = -0.0
    second = half("A", 2, 8, module=wide) | {f"base_model.model.{wide}.lora_B.weight": b}
    origin = weights(0)
    origin[f"{wide}.weight"][0] = -0.0
    opened = MappedCheckpoint(model(tmp_path / "signed", origin))
    folders = [adapter(tmp_path / "one"), adapter(tmp_path / "two", half("A", 2, 8) | half("B", 8, 2) | second)]
    write_adapter_sum(opened, folders, [0.3, 1.0], tmp_path / "sum")
    alone, summed = (AdapterEndpoint(tmp_path / name, opened) for name in ("two", "sum"))
    assert {factors.a.shape for factors in summed.factors.values()} == {(4, 8)}
    info = opened[f"{wide}.weight"]
    assert np.signbit(summed.rows(info)[:8]).all()
    assert summed.rows(info).tobytes() == alone.rows(info).tobytes()


def test_the_principal_plane_of_whole_checkpoints_is_refused(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    folder = trajectory(tmp_path / "whole", (1, 2, 3), lambda path, tensors: model(path, tensors))
    chain = [resolve_target(path, base) for path in epochs(folder)]
    with pytest.raises(UserError, match="use grid=interpolate_1d"):
        principal_ends(base, chain, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


# What is asked.


def test_an_image_encoder_that_vllm_could_not_open(
    base: checkpoint.Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before the load; where torchvision is, or another engine, nothing stands in the way."""
    seeing = dataclasses.replace(base, config={**base.config, "architectures": ["Gemma3ForConditionalGeneration"]})
    local = compose([f"model.path={base.path}"])
    monkeypatch.setattr(request, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^model\.path=.*needs torchvision"):
        request._check_encoder(local, seeing)
    request._check_encoder(local, base)
    request._check_encoder(compose([f"model.path={base.path}", "engine=transformers"]), seeing)
    monkeypatch.setattr(request, "find_spec", lambda name: name)
    request._check_encoder(local, seeing)


# What a grid asks for.


def asked(base: checkpoint.Checkpoint, *overrides: str) -> request.Laid:
    config = compose([f"model.path={base.path}", *overrides])
    return request._grid_towards(config, base, Presets(), io.StringIO())


def test_a_mistake_is_said_of_the_field_that_names_it(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    good, same = model(tmp_path / "good", weights(1)), model(tmp_path / "same", weights(1))
    chain = trajectory(tmp_path / "chain", (1, 2))
    odd = adapter(tmp_path / "odd", use_dora=True)
    spoilt = trajectory(tmp_path / "spoilt", (1,))
    adapter(spoilt / "epoch-2", bias="all")
    again = trajectory(tmp_path / "again", (1,))
    shutil.copytree(again / "epoch-1", again / "epoch-2")
    towards = f"grid.towards=[{good}]"
    for overrides, words in (
        ((towards, f"grid.beside=[{odd}]"), f"grid.beside={odd}: is DoRA"),
        ((towards, "grid.beside=[pair]"), "grid.beside=[pair]: base has no other half"),
        ((towards, f"grid.beside=[{same}]"), f"grid.beside=[{good}, {same}]: are the same weights"),
        ((f"grid.trajectory={spoilt}",), f"grid.trajectory={spoilt / 'epoch-2'}: changes biases"),
        ((f"grid.trajectory={again}",), "grid.trajectory=["),
        ((f"grid.trajectory={chain}", f"grid.beside=[{chain / 'epoch-1'}]"), "grid.beside=["),
    ):
        with pytest.raises(UserError) as caught:
            asked(base, "grid=interpolate_1d", *overrides)
        assert str(caught.value).startswith(words), str(caught.value)
    assert len(asked(base, "grid=interpolate_1d", towards, f"grid.beside=[{chain / 'epoch-1'}]")[1]) == 2


def cancelling(folder: Path) -> Path:
    """Factors that are not zero, and their product is."""
    b = np.tile(np.array([[1, -1]], np.float32), (8, 1))
    return adapter(folder, half("A", 2, 8) | {f"base_model.model.{Q}.lora_B.weight": b})


def test_a_direction_of_no_length_is_refused_before_it_divides(base: checkpoint.Checkpoint, tmp_path: Path) -> None:
    nothing, lost = (
        cancelling(tmp_path / "nothing"),
        adapter(tmp_path / "lost", half("A", 2, 8, fill=1e-20) | half("B", 8, 2, fill=1e-20)),
    )
    one, good = model(tmp_path / "one", weights(1)), model(tmp_path / "good", weights(2))
    chain = trajectory(tmp_path / "chain", (1, 2))
    cancelling(chain / "epoch-3")
    for overrides, field in (
        (("grid=interpolate_1d", f"grid.towards=[{nothing}]"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.towards=[{lost}]", f"grid.beside=[{good}]"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.towards=[{good}]", f"grid.beside=[{nothing}]"), "grid.beside"),
        (("grid=interpolate_2d", f"grid.towards=[{good},{nothing}]", "grid.orthogonal=false"), "grid.towards"),
        (("grid=interpolate_1d", f"grid.trajectory={chain}"), "grid.trajectory"),
        (("grid=interpolate_2d", f"grid.trajectory={chain}"), "grid.trajectory"),
    ):
        with pytest.raises(UserError, match="a direction of no length") as caught:
            asked(base, *overrides)
        assert caught.value.field == field, str(caught.value)
    for other, words in (
        (lost, "a direction of no length"),
        (shutil.copytree(good, tmp_path / "same"), "same weights"),
    ):
        towards = ["grid=interpolate_1d", f"grid.towards=[{good}]", f"grid.beside=[{other}]"]
        with pytest.raises(UserError, match=rf"^grid\.beside=.*{words}"):
            verb.measure(compose([f"model.path={base.path}", *towards]), Presets(), io.StringIO())
    twice = adapter(tmp_path / "twice", lora_alpha=8)
    line = f"grid.towards=[{adapter(tmp_path / 'once')},{twice}]"
    for beside in ("grid.beside=[]", f"grid.beside=[{one}]"):
        with pytest.raises(UserError, match=r"^grid\.towards=.*lie on one line through the base and make no plane"):
            asked(base, "grid=interpolate_2d", line, "grid.orthogonal=false", beside)
