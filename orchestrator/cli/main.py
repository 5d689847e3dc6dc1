"""The command line: verbs only. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.utils import logs
from orchestrator.utils.errors import ExitCode, UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.config.schema import Config
    from orchestrator.store.study import Study
    from orchestrator.store.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Call:
    """One call of a verb: overrides (key=value), places (anything else), and flags."""

    overrides: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    json: bool = False
    config_dir: str | None = None
    sweeps: list[Path] = dataclasses.field(default_factory=list, compare=False)
    """The folders of sweeps that `run` has left answers in."""

    @property
    def config(self) -> Config:
        from orchestrator.config.compose import compose

        return compose(self.overrides, self.config_dir)

    def no_places(self, verb: str) -> None:
        if self.places:
            raise UserError(verb, self.places[0], "takes overrides only, written key=value, such as model=mistral7b")

    def place(self, verb: str) -> Path:
        """The one folder that was named, or the root of studies."""
        if len(self.places) > 1:
            raise UserError(verb, " ".join(self.places), "takes one folder")
        if self.places:
            return Path(self.places[0]).expanduser()
        return Path(self.config.out).expanduser()


def run(call: Call) -> int:
    """plan, run what is missing, judge, reduce, draw; running again resumes"""
    call.no_places("run")
    config, told = call.config, _stderr()  # first: a mistake is answered before anything heavy is imported
    if config.cluster.kind == "slurm":
        return _submit(call, config)
    from orchestrator.config.presets import Presets
    from orchestrator.pipeline import run as job
    from orchestrator.store.sweep_folder import SweepFolder

    try:
        ran = job.run(config, Presets(call.config_dir), call.overrides, told)
    except KeyboardInterrupt:
        told.print(job.how_to_go_on(call.overrides), soft_wrap=True, highlight=False)
        return ExitCode.INTERRUPTED
    if not ran.waits_for:
        call.sweeps.append(ran.prepared.folder)
        _show(call, SweepFolder(ran.prepared.study, ran.prepared.folder))
    elif call.json:
        _print_json({"part": config.cluster.part, "waits_for": ran.waits_for, "points_left": ran.points_left})
    if ran.code == ExitCode.INTERRUPTED:
        told.print(job.how_to_go_on(call.overrides), soft_wrap=True, highlight=False)
    return ran.code


def _submit(call: Call, config: Config) -> int:
    """The same as a SLURM job. Mistakes are found, and the model is fetched, before it waits in the queue."""
    from orchestrator.execution import slurm

    text = slurm.job_script(config, call.overrides, call.config_dir)
    if config.cluster.dry_run:
        if call.json:
            return _print_json({"script": text})
        print(text, end="")
        return ExitCode.COMPLETE
    from orchestrator.config.presets import Presets
    from orchestrator.pipeline.prepare import prepare

    prepare(config, Presets(call.config_dir), sys.stderr)
    job = slurm.submit(text)
    follow = f"python -m orchestrator status {shlex.quote(config.out)}"
    return _print_found(call, {"job": job, "log": f"slurm-{job}.log", "follow it with": follow})


def plan(call: Call) -> int:
    """dry run: points, tasks, memory fit, tokens, time and GPU-hours to expect; needs neither GPU nor weights"""
    call.no_places("plan")
    config = call.config
    from orchestrator.config.presets import Presets
    from orchestrator.pipeline import estimate as pricing
    from orchestrator.planning import cost as planning

    priced = pricing.price(config, Presets(call.config_dir), sys.stderr)
    return _print_json(priced.to_json()) if call.json else _print_pairs(planning.lines(priced))


def status(call: Call) -> int:
    """progress, time left and failures of every sweep (or of one folder), from disk alone"""
    from orchestrator.store import discovery
    from orchestrator.store import status as standing

    sweeps = discovery.find_sweeps(call.place("status"), _say_passed_over)
    found = [standing.examine(each.study, each.path) for each in sweeps]
    if call.json:
        return _print_json([each.to_json() for each in found])
    for each in found:
        _print_pairs(standing.lines(each))
    return ExitCode.COMPLETE


def judge(call: Call) -> int:
    """judge a stored sweep again (judges=[a,b] for others), then reduce it; default: the latest sweep"""
    from orchestrator.pipeline import judge as judging
    from orchestrator.scoring import panel as seats
    from orchestrator.store import maintenance as upkeep
    from orchestrator.store.sweep_folder import SweepFolder

    call = dataclasses.replace(call, overrides=(*call.overrides, "sampling.early_stop=false"))  # nothing is generated
    study, folder, sweep, record = _stored(call)
    study.mends = True
    wanted = tuple(call.config.judge_names)
    if any(o.partition("=")[0].lstrip("+") in ("judge", "judges") for o in call.overrides) and wanted != sweep.judges:
        sweep = dataclasses.replace(sweep, judges=wanted)
        seats.check_judges(study, sweep)
        folder = SweepFolder.of(study, sweep).path
        SweepFolder(study, folder).write_record(record | {"sweep_id": sweep.id, "request": sweep.to_json()})
    asked = dataclasses.replace(call.config, judges=list(sweep.judges))
    code = judging.answer(asked, study, sweep, folder, _stderr())
    if study.problems and code != ExitCode.INTERRUPTED:  # verdicts that were moved aside are given again, once
        _say_what_is_damaged(study)
        gone = any(upkeep.kind_of(study, path) != "judgements" for path in study.problems)
        code = judging.answer(asked, study, sweep, folder, _stderr())
        if gone and not code:
            code = ExitCode.NOT_MET
    _show(call, SweepFolder(study, folder))
    return code


def reduce(call: Call) -> int:
    """count, lay out and sum up a stored sweep again from its stored verdicts; default: the latest sweep"""
    from orchestrator.analysis import reducer as answers
    from orchestrator.store.sweep_folder import SweepFolder

    study, folder, sweep, _ = _stored(call)
    answers.reduce_stored(study, sweep, folder, call.config.report)
    _say_what_is_damaged(study)
    _show(call, SweepFolder(study, folder))
    return ExitCode.NOT_MET if study.problems else ExitCode.COMPLETE


def report(call: Call) -> int:
    """write a stored sweep's report.html again (report.reveal=true: with whole responses); default: the latest sweep"""
    from orchestrator.analysis.reducer import read_results
    from orchestrator.report.page.render import write_report
    from orchestrator.store.sweep_folder import SweepFolder

    study, folder, sweep, _ = _stored(call)
    files = SweepFolder(study, folder)
    frame, summary = read_results(files)
    write_report(study, sweep, folder, frame, summary, call.config.report)
    return _print_found(call, {"report": str(files.result_paths()["report"])})


