"""Weights made once, to the same bytes everywhere: GGUF -> safetensors in bfloat16, and a LoRA adapter merged in.

`python -P -m workers.weights.materialise base GGUF OUT`, `... merge BASE ADAPTER OUT`: OUT must not exist. The driver
runs this in a process of its own, in a temporary folder that it renames.

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

BASE_VERSION = 1  # of `base`; counts up when its bytes change
MERGE_VERSION = 1  # of `merge`, likewise

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]
PREFIX = "base_model.model."  # PEFT's, before the name of the tensor that is adapted
# What is kept of the config that transformers makes of the GGUF file; the rest are notes and defaults of no effect.
CONFIG = (  # noqa: SIM905
    "attention_bias bos_token_id eos_token_id head_dim hidden_act hidden_size intermediate_size "
    "max_position_embeddings mlp_bias model_type num_attention_heads num_hidden_layers num_key_value_heads "
    "pad_token_id rms_norm_eps rope_parameters tie_word_embeddings vocab_size"
).split()


def from_bf16(bits: U16) -> F32:
    """The float32 values of bfloat16 bits: exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(values: F32) -> U16:
    """The bits of float32 values rounded to bfloat16, ties to even. NaN is not expected (asserted)."""
    assert not np.isnan(values).any(), "weights must be numbers"
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def lora_merged(w: F32, a: F32, b: F32, scale: float) -> F32:
    """fl(W + fl(s * BA)) in float32; w: (out, in), a: (r, in), b: (out, r).

    BA is summed over the rank in ascending order from the first product, every product and sum rounded to float32.
    """
    total = b[:, :1] * a[:1]
    for i in range(1, a.shape[0]):
        total += b[:, i : i + 1] * a[i : i + 1]
    total *= np.float32(scale)
    return w + total


def read_safetensors(path: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """Name -> (dtype name, array on the mapped file): float32 for F32, bits as uint16 for BF16. No other dtype."""
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    mapped = np.memmap(path, np.uint8, mode="r")
    kinds = {"F32": np.float32, "BF16": np.uint16}
    return {
        name: (
            entry["dtype"],
            mapped[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]]
            .view(kinds[entry["dtype"]])
            .reshape(entry["shape"]),
        )
        for name, entry in header.items()
    }


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], bits: Callable[[str], U16]) -> None:
    """Writes bfloat16 tensors by name, one in memory at a time. The header too is the same everywhere."""
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


def base(gguf: Path, out: Path) -> None:
    """SmolLM2's GGUF file as a folder of safetensors (bfloat16), configs and tokenizer, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    out.mkdir(parents=True)
    weights = dict(model.named_parameters())  # names tied weights once
    write_safetensors(
        out / "model.safetensors",
        {name: tuple(tensor.shape) for name, tensor in weights.items()},
        lambda name: to_bf16(weights[name].detach().numpy()),
    )
    tokenizer.save_pretrained(out)
    _split_digits(out / "tokenizer.json")
    model.generation_config.save_pretrained(out)
    given = model.config.to_dict()
    config = {key: given[key] for key in CONFIG} | {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    # GGUF keeps it in float32; 1e-05 is that same float32, written as people do
    config["rms_norm_eps"] = float(str(np.float32(config["rms_norm_eps"])))
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _split_digits(tokenizer: Path) -> None:
    """Adds SmolLM2's digit splitter, which GGUF stands for by a name (`smollm`) and transformers leaves out."""
    value = json.loads(tokenizer.read_text(encoding="utf-8"))
    assert value["pre_tokenizer"]["type"] == "ByteLevel", "transformers now splits by itself: look again"
    splitter = {"type": "Digits", "individual_digits": True}
    value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [splitter, value["pre_tokenizer"]]}
    tokenizer.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def merge(source: Path, adapter: Path, out: Path) -> None:
    """A bfloat16 checkpoint of one file with a PEFT LoRA adapter merged in: W1 = round(W0 + s B A).

    Raises ValueError for an adapter that is not plain LoRA, or that names tensors the checkpoint lacks.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    strange = [key for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern") if config.get(key)]
    if config.get("peft_type") != "LORA" or strange or config.get("bias", "none") != "none":
        raise ValueError(f"not a plain LoRA adapter: {', '.join(strange) or config.get('peft_type')}")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    factors = {
        name: _float32(*tensor) for name, tensor in read_safetensors(adapter / "adapter_model.safetensors").items()
    }
    weights = read_safetensors(source / "model.safetensors")

    def factor(name: str, letter: str) -> F32 | None:
        return factors.pop(f"{PREFIX}{name.removesuffix('.weight')}.lora_{letter}.weight", None)

    def bits(name: str) -> U16:
        dtype, values = weights[name]
        a, b = factor(name, "A"), factor(name, "B")
        if a is None or b is None:
            return to_bf16(values) if dtype == "F32" else values
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
    """The command line described at the top."""
    match list(arguments):
        case ["base", gguf, out]:
            base(Path(gguf), Path(out))
        case ["merge", source, adapter, out]:
            merge(Path(source), Path(adapter), Path(out))
        case _:
            raise SystemExit("usage: base GGUF OUT | merge BASE ADAPTER OUT")


if __name__ == "__main__":
    main(sys.argv[1:])
