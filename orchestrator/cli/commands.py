"""The verbs (subcommands): each function runs one, prints its result and returns the exit code.

A verb's docstring is its line in `--help`. Heavy modules are imported by the verb that needs them, after the call was
checked, so that mistakes in the call are reported at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import documents
from orchestrator.cli.call import Call
from orchestrator.cli.documents import stamped
from orchestrator.cli.output import print_json, print_pairs, print_record, print_results, print_table, stderr_console
from orchestrator.utils.command_line import command_line
from orchestrator.utils.errors import ExitCode, UserError
from orchestrator.utils.paths import expanded, writing
from orchestrator.utils.private import replaced_session_root

if TYPE_CHECKING:
    from orchestrator.config.schema import Config, ReportConfig, VerifyConfig
    from orchestrator.store.study import Study
    from orchestrator.store.sweep_folder import StoredSweep
    from orchestrator.store.verification import VerificationReport

logger = logging.getLogger(__name__)

JUDGE_OPTIONS = ("judge", "judges", "judge.path", "judging.file")
"""The options that select judges."""

HUMAN = "human"
"""The judge of verdicts of people."""


def run(call: Call) -> int:
    """Run the tasks of a sweep that are not stored yet, then judge, reduce and draw it. Repeat it to resume."""
    call.check_only_overrides("run")
    config = call.config  # first, so that mistakes are reported before anything heavy is imported
    if config.cluster.kind == "slurm":
        return _submit(call, config)
    from orchestrator.config.presets import Presets
    from orchestrator.pipeline.run import resume_hint
    from orchestrator.pipeline.run import run as run_sweep

    try:
        result = run_sweep(config, Presets(call.config_dir), call.overrides, stderr_console())
    except KeyboardInterrupt:
        logger.warning("%s", resume_hint(call.overrides, call.config_dir))
        return ExitCode.INTERRUPTED
    if not result.waits_for:
        call.sweeps.append(result.stored.folder.path)
        print_results(result.stored.folder, call.json)
    elif call.json:
        part = documents.Part(part=config.cluster.part, waits_for=result.waits_for, points_left=result.points_left)
        print_json(part.to_json())
    if result.code == ExitCode.INTERRUPTED:
        logger.warning("%s", resume_hint(call.overrides, call.config_dir))
    return result.code


def _submit(call: Call, config: Config) -> int:
    """Submit `run` as a SLURM job, after checking the request and downloading the model and the judges' models."""
    from orchestrator.execution import slurm

    text = slurm.job_script(config, call.overrides, call.config_dir)
    if config.cluster.dry_run:
        if call.json:
            print_json(documents.Script(script=text).to_json())
            return ExitCode.COMPLETE
        print(text, end="")
        return ExitCode.COMPLETE
    slurm.find_sbatch()  # before anything is fetched
    from orchestrator.config.presets import Presets
    from orchestrator.pipeline.growth import check_goals
    from orchestrator.pipeline.judge import fetch_model_judges
    from orchestrator.pipeline.prepare import prepare

    check_goals(prepare(config, Presets(call.config_dir)))
    fetch_model_judges(config)
    job = slurm.submit(text, private=config.study.mode == "private")
    follow = command_line("status", config.out)
    print_record(documents.Job(job=job, log=f"slurm-{job}.log", command=follow), call.json)
    return ExitCode.COMPLETE


def plan(call: Call) -> int:
    """Estimate points, tasks, memory, tokens, time and GPU-hours, without GPU or weights."""
    call.check_only_overrides("plan")
    config = call.config
    from orchestrator.cli.plan_table import plan_rows
    from orchestrator.config.presets import Presets
    from orchestrator.pipeline.estimate import estimate_sweep

    estimated = estimate_sweep(config, Presets(call.config_dir))
    if config.cluster.kind == "local" and (note := replaced_session_root()):
        logger.warning("%s", note)
    if call.json:
        print_json(stamped(documents.PLAN, estimated.to_json()))
    else:
        print_pairs(plan_rows(estimated))
    return ExitCode.COMPLETE


