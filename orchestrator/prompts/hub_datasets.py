"""Download a hub's data set into a JSONL file in the user's cache, with the library `datasets` in a subprocess.

    <cache>/data/<name>-<key>/rows.jsonl, source.json

A data set that was downloaded once is used without asking the hub. Run as a module, this file is the subprocess.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

from orchestrator.prompts.probe_files import cell_equals
from orchestrator.utils.cache import cache_dir
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id
from orchestrator.utils.parsing import FormatError, read_json_object
from orchestrator.utils.private import make_private
from orchestrator.utils.subprocesses import first_line, run_module, serve_module

logger = logging.getLogger(__name__)

VERSION = 1
"""Version of the files in the cache: increase it with every change of their content."""

ROWS_FILE, SOURCE_FILE = "rows.jsonl", "source.json"
PROBES_FIELD = "probes.path"
DEFAULT_SPLIT = "train"
TIME_LIMIT = 1800.0
"""Limit of the process in seconds."""

QUIET_DATASETS = {
    "USE_TORCH": "0",  # slow to import and not needed
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class HubConfig(Protocol):
    """The fields of a probe preset that are read. `where`: COLUMN=VALUE keeps only the rows with that value."""

    hub: str | None
    revision: str | None
    subset: str | None
    split: str | None
    where: str | None


def fetch_dataset(conf: HubConfig) -> Path:
    """Return the JSONL file with the rows of the data set, downloading it first if necessary.

    `source.json` beside it records the commit.

    Raises:
        UserError: There is no such data set, revision, subset, split or column; it is gated; or the hub does not
            answer.
    """
    request, folder = _request(conf), _folder(conf)
    if (folder / SOURCE_FILE).is_file():
        return folder / ROWS_FILE
    try:
        make_private(folder.parent)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.tmp"))
    except OSError as error:
        remedy = f"data sets could not be kept there ({error.strerror}): name another folder"
        raise UserError("SAFETY_LANDSCAPE_CACHE", cache_dir(), remedy) from error
    try:
        response = _exchange(request | {"to": str(temporary)})
        if "error" in response:
            raise UserError(*_explain(request, response))
        if not folder.exists():
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / ROWS_FILE


def is_fetched(conf: HubConfig) -> bool:
    """Return whether the data set is on this machine, so that `fetch_dataset` downloads nothing."""
    return (_folder(conf) / SOURCE_FILE).is_file()


def _request(conf: HubConfig) -> dict[str, Any]:
    """Return the request for a data set, which identifies its rows."""
    request = {"hub": conf.hub, "revision": conf.revision, "subset": conf.subset}
    return request | {"split": conf.split or DEFAULT_SPLIT, "where": conf.where}


def _folder(conf: HubConfig) -> Path:
    assert conf.hub is not None
    name = re.sub(r"[^\w.-]+", "--", conf.hub)
    return cache_dir() / "data" / f"{name}-{content_id([VERSION, _request(conf)])}"


def fetched_commit(conf: HubConfig) -> str:
    """Return the commit of the rows that `fetch_dataset` returns."""
    source = fetch_dataset(conf).with_name(SOURCE_FILE)
    try:
        return str(read_json_object(source)["commit"])
    except (FormatError, KeyError) as error:
        remedy = f"its copy in the cache is damaged: delete {source.parent}, and it is downloaded again"
        raise UserError("probes.hub", conf.hub, remedy) from error


def _explain(request: dict[str, Any], response: dict[str, Any]) -> tuple[str, Any, str]:
    """Return (field, value, remedy) of the UserError for an error of the subprocess."""
    hub, page, available = request["hub"], response["page"], response.get("there", [])
    use_file = f"name a file that holds it, {PROBES_FIELD}=FILE"
    field = "hub"
    match response["error"]:
        case "gated":
            remedy = f"is gated: accept its terms at {page} and set HF_TOKEN to a token that may read it, or {use_file}"
        case "missing":
            remedy = f"does not exist at {page}, or is hidden: {use_file}, or set HF_TOKEN if it is private or gated"
        case "revision":
            field, remedy = "revision", f"is no revision of {page}: name another"
        case "subset" | "split" as field:
            hint = did_you_mean(str(request[field]), available)
            remedy = f"{hub} has no such {field}{hint} (it has {', '.join(available)})"
        case "where":
            column = str(request["where"]).partition("=")[0]
            field, remedy = "where", f"{hub} has no column {column}{did_you_mean(column, available)}"
        case "nowhere":
            field, remedy = "where", f"no row of {hub} has this value"
        case _:
            connect = f"connect to {response['endpoint']} (HF_ENDPOINT names a mirror) and start again"
            remedy = f"is not on this machine and could not be fetched ({response['why']}): {use_file}, or {connect}"
    return f"probes.{field}", request[field], remedy


def _exchange(request: dict[str, Any]) -> Any:
    logger.info("downloading the data set %s", request["hub"])
    try:
        return run_module("orchestrator.prompts.hub_datasets", request, QUIET_DATASETS, TIME_LIMIT)
    except subprocess.TimeoutExpired as error:
        remedy = f"could not be downloaded within {TIME_LIMIT:.0f} seconds"
        raise UserError("probes.hub", request["hub"], remedy) from error


# The subprocess.


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """Write the rows of a data set to the folder request["to"].

    Returns:
        {"rows": number of rows written}, or {"error": kind, "page", "endpoint"} with the cause as "why" or with the
        available names as "there".
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    about = {"page": f"{constants.ENDPOINT}/datasets/{request['hub']}", "endpoint": constants.ENDPOINT}
    try:
        return about | _download(request)
    except Exception as error:  # a dozen libraries raise all kinds of exceptions
        if _is_gated(error):
            return about | {"error": "gated"}
        if isinstance(error, RevisionNotFoundError):
            return about | {"error": "revision"}
        if isinstance(error, RepositoryNotFoundError):
            return about | {"error": "missing"}
        return about | {"error": "unreachable", "why": first_line(error, 200)}


