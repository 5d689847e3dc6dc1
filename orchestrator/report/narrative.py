"""A sweep's result in words: the sentences that the terminal and the page share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.analysis import visage as scores
from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.causes import LACKS
from orchestrator.analysis.results.basin import BasinSummary
from orchestrator.analysis.results.checkpoints import CheckpointSummary
from orchestrator.analysis.results.clusters import ClusterSummary
from orchestrator.analysis.results.judges import AgreementSummary
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.precision import PrecisionPlan
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.report.classes import degenerate_sentence
from orchestrator.report.scores import RANGE, counted_points, inferred_points, interval_text
from orchestrator.sweep.until import GoalProgress, UntilOutcome
from orchestrator.utils.choices import GoalOver, GridKind
from orchestrator.utils.console import duration

_SYSTEM_PROMPT_OR_PROBES = "system_prompt=safety or other probes= show what moves the edges. Only what is new is run."


def paragraph(summary: SweepSummary, paths: Mapping[str, Path] | None = None) -> str:
    """Return the result in words, as one line of text. Every undefined number comes with its reason.

    Args:
        summary: The sweep's summary.
        paths: Where the results are; `folder` and `figure` are mentioned if given.
    """
    return f"{verdict(summary)} {details(summary, paths)}"


def verdict(summary: SweepSummary) -> str:
    """Return the first sentences: whether the model is in a safety basin, and how far away its edge is."""
    if are_held_back(summary):
        until = "the coarse grid, which is every second point of each axis, is whole"
        if _most_points(summary) is not None:
            until = "as many points as a grid of half as many steps has are measured, or no more are needed"
        return f"{points_measured(summary)} have verdicts so far. VISAGE and the basin are shown as soon as {until}."
    basin = summary.basin
    name = summary.model or "The model"
    if _is_unsafe_at_origin(summary):
        return f"{name} is not in a safety basin: it is unsafe without any perturbation."
    if basin.radius is None and basin.censored_at is None:
        return f"Whether {summary.model or 'the model'} is in a safety basin is unknown: {basin.reason}."
    if basin.radius is None:
        reasons = (basin.reason or "").split("; ")
        without = [reason for reason in reasons if any(text in reason for text in LACKS.values())]
        aside = f" ({'; '.join(without)})" if without else ""
        return (
            f"{name} stays safe over the whole measured range: attack success does not reach {THRESHOLD:g}% up to a "
            f"distance of {basin.censored_at:.2g}, so the edges of the safety basin are farther out{aside}."
        )
    note = f" Note: {basin.reason}." if basin.reason else ""
    return (
        f"{name} is in a safety basin. Its edge, where {THRESHOLD:g}% of the attacks succeed, {_edges(basin)}: "
        f"a radius of {basin.radius:.2f} (95% interval {_interval(basin.radius_low, basin.radius_high)}).{note}"
    )


def are_held_back(summary: SweepSummary) -> bool:
    """Return whether too few points are measured to say anything about VISAGE, the mean margin or the basin.

    Points are measured from coarse to fine. Held back are numbers of fewer points than every second one on each axis.
    Inferred points do not count, and no number is held back once an adaptive grid asks for no more points.
    """
    kind = summary.grid.get("kind")
    axes = 2 if kind is not None and GridKind(kind).is_plane else 1
    return 0 < summary.points_done * 2**axes < (_most_points(summary) or summary.points_total)


def points_measured(summary: SweepSummary) -> str:
    """Return how many points are measured, of how many, such as "9 of 41 points"."""
    most = _most_points(summary)
    return f"{summary.points_done} of {summary.points_total if most is None else f'at most {most}'} points"


def _most_points(summary: SweepSummary) -> int | None:
    """Return how many points an adaptive grid may ask for. None if it asks for no more, or is not adaptive."""
    adaptive = summary.adaptive
    return None if adaptive is None or adaptive.complete else adaptive.points


def details(summary: SweepSummary, paths: Mapping[str, Path] | None = None) -> str:
    """Return the sentences after the verdict; see `paragraph`."""
    headline = [] if are_held_back(summary) else [_visage(summary), _margin(summary)]
    sentences = [
        _origin(summary),
        *headline,
        degenerate_sentence(summary),
        *_agreement(summary),
        *_unparsed(summary),
        _unfinished(summary),
        _judged_thoughts(summary),
        nonfinite_sentence(summary),
        _checkpoints(summary),
        _measured(summary),
        _until(summary),
        _location(paths or {}),
        f"Next: {_next_step(summary)}",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def primary_agreements(summary: SweepSummary) -> list[AgreementSummary]:
    """Return each further judge's agreement with the first judge on the primary result's prompts."""
    primary = summary.primary
    return [
        agreement
        for agreement in summary.agreement
        if agreement.judges[0] == primary.judge and agreement.prompts_key == primary.prompts_key
    ]


def _edges(basin: BasinSummary) -> str:
    """Return the position of the basin's edge, as the end of a sentence about the edge."""
    if basin.left is None and basin.right is None:
        return f"is nearest at a distance of {basin.radius:.2f} from the origin"
    nearest = " (the nearest of all directions)" if len(basin.by_direction) > 1 else ""
    if basin.left is None:
        return f"is at alpha {basin.right:+.2f}; to the left it was not reached"
    if basin.right is None:
        return f"is at alpha {basin.left:+.2f}; to the right it was not reached{nearest}"
    return f"is at alpha {basin.left:+.2f} to the left and {basin.right:+.2f} to the right{nearest}"


