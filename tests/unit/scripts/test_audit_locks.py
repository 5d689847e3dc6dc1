"""Test what `make audit` finds, and that it never takes silence for a good answer."""

from __future__ import annotations

import datetime
import re
import stat
import sys
from pathlib import Path

import pytest

from scripts import audit_locks
from scripts.audit_locks import NOT_AUDITED, VULNERABLE, NotAuditedError, main, read_answer, read_copy

LOCK = """# a lock
Some_Package==1.4.0 ; python_version < "3.12" \\
    --hash=sha256:00
other==2.0.post1 \\
    --hash=sha256:01
"""
ADVISORIES = {
    "some-package": [
        {"id": "GHSA-old", "v": "<1.4.0", "fixed_in": "1.4.0"},
        {"id": "GHSA-new", "v": ">=1.3,<1.4.1", "fixed_in": "1.4.1"},
    ],
    "Other": [{"id": "GHSA-post", "v": "<2.1", "fixed_in": "2.1"}],
}


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in audit_locks.AUDITED:
        (tmp_path / f"{name}.txt").write_text(LOCK)
    monkeypatch.setattr(audit_locks, "LOCKS", tmp_path)
    return tmp_path


def test_a_copy_is_compared_by_canonical_name_and_version(locks: Path) -> None:
    advisories = read_copy(locks / "cpu.txt", ADVISORIES)
    assert [str(each) for each in advisories] == [
        "some-package==1.4.0: GHSA-new, fixed in 1.4.1",
        "other==2.0.post1: GHSA-post, fixed in 2.1",
    ]


def test_a_version_for_which_pypi_has_no_answer_is_not_taken_for_safe() -> None:
    safe = {"name": "a", "version": "1", "vulns": []}
    unsafe = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3", "2.1"]}]}
    assert read_answer([safe]) == []
    assert [str(each) for each in read_answer([safe, unsafe])] == ["b==2: PYSEC-1, fixed in 3, 2.1"]
    with pytest.raises(NotAuditedError, match=r"did not answer for 1 of 2 packages \(not found on PyPI\)"):
        read_answer([safe, {"name": "c", "skip_reason": "not found on PyPI"}])


def test_an_audit_without_an_answer_ends_with_one_sentence_and_its_own_code(
    locks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = locks / "pip-audit"
    tool.write_text("#!/bin/sh\necho 'ERROR: could not connect' >&2\nexit 1\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(locks / "python"))
    assert main([]) == NOT_AUDITED == 69
    assert capsys.readouterr().err == (
        "audit: the locked versions were not audited: PyPI could not be asked (ERROR: could not connect); make audit "
        "ARGS=--offline compares with a stored copy\n"
    )


def test_an_audit_by_a_copy_says_how_old_it_is(
    locks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_locks, "COPIED", datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=40))
    monkeypatch.setattr(audit_locks, "stored_copy", lambda: ADVISORIES)
    assert main(["--offline"]) == VULNERABLE == 1
    assert re.search(
        r"2 of 2 locked versions .* which lacks those of the last 40 days$", capsys.readouterr().err.strip()
    )
    monkeypatch.setattr(audit_locks, "stored_copy", dict)
    assert main(["--offline"]) == 0
