"""Downloads from a hub: once, resumed after a kill, and refused with the ways out.

The hub is a folder served on loopback. Each case runs in a process of its own, because the hub's client reads its
settings when it is imported.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models.fingerprint import fingerprint
from tests.unit.loopback_hub import LoopbackHub

HUB = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ModelHub(LoopbackHub):
    """Serves one repository at one commit."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.gated = self.hidden = False
        self.slow: str | None = None  # a file that never arrives

    def answer(self, request: http.server.BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        if self.hidden or not re.match(rf"(/api/models)?/{HUB}(/|$)", path):
            return self.send(request, 401, {"X-Error-Message": "Invalid username or password."})
        if found := re.fullmatch(rf"/api/models/{HUB}(?:/revision/([^/]+))?", path):
            if found[1] not in (COMMIT, "main", None):
                return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name, "size": size, "blobId": oid} for name, size, oid in self.listing()]
            return self.send(request, 200, {}, {"id": HUB, "sha": COMMIT, "siblings": siblings})
        if path == f"/api/models/{HUB}/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in self.listing()]
            return self.send(request, 200, {}, tree)
        if found := re.fullmatch(rf"/{HUB}/resolve/{COMMIT}/(.+)", path):
            if self.gated:
                return self.send(request, 401, {"X-Error-Code": "GatedRepo"})
            content = (self.folder / found[1]).read_bytes()
            if found[1] == self.slow and request.command == "GET":
                time.sleep(60)
            oid = hashlib.sha1(content).hexdigest()
            return self.send(request, 200, {"ETag": f'"{oid}"', "X-Repo-Commit": COMMIT}, content)
        return self.send(request, 404, {"X-Error-Code": "EntryNotFound"})

    def listing(self) -> list[tuple[str, int, str]]:
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        return [
            (str(file.relative_to(self.folder)), file.stat().st_size, hashlib.sha1(file.read_bytes()).hexdigest())
            for file in files
        ]


ASK = """
import json, sys
import shutil
from orchestrator.config.schema import ModelConfig
from orchestrator.models.resolve import locate_model, resolve_model
from orchestrator.utils.errors import UserError
model = ModelConfig(**json.loads(sys.argv[1]))
free = json.loads(sys.argv[2])
if free is not None:
    import types
    shutil.disk_usage = lambda path: types.SimpleNamespace(free=free)
if sys.argv[3] == "locate":
    print(locate_model(model))
else:
    try:
        found = resolve_model(model)
        print(json.dumps([str(found.path), found.source, found.revision, found.fingerprint]))
    except UserError as error:
        print(json.dumps([error.field, str(error.value), error.remedy]))
"""
TINY: dict[str, Any] = {"name": "tiny", "hub": HUB, "revision": COMMIT, "architecture": "LlamaForCausalLM"}


