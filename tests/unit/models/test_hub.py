"""Downloads from a hub: a model is downloaded once, a killed download is resumed, and refusals name alternatives.

The hub is a folder served on loopback. Each case runs in its own process, because the hub's client reads its settings
when it is imported.
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

pytestmark = pytest.mark.thorough

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
        if match := re.fullmatch(rf"/api/models/{HUB}(?:/revision/([^/]+))?", path):
            if match[1] not in (COMMIT, "main", None):
                return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name, "size": size, "blobId": oid} for name, size, oid in self.listing()]
            return self.send(request, 200, {}, {"id": HUB, "sha": COMMIT, "siblings": siblings})
        if path == f"/api/models/{HUB}/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in self.listing()]
            return self.send(request, 200, {}, tree)
        if match := re.fullmatch(rf"/{HUB}/resolve/{COMMIT}/(.+)", path):
            if self.gated:
                return self.send(request, 401, {"X-Error-Code": "GatedRepo"})
            content = (self.folder / match[1]).read_bytes()
            if match[1] == self.slow and request.command == "GET":
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


CLIENT = """
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
        resolved = resolve_model(model)
        print(json.dumps([str(resolved.path), resolved.source, resolved.revision, resolved.fingerprint]))
    except UserError as error:
        print(json.dumps([error.field, str(error.value), error.remedy]))
"""
TINY: dict[str, Any] = {"name": "tiny", "hub": HUB, "revision": COMMIT, "architecture": "LlamaForCausalLM"}


class HubClient:
    """Runs processes that download from a hub into a separate cache."""

    def __init__(self, hub: ModelHub, folder: Path) -> None:
        self.hub = hub
        self.home = folder
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder), "SAFETY_LANDSCAPE_CACHE": str(folder / "own")}
        removed = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
        inherited = {name: value for name, value in os.environ.items() if name not in removed}
        self.environment = inherited | settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def command(self, free: int | None = None, action: str = "resolve", **fields: Any) -> list[str]:
        return [sys.executable, "-c", CLIENT, json.dumps(TINY | fields), json.dumps(free), action]

    def resolve(self, free: int | None = None, environment: dict[str, str] | None = None, **fields: Any) -> list[str]:
        completed = subprocess.run(
            self.command(free, **fields),
            env=self.environment | (environment or {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr
        return list(json.loads(completed.stdout))

    def locate(self) -> str:
        command = self.command(action="locate")
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a valid checkpoint of one tensor, and files that must not be downloaded."""
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
def client(repository: Path, tmp_path: Path) -> Iterator[HubClient]:
    hub = ModelHub(repository)
    yield HubClient(hub, tmp_path / "home")
    hub.close()


def test_a_snapshot_is_downloaded_once_and_then_used_without_the_hub(
    client: HubClient, repository: Path, tmp_path: Path
) -> None:
    assert client.locate() == "None"
    path, source, revision, identity = client.resolve()
    assert (source, revision) == (f"hub:{HUB}", COMMIT)
    weight_files = ("config.json", "model.safetensors")
    copy = shutil.copytree(
        repository,
        tmp_path / "plain",
        ignore=lambda folder, names: [name for name in names if name not in weight_files],
    )
    assert identity == fingerprint(copy)
    names = {file.name for file in Path(path).rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"pytorch_model.bin", "modeling_tiny.py", "params.json", "consolidated.safetensors"} & names
    n_requests = client.hub.requests.total()
    assert client.resolve()[0] == path
    assert client.locate() == path
    assert client.hub.requests.total() == n_requests
    client.hub.server.shutdown()
    assert client.resolve(environment={"HF_HUB_OFFLINE": "1"})[0] == path


def test_a_branch_is_resolved_to_its_commit(client: HubClient) -> None:
    assert client.resolve(revision="main")[2] == COMMIT


def test_a_download_is_resumed_after_a_kill(client: HubClient) -> None:
    client.hub.slow = "model.safetensors"
    process = subprocess.Popen(client.command(), env=client.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    weights = f"GET /{HUB}/resolve/{COMMIT}/model.safetensors"
    while not (client.hub.requests[weights] and any(client.home.rglob("snapshots/*/tokenizer.json"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    client.hub.slow = None
    assert client.locate() == "None"  # an incomplete snapshot does not count
    before = client.hub.requests[f"GET /{HUB}/resolve/{COMMIT}/tokenizer.json"]
    assert Path(client.resolve()[0], "model.safetensors").is_file()
    assert client.hub.requests[f"GET /{HUB}/resolve/{COMMIT}/tokenizer.json"] == before  # it was already downloaded


def test_a_hub_that_does_not_answer_is_refused_with_alternatives(client: HubClient) -> None:
    field, _, remedy = client.resolve(environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert field == "model.path"
    assert remedy.startswith("tiny is not on this machine and could not be fetched (")
    for alternative in ("model.path=DIR", "connect to http://127.0.0.1:9 (HF_ENDPOINT names a mirror)"):
        assert alternative in remedy
    assert not list(client.home.rglob("*.safetensors"))


def test_offline_mode_sends_no_request(client: HubClient) -> None:
    field, _, remedy = client.resolve(environment={"HF_HUB_OFFLINE": "1"})
    assert field == "model.path" and "model.path=DIR" in remedy
    assert not client.hub.requests


def test_a_gated_model_is_refused_with_its_terms(client: HubClient) -> None:
    """The hub lists the files of a gated repository for everybody, and refuses to send them."""
    client.hub.gated = True
    field, _, remedy = client.resolve(gated=True)
    assert field == "model.path"
    assert f"{HUB} is gated" in remedy
    assert f"accept its license at {client.hub.endpoint}/{HUB}" in remedy and "HF_TOKEN" in remedy


@pytest.mark.parametrize("gated", [True, False])
def test_a_hidden_repository_is_refused(gated: bool, client: HubClient) -> None:
    client.hub.hidden = True
    _, _, remedy = client.resolve(gated=gated)
    assert "does not exist or is hidden" in remedy
    assert ("accept its license" if gated else "model.hub=") in remedy


def test_a_missing_repository_or_revision_is_refused(client: HubClient) -> None:
    assert "does not exist or is hidden" in client.resolve(hub="someone/else")[2]
    assert "has no revision " + "f" * 40 in client.resolve(revision="f" * 40)[2]
    field, value, remedy = client.resolve(hub="no such//name")
    assert (field, value) == ("model.hub", "no such//name")
    assert "no name of a repository" in remedy


def test_a_repository_without_safetensors_is_refused(client: HubClient, repository: Path) -> None:
    (repository / "model.safetensors").unlink()
    (repository / "consolidated.safetensors").unlink()
    assert "no safetensors" in client.resolve()[2]
    assert not list(client.home.rglob("tokenizer.json"))  # nothing was downloaded


def test_a_full_disk_is_refused_before_the_download(client: HubClient, repository: Path) -> None:
    weights = (repository / "model.safetensors").stat().st_size
    field, _, remedy = client.resolve(free=weights // 2)
    assert field == "HF_HOME"
    assert "make room" in remedy
    assert not list(client.home.rglob("*.safetensors"))


def test_a_wrong_architecture_is_refused_after_the_download(client: HubClient) -> None:
    assert "holds a LlamaForCausalLM" in client.resolve(architecture="MistralForCausalLM")[2]
