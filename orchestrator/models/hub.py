"""Download a model's files from a hub at a pinned commit, through the hub's own cache. No code is ever downloaded."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.config.schema import ModelConfig
from orchestrator.models.checkpoint import MODEL_FIELD
from orchestrator.utils.errors import UserError
from orchestrator.utils.subprocesses import first_line

logger = logging.getLogger(__name__)

FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
IGNORED_FILES = ["*/*", "consolidated*", "*.index.json.lock"]
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
ANOTHER_REVISION = "name another with model.revision="


def cached_snapshot(model: ModelConfig) -> Path | None:
    """Return the snapshot in the hub's own cache. None if there is none, or only a part of an interrupted download."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert model.hub is not None
    try:
        return Path(
            snapshot_download(
                model.hub,
                revision=model.revision,
                allow_patterns=FILES,
                ignore_patterns=IGNORED_FILES,
                local_files_only=True,
            )
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return None


def download_snapshot(model: ModelConfig) -> Path:
    """Return the folder of the snapshot at the preset's revision: the cached one, or one that is downloaded now.

    Raises:
        UserError: The repository or revision does not exist or is gated, the hub does not answer, or the disk is full.
            The message names remedies.
    """
    if cached := cached_snapshot(model):
        return cached
    try:
        return _download(model)
    except Exception as error:
        refusal = _explain(model, error)
        if refusal is None:
            raise
        raise refusal from error


def _download(model: ModelConfig) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    assert model.hub is not None
    # Metadata first, with a time limit, to find out within seconds whether the hub answers and how much it will send.
    info = HfApi().model_info(model.hub, revision=model.revision, files_metadata=True, timeout=10)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if not any(name.endswith(".safetensors") for name in _selected(sizes)):
        reason = f"{_page(model)} has no safetensors at revision {model.revision}"
        raise _unavailable(model, reason, ANOTHER_REVISION)
    missing = _missing_bytes(model.hub, info.sha, sizes)
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < missing:
        remedy = f"{model.hub} takes {missing / 1e9:.1f} GB there and {free / 1e9:.1f} are free: make room, or name "
        raise UserError("HF_HOME", cache, f"{remedy}another folder")
    logger.info("downloading %s (%.1f GB)", model.hub, missing / 1e9)
    return Path(snapshot_download(model.hub, revision=info.sha, allow_patterns=FILES, ignore_patterns=IGNORED_FILES))


def _explain(model: ModelConfig, error: Exception) -> UserError | None:
    """Translate a failed download into a user error. None if the hub, the network and the disk are not the cause."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    connect = f"connect to {constants.ENDPOINT} (HF_ENDPOINT names a mirror) and start again"
    terms = f"accept its license at {_page(model)} and set HF_TOKEN to a token that may read it"
    if isinstance(error, HFValidationError):
        return UserError("model.hub", model.hub, f"is no name of a repository ({first_line(error)})")
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        remedy = f"{model.hub} could not be kept there ({error}): name another folder"
        return UserError("HF_HOME", constants.HF_HUB_CACHE, remedy)
    reason, way_out = f"could not be fetched ({first_line(error)})", connect
    if isinstance(error, GatedRepoError):
        reason, way_out = f"{model.hub} is gated", terms
    elif isinstance(error, RevisionNotFoundError):
        reason, way_out = f"{_page(model)} has no revision {model.revision}", ANOTHER_REVISION
    elif _is_hidden(error):
        reason = f"{_page(model)} does not exist or is hidden"
        way_out = terms if model.gated else "name another with model.hub= (a private one needs HF_TOKEN)"
    elif isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled | OSError):
        way_out = f"{connect}; {terms}" if model.gated else connect
    elif "http" not in type(error).__module__:  # else an error of the HTTP client, whose classes change
        return None
    return _unavailable(model, reason, way_out)


def _is_hidden(error: Exception) -> bool:
    """Return whether the hub denies that there is such a repository; it does so for private ones too."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        return True
    return isinstance(error, RepositoryNotFoundError)


def _unavailable(model: ModelConfig, reason: str, way_out: str) -> UserError:
    folder = f"name a folder that holds it, {MODEL_FIELD}=DIR"
    remedy = f"{model.name} is not on this machine and {reason}: {folder}, or {way_out}"
    return UserError(MODEL_FIELD, "null", remedy)


def _page(model: ModelConfig) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{model.hub}"


def _selected(names: Iterable[str]) -> list[str]:
    """Return the files of a repository that are downloaded."""
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(names, allow_patterns=FILES, ignore_patterns=IGNORED_FILES))


def _missing_bytes(hub: str, commit: str | None, sizes: Mapping[str, int]) -> int:
    """Return the bytes still to be downloaded; files that an interrupted download completed are not among them."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        sizes[name]
        for name in _selected(sizes)
        if not isinstance(try_to_load_from_cache(hub, name, revision=commit), str)
    )