def _download(request: dict[str, Any]) -> dict[str, Any]:
    import datasets
    from huggingface_hub import HfApi

    hub, subset, split = request["hub"], request["subset"], request["split"]
    info = HfApi().dataset_info(hub, revision=request["revision"], timeout=10)
    subsets = datasets.get_dataset_config_names(hub, revision=info.sha)
    if subset is not None and subset not in subsets:
        return {"error": "subset", "there": subsets}
    splits = [str(name) for name in datasets.get_dataset_split_names(hub, subset, revision=info.sha)]
    if split not in splits:
        return {"error": "split", "there": splits}
    with tempfile.TemporaryDirectory(dir=request["to"]) as arrow:  # the library's own copy, which is deleted
        dataset = datasets.load_dataset(hub, subset, split=split, revision=info.sha, cache_dir=arrow)
        return _write(dataset, request, str(info.sha))


def _is_gated(error: Exception) -> bool:
    """Return whether the hub refused access. `datasets` wraps the hub's errors, so the causes are searched too."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError) and not isinstance(error, GatedRepoError):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError) or "gated dataset" in str(cause):
            return True
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _write(dataset: Any, request: dict[str, Any], commit: str) -> dict[str, Any]:
    """Write the requested rows, one JSON object per line, and source.json."""
    column, _, value = (request["where"] or "").partition("=")
    if column and column not in dataset.column_names:
        return {"error": "where", "there": list(dataset.column_names)}
    folder, written = Path(request["to"]), 0
    with open(folder / ROWS_FILE, "w", encoding="utf-8") as file:
        for row in dataset:
            if not column or cell_equals(row[column], value):
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                written += 1
    if not written:
        return {"error": "nowhere"}
    source = {key: request[key] for key in ("hub", "revision", "subset", "split", "where")}
    source |= {"commit": commit, "rows": written}
    (folder / SOURCE_FILE).write_text(json.dumps(source, indent=2), encoding="utf-8")
    return {"rows": written}


if __name__ == "__main__":
    serve_module(respond)
