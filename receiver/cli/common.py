"""What all commands do alike: settings, last words, progress, signals, and how they end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from receiver import config as settings
from receiver.cli import INTERRUPTED
from receiver.cli.output import safe
from receiver.config import Config

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DOTENV = Path(".env")
"""Where settings stand beside the environment, in the working folder."""

Counted = Callable[[int, int | None], None]
"""Called with how much is done, and of how much, where that is known."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a command runs in.

    Attributes:
        environ: the variables that it was started with.
        leave: ends it at once with an exit code, whatever its threads wait for.
    """

    environ: Mapping[str, str]
    leave: Callable[[int], NoReturn]


INVOCATION: ContextVar[Invocation] = ContextVar("invocation")
"""Set by `commands.run`, so that tests can run a command in their own process."""


def opened() -> tuple[Config, Mapping[str, str]]:
    """The settings, and the environment that they come from.

    Raises:
        ConfigError: one line that names the setting.
    """
    environ = settings.environment(INVOCATION.get().environ, DOTENV)
    return settings.load(environ), environ


def give_to_sdk(environ: Mapping[str, str]) -> None:
    """Hands the AWS SDK its variables: it reads dozens, some of them late, and all from the process alone."""
    os.environ.update({name: value for name, value in environ.items() if name.startswith("AWS_")})


def say(message: str) -> None:
    """One line for whoever typed the command, beside what a pipe takes."""
    print(f"receiver: {safe(message)}", file=sys.stderr)  # noqa: T201 - for whoever typed the command


def fail(message: str) -> NoReturn:
    """Ends the command as not done."""
    say(message)
    raise SystemExit(1)


@contextlib.contextmanager
def counting(what: str, *, quiet: bool = False) -> Iterator[Counted]:
    """A progress bar on a terminal, on the standard error; elsewhere nothing."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _done, _total: None
        return
    # Only here, since no other command waits for this import.
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Rich would take what is printed meanwhile to the terminal, away from the file that it is meant for.
    aside = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=aside) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, bool]], cut_off: str) -> None:
    """Does it. The first SIGINT or SIGTERM sets the event, so that it ends in order; a second cuts it off.

    Args:
        work: gives whether all of it was done.
        cut_off: what is then to be known.

    Raises:
        typer.Exit: not all was done; with `INTERRUPTED` after a signal, else with 1.
    """
    if code := asyncio.run(_until_signal(work, cut_off)):
        raise typer.Exit(code)


async def _until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, bool]], cut_off: str) -> int:
    stopping = asyncio.Event()
    task = asyncio.create_task(work(stopping))
    code = 1  # the work may stop by itself, too

    def stop() -> None:
        nonlocal code
        if code == INTERRUPTED:
            task.cancel()
        code = INTERRUPTED
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        done = await task
    except asyncio.CancelledError:
        say(f"cut off; {cut_off}")
        return INTERRUPTED
    return 0 if done else code


def leave(code: int) -> NoReturn:
    """End the command at once, without waiting for its threads."""
    INVOCATION.get().leave(code)


def leave_process(code: int) -> NoReturn:
    """End the process at once: what may be left is a thread that waits for a disk, a name or a store which
    does not answer, and the interpreter would wait for it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
