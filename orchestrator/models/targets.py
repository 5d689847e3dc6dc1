"""What a sweep walks towards: checkpoints and adapters, checked against the base before anything is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.models import checkpoint
from orchestrator.models.checkpoint import Checkpoint, cache_dir, identity_fields
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from workers.weights.checkpoint import read_json
from workers.weights.targets import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TOWARDS_FIELD,
    Target,
    read_adapter,
    refuse_other_shapes,
    sample_id,
)

if TYPE_CHECKING:
    import workers.weights.checkpoint
    from workers.weights.geometry import Geometry

BLOCK = 1 << 20  # elements looked at at once
ADAPTER_VERSION = 1  # of an adapter's fingerprint
GEOMETRY_VERSION = 1  # of what is remembered about two targets
PRINCIPAL_VERSION = 2  # of the adapters that are principal axes
# Settings that are off where they are null. One that is missing is off, or what some class has by default.
SWITCHES = {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "clip_qkv": None}
ROPE_NAMES = {"su": "longrope", "mrope": "default"}  # as later versions of transformers call them
TOKENIZER, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
TELLING = "Hello  World 1234, DON'T\n\n\tÄé e\u0301 \ufb01 \u00a0中文 🙂 <b>x_y</b> "  # text that splitters tell apart
# Fields of config.json by which a finetuned model may differ and still compute with its weights as the base does.
FREE = frozenset(
    "eos_token_id max_position_embeddings architectures vocab_size model_max_length tokenizer_class".split()  # noqa: SIM905
)


def resolve_target(
    path: str | os.PathLike[str],
    base: Checkpoint,
    progress: Callable[[float], None] = lambda share: None,
    field: str = TOWARDS_FIELD,
) -> Target:
    """The checkpoint or adapter in a folder, as something to walk towards from `base`.

    Every byte is read twice (and that remembered): for its fingerprint, and for NaN. `progress` hears the share done.
    Raises UserError (grid.towards, or the `field` named) where it isn't there, isn't whole, has other tensors, shapes,
    settings or tokenizer, holds NaN or infinity, or is the base itself.
    """
    folder = Path(path).expanduser().absolute()
    try:
        if (folder / ADAPTER_CONFIG).is_file():
            return _adapter(folder, base)
        return _checkpoint(folder, base, progress)
    except UserError as error:
        raise UserError(field, error.value, error.remedy) from None
    except OSError as error:
        raise UserError(field, folder, f"could not be read ({error.strerror or error}): give a readable one") from None


def _checkpoint(folder: Path, base: Checkpoint, progress: Callable[[float], None]) -> Target:
    found = checkpoint.check(folder)
    fingerprint = checkpoint.fingerprint(found, lambda share: progress(share / 2))
    if fingerprint == checkpoint.fingerprint(base):
        raise UserError(TOWARDS_FIELD, folder, "is the base itself, a direction of no length: give another checkpoint")
    ours, theirs = _mapped(base.path), _mapped(folder)
    refuse_other_shapes(ours, theirs)
    _refuse_other_settings(folder, base, found)
    _refuse_other_tokenizer(folder, base.path)
    refuse_nan(found, TOWARDS_FIELD, lambda share: progress((1 + share) / 2))
    _refuse_equal_weights(folder, ours, theirs)
    return Target(fingerprint, "checkpoint", str(folder), folder.name, sample_id(folder))


def refuse_nan(
    found: Checkpoint, field: str = checkpoint.FIELD, progress: Callable[[float], None] | None = None
) -> None:
    """Raises UserError where a weight is NaN or infinite. One pass over the files, remembered by fingerprint."""
    import numpy as np

    from workers.weights.checkpoint import MappedCheckpoint

    marker = cache_dir() / "finite" / checkpoint.fingerprint(found)
    if marker.exists():
        return
    mapped, done = MappedCheckpoint(found.path, field), 0
    total = sum(info.size for info in mapped.tensors())
    exponents: dict[str, Any] = {
        "float32": np.uint32(0x7F800000),
        "bfloat16": np.uint16(0x7F80),
        "float16": np.uint16(0x7C00),
    }
    for info in mapped.tensors():
        bits = mapped.base(info.name).view(np.uint32 if info.dtype == "float32" else np.uint16)
        mask = exponents[info.dtype]
        for start in range(0, len(bits), BLOCK):
            if bool(((bits[start : start + BLOCK] & mask) == mask).any()):
                raise UserError(field, found.path, f"tensor {info.name} holds NaN or infinity: give another checkpoint")
        done += info.size
        mapped.release(info.name)
        if progress:
            progress(done / max(1, total))
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:
        pass  # looked at again next time


def _mapped(folder: Path) -> workers.weights.checkpoint.MappedCheckpoint:
    from workers.weights.checkpoint import MappedCheckpoint

    return MappedCheckpoint(folder, TOWARDS_FIELD)


def _adapter(folder: Path, base: Checkpoint) -> Target:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(TOWARDS_FIELD, folder, f"has no {ADAPTER_WEIGHTS}: save the adapter as safetensors")
    checkpoint.read_headers(folder / ADAPTER_WEIGHTS)  # whole, and what its header says
    factors = read_adapter(folder, _mapped(base.path))
    if not any(f.scale and f.b.any() and f.a.any() for f in factors.values()):
        raise UserError(
            TOWARDS_FIELD, folder, "adds nothing to the base, a direction of no length: give a trained adapter"
        )
    _refuse_other_tokenizer(folder, base.path)
    content = [
        [name, f.scale, list(f.b.shape), hashlib.blake2b(f.a.tobytes() + f.b.tobytes()).hexdigest()]
        for name, f in sorted(factors.items())
    ]
    fingerprint = content_id([ADAPTER_VERSION, content])
    return Target(fingerprint, "adapter", str(folder), folder.name, sample_id(folder))


def _refuse_other_settings(folder: Path, base: Checkpoint, other: Checkpoint) -> None:
    """Weights between two models that compute differently are neither's."""
    if base.architecture != other.architecture:
        raise UserError(
            TOWARDS_FIELD,
            folder,
            f"is a {other.architecture}, and the base a {base.architecture}: give a checkpoint of the same",
        )
    for key, ours, theirs in _differing(_settings(base), _settings(other)):
        if key not in FREE:
            raise UserError(
                TOWARDS_FIELD,
                folder,
                f"its config.json has {key}={theirs}, the base's {key}={ours}: the same weights would "
                "compute differently; give a checkpoint finetuned from the same base"
            )  # fmt: skip


