"""Test LoRA adapters with ranks and alphas by pattern against PEFT's own merge in float32.

All factors are small integers, so that their products are exact in any order and the merges must be equal to the bit.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from orchestrator.utils.errors import UserError
from workers.weights import lora_patterns
from workers.weights.adapters import write_adapter_sum
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import LoraScales
from workers.weights.materialize import lora_merged, merge, read_safetensors, to_bf16
from workers.weights.targets import read_adapter

MODULES = {
    f"model.layers.{layer}.{module}": shape
    for layer in (0, 1)
    for module, shape in {"self_attn.q_proj": (6, 4), "self_attn.k_proj": (3, 4), "mlp.down_proj": (4, 5)}.items()
}
PATTERNS = (
    "q_proj", "k_proj", "down_proj", "q_pro", "roj", ".*", "lm_head", "Q_PROJ", "self_attn", "q_proj|down_proj",
    "layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj", r"layers\.[01]\.self_attn\..*", ".*q_proj$",
    "^model.layers.0.self_attn.q_proj", "", r"\d.mlp.down_proj", "q_proj)|(k_proj", "(?:k|q)_proj", "1.*",
)  # fmt: skip


def is_expression(key: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError):
        return False
    return True


keys = st.sampled_from(PATTERNS) | st.text("qkproj_.*|()?[]01^$\\", max_size=6).filter(is_expression)


def patterns(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return dictionaries in the order in which PEFT saves them: otherwise it may not be able to load its own file."""
    return st.dictionaries(keys, values, max_size=4).map(lambda found: dict(sorted(found.items())))


configs = st.fixed_dictionaries(
    {
        "r": st.integers(1, 4),
        "lora_alpha": st.integers(1, 64) | st.sampled_from([0.5, 7.25]),
        "use_rslora": st.booleans(),
        "rank_pattern": patterns(st.integers(1, 6)),
        "alpha_pattern": patterns(st.integers(1, 64) | st.just(0.75)),
    }
)


def write_base(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.integers(-9, 9, shape).astype(np.float32) for name, shape in MODULES.items()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return tensors


def torch_model(tensors: dict[str, np.ndarray]) -> Any:
    """Return a module tree whose linear layers have the names and weights of the base."""
    import torch

    root = torch.nn.Module()
    for name, (rows, columns) in MODULES.items():
        *parents, last = name.split(".")
        node = root
        for part in parents:
            if part not in node._modules:
                node.add_module(part, torch.nn.Module())
            node = node.get_submodule(part)
        node.add_module(last, torch.nn.Linear(columns, rows, bias=False))
    root.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in tensors.items()})
    return root


def save_with_peft(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Let PEFT make and save the adapter, with random small integers as factors."""
    import peft
    import torch

    lora = peft.LoraConfig(target_modules=["q_proj", "k_proj", "down_proj"], **config)
    model = peft.get_peft_model(torch_model(tensors), lora)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randint(-3, 4, parameter.shape, generator=generator).float()
    model.save_pretrained(folder)


def merged_by_peft(folder: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Load the saved adapter with PEFT and merge it in float32."""
    import peft

    merged = peft.PeftModel.from_pretrained(torch_model(tensors), folder).merge_and_unload()
    return {name: tensor.numpy() for name, tensor in merged.state_dict().items()}


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # PEFT's remarks on models that are not of transformers
@settings(max_examples=40)
@given(configs)
def test_ranks_and_alphas_by_pattern_merge_as_in_peft(config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tensors = write_base(folder / "base")
        save_with_peft(folder / "adapter", config, tensors)
        expected = merged_by_peft(folder / "adapter", tensors)
        base = MappedCheckpoint(folder / "base")
        factors = read_adapter(folder / "adapter", base)
        assert factors.keys() == tensors.keys()
        for name, f in factors.items():
            assert lora_merged(tensors[name], f.a, f.b, f.scale).tobytes() == expected[name].tobytes(), name
        merge(folder / "base", folder / "adapter", folder / "merged")
        for name, (_, bits) in read_safetensors(folder / "merged" / "model.safetensors").items():
            assert bits.tolist() == to_bf16(expected[name]).tolist(), name
        write_adapter_sum(base, [folder / "adapter"], [1.0], folder / "sum")
        for name, f in read_adapter(folder / "sum", base).items():
            assert np.allclose(lora_merged(tensors[name], f.a, f.b, f.scale), expected[name], rtol=1e-6, atol=1e-4)
    event(f"{len({f.scale for f in factors.values()})} scales, {len({len(f.a) for f in factors.values()})} ranks")


Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"


def test_the_first_pattern_in_the_file_counts(tmp_path: Path) -> None:
    config = json.loads('{"r": 2, "lora_alpha": 4, "alpha_pattern": {"q_proj": 8, ".*": 16}, "rank_pattern": null}')
    scales = LoraScales(tmp_path, config, [Q, K])
    assert (scales.of(Q), scales.of(K)) == ((2, 4.0), (2, 8.0))
    turned = LoraScales(tmp_path, config | {"alpha_pattern": {".*": 16, "q_proj": 8}}, [Q])
    assert turned.of(Q) == (2, 8.0)


def test_a_rank_by_pattern_changes_the_scale(tmp_path: Path) -> None:
    config = {"r": 2, "lora_alpha": 8, "rank_pattern": {"q_proj": 4}}
    scales = LoraScales(tmp_path, config, ["q_proj", "xq_proj"])
    assert scales.of("q_proj") == (4, 2.0)
    assert scales.of("xq_proj") == (2, 4.0), "a pattern matches whole parts of the name"
    assert LoraScales(tmp_path, config | {"use_rslora": True}, ["q_proj"]).of("q_proj") == (4, 4.0)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("(a+)+b", "has regular expressions that take longer than 0.5 s"),
        ("(" * 5000, "is no regular expression"),
        ("q_proj(", "is no regular expression"),
    ],
)
def test_a_pattern_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    """(a+)+b takes 2^n steps for n times the letter a."""
    monkeypatch.setattr(lora_patterns, "TIME_LIMIT", 0.5)
    config = {"r": 2, "lora_alpha": 8, "rank_pattern": {key: 4}}
    with pytest.raises(UserError, match=r"the rank_pattern of its adapter_config\.json") as error:
        LoraScales(tmp_path, config, ["a" * 50])
    assert words in str(error.value)
