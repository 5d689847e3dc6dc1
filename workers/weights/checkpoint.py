"""The unperturbed base W0: a checkpoint's safetensors files, memory-mapped, not copied. Does not import torch."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.utils.errors import UserError
from orchestrator.utils.model_config import HEAD_TENSORS, check_config_kinds, is_tied
from orchestrator.utils.names import is_safe_name
from orchestrator.utils.parsing import FOREIGN_DIGITS, FormatError, read_json_object
from orchestrator.utils.safetensors_header import INDEX_FILE, HeaderError, read_header
from workers.noise.definition import DType

MODEL_FIELD = "model.path"
DERIVED_TENSORS = ("rotary_emb.inv_freq", "position_ids")  # computed from the config, even if the file holds them
# Image and audio encoders of multimodal models, which do not process text.
ENCODERS = ("vision_tower.", "vision_model.", "multi_modal_projector.", "visual.", "audio_tower.")
DTYPES_BY_HEADER: dict[str, DType] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and stored dtype of one tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Number of bytes as stored."""
        return self.size * (4 if self.dtype == "float32" else 2)


@dataclass(frozen=True)
class _Location:
    """File and byte offset of a tensor's data."""

    file: Path
    start: int


class MappedCheckpoint:
    """Memory-mapped checkpoint folder: safetensors files and config.json.

    It contains only the tensors that can be perturbed: tied weights once, and only the language model of a model with
    image or audio encoders.
    """

    def __init__(self, folder: str | Path, field: str = MODEL_FIELD, writable: bool = False) -> None:
        """Map the files of a folder.

        Args:
            folder: The checkpoint's folder.
            field: The user's option that names the folder, for error messages.
            writable: Whether to map the files writable, so that CUDA can register their memory. Nothing writes to it:
                all arrays are read-only.

        Raises:
            UserError: A file is missing or truncated, or holds weights that cannot be perturbed (`field`).
        """
        self._prepare(Path(folder), field, writable)
        self.config.update(read_json(self.folder / "config.json", field))
        try:
            check_config_kinds(self.config)
        except FormatError as error:
            raise UserError(field, self.folder, f"its config.json {error}: fetch it again") from None
        for file in self.files():
            self._read_header(file)
        if is_tied(self.config) and len(self._tensors) > 1:
            # Some checkpoints store the tied head again; engines read the embedding only.
            for head in HEAD_TENSORS:
                self._tensors.pop(head, None)

    @classmethod
    def of_file(cls, file: Path, field: str = MODEL_FIELD) -> MappedCheckpoint:
        """Map one safetensors file without config.json, such as an adapter's factors. Raises UserError (`field`)."""
        self = cls.__new__(cls)
        self._prepare(file.parent, field)
        self._read_header(file)
        return self

    def _prepare(self, folder: Path, field: str, writable: bool = False) -> None:
        self.folder, self._field, self._writable = folder, field, writable
        self.config: dict[str, Any] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self._locations: dict[str, _Location] = {}

    def tensors(self) -> list[TensorInfo]:
        """Return every tensor that can be perturbed, sorted by name."""
        return [self._tensors[name] for name in sorted(self._tensors)]

    def __getitem__(self, name: str) -> TensorInfo:
        return self._tensors[name]

    def base(self, name: str) -> npt.NDArray[Any]:
        """Return the tensor, flat and read-only: float32, or the bits (uint16) of bfloat16 and float16."""
        info = self._tensors[name]
        array = np.frombuffer(
            self._map(self._locations[name].file),
            dtype=np.float32 if info.dtype == "float32" else np.uint16,
            count=info.size,
            offset=self._locations[name].start,
        )
        array.flags.writeable = False
        return array if array.flags.aligned else array.copy()

    def mapped(self) -> list[npt.NDArray[np.uint8]]:
        """Return the mapped bytes of each file, read-only."""
        arrays = [np.frombuffer(self._map(file), np.uint8) for file in self.files()]
        for array in arrays:
            array.flags.writeable = False
        return arrays

    def release(self, name: str) -> None:
        """Let the operating system drop the tensor's pages from memory. The tensor can still be read.

        A pass over the files then takes a bounded amount of memory.
        """
        location, info = self._locations[name], self._tensors[name]
        if hasattr(mmap, "MADV_DONTNEED"):
            start = location.start // mmap.PAGESIZE * mmap.PAGESIZE
            length = location.start + info.bytes - start
            self._map(location.file).madvise(mmap.MADV_DONTNEED, start, length)

    @property
    def bytes(self) -> int:
        """Number of bytes of all tensors that can be perturbed, as stored."""
        return sum(info.bytes for info in self._tensors.values())

    def files(self) -> list[Path]:
        """Return the files with weights. Raises UserError if there are none."""
        index = self.folder / INDEX_FILE
        if index.exists():
            weight_map = read_json(index, self._field).get("weight_map")
            if not (isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())):
                raise UserError(self._field, index, "has no weight_map: fetch it again")
            names = sorted(set(weight_map.values()))
            outside = next((name for name in names if not is_safe_name(name)), None)
            if outside is not None:
                raise UserError(self._field, index, f"names {outside!r}, which is not a file beside it: fetch it again")
            return [self.folder / name for name in names]
        if (whole := self.folder / "model.safetensors").exists():
            return [whole]
        files = sorted(f for f in self.folder.glob("*.safetensors") if not f.name.startswith("consolidated"))
        if not files:
            raise UserError(self._field, self.folder, "no .safetensors file there: convert the weights first")
        return files

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            try:
                access = mmap.ACCESS_WRITE if self._writable else mmap.ACCESS_READ
                with open(file, "r+b" if self._writable else "rb") as opened:
                    self._maps[file] = mmap.mmap(opened.fileno(), 0, access=access)
            except (OSError, ValueError) as error:
                raise UserError(self._field, file, f"cannot be read ({error}): fetch it again") from None
        return self._maps[file]

    def _read_header(self, file: Path) -> None:
        try:
            tensors = read_header(file)
        except HeaderError as error:
            remedy = f"is not a whole safetensors file ({error}): fetch it again"
            raise UserError(self._field, file, remedy) from None
        except OSError as error:
            raise UserError(self._field, file, f"cannot be read ({error}): fetch it again") from None
        has_encoders = "text_config" in self.config
        for tensor in tensors:
            if tensor.name.endswith(DERIVED_TENSORS) or (
                has_encoders and any(encoder in tensor.name for encoder in ENCODERS)
            ):
                continue
            if tensor.dtype not in DTYPES_BY_HEADER:
                problem = f"tensor {tensor.name} is stored as {tensor.dtype}"
                remedy = f"{problem}; only float32, bfloat16 and float16 can be perturbed"
                raise UserError(self._field, self.folder, remedy)
            self._tensors[tensor.name] = TensorInfo(tensor.name, tensor.shape, DTYPES_BY_HEADER[tensor.dtype])
            self._locations[tensor.name] = _Location(file, tensor.start)


def config_integer(config: Mapping[str, Any], *fields: str) -> int | None:
    """Return the value of the first of these fields that holds an integer, or None.

    Fields of a nested text_config take precedence.
    """
    config = {**config, **(config.get("text_config") or {})}
    return next((int(config[field]) for field in fields if isinstance(config.get(field), int)), None)


def read_json(file: Path, field: str = MODEL_FIELD) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        UserError: The file cannot be read or holds no object (`field`).
    """
    try:
        return read_json_object(file, FOREIGN_DIGITS)
    except OSError as error:
        raise UserError(field, file, f"cannot be read ({error})") from None
    except FormatError as error:
        raise UserError(field, file, f"{error}: fetch it again") from None
