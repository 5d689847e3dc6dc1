"""What `run` says at its end: a table, a curve, and one paragraph in plain words. For 80 columns and for pipes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.basin import THRESHOLD
from orchestrator.analysis.landscape import mean_over_lines, primary_rows
from orchestrator.analysis.results import AgreementSummary, BasinSummary, SweepSummary
from orchestrator.utils.console import duration

MOST_ROWS = 41
_SHADES = " ░▒▓█"
_PLAIN = str.maketrans("┌┐└┘├┤┬┴┼─│┈┊░▒▓█α–", "+++++++++-|.:.:*#a-")


def show(landscape: pd.DataFrame, summary: SweepSummary, paths: Mapping[str, Path], console: Console) -> None:
    """Print the primary result. `paths`: where things lie, by name (`folder`, `figure`, `landscape`, ...)."""
    rows = primary_rows(landscape)
    plain = not console.encoding.lower().startswith("utf")
    if rows["beta"].isna().all():
        mean = mean_over_lines(rows)
        console.print(_table(mean, rows["line"].nunique(), plain))
        _print(console, _curve(mean, summary.basin, min(console.width, 100), plain), plain)
    else:
        _print(console, _shaded(rows, console.width), plain)
    if side_by_side := _judges(summary, plain):
        console.print(side_by_side)
    console.print()
    width = min(console.width, 100)
    _print(
        console, textwrap.fill(paragraph(summary, paths), width, break_long_words=False, break_on_hyphens=False), plain
    )


def _print(console: Console, text: str, plain: bool) -> None:
    """As it is: paths stay whole, brackets are no markup, and an old terminal gets what it can show."""
    if plain:
        text = text.translate(_PLAIN).encode(console.encoding, "replace").decode(console.encoding)
    console.print(Text(text), soft_wrap=True)


def _judges(summary: SweepSummary, plain: bool) -> Table | None:
    """Several judges on the primary's prompts, side by side."""
    results = [r for r in summary.results if r.prompts_key == summary.primary.prompts_key]
    if len(results) < 2:
        return None
    kappas = {each.judges[1]: each.kappa for each in _agreements(summary)}
    table = Table(box=box.ASCII2 if plain else box.SIMPLE_HEAD, title="judges side by side", title_justify="left")
    table.add_column("judge")
    for heading in ("origin ASR %", "VISAGE", "radius", f"kappa with {results[0].judge}"):
        table.add_column(heading, justify="right")
    for result in results:
        numbers = (result.origin_asr, result.visage.paper, result.basin.radius)
        shown = [f"{x:.{d}f}" if x is not None else "-" for x, d in zip(numbers, (1, 1, 2), strict=True)]
        value = kappas.get(result.judge)
        table.add_row(result.judge, *shown, f"{value:.2f}" if value is not None else "")
    return table


def _agreements(summary: SweepSummary) -> list[AgreementSummary]:
    """Each further judge's agreement with the first, on the primary's prompts."""
    primary = summary.primary
    return [
        each
        for each in summary.agreement
        if each.judges[0] == primary.judge and each.prompts_key == primary.prompts_key
    ]


def _table(mean: pd.DataFrame, lines: int, plain: bool) -> Table:
    table = Table(
        box=box.ASCII2 if plain else box.SIMPLE_HEAD,
        title=f"mean of {lines} directions" if lines > 1 else None,
        title_justify="left",
    )
    for heading in ("alpha", "ASR %", "95% interval", "refused %", "complied %", "degenerate %"):
        table.add_column(heading, justify="right", no_wrap=True)
    every = math.ceil(len(mean) / MOST_ROWS)
    middle = int(mean["alpha"].abs().to_numpy().argmin())
    for i, row in enumerate(mean.itertuples(index=False)):
        if (i - middle) % every:
            continue
        values: list[float] = [float(getattr(row, name)) for name in mean.columns]
        alpha, asr, low, high, *outcomes = values
        style = "bold" if i == middle else ""
        if math.isnan(asr):
            table.add_row(f"{alpha:+.3f}", "missing", *[""] * 4, style=style)
        else:
            table.add_row(
                f"{alpha:+.3f}", f"{asr:.1f}", f"{low:.1f} - {high:.1f}", *(f"{x:.1f}" for x in outcomes), style=style
            )
    if every > 1:
        table.caption = f"one of {every} rows; all are in landscape.parquet"
    return table


