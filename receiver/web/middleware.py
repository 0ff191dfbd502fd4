"""Who may ask for what, before any route is reached; and what every answer says of how it may be used."""

import base64
import binascii
import hmac
from collections.abc import Collection, Sequence

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver.core.errors import ReceiverError
from receiver.web.problem import for_no_route, for_our_error, problem
from receiver.web.refusals import Refusals, Refused, untold

WEBHOOK_PATHS = ("/webhooks/ximilar", "/webhooks/ximilar/")

OPEN_TO_ALL = frozenset({*WEBHOOK_PATHS, "/healthz", "/readyz"})
"""Paths that need no API token; the webhook has a proof of its own."""

ANSWER_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""On every answer that brings no stricter ones of its own."""


def guarded(routes: Sequence[Route], tokens: Sequence[str], refusals: Refusals) -> Starlette:
    """The routes behind their guards.

    Args:
        routes: what is guarded.
        tokens: let in, each of them.
        refusals: count what is not let in.
    """
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(SameOrigin, exempt=WEBHOOK_PATHS, refused=refusals.count),
            Middleware(RequireToken, tokens=tokens, open_to_all=OPEN_TO_ALL, refused=refusals.count),
        ],
        exception_handlers={HTTPException: for_no_route, ReceiverError: for_our_error},
    )
    # A redirect would be built from the Host header, and would name http behind a proxy that speaks TLS.
    app.router.redirect_slashes = False
    return app


class SameOrigin:
    """Refuses what a browser was made to send by a page of another site, and says how answers may be used.

    A browser that has once been given the token sends it with every request to us, whoever's page asks.

    Args:
        app: what stands behind.
        exempt: paths that do not care, since no browser can send what proves their senders.
        refused: told the reason of each refusal.
    """

    def __init__(self, app: ASGIApp, exempt: Collection[str], refused: Refused = untold) -> None:
        self._app = app
        self._exempt = exempt
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with guarded answers, or answers 403."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = message["headers"]
                named = {name for name, _ in own}
                message["headers"] = [*own, *(ours for ours in ANSWER_HEADERS if ours[0] not in named)]
            await send(message)

        foreign = scope["path"] not in self._exempt and _is_foreign(scope["method"], Headers(scope=scope))
        if foreign:
            self._refused("auth.cross_origin")
        answer = problem("auth.cross_origin") if foreign else self._app
        await answer(scope, receive, guarded)


def _is_foreign(method: str, headers: Headers) -> bool:
    """Whether a browser says that another site made it send this; other programs say nothing of the kind."""
    if method in {"GET", "HEAD", "OPTIONS"}:
        return False
    site = headers.get("sec-fetch-site", "none")
    if site not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    if origin == "null" and site == "same-origin":
        # A form of our own pages, whose policy keeps their origin from everybody (Fetch Standard, 3.1). No
        # page can set the other header.
        return False
    # Scheme, host and port, and nothing else (RFC 6454, 7.1); text that is no origin is nobody's of ours.
    return origin is not None and origin.partition("://")[2] != headers.get("host")


class RequireToken:
    """Lets nobody in without one of the API tokens, as Bearer or as the password of HTTP Basic.

    Args:
        app: what stands behind.
        tokens: each of them is accepted.
        open_to_all: the paths that need none; every other path does, whether or not there is such a route.
        refused: told the reason of each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Sequence[str],
        open_to_all: Collection[str],
        refused: Refused = untold,
    ) -> None:
        self._app = app
        self._refused = refused
        self._open = open_to_all
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401."""
        if scope["path"] not in self._open and not self._admits(Headers(scope=scope)):
            self._refused("auth.token_refused")
            refusal = problem("auth.token_refused")
            # A line each: Chromium reads one challenge to a line, and does not ask at all if more follows.
            for challenge in ('Basic realm="upscale-receiver", charset="UTF-8"', "Bearer"):
                refusal.headers.append("WWW-Authenticate", challenge)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        given = _token(headers.getlist("authorization"))
        admitted = False
        for token in self._tokens:
            admitted |= hmac.compare_digest(given, token)
        return admitted


def _token(authorization: Sequence[str]) -> bytes:
    """The token of an Authorization header; empty, which equals none, where there is not exactly one."""
    scheme, _, value = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    # Starlette decodes headers as Latin-1; a token is compared as the bytes that came.
    credentials = value.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return credentials
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except (ValueError, binascii.Error):
            return b""
    return b""
