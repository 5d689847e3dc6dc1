"""Read and check a checkpoint folder in the driver: config.json and the headers of its safetensors files.

Headers are read in plain Python, so that all checks run before anything heavy is imported. No tensor is read, except
an output head that is stored although it is tied.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.utils import parsing
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.model_config import HEAD_TENSORS, check_config_kinds, is_tied
from orchestrator.utils.paths import expanded
from orchestrator.utils.safetensors_header import INDEX_FILE, ITEM_BYTES, HeaderError, TensorHeader, read_header

MODEL_FIELD = "model.path"
"""The option that an error about a checkpoint names, unless the caller gives another."""

WEIGHTS_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE = "model.safetensors", "config.json", "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
FLOATS = ("F64", "F32", "F16", "BF16")
GGUF = ".gguf"
_INSTEAD_OF_GGUF = "give the folder of the model that it was made from, with *.safetensors"

UNFINISHED = (".incomplete", ".crdownload", ".part", ".partial", ".aria2", ".download")
"""Ends of the names of files that downloads leave until they are complete."""

OTHER_FORMATS = (".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".npz")
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
"""The names of a text model's input embedding, whose rows are the tokens."""

LAYER = re.compile(r"(.*\blayers)\.(\d+)\.(\w+)(.*)")
"""A tensor's name in a stack of layers: the stack, the layer's number, the module in it, the rest of the name."""

TRAINER_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""The name of a folder in which a transformers Trainer saves a step."""

COMPARED_AT_ONCE = 4 << 20

WRAPPERS = {
    "._orig_mod.": "as in a model compiled by torch.compile: save the model inside it",
    ".module.": "as in a model wrapped for training on several GPUs: save the model inside it",
    "._fsdp_wrapped_module.": "as in a model wrapped for training on several GPUs: save the model inside it",
    ".base_layer.": "as in a model with unmerged adapters: merge them (merge_and_unload) and save it again",
    ".base_model.model.": "as in a LoRA adapter: move it to a folder of its own, and add model.adapter=THAT",
}
"""Parts of tensor names that a training framework's wrapper leaves in a checkpoint, with a remedy."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A folder that passed `read_checkpoint`: its config and the headers of its tensors, by name."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]

    @property
    def architecture(self) -> str:
        """The class that config.json names, such as LlamaForCausalLM."""
        return str(self.config["architectures"][0])

    @property
    def files(self) -> list[Path]:
        """The files with weights, sorted by name."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    @property
    def n_parameters(self) -> int:
        """Number of elements of all tensors. Tied weights that are stored once count once."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens that the input embedding holds. None if neither the tensor nor a size is found."""
        embeddings = [tensor.shape[0] for name, tensor in self.tensors.items() if EMBEDDING.search(name)]
        if embeddings:
            return embeddings[0]
        size = self.config.get("vocab_size")
        return size if isinstance(size, int) else None

    @property
    def bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(tensor.stop - tensor.start for tensor in self.tensors.values())


def read_checkpoint(path: str | os.PathLike[str]) -> CheckpointInfo:
    """Read the config and tensor headers of a checkpoint folder, and check them.

    Raises:
        UserError: (model.path) The folder is missing, unreadable or a file; it has no config.json or an unknown
            architecture; its weights are not safetensors, incomplete, damaged or quantized; a layer is missing; or its
            output head is tied and another one is stored.
    """
    folder = expanded(path)
    try:
        return _read_checkpoint(folder)
    except OSError as error:
        file = Path(error.filename or folder)
        subject = f"its {file.name} " if folder in file.parents else ""
        remedy = f"{subject}could not be read ({error.strerror or error}): give a readable one"
        raise UserError(MODEL_FIELD, folder, remedy) from error


def checkpoints_of_trainer(folder: Path) -> list[Path]:
    """Return the folders checkpoint-N in the output of a transformers Trainer, in the order of their steps."""
    steps = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := TRAINER_CHECKPOINT.fullmatch(path.name)) and path.is_dir()
    }
    return [steps[step] for step in sorted(steps)]