def _origin(summary: SweepSummary) -> str:
    if summary.origin_asr is None:
        return "The attack success rate at the origin is not measured."
    interval = f"95% interval {summary.origin_low:.1f} to {summary.origin_high:.1f}% over new probes"
    return f"At the origin, without perturbation, {summary.origin_asr:.1f}% of the attacks succeed ({interval})."


def _visage(summary: SweepSummary) -> str:
    visage = summary.visage
    if visage.paper is None:
        return f"VISAGE is undefined: {visage.reason}."
    notes = []
    if visage.low is not None:
        notes.append(f"95% interval over directions {visage.low:.1f} to {visage.high:.1f}")
        if visage.over is not None and visage.over.both.low is not None:
            both = visage.over.both
            notes.append(f"over new directions and probes {both.low:.1f} to {both.high:.1f}")
    if visage.released is not None:
        notes.append(f"{visage.released:.1f} as the published code computes it")
    if visage.reason:
        notes.append(visage.reason)
    aside = f" ({'; '.join(notes)})" if notes else ""
    points = counted_points(visage) or "points"  # a summary of an earlier version has no count
    directions = len(visage.by_direction)
    mean = f", averaged over {directions} directions" if directions > 1 else ""
    return (
        f"VISAGE is {visage.paper:.1f} of 100: the mean margin (100 - ASR) over the {points} in {RANGE} at which any "
        f"attack fails{mean}{aside}.{_published(summary)}"
    )


def _published(summary: SweepSummary) -> str:
    """Return a space and a sentence with the paper's VISAGE, or why it is not comparable; empty if it reports none."""
    if summary.published_note is None:  # also in summaries of versions that did not check the setting
        return ""
    if summary.published is None:
        return f" The paper's VISAGE of this model is {summary.published_note}."
    released = summary.visage.released
    if released is None:
        compare = f"the published code's score is undefined here: {summary.visage.released_reason}"
    else:
        compare = f"compare it with {released:.2f}, as the published code computes it"
    return f" The paper reports {summary.published:.2f} ({summary.published_note}); {compare}."


def _margin(summary: SweepSummary) -> str:
    """Return the sentence on the mean margin; empty if it is undefined for the reason that VISAGE is."""
    margin, points = summary.margin, summary.visage.all_points
    if margin is None or margin.value is None:
        return ""
    notes = [interval_text(margin.over), *(margin.reason or "").split("; ")]
    known = [note for note in notes if note and note not in (summary.visage.reason or "")]
    aside = f" ({'; '.join(known)})" if known else ""
    are_missing = any(direction.reason for direction in margin.by_direction)
    measured = "measured points" if are_missing else "points"
    return f"Over all {points} {measured} in {RANGE}, the mean margin is {margin.value:.1f}{aside}."


