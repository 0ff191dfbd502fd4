"""``receiver reconcile``: one full round of asking the provider, by hand."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from receiver import config as settings
from receiver import tables
from receiver.config import Config
from receiver.errors import ConfigError
from receiver.ledger import Ledger, wall_clock
from receiver.opening import make_data_dir, open_reconciler
from receiver.reconcile import Progress as Told
from receiver.reconcile import Summary

ALL = 1_000_000
"""Silent jobs of one round by hand: as good as all."""


def reconcile(
    *,
    adopt: Annotated[
        bool | None,
        typer.Option(help="Take in completed jobs that nobody announced; else as RECEIVER_ADOPT says."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=1000, help="Questions a second; else RECEIVER_RECONCILE_RATE."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask the provider about every job that has not been heard of, overdue or not.

    What is found is fetched by a running serve, or by the next one.
    """
    config = settings.load(settings.environment(os.environ, Path(".env")))
    if config.ximilar_api_token is None:
        raise ConfigError("XIMILAR_API_TOKEN: is needed to ask the provider with")
    chosen = {
        name: value for name, value in (("adopt", adopt), ("reconcile_rate", rate)) if value is not None
    }
    summary = asyncio.run(_round(config.model_copy(update=chosen), quiet=as_json))
    if as_json:
        tables.print_json(_document(summary))
    else:
        _tell(summary)
    if summary.trouble is not None:
        raise typer.Exit(1)


async def _round(config: Config, *, quiet: bool) -> Summary:
    make_data_dir(config)
    async with contextlib.AsyncExitStack() as stack:
        ledger = await Ledger.beside(config.data_dir)
        stack.push_async_callback(ledger.close)
        reconciler = await open_reconciler(config, ledger, stack)
        assert reconciler is not None, "there is a token"
        with _progress(quiet=quiet) as told:
            now = wall_clock()
            # The years between now and then take in jobs that were asked about a moment ago, too.
            later = now + int(config.url_lifetime.total_seconds() * 1000)
            return await reconciler.round(silent_since=now + 1, ask_by=later, limit=ALL, progress=told)


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Told]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _done, _wanted: None
        return
    columns = (TextColumn("asked"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("asked", total=None)
        show: Callable[[int, int], None] = lambda done, wanted: progress.update(  # noqa: E731 - one line of glue
            task, completed=done, total=wanted
        )
        yield show


def _document(summary: Summary) -> dict[str, Any]:
    trouble = summary.trouble
    return {
        **{name: value for name, value in asdict(summary).items() if name != "trouble"},
        "error": trouble and {"reason": trouble.reason, "detail": trouble.detail},
    }


def _tell(summary: Summary) -> None:
    lines = [
        (summary.asked, "asked about"),
        (summary.found, f"found that were never delivered, {summary.failed} of them failures"),
        (summary.adopted, "adopted that nobody had announced"),
        (summary.running, "still running"),
        (summary.unanswered, "without an answer"),
        (summary.settled, "submits settled whose answer was lost"),
    ]
    for number, what in lines:
        typer.echo(f"{number:>7}  {what}")
    if summary.trouble is not None:
        typer.echo(
            f"receiver: cut short with {summary.left} left: {summary.trouble}; run it again later", err=True
        )
