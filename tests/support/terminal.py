"""Commands on a terminal: a real one, of the kernel's own."""

import contextlib
import os
import pty
import re
import select
import termios
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import PATIENCE, fork


class Typed(NamedTuple):
    """What somebody types once something was said; a secret is typed once the terminal shows it no more."""

    at: str
    text: str
    hidden: bool = False


def on_a_terminal(
    arguments: Sequence[str],
    folder: Path,
    values: Mapping[str, str],
    *,
    typed: str = "",
    script: Sequence[Typed] = (),
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
        script: what is typed instead, each once it is asked for.
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
        said, seen = b"", 0
        steps = deque(script or ([Typed(at, typed)] if typed else ()))
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while True:
                if steps and (found := said.find(steps[0].at.encode(), seen)) >= 0:
                    if steps[0].hidden and termios.tcgetattr(own)[3] & termios.ECHO:
                        select.select([own], [], [], 0.01)
                    else:
                        seen = found + len(steps[0].at.encode())
                        os.write(own, steps.popleft().text.encode())
                    if not select.select([own], [], [], 0)[0]:
                        continue
                if not (part := os.read(own, 65536)):
                    break
                said += part
        os.close(own)
        code = process.wait(PATIENCE)
    text = said.decode().replace("\r\n", "\n")
    return code, text if colours else re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
