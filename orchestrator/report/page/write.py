"""report.html: a sweep's answers as one file that opens offline and asks nobody for anything.

The page draws its charts itself, some hundred lines of SVG and canvas, instead of by a charting library. Plotly, the
one that has curves, contours and surfaces, weighs 4.7 MB in every report (a study writes one a sweep, each time it
runs), makes functions from strings, which a Content-Security-Policy has to allow by `unsafe-eval`, and its points
cannot be reached by keyboard. What is hard is left to libraries: contours to contourpy, escaping to Jinja.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from orchestrator.config.schema import ReportConfig
from orchestrator.report.page import content, evidence
from orchestrator.store.study import Study
from orchestrator.sweep.grid import Sweep

HERE = Path(__file__).parent
_NOTHING_ELSE = "base-uri 'none'; form-action 'none'"
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write(
    study: Study,
    sweep: Sweep,
    folder: Path,
    frame: pd.DataFrame,
    summary: Mapping[str, Any],
    look: ReportConfig | None = None,
) -> None:
    """Write a sweep's report.html. `frame`, `summary`: its landscape and summary, as `answers` makes them."""
    look = look or ReportConfig()
    found = evidence.collect(study, sweep, look.reveal, look.max_generations)
    study.write_report(folder, page(content.gather(study, sweep, folder, frame, summary, found), found.to_json()))


def page(shown: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """The page. `shown`: what content.gather returns; `said`: the responses, read by the page at the first click."""
    script, style = read("page.js"), read("page.css")
    policy = f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; {_NOTHING_ELSE}"
    template = environment().get_template("page.html")
    return template.render(
        **shown,
        policy=policy,
        script=Markup(script),  # our own files
        style=Markup(style),
        chart_data=as_data(shown["chart"]),
        said_data=as_data(said),
    )


def comparison(sweeps: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], picture: str) -> str:
    """The page of `compare`: a table of sweeps; for each pair `words` and a `table`. `picture`: an SVG in base64."""
    style = read("page.css")
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; {_NOTHING_ELSE}"
    page = environment().get_template("compare.html")
    return page.render(sweeps=sweeps, pairs=pairs, picture=picture, policy=policy, style=Markup(style))


def read(name: str) -> str:
    """One of the report's own files."""
    return (HERE / name).read_text(encoding="utf-8")


def environment(*folders: Path) -> jinja2.Environment:
    """The templates of these folders, then the report's; everything put into them is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_data(value: Any) -> Markup:
    """JSON that stays data wherever it stands inside a <script type="application/json">."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE))  # nothing left in it that HTML could take for markup


def _digest(text: str) -> str:
    """How a Content-Security-Policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
