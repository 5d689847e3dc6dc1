"""A hub's data set -> a JSONL file in the user's cache, through `datasets`, in a process of its own.

    ProbesConfig(hub, revision, subset, split, where) --fetch--> <cache>/data/<name>-<key>/rows.jsonl

What was fetched once is used from there without asking the hub. Run as a module, this file is that process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from orchestrator.models.checkpoint import cache_dir
from orchestrator.utils import subprocesses as elsewhere
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id

VERSION = 1  # counted in the cache's keys: raise it with every change of what is written
ROWS, SOURCE = "rows.jsonl", "source.json"
FIELD = "probes.path"
TIME_LIMIT = 1800.0  # seconds


class HubConfig(Protocol):
    """What is read of a probe preset."""

    hub: str | None
    revision: str | None
    subset: str | None
    split: str
    where: str | None


def fetch(conf: HubConfig) -> Path:
    """The rows of the data set as JSONL, fetched first where they are not here. `where`: COLUMN=VALUE, to keep only
    those rows. `source.json` beside them says which commit they are of.

    Raises UserError in one sentence: no such data set, revision, subset, split or column; gated; hub out of reach.
    """
    assert conf.hub is not None
    asked = {"hub": conf.hub, "revision": conf.revision, "subset": conf.subset, "split": conf.split}
    asked |= {"where": conf.where}
    name = re.sub(r"[^\w.-]+", "--", conf.hub)
    folder = cache_dir() / "data" / f"{name}-{content_id([VERSION, asked])}"
    if (folder / SOURCE).is_file():
        return folder / ROWS
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.tmp"))
    except OSError as error:
        remedy = f"data sets could not be kept there ({error.strerror}): name another folder"
        raise UserError("SAFETY_LANDSCAPE_CACHE", cache_dir(), remedy) from error
    try:
        answer = _exchange(asked | {"to": str(temporary)})
        if "error" in answer:
            raise _mistake(asked, answer)
        if not folder.exists():
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / ROWS


def commit(conf: HubConfig) -> str | None:
    """The commit that the fetched rows are of, or None where they are not here."""
    source = fetch(conf).with_name(SOURCE)
    return str(json.loads(source.read_text(encoding="utf-8"))["commit"])


def _mistake(asked: dict[str, Any], answer: dict[str, Any]) -> UserError:
    """What went wrong, as one sentence."""
    hub, page, found = asked["hub"], answer["page"], answer.get("there", [])
    here = f"name a file that holds it, {FIELD}=FILE"
    match answer["error"]:
        case "gated":
            way = f"accept its terms at {page} and set HF_TOKEN to a token that may read it, or {here}"
            return UserError("probes.hub", hub, f"is gated: {way}")
        case "missing":
            way = f"{here}, or set HF_TOKEN if it is private or gated"
            return UserError("probes.hub", hub, f"does not exist at {page}, or is hidden: {way}")
        case "revision":
            return UserError("probes.revision", asked["revision"], f"is no revision of {page}: name another")
        case "subset" | "split" as field:
            named = asked[field]
            hint = did_you_mean(str(named), found)
            return UserError(f"probes.{field}", named, f"{hub} has no such {field}{hint} (it has {', '.join(found)})")
        case "where":
            column = str(asked["where"]).partition("=")[0]
            hint = did_you_mean(column, found)
            return UserError("probes.where", asked["where"], f"{hub} has no column {column}{hint}")
        case "nowhere":
            return UserError("probes.where", asked["where"], f"no row of {hub} is like that")
        case _:
            way = f"{here}, or connect to {answer['endpoint']} (HF_ENDPOINT names a mirror) and start again"
            return UserError(
                "probes.hub", hub, f"is not on this machine and could not be fetched ({answer['why']}): {way}"
            )


def _exchange(request: dict[str, Any]) -> Any:
    print(f"fetching the data set {request['hub']}", file=sys.stderr, flush=True)
    try:
        return elsewhere.ask("orchestrator.prompts.hub_datasets", request, QUIET, TIME_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise UserError("probes.hub", request["hub"], f"did not come within {TIME_LIMIT:.0f} seconds") from error


QUIET = {
    "USE_TORCH": "0",  # slow to import, and nothing of it is needed
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


# --- in the other process -----------------------------------------------------------------------------------------


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """{"rows": how many were written}, or {"error": what, "page", "endpoint", and "why" or what is "there"}."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    hub, subset, split = request["hub"], request["subset"], request["split"]
    about = {"page": f"{constants.ENDPOINT}/datasets/{hub}", "endpoint": constants.ENDPOINT}
    try:
        info = HfApi().dataset_info(hub, revision=request["revision"], timeout=10)
        subsets = datasets.get_dataset_config_names(hub, revision=info.sha)
        if subset is not None and subset not in subsets:
            return about | {"error": "subset", "there": subsets}
        splits = [str(name) for name in datasets.get_dataset_split_names(hub, subset, revision=info.sha)]
        if split not in splits:
            return about | {"error": "split", "there": splits}
        with tempfile.TemporaryDirectory(dir=request["to"]) as own:  # its copy in Arrow is not kept
            loaded = datasets.load_dataset(hub, subset, split=split, revision=info.sha, cache_dir=own)
            return about | _write(loaded, request, str(info.sha))
    except GatedRepoError:
        return about | {"error": "gated"}
    except RevisionNotFoundError:
        return about | {"error": "revision"}
    except RepositoryNotFoundError:
        return about | {"error": "missing"}
    except Exception as error:  # any, from a dozen libraries
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, GatedRepoError) or "gated dataset" in str(cause):
                return about | {"error": "gated"}
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
                return about | {"error": "gated"}
            cause = cause.__cause__ or cause.__context__
        return about | {"error": "unreachable", "why": elsewhere.reason(error, 200)}


def _write(loaded: Any, request: dict[str, Any], sha: str) -> dict[str, Any]:
    """The rows that are wanted, one JSON object a line."""
    column, _, value = (request["where"] or "").partition("=")
    if column and column not in loaded.column_names:
        return {"error": "where", "there": list(loaded.column_names)}
    to, written = Path(request["to"]), 0
    with open(to / ROWS, "w", encoding="utf-8") as file:
        for row in loaded:
            if not column or str(row[column]) == value:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                written += 1
    if not written:
        return {"error": "nowhere"}
    asked = {key: request[key] for key in ("hub", "revision", "subset", "split", "where")}
    (to / SOURCE).write_text(json.dumps(asked | {"commit": sha, "rows": written}, indent=2), encoding="utf-8")
    return {"rows": written}


if __name__ == "__main__":
    elsewhere.serve(_answer)
