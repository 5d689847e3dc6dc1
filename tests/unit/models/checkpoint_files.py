"""Checkpoint folders of a few small tensors, written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "transformers_version": "5.0.0",
}
Tensors = dict[str, tuple[str, list[int], bytes]]


def tensors(count: int = 3) -> Tensors:
    return {
        f"layers.{i}.weight": ("F32", [2, 4], struct.pack("<8f", *(i + k / 8 for k in range(8)))) for i in range(count)
    }


def write(file: Path, content: Tensors, metadata: dict[str, str] | None = None, cut: int = 0) -> None:
    """Write a safetensors file without the last `cut` bytes."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape, data) in content.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode()
    file_bytes = struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in content.values())
    file.write_bytes(file_bytes[: len(file_bytes) - cut])


def make(folder: Path, content: Tensors | None = None, shards: int = 1, **config: Any) -> Path:
    """Write a checkpoint whose weights are in `shards` files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    content = tensors() if content is None else content
    if shards == 1:
        write(folder / "model.safetensors", content)
        return folder
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: names[i % shards] for i, name in enumerate(content)}
    for file in names:
        write(folder / file, {name: value for name, value in content.items() if weight_map[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
