"""Materialize weights, with the same bytes on every machine: convert GGUF to bfloat16, or merge a LoRA adapter.

`python -P -m workers.weights.materialize base GGUF OUT` and `... merge BASE ADAPTER OUT`; OUT must not exist. The
driver runs this in a subprocess, in a temporary folder that it renames afterwards.

The arithmetic uses numpy's elementwise float32 operations only (each rounded once, none fused, no BLAS), so that the
result does not depend on the processor or on libraries.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.utils.safetensors_header import read_header
from workers.noise.reference import product
from workers.weights.lora_config import ADAPTER_CONFIG, LoraScales
from workers.weights.targets import ADAPTER_WEIGHTS, PEFT_PREFIX

BASE_VERSION = 1  # of `convert_base`; incremented when its bytes change
MERGE_VERSION = 1  # of `merge`; incremented when its bytes change

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]
# Fields kept from the config that transformers derives from the GGUF file. The others are defaults and notes without
# effect.
KEPT_CONFIG_FIELDS = (  # noqa: SIM905
    "attention_bias bos_token_id eos_token_id head_dim hidden_act hidden_size intermediate_size "
    "max_position_embeddings mlp_bias model_type num_attention_heads num_hidden_layers num_key_value_heads "
    "pad_token_id rms_norm_eps rope_parameters tie_word_embeddings vocab_size"
).split()


def from_bf16(bits: U16) -> F32:
    """Convert bfloat16 bits to float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(values: F32) -> U16:
    """Round float32 values to bfloat16 bits, ties to even. The values must not be NaN (asserted)."""
    assert not np.isnan(values).any(), "weights must be numbers"
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def lora_merged(w: F32, a: F32, b: F32, scale: float) -> F32:
    """Return the merged weights fl(W + fl(s B A)), where fl rounds to float32 and B A is `product`.

    Args:
        w: W, (out, in).
        a: A, (r, in).
        b: B, (out, r).
        scale: s.
    """
    total = product(a, b)
    total *= np.float32(scale)
    return w + total


def read_safetensors(path: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """Map the tensors of a file; return name -> (dtype name, array): float32 for F32, bits as uint16 for BF16.

    Raises:
        KeyError: A tensor has another dtype.
    """
    data = np.memmap(path, np.uint8, mode="r")
    kinds = {"F32": np.float32, "BF16": np.uint16}
    return {
        tensor.name: (tensor.dtype, data[tensor.start : tensor.stop].view(kinds[tensor.dtype]).reshape(tensor.shape))
        for tensor in read_header(path)
    }


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], bits: Callable[[str], U16]) -> None:
    """Write bfloat16 tensors by name, one in memory at a time. The header has the same bytes on every machine.

    Args:
        path: The file to write.
        shapes: Tensor -> shape.
        bits: Function from a tensor's name to its bfloat16 bits, uint16 of the tensor's shape.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in sorted(shapes):
        stop = position + 2 * math.prod(shapes[name])
        header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(shapes):
            values = bits(name)
            assert values.shape == tuple(shapes[name]) and values.dtype == np.uint16, name
            stream.write(np.ascontiguousarray(values).data)


def convert_base(gguf: Path, out: Path) -> None:
    """Convert SmolLM2's GGUF file to a new folder with bfloat16 safetensors, configs and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    out.mkdir(parents=True)
    weights = dict(model.named_parameters())  # lists tied weights once
    write_safetensors(
        out / "model.safetensors",
        {name: tuple(tensor.shape) for name, tensor in weights.items()},
        lambda name: to_bf16(weights[name].detach().numpy()),
    )
    tokenizer.save_pretrained(out)
    _split_digits(out / "tokenizer.json")
    model.generation_config.save_pretrained(out)
    full = model.config.to_dict()
    config = {key: full[key] for key in KEPT_CONFIG_FIELDS} | {
        "architectures": [type(model).__name__],
        "dtype": "bfloat16",
    }
    # GGUF stores it in float32: write the shortest decimal number of the same float32, 1e-05
    config["rms_norm_eps"] = float(str(np.float32(config["rms_norm_eps"])))
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _split_digits(tokenizer: Path) -> None:
    """Add SmolLM2's digit splitter, which GGUF only names (`smollm`) and transformers leaves out."""
    value = json.loads(tokenizer.read_text(encoding="utf-8"))
    assert value["pre_tokenizer"]["type"] == "ByteLevel", (
        "transformers now adds a splitter itself: check whether this is still needed"
    )
    splitter = {"type": "Digits", "individual_digits": True}
    value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [splitter, value["pre_tokenizer"]]}
    tokenizer.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def merge(source: Path, adapter: Path, out: Path) -> None:
    """Merge a PEFT LoRA adapter into a bfloat16 checkpoint of one file: W1 = round(W0 + s B A).

    Raises:
        ValueError: The adapter is not plain LoRA, or names tensors that the checkpoint lacks.
        UserError: The adapter's configuration gives a tensor no scale.
    """
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    unsupported = [key for key in ("use_dora", "modules_to_save") if config.get(key)]
    if config.get("peft_type") != "LORA" or unsupported or config.get("bias", "none") != "none":
        raise ValueError(f"not a plain LoRA adapter: {', '.join(unsupported) or config.get('peft_type')}")
    factors = {name: _float32(*tensor) for name, tensor in read_safetensors(adapter / ADAPTER_WEIGHTS).items()}
    weights = read_safetensors(source / "model.safetensors")
    scales = LoraScales(adapter, config, [name.removesuffix(".weight") for name in weights])

    def factor(name: str, letter: str) -> F32 | None:
        return factors.pop(f"{PEFT_PREFIX}{name.removesuffix('.weight')}.lora_{letter}.weight", None)

    def bits(name: str) -> U16:
        dtype, values = weights[name]
        a, b = factor(name, "A"), factor(name, "B")
        if a is None or b is None:
            return to_bf16(values) if dtype == "F32" else values
        _, scale = scales.of(name.removesuffix(".weight"))
        return to_bf16(lora_merged(_float32(dtype, values), a, b, scale))

    out.mkdir(parents=True)
    write_safetensors(out / "model.safetensors", {name: values.shape for name, (_, values) in weights.items()}, bits)
    if factors:
        raise ValueError(f"the adapter names tensors that the model lacks: {min(factors)}")
    for file in sorted(source.iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.name != "model.safetensors":
            shutil.copyfile(file, out / file.name)


def _float32(dtype: str, values: NDArray[Any]) -> F32:
    return from_bf16(values) if dtype == "BF16" else np.asarray(values)


def main(arguments: Iterable[str]) -> None:
    """Run the command line that the module's docstring describes."""
    match list(arguments):
        case ["base", gguf, out]:
            convert_base(Path(gguf), Path(out))
        case ["merge", source, adapter, out]:
            merge(Path(source), Path(adapter), Path(out))
        case _:
            raise SystemExit("usage: base GGUF OUT | merge BASE ADAPTER OUT")


if __name__ == "__main__":
    main(sys.argv[1:])
