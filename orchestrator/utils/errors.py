"""Errors that only the user can correct, as one sentence each, and exit codes. Assertions are for our own mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What the command line returns to its caller. Scripts rely on these numbers."""

    COMPLETE = 0
    """Everything that was asked for is done."""
    NOT_MET = 1
    """A gate is not met, or something stored does not verify."""
    WRONG_INPUT = 2
    """The user's mistake: one sentence says which."""
    FAILED_TASKS = 3
    """Complete but for tasks that were given up."""
    INTERRUPTED = 130
    """Interrupted; the same command resumes."""


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
