"""Checkpoints and adapters are identified by their content and refused if they do not fit the base."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from orchestrator.models import adapted
from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.finite import check_finite
from orchestrator.models.targets import check_no_duplicates, resolve_target
from orchestrator.utils.errors import UserError
from tests.unit.models.target_files import Q, adapter, half, model, weights
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import CHECKED_LORA_FIELDS, HARMLESS_LORA_FIELDS
from workers.weights.targets import open_endpoint


def test_a_checkpoint_is_identified_by_its_content(base: CheckpointInfo, tmp_path: Path) -> None:
    progress: list[float] = []
    target = resolve_target(model(tmp_path / "tuned", weights(1), eos_token_id=3), base, progress.append)
    copy = resolve_target(model(tmp_path / "copy", weights(1), eos_token_id=3), base)
    assert (target.kind, target.label, target.path) == ("checkpoint", "tuned", str(tmp_path / "tuned"))
    assert target.fingerprint == copy.fingerprint == fingerprint(tmp_path / "tuned")
    assert progress[-1] == 1.0
    other = resolve_target(model(tmp_path / "other", weights(2)), base)
    assert other.fingerprint != target.fingerprint and other.sample != target.sample
    check_no_duplicates((target, other))
    with pytest.raises(UserError, match="same weights"):
        check_no_duplicates((target, other, copy))


def test_an_adapter_is_identified_by_its_content(base: CheckpointInfo, tmp_path: Path) -> None:
    target = resolve_target(adapter(tmp_path / "tuned"), base)
    assert (target.kind, target.label) == ("adapter", "tuned")
    assert resolve_target(adapter(tmp_path / "copy", lora_dropout=0.5), base).fingerprint == target.fingerprint
    assert resolve_target(adapter(tmp_path / "stronger", lora_alpha=8), base).fingerprint != target.fingerprint
    assert resolve_target(adapter(tmp_path / "rooted", use_rslora=True), base).fingerprint != target.fingerprint
    stronger_there = resolve_target(adapter(tmp_path / "there", alpha_pattern={"q_proj": 8}), base)
    assert stronger_there.fingerprint == resolve_target(tmp_path / "stronger", base).fingerprint
    assert stronger_there.sample != target.sample
    elsewhere = resolve_target(adapter(tmp_path / "elsewhere", alpha_pattern={"k_proj": 8}, rank_pattern={}), base)
    assert elsewhere.fingerprint == target.fingerprint


def test_the_ids_of_adapters_without_patterns_have_not_changed(base: CheckpointInfo, tmp_path: Path) -> None:
    """Compare with the ids before patterns were supported."""
    target = resolve_target(adapter(tmp_path / "tuned"), base)
    assert (target.fingerprint, target.former, target.sample) == (
        "73820910fc10b2c7",
        "761d0c34176d7558",
        "0684e4cf95b22e36",
    )
    saved = resolve_target(adapter(tmp_path / "saved", rank_pattern={}, alpha_pattern={}, use_rslora=False), base)
    assert saved.fingerprint == target.fingerprint


def test_the_fingerprint_under_adapter_version_1_is_known(tmp_path: Path) -> None:
    """The study of the first version names its adapter by it."""
    stored = Path(__file__).parents[2] / "data" / "study_3b5b360"
    shapes = {f"model.layers.{layer}.mlp.down_proj.weight": (576, 1536) for layer in (8, 16)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    target = resolve_target(stored / "adapter", read_checkpoint(model(tmp_path / "base", tensors)))
    (sweep,) = stored.glob("stored/*/sweeps/adapter-*/sweep.json")
    assert list(json.loads(sweep.read_text())["around"]["lengths"]) == [target.former]
    assert target.former != target.fingerprint


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


def model_with_tokenizer(folder: Path, **changes: Any) -> Path:
    """Write a checkpoint whose tokenizer.json has these changes."""
    file = model(folder, weights(1)) / "tokenizer.json"
    value = json.loads(file.read_text())
    value["model"] |= changes.pop("model", {})
    file.write_text(json.dumps(value | changes))
    return folder


INVALID_VOCABULARY = "holds no vocabulary that can be read: fetch it again"
CHECKPOINTS |= {
    "another order of merges": (
        lambda folder: model_with_tokenizer(folder, model={"merges": ["a b"]}),
        "merges is not the",
    ),
    "ids that are words": (
        lambda folder: model_with_tokenizer(folder, model={"vocab": {"a": "x"}}),
        INVALID_VOCABULARY,
    ),
    "a vocabulary of numbers": (
        lambda folder: model_with_tokenizer(folder, model={"vocab": [1, 2]}),
        INVALID_VOCABULARY,
    ),
    "an empty entry": (lambda folder: model_with_tokenizer(folder, model={"vocab": [[]]}), INVALID_VOCABULARY),
    "no vocabulary": (lambda folder: model_with_tokenizer(folder, model={"vocab": None}), INVALID_VOCABULARY),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_that_do_not_fit_are_refused(base: CheckpointInfo, tmp_path: Path, case: str) -> None:
    make, expected = CHECKPOINTS[case]
    with pytest.raises(UserError, match=r"^grid\.towards=") as error:
        resolve_target(make(tmp_path / "other"), base)
    assert expected in str(error.value), str(error.value)


def adapter_with_config(folder: Path, text: str) -> Path:
    """Write an adapter with this text as its configuration."""
    (adapter(folder) / "adapter_config.json").write_text(text)
    return folder


def adapter_with_header(folder: Path, header: str, data: bytes = b"") -> Path:
    """Write an adapter whose file of weights has this header and data."""
    file = adapter(folder) / "adapter_model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)
    return folder


ADAPTERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "DoRA": (lambda folder: adapter(folder, use_dora=True), "is DoRA"),
    "modules saved": (lambda folder: adapter(folder, modules_to_save=["lm_head"]), "modules_to_save: ['lm_head']"),
    "another rank by pattern": (
        lambda folder: adapter(folder, rank_pattern={"q_proj": 4}),
        f"adapter_config.json says r=4, and its factors for {Q}.weight are of rank 2",
    ),
    "a pattern that is no expression": (
        lambda folder: adapter(folder, rank_pattern={"q_(proj": 2}),
        "the rank_pattern of its adapter_config.json has 'q_(proj', which is no regular expression (missing )",
    ),
    "a number too large for an expression": (
        lambda folder: adapter(folder, alpha_pattern={"q{99999999999999999999}": 2}),
        "99}', which is no regular expression (the repetition number is too large): name the modules there",
    ),
    "patterns that are a list": (
        lambda folder: adapter(folder, rank_pattern=["q_proj"]),
        "has a rank_pattern that is not an object: save it anew",
    ),
    "rank 0 by pattern": (
        lambda folder: adapter(folder, rank_pattern={"q_proj": 0}),
        "has rank_pattern['q_proj']=0, which is not a rank of at least 1: save it anew",
    ),
    "an alpha by pattern that is text": (
        lambda folder: adapter(folder, alpha_pattern={"q_proj": "4"}),
        "has alpha_pattern['q_proj']='4', which is not a number: save it anew",
    ),
    "PiSSA": (lambda folder: adapter(folder, init_lora_weights="pissa_niter_4"), "(init_lora_weights: pissa_niter_4)"),
    "OLoRA": (lambda folder: adapter(folder, init_lora_weights="OLoRA"), "may belong to a changed base"),
    "LoRA-GA": (lambda folder: adapter(folder, init_lora_weights="lora_ga"), "may belong to a changed base"),
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
        lambda folder: adapter_with_config(folder, '{"peft_type": "LORA", "lora_alpha": 4}'),
        "no scale (r=None, lora_alpha=4)",
    ),
    "no alpha": (
        lambda folder: adapter_with_config(folder, '{"peft_type": "LORA", "r": 2}'),
        "lora_alpha=None): save it anew",
    ),
    "rank 0": (lambda folder: adapter(folder, r=0), "no scale (r=0, lora_alpha=4)"),
    "a list": (
        lambda folder: adapter_with_config(folder, "[]"),
        "adapter_config.json: does not hold an object: fetch it again",
    ),
    "null": (
        lambda folder: adapter_with_config(folder, "null"),
        "adapter_config.json: does not hold an object: fetch it again",
    ),
    "a header that is a list": (
        lambda folder: adapter_with_header(folder, "[]"),
        "a header that is not safetensors: fetch it again",
    ),
    "a header without places": (
        lambda folder: adapter_with_header(folder, '{"x": {"dtype": "F32"}}'),
        "not safetensors: fetch it",
    ),
    "fewer bytes than its shape": (
        lambda folder: adapter_with_header(
            folder, '{"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', b"1234"
        ),
        "has a header that is damaged at x: fetch it again",
    ),
    "an empty file": (
        lambda folder: adapter_with_header(folder, ""),
        "has a header that is not safetensors: fetch it again",
    ),
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
        "adapts model.embed_tokens as an embedding, and only matrices are supported: merge the adapter",
    ),
    "a bias beside its factors": (
        lambda folder: adapter(folder, half("A", 2, 8) | half("B", 8, 2) | {f"{Q}.lora_B.bias": np.float32([1])}),
        "holds model.layers.0.self_attn.q_proj.lora_B.bias, which is not plain LoRA: merge",
    ),
    "NaN": (lambda folder: adapter(folder, half("A", 2, 8, fill=np.nan) | half("B", 8, 2)), "NaN or infinity"),
    "nothing": (lambda folder: adapter(folder, half("A", 2, 8) | half("B", 8, 2, fill=0.0)), "has length 0"),
    "times nothing": (lambda folder: adapter(folder, lora_alpha=0), "has length 0"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_that_do_not_fit_are_refused(base: CheckpointInfo, tmp_path: Path, case: str) -> None:
    make, expected = ADAPTERS[case]
    with pytest.raises(UserError, match=r"^grid\.towards=") as error:
        resolve_target(make(tmp_path / "other"), base)
    assert expected in str(error.value), str(error.value)


@pytest.mark.parametrize("initialization", [None, True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_initializations_that_leave_the_base_unchanged_are_accepted(
    base: CheckpointInfo, tmp_path: Path, initialization: str | bool | None
) -> None:
    assert resolve_target(adapter(tmp_path / "lora", init_lora_weights=initialization), base).kind == "adapter"


# Fields of PEFT's LoraConfig that change the meaning of an adapter.
REFUSED_LORA_FIELDS = (  # noqa: SIM905
    "fan_in_fan_out megatron_config trainable_token_indices loftq_config "
    "corda_config lora_ga_config velora_config alora_invocation_tokens use_qalora monteclora_config "
    "layer_replication target_parameters use_bdlora arrow_config kasa_config"
).split()


def test_every_field_of_the_installed_peft_is_classified(base: CheckpointInfo, tmp_path: Path) -> None:
    """Classify every field that is new in PEFT. Its source is parsed, because importing it takes seconds."""
    (package,) = importlib.util.find_spec("peft").submodule_search_locations
    field_names = set()
    for file, names in (("tuners/lora/config.py", ["LoraConfig"]), ("config.py", ["PeftConfigMixin", "PeftConfig"])):
        for node in ast.parse((Path(package) / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                field_names |= {ast.unparse(field.target) for field in node.body if isinstance(field, ast.AnnAssign)}
    assert field_names - {"runtime_config"} == CHECKED_LORA_FIELDS | HARMLESS_LORA_FIELDS | set(REFUSED_LORA_FIELDS), (
        "runtime_config is never saved"
    )
    for i, key in enumerate(REFUSED_LORA_FIELDS):
        with pytest.raises(UserError, match=f"uses {key}"):
            resolve_target(adapter(tmp_path / f"{i}", **{key: {"set": 1}}), base)


def test_an_unreadable_adapter_is_refused(
    base: CheckpointInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(file: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(adapted, "read_tensor_headers", denied)
    with pytest.raises(UserError, match=r"^grid\.towards=.*lora: could not be read \(Permission denied\)"):
        resolve_target(adapter(tmp_path / "lora"), base)


def test_a_node_with_other_content_in_the_folder_is_refused(base: CheckpointInfo, tmp_path: Path) -> None:
    mapped = MappedCheckpoint(base.path)
    for folder, name in (
        (model(tmp_path / "tuned", weights(1)), "model"),
        (adapter(tmp_path / "lora"), "adapter_model"),
    ):
        target = resolve_target(folder, base)
        open_endpoint(target, mapped)
        file = folder / f"{name}.safetensors"
        tensors = load_file(file)
        tensors[min(tensors)] = tensors[min(tensors)] + 1
        save_file(tensors, file)
        with pytest.raises(UserError, match="holds something else on this node"):
            open_endpoint(target, mapped)


def test_the_bases_weights_in_another_dtype_are_refused(tmp_path: Path, base: CheckpointInfo) -> None:
    exact = {name: w.astype(np.float16) for name, w in weights(0).items()}
    rounded = read_checkpoint(model(tmp_path / "rounded", {name: w.astype(np.float32) for name, w in exact.items()}))
    with pytest.raises(UserError, match=r"^grid\.towards=.*has the base's weights, so the direction has length 0"):
        resolve_target(model(tmp_path / "half", exact), rounded)
    assert resolve_target(tmp_path / "half", base).kind == "checkpoint", (
        "in float16 its weights differ from the base in float32"
    )


def test_a_base_with_infinity_is_refused_and_a_finite_one_is_read_once(
    base: CheckpointInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_finite(base)
    monkeypatch.setattr(MappedCheckpoint, "base", lambda self, name: pytest.fail("read again"))
    check_finite(base)
    monkeypatch.undo()
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    tensors = weights(3)
    tensors["model.norm.weight"][2] = np.inf
    with pytest.raises(UserError, match=r"^model\.path=.*model\.norm\.weight holds NaN or infinity"):
        check_finite(read_checkpoint(model(tmp_path / "spoilt", tensors)))
