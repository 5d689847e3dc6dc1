"""summary.json as a whole, and the numbers of one combination of prompts and judge in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.checkpoints import CheckpointSummary
from orchestrator.analysis.results.classes import SuccessClasses
from orchestrator.analysis.results.clusters import ClusterSummary
from orchestrator.analysis.results.curves import MeanCurve
from orchestrator.analysis.results.judges import AgreementSummary, JudgeSummary
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.scores import MarginSummary, VisageSummary
from orchestrator.sweep.continuations import LogProbabilityCoverage
from orchestrator.sweep.prompt_rendering import PromptRendering
from orchestrator.sweep.until import UntilOutcome
from orchestrator.utils.parsing import FormatError
from orchestrator.utils.records import JsonRecord

SCHEMA = "summary/1"
SUMMARY_VERSION = 1
INTERVALS_VERSION = 2
"""Version of the methods behind all intervals. docs/statistics.md lists what each version changed."""


@dataclass(frozen=True, kw_only=True)
class ResultSummary(ResultKey):
    """The numbers of one combination of probe set, system prompt and judge.

    Attributes:
        prompts: Number of prompts at a point.
        points_missing: Number of points without a verdict, apart from inferred ones.
        origin_asr: ASR of the unperturbed model, percent. None if not measured.
        origin_low: Lower end of its Clopper-Pearson interval.
        origin_high: Upper end of the same interval.
        degenerate_share: Percentage of the successes on the grid that are degenerate. None if there is no success.
        margin: The mean margin. None in a summary of an earlier version.
        published: The paper's VISAGE for this model and system prompt. None if the paper reports none, or if it was
            measured in another setting.
        published_note: Where the paper prints it, or why it is not comparable. None if the paper reports none.
        clusters: The clusters of the probes. None if their verdicts are not at hand: each probe counts as independent.
        curves: The mean over lines. Empty on planes.
        classes: The successes by class. None in a summary of an earlier version.
        unfinished: Number of responses on the grid that are thoughts without an end. They have no verdict.
        nonfinite: Number of responses on the grid that are not finite. They have no verdict.
        points_nonfinite: Number of points with such a response.
        chance: Percentage of questions that letters drawn at random answer right. None for prompts without choices.
    """

    prompts: int
    points_missing: int
    origin_asr: float | None
    origin_low: float | None
    origin_high: float | None
    visage: VisageSummary
    margin: MarginSummary | None = None
    basin: BasinSummary
    degenerate_share: float | None
    published: float | None = None
    published_note: str | None = None
    clusters: ClusterSummary | None = None
    curves: tuple[MeanCurve, ...] = ()
    classes: SuccessClasses | None = None
    unfinished: int = 0
    nonfinite: int = 0
    points_nonfinite: int = 0
    chance: float | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptiveSummary(JsonRecord):
    """Which nodes of an adaptive grid were measured, and how well what is inferred at the others was checked.

    Attributes:
        judge: Name of the judge whose verdicts decided.
        rule: Version of the rule that chose the nodes.
        points: Number of different points of the whole grid.
        measured: Number of those that are measured.
        inferred: Number of those that are inferred: the visits that were saved.
        audited: Number of nodes that were measured only to check what had been inferred at them.
        failed_audits: Number of those that differed from it beyond chance; more was measured around them.
        levels: Number of levels of refinement, the audits included.
        complete: Whether the rule asks for nothing more.
        unrequested: Number of measured points that the rule did not ask for: idle actors measured them on speculation,
            or another sweep did. 0 in earlier versions.
    """

    OPTIONAL_KEYS: ClassVar[frozenset[str]] = frozenset({"unrequested"})

    judge: str
    rule: int
    points: int
    measured: int
    inferred: int
    audited: int
    failed_audits: int
    levels: int
    complete: bool
    unrequested: int = 0


@dataclass(frozen=True, kw_only=True)
class SweepSummary(JsonRecord):
    """summary.json: the numbers of the primary result at the top level, those of every combination in `results`.

    Attributes:
        grid: The grid as it was requested, as `Grid.to_json` returns it.
        points_done: Number of points at which every prompt set has verdicts, or only responses without an answer.
        points_total: Number of points that the sweep asks for: those of the grid that are not inferred.
        primary: The combination whose numbers are at the top level.
        degenerate_version: Version of the judge `degenerate` whose verdicts are counted. None in earlier versions.
        degenerate_id: Name of the folder below judgements/ with the verdicts on degeneracy that are counted. None in
            earlier versions.
        plane_share: Share of the sum of squared displacements of a trajectory that lies in its principal plane, from 0
            to 1. None if the grid is not such a plane.
        log_probability: How many responses have a log-probability at the origin. None in earlier versions.
        log_probability_version: Version of the rule by which the classes rest on log-probabilities too. None if they
            rest on the text alone.
        adaptive: Which nodes were measured. None if the grid is not adaptive.
        until: The budgets of the last run that had some, and how much was used. None if no run had any.
        rendering: How the prompts were rendered, for each template and system prompt. Empty in earlier versions.
        tasks_failed: Number of tasks that were given up and are not stored.
        seconds: Time of all runs together.
        actors: The largest number of actors that became ready in one run, replacements included.
        actors_at_once: The largest number of actors that were ready at the same time. None if no run recorded it.
        ready_seconds: Time for which actors were ready in all runs, summed over actors. 0 in earlier versions.
        idle_seconds: The part of it in which they had nothing to do.
        speculative: Number of visits that idle actors began before a level of an adaptive grid asked for them.
        engines: Identities of the engines that made the responses.
        versions: Versions of libraries and platform in the last run.
        intervals_version: Version of the methods behind the intervals; see INTERVALS_VERSION.
        scoring_version: Version of the rules by which right answers are read; see `capability.SCORING_VERSION`. None in
            earlier versions.
    """

    OPTIONAL_KEYS: ClassVar[frozenset[str]] = frozenset(
        {"adaptive", "until", "degenerate_id", "ready_seconds", "idle_seconds", "speculative"}
    )

    schema: str = SCHEMA
    study_id: str = ""
    sweep_id: str = ""
    model: str = ""
    grid: Mapping[str, Any] = field(default_factory=dict)
    summary_version: int = SUMMARY_VERSION
    points_done: int
    points_total: int
    primary: ResultKey
    prompts: int
    points_missing: int
    origin_asr: float | None
    origin_low: float | None
    origin_high: float | None
    visage: VisageSummary
    margin: MarginSummary | None = None
    basin: BasinSummary
    degenerate_share: float | None
    classes: SuccessClasses | None = None
    unfinished: int = 0
    nonfinite: int = 0
    points_nonfinite: int = 0
    degenerate_version: int | None = None
    degenerate_id: str | None = None
    results: tuple[ResultSummary, ...]
    adaptive: AdaptiveSummary | None = None
    until: UntilOutcome | None = None
    published: float | None = None
    published_note: str | None = None
    plane_share: float | None = None
    checkpoints: tuple[CheckpointSummary, ...] = ()
    judges: tuple[JudgeSummary, ...] = ()
    agreement: tuple[AgreementSummary, ...] = ()
    log_probability: LogProbabilityCoverage | None = None
    log_probability_version: int | None = None
    rendering: tuple[PromptRendering, ...] = ()
    tasks_failed: int = 0
    seconds: float = 0.0
    tokens: int = 0
    restarts: int = 0
    actors: int = 0
    actors_at_once: int | None = None
    ready_seconds: float = 0.0
    idle_seconds: float = 0.0
    speculative: int = 0
    engines: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)
    intervals_version: int = 1
    scoring_version: int | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the summary that `to_json` described. Raises FormatError, also if `primary` names no result."""
        summary = super().from_json(value)
        if all(result.key != summary.primary for result in summary.results):
            raise FormatError("has no result for its primary combination")
        return summary

    @property
    def primary_result(self) -> ResultSummary:
        """The result whose numbers are at the top level."""
        return next(result for result in self.results if result.key == self.primary)

    def headline(self) -> dict[str, float | None]:
        """Return the numbers of the primary result for tables and trackers, by name, with the ends of their intervals.

        They are origin_asr, visage, margin and radius, each with `_low` and `_high`. The intervals of visage and margin
        are over new directions. None where a number is undefined.
        """
        margin = self.margin
        over = None if margin is None else margin.over.directions
        return {
            "origin_asr": self.origin_asr,
            "origin_asr_low": self.origin_low,
            "origin_asr_high": self.origin_high,
            "visage": self.visage.value,
            "visage_low": self.visage.low,
            "visage_high": self.visage.high,
            "margin": None if margin is None else margin.value,
            "margin_low": None if over is None else over.low,
            "margin_high": None if over is None else over.high,
            "radius": self.basin.radius,
            "radius_low": self.basin.radius_low,
            "radius_high": self.basin.radius_high,
        }
