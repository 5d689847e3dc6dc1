"""The end of a run with options of the section `until`, as its record and the sweep's summary store it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.utils.records import JsonRecord


@dataclass(frozen=True, kw_only=True)
class GoalProgress(JsonRecord):
    """A goal of a sweep, and how far the last whole grid meets it.

    Attributes:
        name: `visage` or `radius`.
        wanted: The option `until.visage` or `until.radius`: the wanted half-width of a 95% interval.
        value: The mean of the number over directions. None if it is undefined.
        half_width: Half the width of an interval that holds although the sweep ends because of it. It is over what
            `over` says and at least half the distance between points (radius). Lines toward checkpoints are not drawn,
            so there it is not over directions. None if there are too few directions, or probes, for any.
        met: Whether it is at most `wanted`.
        reason: Why the goal is out of reach. None if it is met, or can still be met.
        over: `directions`: the interval is over new directions with the same probes. `both`: over new probes too.
    """

    name: str
    wanted: float
    value: float | None = None
    half_width: float | None = None
    met: bool = False
    reason: str | None = None
    over: str = "directions"

    @property
    def option(self) -> str:
        """The option that asks for it, such as `until.visage=2`."""
        return f"until.{self.name}={self.wanted:g}"


@dataclass(frozen=True, kw_only=True)
class UntilOutcome(JsonRecord):
    """The goals and budgets of a run, and how far the sweep was when the run ended.

    While a run goes on, and if it was killed, the record holds its goals at the last whole grid, and no budgets.

    Attributes:
        goals: The goals, as the last whole grid meets them; without numbers before the first. Empty without goals.
        directions: Number of lines or planes of that grid. None without goals or such a grid.
        steps: Number of steps of its axes. None likewise.
        probes: Number of probes of the prompt set whose verdicts decide. None likewise.
        sweep_id: Id of the sweep with that grid, whose folder has its results. None likewise.
        minutes: The option `until.minutes`. None: no such budget.
        gpu_hours: The option `until.gpu_hours`. None: no such budget.
        minutes_used: Duration of all runs of the sweep together.
        gpu_hours_used: Time for which they held GPUs, times the GPUs of an actor.
        stopped_by: Name of the option whose budget was spent while work was left. None if all of it was done.
    """

    goals: tuple[GoalProgress, ...] = ()
    directions: int | None = None
    steps: int | None = None
    probes: int | None = None
    sweep_id: str | None = None
    minutes: float | None = None
    gpu_hours: float | None = None
    minutes_used: float = 0.0
    gpu_hours_used: float = 0.0
    stopped_by: str | None = None

    @property
    def open_goals(self) -> tuple[str, ...]:
        """The goals that are not met, such as `until.visage=2`. Empty if one is out of reach: growth ends then."""
        unmet = [goal for goal in self.goals if not goal.met]
        if any(goal.reason for goal in unmet):
            return ()
        return tuple(goal.option for goal in unmet)
