"""Check every stored byte of a study, and report for each file that does not verify what is done about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from orchestrator.store import human_verdicts
from orchestrator.store.files import DamagedFileError, MissingFileError, read_json, read_meta, read_table
from orchestrator.store.log_probabilities import LogProbabilities
from orchestrator.store.parts import TaskKey
from orchestrator.store.schemas import GENERATIONS, JUDGEMENTS
from orchestrator.store.study import Study, StudyInfo
from orchestrator.store.working_copy import LEASES
from orchestrator.utils.console import Progress, ignore_progress
from orchestrator.utils.errors import UserError
from orchestrator.utils.parsing import FormatError, parse_json_object

logger = logging.getLogger(__name__)

SIGNED = "signed"
"""Name of the folder of a study's signature."""


@dataclass(frozen=True)
class DamageFinding:
    """A file that does not verify, the reason, and what is done about it."""

    path: Path
    why: str
    remedy: str


@dataclass
class VerificationReport:
    """The result of a check.

    Attributes:
        files: Files that were read.
        bytes: Their size.
        tasks: Stored tasks.
        rows: Rows of generations, judgements and log-probabilities.
        findings: Files that do not verify, that are not as they were signed, or whose numbers the rows do not give.
        notes: Remarks about what is unusual but harmless.
        results: Number of sweeps whose results were compared with the stored rows.
        unchecked: Why other results were not, or not entirely.
        signer: Name of the trusted key that signed the study. None if no signature was checked, or if it does not
            count.
    """

    files: int = 0
    bytes: int = 0
    tasks: int = 0
    rows: int = 0
    findings: list[DamageFinding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: int = 0
    unchecked: list[str] = field(default_factory=list)
    signer: str | None = None

    @property
    def is_sound(self) -> bool:
        """True if there are no findings."""
        return not self.findings


REMEDIES = {
    "generations": "`run` and `judge` move it aside, and `run` runs its tasks again",
    "judgements": "`run` and `judge` move it aside and judge again",
    "log_probabilities": "`run` and `judge` move it aside and measure its responses again",
    "calibration.json": "`judge calibrate=FILE` makes it again",
    "human": "its verdicts of people do not count: import them again, or judge these responses again",
    "directions": "`run` moves it aside and measures the direction again",
    "prompts": "`run` moves it aside and stores the prompt set again",
    "study.json": "`run` moves it aside and writes it again",
    "sweep.json": "`run` writes it again",
    "runs": "its event log counts instead: lost are its host, versions and given-up visits, but no response",
    "judges": "`judge` writes it again",
    "lease": "it holds nobody up: a driver at work writes it again within seconds; delete it if there is none",
    "results": "`reduce` writes it again",
}
"""Kind of file -> what is done about a file of this kind that does not verify."""


def file_kind(study: Study, path: Path) -> str:
    """Return the key of REMEDIES that a file of a study belongs to."""
    inside = path.relative_to(study.root).parts
    name = "lease" if path.match(f"sweeps/*/{LEASES}") else path.name
    return next((kind for kind in (inside[0], name, path.parent.name) if kind in REMEDIES), "results")


def log_damage(study: Study) -> None:
    """Log the files that do not verify, and what is done about each."""
    for path, why in study.problems.items():
        reason = why.removeprefix(f"{path}: ")
        remedy = REMEDIES[file_kind(study, path)]
        logger.warning("%s does not verify (%s): %s", path.relative_to(study.root), reason, remedy)


def verify_folder(root: Path, progress: Progress = ignore_progress) -> VerificationReport:
    """Verify the study in a folder as `verify` does. If its study.json does not verify, nothing else is read."""
    try:
        study = Study.open(root)
    except UserError as error:
        path = root / "study.json"
        why = str(error.__cause__).removeprefix(f"{path}: ")
        note = "nothing else was read, because study.json names the model that the files belong to"
        return VerificationReport(files=1, findings=[DamageFinding(path, why, REMEDIES["study.json"])], notes=[note])
    return verify(study, progress)


def verify(study: Study, progress: Progress = ignore_progress) -> VerificationReport:
    """Read every file of a study and report what does not verify, and what would be done. Changes nothing.

    Args:
        study: The study.
        progress: Called with the share of the files that have been read.
    """
    report = VerificationReport()
    seen: dict[str, set[TaskKey]] = {}
    paths = sorted(p for p in study.root.rglob("*") if p.is_file())
    for done, path in enumerate(paths):
        progress(done / len(paths))
        inside = path.relative_to(study.root)
        report.files += 1
        report.bytes += path.stat().st_size
        try:
            _check(study, path, inside.parts, report, seen)
        except MissingFileError:
            pass  # another process has just merged it into another part
        except DamagedFileError as error:
            report.findings.append(
                DamageFinding(path, str(error).removeprefix(f"{path}: "), REMEDIES[file_kind(study, path)])
            )
    report.tasks = len(seen.get("generations", ()))
    unknown = {prompts for _, prompts in seen.get("generations", ())} - {
        path.stem for path in (study.root / "prompts").glob("*.parquet")
    }
    for prompts in sorted(unknown):
        report.notes.append(
            f"prompt set {prompts} has responses and is not stored itself: a sweep that asks it stores it"
        )
    return report


def _check(
    study: Study, path: Path, inside: Sequence[str], report: VerificationReport, seen: dict[str, set[TaskKey]]
) -> None:
    """Check one file, and add remarks on it to `report`.

    Args:
        study: The study.
        path: The file.
        inside: The parts of its path in the study.
        report: The report so far.
        seen: The tasks of each folder of parts that were found so far.

    Raises:
        DamagedFileError: The file does not verify.
    """
    match inside:
        case ["generations", _] | ["judgements", _, _] if path.suffix == ".parquet":
            schema = GENERATIONS if inside[0] == "generations" else JUDGEMENTS
            tasks = _check_part(study, path, schema, report)
            known = seen.setdefault("/".join(inside[:-1]), set())
            twice = len(tasks & known)
            if twice:
                report.notes.append(f"{'/'.join(inside)}: {twice} of its tasks are stored elsewhere too and count once")
            known |= tasks
        case ["log_probabilities", version, _] if path.suffix == ".parquet" and version.lstrip("v").isdigit():
            _, table = LogProbabilities(study, int(version.lstrip("v"))).read_part(path)
            report.rows += table.num_rows
        case ["directions", _]:
            if read_meta(path).get("study_id") != study.id:
                raise DamagedFileError(f"{path}: belongs to another study")
            read_table(path)
        case ["prompts", name] if path.suffix == ".parquet":
            study.prompt_sets.read(name.removesuffix(".parquet"))
        case ["study.json"] | ["calibration.json"] | ["human", _] if path.suffix == ".json":
            _check_document(study, path, inside)
        case ["sweeps", _, *below]:
            _check_sweep_file(path, below)
        case ["events", _]:
            _check_events(path, report)
        case ["damaged", *_]:
            report.notes.append(f"{'/'.join(inside)} was set aside; it counts nowhere and may be deleted")
        case _ if inside[0] != SIGNED:
            report.notes.append(f"{'/'.join(inside)} is not part of a study and counts nowhere")


def _check_document(study: Study, path: Path, inside: Sequence[str]) -> None:
    """Check a JSON document of the study itself. Raises DamagedFileError."""
    match inside:
        case ["study.json"]:
            StudyInfo.read(path)
        case ["human", name]:
            human_verdicts.read_file(study, name)
        case _:
            read_json(path)


def _check_sweep_file(path: Path, below: Sequence[str]) -> None:
    """Check a file of a sweep. Figures and pages are not checked, because they are derived. Raises DamagedFileError."""
    match below:
        case ["sweep.json" | "summary.json"] | ["runs" | "judges", _]:
            read_json(path)
        case [_] if path.match(LEASES):
            read_json(path)
        case ["landscape.parquet"]:
            read_table(path)


def _check_part(study: Study, path: Path, schema: pa.Schema, report: VerificationReport) -> set[TaskKey]:
    """Check every byte of a part, and that its rows are those of the tasks in its metadata.

    Returns:
        The keys of these tasks.

    Raises:
        DamagedFileError: The part does not verify.
    """
    meta = read_meta(path)
    if meta.get("study_id") != study.id:
        raise DamagedFileError(f"{path}: belongs to study {meta.get('study_id')}")
    table = read_table(path, schema)
    counted = table.group_by(["point_id", "prompt_set_id"]).aggregate([([], "count_all")]).to_pylist()
    counts = {(row["point_id"], row["prompt_set_id"]): row["count_all"] for row in counted}
    named = {(point, prompts): n for point, prompts, n, _ in meta["tasks"]}
    if counts != named:
        raise DamagedFileError(f"{path}: holds other tasks than it names")
    report.rows += table.num_rows
    return set(named)


def _check_events(path: Path, report: VerificationReport) -> None:
    """Add a note to `report` if an event log has lines that a crash cut short."""
    lines = path.read_bytes().splitlines()
    bad = 0
    for line in lines:
        try:
            parse_json_object(line)
        except FormatError:
            bad += 1
    if bad:
        report.notes.append(f"events/{path.name}: {bad} of {len(lines)} lines were cut short and are skipped")
