"""Commands on a terminal: a real one, of the kernel's own."""

import contextlib
import os
import pty
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import PATIENCE, fork


def on_a_terminal(
    arguments: Sequence[str],
    folder: Path,
    values: Mapping[str, str],
    *,
    typed: str = "",
    columns: int = 160,
    colours: bool = False,
    at: str = "",
    output: Path | None = None,
) -> tuple[int, str]:
    """Runs a command of the receiver on a terminal. Gives its exit code, and what the terminal was sent.

    Args:
        arguments: of the command.
        folder: its working directory.
        values: its environment.
        typed: what somebody types; a Ctrl-C among it interrupts the command.
        columns: the terminal's width.
        colours: whether what drives the terminal is left in.
        at: what must have been said before it is typed.
        output: a file that takes the standard output, as behind a ``>``.
    """
    own, its = pty.openpty()
    given = {**values, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    with contextlib.ExitStack() as stack:
        stdout = its if output is None else stack.enter_context(output.open("wb")).fileno()
        process = fork(arguments, folder, given, [its, stdout, its], terminal=True)
        stack.callback(process.kill)
        os.close(its)
        said = b""
        waiting = typed.encode()
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while True:
                if waiting and at.encode() in said:
                    os.write(own, waiting)
                    waiting = b""
                if not (part := os.read(own, 65536)):
                    break
                said += part
        os.close(own)
        code = process.wait(PATIENCE)
    text = said.decode().replace("\r\n", "\n")
    return code, text if colours else re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