def status(call: Call) -> int:
    """Show progress, time left and failures of every sweep, or of those in [FOLDER]."""
    from orchestrator.analysis.requested import requested
    from orchestrator.store import discovery
    from orchestrator.store.status import examine, lines
    from orchestrator.store.sweep_folder import StoredSweep

    sweeps = discovery.find_sweeps(call.folder("status"), _warn_skipped)
    opened = [StoredSweep.open(folder) for folder in sweeps]
    states = [examine(stored, requested(stored).tasks) for stored in opened]
    if call.json:
        print_json([stamped(documents.STATUS, state.to_json()) for state in states])
        return ExitCode.COMPLETE
    for state in states:
        print_pairs(lines(state))
    return ExitCode.COMPLETE


def judge(call: Call) -> int:
    """Judge the latest sweep, or [SWEEP], again: [judges=[a,b]] [export=FILE] [verdicts=FILE] [calibrate=FILE]."""
    from orchestrator.config.overrides import split_section
    from orchestrator.pipeline.calibrate import calibrate, read_labels
    from orchestrator.pipeline.human import import_verdicts
    from orchestrator.pipeline.rejudge import rejudge, with_judges

    own_options, other_options = split_section(call.overrides, "judging")
    overrides = (*own_options, *other_options, "sampling.early_stop=false")  # nothing is generated
    call = dataclasses.replace(call, overrides=overrides)
    stored = _stored(call)
    options = call.config.judging
    if options.export is not None:
        return _export(call, stored)
    labels = None if options.calibrate is None else read_labels(expanded(options.calibrate))
    if any(override.partition("=")[0].lstrip("+") in JUDGE_OPTIONS for override in call.overrides):
        stored = with_judges(stored, tuple(call.config.judge_names))
    if options.verdicts is not None:
        imported = import_verdicts(stored, expanded(options.verdicts), options.annotator)
        logger.info("%d new verdicts of people", imported)
        if HUMAN not in stored.sweep.judges:
            stored = with_judges(stored, (*stored.sweep.judges, HUMAN))
    if labels is not None:
        calibrate(stored, labels)
    code = rejudge(call.config, stored, stderr_console(), call.overrides, call.config_dir)
    print_results(stored.folder, call.json)
    return code


def _export(call: Call, stored: StoredSweep) -> int:
    """Write the responses of a sweep that nobody has judged to a CSV file."""
    from orchestrator.pipeline.human import export_responses

    options = call.config.judging
    assert options.export is not None
    path = expanded(options.export)
    rows = export_responses(stored, path, options.rows, options.seed)
    print_record(documents.Responses(file=str(path), responses=rows), call.json)
    return ExitCode.COMPLETE


def reduce(call: Call) -> int:
    """Compute landscape and summary of the latest sweep, or [SWEEP], from its stored verdicts."""
    from orchestrator.pipeline.reduce import judge_coherence_and_reduce
    from orchestrator.store.verification import log_damage

    stored = _stored(call)
    judge_coherence_and_reduce(stored, call.config.report)
    log_damage(stored.study)
    print_results(stored.folder, call.json)
    return ExitCode.NOT_MET if stored.study.problems else ExitCode.COMPLETE


def report(call: Call) -> int:
    """Write report.html of the latest sweep with results, or of [SWEEP]; report.reveal=true shows whole responses."""
    from orchestrator.analysis.recomputation import checked_results
    from orchestrator.report.page.render import write_report
    from orchestrator.report.terminal import print_links
    from orchestrator.store.discovery import latest_results
    from orchestrator.store.sweep_folder import StoredSweep
    from orchestrator.utils.safe_console import SafeConsole

    stored = StoredSweep.open(latest_results(call.folder("report")))
    results = checked_results(stored)
    for remark in results.remarks:
        logger.warning("%s: %s: `reduce` computes them again", stored.folder.path.name, remark)
    write_report(stored, *results.parsed(), call.config.report)
    paths = stored.folder.result_paths()
    if call.json:
        print_json(documents.Report(report=str(paths["report"])).to_json())
    else:
        print_links(paths, SafeConsole())
    return ExitCode.COMPLETE