def read_tensor_headers(file: Path) -> list[TensorHeader]:
    """Return the tensors of one safetensors file in the order of their bytes.

    Raises:
        UserError: (model.path) The file does not agree with its header; usually it is truncated.
    """
    try:
        return read_header(file)
    except HeaderError as error:
        raise UserError(MODEL_FIELD, file, f"{error}: fetch it again") from error


def read_json_object(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint folder. Raises UserError (model.path) if it holds none."""
    try:
        value = parsing.read_json_object(folder / name, parsing.FOREIGN_DIGITS)
        if name in (CONFIG_FILE, GENERATION_CONFIG_FILE):
            check_config_kinds(value)
    except parsing.FormatError as error:
        raise UserError(MODEL_FIELD, folder, f"its {name} {error}: fetch it again") from error
    return value


@functools.cache
def known_architectures() -> frozenset[str]:
    """Return the text-generating classes of the installed transformers.

    They are read from its source text, because importing it takes seconds.
    """
    spec = find_spec("transformers")
    assert spec is not None and spec.origin is not None, "transformers is a dependency"
    text = (Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    return frozenset(re.findall(r'"(\w+(?:ForCausalLM|ForConditionalGeneration|LMHeadModel))"', text))


def _read_checkpoint(folder: Path) -> CheckpointInfo:
    if not folder.exists():
        raise UserError(MODEL_FIELD, folder, "there is no such folder: give one with config.json and *.safetensors")
    if not folder.is_dir():
        if folder.suffix.lower() == GGUF:
            raise UserError(MODEL_FIELD, folder, f"is a GGUF file: {_INSTEAD_OF_GGUF}")
        raise UserError(MODEL_FIELD, folder, "is a file: give the folder that contains it")
    names = set(os.listdir(folder))
    _check_downloads(folder, names)
    if CONFIG_FILE not in names:
        if ADAPTER_CONFIG in names:
            remedy = f"is a LoRA adapter, not a model: name its base and add model.adapter={folder}, or move toward it "
            raise UserError(MODEL_FIELD, folder, f"{remedy}with grid.towards=[{folder}]")
        if checkpoints := checkpoints_of_trainer(folder):
            last = checkpoints[-1]
            is_adapter = (last / ADAPTER_CONFIG).is_file()
            example = f"model.adapter={last} beside the base's" if is_adapter else f"{MODEL_FIELD}={last}"
            remedy = f"is the output of a trainer: give one of its {len(checkpoints)} checkpoints, such as {example}"
            raise UserError(MODEL_FIELD, folder, f"{remedy}; grid.trajectory={folder} follows them all")
        if snapshots := [path.parent for path in folder.glob(f"snapshots/*/{CONFIG_FILE}")]:
            newest = max(snapshots, key=lambda path: path.stat().st_mtime)
            raise UserError(
                MODEL_FIELD, folder, f"is a hub's cache of a model: give a snapshot in it, such as {newest}"
            )
        if ggufs := sorted(name for name in names if name.lower().endswith(GGUF)):
            raise UserError(MODEL_FIELD, folder, f"has no config.json, only {ggufs[0]}: {_INSTEAD_OF_GGUF}")
        raise UserError(MODEL_FIELD, folder, "has no config.json: give a folder with the files of a model hub")
    config = read_json_object(folder, CONFIG_FILE)
    _check_config(folder, config)
    if ADAPTER_CONFIG in names:
        remedy = f"holds {ADAPTER_CONFIG} beside a model, and transformers would add the adapter to it: "
        raise UserError(
            MODEL_FIELD,
            folder,
            f"{remedy}move the adapter's files to a folder of their own, and add model.adapter=THAT",
        )
    tensors = _read_all_headers(folder, names)
    _check_names(folder, tensors.values())
    _check_dtypes(folder, tensors.values())
    _check_layers(folder, config, tensors)
    _check_tied_head(folder, config, tensors)
    return CheckpointInfo(folder, config, tensors)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for quantized weights, and for architectures that the installed transformers does not have."""
    quantization = config.get("quantization_config") or config.get("compression_config")
    if quantization:
        method = "unknown method"
        if isinstance(quantization, dict):
            method = quantization.get("quant_method", method)
        remedy = f"is quantized ({method}), and such weights can't be moved exactly: give the unquantized model"
        raise UserError(MODEL_FIELD, folder, remedy)
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        remedy = "its config.json names no architecture ('architectures'): give a complete one"
        raise UserError(MODEL_FIELD, folder, remedy)
    name = architectures[0]
    if name not in known_architectures():
        why = "needs code from its own repository, which is never run" if "auto_map" in config else "is not known here"
        hint = did_you_mean(name, known_architectures()) or ": give a language model"
        raise UserError(MODEL_FIELD, folder, f"its architecture {name} {why}{hint}")


def _read_all_headers(folder: Path, names: set[str]) -> dict[str, TensorHeader]:
    """Return the headers of all tensors by name. `names`: the files in the folder."""
    file_of_tensor = _read_index(folder, names) if INDEX_FILE in names else {}
    if file_of_tensor and WEIGHTS_FILE in names and WEIGHTS_FILE not in file_of_tensor.values():
        remedy = f"holds {WEIGHTS_FILE} and, in {INDEX_FILE}, other files with the same tensors: remove those that "
        raise UserError(MODEL_FIELD, folder, f"{remedy}are out of date")
    tensors: dict[str, TensorHeader] = {}
    for shard in sorted(set(file_of_tensor.values())) or _weight_files(folder, names):
        for tensor in read_tensor_headers(folder / shard):
            if tensor.name in tensors:
                remedy = f"{tensor.name} is both in {tensors[tensor.name].file.name} and {shard}"
                raise UserError(MODEL_FIELD, folder, remedy)
            tensors[tensor.name] = tensor
    for name, shard in file_of_tensor.items():
        if name not in tensors or tensors[name].file.name != shard:
            remedy = f"{name} is not in {shard}, where {INDEX_FILE} puts it: fetch it again"
            raise UserError(MODEL_FIELD, folder, remedy)
    return tensors


def _read_index(folder: Path, names: set[str]) -> dict[str, str]:
    """Return the file of each tensor, from the index. All these files are in the folder."""
    weight_map = read_json_object(folder, INDEX_FILE).get("weight_map")
    if not (isinstance(weight_map, dict) and weight_map and all(isinstance(f, str) for f in weight_map.values())):
        raise UserError(MODEL_FIELD, folder, f"its {INDEX_FILE} has no weight_map: fetch it again")
    for shard in sorted(set(weight_map.values())):
        if shard not in names:  # this also refuses a path that leads out of the folder
            raise UserError(MODEL_FIELD, folder, f"{shard}, named in {INDEX_FILE}, is missing: fetch it again")
    return weight_map


def _weight_files(folder: Path, names: set[str]) -> list[str]:
    """Return the safetensors files of a checkpoint that has no index."""
    if WEIGHTS_FILE in names:
        return [WEIGHTS_FILE]
    shards = sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("consolidated"))
    if not shards:
        others = sorted(name for name in names if name.endswith(OTHER_FORMATS))
        instead = f" (only {others[0]})" if others else ""
        remedy = "give the model in that format"
        if others and others[0].endswith(GGUF):
            remedy = _INSTEAD_OF_GGUF
        elif others:
            remedy += ", in which transformers' save_pretrained writes it"
        raise UserError(MODEL_FIELD, folder, f"has no *.safetensors{instead}: {remedy}")
    _check_numbers(folder, shards)
    return shards


