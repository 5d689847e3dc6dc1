"""`UserError`: one sentence with the field, the value and the remedy, also across processes."""

from __future__ import annotations

import pickle

from orchestrator.store.errors import StorageError
from orchestrator.utils.errors import UserError, did_you_mean


def test_the_message_states_field_value_and_remedy() -> None:
    assert str(UserError("grid.steps", 0, "at least 1")) == "grid.steps=0: at least 1"


def test_a_long_value_is_shortened_only_in_the_message() -> None:
    error = UserError("probes.path", "x" * 500, "no such file")
    assert len(str(error)) < 250 and str(error).endswith("...: no such file")
    assert error.value == "x" * 500


def test_pickling_keeps_all_fields_and_the_class() -> None:
    for kind in (UserError, StorageError):
        restored = pickle.loads(pickle.dumps(kind("out", "/there", "not writable")))  # noqa: S301 - the bytes were pickled here
        assert type(restored) is kind
        assert (restored.field, restored.value, restored.remedy) == ("out", "/there", "not writable")
        assert str(restored) == "out=/there: not writable"


def test_the_nearest_name_is_suggested_if_there_is_one() -> None:
    assert did_you_mean("mistral7", ["mistral7b", "llama2_7b"]) == ", did you mean 'mistral7b'?"
    assert did_you_mean("zzz", ["mistral7b"]) == ""


def test_a_variable_that_is_not_set_has_no_value_in_the_sentence() -> None:
    assert str(UserError("OPENAI_API_KEY", None, "is not set: export it")) == "OPENAI_API_KEY is not set: export it"
