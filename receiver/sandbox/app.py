"""The sandbox as one ASGI application: the stand-in of one provider."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from receiver.sandbox.fal import Fal
from receiver.sandbox.freepik import Freepik
from receiver.sandbox.jobs import Clock
from receiver.sandbox.options import Options, ProviderName
from receiver.sandbox.replicate import Replicate
from receiver.sandbox.standin import StandIn
from receiver.sandbox.ximilar.api import Ximilar

_STAND_INS: Mapping[ProviderName, Callable[[Options, Clock], StandIn[Any]]] = {
    ProviderName.XIMILAR: Ximilar,
    ProviderName.REPLICATE: Replicate,
    ProviderName.FAL: Fal,
    ProviderName.FREEPIK: Freepik,
}


def create_app(options: Options, clock: Clock = time.time) -> Starlette:
    """Return a sandbox without jobs, whose lifespan can run once and leaves nothing behind.

    The clock is for timestamps and the life of URLs, not for the delays.
    """
    return app_of(stand_in(options, clock))


def stand_in(options: Options, clock: Clock = time.time) -> StandIn[Any]:
    """Return a provider's stand-in without jobs.

    Raises:
        ValueError: a secret is none of the provider's.
    """
    return _STAND_INS[options.provider](options, clock)


def app_of(stand_in: StandIn[Any]) -> Starlette:
    """Return the application of a stand-in."""
    app = Starlette(
        routes=[*stand_in.routes(), stand_in.results.route()],
        lifespan=lambda _app: stand_in.running(),
        exception_handlers={HTTPException: stand_in.refused},
        max_body_size=stand_in.options.max_body_bytes,
    )
    # A redirect would lose the body of a POST in many clients; the routes exist in both forms instead.
    app.router.redirect_slashes = False
    return app
