"""The pristine base W0: a checkpoint's safetensors, mapped into memory, never copied. No torch."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.utils.errors import UserError
from workers.noise.definition import DType

FIELD = "model.path"
DERIVED = ("rotary_emb.inv_freq", "position_ids")  # made from the config, whatever the file says
ENCODERS = (
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
    "visual.",
    "audio_tower.",
)  # no text reaches them
HIDDEN = ("hidden_size", "n_embd")  # what config.json calls it
HEADS = ("lm_head.weight", "language_model.lm_head.weight")
# model_type of decoders whose config ties the head unless it says otherwise: config.json may leave the field out.
TIED = frozenset(
    (  # noqa: SIM905
        "bloom cohere cohere2 cohere2_moe ernie4_5 ernie4_5_moe falcon gemma gemma2 gemma3 gemma3_text gemma3n "
        "gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text gpt2 gpt_bigcode gpt_neo granite_swa "
        "jetmoe lfm2 lfm2_moe minicpm3 mpt opt smollm3 starcoder2 vaultgemma xglm youtu"
    ).split()
)
DTYPES: dict[str, DType] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint: its name there, shape and stored dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class _Place:
    file: Path
    start: int


class Checkpoint:
    """A folder of safetensors with its config.json. Tensors are maps of the files; tied weights appear once,
    encoders of images and sound beside a language model not at all.

    Raises UserError (model.path, or the `field` named) where a file is missing, truncated or holds weights that cannot
    be moved.
    """

    def __init__(self, folder: str | Path, field: str = FIELD) -> None:
        self._prepare(Path(folder), field)
        self.config.update(read_json(self.folder / "config.json", field))
        for file in self.files():
            self._read_header(file)
        if is_tied(self.config) and len(self._tensors) > 1:
            # Some checkpoints store the tied head again; engines read the embedding only.
            for head in HEADS:
                self._tensors.pop(head, None)

    @classmethod
    def of_file(cls, file: Path, field: str = FIELD) -> Checkpoint:
        """One file of safetensors by itself, with no config beside it: an adapter's factors."""
        self = cls.__new__(cls)
        self._prepare(file.parent, field)
        self._read_header(file)
        return self

    def _prepare(self, folder: Path, field: str) -> None:
        self.folder, self._field = folder, field
        self.config: dict[str, Any] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, _Place] = {}

    def tensors(self) -> list[TensorInfo]:
        """Every tensor that moves, sorted by name."""
        return [self._tensors[name] for name in sorted(self._tensors)]

    def __getitem__(self, name: str) -> TensorInfo:
        return self._tensors[name]

    def base(self, name: str) -> npt.NDArray[Any]:
        """The tensor, flat and read-only: float32, or the bits (uint16) of bfloat16 and float16."""
        info = self._tensors[name]
        array = np.frombuffer(
            self._map(self._places[name].file),
            dtype=np.float32 if info.dtype == "float32" else np.uint16,
            count=info.size,
            offset=self._places[name].start,
        )
        array.flags.writeable = False
        return array if array.flags.aligned else array.copy()

    def mapped(self) -> list[npt.NDArray[np.uint8]]:
        """The bytes of each file, as they are mapped."""
        return [np.frombuffer(self._map(file), np.uint8) for file in self.files()]

    def release(self, name: str) -> None:
        """The tensor's pages may leave memory: what keeps a pass over the files small. It can be read again."""
        place, info = self._places[name], self._tensors[name]
        if hasattr(mmap, "MADV_DONTNEED"):
            start = place.start // mmap.PAGESIZE * mmap.PAGESIZE
            length = place.start + info.size * (4 if info.dtype == "float32" else 2) - start
            self._map(place.file).madvise(mmap.MADV_DONTNEED, start, length)

    @property
    def bytes(self) -> int:
        """Of all tensors that move, as stored."""
        return sum(info.size * (4 if info.dtype == "float32" else 2) for info in self._tensors.values())

    def files(self) -> list[Path]:
        """The files with weights."""
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            return [self.folder / name for name in sorted(set(read_json(index, self._field)["weight_map"].values()))]
        if (whole := self.folder / "model.safetensors").exists():
            return [whole]
        files = sorted(f for f in self.folder.glob("*.safetensors") if not f.name.startswith("consolidated"))
        if not files:
            raise UserError(self._field, self.folder, "no .safetensors file there: convert the weights first")
        return files

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            try:
                with open(file, "rb") as opened:
                    self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise UserError(self._field, file, f"cannot be read ({error}): fetch it again") from None
        return self._maps[file]

    def _read_header(self, file: Path) -> None:
        data = self._map(file)
        broken = UserError(self._field, file, "is not a whole safetensors file: fetch it again")
        try:
            (length,) = struct.unpack_from("<Q", data)
            header = json.loads(data[8 : 8 + length])
        except (struct.error, ValueError):
            raise broken from None
        encoders = "text_config" in self.config
        for name, entry in header.items():
            if name == "__metadata__" or name.endswith(DERIVED) or (encoders and any(e in name for e in ENCODERS)):
                continue
            start, end = entry["data_offsets"]
            if 8 + length + end > len(data):
                raise broken
            if entry["dtype"] not in DTYPES:
                remedy = f"tensor {name} is stored as {entry['dtype']}; only float32, bfloat16 and float16 can be moved"
                raise UserError(self._field, self.folder, remedy)
            self._tensors[name] = TensorInfo(name, tuple(entry["shape"]), DTYPES[entry["dtype"]])
            self._places[name] = _Place(file, 8 + length + start)


def number(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of these fields that holds an integer, of the language model where there is more beside it."""
    config = {**config, **(config.get("text_config") or {})}
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding, by config.json, or by what transformers takes where that does not say."""
    both = [config, config.get("text_config") or {}]
    said = [each["tie_word_embeddings"] for each in both if each.get("tie_word_embeddings") is not None]
    return any(said) if said else any(each.get("model_type") in TIED for each in both)


def read_json(file: Path, field: str = FIELD) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(field, file, f"cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise UserError(field, file, "does not hold an object: fetch it again")
    return value
