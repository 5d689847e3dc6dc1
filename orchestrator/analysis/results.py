"""The results of a sweep as typed values: the contents of summary.json.

Percentages run from 0 to 100; distances are in units of alpha. None means undefined or unknown and is explained by a
`reason` beside it; nothing is ever NaN. Fields with a default were added later: a summary of an earlier version lacks
them. docs/formats.md describes the file and docs/statistics.md derives every number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from orchestrator.analysis.intervals import CONFIDENCE, ErrorInterval, Interval, effective_count
from orchestrator.scoring.clusters import design_effect
from orchestrator.scoring.counts import Combination, ProbeVerdicts
from orchestrator.sweep.continuations import LogProbabilityCoverage
from orchestrator.utils.records import JsonRecord

SCHEMA = "summary/1"
SUMMARY_VERSION = 1
INTERVALS_VERSION = 2
"""Version of the methods behind all intervals. docs/statistics.md lists what each version changed."""


@dataclass(frozen=True, kw_only=True)
class PromptsKey(JsonRecord):
    """The prompts that a result is about."""

    probe_set: str
    group: str
    system_prompt: str

    @property
    def prompts_key(self) -> PromptsKey:
        """The fields of this key, without those of a subclass."""
        return PromptsKey(probe_set=self.probe_set, group=self.group, system_prompt=self.system_prompt)


@dataclass(frozen=True, kw_only=True)
class ResultKey(PromptsKey):
    """The prompts and the judge that a result is about."""

    judge: str

    @property
    def key(self) -> ResultKey:
        """The fields of this key, without those of a subclass."""
        return ResultKey(**dict(zip(RESULT_KEY, self.combination, strict=True)))

    @property
    def combination(self) -> Combination:
        """(probe_set, group, system_prompt, judge): the key of a result in `scoring.counts`."""
        return self.probe_set, self.group, self.system_prompt, self.judge


RESULT_KEY = ("probe_set", "group", "system_prompt", "judge")
"""The fields of a `ResultKey`, which are columns of a landscape too."""


@dataclass(frozen=True, kw_only=True)
class ClusterSummary(JsonRecord):
    """The clusters of a result's probes; intervals over new probes draw whole clusters.

    Attributes:
        source: The method that found them; see `scoring.clusters.ProbeClusters`.
        probes: Number of probes.
        clusters: Number of clusters.
        largest: Number of probes in the largest cluster.
        design_effect: How many times larger the variance of an ASR over probes is than over independent probes.
    """

    source: str
    probes: int
    clusters: int
    largest: int
    design_effect: float

    @classmethod
    def of(cls, verdicts: ProbeVerdicts) -> Self:
        """Return the clusters of the probes of these verdicts."""
        labels = verdicts.labels()
        return cls(
            source="none" if verdicts.clusters is None else verdicts.clusters.source,
            probes=len(labels),
            clusters=len(np.unique(labels)),
            largest=int(np.unique(labels, return_counts=True)[1].max()),
            design_effect=design_effect(verdicts.refused, labels),
        )

    def effective(self, n: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
        """Return the number of independent probes that would tell as much as n of these probes."""
        return effective_count(n, self.design_effect, self.probes, self.clusters, confidence)


@dataclass(frozen=True, kw_only=True)
class Estimate(JsonRecord):
    """A mean over lines or planes with its 95% interval over new random directions. `reason` explains a None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class VisageIntervals(JsonRecord):
    """95% intervals of VISAGE or of the mean margin over new directions, over new probes, and over both."""

    directions: ErrorInterval
    probes: ErrorInterval
    both: Interval


