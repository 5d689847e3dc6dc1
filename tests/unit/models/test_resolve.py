"""A preset or folder is resolved to a model, or refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from orchestrator.config.schema import ModelConfig
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.resolve import locate_model, resolve_model
from orchestrator.utils.errors import UserError


def test_a_folder_is_resolved(tiny_llama: Path) -> None:
    resolved = resolve_model(ModelConfig(name="local", path=str(tiny_llama), dtype="float32"))
    assert resolved.path == tiny_llama
    assert (resolved.source, resolved.revision, resolved.dtype) == ("path", None, "float32")
    assert resolved.architecture == "LlamaForCausalLM"
    assert resolved.bytes == 4 * resolved.n_parameters
    assert resolved.fingerprint == fingerprint(tiny_llama)
    assert locate_model(ModelConfig(path=str(tiny_llama))) == tiny_llama


def test_a_folder_must_have_the_presets_architecture(tiny_llama: Path, tiny_mistral: Path) -> None:
    mistral = ModelConfig(name="mistral7b", hub="x/y", architecture="MistralForCausalLM")
    assert resolve_model(dataclasses.replace(mistral, path=str(tiny_mistral))).architecture == "MistralForCausalLM"
    with pytest.raises(UserError, match="holds a LlamaForCausalLM where model=mistral7b is a Mistral") as error:
        resolve_model(dataclasses.replace(mistral, path=str(tiny_llama)))
    assert error.value.field == "model.path"


def test_a_folder_without_a_tokenizer_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(UserError, match="has no tokenizer"):
        resolve_model(ModelConfig(name="local", path=str(folder)))


def test_a_preset_without_folder_and_hub_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a folder nor a hub id: name a folder, model\.path=DIR"):
        resolve_model(ModelConfig(name="local"))
    assert locate_model(ModelConfig(name="local")) is None
    assert locate_model(ModelConfig(name="local", path=str(tmp_path / "missing"))) is None


def test_the_dummy_has_a_fingerprint_of_its_own() -> None:
    resolved = resolve_model(ModelConfig(name="dummy", dtype="float32"))
    assert resolved == resolve_model(ModelConfig(name="dummy", dtype="float32"))
    assert (resolved.source, resolved.n_parameters, len(resolved.fingerprint)) == ("dummy", 0, 16)
