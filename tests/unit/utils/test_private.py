"""Private folders and locks: owner, modes and links are checked, and waiting for a lock is reported and limited."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from orchestrator.utils.errors import UserError
from orchestrator.utils.private import (
    NotPrivateError,
    locked,
    make_private,
    open_private,
    private_folder,
    replaced_session_root,
    runtime_folder,
    session_root,
    user_folder,
)
from tests.unit.users import NOBODY, as_nobody, needs_two_users, reachable_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a folder that every user may write to, as /tmp and /dev/shm."""
    return reachable_folder(tmp_path, 0o1777)


def test_new_folders_are_private_and_existing_ones_keep_their_modes(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private(tmp_path / "cache" / "part")
    assert (mode(tmp_path), mode(tmp_path / "cache"), mode(tmp_path / "cache" / "part")) == (0o755, 0o700, 0o700)


def test_every_process_of_a_user_gets_the_same_private_folder(shared: Path) -> None:
    folder = user_folder(shared)
    assert folder == user_folder(shared) and mode(folder) == 0o700


def test_what_others_could_enter_is_no_private_folder(shared: Path) -> None:
    (shared / "open").mkdir(mode=0o755)
    (shared / "file").touch()
    (shared / "link").symlink_to(private_folder(shared / "own"))
    for name in ("open", "file", "link"):
        with pytest.raises(NotPrivateError):
            private_folder(shared / name)


def test_a_long_temporary_folder_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert runtime_folder().parent == session_root().parent == Path("/tmp")
    note = replaced_session_root()
    assert f"TMPDIR={long}" in note and "set RAY_TMPDIR" in note and "\n" not in note


def test_rays_files_go_where_ray_is_told_if_that_path_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        assert session_root().parent == Path(short) and replaced_session_root() == ""
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    assert session_root().parent == Path("/tmp") and replaced_session_root().startswith(f"RAY_TMPDIR={long} ")
    monkeypatch.setenv("RAY_TMPDIR", "/no/such")
    with pytest.raises(UserError, match="RAY_TMPDIR=/no/such"):
        session_root()


@needs_two_users
def test_a_folder_that_another_user_has_taken_is_not_used(shared: Path) -> None:
    taken = shared / f"landscape-{os.geteuid()}"
    assert as_nobody("mkdir", "-m", "700", str(taken)).returncode == 0
    assert taken.stat().st_uid == NOBODY
    folder = user_folder(shared)
    assert folder != taken and folder.stat().st_uid == os.geteuid() and mode(folder) == 0o700
    assert as_nobody("ls", str(folder)).returncode != 0


@needs_two_users
def test_a_user_without_any_free_name_is_told(shared: Path) -> None:
    for name in [f"landscape-{os.geteuid()}", *(f"landscape-{os.geteuid()}-{number}" for number in range(1, 10))]:
        as_nobody("mkdir", str(shared / name))
    with pytest.raises(NotPrivateError, match="other users have taken"):
        user_folder(shared)


def test_a_links_target_is_neither_opened_nor_emptied(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "lock").symlink_to(precious)
    with pytest.raises(NotPrivateError, match="is a link"), locked(tmp_path / "lock"):
        pass
    assert precious.read_text() == "precious"


@needs_two_users
def test_another_users_lock_file_is_refused(shared: Path) -> None:
    as_nobody("touch", str(shared / "lock"))
    with pytest.raises(OSError), locked(shared / "lock"):
        pass


def test_a_pipe_is_no_lock_and_opening_it_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotPrivateError):
        open_private(tmp_path / "pipe")


def test_a_second_holder_waits_and_logs_who_holds_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    entered = threading.Event()

    def second() -> None:
        with locked(tmp_path / "lock"):
            entered.set()

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()
    assert f"waiting for process {os.getpid()}" in caplog.text


def test_a_wait_ends_with_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(UserError, match=f"process {os.getpid()} has held this lock"),
        locked(tmp_path / "lock", longest=0.1),
    ):
        pass
