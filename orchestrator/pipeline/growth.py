"""A sweep with goals (`until.visage`, `until.radius`) and the grids through which it grows until they are met.

The requested sweep's folder has the runs. Which grid follows, with how many blocks of probes, is a function of the
stored verdicts, so that a run that was killed goes on where it was. The last whole grid is a sweep of its own, with
results in a folder of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from orchestrator import judges
from orchestrator.analysis import visage
from orchestrator.analysis.adaptive.until import FEWEST, relative_half_width
from orchestrator.analysis.growth import (
    MOST_BLOCKS,
    MOST_DIRECTIONS,
    MOST_POINTS,
    VISAGE,
    Goals,
    Growth,
    finest_step,
    grow,
    places_of,
)
from orchestrator.analysis.probe_blocks import ProbeBlocks
from orchestrator.analysis.requested import Requested
from orchestrator.config.schema import Config
from orchestrator.judges import first_text_judge
from orchestrator.pipeline.prepare import MissingTasks, PreparedSweep, find_missing
from orchestrator.scoring.clusters import cluster_probes
from orchestrator.scoring.deciding import DecidingCounts, PointCounts, deciding_prompt_set
from orchestrator.store.parts import TaskKey
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.sweep.grid import Grid, Sweep
from orchestrator.sweep.tasks import PromptSet, Visit
from orchestrator.sweep.until import GoalProgress, UntilOutcome
from orchestrator.utils.choices import GoalOver, Retry
from orchestrator.utils.errors import UserError


def goals_of(config: Config) -> Goals:
    """Return the goals of a configuration."""
    return Goals(config.until.visage, config.until.radius, config.until.over)


def _supply(prepared: PreparedSweep, deciding: PromptSet) -> ProbeBlocks:
    """Return the probes that a sweep has and may add: its blocks, up to the first without deciding probes."""
    blocks = prepared.blocks or (prepared.prompt_sets,)
    used = prepared.blocks_of(prepared.sweep)
    prompts = [[prompt for p in block if p.names == deciding.names for prompt in p.prompts] for block in blocks]
    usable = max(used, next((number for number, of_block in enumerate(prompts) if not of_block), len(blocks)))
    every = list(itertools.chain(*prompts[:usable]))
    in_clusters = prepared.config.until.over == GoalOver.both
    labels = iter(cluster_probes(every).labels if in_clusters else range(len(every)))
    return ProbeBlocks(
        used,
        tuple(sum(len(p.prompts) for p in block) for block in blocks[:usable]),
        tuple(tuple(itertools.islice(labels, len(of_block))) for of_block in prompts[:usable]),
    )


class GrowingSweep:
    """A sweep, and the grid and the blocks of probes to which it has grown.

    Attributes:
        goals: Its goals.
        prepared: The sweep with the grid that is measured now.
        stored: The same, in the folder of the requested sweep.
        requested: The requested sweep.
        whole: The sweep with the last grid that is measured as far as it is asked for. None before the first.
        growth: What that grid says about the goals. None before the first.
    """

    def __init__(self, prepared: PreparedSweep, stored: StoredSweep) -> None:
        """Begin with the requested grid, whose goals `check_goals` has checked."""
        self.goals = goals_of(prepared.config)
        self.prepared, self.stored, self.requested = prepared, stored, stored
        self.whole: Sweep | None = None
        self._probes: int | None = None  # of the deciding prompt set of `whole`
        self.growth: Growth | None = None
        self._retry_failed = prepared.config.retry == Retry.failed
        self._given_up: set[TaskKey] = set()

    def advance(self) -> MissingTasks:
        """Move on to the first grid of which tasks are missing. Return its tasks; none if no grid follows."""
        while True:
            part = self.prepared.config.cluster.part
            missing = find_missing(self.prepared, self.stored, part, self._retry_failed, self._given_up)
            if missing.tasks or not missing.is_final or not self.goals.given:
                return missing
            growth = self._take_stock(missing.requested)
            if growth.next is None:
                return missing
            self.prepared = self.prepared.grown_to(growth.next, growth.blocks)
            self.stored = StoredSweep(self.stored.folder, self.prepared.sweep)

    @property
    def is_done(self) -> bool:
        """True if no further grid follows: there are no goals, they are met, or nothing can be added that helps."""
        return not self.goals.given or (self.growth is not None and self.growth.next is None)

    def refresh(self) -> None:
        """Read again what is stored: call this after visits were stored."""
        self.stored.refresh()

    def outcome(self) -> UntilOutcome | None:
        """Return how far the sweep is, without its budgets. None without goals."""
        if not self.goals.given:
            return None
        if self.growth is None or self.whole is None:
            over = str(self.goals.over)
            wanted = self.goals.given.items()
            return UntilOutcome(goals=tuple(GoalProgress(name=n, wanted=w, over=over) for n, w in wanted))
        return UntilOutcome(
            goals=self.growth.progress,
            directions=self.whole.grid.lines,
            steps=self.whole.grid.steps,
            probes=self._probes,
            sweep_id=self.whole.id,
        )

    def give_up(self, visit: Visit) -> None:
        """Go on without the verdicts on a visit that this run gave up."""
        self._given_up |= {(visit.point.id, set_id) for set_id in visit.prompt_set_ids}

    def _take_stock(self, requested: Requested) -> Growth:
        """Return how far the present grid, which is whole, meets the goals, and what to measure next."""
        deciding = DecidingCounts(self.stored, self.prepared.prompt_sets)
        counts: Mapping[str, PointCounts]
        if requested.decisions is not None:  # of an adaptive grid, as its rule has read them
            counts = requested.decisions[1].counts
        else:
            deciding.read_stored()
            counts = deciding.counts
        self.whole, self._probes = self.prepared.sweep, len(deciding.prompt_set.prompts)
        supply = _supply(self.prepared, deciding.prompt_set)
        self.growth = grow(self.whole.grid, counts, self.goals, supply, deciding.verdicts)
        return self.growth


def overrides_of(prepared: PreparedSweep, sweep: Sweep, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that request the sweep to which another one has grown, without goals."""
    grid, options = sweep.grid, prepared.config.grid
    steps = "steps"
    if grid.is_plane and options.plane_steps:
        steps = "plane_steps"
    elif not grid.is_plane and options.crowded_steps and options.crowded_steps == prepared.sweep.grid.steps:
        steps = "crowded_steps"
    changed = {"grid.directions": grid.directions, f"grid.{steps}": grid.steps}
    if len(sweep.prompt_set_ids) != len(prepared.sweep.prompt_set_ids):
        changed["probes.blocks"] = prepared.blocks_of(sweep)
    kept = [text for text in overrides if text.lstrip("+").partition("=")[0] not in changed]
    return [*kept, *(f"{name}={value}" for name, value in changed.items())]