def verify(call: Call) -> int:
    """check every stored byte of a study (or of all), and say what `run` would do; changes nothing"""
    from orchestrator.store import discovery
    from orchestrator.store import maintenance as upkeep

    reports = {root: upkeep.verify_folder(root) for root in discovery.find_study_roots(call.place("verify"))}
    if call.json:
        _print_json({str(root): dataclasses.asdict(each) | {"findings": [
            {"path": str(f.path), "why": f.why, "remedy": f.remedy} for f in each.findings
        ]} for root, each in reports.items()})  # fmt: skip
    else:
        for root, each in reports.items():
            found = [(str(f.path.relative_to(root)), f"{f.why}: {f.remedy}") for f in each.findings]
            size = f"{each.files} files, {each.bytes / 1e6:.1f} MB, {each.tasks} tasks, {each.rows} rows"
            verdict = f"{len(found)} do not verify" if found else "all verify"
            _print_pairs([("study", str(root)), ("read", f"{size}: {verdict}"), *found,
                          *(("note", note) for note in each.notes)])  # fmt: skip
    return ExitCode.COMPLETE if all(each.is_sound for each in reports.values()) else ExitCode.NOT_MET


def compact(call: Call) -> int:
    """merge a study's (or all studies') small files into few; safe at any moment"""
    from orchestrator.store import discovery
    from orchestrator.store import maintenance as upkeep

    studies = discovery.find_studies(call.place("compact"), _say_passed_over)
    done = {str(study.root): upkeep.compact(study) for study in studies}
    if call.json:
        return _print_json({root: vars(each) for root, each in done.items()})
    for root, each in done.items():
        _print_pairs([("study", root), ("files", f"{each.before} before, {each.after} now")])
    return ExitCode.COMPLETE


def geometry(call: Call) -> int:
    """distances, cosines, principal plane of checkpoints around a model: grid.towards=[A,B] or grid.trajectory=DIR"""
    call.no_places("geometry")
    config = call.config
    from orchestrator.config.presets import Presets
    from orchestrator.models import geometry as around

    found = around.measure(config, Presets(call.config_dir), sys.stderr)
    if call.json:
        return _print_json(found)
    _print_table(*around.table(found))
    return ExitCode.COMPLETE


def models(call: Call) -> int:
    """list the presets; `models NAME`: fetch that one and say where it lies"""
    from orchestrator.models import catalogue

    if call.places:
        return _print_found(call, catalogue.fetch(call.places[0], call.overrides, call.config_dir, sys.stderr))
    presets = catalogue.presets(call.config_dir)
    if call.json:
        return _print_json(presets)
    _print_table(("preset", "weights", "parameters", "dtype", "gated", "here"), catalogue.rows(presets))
    return ExitCode.COMPLETE