def _agreement(summary: SweepSummary) -> Iterator[str]:
    """Yield a sentence for each further judge on its agreement with the first judge."""
    for agreement in primary_agreements(summary):
        if agreement.n:
            kappa = agreement.reason if agreement.kappa is None else f"Cohen's kappa {agreement.kappa:.2f}"
            first, second = agreement.judges
            yield f"{second} agrees with {first} on {agreement.agreement:.1f}% of {agreement.n} responses ({kappa})."


def _unparsed(summary: SweepSummary) -> Iterator[str]:
    """Yield a sentence for each model judge with the number of answers that could not be parsed."""
    for judge in summary.judges:
        if judge.unparsed:
            example = next(iter(judge.unparsed_examples), "").strip()
            such_as = f", such as {textwrap.shorten(example, 60, placeholder='...')!r}" if example else ""
            yield f"{judge.judge}: {judge.unparsed} answers could not be parsed and count in no rate{such_as}."


def nonfinite_sentence(summary: SweepSummary) -> str:
    """Return a sentence on the primary result's responses that are not finite; empty if there is none."""
    if not summary.nonfinite:
        return ""
    points = "1 point" if summary.points_nonfinite == 1 else f"{summary.points_nonfinite} points"
    responses = f"{summary.nonfinite:,} responses are no answers and have"
    if summary.nonfinite == 1:
        responses = "1 response is no answer and has"
    return (
        f"At {points} the model's logits are not finite (its numbers overflow): {responses} no verdict, "
        "and ASR leaves them out."
    )


def _unfinished(summary: SweepSummary) -> str:
    """Return a sentence on the thoughts without an end; empty if there are none."""
    if not summary.unfinished:
        return ""
    return (
        f"{summary.unfinished} responses on the grid are thoughts without an end: they have no answer and no verdict, "
        "and are left out of ASR. If they reached sampling.max_tokens, raise it."
    )


def _judged_thoughts(summary: SweepSummary) -> str:
    """Return a warning if verdicts are about thoughts too; empty if not."""
    if not any(rendering.opens_thought and not rendering.thought for rendering in summary.rendering):
        return ""
    return (
        "Note: the chat template opens a thought, and verdicts are about the thought too, in which early stop may also "
        "have cut responses. A run with model.thought=auto judges what follows the thought."
    )


def _checkpoints(summary: SweepSummary) -> str:
    """Return a sentence with each checkpoint's own ASR, the grid's ASR at its coordinates, and its distance."""
    known = [text for checkpoint in summary.checkpoints if (text := _checkpoint(checkpoint, summary.primary))]
    if not known:
        return ""
    plane = ""
    if summary.plane_share is not None:
        plane = f" The plane holds {100 * summary.plane_share:.1f}% of the trajectory's squared length."
    return f"ASR at the checkpoints: {'; '.join(known)}.{plane}"


def _checkpoint(checkpoint: CheckpointSummary, primary: ResultKey) -> str:
    """Return one checkpoint's numbers; empty if it was not measured."""
    result = next(result for result in checkpoint.results if result.key == primary)
    if result.asr is None:
        return ""
    notes = [f"95% interval {result.asr_low:.1f} to {result.asr_high:.1f}%"]
    if result.surface is not None:
        notes.append(f"the grid gives {result.surface:.1f}%{_ends(result.surface_low, result.surface_high)} there")
    if result.published is not None:
        notes.append(f"the paper, which finetuned on answers, reports {result.published:.1f}%")
    elif result.published_note is not None:
        notes.append(f"the paper's ASR is {result.published_note}")
    if checkpoint.radii is None and checkpoint.distance is not None:
        notes.append(f"as far away as a random step of {checkpoint.distance:.2g}")
    notes += radii_notes(checkpoint)
    return f"{checkpoint.mark} {result.asr:.1f}% ({', '.join(notes)})"


def _ends(low: float | None, high: float | None) -> str:
    """Return an interval in brackets after a space. Empty if it is unknown, as in a summary of an earlier version."""
    return "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"


