"""Numbers in a readable form."""

from __future__ import annotations

import pytest

from orchestrator.utils.console import duration

SAID = [(0.44, "0.4 s"), (12.4, "12 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]


@pytest.mark.parametrize(("seconds", "text"), SAID)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
