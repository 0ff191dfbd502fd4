"""The sandbox as one ASGI application: the stand-in of one provider."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette

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
    return stand_in(options, clock).app()


def stand_in(options: Options, clock: Clock = time.time) -> StandIn[Any]:
    """Return a provider's stand-in without jobs.

    Raises:
        ValueError: a secret is none of the provider's.
    """
    return _STAND_INS[options.provider](options, clock)
