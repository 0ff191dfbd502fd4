"""What commands share: settings, messages, progress, signals, and exits."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from receiver import config as settings
from receiver.cli.interruption import INTERRUPTED
from receiver.cli.output import safe
from receiver.config import Config

L = TypeVar("L")
T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")]

DOTENV = Path(".env")
"""The file with further settings, in the working directory."""

OnProgress = Callable[..., None]
"""Called with how much is done, and the total if it is known."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a command runs in: the environment, and what ends it at once, whatever its threads wait for."""

    environ: Mapping[str, str]
    exit: Callable[[int], NoReturn]


INVOCATION: ContextVar[Invocation] = ContextVar("invocation")
"""Set by `commands.run`, so that tests can run a command in their own process."""


def load_config() -> tuple[Config, Mapping[str, str]]:
    """Return the settings and their environment. Raise `ConfigError` with a line that names a wrong one."""
    environ = settings.environment(INVOCATION.get().environ, DOTENV)
    export_library_variables(environ)
    return settings.load(environ), environ


def on_ledger(opening: Awaitable[AbstractAsyncContextManager[L]], work: Callable[[L], Awaitable[T]]) -> T:
    """Open a ledger, and return the result of work on it."""

    async def run() -> T:
        async with await opening as ledger:
            return await work(ledger)

    return asyncio.run(run())


def export_library_variables(environ: Mapping[str, str]) -> None:
    """Put variables of the AWS SDK and of libpq into the process's environment, from which they read them."""
    os.environ.update({name: value for name, value in environ.items() if name.startswith(("AWS_", "PG"))})


def print_message(text: str) -> None:
    """Print a line for the user on stderr, so that it does not go into a pipe."""
    print(f"receiver: {safe(text)}", file=sys.stderr)  # noqa: T201 - a command's message


def can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str) -> None:
    """Ask whether to go on. Raise `typer.Exit` if the answer is no, or nobody can be asked."""
    if can_ask() and is_wanted(question):
        return
    exit_undone(asked=can_ask())


def exit_undone(*, asked: bool) -> NoReturn:
    """End a command that needed a yes and got none."""
    print_message("nothing was done" if asked else "nothing was done; --yes does it")
    raise typer.Exit(1)


def is_wanted(question: str) -> bool:
    """Ask on the terminal. Nothing but a yes is a yes."""
    console = Console(stderr=True, highlight=False)
    try:
        answer = console.input(question, markup=False)
    except EOFError:
        console.print()  # end the question's line
        return False
    return answer.strip().lower() in {"y", "yes"}


def fail(message: str) -> NoReturn:
    print_message(message)
    raise SystemExit(1)


@contextlib.contextmanager
def progress_bar(unit: str, *, quiet: bool = False) -> Iterator[OnProgress]:
    """Show a progress bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _done, _total=None: None
        return
    from rich import progress  # noqa: PLC0415 - only here, since no other command needs it

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    # Rich would send stdout to the terminal too, also where it is redirected to a file.
    redirect = sys.stdout.isatty()
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)


def run_until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, bool]], if_aborted: str) -> None:
    """Run work, which returns whether everything was done; raise `typer.Exit` if it was not.

    The first SIGINT or SIGTERM sets its event, so that it ends in order. A second cancels it, and the user
    reads ``if_aborted``. After a signal the exit code is `INTERRUPTED`, else 1.
    """

    async def run() -> int:
        stopping = asyncio.Event()
        task = asyncio.create_task(work(stopping))
        code = 1  # work may also stop by itself

        def stop() -> None:
            nonlocal code
            if code == INTERRUPTED:
                task.cancel()
            code = INTERRUPTED
            stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        try:
            return 0 if await task else code
        except asyncio.CancelledError:
            print_message(f"cut off; {if_aborted}")
            return INTERRUPTED

    if code := asyncio.run(run()):
        raise typer.Exit(code)


def exit_now(code: int) -> NoReturn:
    """End the command at once, without waiting for its threads."""
    INVOCATION.get().exit(code)


def exit_process(code: int) -> NoReturn:
    """End the process at once. The interpreter would wait for threads, and a thread may wait for ever for a
    disk, a name server or a store.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