def verify(call: Call) -> int:
    """Check every stored byte and number of all studies, or of those in [FOLDER]: [signers=FILE signature=FILE]."""
    from orchestrator.analysis.verification import verify_study
    from orchestrator.config.overrides import split_section
    from orchestrator.store import discovery
    from orchestrator.utils.console import file_progress

    options, others = split_section(call.overrides, "verify")
    call = dataclasses.replace(call, overrides=(*options, *others))
    roots = discovery.find_study_roots(call.folder("verify"))
    reports: dict[Path, VerificationReport] = {}
    for root in roots:
        with file_progress(root.name) as progress:
            reports[root] = verify_study(root, progress)
    _check_signature(call.config.verify, reports)
    if call.json:
        print_json({str(root): stamped(documents.VERIFICATION, dataclasses.asdict(result)) | {"findings": [
            {"path": str(f.path), "why": f.why, "remedy": f.remedy} for f in result.findings
        ]} for root, result in reports.items()})  # fmt: skip
    else:
        for root, result in reports.items():
            findings = [
                (str(f.path.relative_to(root) if f.path.is_relative_to(root) else f.path), f"{f.why}: {f.remedy}")
                for f in result.findings
            ]
            size = f"{result.files} files, {result.bytes / 1e6:.1f} MB, {result.tasks} tasks, {result.rows} rows"
            verdict = f"{len(findings)} do not verify" if findings else "all verify"
            signed = [("signed by", result.signer)] if result.signer is not None else []
            print_pairs([("study", str(root)), ("read", f"{size}: {verdict}"), *signed,
                          ("results", f"recomputed from the rows, sweeps: {result.results}"), *findings,
                          *(("note", note) for note in [*result.notes, *result.unchecked])])  # fmt: skip
    return ExitCode.COMPLETE if all(result.is_sound for result in reports.values()) else ExitCode.NOT_MET


def _check_signature(options: VerifyConfig, reports: Mapping[Path, VerificationReport]) -> None:
    """Check the signature of the one study in `reports`, if the options name signers, and add what is found."""
    from orchestrator.store import signatures

    if options.signers is None:
        if options.signature is not None:
            remedy = "name the file with the keys that you trust too: signers=FILE"
            raise UserError(signatures.SIGNATURE_FIELD, options.signature, remedy)
        return
    if len(reports) > 1:
        remedy = f"a signature belongs to one study, and there are {len(reports)}: name the study's folder"
        raise UserError(signatures.SIGNERS_FIELD, options.signers, remedy)
    for root, report in reports.items():
        signature = signatures.signature_path(root) if options.signature is None else expanded(options.signature)
        signers = expanded(options.signers)
        report.signer, findings = signatures.check_signature(root, signature, signers)
        report.findings += findings


def compact(call: Call) -> int:
    """Merge the small files of all studies, or of those in [FOLDER]. Safe at any moment."""
    from orchestrator.store import discovery
    from orchestrator.store.compaction import Compacted
    from orchestrator.store.compaction import compact as compact_study
    from orchestrator.utils.console import file_progress

    done: dict[str, Compacted] = {}
    for study in discovery.find_studies(call.folder("compact"), _warn_skipped):
        with file_progress(study.root.name) as progress:
            done[str(study.root)] = compact_study(study, progress)
    if call.json:
        print_json({root: stamped(documents.COMPACTION, vars(result)) for root, result in done.items()})
        return ExitCode.COMPLETE
    for root, result in done.items():
        print_pairs([("study", root), ("files", f"{result.before} before, {result.after} now")])
    return ExitCode.COMPLETE


