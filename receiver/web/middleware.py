"""Checks every request before a route does, and sets the security headers of every answer."""

import base64
import hmac
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from receiver.core.errors import ReceiverError
from receiver.core.headers import RawHeaders
from receiver.core.paths import WEBHOOKS
from receiver.web.challenge import answer_challenge
from receiver.web.problem import on_http_exception, on_receiver_error, problem
from receiver.web.refusals import OnRefusal, RefusalCounter

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
"""Paths that need no API token, beside those of the webhooks, which have proofs of their own."""

SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""On every answer that does not set them itself."""


class _Application(Starlette):
    """Starlette's application, except that a POST to a webhook passes by the middleware.

    A webhook needs none of its checks, and sets `SECURITY_HEADERS` itself. The middleware together costs as
    much as the rest of a delivery.
    """

    webhooks: Mapping[str, ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        webhook = self.webhooks.get(scope["path"]) if scope["method"] == "POST" else None
        await (webhook or super().__call__)(scope, receive, send)


def application(
    routes: Sequence[Route], tokens: Sequence[str], refusals: RefusalCounter, key: bytes
) -> Starlette:
    """Return the routes, which are tried in this order, behind the middleware.

    The installation's key answers the challenges of `receiver doctor`. They come with a GET of the webhook,
    which is a 405 for everyone: many a proxy passes no other path.
    """

    async def on_http_error(request: Request, error: Exception) -> Response:
        answer = await on_http_exception(request, error)
        answer.headers.update(answer_challenge(key, request.headers))
        return answer

    app = _Application(
        routes=routes,
        middleware=[
            Middleware(RequireSameOrigin, on_refusal=refusals.count),
            Middleware(RequireToken, tokens=tokens, on_refusal=refusals.count),
        ],
        exception_handlers={HTTPException: on_http_error, ReceiverError: on_receiver_error},
    )
    # A redirect would be built from the Host header, and would name http behind a proxy that speaks TLS.
    app.router.redirect_slashes = False
    app.webhooks = {
        route.path: route.app
        for route in routes
        if route.path.startswith(WEBHOOKS) and "POST" in (route.methods or ())
    }
    return app


@dataclass(frozen=True, slots=True)
class RequireSameOrigin:
    """Refuses requests that another site's page made a browser send, and sets `SECURITY_HEADERS`.

    A browser that has once been given the token sends it with every request, whichever page asks. The
    webhooks are not checked, because no browser can send what proves their senders.
    """

    app: ASGIApp
    on_refusal: OnRefusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                missing = (header for header in SECURITY_HEADERS if header[0] not in present)
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        app = self.app
        if not scope["path"].startswith(WEBHOOKS) and _is_cross_origin(scope["method"], Headers(scope=scope)):
            self.on_refusal("auth.cross_origin")
            app = problem("auth.cross_origin")
        await app(scope, receive, send_with_headers)


def _is_cross_origin(method: str, headers: Headers) -> bool:
    """Return whether a browser names another site that made it send this; other programs name none."""
    if method in {"GET", "HEAD", "OPTIONS"}:
        return False
    site = headers.get("sec-fetch-site", "none")
    if site not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    if origin == "null" and site == "same-origin":
        # A form of the status page, whose policy keeps the origin from everybody (Fetch Standard, 3.1). No
        # page can set the other header.
        return False
    # Scheme, host and port, and nothing else (RFC 6454, 7.1); text that is no origin equals no host.
    return origin is not None and origin.partition("://")[2] != headers.get("host")


@dataclass(frozen=True, slots=True)
class RequireToken:
    """Refuses requests without one of the API tokens, as Bearer or as the password of HTTP Basic.

    Only `PUBLIC_PATHS` and the webhooks' need none: every other path does, whether or not there is such a
    route.
    """

    app: ASGIApp
    tokens: Sequence[str] = field(repr=False)
    on_refusal: OnRefusal = lambda _: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in PUBLIC_PATHS or path.startswith(WEBHOOKS) or is_admitted(self.tokens, scope["headers"]):
            await self.app(scope, receive, send)
            return
        self.on_refusal("auth.token_refused")
        refusal = problem("auth.token_refused")
        # A line each: Chromium reads one challenge to a line, and does not ask at all if more follows.
        for challenge in ('Basic realm="upscale-receiver", charset="UTF-8"', "Bearer"):
            refusal.headers.append("WWW-Authenticate", challenge)
        await refusal(scope, receive, send)


def is_admitted(tokens: Iterable[str], headers: RawHeaders) -> bool:
    """Return whether the headers of a request carry one of the API tokens."""
    given = _token([value.decode("latin-1") for name, value in headers if name == b"authorization"])
    admitted = False
    for token in tokens:  # all of them, so that the time does not tell which one came close
        admitted |= hmac.compare_digest(given, token.encode())
    return admitted


def _token(authorization: Sequence[str]) -> bytes:
    """Return the token of the Authorization header; empty, which equals no token, unless there is one."""
    scheme, _, value = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    # Starlette decodes headers as Latin-1; a token is compared as the bytes that came.
    credentials = value.strip().encode("latin-1")
    if scheme.lower() == "bearer":
        return credentials
    if scheme.lower() == "basic":
        with suppress(ValueError):
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
    return b""
