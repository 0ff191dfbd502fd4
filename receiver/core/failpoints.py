"""Named points at which a test can have the process killed, as a power cut would.

They are armed by ``RECEIVER_CUT_AT``, which nobody but a test sets and the container refuses. Unarmed, a cut
is a call that does nothing.
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

Cut = Callable[[str], None]


def no_cut(point: str) -> None:
    """What every process but a test's has."""


def from_environment(environ: Mapping[str, str]) -> Cut:
    """The cut that ``RECEIVER_CUT_AT`` arms: it kills this process the first time its point is reached.

    Raises:
        ConfigError: there is no such point, or this is the container, which refuses it.
    """
    point = environ.get(ARMED_BY)
    if not point:
        return no_cut
    if environ.get(CONTAINER):
        raise ConfigError(f"{ARMED_BY}: is for tests, and refused in the container")
    if point not in POINTS:
        raise ConfigError(f"{ARMED_BY}: is none of {', '.join(POINTS)}")

    def cut(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return cut
