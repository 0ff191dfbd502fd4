"""``receiver doctor``."""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from receiver.cli import common, output
from receiver.cli.interruption import INTERRUPTED, interrupted_line
from receiver.config import environment
from receiver.core.errors import BodyError, ConfigError
from receiver.doctor import Level, Result, diagnose, read_sample
from receiver.providers.base import Setup

STYLES: Mapping[Level, str] = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "bold red"}


def doctor(
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all of the ledger, however long that takes.")
    ] = False,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only read a sample with this provider.")
    ] = None,
    sample: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The body of a delivery; - for stdin.")
    ] = None,
    as_json: common.AsJson = False,
) -> None:
    """Check everything that an installation needs, and say how to repair what fails.

    Works beside a running serve and without one. Secrets are neither shown, nor sent to strangers.
    Exit 1 if something fails; a warning does not. Ctrl-C ends it and shows what is known by then.

    With a provider and a sample it says what that provider reads in a body, and checks nothing else.
    """
    if (provider is None) != (sample is None):
        raise typer.BadParameter("--provider and --sample go together")
    if provider is not None and sample is not None:
        _read_sample(provider, sample, as_json=as_json)
        return
    work = partial(_doctor, deep=deep, as_json=as_json)
    common.run_until_signal(work, "nothing is shown of what was looked at")


async def _doctor(stopping: asyncio.Event, *, deep: bool, as_json: bool) -> NoReturn:
    own = dict(common.INVOCATION.get().environ)
    with contextlib.suppress(ConfigError):  # `diagnose` reports it
        common.export_library_variables(environment(own, common.DOTENV))
    with _waiting(quiet=as_json) as on_waiting:
        report = await diagnose(own, common.DOTENV, deep=deep, stopping=stopping, on_waiting=on_waiting)
    if as_json:
        checks = [asdict(result) for result in report.results]
        output.print_json({"ok": report.good, "checks": checks, "settings": list(report.settings)})
    else:
        show(report.results)
    levels = Counter(result.level for result in report.results)
    early = "" if report.finished else "stopped before the end: "
    failures, warnings = levels[Level.FAILURE], levels[Level.WARNING]
    common.print_message(f"{early}{_number(failures, 'failure')}, {_number(warnings, 'warning')}")
    if not report.finished:
        sys.stderr.write(interrupted_line())
        common.exit_now(INTERRUPTED)
    common.exit_now(0 if report.good else 1)


def _read_sample(provider: str, file: Path, *, as_json: bool) -> None:
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        common.fail(f"{file}: cannot be read ({error.strerror})")
    config, environ = common.load_config()
    try:
        found = read_sample(Setup(config, environ), provider, body)
    except BodyError as error:
        common.fail(f"{error.reason}: {error.detail}")
    if as_json:
        output.print_json(found)
        return
    output.print_line([found["id"], found["state"] or f"no end: {found['status']}"])
    if found.get("error"):
        output.print_line([found["error"]["reason"], found["error"]["detail"]])
    if found.get("is_asked_for"):
        output.print_line(["no outputs", "the provider will be asked for them"])
    for each in found["outputs"]:
        if each["error"]:
            output.print_line([each["id"], each["error"]["reason"], each["error"]["detail"]])
            continue
        promised = [f"{name} {value}" for name, value in each["promised"].items() if value is not None]
        promised += [str(each[name]) for name in ("bytes", "content_type") if each[name] is not None]
        fields = [each["id"], each["image_url"] or "no file", f"until {each['url_expires_at']}"]
        output.print_line([*fields, ", ".join(promised)])


@contextlib.contextmanager
def _waiting(*, quiet: bool) -> Iterator[Callable[[Sequence[str]], None]]:
    """Yield a function that shows the unfinished checks, on stderr if that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("Looking …") as status:
        yield lambda names: status.update(f"Looking at {', '.join(names)} …")


def show(results: Sequence[Result]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        for result in results:
            output.print_line([result.level, result.check, result.detail, result.remedy or ""])
        return
    grid = Table.grid(padding=(0, 2))
    for result in results:
        detail = Text(f"{result.check}: ", style="bold")
        detail.append(output.safe(result.detail), style="not bold")
        grid.add_row(Text(result.level, style=STYLES[result.level]), detail)
        if result.remedy:
            grid.add_row("", Text(f"→ {output.safe(result.remedy)}"))
    console.print(grid)


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
