"""The parts in which vLLM is carried to a GPU machine: sizes, joining, and what a lost or damaged part says."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from scripts.gpu_check import bundle

pytestmark = pytest.mark.thorough


def test_parts_are_small_and_join_to_what_was_packed(tmp_path: Path) -> None:
    site, there = tmp_path / "site", tmp_path / "there"
    (site / "package").mkdir(parents=True)
    there.mkdir()
    contents = {f"package/{n}.bin": random.Random(n).randbytes(5000) for n in range(8)}
    for name, content in contents.items():
        (site / name).write_bytes(content)
    archive = tmp_path / "site.tar.xz"
    bundle.compress(site, archive)
    (there / "part.77").write_bytes(b"of an earlier bundle")
    parts = bundle.split(archive, there, part_bytes=7000)
    sizes = [part.stat().st_size for part in parts]
    assert len(parts) > 5 and max(sizes) == 7000 and sum(sizes) == archive.stat().st_size
    assert sorted(there.glob("part.*")) == parts
    subprocess.run(["sha256sum", "--check", "--quiet", bundle.SUMS], cwd=there, check=True)

    unpacked = bundle.unpack(there)
    files = {str(path.relative_to(unpacked)): path.read_bytes() for path in unpacked.rglob("*.bin")}
    assert files == contents

    whole = parts[2].read_bytes()
    parts[2].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SystemExit, match=r"part\.02 is not the one that was packed"):
        bundle.unpack(there)
    parts[2].unlink()
    with pytest.raises(SystemExit, match=r"part\.02 is missing"):
        bundle.unpack(there)


def test_versions_and_hashes_are_those_of_the_lock() -> None:
    entries = bundle.locked(bundle.PACKAGES, bundle.LOCK.read_text())
    lines = [line for line in entries.splitlines() if not line.startswith(" ")]
    assert [line.split("==")[0] for line in lines] == list(bundle.PACKAGES)
    assert entries.count("--hash=sha256:") >= len(lines)
    with pytest.raises(SystemExit, match="has no none-such"):
        bundle.locked(["vllm", "none-such"], bundle.LOCK.read_text())
