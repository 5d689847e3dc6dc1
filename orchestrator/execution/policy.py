"""Policy of a dispatch: number of actors, the cluster resources that each takes, retries and deadlines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DispatchPolicy:
    """Settings for running visits on actors. None of them is part of any content hash.

    Attributes:
        actors: Number of actors. None starts as many as the cluster can hold and adds more when nodes join.
        cpus_per_actor: CPU cores that Ray reserves for each actor.
        gpus_per_actor: GPUs that Ray reserves for each actor; a fraction lets actors share one.
        in_flight: Visits that an actor holds at a time: one runs, the others wait in the actor's own queue.
        max_attempts: A visit is given up after this number of failed attempts.
        deadline_floor: Minimum deadline in seconds.
        deadline_factor: A visit is late after this multiple of the usual time for its maximum number of tokens
            (see `VisitDeadlines`).
        deadline_after: Number of completed visits from which on the usual time is known.
        first_deadline_floor: Minimum deadline in seconds before that. Engines compile in their first visits.
        min_tokens_per_second: Before that, a visit is late if it generates fewer tokens per second than this, reckoned
            for its maximum number of tokens.
        load_limit: Seconds in which the process of an actor has to load its engine. It may wait for another actor that
            loads onto the same GPU (`workers.actor.LONGEST_LOAD`).
        wait_limit: Seconds for which a run without any actor waits for free resources of the cluster.
        max_failed_starts: After this number of failed starts in a row no actor is started in a slot any more.
        grace: Seconds that running visits have to finish after the first signal to stop.
    """

    actors: int | None = 1
    cpus_per_actor: float = 1
    gpus_per_actor: float = 0
    in_flight: int = 2
    max_attempts: int = 3
    deadline_floor: float = 120.0
    deadline_factor: float = 10.0
    deadline_after: int = 5
    first_deadline_floor: float = 3600.0
    min_tokens_per_second: float = 1.0
    load_limit: float = 4 * 3600.0
    wait_limit: float = 4 * 3600.0
    max_failed_starts: int = 3
    grace: float = 30.0

    @property
    def resources(self) -> dict[str, float]:
        """Ray's name of each resource that an actor reserves -> amount."""
        amounts = {"GPU": self.gpus_per_actor, "CPU": self.cpus_per_actor}
        return {name: amount for name, amount in amounts.items() if amount > 0}
