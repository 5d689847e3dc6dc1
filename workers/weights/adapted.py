"""Add a LoRA adapter to a checkpoint and keep the sum in float32: the resident model of `model.adapter`.

`python -P -m workers.weights.adapted BASE ADAPTER OUT`; OUT must not exist. The driver runs this in a subprocess, in a
temporary folder that it renames afterwards.

Each adapted tensor is W + s B A, computed as at the point where the adapter's coefficient is 1 (docs/weights.md) and
stored in float32. An engine that rounds it to its own dtype thus holds the same bits as at that point. All other
tensors are copied as they are.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from orchestrator.utils.model_config import HEAD_TENSORS
from orchestrator.utils.safetensors_header import INDEX_FILE, TensorHeader, read_header
from workers.noise.definition import Array
from workers.noise.reference import perturb
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.lora_config import ADAPTER_CONFIG
from workers.weights.targets import AdapterEndpoint

COPIED_AT_ONCE = 1 << 24


def add_adapter(source: Path, adapter: Path, out: Path) -> None:
    """Write the sum of a checkpoint and an adapter to a new folder, with the checkpoint's other files.

    Raises:
        UserError: (grid.towards) The adapter is not plain LoRA, or does not fit the checkpoint.
    """
    base = MappedCheckpoint(source)
    endpoint = AdapterEndpoint(adapter, base)
    perturbed = {info.name for info in base.tensors()}
    out.mkdir(parents=True)
    files = {path.name for path in base.files()}
    kept: dict[str, str] = {}
    for name in sorted(files):
        # A tied head that is stored again would differ from an adapted embedding. Engines read the embedding only.
        tensors = [t for t in read_header(source / name) if t.name in perturbed or t.name not in HEAD_TENSORS]
        kept |= dict.fromkeys((tensor.name for tensor in tensors), name)
        _write_file(out / name, tensors, base, endpoint)
    if (source / INDEX_FILE).is_file():
        index = {"metadata": {}, "weight_map": dict(sorted(kept.items()))}
        (out / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
    for file in sorted(source.iterdir()):
        is_weights = file.name in files or file.name in (INDEX_FILE, ADAPTER_CONFIG)
        if file.is_file() and not file.name.startswith(".") and not is_weights:
            shutil.copyfile(file, out / file.name)


def _write_file(path: Path, tensors: Sequence[TensorHeader], base: MappedCheckpoint, endpoint: AdapterEndpoint) -> None:
    """Write one safetensors file; adapted tensors are float32, the others keep their dtype and bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        adapted = tensor.name in endpoint.factors
        stop = position + (4 * tensor.size if adapted else tensor.stop - tensor.start)
        dtype = "F32" if adapted else tensor.dtype
        header[tensor.name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            if tensor.name in endpoint.factors:
                stream.write(adapted_tensor(tensor.name, base, endpoint).data)
            else:
                _copy(tensor, stream)


def adapted_tensor(name: str, base: MappedCheckpoint, endpoint: AdapterEndpoint) -> Array:
    """Return W + s B A of a tensor, flat float32."""
    info = base[name]
    weights = base.base(name)
    factor, _ = endpoint.weigh(info, 1.0)
    blend = [(1.0, weights, info.dtype), (factor, endpoint.values(info), "float32")]
    total = perturb(weights, name, (), "float32", info.dtype, blend)
    base.release(name)
    return total


def _copy(tensor: TensorHeader, stream: BinaryIO) -> None:
    with open(tensor.file, "rb") as file:
        file.seek(tensor.start)
        left = tensor.stop - tensor.start
        while left:
            block = file.read(min(left, COPIED_AT_ONCE))
            assert block, f"{tensor.file} was cut short while it was read"
            stream.write(block)
            left -= len(block)


if __name__ == "__main__":
    add_adapter(*map(Path, sys.argv[1:]))