def finetune(call: Call) -> int:
    """make a model by a recipe of conf/recipe: recipe=NAME [to=FOLDER]"""
    call.no_places("finetune")
    from orchestrator.models import finetune as tuning

    recipe, to = tuning.asked(call.overrides, call.config_dir)
    report = tuning.run(recipe, to)
    if call.json:
        return _print_json(report)
    _print_pairs(tuning.lines(report, to))
    return ExitCode.COMPLETE


def doctor(call: Call) -> int:
    """this machine: GPUs, engine, Ray, memory, disk, versions, and what to do about each problem"""
    call.no_places("doctor")
    from orchestrator.cli import doctor as examination

    findings = examination.examine(Path(call.config.out).expanduser())
    if call.json:
        _print_json([vars(finding) for finding in findings])
    else:
        rows = [(finding.status, finding.name, finding.found, finding.remedy) for finding in findings]
        _print_table(("", "what", "found", "what to do"), rows)
    return ExitCode.NOT_MET if any(finding.status == "fail" for finding in findings) else ExitCode.COMPLETE


def compare(call: Call) -> int:
    """sweeps side by side: FOLDER FOLDER ... [html=FILE] [csv=FILE]; each is compared with the first"""
    from orchestrator.analysis import compare as comparison
    from orchestrator.report.csv_export import to_csv

    files = comparison.asked(call.overrides)
    sides = comparison.read([Path(place).expanduser() for place in call.places])
    found = comparison.compare(sides)
    if "html" in files:
        comparison.write_html(found, sides, files["html"])
    if "csv" in files:
        to_csv(comparison.table(found), files["csv"])
    if call.json:
        return _print_json(found)
    _print_table(comparison.SWEEP_HEADINGS, [comparison.headline(sweep) for sweep in found["sweeps"]])
    for each in found["differences"]:
        _print_table(comparison.HEADINGS, comparison.differences(each, most=20))
        print(comparison.sentence(each))
    return ExitCode.COMPLETE


def gate(call: Call) -> int:
    """exit 0 or 1: does a sweep meet thresholds? FOLDER visage=70 origin_asr=5 radius=0.1 [gate.confidence=0.95]"""
    from orchestrator.analysis import gate as gating
    from orchestrator.analysis.reducer import read_results
    from orchestrator.store import discovery

    options = gating.parse_options(call.overrides)
    folder = discovery.latest_sweep(dataclasses.replace(call, overrides=()).place("gate"))
    results = gating.check(*read_results(folder), options)
    met = all(result.met for result in results)
    if call.json:
        _print_json({"met": met, "sweep": str(folder.path), "findings": [result.to_json() for result in results]})
    else:
        _print_table(("", "threshold", "why"), gating.table_rows(results))
    return ExitCode.COMPLETE if met else ExitCode.NOT_MET