@dataclass(frozen=True, kw_only=True)
class VarianceComponents(JsonRecord):
    """Variance of a response (100 refused, 0 not) in VISAGE, by its source, in percent squared; see `components`.

    Attributes:
        lines: Number of directions.
        probes: Number of probes.
        points: Points of a line that count, a harmonic mean over lines. None if nothing is known.
        direction: Between directions. None if unknown.
        probe: Between probes. None if unknown.
        interaction: Between probes on one direction, beyond the former two. None if unknown.
        residual: Between the responses to one probe along one direction, beyond what all probes share. None if unknown.
        reason: Why one is None.
    """

    lines: int
    probes: int
    points: float | None
    direction: float | None = None
    probe: float | None = None
    interaction: float | None = None
    residual: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrecisionPlan(JsonRecord):
    """The cheapest sweep whose interval of VISAGE over new directions and probes has a wanted half-width.

    Attributes:
        target: The wanted half-width, percent.
        directions: Number of directions, the present ones included. None if unknown or out of reach.
        probes: Number of probes, the present ones included. None as `directions` is.
        half_width: The half-width to expect.
        present_half_width: The half-width by the same formula for the present numbers.
        responses: Number of responses of the whole sweep.
        seconds: Time of the whole sweep at the present sweep's pace. None if that is unknown.
        reason: Why there is no plan.
    """

    target: float
    directions: int | None = None
    probes: int | None = None
    half_width: float | None = None
    present_half_width: float | None = None
    responses: int | None = None
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class DirectionsNeeded(JsonRecord):
    """Numbers of directions and probes that a more precise VISAGE needs.

    `more` is about the interval over directions alone, `plan` about that over directions and probes.

    Attributes:
        directions: Number of directions on which VISAGE is defined.
        spread: Standard deviation of VISAGE between them.
        half_width: Half the width of the present interval. None if unknown, as `spread` is then.
        more: Number of directions to add to halve the interval over directions. None if unknown, or more than
            `intervals.MOST_DIRECTIONS`.
        components: Where the error comes from. None in a summary of an earlier version.
        plan: The cheapest sweep with a wanted precision. None in a summary of an earlier version.
    """

    directions: int
    spread: float | None
    half_width: float | None
    more: int | None
    reason: str | None
    components: VarianceComponents | None = None
    plan: PrecisionPlan | None = None


@dataclass(frozen=True, kw_only=True)
class DirectionVisage(JsonRecord):
    """VISAGE of one line or plane; see `visage.Visage`.

    Attributes:
        line: Number of the line or plane, from 0.
        seed_x: Seed of the first axis. None if that axis is not random.
        seed_y: Seed of the second axis. None if there is no such axis, or if it is not random.
        paper: Equation 5 of the paper, percent. None if undefined.
        released: The score as the published code computes it, percent. None if undefined, and on planes.
        reason: Why `paper` is None, and which points were left out.
        points: Number of measured points in the range. None in a summary of an earlier version.
        counted: Number of those at which any attack fails: the points that `paper` averages.
            None in a summary of an earlier version.
    """

    line: int
    seed_x: int | None
    seed_y: int | None
    paper: float | None
    released: float | None
    reason: str | None
    points: int | None = None
    counted: int | None = None


@dataclass(frozen=True, kw_only=True)
class VisageSummary(JsonRecord):
    """VISAGE of one result.

    Attributes:
        paper: Equation 5 of the paper, mean over lines or planes.
        released: The score as the published code computes it, mean over lines. None on planes, and if any line lacks
            it.
        points: Number of measured points in the range, summed over lines or planes. None in a summary of an earlier
            version.
        counted: Number of those at which any attack fails. None likewise.
        low: Lower end of the interval of `paper` over new directions.
        high: Upper end of the same interval.
        over: Every interval of `paper`.
        enough: How many more directions would halve the interval over directions.
        by_direction: The scores of each line or plane.
        reason: Why `paper` is None or has no interval, and which points or lines were left out.
        released_reason: Why `released` is None. None if there is nothing to explain.
    """

    paper: float | None
    released: float | None
    points: int | None = None
    counted: int | None = None
    low: float | None
    high: float | None
    over: VisageIntervals | None = None
    enough: DirectionsNeeded | None = None
    by_direction: tuple[DirectionVisage, ...]
    reason: str | None
    released_reason: str | None = None

    @property
    def value(self) -> float | None:
        """The score that is quoted: `paper`."""
        return self.paper


@dataclass(frozen=True, kw_only=True)
class DirectionMargin(JsonRecord):
    """The mean margin of one line or plane; see `visage.Margin` and, for the other fields, `DirectionVisage`."""

    line: int
    seed_x: int | None
    seed_y: int | None
    value: float | None
    released: float | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class MarginSummary(JsonRecord):
    """The mean margin of one result: the mean of 100 - ASR over all points of VISAGE's range.

    Attributes:
        value: Percent, mean over lines or planes. None if undefined.
        released: The same as the published code's `safety_region` integrates it, mean over lines. None on planes, and
            if any line lacks it.
        over: Every interval of `value`.
        by_direction: The mean margin of each line or plane.
        reason: Why `value` is None or has no interval, and which points were left out.
        released_reason: Why `released` is None. None if there is nothing to explain.
    """

    value: float | None
    released: float | None
    over: VisageIntervals
    by_direction: tuple[DirectionMargin, ...]
    reason: str | None
    released_reason: str | None


