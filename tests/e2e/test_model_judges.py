"""Test judging from the command line: several judges side by side, and a model judge on stored responses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import assert_refused, call

pytestmark = pytest.mark.cluster

DUMMY = ("engine=dummy", "grid.directions=1", "grid.steps=4", "probes.limit=4")


def test_judging_again_generates_nothing(tmp_path: Path) -> None:
    out = f"out={tmp_path}"
    assert call("run", *DUMMY, out).code == 0
    (study,) = tmp_path.glob("dummy-*")
    before = {path.name: path.read_bytes() for path in (study / "generations").iterdir()}
    result = call("judge", out, "judges=[keyword,keyword_plus,wildguard]", "engine=dummy", "--json")
    assert result.code == 0, result.err
    assert "wildguard: " in result.err and "different responses to judge" in result.err
    summary = json.loads(result.out)
    keyword, plus, guard = summary["judges"]
    assert keyword["sets"][0]["verdicts"] == plus["sets"][0]["verdicts"]
    assert summary["agreement"][0]["judges"] == ["keyword", "keyword_plus"] and summary["agreement"][0]["kappa"] == 1
    assert guard["unparsed"] == 20 and guard["unparsed_examples"]  # the dummy knows no judge's format
    assert {path.name: path.read_bytes() for path in (study / "generations").iterdir()} == before
    again = call("judge", out, "engine=dummy")
    assert again.code == 0 and "different responses" not in again.err  # stored verdicts are not generated again
    assert "judges side by side" in again.out and "20 answers could not be parsed" in " ".join(again.out.split())
    assert_refused(call("judge", out, "judge=wildgard"), "wildgard", "did you mean 'wildguard'")
    assert_refused(call("run", *DUMMY, out, "judge=wildguard", "sampling.early_stop=true"), "sampling.early_stop=false")