def _settings(found: Checkpoint) -> dict[str, Any]:
    """What config.json says, in one form whichever version of transformers wrote it."""
    nulls = {key: None for key in SWITCHES if key in found.config and found.config[key] is None}
    fields = _in_one_form(identity_fields(found) | nulls)
    if isinstance(text := fields.get("text_config"), Mapping):
        fields["text_config"] = _in_one_form(text)
    return fields


def _in_one_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embedding's settings in one place, with a type, and a window that is not used as none."""
    fields = dict(config)
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(found := fields.pop(key, None), Mapping):
            rope |= found
    if not any(isinstance(inner, Mapping) for inner in rope.values()):  # else of each kind of layer its own
        older = rope.pop("type", None)
        kind = str(rope.get("rope_type") or older or "default")
        rope["rope_type"] = ROPE_NAMES.get(kind, kind)
        if "rope_theta" in fields:
            rope.setdefault("rope_theta", fields.pop("rope_theta"))
    if fields.get("use_sliding_window") is False:
        fields["sliding_window"] = None
    return fields | {"rope_parameters": rope}


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Fields that both have, with different values: versions of a library write different sets of defaults. And
    switches that one has, and the other has not."""
    for key in sorted(ours.keys() & theirs.keys()):
        a, b = ours[key], theirs[key]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from ((f"{key}.{inner}", x, y) for inner, x, y in _differing(a, b))
        elif a != b:
            yield key, a, b
    for key in sorted(SWITCHES.keys() & (ours.keys() ^ theirs.keys())):
        if {**ours, **theirs}[key] not in (None, False, SWITCHES[key]):
            yield key, ours.get(key), theirs.get(key)


def _refuse_other_tokenizer(folder: Path, base: Path) -> None:
    """A checkpoint without a tokenizer of its own is asked with the base's, as an adapter is."""
    remedy = "give a checkpoint finetuned from the same base"
    if all((place / TOKENIZER).is_file() for place in (base, folder)):
        own, other = (read_json(place / TOKENIZER, TOWARDS_FIELD) for place in (base, folder))
        ours, theirs = _vocabulary(base, own), _vocabulary(folder, other)
        for token in sorted(ours.keys() & theirs.keys()):
            if ours[token] != theirs[token]:
                raise UserError(
                    TOWARDS_FIELD,
                    folder,
                    f"has another tokenizer (token {token} is {theirs[token]!r}, and {ours[token]!r} in "
                    f"the base): {remedy}"
                )  # fmt: skip
        part = next((part for part in ("normalizer", "pre_tokenizer") if own.get(part) != other.get(part)), None)
        if _merges(own) != _merges(other):
            part = "merges"
        elif part and _tokens(base) == _tokens(folder):
            part = None  # versions of the libraries write the same splitting in several ways: it is tried on a text
        if part:
            raise UserError(
                TOWARDS_FIELD,
                folder,
                f"has another tokenizer (of its {TOKENIZER}, {part} is not the base's, and makes other "
                f"tokens of the same text): {remedy}"
            )  # fmt: skip
        return
    pieces = [place / SENTENCEPIECE for place in (base, folder)]
    if all(file.is_file() for file in pieces) and pieces[0].read_bytes() != pieces[1].read_bytes():
        raise UserError(
            TOWARDS_FIELD, folder, f"has another tokenizer (its {SENTENCEPIECE} is not the base's): {remedy}"
        )


