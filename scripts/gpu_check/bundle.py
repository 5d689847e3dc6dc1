"""Carry vLLM to a GPU machine without a network, in parts: python -m scripts.gpu_check.bundle pack, there unpack.

Versions and hashes are those of scripts/locks/gpu.txt. That machine needs Python 3.12 on x86-64 Linux, torch, Triton,
transformers, numba and safetensors. Files that tests/gpu does not need on a Hopper card are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "scripts" / "locks" / "gpu.txt"
FOLDER = ROOT / "build" / "engine"
PART_BYTES = 40 << 20  # one part and the repository fit into 64 MiB together
SUMS = "parts.sha256"  # lines of sha256sum, in the order in which parts are joined
PYTHON, PLATFORM = "3.12", "x86_64-manylinux_2_35"

# Imports of vLLM's GPU runner beside the packages named above; in the last line, those of tests/gpu.
PACKAGES_TEXT = """
vllm annotated-types apache-tvm-ffi astor blake3 cachetools cbor2 compressed-tensors depyf dill dnspython
email-validator fastapi gguf googleapis-common-protos httpcore2 httpx2 ijson jiter jsonschema
jsonschema-specifications llguidance loguru model-hosting-container-standards msgspec openai
opentelemetry-api opentelemetry-exporter-http-transport opentelemetry-exporter-otlp
opentelemetry-exporter-otlp-proto-common opentelemetry-exporter-otlp-proto-grpc
opentelemetry-exporter-otlp-proto-http opentelemetry-proto opentelemetry-sdk
opentelemetry-semantic-conventions opentelemetry-semantic-conventions-ai oss-harmony partial-json-parser
py-cpuinfo pybase64 pydantic pydantic-core pydantic-extra-types python-json-logger python-multipart pyzmq
referencing rpds-py setproctitle sniffio starlette truststore typing-inspection watchfiles xgrammar
pyarrow psutil pytest hypothesis iniconfig pluggy sortedcontainers
"""
PACKAGES = tuple(PACKAGES_TEXT.split())
LEFT_OUT = (  # of vLLM's folder: what a tiny Llama and Mixtral do not use on a Hopper card
    "vllm-rs",
    "vllm_flash_attn/_vllm_fa2_C*",
    "third_party/deep_gemm/_C*",
    "third_party/deep_gemm/include",
    "third_party/fmha_sm100/cutlass",
    "_deepselect_C*",
    "_flashkda_C*",
    "_flashmla*",
    "_qutlass_C*",
)


def locked(names: Iterable[str], lock: str) -> str:
    """Return a lock's entries of these packages, hashes included.

    Raises:
        SystemExit: A package is not in the lock.
    """
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    by_name = {re.split(r"[=\s]", entry, maxsplit=1)[0]: entry for entry in entries}
    missing = sorted(set(names) - set(by_name))
    if missing:
        raise SystemExit(f"{LOCK.name} has no {', '.join(missing)}: correct PACKAGES in {Path(__file__).name}")
    return "".join(by_name[name] for name in names)


def install(site: Path, uv: str) -> None:
    """Install the locked wheels into a folder, and remove what the checks do not need."""
    requirements = site.parent / "requirements.txt"
    requirements.write_text(locked(PACKAGES, LOCK.read_text()))
    command = [uv, "pip", "install", "--quiet", "--target", str(site), "--no-deps", "--require-hashes", "--no-build"]
    command += ["--python-version", PYTHON, "--python-platform", PLATFORM, "-r", str(requirements)]
    subprocess.run(command, check=True)
    for pattern in LEFT_OUT:
        for path in (site / "vllm").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def compress(site: Path, archive: Path) -> None:
    """Write a folder as a .tar.xz, with all cores."""
    subprocess.run(["tar", "-I", "xz -6 -T0", "-cf", str(archive), "-C", str(site.parent), site.name], check=True)


def split(archive: Path, folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Cut a file into parts of at most this many bytes, and write their sums. Earlier parts are removed."""
    for old in folder.glob("part.*"):
        old.unlink()
    parts: list[Path] = []
    with archive.open("rb") as source:
        while content := source.read(part_bytes):
            parts.append(folder / f"part.{len(parts):02}")
            parts[-1].write_bytes(content)
    lines = [f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n" for part in parts]
    (folder / SUMS).write_text("".join(lines))
    return parts


class Joined(io.RawIOBase):
    """The parts of a folder, read as one file."""

    def __init__(self, folder: Path) -> None:
        """Check that all parts are there and whole.

        Raises:
            SystemExit: A part is missing or differs from its sum.
        """
        self._parts: list[Path] = []
        for line in (folder / SUMS).read_text().splitlines():
            expected, name = line.split()
            part = folder / name
            if not part.is_file():
                raise SystemExit(f"{part} is missing: copy it there, and call again")
            if hashlib.sha256(part.read_bytes()).hexdigest() != expected:
                raise SystemExit(f"{part} is not the one that was packed: copy it again, with {SUMS} beside it")
            self._parts.append(part)
        self._open = self._files()
        self._current: IO[bytes] | None = next(self._open, None)

    def _files(self) -> Iterator[IO[bytes]]:
        for part in self._parts:
            with part.open("rb") as file:
                yield file

    def readable(self) -> bool:
        """Return True: this can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read at most this many bytes; all that is left if negative."""
        pieces: list[bytes] = []
        left = size
        while self._current is not None and left != 0:
            piece = self._current.read(left)
            if not piece:
                self._current = next(self._open, None)
                continue
            pieces.append(piece)
            left -= len(piece) if size >= 0 else 0
        return b"".join(pieces)


def unpack(folder: Path) -> Path:
    """Join the parts and unpack them. Returns the folder for PYTHONPATH."""
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    with tarfile.open(fileobj=Joined(folder), mode="r|xz") as archive:
        archive.extractall(folder, filter="data")
    return site


def pack(folder: Path, uv: str) -> list[Path]:
    """Fetch, reduce, compress and split. Returns the parts."""
    folder.mkdir(parents=True, exist_ok=True)
    site, archive = folder / "site", folder / "site.tar.xz"
    shutil.rmtree(site, ignore_errors=True)
    install(site, uv)
    compress(site, archive)
    parts = split(archive, folder)
    archive.unlink()
    return parts


def main() -> int:
    """Run the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="holds the parts; default build/engine")
    parser.add_argument("--uv", default=str(ROOT / ".uv" / "bin" / "uv"), help="uv's path; make setup installs it")
    options = parser.parse_args()
    if options.action == "pack":
        if shutil.which(options.uv) is None:
            print(f"{options.uv} is not there: run make setup, or name uv with --uv", file=sys.stderr)
            return 2
        for part in pack(options.folder, options.uv):
            print(f"{part}: {part.stat().st_size / 2**20:.1f} MiB")
    else:
        print(f"unpacked into {unpack(options.folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
