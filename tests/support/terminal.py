"""Commands on a terminal: a real one, of the kernel's own."""

import contextlib
import os
import pty
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import PATIENCE, command, environment


def on_a_terminal(
    arguments: Sequence[str],
    folder: Path,
    values: Mapping[str, str],
    *,
    typed: str = "",
    columns: int = 160,
    colours: bool = False,
    interrupted_at: str = "",
) -> tuple[int, str]:
    """Runs a command of the receiver on a terminal. Gives its exit code, and what the terminal was sent.

    Args:
        arguments: of the command.
        folder: its working directory.
        values: its environment.
        typed: what somebody types.
        columns: the terminal's width.
        colours: whether what drives the terminal is left in.
        interrupted_at: a text; once the terminal has been sent it, the command gets the signal of Ctrl-C.
    """
    own, its = pty.openpty()
    given = {**environment(folder, values), "TERM": "xterm-256color", "COLUMNS": str(columns)}
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=given, stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        os.write(own, typed.encode())
        said = b""
        due = bool(interrupted_at)
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while part := os.read(own, 65536):
                said += part
                if due and interrupted_at.encode() in said:
                    process.send_signal(signal.SIGINT)
                    due = False
        os.close(own)
        code = process.wait(PATIENCE)
    text = said.decode().replace("\r\n", "\n")
    return code, text if colours else re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
