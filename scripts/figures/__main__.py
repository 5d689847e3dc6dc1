"""Measure what is missing, draw every picture, and write every measured number of the documentation.

`make figures`, or `python -m scripts.figures [STUDY ...]` for some studies; figures.toml defines them. What is stored
is reused, and an interrupted call continues. `--stored` measures nothing and uses what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.analysis.comparison.sweeps import read_sweeps
from orchestrator.report.figures.comparison import draw_comparison
from orchestrator.report.figures.landscape import draw_landscape
from orchestrator.report.figures.results import draw_results
from orchestrator.utils.errors import ExitCode, UserError
from scripts.figures.definitions import RESULTS, Definitions, Picture, read_definitions
from scripts.figures.markdown import ROOT, filled, pages
from scripts.figures.measure import Reductions, State, announcement, completed, examine, measure, read_geometry
from scripts.figures.numbers import read_numbers, write_numbers
from scripts.figures.values import FIELDS, NotMeasuredError, Results, SweepResults

DOCS = ROOT / "docs"


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code: 0, 1 if a study could not be completed, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m scripts.figures", description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="only these studies (default: all)")
    parser.add_argument("--stored", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    definitions = read_definitions()
    unknown = sorted(set(options.studies) - set(definitions.studies))
    if unknown:
        parser.error(f"no study is called {unknown[0]}: there are {', '.join(definitions.studies)}")
    try:
        return update(definitions, options.studies or list(definitions.studies), not options.stored)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return ExitCode.INTERRUPTED


def update(definitions: Definitions, names: Sequence[str], measures: bool, root: Path = ROOT) -> int:
    """Measure studies, then draw their pictures and write their numbers below `root`.

    Args:
        definitions: What is measured, drawn and quoted.
        names: The studies to consider, by name.
        measures: Whether to run what is missing.
        root: The folder with README.md and docs/.

    Returns:
        0, or 1 if a study is incomplete; its pictures and numbers stay as they are.
    """
    out = root / definitions.out
    states = []
    for name in names:
        print(f"looking at {name}", file=sys.stderr, flush=True)
        states.append(examine(definitions.studies[name], out))
    for line in announcement(states):
        print(line, file=sys.stderr, flush=True)
    reductions = Reductions(out, Console(stderr=True))
    sweeps: dict[str, SweepResults] = {}
    geometries: dict[str, Mapping[str, object]] = {}
    incomplete = []
    for state in states:
        done = _complete(state, out, measures)
        if done is None:
            incomplete.append(state.study.name)
        elif done.stored is not None:
            reductions.update(state.study, done.stored, was_run=state.missing > 0)
            sweeps[state.study.name] = SweepResults.of(done.stored)
        else:
            geometries[state.study.name] = read_geometry(state.study, out)
    changed = draw(definitions.pictures, sweeps, root / "docs")
    changed += write(definitions, Results("", sweeps, geometries), root)
    for path in changed:
        print(f"changed: {path.relative_to(root)}", file=sys.stderr)
    if incomplete:
        print(f"incomplete, so their figures and numbers stay: {', '.join(incomplete)}", file=sys.stderr)
    return ExitCode.NOT_MET if incomplete and measures else ExitCode.COMPLETE


def _complete(state: State, out: Path, measures: bool) -> State | None:
    """Run what a study lacks. Returns its state, or None if it is incomplete. Raises KeyboardInterrupt."""
    if state.skipped or (state.missing and not measures):
        return None
    if not state.missing:
        return state
    print(f"-- {state.study.name}: {state.study.command}", file=sys.stderr, flush=True)
    code = measure(state.study, out)
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code != ExitCode.COMPLETE:
        print(f"{state.study.name} ended with exit code {code}", file=sys.stderr)
        return None
    try:
        return completed(state, out)
    except UserError as error:
        print(error, file=sys.stderr)
        return None


def draw(pictures: Sequence[Picture], sweeps: dict[str, SweepResults], docs: Path) -> list[Path]:
    """Draw the pictures of these sweeps. A file is written only if its bytes change. Returns those that were."""
    changed = []
    for picture in pictures:
        if set(picture.studies) <= set(sweeps) and _replace(docs / picture.file, _drawn(picture, sweeps)):
            changed.append(docs / picture.file)
    return changed


def _drawn(picture: Picture, sweeps: dict[str, SweepResults]) -> bytes:
    """Return the bytes of a picture."""
    if picture.kind == "compare":
        return draw_comparison(read_sweeps([sweeps[name].path for name in picture.studies]))
    results = sweeps[picture.studies[0]]
    draws = draw_landscape if picture.kind == "landscape" else draw_results
    title = f"{results.summary.model}: {results.summary.primary.probe_set}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(picture.file).name
        draws(results.frame, results.summary, path, title)
        return path.read_bytes()


def write(definitions: Definitions, results: Results, root: Path) -> list[Path]:
    """Write the numbers of the available studies into numbers.json and the pages. Returns the files that changed."""
    path = root / "docs" / "figures" / "numbers.json"
    stored = read_numbers(path)
    for number in definitions.numbers.values():
        available = Results(number.study, results.sweeps, results.geometries)
        if number.study == RESULTS or available.available:
            try:
                with contextlib.suppress(NotMeasuredError):
                    stored[number.name] = (number.definition, FIELDS[number.field](available, number.options))
            except (KeyError, ValueError) as error:
                raise ValueError(f"figures.toml: numbers.{number.name}: {error}") from error
    stored = {name: stored[name] for name in definitions.numbers if name in stored}
    changed = [path] if _replace(path, write_numbers(stored)) else []
    texts = {name: text for name, (_, text) in stored.items()}
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        if _replace(page, filled(text, texts).encode()):
            changed.append(page)
    return changed


def _replace(path: Path, content: bytes) -> bool:
    """Write a file if its content changes. Returns whether it did."""
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
