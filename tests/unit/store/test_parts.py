"""A part's hashes in little memory: a mapping like any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store.parts import Hashes

IDS = st.text("0123456789abcdef", min_size=1, max_size=16)


@given(st.dictionaries(st.tuples(IDS, IDS), st.text("0123456789abcdef", min_size=1, max_size=32)), st.tuples(IDS, IDS))
def test_it_is_the_dictionary_it_was_made_of(entries: dict[tuple[str, str], str], other: tuple[str, str]) -> None:
    found = Hashes(list(entries.items()))
    assert found == entries and len(found) == len(entries)
    assert list(found) == sorted(entries)
    assert found.get(other) == entries.get(other) and (other in found) == (other in entries)
    if other not in entries:
        with pytest.raises(KeyError):
            found[other]