def _check_downloads(folder: Path, names: set[str]) -> None:
    """Raise UserError if a download of weights is not complete: some tools give a file its full size at once."""
    for name in sorted(names):
        if name.endswith(UNFINISHED) and any(part in name for part in (".safetensors", "config.json")):
            raise UserError(MODEL_FIELD, folder, f"holds {name}, so its download is not complete: fetch it again")


def _check_numbers(folder: Path, shards: Sequence[str]) -> None:
    """Raise UserError if a file is missing of those that the names of the others announce, such as x-00001-of-00002."""
    for shard in shards:
        match = re.fullmatch(r"(.*-)(\d+)(-of-(\d+)\.safetensors)", shard)
        if match is None:
            continue
        start, number, end, total = match.groups()
        for i in range(1, int(total) + 1):
            other = f"{start}{i:0{len(number)}}{end}"
            if other not in shards:
                raise UserError(MODEL_FIELD, folder, f"lacks {other}, which {shard} announces: fetch it again")


def _check_names(folder: Path, tensors: Iterable[TensorHeader]) -> None:
    """Raise UserError for weights that were saved from a wrapped model, and for tensors without any element."""
    for tensor in tensors:
        wrapper = next((wrapper for mark, wrapper in WRAPPERS.items() if mark in f".{tensor.name}"), None)
        if wrapper is not None:
            raise UserError(MODEL_FIELD, folder, f"its tensor {tensor.name} is named {wrapper}")
        if not tensor.size:
            remedy = "give all weights of it, as DeepSpeed's zero_to_fp32.py collects them"
            raise UserError(MODEL_FIELD, folder, f"its tensor {tensor.name} has no elements: {remedy}")