def _merges(value: Mapping[str, Any]) -> list[Any]:
    """Of tokenizer.json, in the later of the two forms that it has."""
    found = value["model"].get("merges")
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in found] if isinstance(found, list) else []


def _tokens(folder: Path) -> list[int]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(TOWARDS_FIELD, folder / TOKENIZER, f"does not load ({error}): fetch it again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids: list[int] = tokenizer.encode(TELLING, add_special_tokens=False).ids
    return ids


def _vocabulary(folder: Path, value: Mapping[str, Any]) -> dict[int, str]:
    """Token id -> text, of tokenizer.json."""
    try:
        listed = value["model"]["vocab"]
        entries = listed.items() if isinstance(listed, dict) else ((entry[0], i) for i, entry in enumerate(listed))
        found = {int(i): str(text) for text, i in entries}
        return found | {int(token["id"]): str(token["content"]) for token in value.get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(
            TOWARDS_FIELD, folder / TOKENIZER, "holds no vocabulary that can be read: fetch it again"
        ) from None


def _refuse_equal_weights(
    folder: Path, ours: workers.weights.checkpoint.MappedCheckpoint, theirs: workers.weights.checkpoint.MappedCheckpoint
) -> None:
    """Two fingerprints may differ by the config or the dtypes alone. Stops where values differ, so it costs nothing."""
    import numpy as np

    from workers.noise.reference import to_float32

    for info in ours.tensors():
        own, other, dtype = ours.base(info.name), theirs.base(info.name), theirs[info.name].dtype
        for start in range(0, info.size, BLOCK):
            block = slice(start, start + BLOCK)
            if not np.array_equal(to_float32(own[block], info.dtype), to_float32(other[block], dtype)):
                return
    raise UserError(TOWARDS_FIELD, folder, "has the base's weights, a direction of no length: give another checkpoint")


def around(
    base: Checkpoint,
    targets: Sequence[Target],
    exclude: Sequence[str],
    progress: Callable[[float], None] = lambda share: None,
) -> Geometry:
    """How the targets lie around the base. One pass over all, remembered."""
    import numpy as np

    from workers.weights import geometry

    names = [target.fingerprint for target in targets]
    remembered = (
        cache_dir()
        / "geometry"
        / (content_id([GEOMETRY_VERSION, checkpoint.fingerprint(base), names, list(exclude)]) + ".json")
    )
    labels = tuple(target.label for target in targets)
    try:
        value = json.loads(remembered.read_bytes())
        return geometry.Geometry(labels, np.array(value["gram"]), value["base"], value["moved"])
    except (OSError, ValueError, KeyError, TypeError):
        found = geometry.measure(_mapped(base.path), targets, progress, exclude=exclude)
    with contextlib.suppress(OSError):  # else measured again next time
        remembered.parent.mkdir(parents=True, exist_ok=True)
        value = {"gram": found.gram.tolist(), "base": found.base, "moved": found.moved}
        remembered.write_text(json.dumps(value), encoding="utf-8")
    return found


# Trajectories.

TRAJECTORY = "grid.trajectory"
CHECKPOINTS = "checkpoints"  # where `finetune` leaves them


def epochs(folder: Path) -> list[Path]:
    """The checkpoints epoch-1, epoch-2, ... of a trajectory's folder (or of the one in it), in order.

    Raises UserError (grid.trajectory) where there are none, or one between them is missing.
    """
    place = folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder
    if not place.is_dir():
        raise UserError(TRAJECTORY, folder, "there is no such folder, nor a recipe of that name: name either")
    found = {int(match[1]): path for path in place.iterdir() if (match := re.fullmatch(r"epoch-(\d+)", path.name))}
    if not found:
        raise UserError(TRAJECTORY, folder, "holds no checkpoints epoch-1, epoch-2, ...: train with checkpoints=epoch")
    missing = [f"epoch-{i}" for i in range(1, max(found)) if i not in found]
    if missing:
        remedy = f"has epoch-{max(found)} but not {', '.join(missing)}: put back what is missing, or renumber the rest"
        raise UserError(TRAJECTORY, folder, remedy)
    return [found[i] for i in sorted(found)]


def principal_ends(base: Checkpoint, chain: Sequence[Target], weights: Sequence[Sequence[float]]) -> list[Path]:
    """Two adapters that are the principal axes of a trajectory of adapters: weighted sums of what these add.

    Exactly so, since a sum of low-rank products is one, of their ranks together. Kept where all that can be made again
    is. Raises UserError (grid.trajectory) where the trajectory is one of whole checkpoints.
    """
    from workers.weights import adapters

    if any(target.kind != "adapter" for target in chain):
        remedy = "is one of whole checkpoints, and a principal plane is made of adapters: use grid=interpolate_1d"
        raise UserError(TRAJECTORY, Path(chain[0].path).parent, remedy)
    name = content_id([PRINCIPAL_VERSION, checkpoint.fingerprint(base), [target.fingerprint for target in chain]])
    folder = cache_dir() / "principal" / name
    ends = [folder / "axis-1", folder / "axis-2"]
    for end, row in zip(ends, weights, strict=True):
        if end.is_dir():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / end.name
            adapters.write_adapter_sum(
                _mapped(base.path), [Path(target.path) for target in chain], [float(w) for w in row], made
            )
            with contextlib.suppress(OSError):  # another process was first
                os.rename(made, end)
    return ends


def refuse_no_length(found: Geometry, targets: Sequence[Target], fields: Sequence[str]) -> None:
    """Raises UserError (the field that named it) for a target that has the base's weights: factors whose product is
    zero, or lost in rounding."""
    for target, field, length in zip(targets, fields, found.lengths, strict=True):
        if length == 0:
            raise UserError(field, target.path, "has the base's weights, a direction of no length: give another")


def refuse_twins(targets: Sequence[Target], fields: Sequence[str] | None = None) -> None:
    """Raises UserError (grid.towards, or what of `fields` named the second) where two targets are the same: they make
    no plane."""
    seen: dict[str, Target] = {}
    for target, field in zip(targets, fields or [TOWARDS_FIELD] * len(targets), strict=True):
        if (twin := seen.setdefault(target.fingerprint, target)) is not target:
            raise UserError(field, f"[{twin.path}, {target.path}]", "are the same weights: give two that differ")