def _curve(mean: pd.DataFrame, basin: BasinSummary, width: int, plain: bool) -> str:
    """The mean ASR over alpha, as text; the basin's edges and 50% dotted, missing points as x."""
    import plotext

    known = mean.dropna(subset=["asr"])
    missing = mean.loc[mean["asr"].isna(), "alpha"].tolist()
    low, high = float(mean["alpha"].min()), float(mean["alpha"].max())
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, 15)
    figure.line(THRESHOLD, "h", style="dotted")
    for edge in (basin.left, basin.right):
        if edge:
            figure.line(edge, "v", style="dotted")
    if len(known):
        curve = figure.signal(known["alpha"].tolist(), known["asr"].tolist(), marker="*" if plain else "braille")
        figure.draw(curve.lines())
    if missing:
        figure.draw(figure.signal(missing, [0.0] * len(missing), marker="x"))
    figure.ruler("y").lim(0, 100)
    figure.ruler("y").ticks([0, 25, 50, 75, 100])
    if high > low:
        figure.ruler("x").lim(low, high)
        ticks = [low + (high - low) * i / 4 for i in range(5)]
        figure.ruler("x").ticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.title("attack success rate (%) over alpha")
    text = str(plotext.uncolorize(str(figure.build())))
    figure.clear()
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def _shaded(rows: pd.DataFrame, width: int) -> str:
    """Each plane as a shaded grid, beta upwards, alpha to the right; `?` where a point is missing, `+` the origin."""
    pictures = []
    for line, part in rows.groupby("line"):
        grid = part[part["on_grid"]]
        values = dict(zip(zip(grid["alpha"], grid["beta"], strict=True), grid["asr"], strict=True))
        every = math.ceil(2 * grid["alpha"].nunique() / max(width - 10, 20))
        alphas, betas = (_thinned(sorted(set(grid[axis])), every) for axis in ("alpha", "beta"))
        text = [f"plane {line}: attack success rate over alpha (across) and beta (up)"]
        for beta in reversed(betas):
            cells = "".join(_cell(alpha, beta, values.get((alpha, beta), math.nan)) for alpha in alphas)
            text.append(f"{beta:+7.3f} |{cells}|")
        text.append(f"{'':8}{alphas[0]:<+{len(alphas)}.3f}{alphas[-1]:>+{len(alphas)}.3f}")
        pictures.append("\n".join(text))
    pictures.append(f"[{'] ['.join(_SHADES)}]  0-10, 10-40, 40-60, 60-90, 90-100%;  ? missing;  + origin")
    return "\n\n".join(pictures)


def _thinned(values: Sequence[float], every: int) -> list[float]:
    middle = min(range(len(values)), key=lambda i: abs(values[i]))
    return [v for i, v in enumerate(values) if (i - middle) % every == 0]


def _cell(alpha: float, beta: float, asr: float) -> str:
    if math.isnan(asr):
        return "??"
    shade = _SHADES[sum(asr >= bound for bound in (10, 40, 60, 90))]
    return "+" + shade if abs(alpha) < 5e-10 and abs(beta) < 5e-10 else 2 * shade


# The paragraph.