def _check_dtypes(folder: Path, tensors: Iterable[TensorHeader]) -> None:
    """Raise UserError for weights that are not floating-point numbers. Position ids may be integers."""
    for tensor in tensors:
        is_index = tensor.dtype in ITEM_BYTES and tensor.name.endswith("position_ids")
        if tensor.dtype not in FLOATS and not is_index:
            remedy = f"{tensor.name} is stored as {tensor.dtype}, which can't be moved exactly: "
            raise UserError(MODEL_FIELD, folder, f"{remedy}give the unquantized model")


def _check_tied_head(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> None:
    """Raise UserError if the files store another output head than the embedding to which the config ties it.

    vLLM and transformers then use the stored head, and points would leave it as it is, because a tied head moves with
    the embedding.
    """
    embedding = next((tensor for name, tensor in tensors.items() if EMBEDDING.search(name)), None)
    if embedding is None or not is_tied(config):
        return
    for name in HEAD_TENSORS:
        if name in tensors and not _are_equal(embedding, tensors[name]):
            remedy = f"its {CONFIG_FILE} ties the head to {embedding.name}, and it stores another {name}: set "
            raise UserError(MODEL_FIELD, folder, f"{remedy}tie_word_embeddings to false there, or remove that tensor")


def _are_equal(one: TensorHeader, other: TensorHeader) -> bool:
    """Return whether two tensors have the same dtype, shape and bytes, reading no further than to a difference."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with open(one.file, "rb") as first, open(other.file, "rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.stop - one.start
        while left > 0:
            size = min(left, COMPARED_AT_ONCE)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True


def _check_layers(folder: Path, config: Mapping[str, Any], tensors: Iterable[str]) -> None:
    """Raise UserError if a layer is missing, or a tensor of a module that at least half of the layers have.

    An engine that fuses projections would fill such a gap with uninitialized memory.
    """
    stacks: dict[str, dict[int, dict[str, set[str]]]] = {}  # stack -> layer -> module -> rest of the tensor names
    for name in tensors:
        if match := LAYER.fullmatch(name):
            stack, number, module, rest = match.groups()
            stacks.setdefault(stack, {}).setdefault(int(number), {}).setdefault(module, set()).add(rest)
    text_config = config.get("text_config") or config
    n_layers = text_config.get("num_hidden_layers")
    needed = range(n_layers if isinstance(n_layers, int) else 0)  # may be huge in a damaged config: never listed
    if stacks and not any(all(number in layers for number in needed) for layers in stacks.values()):
        remedy = f"lacks some of the {n_layers} layers that its config.json states: fetch it again"
        raise UserError(MODEL_FIELD, folder, remedy)
    if text_config.get("num_kv_shared_layers"):
        return  # some layers have no keys and values by design
    for stack, layers in stacks.items():
        for module in {module for layer in layers.values() for module in layer}:
            names_by_layer = {number: frozenset(layer[module]) for number, layer in layers.items() if module in layer}
            counts = Counter(names_by_layer.values())
            usual, count = max(counts.items(), key=lambda item: (item[1], len(item[0])))
            for number, names in names_by_layer.items():
                if names < usual and 2 * count >= len(names_by_layer):
                    gap = f"{stack}.{number}.{module}{min(usual - names)}"
                    raise UserError(MODEL_FIELD, folder, f"lacks tensor {gap}, which other layers have: fetch it again")
