"""Invalid checkpoint folders are refused in one sentence, before any heavy package is imported."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models.checkpoint import known_architectures, read_checkpoint
from orchestrator.planning.workload import size_of_checkpoint
from orchestrator.utils.choices import Dtype
from orchestrator.utils.errors import UserError
from orchestrator.utils.model_config import TIED_MODEL_TYPES
from tests.unit.models.checkpoint_files import CONFIG, make, tensors, write
from workers.weights.checkpoint import MappedCheckpoint


def refusal(folder: Path) -> str:
    """Return the remedy of the refusal. Check that it is one line about `model.path` and that no file changes."""
    before = sorted((file, file.lstat().st_mtime_ns) for file in folder.parent.rglob("*"))
    with pytest.raises(UserError) as error:
        read_checkpoint(folder)
    assert error.value.field == "model.path"
    assert "\n" not in str(error.value)
    assert sorted((file, file.lstat().st_mtime_ns) for file in folder.parent.rglob("*")) == before
    return error.value.remedy


def test_a_complete_folder_is_read(tmp_path: Path) -> None:
    info = read_checkpoint(make(tmp_path / "model", shards=2))
    assert info.architecture == "LlamaForCausalLM"
    assert (info.n_parameters, info.bytes) == (24, 96)
    assert [file.name for file in info.files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    header = info.tensors["layers.1.weight"]
    assert (header.shape, header.size, header.dtype) == ((2, 4), 8, "F32")
    assert header.file.read_bytes()[header.start : header.stop] == tensors()["layers.1.weight"][2]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "missing")


def test_a_file_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    assert "is a file" in refusal(model / "model.safetensors")


@pytest.fixture
def foreign_folder() -> Iterator[Path]:
    """Yield a temporary folder. Permissions, and the rights of root if the test drops them, are restored afterward."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in folder.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("closed", ["", "config.json", "model.safetensors"])
def test_unreadable_files_are_refused(closed: str, foreign_folder: Path) -> None:
    known_architectures()  # reads a file of transformers
    model = make(foreign_folder / "model")
    (model / closed).chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with pytest.raises(UserError, match=r"could not be read \(Permission denied\)"):
        read_checkpoint(model)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    (model / "config.json").unlink()
    assert "no config.json" in refusal(model)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert "no config.json" in refusal(tmp_path / "model")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_config_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    (model / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json" in refusal(model)


def test_an_adapter_given_as_a_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    write(folder / "adapter_model.safetensors", tensors())
    assert "grid.towards" in refusal(folder)


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [1]])
def test_a_config_without_an_architecture_is_refused(architectures: Any, tmp_path: Path) -> None:
    assert "names no architecture" in refusal(make(tmp_path / "model", architectures=architectures))


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    remedy = refusal(make(tmp_path / "model", architectures=["LamaForCausalLM"]))
    assert "did you mean 'LlamaForCausalLM'" in remedy
    assert "not known" in refusal(make(tmp_path / "model", architectures=["BertModel"]))


def test_a_model_that_needs_its_own_code_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "model", architectures=["ShinyForCausalLM"], auto_map={"AutoModel": "modeling.Shiny"})
    (model / "modeling.py").write_text("raise SystemExit")
    assert "never run" in refusal(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "consolidated.00.pth"])
def test_weights_in_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    (model / "model.safetensors").rename(model / name)
    remedy = refusal(model)
    assert "no *.safetensors" in remedy and name in remedy
    ggufs = "give the folder of the model that it was made from, with *.safetensors"
    if not name.endswith(".gguf"):
        assert remedy.endswith("give the model in that format, in which transformers' save_pretrained writes it")
        return
    assert remedy.endswith(ggufs) and refusal(model / name) == f"is a GGUF file: {ggufs}"
    (model / "config.json").unlink()
    assert refusal(model) == f"has no config.json, only {name}: {ggufs}"


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantized_checkpoint_is_refused(key: str, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    (model / "config.json").write_text(json.dumps(CONFIG | {key: {"quant_method": "gptq", "bits": 4}}))
    assert "quantized (gptq)" in refusal(model)


@pytest.mark.parametrize("dtype", ["I32", "U8", "F8_E4M3"])
def test_integer_weights_are_refused(dtype: str, tmp_path: Path) -> None:
    size = {"I32": 4}.get(dtype, 1)
    content = tensors() | {"layers.0.qweight": (dtype, [3], bytes(3 * size))}
    remedy = refusal(make(tmp_path / "model", content))
    assert "layers.0.qweight" in remedy and "unquantized" in remedy


@pytest.mark.parametrize("cut", [1, 40, 96, 150])
def test_a_truncated_file_is_refused(cut: int, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    write(model / "model.safetensors", tensors(), cut=cut)
    assert "fetch it again" in refusal(model)


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "model", shards=2)
    shard = model / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: has [\d,]+ bytes where"):
        read_checkpoint(model)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 100, struct.pack("<Q", 4) + b"nope", b"\0" * 64])
