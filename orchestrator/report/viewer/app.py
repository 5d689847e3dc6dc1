"""The viewer's web application: its routes, and the pages and JSON behind them.

All routes are GET and write nothing, except that a private viewer stores verdicts of people in the study.
"""

from __future__ import annotations

import io
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from orchestrator.analysis.comparison.compare import compare
from orchestrator.analysis.comparison.sweeps import read_sweeps
from orchestrator.report.comparison import comparison_content
from orchestrator.report.csv_export import to_csv
from orchestrator.report.page import render
from orchestrator.report.page.content import figure_files, tiles
from orchestrator.report.page.render import embed_json
from orchestrator.report.viewer import annotation, refining
from orchestrator.report.viewer.bundle import LANDSCAPE
from orchestrator.report.viewer.catalog import StudyCatalog
from orchestrator.report.viewer.listing_page import VIEWER_FOLDER, count_text, listing_environment
from orchestrator.report.viewer.security import SecurityHeaders, TokenRequired
from orchestrator.report.viewer.sweep_list import read_status
from orchestrator.report.viewer.sweep_view import SweepView
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.utils.errors import UserError

MAX_COMPARED = 6
"""Maximum number of sweeps side by side."""

MAX_LISTS, MAX_SWEEPS = 16, 4
"""Maximum numbers of requests for the list, and for single sweeps, that are answered at a time. Those for the list do
little but wait for one thread. Those for sweeps may read many responses, and must not keep the list waiting."""

TOTAL_HEADER = "Sweeps-Total"
"""Header of the list as JSON: the number of sweeps, of which the list may lack some at first. Absent if unknown."""

ASSETS = {
    path.name: path
    for path in (
        *(render.PAGE_FOLDER / name for name in (*render.SCRIPTS, "page.css")),
        VIEWER_FOLDER / "view.js",
        VIEWER_FOLDER / "view.css",
        VIEWER_FOLDER / "annotate.js",
    )
}


def make_app(
    catalog: StudyCatalog, hosts: Collection[str], token: str | None = None, is_private: bool = False
) -> Starlette:
    """Return the web application.

    Args:
        catalog: The studies to show.
        hosts: The values of the Host header that are accepted.
        token: The secret that every caller must send. None: no secret is required.
        is_private: Whether callers may see whole responses and give verdicts, see `ViewerOptions.is_private`.
    """
    pages = _Pages(catalog, is_private)
    sweep = "/sweeps/{study}/{sweep}"
    lists, sweeps = CapacityLimiter(MAX_LISTS), CapacityLimiter(MAX_SWEEPS)
    return Starlette(
        routes=[
            Route("/", _limited(pages.index, lists)),
            Route("/sweeps", _limited(pages.sweeps, lists)),
            Route("/compare", _limited(pages.compare, CapacityLimiter(1))),  # figures are drawn one at a time
            Route(f"{sweep}/", _limited(pages.sweep, sweeps)),
            Route(f"{sweep}/now", _limited(pages.now, sweeps)),
            Route(f"{sweep}/prompts", _limited(pages.prompts, sweeps)),
            Route(f"{sweep}/points/{{point}}", _limited(pages.point, sweeps)),
            Route(f"{sweep}/search", _limited(pages.search, sweeps)),
            *([Route(f"{sweep}/points/{{point}}/people", pages.people, methods=["GET", "POST"])] if is_private else []),
            Route(f"{sweep}/{LANDSCAPE}", _limited(pages.landscape, sweeps)),
            Route(f"{sweep}/figures/{{name}}", _limited(pages.figure, lists)),
            Route("/assets/{name}", pages.asset),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=sorted(hosts), www_redirect=False),
            Middleware(TokenRequired, token=token),
        ],
        exception_handlers={_NotFoundError: _error_response, UserError: _error_response},
    )


