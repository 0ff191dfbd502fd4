"""The command line. The commands are in ``commands``, which takes long to import."""

import gc
import os
import signal
import sys

from receiver.cli.interruption import exit_interrupted


def main() -> None:
    """Run the command of `sys.argv`."""
    _open_streams()
    if sys.argv[1:2] == ["serve"]:
        gc.disable()  # a start creates almost no garbage, and looking for it takes a tenth of its time
        # Until the server handles these signals, nothing has to be ended in order.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, exit_interrupted)
    from receiver.cli.commands import start  # noqa: PLC0415 - after the signal handlers

    start()


def _open_streams() -> None:
    """Open /dev/null for closed standard streams, so that no other file gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - stays open