def check_goals(prepared: PreparedSweep) -> None:
    """Raise UserError if a goal of a sweep has no meaning for its grid, or can never be met."""
    goals, grid = goals_of(prepared.config), prepared.sweep.grid
    for name, wanted in goals.given.items():
        field, value = f"until.{name}", f"{wanted:g}"
        judge = first_text_judge(prepared.sweep.judges)
        if judge is None:
            remedy = "needs verdicts during the sweep, from a judge of texts of this program: add keyword to judges"
            raise UserError(field, value, remedy)
        deciding = deciding_prompt_set(judges.get(judge.name), prepared.prompt_sets, field, value)
        if goals.over == GoalOver.both:
            _check_probes(prepared, deciding)
        if name == VISAGE:
            reason = visage.why_inapplicable(grid.to_json()) or _why_uncovered(grid)
            if reason is not None:
                raise UserError(field, value, f"VISAGE is undefined for this grid: {reason}")
        elif wanted < (finest := finest_step(grid) / 2.0):
            remedy = f"cannot be less than half the distance between points, and on the finest grid of {MOST_POINTS:,} "
            raise UserError(field, value, f"{remedy}points that is {finest:.2g}: give at least that")


def _check_probes(prepared: PreparedSweep, deciding: PromptSet) -> None:
    """Raise UserError if the probes that a sweep with goals over new probes can have are too few for an interval."""
    most = _supply(prepared, deciding).counts[-1]
    if relative_half_width(most.groups) is None:
        in_clusters = f" in {most.clusters} clusters" if most.clusters < most.probes else ""
        has = f"{deciding.probe_set} has {most.probes}{in_clusters}"
        raise UserError(
            "until.over", "both", f"needs at least {FEWEST} probes that are not alike, and {has}: add probes"
        )


def _why_uncovered(grid: Grid) -> str | None:
    """Return why the points of a grid do not cover the range of VISAGE. None if they do."""
    places = places_of(grid)
    return visage.measure(places, [0.0] * len(places)).reason


def most_growth(over: GoalOver = GoalOver.directions) -> str:
    """Return how far a sweep with goals may grow, in words."""
    probes = f", with at most {MOST_BLOCKS} blocks of probes" if over == GoalOver.both else ""
    return f"at most {MOST_DIRECTIONS} directions and {MOST_POINTS:,} points{probes}"
