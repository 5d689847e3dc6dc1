"""The reader of a disturbed study reports what is wrong, doubled or gone."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.chaos.reader import Reader
from tests.cluster.conftest import Job, run_alone


def test_every_answer_is_checked_at_every_read(tmp_path: Path) -> None:
    job = Job(tmp_path / "studies")
    absent = Reader(tmp_path / "none")
    absent.read()
    assert (absent.reads, absent.problems) == (0, [])
    expected = run_alone(job)
    reader = Reader(job.study.root)
    reader.expect(expected)
    reader.read()
    reader.read()
    assert (reader.reads, reader.checked, reader.problems) == (2, 2 * len(expected), [])
    part = min((job.study.root / "generations").glob("*.parquet"))
    part.unlink()
    reader.read()
    assert reader.problems == [f"read 3: 10 of {len(expected) - 10} answers are gone"]
    changed = Reader(job.study.root)
    changed.expect({**expected, max(reader._seen): "something else"})
    changed.read()
    assert changed.problems == [f"read 1: 1 of {len(expected) - 10} answers are wrong"]
