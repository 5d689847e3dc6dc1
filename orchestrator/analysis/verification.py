"""Verify a study: every stored byte, and that the results of its sweeps follow from the stored rows."""

from __future__ import annotations

from pathlib import Path

from orchestrator.analysis.recomputation import LANDSCAPE_FILE, SUMMARY_FILE, recompute
from orchestrator.store.files import DamagedFileError
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.store.verification import REMEDIES, DamageFinding, VerificationReport, file_kind, verify_folder
from orchestrator.utils.console import Progress, ignore_progress
from orchestrator.utils.errors import UserError


def verify_study(root: Path, progress: Progress = ignore_progress) -> VerificationReport:
    """Verify the study in a folder. Changes nothing.

    Results are recomputed only if everything that they are computed from verifies.

    Args:
        root: The study's folder.
        progress: Called with the share of the files that have been read.
    """
    report = verify_folder(root, progress)
    sweeps = root / "sweeps"
    if any(not finding.path.is_relative_to(sweeps) for finding in report.findings):
        report.unchecked.append("no results were compared with the rows: not all rows verify")
        return report
    study, damaged = Study.open(root), {finding.path for finding in report.findings}
    for folder in SweepFolder.all_of(study):
        files = [folder.path / name for name in ("sweep.json", SUMMARY_FILE, LANDSCAPE_FILE)]
        if damaged.isdisjoint(files) and all(file.is_file() for file in files):
            _check_results(folder, report)
    return report


def _check_results(folder: SweepFolder, report: VerificationReport) -> None:
    """Compare the results of a sweep with its rows, and add what is found to the report."""
    name = f"sweeps/{folder.path.name}"
    try:
        recomputed = recompute(StoredSweep.open(folder))
    except UserError as error:
        report.findings.append(DamageFinding(folder.path, error.remedy, "its results cannot be computed from its rows"))
        return
    except DamagedFileError as error:  # a prompt set that is not stored, which is a note already
        report.unchecked.append(f"{name}: its results cannot be computed from its rows: {error}")
        return
    report.results += 1
    report.unchecked += [f"{name}: {remark}: `reduce` computes them again" for remark in recomputed.unchecked]
    for file, why in recomputed.differences_by_file().items():
        path = folder.path / file
        report.findings.append(DamageFinding(path, why, REMEDIES[file_kind(folder.study, path)]))