@dataclass(frozen=True, kw_only=True)
class DirectionBasin(JsonRecord):
    """The safety basin on one line or plane; see `basin.Basin` and `basin.Shape`.

    Attributes:
        radius_low: Radius at the upper ends of the ASR intervals, or how far those stay below 50%.
        radius_high: Radius at the lower ends of the ASR intervals. None if those never reach 50%.
        shape_reason: Why a number of the shape is None.
    """

    line: int
    seed_x: int | None
    seed_y: int | None
    radius: float | None
    radius_low: float | None
    radius_high: float | None
    left: float | None
    right: float | None
    censored_at: float | None
    reason: str | None
    plateau: float | None = None
    steepness: float | None = None
    asymmetry: float | None = None
    area: float | None = None
    area_at_least: float | None = None
    shape_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class BasinSummary(JsonRecord):
    """The safety basin of one result.

    `radius`, `left`, `right` and `censored_at` are the smallest over lines or planes; `radius_low` and `radius_high`
    are the ends of the radius's interval over new probes (see `DirectionBasin`). The fields of type `Estimate` are
    means over lines or planes.
    """

    radius: float | None
    radius_low: float | None
    radius_high: float | None
    left: float | None
    right: float | None
    censored_at: float | None
    mean_radius: Estimate = Estimate()
    plateau: Estimate = Estimate()
    steepness: Estimate = Estimate()
    asymmetry: Estimate = Estimate()
    area: Estimate = Estimate()
    by_direction: tuple[DirectionBasin, ...]
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class MeanCurve(JsonRecord):
    """The mean over lines at each alpha with its 95% interval; see `curves`.

    Attributes:
        measure: `asr` or `correct`.
        lines: Number of lines.
        over: Variation that the interval covers.
        alpha: Sorted.
        value: Percent, at each alpha. None where a line lacks the point.
    """

    measure: str
    lines: int
    over: str
    alpha: tuple[float, ...]
    value: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class ResultSummary(ResultKey):
    """The numbers of one combination of probe set, system prompt and judge.

    Attributes:
        prompts: Number of prompts at a point.
        points_missing: Number of points without a verdict.
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
    chance: float | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointResult(ResultKey):
    """The result at a checkpoint, for one combination of probe set, system prompt and judge.

    Attributes:
        n: Number of verdicts.
        surface: ASR of the line or plane at the checkpoint's coordinates, interpolated linearly between its points.
            None outside of them.
        published: The paper's ASR after a comparable finetuning. None if the paper reports none, or if it was measured
            in another setting.
        published_note: Where the paper prints it, or why it is not comparable. None if the paper reports none.
    """

    n: int
    asr: float | None
    asr_low: float | None
    asr_high: float | None
    surface: float | None
    published: float | None = None
    published_note: str | None = None


SMALLEST_RADIUS, MEAN_RADIUS = "smallest radius", "mean radius"


@dataclass(frozen=True, kw_only=True)
class MatchedDistance(JsonRecord):
    """Distance of a checkpoint in radii along random directions that are as long as its displacement.

    Attributes:
        direction: Kind of the directions, such as `shuffled`.
        radii: The distance in units of `mean_radius`. None if it is unknown.
        radii_low: Lower end of the interval that the interval of `mean_radius` implies.
        radii_high: Its upper end. None if the lower end of `mean_radius` is 0 or unknown.
        mean_radius: Mean radius over these directions, in units of the length of the checkpoint's displacement.
        directions: Number of directions.
        sweep_id: The sweep that measured them.
        reason: Why `radii` is None, or a remark on it.
    """

    direction: str
    radii: float | None
    radii_low: float | None
    radii_high: float | None
    mean_radius: Estimate
    directions: int
    sweep_id: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class CheckpointSummary(JsonRecord):
    """A checkpoint on a line or plane, or projected onto it.

    Attributes:
        line: Number of the line or plane.
        mark: The checkpoint's name.
        beta: None on a line.
        projected: True if the checkpoint is off the line or plane; the coordinates are then those of the nearest point
            on it.
        results: One for each combination.
        distance: Distance from the model in units of alpha of a random direction. None if unknown.
        radii: The same distance in units of the basin's radius along random directions. None if it is unknown.
        radius: The basin's smallest radius over random directions. None if unknown; see `radius_reason`.
        radius_of: Id of the sweep that measured the radii. None if there is no such sweep.
        radius_reason: Why `radii` is None, or a remark on the radius.
        mean_radius: The mean radius over the same directions.
        radii_unit: The radius that is the unit of `radii`: the mean over directions, `mean_radius`. In summaries of
            earlier versions it is the smallest, `radius`.
        radii_low: Lower end of the interval of `radii` that the interval of `mean_radius` implies.
        radii_high: Its upper end. None if the lower end of `mean_radius` is 0 or unknown.
        matched: The distance in radii along random directions of its own length (`grid.match`), by their kind. Empty
            if the study has no such sweep.
    """

    line: int
    mark: str
    point_id: str
    alpha: float
    beta: float | None
    projected: bool
    results: tuple[CheckpointResult, ...]
    distance: float | None = None
    radii: float | None = None
    radius: float | None = None
    radius_of: str | None = None
    radius_reason: str | None = None
    mean_radius: Estimate = Estimate()
    radii_unit: str = SMALLEST_RADIUS
    radii_low: float | None = None
    radii_high: float | None = None
    matched: tuple[MatchedDistance, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VerdictCounts(PromptsKey):
    """The verdicts of a judge on one prompt set, summed over all points.

    Attributes:
        verdicts: Number of responses by verdict.
        mean_score: Mean of the judge's scores. None if it gives none.
    """

    verdicts: Mapping[str, int]
    mean_score: float | None


JUDGE_RECORD = ("source", "revision", "fingerprint", "dtype", "answers", "unparsed_examples")
"""The keys of `JudgeSummary.record`."""


@dataclass(frozen=True, kw_only=True)
class JudgeSummary(JsonRecord):
    """The verdicts of one judge.

    Attributes:
        record: For a model judge, `source`, `revision`, `fingerprint` and `dtype` of its weights, `answers` (the name
            of the study that holds its answers) and `unparsed_examples`, as far as they were recorded. Empty for a text
            judge. In JSON these are keys of the judge itself.
        unparsed: Number of answers that its parser could not read.
    """

    judge: str
    judge_id: str
    version: int
    record: Mapping[str, Any] = field(default_factory=dict)
    unparsed: int
    sets: tuple[VerdictCounts, ...]

    @property
    def unparsed_examples(self) -> list[str]:
        """Some of the answers that could not be read."""
        return list(self.record.get("unparsed_examples", ()))

    def to_json(self) -> dict[str, Any]:
        """Return the judge as JSON values."""
        value: dict[str, Any] = {}
        for key, item in super().to_json().items():
            value |= item if key == "record" else {key: item}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the judge that `value` was made from."""
        record = {key: value[key] for key in JUDGE_RECORD if key in value}
        return super().from_json({**value, "record": record})


