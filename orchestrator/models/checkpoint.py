"""A folder of safetensors as it lies on disk: what is in it, whether it can be used, which model it is.

Headers are read in plain Python, so that every check comes before anything heavy is imported.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id

FIELD = "model.path"
FINGERPRINT_VERSION = 1
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
REMEMBERED = ".safety-landscape.json"

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
OTHER_FORMATS = (".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".npz")
LAYER = re.compile(r"(.*\blayers)\.(\d+)\.(\w+)(.*)")  # a stack, the layer's number, its module, the rest of the name
MAX_HEADER = 100 << 20  # the format's own limit
# An edit within one tick of a file system's clock keeps the modification time; some tick once in two seconds.
CLOCK_TICK_NS = 2_000_000_000

# Fields of config.json that leave every output as it is: notes on origin and saving, training-only settings, and
# the dtype, which the preset decides. All other fields, unknown ones too, are part of the model's identity.
COSMETIC = frozenset(
    (  # noqa: SIM905
        "_name_or_path _model_name_or_path _commit_hash transformers_version is_local dtype torch_dtype use_cache "
        "return_dict output_attentions output_hidden_states initializer_range attention_dropout attn_pdrop "
        "embd_pdrop resid_pdrop embedding_dropout hidden_dropout residual_dropout resid_dropout "
        "router_aux_loss_coef output_router_logits gradient_checkpointing bos_token_id pad_token_id unk_token_id "
        "finetuning_task task_specific_params id2label label2id problem_type quantization_config"
    ).split()
)


@dataclass(frozen=True)
class TensorHeader:
    """Where one tensor lies: bytes [start, stop) of `file`, row-major, of safetensors' dtype name (F32, BF16, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A folder that passed `check`: its config and the headers of its tensors, by name."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]

    @property
    def architecture(self) -> str:
        """The class that config.json names, such as LlamaForCausalLM."""
        return str(self.config["architectures"][0])

    @property
    def files(self) -> list[Path]:
        """The files with weights, by name."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    @property
    def n_parameters(self) -> int:
        """Elements of all tensors; tied weights that are stored once count once."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(tensor.stop - tensor.start for tensor in self.tensors.values())