def test_a_file_that_is_not_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    (model / "model.safetensors").write_bytes(content)
    assert "fetch it again" in refusal(model)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 28]},  # not as many bytes as elements
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [4, 36]},  # a hole
        {"dtype": "F32", "shape": [-2, -4], "data_offsets": [0, 32]},
        {"dtype": "F32", "shape": [2, 4], "data_offsets": [32]},
        {"dtype": "F32", "shape": [2, 4]},
        {"dtype": "F32", "shape": "wide", "data_offsets": [0, 32]},
        [],
    ],
)
def test_a_damaged_header_is_refused(entry: Any, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    text = json.dumps({"w": entry}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(32))
    assert "fetch it again" in refusal(model)


LAYERS = {
    f"model.layers.{i}.{name}": ("F32", [1], bytes(4))
    for i in range(3)
    for name in ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "mlp.up_proj.weight", "norm.weight")
}


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ("model.layers.1.self_attn.k_proj.weight", "lacks tensor model.layers.1.self_attn.k_proj.weight"),
        ("model.layers.2.self_attn.q_proj.weight", "lacks tensor model.layers.2.self_attn.q_proj.weight"),
        ("model.layers.2.", "lacks some of the 3 layers"),
    ],
)
def test_a_missing_layer_or_tensor_is_refused(removed: str, expected: str, tmp_path: Path) -> None:
    """vLLM, which fuses projections, and transformers fill it with whatever is in memory."""
    content = {name: value for name, value in LAYERS.items() if not name.startswith(removed)}
    assert expected in refusal(make(tmp_path / "model", content, num_hidden_layers=3))


def test_layers_that_differ_by_design_are_accepted(tmp_path: Path) -> None:
    """A mixture of experts with a dense first layer; two kinds of attention; one more prediction layer than stated."""
    experts = {
        name.replace("mlp.up_proj", "mlp.experts.0.up_proj"): v for name, v in LAYERS.items() if ".0." not in name
    }
    linear = {
        name.replace("self_attn", "linear_attn").replace("k_proj", "a"): v
        for name, v in LAYERS.items()
        if ".2." in name
    }
    content = {name: v for name, v in (LAYERS | experts).items() if ".0." in name or "mlp.up" not in name}
    content = {name: v for name, v in (content | linear).items() if ".2.self_attn" not in name}
    read_checkpoint(make(tmp_path / "model", content, num_hidden_layers=2))
    shared = {name: v for name, v in LAYERS.items() if ".2.self_attn.k" not in name}
    read_checkpoint(make(tmp_path / "shared", shared, num_hidden_layers=3, num_kv_shared_layers=1))


def test_an_index_that_does_not_match_the_files_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "model", shards=2)
    index = model / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    first, second = sorted(set(weight_map.values()))
    for changed, expected in [
        (weight_map | {"layers.9.weight": first}, "layers.9.weight is not in"),
        (weight_map | {"layers.0.weight": second}, "layers.0.weight is not in"),
        (weight_map | {"layers.9.weight": "model-00003-of-00003.safetensors"}, "is missing"),
        (weight_map | {"layers.9.weight": "../secret.safetensors"}, "is missing"),
        ({}, "no weight_map"),
        ({"layers.0.weight": 1}, "no weight_map"),
    ]:
        index.write_text(json.dumps({"weight_map": changed}))
        assert expected in refusal(model)
    index.write_text("[")
    assert "not JSON" in refusal(model)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "model", shards=2)
    (model / "model.safetensors.index.json").unlink()
    write(model / "model-00002-of-00002.safetensors", tensors())
    assert "both in" in refusal(model)