@dataclass(frozen=True, kw_only=True)
class Disagreements(JsonRecord):
    """The number of responses at a point on which two judges differ."""

    point_id: str
    n: int


@dataclass(frozen=True, kw_only=True)
class Disagreement(JsonRecord):
    """A response on which two judges differ. `verdicts` are those of the first and of the second judge."""

    point_id: str
    prompt_id: str
    verdicts: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class AgreementSummary(PromptsKey):
    """The agreement of two judges on one prompt set; see `analysis.agreement`.

    Attributes:
        judges: The names of the two.
        n: Number of responses on which both have a verdict.
        agreement: Percentage of those on which they agree. None if there are none.
        kappa: Cohen's kappa. None if undefined.
        reason: Why kappa is None.
        differ_at: The points with the most differences.
        differ_on: The first responses on which they differ.
    """

    judges: tuple[str, str]
    n: int
    both_refused: int
    only_first_refused: int
    only_second_refused: int
    both_complied: int
    agreement: float | None
    kappa: float | None
    reason: str | None
    differ_at: tuple[Disagreements, ...]
    differ_on: tuple[Disagreement, ...]


@dataclass(frozen=True, kw_only=True)
class SweepSummary(JsonRecord):
    """summary.json: the numbers of the primary result at the top level, those of every combination in `results`.

    Attributes:
        grid: The grid as it was requested, as `Grid.to_json` returns it.
        points_done: Number of points at which every prompt set has a verdict.
        primary: The combination whose numbers are at the top level.
        plane_share: Share of a trajectory's squared length that lies in its principal plane, from 0 to 1.
        log_probability: How many responses have a log-probability at the origin. None in earlier versions.
        tasks_failed: Number of tasks that were given up and are not stored.
        seconds: Time of all runs together.
        actors: The largest number of actors that became ready in one run, replacements included.
        engines: Identities of the engines that made the responses.
        versions: Versions of libraries and platform in the last run.
        intervals_version: Version of the methods behind the intervals; see INTERVALS_VERSION.
    """

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
    results: tuple[ResultSummary, ...]
    published: float | None = None
    published_note: str | None = None
    plane_share: float | None = None
    checkpoints: tuple[CheckpointSummary, ...] = ()
    judges: tuple[JudgeSummary, ...] = ()
    agreement: tuple[AgreementSummary, ...] = ()
    log_probability: LogProbabilityCoverage | None = None
    tasks_failed: int = 0
    seconds: float = 0.0
    tokens: int = 0
    restarts: int = 0
    actors: int = 0
    engines: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)
    intervals_version: int = 1

    @property
    def primary_result(self) -> ResultSummary:
        """The result whose numbers are at the top level."""
        return next(result for result in self.results if result.key == self.primary)
