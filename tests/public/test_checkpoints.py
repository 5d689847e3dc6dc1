"""Checkpoint folders: files that training frameworks and downloads leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.models.compatibility import check_same_tokenizer
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.trajectory import epoch_folders
from orchestrator.utils.errors import UserError
from tests.public.reports import reported

CONFIG = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "vocab_size": 3}
LAYER = "model.layers.0.mlp.up_proj.weight"
TENSORS = {"model.embed_tokens.weight": np.ones((3, 2), np.float32), LAYER: np.ones((4, 2), np.float32)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))


def checkpoint(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(TENSORS if tensors is None else tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def refused(folder: Path) -> str:
    """Return the sentence with which the folder is refused."""
    with pytest.raises(UserError) as error:
        read_checkpoint(folder)
    return error.value.remedy


@reported("huggingface/transformers#28041", "huggingface/transformers#25205", failed_here=True)
@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
def test_names_of_a_wrapped_model_are_refused(tmp_path: Path, wrapper: str) -> None:
    """A compiled model saves names with _orig_mod. that no loader knows; it is refused before an engine starts."""
    folder = checkpoint(tmp_path / "model", {wrapper + name: values for name, values in TENSORS.items()})
    assert f"{wrapper}model.embed_tokens.weight is named as in a model" in refused(folder)


@reported("huggingface/peft#1932", failed_here=True)
def test_a_model_with_unmerged_adapters_is_refused(tmp_path: Path) -> None:
    """Weights of adapted modules are named base_layer until they are merged; such a folder is no plain model."""
    tensors = TENSORS | {LAYER.replace(".weight", ".base_layer.weight"): TENSORS[LAYER]}
    assert "merge_and_unload" in refused(checkpoint(tmp_path / "model", tensors))


@reported("huggingface/transformers#20082", failed_here=True)
def test_empty_tensors_are_refused(tmp_path: Path) -> None:
    """DeepSpeed ZeRO-3 saved tensors of shape [0]; the first one is named, with the remedy."""
    folder = checkpoint(tmp_path / "model", TENSORS | {LAYER: np.ones(0, np.float32)})
    assert f"{LAYER} has no elements" in refused(folder)


@reported("Neph0s/CoSER#3", "Blaizzy/mlx-vlm#1464", failed_here=True)
def test_an_index_of_other_files_than_the_model_is_refused(tmp_path: Path) -> None:
    """Loaders differ in whether an index of an earlier save or model.safetensors counts; both are refused."""
    folder = checkpoint(tmp_path / "model")
    save_file(TENSORS, folder / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(TENSORS, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "remove those that are out of date" in refused(folder)


@reported("huggingface/peft#1381", failed_here=True)
def test_an_adapter_beside_a_model_is_refused(tmp_path: Path) -> None:
    """transformers adds an adapter whose config is beside a merged model once more; such a folder is refused."""
    folder = checkpoint(tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "transformers would add the adapter to it" in refused(folder)


@reported("huggingface/transformers#27923", "microsoft/OmniParser#34", failed_here=True)
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    """Cloned without Git LFS, a weights file is a text that reads as a huge header; the message says what it is."""
    folder = checkpoint(tmp_path / "model")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refused(folder)


@reported("sgl-project/sglang#37054", "jzhang38/TinyLlama#23", failed_here=True)
def test_the_length_that_means_unlimited_is_accepted(tmp_path: Path) -> None:
    """model_max_length is 10^30, more than 64 bits, where a model has no limit; a config with it is read."""
    folder = checkpoint(tmp_path / "model", model_max_length=int(1e30))
    assert len(fingerprint(folder)) == 16


@reported("huggingface/transformers#42959", "ome-projects/ome#470")
def test_infinity_in_a_config_is_accepted(tmp_path: Path) -> None:
    """transformers wrote Infinity, which is no JSON, to config.json; it is read, and part of the model's identity."""
    unlimited, limited = (
        checkpoint(tmp_path / str(limit), time_step_limit=[0.0, limit]) for limit in (float("inf"), 9.0)
    )
    assert "Infinity" in (unlimited / "config.json").read_text()
    assert fingerprint(unlimited) != fingerprint(limited)


