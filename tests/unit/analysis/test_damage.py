"""No damage makes the program report a wrong number: flipped bits, files that are cut short, and partial copies.

Damage is either told (an error, a finding of `verify`, a damaged file, a number that the rows do not give), or every
number is as it was.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from orchestrator.analysis.landscape import to_table
from orchestrator.analysis.recomputation import recompute
from orchestrator.analysis.verification import verify_study
from orchestrator.store.errors import StorageError
from orchestrator.store.files import DamagedFileError
from orchestrator.store.records import RunRecord
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.verification import verify_folder
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep

KINDS = (
    "study.json",
    "sweeps/*/sweep.json",
    "sweeps/*/summary.json",
    "sweeps/*/landscape.parquet",
    "sweeps/*/runs/*.json",
    "generations/*.parquet",
    "judgements/*/*.parquet",
    "prompts/*.parquet",
)
Numbers = tuple[object, ...]
pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small study with a file of each kind."""
    folder = store_sweep(tmp_path_factory.mktemp("intact"), basin(0.3), probes=("a", "b", "c"), steps=2, directions=1)
    study = Study.open(folder.parents[1])
    SweepFolder(study, folder).write_run(RunRecord(run="20260101T000000-aa", outcome="complete"))
    stored = StoredSweep.open(SweepFolder(study, folder))
    stored.folder.write_summary(recompute(stored).summary.to_json())
    assert verify_study(study.root).is_sound
    return study.root


def numbers(root: Path) -> Numbers | None:
    """Return every number that `gate` would use; None if something tells that they may be others than were stored."""
    try:
        (path,) = root.glob("sweeps/*")
        stored = StoredSweep.open(SweepFolder(Study.open(root), path))
        recomputed = recompute(stored)
    except (UserError, DamagedFileError, StorageError, ValueError):
        return None
    if stored.study.problems or recomputed.differences or recomputed.unchecked:
        return None
    return to_table(recomputed.landscape).to_pylist(), recomputed.summary.to_json()


def check_told(root: Path, expected: Numbers, damaged: Path, check_gate: bool = True) -> None:
    """Assert that damage to one file is told, or that it changes no number.

    Args:
        root: The study.
        expected: The numbers of the intact study.
        damaged: The damaged file.
        check_gate: Whether the numbers are computed although `verify` finds the damage, as `gate` would.
    """
    is_found = any(finding.path == damaged for finding in verify_folder(root).findings)
    if check_gate or not is_found:
        found = numbers(root)
        assert found == expected or (found is None and (is_found or not verify_study(root).is_sound)), damaged


@pytest.mark.parametrize("flips", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_flipped_bit_changes_no_number_silently(flips: int, intact: Path, tmp_path: Path) -> None:
    root = tmp_path / intact.name
    shutil.copytree(intact, root)
    expected = numbers(root)
    assert expected is not None
    generator = random.Random(flips)
    files = {kind: sorted(root.glob(kind)) for kind in KINDS}
    assert all(files.values())
    for i in range(flips):
        path = generator.choice(files[KINDS[i % len(KINDS)]])
        content = path.read_bytes()
        at = generator.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :])
        check_told(root, expected, path, check_gate=i % 20 == 0)
        path.write_bytes(content)
    assert numbers(root) == expected


def test_a_prefix_of_a_file_is_told_or_changes_no_number(intact: Path, tmp_path: Path) -> None:
    root = tmp_path / intact.name
    shutil.copytree(intact, root)
    expected = numbers(root)
    assert expected is not None
    generator = random.Random(1)
    for kind in KINDS:
        for path in sorted(root.glob(kind))[:2]:
            content = path.read_bytes()
            for length in (0, len(content) - 1, *(generator.randrange(len(content)) for _ in range(8))):
                path.write_bytes(content[:length])
                check_told(root, expected, path, check_gate=length == 0)
            path.write_bytes(content)


def test_a_partial_copy_is_told_or_complete(intact: Path, tmp_path: Path) -> None:
    """Copy a study file by file, in several orders: at each moment the numbers are all there, or something is told."""
    expected = numbers(intact)
    files = sorted(path.relative_to(intact) for path in intact.rglob("*") if path.is_file())
    for seed in range(2):
        root = tmp_path / f"copy{seed}"
        order = random.Random(seed).sample(files, len(files))
        for file in order:
            assert numbers(root) in (None, expected)
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(intact / file, root / file)
        assert numbers(root) == expected