class Asking:
    """Processes that download from a hub, with a hub's cache of their own."""

    def __init__(self, hub: ModelHub, folder: Path) -> None:
        self.hub = hub
        self.home = folder
        own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder), "SAFETY_LANDSCAPE_CACHE": str(folder / "own")}
        dropped = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        self.environment = kept | own | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def command(self, free: int | None = None, verb: str = "resolve", **changes: Any) -> list[str]:
        return [sys.executable, "-c", ASK, json.dumps(TINY | changes), json.dumps(free), verb]

    def __call__(self, free: int | None = None, environment: dict[str, str] | None = None, **changes: Any) -> list[str]:
        done = subprocess.run(
            self.command(free, **changes),
            env=self.environment | (environment or {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def locate(self) -> str:
        command = self.command(verb="locate")
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A sound checkpoint of one tensor, and files that are not wanted."""
    folder = tmp_path / "repository"
    folder.mkdir()
    weights = bytes(range(256)) * 4096
    header = json.dumps({"w": {"dtype": "F32", "shape": [512, 512], "data_offsets": [0, len(weights)]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code from the hub was run')")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    (folder / "consolidated.safetensors").write_bytes(b"twice")
    return folder


@pytest.fixture
def ask(repository: Path, tmp_path: Path) -> Iterator[Asking]:
    hub = ModelHub(repository)
    yield Asking(hub, tmp_path / "home")
    hub.close()


def test_a_snapshot_is_downloaded_once_and_then_used_without_the_hub(
    ask: Asking, repository: Path, tmp_path: Path
) -> None:
    assert ask.locate() == "None"
    path, source, revision, identity = ask()
    assert (source, revision) == (f"hub:{HUB}", COMMIT)
    kept = ("config.json", "model.safetensors")
    plain = shutil.copytree(
        repository, tmp_path / "plain", ignore=lambda folder, names: [name for name in names if name not in kept]
    )
    assert identity == fingerprint(plain)
    names = {file.name for file in Path(path).rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"pytorch_model.bin", "modeling_tiny.py", "params.json", "consolidated.safetensors"} & names
    asked = ask.hub.requests.total()
    assert ask()[0] == path
    assert ask.locate() == path
    assert ask.hub.requests.total() == asked
    ask.hub.server.shutdown()
    assert ask(environment={"HF_HUB_OFFLINE": "1"})[0] == path


def test_a_branch_is_resolved_to_its_commit(ask: Asking) -> None:
    assert ask(revision="main")[2] == COMMIT


def test_a_download_is_resumed_after_a_kill(ask: Asking) -> None:
    ask.hub.slow = "model.safetensors"
    process = subprocess.Popen(ask.command(), env=ask.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    weights = f"GET /{HUB}/resolve/{COMMIT}/model.safetensors"
    while not (ask.hub.requests[weights] and any(ask.home.rglob("snapshots/*/tokenizer.json"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    ask.hub.slow = None
    assert ask.locate() == "None"  # a part of a snapshot is none
    before = ask.hub.requests[f"GET /{HUB}/resolve/{COMMIT}/tokenizer.json"]
    assert Path(ask()[0], "model.safetensors").is_file()
    assert ask.hub.requests[f"GET /{HUB}/resolve/{COMMIT}/tokenizer.json"] == before  # that was here


def test_a_hub_that_does_not_answer_is_refused_with_the_ways_out(ask: Asking) -> None:
    field, _, remedy = ask(environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert field == "model.path"
    assert remedy.startswith("tiny is not on this machine and could not be fetched (")
    for way_out in ("model.path=DIR", "connect to http://127.0.0.1:9 (HF_ENDPOINT names a mirror)"):
        assert way_out in remedy
    assert not list(ask.home.rglob("*.safetensors"))


def test_offline_mode_sends_no_request(ask: Asking) -> None:
    field, _, remedy = ask(environment={"HF_HUB_OFFLINE": "1"})
    assert field == "model.path" and "model.path=DIR" in remedy
    assert not ask.hub.requests


def test_a_gated_model_is_refused_with_its_terms(ask: Asking) -> None:
    """The hub tells everybody what is in a gated repository, and refuses the files."""
    ask.hub.gated = True
    field, _, remedy = ask(gated=True)
    assert field == "model.path"
    assert f"{HUB} is gated" in remedy
    assert f"accept its license at {ask.hub.endpoint}/{HUB}" in remedy and "HF_TOKEN" in remedy


@pytest.mark.parametrize("gated", [True, False])
def test_a_hidden_repository_is_refused(gated: bool, ask: Asking) -> None:
    ask.hub.hidden = True
    _, _, remedy = ask(gated=gated)
    assert "does not exist or is hidden" in remedy
    assert ("accept its license" if gated else "model.hub=") in remedy


def test_a_missing_repository_or_revision_is_refused(ask: Asking) -> None:
    assert "does not exist or is hidden" in ask(hub="someone/else")[2]
    assert "has no revision " + "f" * 40 in ask(revision="f" * 40)[2]
    field, value, remedy = ask(hub="no such//name")
    assert (field, value) == ("model.hub", "no such//name")
    assert "no name of a repository" in remedy


def test_a_repository_without_safetensors_is_refused(ask: Asking, repository: Path) -> None:
    (repository / "model.safetensors").unlink()
    (repository / "consolidated.safetensors").unlink()
    assert "no safetensors" in ask()[2]
    assert not list(ask.home.rglob("tokenizer.json"))  # and nothing was fetched


def test_a_full_disk_is_refused_before_the_download(ask: Asking, repository: Path) -> None:
    weights = (repository / "model.safetensors").stat().st_size
    field, _, remedy = ask(free=weights // 2)
    assert field == "HF_HOME"
    assert "make room" in remedy
    assert not list(ask.home.rglob("*.safetensors"))


def test_a_wrong_architecture_is_refused_after_the_download(ask: Asking) -> None:
    assert "holds a LlamaForCausalLM" in ask(architecture="MistralForCausalLM")[2]
