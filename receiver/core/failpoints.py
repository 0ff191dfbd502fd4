"""Failpoints: named points at which a test can kill the process.

``RECEIVER_CUT_AT`` arms one. Only tests set it, and the container refuses it. An unarmed failpoint is a call
that does nothing.
"""

import os
import signal
from collections.abc import Callable, Mapping

from receiver.core.errors import ConfigError

ARMED_BY = "RECEIVER_CUT_AT"
CONTAINER = "RECEIVER_CONTAINER"
"""Set in the shipped image."""

POINTS = ("recorded", "spooled", "fetched", "stored", "archived")
"""After a delivery's commit; an image's fsync; the record of it; an upload's proof; the record of that."""

Failpoint = Callable[[str], None]


def no_failpoint(point: str) -> None:
    """Do nothing: the failpoint of every process outside the tests."""


def from_environment(environ: Mapping[str, str]) -> Failpoint:
    """Return the failpoint that ``RECEIVER_CUT_AT`` arms. It kills this process when its point is reached."""
    point = environ.get(ARMED_BY)
    if not point:
        return no_failpoint
    if environ.get(CONTAINER):
        raise ConfigError(f"{ARMED_BY}: is for tests, and refused in the container")
    if point not in POINTS:
        raise ConfigError(f"{ARMED_BY}: is none of {', '.join(POINTS)}")

    def failpoint(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return failpoint