def geometry(call: Call) -> int:
    """Measure distances, cosines and the principal plane of checkpoints: grid.towards=[A,B]."""
    call.check_only_overrides("geometry")
    config = call.config
    from orchestrator.config.presets import Presets
    from orchestrator.models.geometry import describe, table

    description = describe(config, Presets(call.config_dir))
    if call.json:
        print_json(documents.Geometry.from_json(description).to_json())
        return ExitCode.COMPLETE
    print_table(*table(description))
    return ExitCode.COMPLETE


def models(call: Call) -> int:
    """List the model presets; `models NAME` downloads one and prints its folder."""
    from orchestrator.models import catalog

    if call.positional:
        model = catalog.fetch(call.positional[0], call.overrides, call.config_dir)
        if call.json:
            print_json(stamped(documents.MODEL, model))
        else:
            print_pairs([(key, str(value)) for key, value in model.items()])
        return ExitCode.COMPLETE
    presets = catalog.presets(call.config_dir)
    if call.json:
        print_json([documents.Preset.from_json(preset).to_json() for preset in presets])
        return ExitCode.COMPLETE
    print_table(("preset", "weights", "parameters", "dtype", "gated", "here"), catalog.rows(presets))
    return ExitCode.COMPLETE


def finetune(call: Call) -> int:
    """Finetune a model by a recipe of conf/recipe: recipe=NAME [to=FOLDER]."""
    call.check_only_overrides("finetune")
    from orchestrator.config.compose import compose
    from orchestrator.config.overrides import split_section
    from orchestrator.models.finetune import report_lines, run_recipe
    from orchestrator.models.recipes import read_recipe

    options, fields = split_section(call.overrides, "finetune")
    recipe, to = read_recipe(compose(options).finetune, fields, call.config_dir)
    report = run_recipe(recipe, to, config_dir=call.config_dir)
    if call.json:
        print_json(documents.Finetuning.from_json(report).to_json())
        return ExitCode.COMPLETE
    print_pairs(report_lines(report, to))
    return ExitCode.COMPLETE


def doctor(call: Call) -> int:
    """Check this machine's GPUs, engine, memory, disk and versions, and say what to fix."""
    call.check_only_overrides("doctor")
    from orchestrator.cli import doctor as examination
    from orchestrator.store.working_copy import open_root

    findings = examination.examine(open_root(call.config.out))
    if call.json:
        print_json([stamped(documents.FINDING, vars(finding)) for finding in findings])
    else:
        rows = [(finding.status, finding.name, finding.found, finding.remedy) for finding in findings]
        print_table(("", "what", "found", "what to do"), rows)
    return ExitCode.NOT_MET if any(finding.status == "fail" for finding in findings) else ExitCode.COMPLETE


def compare(call: Call) -> int:
    """Compare sweeps with the first one: SWEEP SWEEP ... [html=FILE] [csv=FILE] [latex=FILE]."""
    from orchestrator.analysis.comparison.compare import compare
    from orchestrator.analysis.comparison.sweeps import read_sweeps
    from orchestrator.report.comparison import (
        DIFFERENCE_HEADINGS,
        SWEEP_HEADINGS,
        describe,
        difference_rows,
        latex_table,
        point_table,
        sweep_row,
        write_page,
    )
    from orchestrator.report.csv_export import to_csv

    files = _section_config(call, "compare").compare
    sweeps = read_sweeps(call.folders("compare"))
    comparison = compare(sweeps)
    if files.html is not None:
        with writing("compare.html", page := expanded(files.html)):
            write_page(comparison, sweeps, page)
    if files.csv is not None:
        with writing("compare.csv", sheet := expanded(files.csv)):
            to_csv(point_table(comparison), sheet)
    if files.latex is not None:
        with writing("compare.latex", tables := expanded(files.latex)):
            tables.write_text(latex_table(comparison), encoding="utf-8")
    if call.json:
        print_json(comparison.to_json())
    else:
        print_table(SWEEP_HEADINGS, [sweep_row(sweep) for sweep in comparison.sweeps])
        for pair in comparison.differences:
            print_table(DIFFERENCE_HEADINGS, difference_rows(pair, most=20))
            print(describe(pair))
    unsound = [f"{sweep.name}: {sentence}" for sweep in sweeps for sentence in sweep.unsound]
    for sentence in unsound:
        logger.warning("%s: `reduce` writes it again; the comparison uses what the rows give", sentence)
    return ExitCode.NOT_MET if unsound else ExitCode.COMPLETE


