"""Ends an interrupted command. Imports little, because it must work from the first moment."""

import os
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""The exit code of a command that was interrupted before it was done, as shells have it."""


def exit_interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    """End the process with one line instead of a traceback, while no work is active."""
    os.write(2, interrupted_line().encode())
    os._exit(INTERRUPTED)


def interrupted_line() -> str:
    """Return the last line of an interrupted command, below the ``^C`` that a terminal shows."""
    return ("\n" if os.isatty(2) else "") + "receiver: interrupted\n"