@reported("vllm-project/vllm#40765")
def test_consolidated_files_are_not_read_beside_shards(tmp_path: Path) -> None:
    """A loader read Mistral's consolidated file and the shards; without an index only the shards count."""
    folder = checkpoint(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    save_file({"layers.0.attention.wq.weight": TENSORS[LAYER]}, folder / "consolidated.safetensors")
    assert read_checkpoint(folder).tensors.keys() == TENSORS.keys()


@reported("allenai/open-instruct#541", "instructlab/instructlab#2357")
def test_checkpoints_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    """step_9000 was taken for later than step_10000; epoch-10 comes after epoch-9."""
    for i in range(1, 12):
        (tmp_path / f"epoch-{i}").mkdir()
    assert [folder.name for folder in epoch_folders(tmp_path)] == [f"epoch-{i}" for i in range(1, 12)]


@reported("ggml-org/llama.cpp#9692", "huggingface/swift-transformers#131")
def test_merges_as_pairs_and_as_texts_are_the_same(tmp_path: Path) -> None:
    """tokenizers 0.20 writes merges as pairs instead of texts; a model saved with either has the same tokenizer."""
    for name, merges in {"old": ["a b"], "new": [["a", "b"]], "other": [["b", "a"]]}.items():
        (tmp_path / name).mkdir()
        model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": merges}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
    check_same_tokenizer(tmp_path / "old", tmp_path / "new")
    with pytest.raises(UserError, match="merges"):
        check_same_tokenizer(tmp_path / "old", tmp_path / "other")


@reported("huggingface/transformers#42612", "vllm-project/vllm#51063", failed_here=True)
def test_another_head_than_the_tied_embedding_is_refused(tmp_path: Path) -> None:
    """A head that differs from the embedding, which the config ties, was discarded; it is refused with the remedy."""
    head = {"lm_head.weight": 2 * TENSORS["model.embed_tokens.weight"]}
    with pytest.raises(UserError, match="set tie_word_embeddings to false there, or remove that tensor"):
        read_checkpoint(checkpoint(tmp_path / "model", TENSORS | head, tie_word_embeddings=True))


@reported("CompVis/stable-diffusion#394", failed_here=True)
def test_the_folder_of_a_hubs_cache_is_refused_with_its_snapshot(tmp_path: Path) -> None:
    """A model in a hub's cache is in a folder of snapshots that users did not find; the message names it."""
    folder = tmp_path / "models--me--tiny"
    (folder / "snapshots").mkdir(parents=True)
    snapshot = checkpoint(folder / "snapshots" / "0123456789abcdef")
    assert refused(folder).endswith(f"give a snapshot in it, such as {snapshot}")
    (folder / "blob").write_bytes((snapshot / "model.safetensors").read_bytes())
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blob")
    assert read_checkpoint(snapshot).tensors.keys() == TENSORS.keys()
    (folder / "blob").unlink()
    assert refused(snapshot).startswith("its model.safetensors could not be read (No such file")


@reported("sgl-project/sglang#32279", "vllm-project/vllm#38336", failed_here=True)
def test_a_file_that_the_names_of_the_others_announce_has_to_be_there(tmp_path: Path) -> None:
    """A shard that a download had left out was dropped silently; without an index the names tell how many there are."""
    folder = checkpoint(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    remedy = "lacks model-00002-of-00002.safetensors, which model-00001-of-00002.safetensors announces: fetch it again"
    assert refused(folder) == remedy


@reported("Comfy-Org/Comfy-Desktop#1322", failed_here=True)
@pytest.mark.parametrize("mark", [".aria2", ".crdownload", ".incomplete"])
def test_a_download_that_is_not_complete_is_told(tmp_path: Path, mark: str) -> None:
    """A partial file had its final name and looked like any other; the mark that the download left beside it counts."""
    folder = checkpoint(tmp_path / "model")
    (folder / f"model.safetensors{mark}").touch()
    assert refused(folder) == f"holds model.safetensors{mark}, so its download is not complete: fetch it again"