def _limited(
    respond: Callable[[Request], Response], limiter: CapacityLimiter
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that responds in a thread, as one of at most so many at a time. Further callers wait."""

    async def endpoint(request: Request) -> Response:
        try:
            return await to_thread.run_sync(respond, request, limiter=limiter)
        except CancelledError:  # the server ends and waits no longer
            return PlainTextResponse("The viewer has been stopped.", HTTPStatus.SERVICE_UNAVAILABLE)

    return endpoint


class _NotFoundError(Exception):
    """There is no sweep or file of the requested name."""


def _error_response(request: Request, error: Exception) -> Response:
    if isinstance(error, _NotFoundError):
        return PlainTextResponse("There is nothing here.", HTTPStatus.NOT_FOUND)
    return PlainTextResponse(str(error), HTTPStatus.CONFLICT)


class _Pages:
    """The responses to requests, one method per route."""

    def __init__(self, catalog: StudyCatalog, is_private: bool) -> None:
        self._catalog, self._is_private = catalog, is_private
        self._templates = listing_environment()

    def index(self, request: Request) -> Response:
        """Return the page that lists all sweeps."""
        page = self._templates.get_template("sweeps.html")
        listing = self._catalog.listing()
        count = count_text(listing)
        return HTMLResponse(page.render(sweeps=listing.rows, total=listing.total, count=count, root="/", index=""))

    def sweeps(self, request: Request) -> Response:
        """Return the list of all sweeps as JSON: of those that have been read so far, see TOTAL_HEADER."""
        listing = self._catalog.listing()
        headers = {} if listing.total is None else {TOTAL_HEADER: str(listing.total)}
        return JSONResponse(listing.rows, headers=headers)

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
                **content | {"files": [*content["files"], LANDSCAPE], "tiles": state["tiles"]},
                name=view.stored.folder.path.name,
                private=self._is_private,
                groups=list(dict.fromkeys(prompts.group for prompts in prompt_sets)),
                prompt_categories=list(categories),
                chart_data=embed_json(content["chart"]),
                state_data=embed_json({key: state[key] for key in ("status", "whole", "refining")}),
            )
        )

    def compare(self, request: Request) -> Response:
        """Return the page of two or more sweeps side by side: `?sweep=STUDY/SWEEP`, once for each."""
        names = [tuple(name.split("/", 1)) for name in request.query_params.getlist("sweep")]
        folders = [self._catalog.find(*name) for name in names if len(name) == 2]
        found = [folder for folder in folders if folder is not None]
        if len(found) < len(names):
            raise _NotFoundError
        if not 2 <= len(found) <= MAX_COMPARED:
            raise UserError("compare", f"{len(found)} sweeps", f"choose 2 to {MAX_COMPARED} sweeps in the list")
        columns = [_column(self._catalog.view(folder)) for folder in found]
        content: dict[str, Any] = {"sweeps": None, "pairs": [], "figure": "", "problem": ""}
        try:
            compared = read_sweeps([folder.path for folder in found])
            content |= comparison_content(compare(compared), compared)
        except UserError as error:
            content["problem"] = f"The sweeps cannot be compared by numbers: {error}."
        page = self._templates.get_template("compared.html")
        return HTMLResponse(page.render(content | {"columns": columns, "count": len(columns)}))

    def now(self, request: Request) -> Response:
        """Return the values on a sweep's page that change while the sweep runs, as JSON."""
        return JSONResponse(_state(self._view(request)))

    def prompts(self, request: Request) -> Response:
        """Return the prompts of a sweep."""
        return JSONResponse(self._view(request).prompts())

    def point(self, request: Request) -> Response:
        """Return the responses at one point of a sweep."""
        responses = self._view(request).responses_at(request.path_params["point"], self._reveals(request))
        return JSONResponse(responses)

    async def people(self, request: Request) -> Response:
        """Return the verdicts of people on the responses at a point, or store one."""
        point_id = request.path_params["point"]
        if request.method != "POST":
            view = await to_thread.run_sync(self._view, request)
            return JSONResponse(await to_thread.run_sync(annotation.people_at, view, point_id))
        given = await annotation.read_annotation(request)
        if isinstance(given, Response):
            return given
        return await annotation.respond_to(given, await to_thread.run_sync(self._view, request), point_id)

    def search(self, request: Request) -> Response:
        """Return the responses of a sweep that match the query."""
        keys = ("text", "group", "category", "outcome")
        query = {key: request.query_params.get(key, "") for key in keys}
        return JSONResponse(self._view(request).search(**query, reveal=self._reveals(request)))

    def landscape(self, request: Request) -> Response:
        """Return the landscape of a sweep as CSV."""
        text = io.StringIO()
        to_csv(self._view(request).frame, text)
        headers = {"Content-Disposition": f'attachment; filename="{LANDSCAPE}"'}
        return Response(text.getvalue(), media_type="text/csv", headers=headers)

    def figure(self, request: Request) -> Response:
        """Return a figure of a sweep. SVG and PDF are saved rather than shown, as the pages' policy forbids styles."""
        folder, name = self._folder(request), f"figures/{request.path_params['name']}"
        if name not in figure_files(folder):
            raise _NotFoundError
        is_shown = name.endswith(".png")
        return FileResponse(folder.path / name, filename=None if is_shown else request.path_params["name"])

    def asset(self, request: Request) -> Response:
        """Return one of the pages' own scripts or style sheets."""
        path = ASSETS.get(request.path_params["name"])
        if path is None:
            raise _NotFoundError
        return FileResponse(path)

    def _reveals(self, request: Request) -> bool:
        return self._is_private and request.query_params.get("reveal") == "true"

    def _view(self, request: Request) -> SweepView:
        return self._catalog.view(self._folder(request))

    def _folder(self, request: Request) -> SweepFolder:
        folder = self._catalog.find(request.path_params["study"], request.path_params["sweep"])
        if folder is None:
            raise _NotFoundError
        return folder


def _column(view: SweepView) -> dict[str, Any]:
    """Return the values of one sweep in a comparison: its address, name, picture and headline numbers."""
    content, folder = view.content(), view.stored.folder
    names = (quote(folder.study.root.name, safe=""), quote(folder.path.name, safe=""))
    picture = "figures/landscape.png"
    return {
        "href": f"/sweeps/{names[0]}/{names[1]}/",
        "name": folder.path.name,
        "picture": picture if picture in content["files"] else "",
        **{key: content[key] for key in ("model", "about", "tiles", "verdict")},
    }


def _state(view: SweepView) -> dict[str, Any]:
    """Return the values on a sweep's page that change while the sweep runs."""
    content = view.content()
    keys = ("verdict", "narrative", "warnings", "chart")
    _, status = read_status(view.stored.folder)
    values = {key: content[key] for key in keys} | {"tiles": tiles(view.summary, status["state"] == "running")}
    progress = refining.progress(view.summary.adaptive)
    return {**values, "status": status, "whole": view.fully_judged, "refining": progress}