def export(call: Call) -> int:
    """Write the latest sweep with results, or [SWEEP], for other tools: inspect|jsonl|harmbench|latex|vtp [to=PATH]."""
    from orchestrator.report.exports.formats import export as write
    from orchestrator.report.exports.formats import get_format
    from orchestrator.store.discovery import latest_results
    from orchestrator.store.sweep_folder import StoredSweep

    options = _section_config(call, "export").export
    if not call.positional:
        raise UserError("export", "", "name a format: inspect, jsonl, harmbench, latex or vtp")
    name, *folders = call.positional
    get_format(name)
    folder = latest_results(dataclasses.replace(call, positional=tuple(folders), overrides=()).folder("export"))
    written = write(StoredSweep.open(folder), name, None if options.to is None else expanded(options.to))
    print_record(documents.Export(format=name, sweep=str(folder.path), written=str(written)), call.json)
    return ExitCode.COMPLETE


def gate(call: Call) -> int:
    """Exit with 0 if a sweep meets thresholds, else 1: SWEEP visage=70 margin=40 radius=0.1 [sign=KEY] [junit=FILE]."""
    from orchestrator.analysis.gate import GateOptions, GateResult, check, table_rows
    from orchestrator.analysis.recomputation import recompute
    from orchestrator.config.overrides import section_only
    from orchestrator.report.junit import write_junit
    from orchestrator.store import discovery
    from orchestrator.store.signatures import check_key
    from orchestrator.store.sweep_folder import StoredSweep
    from orchestrator.store.verification import log_damage

    order = [text.partition("=")[0].removeprefix("gate.") for text in section_only(call.overrides, "gate")]
    config = _section_config(call, "gate").gate
    options = GateOptions.from_config(config, order)
    key = None if config.sign is None else expanded(config.sign)
    if key is not None:
        check_key(key)
    folder = discovery.latest_results(dataclasses.replace(call, overrides=()).folder("gate"))
    recomputed = recompute(StoredSweep.open(folder))
    log_damage(folder.study)
    results = check(recomputed.landscape, recomputed.summary, options)
    unsound = [f"{file}: {why}" for file, why in recomputed.differences_by_file().items()]
    all_met = all(result.met for result in results) and not unsound
    if config.junit is not None:
        write_junit(results, unsound, folder.path, expanded(config.junit))
    signature = _sign(folder.study, key) if key is not None and all_met else None
    if call.json:
        result = GateResult(
            met=all_met,
            sweep=str(folder.path),
            findings=tuple(results),
            unsound=tuple(unsound),
            unchecked=tuple(recomputed.unchecked),
            signature=None if signature is None else str(signature),
        )
        print_json(result.to_json())
    else:
        rows = [("UNSOUND", "", sentence) for sentence in unsound]
        print_table(("", "threshold", "why"), [*rows, *table_rows(results)])
        for remark in recomputed.unchecked:
            print(f"{folder.path.name}: {remark}; the gate checks those that its rows give")
        if signature is not None:
            print_pairs([("signed", str(signature))])
    if key is not None and signature is None:
        logger.warning("the study is not signed: %s", "see `verify`" if all_met else "the gate is not met")
        return ExitCode.NOT_MET
    return ExitCode.COMPLETE if all_met else ExitCode.NOT_MET


