"""Starts the command ``receiver`` as a real process, without the time that its imports take.

A fork server is a process that has imported what ``serve`` does, and forks for each start. The fork gets a
session, working directory, environment and streams of its own, and runs the command's ``main``. A test of the
start itself, such as of its imports or of early signals, needs a start by the interpreter instead.
"""

import atexit
import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO


class ForkServer:
    """The tests' end of a fork server, which is started with this and ends with the tests' process.

    Args:
        environ: of the fork server itself, which the interpreter and its modules read at their start.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._requests, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno())],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,  # Ctrl-C is the tests' to handle
            )
        self._turn = threading.Lock()
        atexit.register(self._end)

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        streams: Sequence[int],
        *,
        terminal: bool = False,
    ) -> "Forked":
        """Starts a command.

        Args:
            arguments: of the command.
            folder: its working directory.
            environ: all of its environment.
            streams: its standard input, output and errors.
            terminal: whether standard input is a terminal, which becomes its own.
        """
        status, its_status = os.pipe()
        request = json.dumps([arguments, str(folder), dict(environ), terminal]).encode()
        with self._turn:
            socket.send_fds(self._requests, [b"\0"], [*streams, its_status])
            self._requests.sendall(request + b"\n")
            os.close(its_status)
            return Forked(os.fdopen(status))

    def _end(self) -> None:
        self._requests.close()
        self._process.wait()


class Forked:
    """A process that a fork server has started: the part of `subprocess.Popen` that tests use.

    Args:
        status: on which the fork server writes its process id, then its exit code, and which it closes then.
    """

    def __init__(self, status: TextIO) -> None:
        self._status = status
        self.pid = int(status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; ``None`` while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, waited for.

        Raises:
            subprocess.TimeoutExpired: it runs for longer than ``timeout`` seconds.
        """
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._status, 0)  # for its other end being closed
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("receiver", timeout or 0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it without a word."""
        self.send_signal(signal.SIGKILL)


def fork_for_each(requests: socket.socket) -> list[str]:
    """Forks for each request, and returns in each fork, with the arguments of its command."""
    running: dict[int, int] = {}

    def report(*_: object) -> None:
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            answer = running.pop(pid)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(answer, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(answer)

    signal.signal(signal.SIGCHLD, report)
    gc.collect()
    gc.freeze()  # else each fork would copy all of it, to look for garbage in it
    lines = requests.makefile("rb")
    while (received := socket.recv_fds(requests, 1, 4))[0]:
        *streams, answer = received[1]
        arguments, folder, environ, terminal = json.loads(lines.readline())
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # until the new process is known
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (requests.detach(), answer, *running.values()):
                os.close(descriptor)
            _enter(folder, environ, streams, terminal=terminal)
        else:
            os.write(answer, b"%d\n" % pid)
            running[pid] = answer
        for descriptor in streams:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        if pid == 0:
            return list(arguments)
    sys.exit()


def _enter(folder: str, environ: Mapping[str, str], streams: Sequence[int], *, terminal: bool) -> None:
    os.setsid()  # a group of its own, so that one signal ends all of it
    os.chdir(folder)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()


if __name__ == "__main__":
    import receiver.archive.s3.archive
    import receiver.archive.s3.client
    import receiver.cli.commands
    import receiver.cli.serve  # noqa: F401 - loaded before the forks
    from receiver.cli import main

    sys.argv[1:] = fork_for_each(socket.socket(fileno=int(sys.argv[1])))
    main()
