"""The viewer's web application: its routes, and the pages and JSON behind them. All routes are GET; none writes."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from orchestrator.analysis.reducer import read_results
from orchestrator.report.page import render
from orchestrator.report.page.content import tiles
from orchestrator.report.page.render import embed_json, template_environment
from orchestrator.report.scores import counted_points, widest_interval
from orchestrator.report.viewer.catalog import StudyCatalog
from orchestrator.report.viewer.security import SecurityHeaders, TokenRequired
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.status import examine
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError

VIEWER_FOLDER = Path(__file__).parent
ASSETS = {
    path.name: path
    for path in (
        render.PAGE_FOLDER / "page.js",
        render.PAGE_FOLDER / "page.css",
        VIEWER_FOLDER / "view.js",
        VIEWER_FOLDER / "view.css",
    )
}


def make_app(catalog: StudyCatalog, hosts: Collection[str], token: str | None = None) -> Starlette:
    """Return the web application.

    Args:
        catalog: The studies to show.
        hosts: The values of the Host header that are accepted.
        token: The secret that every caller must send. None: no secret is required.
    """
    pages = _Pages(catalog)
    sweep = "/sweeps/{study}/{sweep}"
    return Starlette(
        routes=[
            Route("/", pages.index),
            Route("/sweeps", pages.sweeps),
            Route(f"{sweep}/", pages.sweep),
            Route(f"{sweep}/now", pages.now),
            Route(f"{sweep}/prompts", pages.prompts),
            Route(f"{sweep}/points/{{point}}", pages.point),
            Route(f"{sweep}/search", pages.search),
            Route("/assets/{name}", pages.asset),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=sorted(hosts), www_redirect=False),
            Middleware(TokenRequired, token=token),
        ],
        exception_handlers={_NotFoundError: _error_response, UserError: _error_response},
    )


class _NotFoundError(Exception):
    """There is no sweep or file of the requested name."""


def _error_response(request: Request, error: Exception) -> Response:
    if isinstance(error, _NotFoundError):
        return PlainTextResponse("There is nothing here.", HTTPStatus.NOT_FOUND)
    return PlainTextResponse(str(error), HTTPStatus.CONFLICT)


class _Pages:
    """The responses to requests, one method per route."""

    def __init__(self, catalog: StudyCatalog) -> None:
        self._catalog = catalog
        self._templates = template_environment(VIEWER_FOLDER)

    def index(self, request: Request) -> Response:
        """Return the page that lists all sweeps."""
        page = self._templates.get_template("sweeps.html")
        return HTMLResponse(page.render(sweeps=embed_json(_list_sweeps(self._catalog))))

    def sweeps(self, request: Request) -> Response:
        """Return the list of all sweeps as JSON."""
        return JSONResponse(_list_sweeps(self._catalog))

    def sweep(self, request: Request) -> Response:
        """Return the page of one sweep."""
        view = self._view(request)
        state = _state(view)
        content = view.content()
        prompt_sets = view.evidence.prompt_sets
        categories = dict.fromkeys(p.category for prompts in prompt_sets for p in prompts.prompts if p.category)
        page = self._templates.get_template("sweep.html")
        return HTMLResponse(
            page.render(
                **content,
                name=view.stored.folder.path.name,
                groups=list(dict.fromkeys(prompts.group for prompts in prompt_sets)),
                prompt_categories=list(categories),
                chart_data=embed_json(content["chart"]),
                state_data=embed_json({key: state[key] for key in ("status", "whole")}),
            )
        )

    def now(self, request: Request) -> Response:
        """Return the values on a sweep's page that change while the sweep runs, as JSON."""
        return JSONResponse(_state(self._view(request)))

    def prompts(self, request: Request) -> Response:
        """Return the prompts of a sweep."""
        return JSONResponse(self._view(request).prompts())

    def point(self, request: Request) -> Response:
        """Return the responses at one point of a sweep."""
        return JSONResponse(self._view(request).responses_at(request.path_params["point"]))

    def search(self, request: Request) -> Response:
        """Return the responses of a sweep that match the query."""
        keys = ("text", "group", "category", "outcome")
        query = {key: request.query_params.get(key, "") for key in keys}
        return JSONResponse(self._view(request).search(**query))

    def asset(self, request: Request) -> Response:
        """Return one of the pages' own scripts or style sheets."""
        path = ASSETS.get(request.path_params["name"])
        if path is None:
            raise _NotFoundError
        return FileResponse(path)

    def _view(self, request: Request) -> SweepView:
        folder = self._catalog.find(request.path_params["study"], request.path_params["sweep"])
        if folder is None:
            raise _NotFoundError
        return self._catalog.view(folder)


def _state(view: SweepView) -> dict[str, Any]:
    """Return the values on a sweep's page that change while the sweep runs."""
    content = view.content()
    keys = ("tiles", "verdict", "narrative", "warnings", "chart")
    status = _status(view.stored.folder)
    return {**{key: content[key] for key in keys}, "status": status, "whole": view.fully_judged}


def _status(folder: SweepFolder) -> dict[str, Any]:
    """Return a sweep's progress; `why` explains why it cannot be read, and is empty if it can."""
    try:
        status = examine(StoredSweep.open(folder))
    except UserError as error:
        return {"state": "unreadable", "why": str(error), "done": 0, "tasks": 0, "failed": 0, "eta_seconds": None}
    keys = ("state", "done", "tasks", "failed", "eta_seconds", "points_per_second")
    return {"why": "", **{key: getattr(status, key) for key in keys}}


def _list_sweeps(catalog: StudyCatalog) -> list[dict[str, Any]]:
    """Return every sweep with its place, its progress and, if it has been reduced, its headline numbers."""
    return [
        {
            "study": folder.study.root.name,
            "sweep": folder.path.name,
            "model": folder.study.info.model,
            "used": (folder.path / "sweep.json").stat().st_mtime,
            **_status(folder),
            **_headline(folder),
        }
        for folder in catalog.sweeps()
    ]


def _headline(folder: SweepFolder) -> dict[str, Any]:
    """Return a sweep's headline numbers; empty if none are stored yet, or by an earlier version."""
    try:
        _, summary = read_results(folder)
        score, margin, origin, radius, _ = tiles(summary)
        low, high = summary.visage.low, summary.visage.high
        widest = None if summary.margin is None else widest_interval(summary.margin.over)
        return {
            "origin": origin["value"],
            "visage": score["value"],
            "interval": "" if low is None else f"{low:.1f} to {high:.1f}",
            "counted": counted_points(summary.visage) or "",
            "margin": margin["value"],
            "margin_interval": "" if widest is None else f"{widest[0]:.1f} to {widest[1]:.1f}",
            "radius": radius["value"],
            "about": summary.primary.to_json(),
        }
    except (UserError, KeyError):
        return {}
