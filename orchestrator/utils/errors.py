"""The user's mistakes, as one sentence each, and exit codes. Assertions are for our own mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

COMPLETE, UNFIT, WRONG_INPUT, FAILED_TASKS, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all done; a gate is not met or something does not verify; the user's mistake; tasks failed; resumable."""


class UserError(Exception):
    """Something only the user can put right: the field, the value it has, what would be right.

    The command line prints it as one sentence and exits with code 2.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        shown = str(value)
        shown = shown if len(shown) <= 200 else shown[:197] + "..."
        super().__init__(f"{field}={shown}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[UserError], tuple[str, object, str]]:
        """Crosses process borders whole: an actor's refusal reaches the user as it was said."""
        return type(self), (self.field, self.value, self.remedy)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the known name nearest to `name`, or the empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else ""
