"""The formats that `export` writes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.report.exports import harmbench, inspect_logs, jsonl, latex, vtp
from orchestrator.store.sweep_folder import StoredSweep
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.private import make_private, share_like


@dataclass(frozen=True)
class ExportFormat:
    """A format of another tool.

    Attributes:
        about: What it holds and which tool reads it, in one line.
        write: Writes a sweep to a path that does not exist yet.
        suffix: Suffix of the file. Empty if the format is a folder of files.
    """

    about: str
    write: Callable[[StoredSweep, Path], None]
    suffix: str = ""


FORMATS: Mapping[str, ExportFormat] = {
    "inspect": ExportFormat("a log for each point that `inspect view` shows", inspect_logs.write),
    "jsonl": ExportFormat("one line for each response, with its point and verdicts", jsonl.write, ".jsonl"),
    "harmbench": ExportFormat("a file of completions for each point, for HarmBench's evaluation", harmbench.write),
    "latex": ExportFormat("a table of the sweep's numbers", latex.write, ".tex"),
    "vtp": ExportFormat("a file for each line or plane, for ParaView", vtp.write),
}


def get_format(name: str) -> ExportFormat:
    """Return a format by its name. Raises UserError if there is none."""
    if name not in FORMATS:
        remedy = f"there is no such format{did_you_mean(name, FORMATS)} (there are: {', '.join(FORMATS)})"
        raise UserError("export", name, remedy)
    return FORMATS[name]


def export(stored: StoredSweep, name: str, to: Path | None) -> Path:
    """Write a sweep in a format, and return the path of the file or folder.

    What is at that path already is replaced if it is a file, or a folder that `export` has written. It is replaced only
    when the new one is complete. The files are open to those to whom the study is open.

    Args:
        stored: The sweep. Formats that hold numbers need its results.
        name: Name of the format, one of FORMATS.
        to: Path of the file or folder. None: one in the working folder that is named after sweep and format.

    Raises:
        UserError: There is no such format, the sweep has nothing to export, or the path cannot be written.
    """
    chosen = get_format(name)
    target = to or Path(f"{stored.folder.path.name}{chosen.suffix or f'-{name}'}")
    if target.is_dir() and (chosen.suffix or not _is_export(target)):
        kind = "a folder: name a file" if chosen.suffix else "a folder with other files in it: name a new folder"
        raise UserError("export.to", target, f"is {kind}")
    if target.is_file() and not chosen.suffix:
        raise UserError("export.to", target, "is a file, but this format is a folder of files: name a new folder")
    try:
        make_private(target.absolute().parent)
        with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".export-") as temporary:
            written = Path(temporary) / target.name
            chosen.write(stored, written)
            if written.is_dir():
                (written / _MARK).touch()
            for path in (written, *written.rglob("*")):
                share_like(path, stored.study.root)
            if written.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            written.replace(target)
    except OSError as error:
        raise UserError("export.to", target, f"cannot be written ({error.strerror or error})") from error
    return target


_MARK = ".safety-landscape-export"
"""An empty file in each exported folder, by which a later export knows that it may replace the folder."""


def _is_export(folder: Path) -> bool:
    """Return whether a folder is empty or was written by `export`."""
    return (folder / _MARK).is_file() or not any(folder.iterdir())
