"""`Hashes`: a compact mapping with the task hashes of a part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store.parts import Hashes

IDS = st.text("0123456789abcdef", min_size=1, max_size=16)


@given(st.dictionaries(st.tuples(IDS, IDS), st.text("0123456789abcdef", min_size=1, max_size=32)), st.tuples(IDS, IDS))
def test_hashes_equal_the_dictionary_they_were_made_of(
    entries: dict[tuple[str, str], str], other: tuple[str, str]
) -> None:
    hashes = Hashes(list(entries.items()))
    assert hashes == entries and len(hashes) == len(entries)
    assert list(hashes) == sorted(entries)
    assert hashes.get(other) == entries.get(other) and (other in hashes) == (other in entries)
    if other not in entries:
        with pytest.raises(KeyError):
            hashes[other]
