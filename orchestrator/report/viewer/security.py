"""Restrict who may call the viewer, and what its pages may do in a browser."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from urllib.parse import quote, unquote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "landscape-token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class SecurityHeaders:
    """Middleware: add headers that restrict a page to the viewer's own files."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class TokenRequired:
    """Middleware: refuse every caller without the token.

    A browser sends the token once in the address and afterwards in a cookie; programs send it as a bearer token. If the
    token is None, every caller is accepted.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if self._token is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._matches(bearer) or self._matches(unquote(request.cookies.get(COOKIE, ""))):
            await self._app(scope, receive, send)
            return
        response: Response
        if self._matches(request.query_params.get("token", "")):
            rest = urlencode([(key, value) for key, value in request.query_params.multi_items() if key != "token"])
            target = "/" + request.url.path.lstrip("/") + (f"?{rest}" if rest else "")
            response = RedirectResponse(target, HTTPStatus.SEE_OTHER)
            response.set_cookie(COOKIE, quote(self._token, safe=""), httponly=True, samesite="strict")
        else:
            message = "Open the address that `view` printed: it contains a token."
            response = PlainTextResponse(message, HTTPStatus.UNAUTHORIZED)
        await response(scope, receive, send)

    def _matches(self, token: str) -> bool:
        assert self._token is not None
        return secrets.compare_digest(token.encode(), self._token.encode())