def _sign(study: Study, key: Path) -> Path | None:
    """Sign a study and return the path of the signature; None if something in the study does not verify."""
    from orchestrator.analysis.verification import verify_study
    from orchestrator.store.signatures import sign

    return sign(study, key) if verify_study(study.root).is_sound else None


def view(call: Call) -> int:
    """Show all studies, or those in [FOLDER], in a browser: [port=8642] [host=ADDRESS]; or write them: bundle=DIR."""
    from orchestrator.config.overrides import split_section
    from orchestrator.report.viewer.options import ViewerOptions
    from orchestrator.report.viewer.serve import serve
    from orchestrator.store.discovery import check_readable, find_study_roots
    from orchestrator.store.working_copy import containing

    view_options, other_options = split_section(call.overrides, "view")
    call = dataclasses.replace(call, overrides=(*view_options, *other_options))
    config, root = call.config, call.folder("view")
    options = ViewerOptions.from_config(config.view, config.report.reveal)
    if call.positional and not root.is_dir():
        raise UserError("view", root, "there is no such folder: name the root of studies, a study or a sweep")
    check_readable(root)
    if call.positional and containing(root) is not None:
        find_study_roots(root)  # a bucket has no empty folders

    if config.view.bundle is not None:
        return _write_bundle(root, config.view.bundle, config.report, call.json)

    def print_address(address: str) -> None:
        line = json.dumps(documents.View(address=address).to_json()) if call.json else f"{address}  (Ctrl-C ends it)"
        print(line, flush=True)

    # SIGTERM ends the viewer as Ctrl-C does, so that its temporary files are removed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        serve(root, options, print_address)
    return ExitCode.COMPLETE


def _write_bundle(root: Path, bundle: str, options: ReportConfig, as_json: bool) -> int:
    """Write the sweeps below a folder as pages to host. The code tells whether some of them could not be read."""
    import tempfile

    from orchestrator.config.overrides import check_path
    from orchestrator.report.viewer.bundle import OPTION, write_bundle
    from orchestrator.report.viewer.catalog import StudyCatalog

    check_path(OPTION, bundle)
    target = expanded(bundle)
    with tempfile.TemporaryDirectory(prefix="landscape-") as scratch:
        problems = write_bundle(StudyCatalog(root, Path(scratch), options.reveal), target, options)
    for problem in problems:
        logger.warning("left out: %s", problem)
    index = target / "index.html"
    if as_json:
        print_json(documents.Bundle(bundle=str(index), left_out=tuple(problems)).to_json())
    else:
        print(index)
    return ExitCode.NOT_MET if problems else ExitCode.COMPLETE


def completion(call: Call) -> int:
    """Print a script that completes verbs, options and presets with the TAB key: `completion bash|zsh|fish`."""
    from orchestrator.cli.completion import script

    if len(call.positional) != 1 or call.overrides:
        raise UserError("completion", " ".join((*call.positional, *call.overrides)), "name one shell: bash, zsh, fish")
    print(script(call.positional[0], tuple(VERBS), call.config_dir), end="")
    return ExitCode.COMPLETE


def _section_config(call: Call, section: str) -> Config:
    """Return the configuration of a verb that takes only its own section's options. Raises UserError for others."""
    from orchestrator.config.compose import compose
    from orchestrator.config.overrides import section_only

    return compose(section_only(call.overrides, section))


def _stored(call: Call) -> StoredSweep:
    """Return the sweep in the call's folder, or the latest sweep if the call has none."""
    from orchestrator.store.discovery import latest_sweep
    from orchestrator.store.sweep_folder import StoredSweep

    return StoredSweep.open(latest_sweep(call.folder("sweep")))


def _warn_skipped(error: UserError) -> None:
    logger.warning("skipped: %s", error)


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
        export,
        gate,
        view,
        geometry,
        models,
        finetune,
        doctor,
        completion,
    )
}
