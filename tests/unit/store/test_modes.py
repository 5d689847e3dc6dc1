"""Who may read a study: by default its user alone; otherwise those to whom the study's folder is open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.execution.progress import redirect_output
from orchestrator.store.files import publish
from orchestrator.store.lease import Lease
from orchestrator.store.study import Study
from orchestrator.store.temporary import create_disk_token
from orchestrator.utils.choices import StudyMode
from orchestrator.utils.errors import UserError
from orchestrator.utils.safe_console import SafeConsole
from tests.unit.store.studies import INFO, write_part
from tests.unit.stored import basin, store_sweep
from tests.unit.users import NOBODY, as_nobody, needs_two_users, nobody_runs, reachable_folder

pytestmark = pytest.mark.thorough

WRITE_AS_NOBODY = """
from pathlib import Path
from orchestrator.store.study import Study
from tests.unit.store.studies import INFO, write_part
print(write_part(Study.create(Path({out!r}), INFO{mode}), "theirs"))
"""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, set[int]]:
    """Return the modes of all folders and of all files at and below a folder."""
    found: dict[str, set[int]] = {"folders": set(), "files": set()}
    for path in (root, *root.rglob("*")):
        found["folders" if path.is_dir() else "files"].add(stat.S_IMODE(path.stat().st_mode))
    return found


def test_everything_of_a_new_study_is_private(tmp_path: Path) -> None:
    out = tmp_path / "new" / "studies"
    folder = store_sweep(out, basin(0.25), directions=1)
    study = Study.open(folder.parents[1])
    study.events("run").write("run_started")
    create_disk_token(out)
    with Lease(out, folder / "lease.json"), redirect_output(SafeConsole(stderr=True), folder / "logs" / "run.log"):
        assert modes(tmp_path / "new") == {"folders": {0o700}, "files": {0o600}}


def test_a_log_that_takes_a_drivers_output_is_private(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = Study.create(tmp_path / "studies", INFO).root / "sweeps" / "a" / "logs" / "run.log"
    with capfd.disabled(), redirect_output(SafeConsole(stderr=True), log):
        pass
    assert modes(tmp_path / "studies") == {"folders": {0o700}, "files": {0o600}}


def test_an_existing_study_keeps_its_modes_and_passes_them_on(tmp_path: Path) -> None:
    out = tmp_path / "studies"
    out.mkdir(mode=0o755)
    Study.locate(out, INFO).root.mkdir(mode=0o755)
    study = Study.create(out, INFO)
    write_part(study, "point")
    study.events("run").write("run_started")
    assert modes(study.root) == {"folders": {0o755}, "files": {0o644}}
    assert modes(out / ".tmp") == {"folders": {0o700}, "files": set()}, "only who may write here needs it"


def test_an_unfinished_file_is_private_even_in_an_open_study(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "studies", INFO, StudyMode.shared)

    def write(path: Path) -> None:
        path.write_text("text")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    publish(study.out, study.root / "a.txt", write)
    assert stat.S_IMODE((study.root / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize(("mode", "folders", "files"), [
    (StudyMode.shared, 0o755, 0o644), (StudyMode.group, 0o2770, 0o660), (StudyMode.private, 0o700, 0o600)
])  # fmt: skip
def test_the_mode_of_a_new_study_is_that_of_all_its_files(
    mode: StudyMode, folders: int, files: int, tmp_path: Path
) -> None:
    study = Study.create(tmp_path / "studies", INFO, mode)
    write_part(study, "point")
    assert modes(study.root) == {"folders": {folders}, "files": {files}}
    judge = Study.create(study.out, type(INFO)("judge", "other", "float32", 1), study.root)
    assert modes(judge.root) == {"folders": {folders}, "files": {files}}


def test_a_shared_study_in_a_closed_folder_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "studies"
    out.mkdir(mode=0o700)
    Study.create(out, INFO, StudyMode.shared)
    assert f"because {out} is closed to them: chmod it to 755" in caplog.text


@needs_two_users
def test_another_user_reads_nothing_of_a_study_by_default(tmp_path: Path) -> None:
    out = reachable_folder(tmp_path, 0o755)
    folder = store_sweep(out, basin(0.25), directions=1)
    Study.open(folder.parents[1]).events("run").write("run_started")
    create_disk_token(out)
    with Lease(out, folder / "lease.json"):
        paths = list(out.rglob("*"))
        assert len(paths) > 10
        for path in paths:
            assert as_nobody("ls" if path.is_dir() else "cat", str(path)).returncode != 0, path


@needs_two_users
def test_a_folder_that_another_user_may_not_read_is_named(tmp_path: Path) -> None:
    out = reachable_folder(tmp_path, 0o755)
    sweep = store_sweep(out, basin(0.25), directions=1)
    study = sweep.parents[1]
    code = "from pathlib import Path; from orchestrator.store.discovery import latest_sweep; latest_sweep(Path({!r}))"
    assert f"that you can read in that folder, and {study} cannot be read" in nobody_runs(code.format(str(out))).stderr
    for path, mode in ((study, 0o755), (study / "study.json", 0o644), (sweep.parent, 0o755)):
        path.chmod(mode)
    for path in (out, study):
        assert f"in that folder, and {sweep} cannot be read" in nobody_runs(code.format(str(path))).stderr


@needs_two_users
def test_the_viewer_does_not_show_closed_folders_as_empty_ones(tmp_path: Path) -> None:
    folder = reachable_folder(tmp_path, 0o755)
    outs = [folder / name for name in ("700", "711", "755")]
    for out in outs:  # the study in each is closed
        store_sweep(out, basin(0.25), directions=1)
        out.chmod(int(out.name, 8))
    calls = [["view", argument] for out in outs for argument in (str(out), f"out={out}")]
    code = "from orchestrator.report.viewer import serve; serve.serve = lambda *call: None"
    code += "\nfrom orchestrator.cli.main import main; print([int(main(call)) for call in {!r}])"
    done = nobody_runs(code.format([*calls, ["view", f"out={tmp_path / 'new'}"]]))
    assert done.stdout == f"{[2] * len(calls) + [0]}\n"
    for line, out in zip(done.stderr.splitlines(), (out for out in outs for _ in range(2)), strict=True):
        assert line.startswith(f"error: path={out}") and "let its owner open it to you" in line


@needs_two_users
def test_another_user_reads_a_shared_study(tmp_path: Path) -> None:
    out = reachable_folder(tmp_path, 0o755)
    part = write_part(Study.create(out, INFO, StudyMode.shared), "ours")
    code = "from pathlib import Path; from orchestrator.store.study import Study"
    done = nobody_runs(f"{code}; print(len(Study.open(Path({str(part.parents[1])!r})).generations.stored()))")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"
    code = WRITE_AS_NOBODY.format(out=str(out), mode="")
    assert nobody_runs(code).returncode != 0


@needs_two_users
def test_two_users_of_a_group_add_to_one_study(tmp_path: Path) -> None:
    out = reachable_folder(tmp_path, 0o2770)
    os.chown(out, -1, NOBODY)
    out.chmod(0o2770)
    study = Study.create(out, INFO, StudyMode.group)
    write_part(study, "ours")
    done = nobody_runs(WRITE_AS_NOBODY.format(out=str(out), mode=""))
    assert done.returncode == 0, done.stderr
    theirs = Path(done.stdout.strip())
    assert theirs.stat().st_uid == NOBODY and modes(study.root) == {"folders": {0o2770}, "files": {0o660}}
    assert {key[0] for key in study.generations.stored()} == {"ours", "theirs"}
    write_part(study, "ours again")


@needs_two_users
def test_two_users_have_private_studies_in_one_folder(tmp_path: Path) -> None:
    out = reachable_folder(tmp_path, 0o1777)
    code = WRITE_AS_NOBODY.replace("INFO{mode}", "type(INFO)('their', 'other', 'float32', 1)").format(out=str(out))
    assert nobody_runs(code).returncode == 0
    assert (out / ".tmp").stat().st_uid == NOBODY
    study = Study.create(out, INFO)
    write_part(study, "ours")
    assert modes(study.root) == {"folders": {0o700}, "files": {0o600}}
    own = out / f".tmp-{os.geteuid()}"
    assert modes(own) == {"folders": {0o700}, "files": set()}, "the owner of .tmp could have replaced what is written"


@needs_two_users
def test_a_study_that_another_user_has_placed_is_not_added_to(tmp_path: Path) -> None:
    out = reachable_folder(tmp_path, 0o1777)
    done = nobody_runs(WRITE_AS_NOBODY.format(out=str(out), mode=", 'shared'"))
    assert done.returncode == 0, done.stderr
    with pytest.raises(UserError, match="belongs to another user, who can read and change"):
        Study.create(out, INFO)
    Study.create(out, INFO, StudyMode.shared)
