"""Responses are read at the origin after the sweep: a kill loses nothing, and later calls read what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Driver, call, parts, tree, wait_for
from tests.e2e.test_run import actors_of, sweep_folder

pytestmark = pytest.mark.cluster

Start = Callable[..., Driver]
SWEEP = ("run", "engine=dummy", "grid.directions=2", "grid.steps=10", "probes.limit=30")
READ_ALL = "judging.log_probability=all"


def stored_parts(out: Path) -> list[Path]:
    return sorted(out.glob("*/log_probabilities/v1/*.parquet"))


def rows(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the stored rows by continuation. Fails if one is stored twice."""
    stored = [row for path in stored_parts(out) for row in pq.read_table(path).to_pylist()]
    by_id = {(row["context_id"], row["response_id"]): row for row in stored}
    assert len(by_id) == len(stored), "a continuation was measured twice"
    return by_id


def events(out: Path, name: str) -> list[dict[str, Any]]:
    lines = [line for path in sorted(out.glob("*/events/*.jsonl")) for line in path.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def summary(out: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((sweep_folder(out) / "summary.json").read_text())
    return value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the studies of a sweep whose responses were all read in the run that generated them."""
    out = tmp_path_factory.mktemp("whole")
    result = call(*SWEEP, f"out={out}", READ_ALL)
    assert result.code == 0, result.err
    assert "21 of 21 points" in result.err and f"{len(rows(out))} of {len(rows(out))} responses" in result.err
    return out


@pytest.fixture
def unread(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a copy of the studies without log-probabilities, as an earlier version would have left them."""
    out = tmp_path / "studies"
    shutil.copytree(undisturbed, out)
    shutil.rmtree(next(out.glob("*/log_probabilities")))
    return out


def test_run_reads_every_different_response_once_with_the_actor_that_generated_it(undisturbed: Path) -> None:
    generated = {
        (row["prompt_id"], row["response"]) for path in parts(undisturbed) for row in pq.read_table(path).to_pylist()
    }
    assert len(rows(undisturbed)) == len(generated) > 128
    assert all(row["mean"] < 0 and row["n_tokens"] > 0 for row in rows(undisturbed).values())
    assert len(events(undisturbed, "actor_ready")) == 1
    names = [event["event"] for event in _all_events(undisturbed)]
    assert names.index("continuations_queued") > max(i for i, name in enumerate(names) if name == "visit_done")
    before = tree(undisturbed)
    again = call(*SWEEP, f"out={undisturbed}", READ_ALL)
    assert again.code == 0 and "Nothing to run" in again.err
    after = tree(undisturbed)
    assert {name for name in after if before.get(name) != after[name]} <= {
        name for name in after if name.endswith((".png", ".svg", ".pdf", ".html"))
    }


def _all_events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(out.glob("*/events/*")) for line in path.read_text().splitlines()]


def test_a_driver_killed_while_it_reads_goes_on_where_it_was(undisturbed: Path, unread: Path, start: Start) -> None:
    expected = rows(undisturbed)
    driver = start(*SWEEP, f"out={unread}", READ_ALL, "engine.seconds=1.5")
    wait_for(lambda: stored_parts(unread) or driver.process.poll() is not None)
    driver.kill()
    kept = {path: path.read_bytes() for path in stored_parts(unread)}
    n_kept = len(rows(unread))
    assert kept and n_kept < len(expected)
    result = call(*SWEEP, f"out={unread}", READ_ALL)
    assert result.code == 0, result.err
    assert f"{len(expected) - n_kept} different responses have no log-probability" in result.err
    assert rows(unread) == expected
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert events(unread, "continuations_queued")[-1]["continuations"] == len(expected) - n_kept


def test_an_actor_killed_while_it_reads_is_replaced(undisturbed: Path, unread: Path, start: Start) -> None:
    driver = start(*SWEEP, f"out={unread}", READ_ALL, "engine.seconds=1.5")
    wait_for(lambda: stored_parts(unread) or driver.process.poll() is not None)
    (actor,) = actors_of(driver)
    actor.kill()
    result = driver.wait()
    assert result.code == 0, result.err
    assert len(events(unread, "actor_died")) == 1 and rows(unread) == rows(undisturbed)


def test_judge_reads_what_an_earlier_version_left_unread(undisturbed: Path, unread: Path) -> None:
    generated = {path: path.read_bytes() for path in parts(unread)}
    results = {key: value for key, value in summary(unread).items() if key in ("visage", "basin", "results")}
    assert call("judge", str(unread)).code == 0, "nothing is read unless it is requested"
    assert stored_parts(unread) == []
    for verb in ("reduce", "report"):
        assert call(verb, str(unread)).code == 0, "reading needs no engine"
        assert stored_parts(unread) == []
    result = call("judge", str(unread), READ_ALL)
    assert result.code == 0, result.err
    assert rows(unread) == rows(undisturbed)
    assert {path: path.read_bytes() for path in parts(unread)} == generated
    assert {key: summary(unread)[key] for key in results} == results
    assert call("verify", str(unread)).code == 0


def test_judge_without_the_model_says_what_is_missing(unread: Path) -> None:
    """The model named here is not the study's: nothing is measured with it."""
    result = call("judge", str(unread), "model.dtype=float16", READ_ALL)
    assert result.code == 0, result.err
    assert "have no log-probability" in result.err and "is not the model of this study" in result.err
    assert stored_parts(unread) == []


def test_damaged_measurements_are_made_again(undisturbed: Path, unread: Path) -> None:
    shutil.copytree(next(undisturbed.glob("*/log_probabilities")), next(unread.glob("*")) / "log_probabilities")
    damaged = stored_parts(unread)[0]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    result = call(*SWEEP, f"out={unread}", READ_ALL)
    assert result.code == 0, result.err
    assert f"{damaged.name} does not verify" in result.err
    assert rows(unread) == rows(undisturbed)
