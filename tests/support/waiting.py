"""Waiting for what only asking can tell."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.processes import PATIENCE

T = TypeVar("T")

PAUSE = 0.05
"""Seconds between two questions, so that the asking is no load of its own."""


def eventually(found: Callable[[], T], patience: float = PATIENCE) -> T:
    """What is found, asked again and again until it is true.

    Raises:
        AssertionError: it was not true for ``patience`` seconds.
    """
    until = time.monotonic() + patience
    while not (it := found()):
        assert time.monotonic() < until, f"not within {patience:g} s"
        time.sleep(PAUSE)
    return it
