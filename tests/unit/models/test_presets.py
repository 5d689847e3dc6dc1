"""Model presets are pinned and licensed, and their sizes match their architectures."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf

from orchestrator.config.schema import ModelConfig, Size
from orchestrator.models.checkpoint import known_architectures
from orchestrator.models.embedded import ADAPTER_OF_PRESET
from orchestrator.utils.paths import CONF_DIR

PRESETS = CONF_DIR / "model"


def preset(name: str) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(PRESETS / f"{name}.yaml"))
    return dict(content)


NAMES = sorted(file.stem for file in PRESETS.glob("*.yaml"))
WITH_HUB = [name for name in NAMES if preset(name)["model"].get("hub")]
LLAMA2 = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
LLAMA3 = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32}
GEMMA3_TEXT = {"hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 8, "num_hidden_layers": 34}
GEMMA3_TEXT |= {"num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208}
GEMMA3_IMAGE = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27}
GEMMA3_IMAGE |= {"image_size": 896, "patch_size": 14, "vision_use_head": False}
# Sizes in the published config.json files: (prefix of the configuration class, fields).
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral7b": ("Mistral", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 32000}),
    "llama2_7b": ("Llama", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 32000}),
    "llama2_7b_base": ("Llama", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 32000}),
    "vicuna7b": ("Llama", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 32000}),
    "llama3_8b": ("Llama", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 128256}),
    "llama3_8b_base": ("Llama", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 128256}),
    "llama3_1_8b": ("Llama", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 128256}),
    "llama3_2_3b": (
        "Llama",
        {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "num_hidden_layers": 28}
        | {"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    ),
    "llama3_3_70b": (
        "Llama",
        {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_hidden_layers": 80}
        | {"num_key_value_heads": 8, "vocab_size": 128256},
    ),
    "qwen2_5_7b": (
        "Qwen2",
        {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28}
        | {"num_key_value_heads": 4, "vocab_size": 152064},
    ),
    "qwen3_8b": (
        "Qwen3",
        {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_hidden_layers": 36}
        | {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
    ),
    "phi4_mini": (
        "Phi3",
        {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "num_hidden_layers": 32}
        | {"num_key_value_heads": 8, "vocab_size": 200064, "tie_word_embeddings": True, "pad_token_id": 0},
    ),
    "olmo2_7b": ("Olmo2", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 100352}),
    "gemma3_1b": (
        "Gemma3Text",
        {"hidden_size": 1152, "intermediate_size": 6912, "num_attention_heads": 4, "num_hidden_layers": 26}
        | {"num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144},
    ),
    "gemma3_4b": (
        "Gemma3",
        {
            "text_config": GEMMA3_TEXT,
            "vision_config": GEMMA3_IMAGE,
        },
    ),
    "smollm2_135m": (
        "Llama",
        {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30}
        | {"num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    ),
}


def test_the_papers_models_and_current_ones_have_presets() -> None:
    assert {"smollm2_135m", "smollm2_135m_base", "local", "dummy"} <= set(NAMES)
    assert {"mistral7b", "llama2_7b", "llama3_8b", "vicuna7b"} <= set(NAMES)
    assert len(WITH_HUB) >= 10
    assert {name for name in NAMES if preset(name)["model"].get("embedded")} == set(ADAPTER_OF_PRESET)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_complete_and_pinned(name: str) -> None:
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")
    model = preset(name)["model"]
    assert model["name"] == name
    assert set(model) <= {field.name for field in dataclasses.fields(ModelConfig)}
    assert set(model.get("size", {})) <= {field.name for field in dataclasses.fields(Size)}
    assert model["dtype"] in ("float32", "bfloat16")
    if model.get("architecture"):
        assert model["architecture"] in known_architectures()
    if name in WITH_HUB:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model["hub"])
        assert re.fullmatch(r"[0-9a-f]{40}", model["revision"]), (
            "the revision must be a commit, because a branch may change"
        )
        assert model["license"] and isinstance(model["gated"], bool) and all(model["size"].values())


MEASURE_SIZES = """
import json, sys
import torch, transformers
sizes = {}
for name, (kind, architecture, fields) in json.load(sys.stdin).items():
    config = getattr(transformers, f"{kind}Config")(**fields)
    with torch.device("meta"):
        built = getattr(transformers, architecture)(config)
    text = config.get_text_config()
    sizes[name] = {
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "layers": text.num_hidden_layers,
        "hidden": text.hidden_size,
        "kv_heads": text.num_key_value_heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        "vocabulary": text.vocab_size,
    }
print(json.dumps(sizes))
"""


@pytest.fixture(scope="module")
def built_sizes() -> dict[str, dict[str, int]]:
    """Return sizes of models built on the meta device, in a separate process because vLLM patches transformers."""
    requested = {
        name: (kind, preset(name)["model"]["architecture"], fields) for name, (kind, fields) in PUBLISHED.items()
    }
    completed = subprocess.run(
        [sys.executable, "-c", MEASURE_SIZES], input=json.dumps(requested), capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    sizes: dict[str, dict[str, int]] = json.loads(completed.stdout)
    return sizes


@pytest.mark.engine
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_match_the_architecture(name: str, built_sizes: dict[str, dict[str, int]]) -> None:
    """A model built on the meta device from the published sizes has the preset's number of parameters."""
    assert preset(name)["model"]["size"] == built_sizes[name]


def test_the_size_of_every_preset_is_checked() -> None:
    assert set(PUBLISHED) | {"smollm2_135m_base", "local", "dummy"} == set(NAMES)
    assert preset("smollm2_135m_base")["model"]["size"] == preset("smollm2_135m")["model"]["size"]
