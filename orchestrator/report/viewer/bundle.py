"""A bundle: the list of sweeps and a page for each, as files that any web server can host, or a browser can open.

Its pages are the report's, with the same rules: responses are cut to their first words unless they are revealed, and
each page requests nothing.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.config.schema import ReportConfig
from orchestrator.report.csv_export import to_csv
from orchestrator.report.page import render
from orchestrator.report.page.content import figure_files, page_content
from orchestrator.report.page.evidence import collect_evidence
from orchestrator.report.viewer.catalog import StudyCatalog
from orchestrator.report.viewer.listing_page import VIEWER_FOLDER, listing_environment
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.discovery import find_sweeps
from orchestrator.store.files import DamagedFileError, translate_read_errors
from orchestrator.utils.errors import UserError

OPTION = "view.bundle"
LANDSCAPE = "landscape.csv"
_MARK = ".safety-landscape-bundle"
"""An empty file in each bundle, by which a later one knows that it may replace the folder."""


def write_bundle(catalog: StudyCatalog, target: Path, options: ReportConfig) -> list[str]:
    """Write the sweeps of a catalog as a bundle. A bundle that is at that path already is replaced.

    Args:
        catalog: The sweeps.
        target: The bundle's folder.
        options: How many responses each page contains, and whether in full.

    Returns:
        One sentence for each sweep that could not be read and is left out.

    Raises:
        UserError: There is no sweep that can be read, or the folder holds other files or cannot be written.
    """
    if target.exists() and not (target.is_dir() and _may_replace(target)):
        raise UserError(OPTION, target, "holds something else than a bundle: name a new folder")
    next(find_sweeps(catalog.root))  # an error names that folder, not the target
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".bundle-") as temporary:
            written = Path(temporary) / "bundle"
            written.mkdir(mode=0o755)
            problems = _write(catalog, written, options)
            (written / _MARK).touch()
            if target.exists():
                shutil.rmtree(target)
            written.replace(target)
    except OSError as error:
        raise UserError(OPTION, target, f"cannot be written ({error.strerror or error})") from error
    return problems


def _may_replace(folder: Path) -> bool:
    return (folder / _MARK).is_file() or not any(folder.iterdir())


def _write(catalog: StudyCatalog, bundle: Path, options: ReportConfig) -> list[str]:
    """Write the pages of all sweeps, then the list of those that have one. Returns a sentence for each other sweep."""
    problems = []
    names = set()
    for folder in catalog.sweeps():
        name = folder.study.root.name, folder.path.name
        try:
            view = catalog.view(folder)
            while not view.fully_judged:
                view = catalog.view(folder)
            files = _sweep_files(view, options)
        except (UserError, DamagedFileError) as error:
            problems.append(str(error))
            continue
        names.add(name)
        for file, content in files.items():
            path = bundle / "sweeps" / name[0] / name[1] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if not names:
        raise UserError("view", catalog.root, f"no sweep there can be shown: {'; '.join(problems)}")
    rows = [row for row in catalog.listing(patience=None).rows if (row["study"], row["sweep"]) in names]
    (bundle / "index.html").write_text(_list_page(rows), encoding="utf-8", newline="")
    return problems


def _sweep_files(view: SweepView, options: ReportConfig) -> dict[str, bytes]:
    """Return the page, the figures and the landscape of one sweep by the names of their files.

    Raises:
        UserError: Something stored cannot be read.
        DamagedFileError: Something stored does not verify.
    """
    stored = view.stored
    evidence = collect_evidence(stored, options.reveal, options.max_generations)
    content = page_content(stored, view.frame, view.summary, evidence)
    content |= {"warnings": [*view.warnings, *content["warnings"]], "name": stored.folder.path.name}
    content["files"] = [*content["files"], LANDSCAPE]
    page = render.render_page(content, evidence.to_json(), render.template_environment(VIEWER_FOLDER), "bundled.html")
    landscape = io.StringIO(newline="")
    to_csv(view.frame, landscape)
    files = {"index.html": page.encode(), LANDSCAPE: landscape.getvalue().encode()}
    for name in figure_files(stored.folder):
        with translate_read_errors(stored.folder.path / name):
            files[name] = (stored.folder.path / name).read_bytes()
    return files


def _list_page(rows: list[dict[str, Any]]) -> str:
    template = listing_environment().get_template("bundle.html")
    scripts, styles = render.join(render.TABLE_SCRIPTS), render.join(("page.css",))
    scripts += (VIEWER_FOLDER / "view.js").read_text(encoding="utf-8")
    styles += (VIEWER_FOLDER / "view.css").read_text(encoding="utf-8")
    return template.render(
        sweeps=rows,
        total=len(rows),
        count=f"{len(rows):,} sweeps",
        taken=time.time(),
        root="",
        index="index.html",
        **render.inline(scripts, styles),
    )