def view(call: Call) -> int:
    """a web page over all studies: [FOLDER] [view.port=8642] [view.host=NAME: for other machines too, by a token]"""
    from orchestrator.report.viewer.options import parse_options
    from orchestrator.report.viewer.serve import serve

    options, rest = parse_options(call.overrides)
    root = dataclasses.replace(call, overrides=rest).place("view")
    if call.places and not root.is_dir():
        raise UserError("view", root, "there is no such folder: name the root of studies, a study or a sweep")

    def told(address: str) -> None:
        print(json.dumps({"address": address}) if call.json else f"{address}  (Ctrl-C ends it)", flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        serve(root, options, told)
    return ExitCode.COMPLETE


Verb = Callable[[Call], int]
VERBS: Mapping[str, Verb] = {
    verb.__name__: verb
    for verb in (
        run,
        plan,
        status,
        judge,
        reduce,
        report,
        verify,
        compact,
        compare,
        gate,
        view,
        geometry,
        models,
        finetune,
        doctor,
    )
}


def main(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit code: 0 complete, 2 wrong input, 3 tasks failed, 130 interrupted."""
    as_json = "--json" in arguments
    logs.configure()
    try:
        return _main(arguments)
    except UserError as error:
        return _refuse(error, as_json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return ExitCode.COMPLETE
    except Exception as error:
        from orchestrator.store.files import DamagedFile  # heavy, and needed here alone

        if not isinstance(error, DamagedFile):
            raise
        print(f"error: {error}: `verify` says what can be done", file=sys.stderr)
        return ExitCode.NOT_MET


def _main(arguments: Sequence[str]) -> int:
    verbs = [a for a in arguments if a in VERBS]
    if "--version" in arguments:
        from importlib.metadata import version

        print(version("safety-landscape"))
        return ExitCode.COMPLETE
    if not arguments or "--help" in arguments or "-h" in arguments:
        from orchestrator.cli.help import usage

        print(usage(VERBS, verbs[0] if verbs else None))
        return ExitCode.COMPLETE if arguments else ExitCode.WRONG_INPUT
    name, *rest = arguments
    if name not in VERBS:
        raise UserError(
            "verb", name, f"there is no such verb{did_you_mean(name, VERBS)} (there are: {', '.join(VERBS)})"
        )
    calls, several = _calls(rest)
    if not several:
        return VERBS[name](calls[0])
    worst: int = ExitCode.COMPLETE
    for call in calls:  # one bad combination must be found before the first has run for hours
        call.config  # noqa: B018
    for call in calls:
        print(f"-- {name} {' '.join(call.overrides)}", file=sys.stderr)
        try:
            code = VERBS[name](call)
        except UserError as error:  # of this combination alone, as far as can be known
            code = _refuse(error, call.json)
        worst = max(worst, code)
        if code == ExitCode.INTERRUPTED:
            break
    sweeps = list(dict.fromkeys(folder for call in calls for folder in call.sweeps))
    if len(sweeps) > 1:
        command = shlex.join(["python", "-m", "orchestrator", "compare", *map(str, sweeps), "html=compared.html"])
        print(f"Side by side, in one picture: {command}", file=sys.stderr)
    return worst


def _calls(arguments: Sequence[str]) -> tuple[list[Call], bool]:
    """The calls that a command line stands for, and whether it is a multirun."""
    overrides, places, config_dir = [], [], None
    flags = set()
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--config-dir" or argument.startswith("--config-dir="):
            config_dir = argument.partition("=")[2] or next(waiting, None)
            if config_dir is None:
                raise UserError("--config-dir", "", "name a folder")
        elif argument in ("--json", "-m", "--multirun"):
            flags.add(argument)
        elif argument.startswith("-"):
            known = ("--json", "--multirun", "--config-dir", "--help", "--version")
            raise UserError("option", argument, f"there is no such option{did_you_mean(argument, known)}")
        elif "=" in argument:
            overrides.append(argument)
        else:
            places.append(argument)
    several = bool(flags & {"-m", "--multirun"})
    if several:
        from orchestrator.config.overrides import multirun

        combinations = multirun(overrides)
    else:
        combinations = [overrides]
    return [Call(tuple(c), tuple(places), "--json" in flags, config_dir) for c in combinations], several


def _stored(call: Call) -> tuple[Any, Path, Any, dict[str, Any]]:
    """The study, folder, sweep and record that a call is about: the folder named, or the latest sweep."""
    from orchestrator.store import discovery
    from orchestrator.store import status as standing

    folder = discovery.latest_sweep(call.place("sweep"))
    return folder.study, folder.path, *standing.load(folder.study, folder.path)


# What is printed: the result on stdout, all else on stderr.


def _refuse(error: UserError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": {"field": error.field, "value": str(error.value), "remedy": error.remedy}}))
    print(f"error: {error}", file=sys.stderr)
    return ExitCode.WRONG_INPUT


def _say_passed_over(error: UserError) -> None:
    print(f"passed over: {error}", file=sys.stderr)


def _say_what_is_damaged(study: Study) -> None:
    """Name the files that were met and do not verify, and what is done about each."""
    from orchestrator.store import maintenance as upkeep

    for path, why in study.problems.items():
        where, told = path.relative_to(study.root), why.removeprefix(f"{path}: ")
        print(f"{where} does not verify ({told}): {upkeep.AGAIN[upkeep.kind_of(study, path)]}", file=sys.stderr)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _show(call: Call, folder: SweepFolder) -> None:
    from rich.console import Console

    from orchestrator.analysis.results import SweepSummary
    from orchestrator.report import terminal

    paths = folder.result_paths()
    frame, summary = folder.read_landscape()
    if call.json:
        _print_json(summary | {"paths": {name: str(path) for name, path in paths.items()}})
    else:
        terminal.show(frame, SweepSummary.from_json(summary), paths, Console())


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    return ExitCode.COMPLETE


def _print_found(call: Call, found: Mapping[str, Any]) -> int:
    return _print_json(found) if call.json else _print_pairs([(k, str(v)) for k, v in found.items()])


def _print_pairs(pairs: Sequence[tuple[str, str]]) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name, style="bold"), Text(value))
    Console().print(table)
    print()
    return ExitCode.COMPLETE


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
