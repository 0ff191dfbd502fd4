"""The command line; the commands themselves are in ``commands``, which takes a while to import."""

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""The exit code of a command that was interrupted before it was done, as shells have it."""


def main() -> None:
    """Runs the command that was typed."""
    _open_streams()
    if sys.argv[1:2] == ["serve"]:
        gc.disable()  # a start leaves next to no garbage, and looking for it is a tenth of its work
        # Until the server handles them itself, nothing is begun that would have to be ended in order.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, exit_interrupted)
    from receiver.cli.commands import start  # noqa: PLC0415 - only now can its import be interrupted in order

    start()


def exit_interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    """What Ctrl-C does while nothing is begun yet, or all is done: one line, where Python has a traceback."""
    os.write(2, interrupted_line().encode())
    os._exit(INTERRUPTED)


def interrupted_line() -> str:
    """The last word of a command that was interrupted; a terminal shows the ``^C`` on a line of its own."""
    return ("\n" if os.isatty(2) else "") + "receiver: interrupted\n"


def _open_streams() -> None:
    """Whoever closed a stream wants nothing of it: it leads nowhere, and no file of ours gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - stays open
