"""Compatibility of a checkpoint's tokenizer and settings with those of the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models.checkpoint import CheckpointInfo, read_checkpoint
from orchestrator.models.compatibility import SAMPLE_TEXT
from orchestrator.models.targets import resolve_target
from orchestrator.utils.errors import UserError
from tests.unit.models.target_files import CONFIG, model, weights


def bpe(folder: Path, seed: int, **parts: Any) -> Path:
    """Write a checkpoint with a working tokenizer that has only these optional parts."""
    from tokenizers import Tokenizer, models

    letters = sorted({*SAMPLE_TEXT.replace(" ", "▁"), "▁▁", "▁H", "<b"})
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(letters)}, [("▁", "▁"), ("▁", "H"), ("<", "b")]))
    for key, part in parts.items():
        setattr(tokenizer, key, part)
    tokenizer.save(str(model(folder, weights(seed)) / "tokenizer.json"))
    return folder


def test_tokenizers_match_if_they_make_the_same_tokens(base: CheckpointInfo, tmp_path: Path) -> None:
    """Llama's handling of spaces as written by transformers 4 and 5 matches; another splitting rule does not."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    base_info = read_checkpoint(bpe(tmp_path / "old", 0, normalizer=spaces))
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    file = bpe(tmp_path / "new", 1, pre_tokenizer=metaspace) / "tokenizer.json"
    value = json.loads(file.read_text())
    value["model"]["merges"] = [" ".join(pair) for pair in value["model"]["merges"]]
    file.write_text(json.dumps(value))
    truncating = Tokenizer.from_file(str(bpe(tmp_path / "short", 2, pre_tokenizer=metaspace) / "tokenizer.json"))
    truncating.enable_truncation(2)
    truncating.save(str(tmp_path / "short" / "tokenizer.json"))
    assert resolve_target(tmp_path / "short", base_info).kind == "checkpoint"
    assert resolve_target(tmp_path / "new", base_info).kind == "checkpoint"
    bpe(tmp_path / "other", 1, normalizer=spaces, pre_tokenizer=pre_tokenizers.Punctuation())
    with pytest.raises(UserError, match=r"tokenizer\.json, pre_tokenizer is not the base's, and makes other tokens"):
        resolve_target(tmp_path / "other", base_info)
    with pytest.raises(UserError, match=r"its tokenizer\.json, normalizer is not the base's"):
        resolve_target(bpe(tmp_path / "lower", 1, normalizer=normalizers.Lowercase()), base_info)
    file.write_text(json.dumps(value | {"pre_tokenizer": {"type": "Tomorrow"}}))
    with pytest.raises(UserError, match=r"^grid\.towards=.*new/tokenizer\.json: does not load"):
        resolve_target(tmp_path / "new", base_info)


def test_sentencepiece_files_are_compared_if_there_is_no_other_tokenizer(tmp_path: Path, base: CheckpointInfo) -> None:
    for name, content in (("one", b"one"), ("same", b"one"), ("other", b"two")):
        folder = model(tmp_path / name, weights(len(name)))
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(content)
    one = read_checkpoint(tmp_path / "one")
    assert resolve_target(tmp_path / "same", one).kind == "checkpoint"
    with pytest.raises(UserError, match=r"^grid\.towards=.*\(its tokenizer\.model is not the base's\)"):
        resolve_target(tmp_path / "other", one)


def settings(tmp_path: Path, name: str, fields: dict[str, Any], seed: int = 1) -> Path:
    """Write a checkpoint whose config has only these fields, architecture and sizes."""
    folder = model(tmp_path / name, weights(seed))
    config = {key: value for key, value in CONFIG.items() if key != "rope_parameters"}
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


OLD, NEW = {"rope_theta": 1e4, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
SCALED = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}
LAYERED = {"rope_parameters": {"full_attention": {"rope_theta": 1e4, "rope_type": "default"}}}


@pytest.mark.parametrize(
    ("base_fields", "target_fields"),
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
        ({}, {"sliding_window": 4096}),  # the default of Mistral
        ({"sliding_window": 32768, "use_sliding_window": False}, {"sliding_window": None, "use_sliding_window": False}),
        ({}, {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),  # the defaults of Gemma 2
        ({"text_config": OLD}, {"text_config": NEW}),
    ],
)
def test_settings_written_by_different_versions_of_transformers_match(
    tmp_path: Path, base: CheckpointInfo, base_fields: dict[str, Any], target_fields: dict[str, Any]
) -> None:
    first, second = settings(tmp_path, "first", base_fields, 1), settings(tmp_path, "second", target_fields, 2)
    for target, reference in ((first, second), (second, first)):
        assert resolve_target(target, read_checkpoint(reference)).kind == "checkpoint"


@pytest.mark.parametrize(
    ("base_fields", "target_fields", "expected"),
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
def test_settings_that_differ_are_refused(
    tmp_path: Path, base: CheckpointInfo, base_fields: dict[str, Any], target_fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=r"^grid\.towards=") as error:
        resolve_target(
            settings(tmp_path, "tuned", target_fields), read_checkpoint(settings(tmp_path, "first", base_fields, 2))
        )
    assert expected in str(error.value), str(error.value)
