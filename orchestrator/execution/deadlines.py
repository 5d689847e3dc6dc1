"""Deadlines of visits, computed from the durations of earlier visits of the same run, and of measured directions."""

from __future__ import annotations

import collections
import statistics
from collections import deque
from collections.abc import Mapping

from orchestrator.execution.policy import DispatchPolicy
from orchestrator.sweep.continuations import SCORED_TOKENS, ContinuationBatch
from orchestrator.sweep.tasks import PromptSet, Visit

DURATIONS = 1000  # number of the latest visits from which deadlines are computed


class VisitDeadlines:
    """Deadlines of visits: a multiple of the median time for the same token budget.

    A visit's token budget (`tokens`) is the maximum number of tokens that it may generate (see `token_budget`). Until
    `DispatchPolicy.deadline_after` visits are completed, deadlines follow from the lowest plausible pace instead. They
    are generous, because they only have to end a wait for an engine that will never answer.
    """

    def __init__(self, policy: DispatchPolicy) -> None:
        self._policy = policy
        self._seconds_per_token: deque[float] = deque(maxlen=DURATIONS)
        self._median: float | None = None  # of `_seconds_per_token`; None if it is out of date
        self._late_directions: collections.Counter[str] = collections.Counter()

    def record(self, tokens: int, seconds: float) -> None:
        """Add the duration of a completed visit."""
        self._seconds_per_token.append(seconds / tokens)
        self._median = None

    @property
    def pace_is_known(self) -> bool:
        """True once the number of completed visits has reached `DispatchPolicy.deadline_after`."""
        return len(self._seconds_per_token) >= self._policy.deadline_after

    def limit(self, tokens: int) -> float:
        """Return the seconds allowed for a visit with this token budget."""
        if not self.pace_is_known:
            floor = max(self._policy.deadline_floor, self._policy.first_deadline_floor)
            return max(floor, tokens / self._policy.min_tokens_per_second)
        if self._median is None:
            self._median = statistics.median(self._seconds_per_token)
        return max(self._policy.deadline_floor, self._policy.deadline_factor * self._median * tokens)

    def limit_of_direction(self, direction_id: str, load_seconds: float) -> float:
        """Return the seconds allowed for measuring a direction.

        Like loading, measuring reads all weights once, so the limit is a multiple of the actor's `load_seconds`. It
        doubles each time that the direction was late, so that a slow measurement is completed at last.
        """
        usual = self._policy.deadline_factor * load_seconds
        return float(max(self._policy.deadline_floor, usual) * 2 ** self._late_directions[direction_id])

    def record_late_direction(self, direction_id: str) -> None:
        """Count a measurement of a direction that was past its deadline."""
        self._late_directions[direction_id] += 1


def token_budget(item: Visit | ContinuationBatch, prompt_sets: Mapping[str, PromptSet]) -> int:
    """Return the maximum number of tokens that an item generates or reads. Its deadline is proportional to it.

    Args:
        item: The visit or batch.
        prompt_sets: Prompt set id -> prompt set, for every prompt set of the visits.
    """
    if isinstance(item, ContinuationBatch):
        return sum(len(continuation.token_ids) + SCORED_TOKENS for continuation in item.continuations)
    sets = [prompt_sets[set_id] for set_id in item.prompt_set_ids]
    return max(1, sum(len(s.prompts) * s.sampling.max_tokens for s in sets))
