"""The sandbox as one ASGI application."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from receiver.sandbox.api import Api
from receiver.sandbox.errors import Errors
from receiver.sandbox.jobs import Clock, Files
from receiver.sandbox.options import Options
from receiver.sandbox.provider import Provider
from receiver.sandbox.results import Results


def create_app(options: Options, clock: Clock = time.time) -> Starlette:
    """Return a sandbox without jobs. Its lifespan can be run once, and removes all files at the end.

    Args:
        options: how it behaves.
        clock: decides timestamps and the expiry of URLs, not the delays.
    """
    files = Files()
    client = _client()
    provider = Provider(options, files, client, clock)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        with files:
            async with client, provider:
                yield

    app = Starlette(
        routes=[*Api(provider).routes(), Route("/ximilar-tmp-images/{name}", Results(provider).get)],
        lifespan=lifespan,
        exception_handlers={HTTPException: Errors(options.error_shape).refused},
        max_body_size=options.max_body_bytes,
    )
    # A redirect would lose the body of a POST in many clients; the routes exist in both forms instead.
    app.router.redirect_slashes = False
    return app


def _client() -> httpx.AsyncClient:
    """Return a client that uses no proxy, since it connects to loopback only. Callers limit the time."""
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=None,  # noqa: S113 - every call has an asyncio.timeout, which also bounds slow bodies
        headers={"User-Agent": "ximilar-sandbox", "Accept-Encoding": "identity"},
    )
