"""Source of work for a dispatch that is not known at its start, because it depends on the results."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.execution.events import WorkItem
from orchestrator.sweep.tasks import Visit


class WorkSource:
    """Adds work to a dispatch as results arrive. This base class adds nothing.

    The dispatcher reports every visit that is stored or given up, and asks for more work whenever fewer items wait than
    its actors can hold, so that actors do not become idle while a level of an adaptive grid ends.
    """

    def take_stored(self, visit: Visit) -> None:
        """Take note that the responses of a visit are stored."""

    def take_given_up(self, visit: Visit) -> None:
        """Take note that a visit is not tried again in this run."""

    def take_dropped(self, visit: Visit) -> None:
        """Take note that a visit that `speculate` returned has failed. It is tried again only if `more` returns it."""

    def is_over(self) -> bool:
        """Return whether no further item is to begin. Those that wait are dropped then; those that run are finished."""
        return False

    def more(self, idle: bool) -> Sequence[WorkItem]:
        """Return further items, each once. Empty if there are none now.

        Directions are those of the visits, each once in a dispatch; those that are stored are not measured again.

        Args:
            idle: Whether no item waits and none runs. The dispatch ends if nothing is returned then.
        """
        return ()

    def speculate(self, most: int) -> Sequence[Visit]:
        """Return visits that `more` will probably ask for, each once, because actors are idle.

        Args:
            most: Number of idle actors for which no item waits: the largest number of visits to return.
        """
        return ()

    @property
    def unneeded(self) -> int:
        """Number of stored visits of `speculate` that `more` has not asked for."""
        return 0