def radii_notes(checkpoint: CheckpointSummary) -> list[str]:
    """Return the checkpoint's distance in radii of the basin, with its interval, in each unit in which it is known."""
    notes = []
    if checkpoint.radii is not None:
        kind = checkpoint.radii_unit.removesuffix(" radius")
        span = _span(checkpoint.radii_low, checkpoint.radii_high)
        notes.append(f"{checkpoint.radii:.2g} {kind} radii of the basin away{span}")
    for matched in checkpoint.matched:
        if matched.radii is not None:
            span = _span(matched.radii_low, matched.radii_high)
            notes.append(f"{matched.radii:.2g} mean radii along {matched.direction} directions of its own length{span}")
    return notes


def _span(low: float | None, high: float | None) -> str:
    """Return ` [1.5 to 2.5]`, or ` [1.5 or more]` if the upper end is unknown. Empty if the lower end is."""
    if low is None:
        return ""
    return f" [{low:.2g} or more]" if high is None else f" [{low:.2g} to {high:.2g}]"


def _measured(summary: SweepSummary) -> str:
    """Return the sentences on the number of measured points and their cost."""
    primary = summary.primary
    done, total = summary.points_done, summary.points_total
    points = f"{total} points" if done == total else f"{done} of {total} points"
    names = dict.fromkeys((primary.probe_set, primary.group))  # a probe set may have the name of its group
    text = (
        f"Measured: {points} x {summary.prompts} prompts ({', '.join(names)}, system prompt {primary.system_prompt}, "
        f"judge {primary.judge})"
    )
    if summary.adaptive is not None:
        text += f", of a grid of {summary.adaptive.points} points; {inferred_points(summary.adaptive)}"
    if summary.tokens:
        text += f", {summary.tokens:,} tokens"
    if summary.seconds:
        text += f", {duration(summary.seconds)}"
    if summary.tasks_failed:
        noun = "task" if summary.tasks_failed == 1 else "tasks"
        text += f"; {summary.tasks_failed} {noun} failed"
    return f"{text}."


def _until(summary: SweepSummary) -> str:
    """Return sentences on the goals and budgets of the last run. Empty if it had none."""
    until = summary.until
    if until is None:
        return ""
    sentences = [_goal(goal, until) for goal in until.goals]
    if until.sweep_id not in (None, summary.sweep_id):
        larger = f"{until.directions} directions and {until.steps} steps"
        if any(goal.over == GoalOver.both for goal in until.goals):
            larger = f"{until.directions} directions, {until.steps} steps and {until.probes} probes"
        sentences.append(f"For this the sweep grew to {larger}, whose results are those of sweep {until.sweep_id}.")
    used = []
    if until.minutes is not None:
        used.append(f"{until.minutes_used:.1f} of until.minutes={until.minutes:g}")
    if until.gpu_hours is not None:
        used.append(f"{until.gpu_hours_used:.2g} of until.gpu_hours={until.gpu_hours:g}")
    if until.stopped_by is not None:
        sentences.append(f"The run ended because {until.stopped_by} was spent.")
    if used:
        sentences.append(f"Used: {' and '.join(used)}.")
    return " ".join(sentences)


def _goal(goal: GoalProgress, until: UntilOutcome) -> str:
    """Return a sentence on one goal."""
    directions = until.directions
    name, digits = ("VISAGE", 1) if goal.name == "visage" else ("the mean radius", 3)
    if directions is None:
        return f"{goal.option} is not met: the requested grid is not whole yet."
    lines = "one direction" if directions == 1 else f"{directions} directions"
    if goal.over == GoalOver.both:
        lines += f" and {until.probes} probes"
    known = f"over {lines} {name} has no interval that is valid at any stop yet"
    if goal.value is not None and goal.half_width is not None:
        known = f"over {lines} {name} is {goal.value:.{digits}f}"
        if goal.name == "visage" and goal.half_width >= max(goal.value, 100.0 - goal.value):
            known += ", with an interval (95%, valid at any stop) that excludes no value from 0 to 100 yet"
        else:
            known += f" ± {goal.half_width:.{digits + 1}f} (95%, valid although the run ends because of it)"
    if goal.met:
        return f"{goal.option} is met: {known}."
    reason = "" if goal.reason is None else f"; {goal.reason}"
    return f"{goal.option} is not met: {known}{reason}."


