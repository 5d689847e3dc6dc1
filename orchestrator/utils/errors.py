"""Errors that users can correct, each reported in one sentence, and exit codes. Programming errors are assertions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

from orchestrator.utils.addresses import shown


class ExitCode(IntEnum):
    """Exit codes of the command line. Scripts rely on these numbers."""

    COMPLETE = 0
    """Everything requested is done."""
    NOT_MET = 1
    """A gate is not met, or something stored does not verify."""
    WRONG_INPUT = 2
    """A user error, described in one sentence."""
    FAILED_TASKS = 3
    """Complete except for tasks that failed repeatedly and were given up."""
    INTERRUPTED = 130
    """Interrupted; the same command resumes."""


class UserError(Exception):
    """Error that only the user can correct. The command line prints it as one sentence and exits with code 2.

    Args:
        field: The option or file at fault, such as `model.path`.
        value: Its value, of which the message shows at most 200 characters. None: there is none, as for an environment
            variable that is not set.
        remedy: The fault and its correction. It continues the sentence "FIELD=VALUE: ...", or "FIELD ..." without a
            value.
    """

    def __init__(self, field: str, value: object, remedy: str) -> None:
        text = shown(str(value))
        text = text if len(text) <= 200 else text[:197] + "..."
        super().__init__(shown(f"{field} {remedy}" if value is None else f"{field}={text}: {remedy}"))
        self.field = field
        self.value = value
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[UserError], tuple[object, ...]]:
        """Pickle with all three arguments, so that an error raised in an actor reaches the user unchanged."""
        return type(self), (self.field, self.value, self.remedy)


class NodeError(UserError):
    """User error of one node of a cluster: no actor can work there, and perhaps one can on another node.

    Args:
        field: As for UserError.
        value: As for UserError.
        remedy: As for UserError.
        node: Ray's id of the node.
    """

    def __init__(self, field: str, value: object, remedy: str, node: str) -> None:
        super().__init__(field, value, remedy)
        self.node = node

    def __reduce__(self) -> tuple[type[NodeError], tuple[object, ...]]:
        """Pickle with all four arguments, as UserError does with three."""
        return type(self), (self.field, self.value, self.remedy, self.node)


class SessionLostError(Exception):
    """The cluster ended under a run, or had no place for it.

    What is stored stays, and the same command resumes: exit code INTERRUPTED.
    """


class FailedTasksError(Exception):
    """All tasks of a sweep are done except those that failed repeatedly and were given up: exit code FAILED_TASKS.

    Args:
        folder: The sweep's folder, which has the results of all others.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"{shown(folder)}: some tasks failed repeatedly and were given up; `status` names them, and the option "
            "retry=failed tries them again"
        )
        self.folder = folder


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the known name most similar to `name`, or the empty string if none is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else ""