def test_checks_import_no_heavy_package(tmp_path: Path) -> None:
    make(tmp_path / "model")
    code = (
        "import sys; from orchestrator.models.fingerprint import fingerprint; fingerprint(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.thorough
def test_models_saved_by_transformers_are_accepted(tiny_llama: Path, tiny_llama_tied: Path, tiny_mistral: Path) -> None:
    assert read_checkpoint(tiny_llama).architecture == "LlamaForCausalLM"
    assert read_checkpoint(tiny_mistral).architecture == "MistralForCausalLM"
    assert {tensor.dtype for tensor in read_checkpoint(tiny_llama_tied).tensors.values()} == {"BF16"}
    assert "lm_head.weight" not in read_checkpoint(tiny_llama_tied).tensors


@pytest.mark.parametrize("tied", [True, False])
def test_encoders_and_derived_tensors_are_not_perturbed(tmp_path: Path, tied: bool) -> None:
    """The cases are the rows of the table in docs/noise.md, with tensor names of gemma3, qwen2_vl and qwen2_audio."""
    (tensor,) = tensors(1).values()
    ids = ("I64", [1, 2], bytes(16))  # a dtype that a tensor could not have
    perturbed = ("language_model.model.embed_tokens.weight", "language_model.model.norm.weight")
    head = "language_model.lm_head.weight"
    derived = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": tensor,
        "model.embeddings.position_ids": ids,
    }
    encoders = {
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": tensor,
        "vision_tower.vision_model.embeddings.position_ids": ids,
        "vision_model.post_layernorm.weight": tensor,
        "multi_modal_projector.mm_input_projection_weight": tensor,
        "visual.blocks.0.attn.qkv.weight": tensor,
        "audio_tower.layers.0.fc1.weight": tensor,
    }
    content = dict.fromkeys([*perturbed, head], tensor) | derived | encoders
    with_encoders = make(tmp_path / "beside", content, text_config={"tie_word_embeddings": tied})
    assert [info.name for info in MappedCheckpoint(with_encoders).tensors()] == sorted(
        [*perturbed, *([] if tied else [head])]
    )
    without_decoder = make(
        tmp_path / "alone", {"lm_head.weight": tensor, "model.visual.weight": tensor}, tie_word_embeddings=tied
    )
    assert [info.name for info in MappedCheckpoint(without_decoder).tensors()] == [
        *([] if tied else ["lm_head.weight"]),
        "model.visual.weight",
    ]


# Tied heads.


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"model_type": "llama"}, False),
        ({"model_type": "gemma3_text"}, True),  # google/gemma-3-1b-it does not say
        ({"model_type": "gemma3_text", "tie_word_embeddings": False}, False),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"model_type": "other", "text_config": {"tie_word_embeddings": True}}, True),
    ],
)
def test_a_tied_head_is_counted_once_even_if_the_config_does_not_name_it(
    tmp_path: Path, config: dict[str, Any], tied: bool
) -> None:
    tied_tensors = {
        "model.embed_tokens.weight": tensors(1)["layers.0.weight"],
        "lm_head.weight": tensors(1)["layers.0.weight"],
    }
    folder = make(tmp_path / "model", tensors() | tied_tensors, **config)
    assert ("lm_head.weight" in {info.name for info in MappedCheckpoint(folder).tensors()}) is not tied
    size = size_of_checkpoint(read_checkpoint(folder), "model", Dtype.float32)
    assert (size.tied, size.parameters, size.disk_bytes) == ((True, 32, 128) if tied else (False, 40, 160))


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("at", [0, 15, 31])
def test_another_head_than_the_tied_embedding_is_refused(
    tmp_path: Path, shards: int, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines use the stored head, which would not be perturbed."""
    monkeypatch.setattr("orchestrator.models.checkpoint.COMPARED_AT_ONCE", 12)
    dtype, shape, data = tensors(1)["layers.0.weight"]
    other = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    heads = {"model.embed_tokens.weight": (dtype, shape, data), "lm_head.weight": (dtype, shape, other)}
    folder = make(tmp_path / "tied", tensors() | heads, shards, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"ties the head to model\.embed_tokens\.weight, and it stores another lm_head"):
        read_checkpoint(folder)
    read_checkpoint(make(tmp_path / "untied", tensors() | heads, shards, tie_word_embeddings=False))
    same = heads | {"lm_head.weight": (dtype, shape, data)}
    read_checkpoint(make(tmp_path / "same", tensors() | same, shards, tie_word_embeddings=True))


def test_a_missing_head_is_tied_to_the_embedding(tmp_path: Path) -> None:
    assert size_of_checkpoint(
        read_checkpoint(make(tmp_path / "model", model_type="unheard_of")), "model", Dtype.float32
    ).tied


@pytest.mark.thorough
def test_the_table_of_tied_models_matches_transformers() -> None:
    import transformers

    for kind in TIED_MODEL_TYPES:
        config = transformers.CONFIG_MAPPING[kind]()
        assert config.tie_word_embeddings or config.get_text_config().tie_word_embeddings, kind


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("num_hidden_layers", "1e999"),
        ("num_hidden_layers", '"2"'),
        ("hidden_size", "4.5"),
        ("vocab_size", "true"),
        ("num_attention_heads", "1" + "0" * 400),
        ("text_config", "3"),
        ("text_config", '{"hidden_size": "8"}'),
        ("rope_scaling", '"linear"'),
        ("tie_word_embeddings", '"yes"'),
        ("model_type", "[1]"),
        ("note", "[" * 200 + "]" * 200),
        ("note", "[" * 100_000 + "]" * 100_000),
    ],
)
def test_a_config_of_other_types_is_refused(tmp_path: Path, field: str, text: str) -> None:
    folder = make(tmp_path / "model")
    config = json.dumps({key: value for key, value in CONFIG.items() if key != field})
    (folder / "config.json").write_text(f'{config[:-1]}, "{field}": {text}}}')
    assert "config.json" in refusal(folder)
