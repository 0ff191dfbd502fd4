"""The command line; the commands themselves are in ``commands``, which takes a while to import."""

import os
import signal
import sys


def main() -> None:
    """Runs the command that was typed."""
    if sys.argv[1:2] == ["serve"]:
        # Until the server handles them itself, nothing is begun that would have to be ended in order.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
    from receiver.cli.commands import run  # noqa: PLC0415 - only now can its import be interrupted in order

    run()