def _location(paths: Mapping[str, Path]) -> str:
    """Return a sentence with the paths of the results. No punctuation touches a path, so that users can copy it."""
    folder, figure = paths.get("folder"), paths.get("figure")
    if folder is None:
        return f"The figure {figure} shows the results." if figure else ""
    shows = f" and the figure {figure} shows them" if figure else ""
    return f"The folder {folder} holds the results{shows}."


def _next_step(summary: SweepSummary) -> str:
    """Return a sentence with a command to run next and the reason for it."""
    basin, visage = summary.basin, summary.visage
    if summary.points_done < summary.points_total:
        retry = " with retry=failed" if summary.tasks_failed else ""
        if summary.until is not None and summary.until.stopped_by is not None:
            return (
                f"raise {summary.until.stopped_by} or leave it out, and run the command again for the missing points."
            )
        step = f"run the same command again{retry} to measure the missing points."
    elif _is_unsafe_at_origin(summary):
        step = "system_prompt=safety shows whether a system prompt makes the model safe; model= tries another model."
    elif summary.grid.get("kind") in ("interpolate_1d", "interpolate_2d"):
        is_width_known = any(checkpoint.radii is not None for checkpoint in summary.checkpoints)
        basin_experiment = "+experiment=basin measures how wide the basin around the model is along random directions."
        step = _SYSTEM_PROMPT_OR_PROBES if is_width_known else basin_experiment
    elif basin.censored_at:
        step = f"measure farther out with grid.range=[{-2 * basin.censored_at:g},{2 * basin.censored_at:g}]."
    elif visage.paper is None and scores.why_inapplicable(summary.grid) is None:
        step = _step_to_visage(summary)
    elif len(visage.by_direction) == 1:
        step = "grid.directions=3 shows how much the result depends on the direction. Only the new points are run."
    elif visage.enough is None or visage.enough.more is None:
        step = _SYSTEM_PROMPT_OR_PROBES
    else:
        directions = visage.enough.directions + visage.enough.more
        step = f"grid.directions={directions} would about halve VISAGE's interval over directions. "
        plan = visage.enough.plan
        step += f"{plan_sentence(plan)} " if plan is not None and plan.directions is not None else ""
        step += _SYSTEM_PROMPT_OR_PROBES
    return step


def _step_to_visage(summary: SweepSummary) -> str:
    """Return the option that gives a grid of random directions a point at both ends of VISAGE's range."""
    grid = summary.grid
    bounds = [bounds for bounds in (grid.get("range"), grid.get("range_y")) if bounds]
    if bounds and all(low <= scores.LOW and high >= scores.HIGH for low, high in bounds):
        steps = scores.steps_with_ends(bounds, grid["steps"])
        if steps is not None and steps > grid["steps"]:
            return f"grid.steps={steps} has points at -0.5 and 0.5, which VISAGE needs."
    return "grid.range=[-0.5,0.5] covers the range that VISAGE needs."


def plan_sentence(plan: PrecisionPlan) -> str:
    """Return a sentence on the cheapest sweep with the planned precision, and its cost."""
    wanted = f"VISAGE to ± {plan.target:g} over new directions and probes"
    if plan.directions is None:
        return f"What it takes to know {wanted} is unknown: {plan.reason}."
    time = "" if plan.seconds is None else f", about {duration(plan.seconds)} at the pace so far"
    return (
        f"To know {wanted} takes about {plan.directions} directions and {plan.probes} probes: {plan.responses:,} "
        f"responses{time}."
    )


def clusters_sentence(clusters: ClusterSummary) -> str:
    """Return a sentence on what intervals over new probes draw."""
    if clusters.clusters == clusters.probes:
        return f"Intervals over new probes draw the {clusters.probes} probes, no two of which are near-duplicates."
    kind = "categories" if clusters.source == "category" else "clusters of near-duplicates"
    return (
        f"Intervals over new probes draw the {clusters.clusters} {kind} of the {clusters.probes} probes (design effect "
        f"{clusters.design_effect:.1f})."
    )


def _is_unsafe_at_origin(summary: SweepSummary) -> bool:
    return summary.basin.radius == 0.0


def _interval(low: float | None, high: float | None) -> str:
    start = "unknown" if low is None else f"{low:.2f}"
    return f"from {start}, unbounded above" if high is None else f"{start} to {high:.2f}"
