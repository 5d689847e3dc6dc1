"""The viewer's addresses, and who may call them. Only GET; nothing here changes anything."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.report.page import content
from orchestrator.report.page import write as report
from orchestrator.report.page.write import as_data
from orchestrator.report.viewer.live import Look, Room
from orchestrator.store import status as standing
from orchestrator.store.study import Study
from orchestrator.utils.errors import UserError

HERE = Path(__file__).parent
ASSETS = {
    path.name: path for path in (report.HERE / "page.js", report.HERE / "page.css", HERE / "view.js", HERE / "view.css")
}
COOKIE = "landscape-token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make(room: Room, names: Collection[str], token: str | None = None) -> Starlette:
    """The application. `names`: what a Host header may say; `token`: what every caller must know, if any."""
    pages = report.environment(HERE)

    def sweeps(request: Request) -> Response:
        return HTMLResponse(pages.get_template("sweeps.html").render(sweeps=as_data(_listed(room))))

    def listed(request: Request) -> Response:
        return JSONResponse(_listed(room))

    def sweep(request: Request) -> Response:
        look = _look(room, request)
        now = _now(look)
        shown = look.shown()
        groups = list(dict.fromkeys(prompts.group for prompts in look.found.sets))
        categories = list(dict.fromkeys(p.category for prompts in look.found.sets for p in prompts.prompts))
        page = pages.get_template("sweep.html")
        return HTMLResponse(
            page.render(
                **shown,
                name=look.folder.name,
                asked_groups=groups,
                asked_categories=[name for name in categories if name],
                chart_data=as_data(shown["chart"]),
                now_data=as_data({key: now[key] for key in ("status", "whole")}),
            )
        )

    def now(request: Request) -> Response:
        return JSONResponse(_now(_look(room, request)))

    def prompts(request: Request) -> Response:
        return JSONResponse(_look(room, request).prompts())

    def point(request: Request) -> Response:
        return JSONResponse(_look(room, request).said(request.path_params["point"]))

    def search(request: Request) -> Response:
        keys = ("text", "group", "category", "outcome")
        return JSONResponse(_look(room, request).search(**{key: request.query_params.get(key, "") for key in keys}))

    def asset(request: Request) -> Response:
        path = ASSETS.get(request.path_params["name"])
        return FileResponse(path) if path else _refusal(request, _Absent())

    where = "/sweeps/{study}/{sweep}"
    return Starlette(
        routes=[
            Route("/", sweeps),
            Route("/sweeps", listed),
            Route(f"{where}/", sweep),
            Route(f"{where}/now", now),
            Route(f"{where}/prompts", prompts),
            Route(f"{where}/points/{{point}}", point),
            Route(f"{where}/search", search),
            Route("/assets/{name}", asset),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=sorted(names), www_redirect=False),
            Middleware(_Token, token=token),
        ],
        exception_handlers={_Absent: _refusal, UserError: _refusal},
    )


class _Absent(Exception):
    """There is nothing of that name."""


def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, _Absent):
        return PlainTextResponse("There is nothing here.", HTTPStatus.NOT_FOUND)
    return PlainTextResponse(str(error), HTTPStatus.CONFLICT)


def _look(room: Room, request: Request) -> Look:
    found = room.find(request.path_params["study"], request.path_params["sweep"])
    if found is None:
        raise _Absent
    return room.look(*found)


def _now(look: Look) -> dict[str, Any]:
    """What changes on a sweep's page while it runs."""
    shown = look.shown()
    status = _status(look.study, look.folder)
    keys = ("tiles", "verdict", "said", "warnings", "chart")
    return {**{key: shown[key] for key in keys}, "status": status, "whole": look.whole}


def _status(study: Study, folder: Path) -> dict[str, Any]:
    try:
        known = standing.examine(study, folder)
    except UserError as error:
        return {"state": "unreadable", "why": str(error), "done": 0, "tasks": 0, "failed": 0, "eta_seconds": None}
    keys = ("state", "done", "tasks", "failed", "eta_seconds", "points_per_second")
    return {"why": "", **{key: getattr(known, key) for key in keys}}


def _listed(room: Room) -> list[dict[str, Any]]:
    """Every sweep: where it is, how it stands, and its headline as far as it is stored."""
    found = []
    for study, folder in room.sweeps():
        numbers: dict[str, Any] = {}
        try:
            _, summary = study.read_landscape(folder)
            score, origin, radius, _ = content.tiles(summary)
            low, high = summary["visage"]["low"], summary["visage"]["high"]
            numbers = {
                "origin": origin["value"],
                "visage": score["value"],
                "interval": "" if low is None else f"{low:.1f} to {high:.1f}",
                "radius": radius["value"],
                "about": summary["primary"],
            }
        except (UserError, KeyError):  # none yet, or an earlier version's
            pass
        found.append(
            {
                "study": study.root.name,
                "sweep": folder.name,
                "model": study.info["model"],
                "used": (folder / "sweep.json").stat().st_mtime,
                **_status(study, folder),
                **numbers,
            }
        )
    return found


class _Headers:
    """Adds what tells a browser to keep to our own files."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, sent)


class _Token:
    """Lets nobody in who does not know the token: in the address once, in a cookie from then on, or as a bearer's."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._token is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._is(bearer) or self._is(request.cookies.get(COOKIE, "")):
            await self._app(scope, receive, send)
            return
        response: Response
        if self._is(request.query_params.get("token", "")):
            response = RedirectResponse("/" + request.url.path.lstrip("/"), HTTPStatus.SEE_OTHER)
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
        else:
            words = "Open the address that `view` printed: it holds a token."
            response = PlainTextResponse(words, HTTPStatus.UNAUTHORIZED)
        await response(scope, receive, send)

    def _is(self, said: str) -> bool:
        assert self._token is not None
        return secrets.compare_digest(said.encode(), self._token.encode())
