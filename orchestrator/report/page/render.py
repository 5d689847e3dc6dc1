"""Render report.html: a sweep's results as one self-contained file that works offline and requests nothing.

The page draws its charts with a few hundred lines of its own SVG and canvas code instead of a charting library.
Plotly, which has curves, contours and surfaces, would add 4.7 MB to every report (each run writes one per sweep). It
also builds functions from strings, which a Content-Security-Policy must allow with `unsafe-eval`, and its points
cannot be reached by keyboard. The hard parts are left to libraries: contours to contourpy, escaping to Jinja.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.config.schema import ReportConfig
from orchestrator.report.page.content import page_content
from orchestrator.report.page.evidence import collect_evidence
from orchestrator.store.sweep_folder import StoredSweep

PAGE_FOLDER = Path(__file__).parent
TABLE_SCRIPTS = ("dom.js", "address.js", "tables.js")
"""The scripts of every page with tables, in the order in which they run."""

SCRIPTS = (*TABLE_SCRIPTS, "page.js")
"""The scripts of a sweep's page, in the order in which they run."""

_BASE_POLICY = "base-uri 'none'; form-action 'none'"
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_report(
    stored: StoredSweep,
    frame: pd.DataFrame,
    summary: SweepSummary,
    options: ReportConfig | None = None,
) -> None:
    """Write a sweep's report.html.

    Args:
        stored: The sweep, with its responses and verdicts.
        frame: The sweep's landscape.
        summary: The sweep's summary.
        options: How many responses to include, and whether in full. None uses the defaults.
    """
    options = options or ReportConfig()
    evidence = collect_evidence(stored, options.reveal, options.max_generations)
    content = page_content(stored, frame, summary, evidence)
    stored.folder.write_report(render_page(content, evidence.to_json()))


def render_page(
    content: Mapping[str, Any],
    responses: Mapping[str, Any],
    environment: jinja2.Environment | None = None,
    name: str = "page.html",
) -> str:
    """Return the page's HTML.

    Args:
        content: The result of `page_content`.
        responses: The result of `Evidence.to_json`. The page parses it when a point is opened for the first time.
        environment: The environment of the template. None: this package's templates.
        name: The template.
    """
    template = (environment or template_environment()).get_template(name)
    return template.render(
        **content,
        **inline(join(SCRIPTS), join(("page.css",))),
        chart_data=embed_json(content["chart"]),
        responses_data=embed_json(responses),
    )


def inline(script: str, style: str) -> dict[str, str]:
    """Return `script` and `style` for a template that contains them, and the `policy` that allows no others.

    Both are this package's own files, so they need no escaping.
    """
    sources = f"img-src data:; script-src '{_digest(script)}'; style-src '{_digest(style)}'"
    return {
        "policy": f"default-src 'none'; {sources}; {_BASE_POLICY}",
        "script": Markup(script),
        "style": Markup(style),
    }


def render_comparison(content: Mapping[str, Any]) -> str:
    """Return the HTML page of `compare`. `content`: the result of `comparison_content`."""
    template = template_environment().get_template("compare.html")
    return template.render(**content, **inline(join(TABLE_SCRIPTS), join(("page.css",))))


def template_environment(*folders: Path) -> jinja2.Environment:
    """Return the environment of the templates in `folders` and then in this package; all values are escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, PAGE_FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def embed_json(value: Any) -> Markup:
    """Return JSON that is safe inside a <script type="application/json"> element: no character starts markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPED))


def join(names: Iterable[str]) -> str:
    """Return the text of files of this package, one after the other."""
    return "".join((PAGE_FOLDER / name).read_text(encoding="utf-8") for name in names)


def _digest(text: str) -> str:
    """Return the hash by which a Content-Security-Policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
