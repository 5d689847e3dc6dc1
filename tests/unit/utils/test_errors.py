"""The user's mistake is one sentence, wherever it is found."""

from __future__ import annotations

import pickle

from orchestrator.store.files import StorageError
from orchestrator.utils.errors import UserError, did_you_mean


def test_says_the_field_the_value_and_what_would_be_right() -> None:
    assert str(UserError("grid.steps", 0, "at least 1")) == "grid.steps=0: at least 1"


def test_a_long_value_is_cut_in_what_is_shown_only() -> None:
    error = UserError("probes.path", "x" * 500, "no such file")
    assert len(str(error)) < 250 and str(error).endswith("...: no such file")
    assert error.value == "x" * 500


def test_crosses_processes_whole_and_keeps_its_kind() -> None:
    for kind in (UserError, StorageError):
        again = pickle.loads(pickle.dumps(kind("out", "/there", "not writable")))  # noqa: S301 - our own bytes
        assert type(again) is kind
        assert (again.field, again.value, again.remedy) == ("out", "/there", "not writable")
        assert str(again) == "out=/there: not writable"


def test_suggests_the_nearest_name_or_nothing() -> None:
    assert did_you_mean("mistral7", ["mistral7b", "llama2_7b"]) == ", did you mean 'mistral7b'?"
    assert did_you_mean("zzz", ["mistral7b"]) == ""
