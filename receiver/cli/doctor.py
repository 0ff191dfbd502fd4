"""``receiver doctor``: does the installation have everything that it needs?"""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from receiver.cli import INTERRUPTED, interruption, output
from receiver.cli.common import DOTENV, INVOCATION, AsJson, give_to_sdk, leave, say, until_signal
from receiver.config import environment
from receiver.core.errors import ConfigError
from receiver.doctor import Level, Report, diagnose

STYLES: Mapping[Level, str] = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "bold red"}


def doctor(
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all of the ledger, however long that takes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check everything that an installation needs, and say how to repair what fails.

    Works beside a running serve and without one. Secrets are neither shown, nor sent to strangers.
    Exit 1 if something fails; a warning does not. Ctrl-C ends it and shows what is known by then.
    """
    until_signal(partial(_doctor, deep=deep, as_json=as_json), "nothing is shown of what was looked at")


async def _doctor(stopping: asyncio.Event, *, deep: bool, as_json: bool) -> NoReturn:
    own = dict(INVOCATION.get().environ)
    with contextlib.suppress(ConfigError):  # it is told among the findings
        give_to_sdk(environment(own, DOTENV))
    with _waiting(quiet=as_json) as waiting:
        report = await diagnose(own, DOTENV, deep=deep, stopping=stopping, waiting=waiting)
    if as_json:
        output.print_json(_document(report))
    else:
        _show(report)
    levels = Counter(verdict.level for verdict in report.verdicts)
    early = "" if report.finished else "stopped before the end: "
    say(f"{early}{_number(levels[Level.FAILURE], 'failure')}, {_number(levels[Level.WARNING], 'warning')}")
    if not report.finished:
        sys.stderr.write(interruption())
        leave(INTERRUPTED)
    leave(0 if report.good else 1)


@contextlib.contextmanager
def _waiting(*, quiet: bool) -> Iterator[Callable[[Sequence[str]], None]]:
    """Gives a function that shows what is waited for: on a terminal, on the standard error."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("Looking …") as status:
        yield lambda names: status.update(f"Looking at {', '.join(names)} …")


def _show(report: Report) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        for verdict in report.verdicts:
            output.print_line([verdict.level, verdict.check, verdict.detail, verdict.remedy or ""])
        return
    grid = Table.grid(padding=(0, 2))
    for verdict in report.verdicts:
        said = Text(f"{verdict.check}: ", style="bold")
        said.append(output.safe(verdict.detail), style="not bold")
        grid.add_row(Text(verdict.level, style=STYLES[verdict.level]), said)
        if verdict.remedy:
            grid.add_row("", Text(f"→ {output.safe(verdict.remedy)}"))
    console.print(grid)


def _document(report: Report) -> dict[str, Any]:
    return {
        "ok": report.good,
        "checks": [
            {"check": v.check, "level": v.level.value, "detail": v.detail, "remedy": v.remedy}
            for v in report.verdicts
        ],
        "settings": list(report.settings),
    }


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