def check(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a folder, its headers read and every length checked (no tensor is read).

    Raises UserError(model.path) for a folder that is missing, unreadable or a file; without config.json or a known
    architecture; with weights that are not safetensors, incomplete, damaged or quantised; with a gap in its layers.
    """
    folder = Path(path).expanduser()
    try:
        return _check(folder)
    except OSError as error:
        raise UserError(FIELD, folder, f"could not be read ({error.strerror or error}): give a readable one") from error


def _check(folder: Path) -> Checkpoint:
    if not folder.exists():
        raise UserError(FIELD, folder, "there is no such folder: give one with config.json and *.safetensors")
    if not folder.is_dir():
        raise UserError(FIELD, folder, "is a file: give the folder it lies in")
    names = set(os.listdir(folder))
    if CONFIG not in names:
        if "adapter_config.json" in names:
            raise UserError(FIELD, folder, "is a LoRA adapter, not a model: walk towards it with grid.towards=[...]")
        raise UserError(FIELD, folder, "has no config.json: give a folder as a model hub lays it out")
    config = _json_object(folder, CONFIG)
    _check_config(folder, config)
    tensors = _tensors(folder, names)
    _check_layers(folder, config, tensors)
    return Checkpoint(folder, config, tensors)


def _json_object(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_bytes())
    except ValueError as error:
        raise UserError(FIELD, folder, f"its {name} is not JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(FIELD, folder, f"its {name} does not hold an object: fetch it again")
    return value


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised:
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, dict) else "unknown method"
        raise UserError(
            FIELD,
            folder,
            f"is quantised ({method}), and such weights can't be moved exactly: give the unquantised model",
        )
    named = config.get("architectures")
    if not (isinstance(named, list) and named and isinstance(named[0], str)):
        raise UserError(FIELD, folder, "its config.json names no architecture ('architectures'): give a complete one")
    if named[0] not in known_architectures():
        why = "needs code from its own repository, which is never run" if "auto_map" in config else "is not known here"
        hint = did_you_mean(named[0], known_architectures())
        raise UserError(FIELD, folder, f"its architecture {named[0]} {why}{hint or ': give a language model'}")


@functools.cache
def known_architectures() -> frozenset[str]:
    """The generating classes that the installed transformers names, read from its text: importing it takes seconds."""
    spec = find_spec("transformers")
    assert spec is not None and spec.origin is not None, "transformers is a dependency"
    text = (Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    return frozenset(re.findall(r'"(\w+(?:ForCausalLM|ForConditionalGeneration|LMHeadModel))"', text))


def _tensors(folder: Path, names: set[str]) -> dict[str, TensorHeader]:
    if INDEX in names:
        where = _json_object(folder, INDEX).get("weight_map")
        if not (isinstance(where, dict) and where and all(isinstance(file, str) for file in where.values())):
            raise UserError(FIELD, folder, f"its {INDEX} has no weight_map: fetch it again")
        shards = sorted(set(where.values()))
        for shard in shards:
            if shard not in names:  # a path that leads out of the folder is none of its names either
                raise UserError(FIELD, folder, f"{shard}, named in {INDEX}, is missing: fetch it again")
    elif WEIGHTS in names:
        where, shards = None, [WEIGHTS]
    else:
        where = None
        shards = sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("consolidated"))
        if not shards:
            others = sorted(name for name in names if name.endswith(OTHER_FORMATS))
            instead = f" (only {others[0]})" if others else ""
            raise UserError(FIELD, folder, f"has no *.safetensors{instead}: give the model in that format")
    found: dict[str, TensorHeader] = {}
    for shard in shards:
        for tensor in read_headers(folder / shard):
            if tensor.name in found:
                raise UserError(FIELD, folder, f"{tensor.name} is both in {found[tensor.name].file.name} and {shard}")
            found[tensor.name] = tensor
    for name, shard in (where or {}).items():
        if name not in found or found[name].file.name != shard:
            raise UserError(FIELD, folder, f"{name} is not in {shard}, where {INDEX} puts it: fetch it again")
    for tensor in found.values():
        if tensor.dtype not in FLOATS and not (tensor.dtype in ITEM_BYTES and tensor.name.endswith("position_ids")):
            raise UserError(
                FIELD, folder, f"{tensor.name} is stored as {tensor.dtype}, which can't be moved exactly: "
                "give the unquantised model"
            )  # fmt: skip
    return found


def _check_layers(folder: Path, config: Mapping[str, Any], tensors: Iterable[str]) -> None:
    """No layer may be missing, nor lack what a module of most others has: an engine that fuses projections would fill
    the gap with what it finds in memory."""
    stacks: dict[str, dict[int, dict[str, set[str]]]] = {}
    for name in tensors:
        if found := LAYER.fullmatch(name):
            stack, number, module, rest = found.groups()
            stacks.setdefault(stack, {}).setdefault(int(number), {}).setdefault(module, set()).add(rest)
    text = config.get("text_config") or config
    told = text.get("num_hidden_layers")
    if stacks and isinstance(told, int) and not any(layers.keys() >= set(range(told)) for layers in stacks.values()):
        raise UserError(FIELD, folder, f"lacks some of the {told} layers that its config.json tells: fetch it again")
    if text.get("num_kv_shared_layers"):
        return  # some layers rightly have no keys and values
    for stack, layers in stacks.items():
        for module in {module for layer in layers.values() for module in layer}:
            held = {number: frozenset(layer[module]) for number, layer in layers.items() if module in layer}
            most, count = max(Counter(held.values()).items(), key=lambda found: (found[1], len(found[0])))
            for number, names in held.items():
                if names < most and 2 * count >= len(held):
                    gap = f"{stack}.{number}.{module}{min(most - names)}"
                    raise UserError(FIELD, folder, f"lacks tensor {gap}, which other layers have: fetch it again")


def read_headers(file: Path) -> list[TensorHeader]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises UserError where the file is not what its header says, a truncated one above all.
    """

    def damaged(reason: str) -> UserError:
        return UserError(FIELD, file, f"{reason}: fetch it again")

    total = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if total < 8 or length > min(total - 8, MAX_HEADER):
            raise damaged("is not safetensors, or truncated in its header")
        try:
            header = json.loads(stream.read(length))
            entries = sorted(
                (tuple(map(int, entry["data_offsets"])), name, str(entry["dtype"]), tuple(map(int, entry["shape"])))
                for name, entry in header.items()
                if name != "__metadata__"
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged("has a header that is not safetensors") from error
    first, tensors, position = 8 + length, [], 0
    for offsets, name, dtype, shape in entries:
        if len(offsets) != 2 or offsets[0] != position or offsets[1] < position or min(shape, default=1) < 0:
            raise damaged(f"has a header that is damaged at {name}")
        if dtype in ITEM_BYTES and offsets[1] - position != math.prod(shape) * ITEM_BYTES[dtype]:
            raise damaged(f"has a header that is damaged at {name}")
        position = offsets[1]
        tensors.append(TensorHeader(name, dtype, shape, file, first + offsets[0], first + position))
    if total != first + position:
        raise damaged(f"has {total:,} bytes where its header says {first + position:,}")
    return tensors


def identity_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of config.json that change outputs (all but COSMETIC ones and nulls), and the end-of-turn tokens."""
    fields = {key: value for key, value in checkpoint.config.items() if key not in COSMETIC and value is not None}
    if (checkpoint.path / "generation_config.json").is_file():
        stops = _json_object(checkpoint.path, "generation_config.json").get("eos_token_id")
        fields["eos_token_id"] = fields.get("eos_token_id") if stops is None else stops
    return fields


def fingerprint(
    path: str | os.PathLike[str] | Checkpoint, progress: Callable[[float], None] = lambda share: None
) -> str:
    """16 hexadecimal digits for what a model is: names, dtypes, shapes and all bytes of its tensors, and the config
    fields that change outputs (`identity_fields`).

    Not in it: the folder, the division into files, metadata in headers, the tokenizer (prompts' token ids are in
    their own identity). The tensors' hash is remembered beside the weights, or in the user's cache, for as long as
    size, inode, modification and change time of every file stay what they were. `progress` hears the share read.
    """
    checkpoint = path if isinstance(path, Checkpoint) else check(path)
    fields = json.dumps(identity_fields(checkpoint), sort_keys=True, ensure_ascii=False)
    try:
        return content_id([FINGERPRINT_VERSION, fields, _weights_id(checkpoint, progress)])
    except OSError as error:
        raise UserError(FIELD, checkpoint.path, f"could not be read ({error.strerror or error})") from error


def _weights_id(checkpoint: Checkpoint, progress: Callable[[float], None]) -> str:
    own = checkpoint.path / REMEMBERED
    shared = cache_dir() / "fingerprints" / f"{content_id(str(checkpoint.path.resolve()))}.json"
    state = _state(checkpoint.files)
    for place in (own, shared):
        try:
            remembered = json.loads(place.read_bytes())
            if remembered["version"] == FINGERPRINT_VERSION and remembered["files"] == state:
                return str(remembered["weights"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    started = time.time_ns()
    value = _hash(checkpoint.tensors.values(), progress)
    settled = max(max(times[2:]) for times in state.values()) < started - CLOCK_TICK_NS
    if settled and _state(checkpoint.files) == state:
        record = {"version": FINGERPRINT_VERSION, "files": state, "weights": value}
        _ = _remember(own, record) or _remember(shared, record)
    return value


def _state(files: Iterable[Path]) -> dict[str, list[int]]:
    stats = {file.name: file.stat() for file in files}
    return {name: [s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats.items()}


def _hash(tensors: Iterable[TensorHeader], progress: Callable[[float], None]) -> str:
    """A hash over (name, dtype, shape, bytes) of all tensors, by name; BLAKE2b lets go of the interpreter's lock."""

    def digest(tensor: TensorHeader) -> list[Any]:
        value, left = hashlib.blake2b(digest_size=32), tensor.stop - tensor.start
        with open(tensor.file, "rb", buffering=0) as stream:
            stream.seek(tensor.start)
            while left:
                block = stream.read(min(left, 1 << 22))
                if not block:
                    raise UserError(FIELD, tensor.file, "was cut short while it was read: is something writing to it?")
                value.update(block)
                left -= len(block)
        return [tensor.name, tensor.dtype, list(tensor.shape), value.hexdigest()]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ordered = sorted(tensors, key=lambda tensor: tensor.name)
        total, done, digests = sum(tensor.size for tensor in ordered), 0, []
        for tensor, found in zip(ordered, pool.map(digest, ordered), strict=True):
            digests.append(found)
            done += tensor.size
            progress(done / max(1, total))
        return content_id(digests)


def _remember(place: Path, record: Mapping[str, Any]) -> bool:
    temporary = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        if place.name != REMEMBERED:
            place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record), encoding="utf-8")
        os.replace(temporary, place)
    except OSError:
        return False
    return True


def cache_dir() -> Path:
    """Where this user's fetched models lie: $SAFETY_LANDSCAPE_CACHE, or safety-landscape in the platform's cache."""
    if own := os.environ.get("SAFETY_LANDSCAPE_CACHE"):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "safety-landscape"
