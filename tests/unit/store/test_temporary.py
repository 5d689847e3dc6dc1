"""Disk tokens show which machines see a disk, and old temporary files are removed."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from orchestrator.store import files
from orchestrator.store.study import Study
from orchestrator.store.temporary import create_disk_token, remove_disk_token, remove_stale_files, sees_disk


def test_a_token_shows_which_machines_see_this_disk(study: Study, tmp_path: Path) -> None:
    token = create_disk_token(study.out)
    assert sees_disk(study.out, token)
    assert not sees_disk(tmp_path / "elsewhere", token)
    remove_disk_token(study.out, token)
    assert not sees_disk(study.out, token) and not sees_disk(study.out, "")


def test_old_temporary_files_are_removed_and_new_ones_stay(study: Study) -> None:
    folder = study.out / files.TMP
    day = 24 * 3600
    token, stale_token = (
        create_disk_token(study.out),
        create_disk_token(study.out),
    )  # of a run that lasts weeks, and of one that died long ago
    for name, age in (("old", 2 * day), ("new", 60), (token, 10 * day), (stale_token, 40 * day)):
        (folder / name).write_text("")
        at = datetime.datetime.now().timestamp() - age
        os.utime(folder / name, (at, at))
    remove_stale_files(study.out)
    assert sorted(p.name for p in folder.iterdir()) == ["new", token]
    assert sees_disk(study.out, token)


def test_a_clock_that_is_set_wrong_removes_nothing_that_others_are_writing(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = study.out / files.TMP / "new"
    create_disk_token(study.out)
    new.write_text("")
    late = time.time() + 40 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: late)
    remove_stale_files(study.out)
    assert new.exists()