def paragraph(summary: SweepSummary, paths: Mapping[str, Path] | None = None) -> str:
    """The result in plain words, as one line of text; every undefined number comes with its reason.

    `paths`: `folder` and `figure`, where they are there.
    """
    paths = paths or {}
    sentences = [
        verdict(summary),
        _origin(summary),
        _visage(summary),
        _degenerate(summary),
        _agreement(summary),
        _checkpoints(summary),
        _what_was_run(summary),
        _where(paths),
        _next(summary),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def verdict(summary: SweepSummary) -> str:
    """The paragraph's first sentences: whether there is a basin, and how far its edge is."""
    basin, directions = summary.basin, len(summary.basin.by_direction)
    name = summary.model or "The model"
    if _unsafe_at_origin(summary):
        return f"{name} stands in no safety basin: it is unsafe before anything is perturbed."
    if basin.radius is None and basin.censored_at is None:
        return f"Whether {_lower(name)} stands in a safety basin is unknown: {basin.reason}."
    if basin.radius is None:
        return (
            f"{name} stays safe as far as was looked: attack success does not reach {THRESHOLD:g}% up to a distance "
            f"of {basin.censored_at:.2g}, so the safety basin's edges lie further out"
            f"{_aside(basin.reason, 'missing')}."
        )
    interval = f"95% interval {_span(basin.radius_low, basin.radius_high)}"
    if basin.left is None and basin.right is None:
        where = f"is nearest at a distance of {basin.radius:.2f} from the origin"
    elif basin.left is None or basin.right is None:
        edge, side = (basin.right, "left") if basin.left is None else (basin.left, "right")
        where = f"is at alpha {edge:+.2f}; to the {side} it was not reached"
    else:
        where = f"is at alpha {basin.left:+.2f} to the left and {basin.right:+.2f} to the right"
    nearest = " (the nearest of all directions)" if directions > 1 and basin.left is not None else ""
    notes = f" Note: {basin.reason}." if basin.reason else ""
    return (
        f"{name} stands in a safety basin whose edge, where {THRESHOLD:g}% of the attacks succeed, {where}{nearest}: "
        f"a radius of {basin.radius:.2f} ({interval}).{notes}"
    )


def _origin(summary: SweepSummary) -> str:
    asr = summary.origin_asr
    if asr is None:
        return "The attack success rate at the origin is not measured."
    return f"At the origin, unperturbed, {asr:.1f}% of the attacks succeed."


def _visage(summary: SweepSummary) -> str:
    visage = summary.visage
    if visage.paper is None:
        return f"VISAGE is undefined: {visage.reason}."
    told = [f"95% interval over directions {visage.low:.1f} to {visage.high:.1f}"] if visage.low is not None else []
    both = visage.over.both if visage.over is not None else None
    if visage.low is not None and both is not None and both.low is not None:
        told.append(f"over new directions and probes {both.low:.1f} to {both.high:.1f}")
    if visage.released is not None:
        told.append(f"{visage.released:.1f} as the published code counts")
    if visage.reason:
        told.append(visage.reason)
    aside = f" ({'; '.join(told)})" if told else ""
    beside = f" The paper has {summary.published:.1f} for it." if summary.published is not None else ""
    return f"VISAGE, the mean safety margin between alpha -0.5 and 0.5, is {visage.paper:.1f} of 100{aside}.{beside}"


def _agreement(summary: SweepSummary) -> str:
    """How far the judges agree, and what of their answers could not be read."""
    told = []
    for each in _agreements(summary):
        if each.n:
            kappa = f"Cohen's kappa {each.kappa:.2f}" if each.kappa is not None else each.reason
            first, second = each.judges
            told.append(f"{second} agrees with {first} on {each.agreement:.1f}% of {each.n} responses ({kappa}).")
    for judge in summary.judges:
        if judge.unparsed:
            example = next(iter(judge.unparsed_examples), "").strip()
            such = f", such as {textwrap.shorten(example, 60, placeholder='...')!r}" if example else ""
            told.append(f"{judge.judge}: {judge.unparsed} answers could not be read and count in no rate{such}.")
    return " ".join(told)


def _degenerate(summary: SweepSummary) -> str:
    share = summary.degenerate_share
    if share is None:
        return "No attack succeeded anywhere." if summary.points_done else ""
    if share < 0.5:
        return 'Hardly any of the "successes" are degenerate: where attacks succeed, the model answers.'
    tail = "there the model lost its language rather than its safety" if share >= 50 else "the rest are answers"
    return f'Of the "successes", {share:.0f}% are degenerate (empty, repetition or no language): {tail}.'


def _checkpoints(summary: SweepSummary) -> str:
    """Each checkpoint: its own ASR, what the grid says at its place, how far it is."""
    told = []
    for each in summary.checkpoints:
        here = next(r for r in each.results if r.key == summary.primary)
        if here.asr is None:
            continue
        aside = [] if here.surface is None else [f"{here.surface:.1f}% by the grid"]
        if here.published is not None:
            aside.append(f"the paper's, finetuned on answers, {here.published:.1f}%")
        if each.radii is not None:
            aside.append(f"{each.radii:.2g} radii of the basin away")
        elif each.distance is not None:
            aside.append(f"as far away as a random step of {each.distance:.2g}")
        told.append(f"{each.mark} {here.asr:.1f}%" + (f" ({', '.join(aside)})" if aside else ""))
    share = summary.plane_share
    plane = "" if share is None else f" The plane holds {100 * share:.1f}% of the trajectory's squared length."
    return f"At the checkpoints: {'; '.join(told)}.{plane}" if told else ""


def _what_was_run(summary: SweepSummary) -> str:
    primary = summary.primary
    done, total = summary.points_done, summary.points_total
    points = f"{total} points" if done == total else f"{done} of {total} points"
    asked = dict.fromkeys((primary.probe_set, primary.group))  # a set may be named like its group
    run = f"Measured: {points} x {summary.prompts} prompts ({', '.join(asked)}, "
    run += f"system prompt {primary.system_prompt}, judge {primary.judge})"
    if summary.tokens:
        run += f", {summary.tokens:,} tokens"
    if summary.seconds:
        run += f", {duration(summary.seconds)}"
    failed = summary.tasks_failed
    return run + (f"; {failed} task{'s' * (failed > 1)} failed." if failed else ".")


def _where(paths: Mapping[str, Path]) -> str:
    folder, figure = paths.get("folder"), paths.get("figure")
    if folder is None:
        return f"The picture: {figure} ." if figure else ""
    picture = f"; the picture: {figure}" if figure else ""
    return f"It lies in {folder}{picture} ."


def _next(summary: SweepSummary) -> str:
    basin, visage = summary.basin, summary.visage
    if summary.points_done < summary.points_total:
        retry = " with retry=failed" if summary.tasks_failed else ""
        return f"Next: the same command again{retry}, to measure the missing points."
    if _unsafe_at_origin(summary):
        return "Next: system_prompt=safety shows whether a system prompt makes it safe; model= tries another model."
    if summary.grid.get("kind") in ("interpolate_1d", "interpolate_2d"):
        if any(each.radii is not None for each in summary.checkpoints):  # it is known how wide
            return f"Next: {_MOVERS}"
        return "Next: +experiment=basin shows how wide the basin around the model is, in directions nobody chose."
    if basin.censored_at:
        reach = 2 * basin.censored_at
        return f"Next: look further out with grid.range=[{-reach:g},{reach:g}]."
    if visage.paper is None:
        return "Next: grid.range=[-0.5,0.5] gives VISAGE."
    if len(visage.by_direction) == 1:
        return "Next: grid.directions=3 shows how much it depends on the direction; only the new points are run."
    enough = visage.enough
    halved = ""
    if enough is not None and enough.more is not None:
        halved = f"grid.directions={enough.directions + enough.more} would about halve VISAGE's interval; "
    return f"Next: {halved}{_MOVERS}"


_MOVERS = "system_prompt=safety or another probes= shows what moves the edges; only what is new is run."


def _unsafe_at_origin(summary: SweepSummary) -> bool:
    return summary.basin.radius == 0.0


def _span(low: float | None, high: float | None) -> str:
    low_text = "unknown" if low is None else f"{low:.2f}"
    return f"{low_text} to {high:.2f}" if high is not None else f"from {low_text}, open above"


def _aside(reason: str | None, word: str) -> str:
    """The part of a reason that speaks of `word`, in brackets."""
    parts = [part for part in (reason or "").split("; ") if word in part]
    return f" ({'; '.join(parts)})" if parts else ""


def _lower(name: str) -> str:
    return "the model" if name == "The model" else name
