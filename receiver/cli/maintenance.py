"""What the commands that keep ledger and archive have in common."""

import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from receiver.bootstrap.factories import check_settings
from receiver.cli import common
from receiver.cli.options import decimal
from receiver.cli.output import safe
from receiver.config import Config
from receiver.core.rate_limit import RateLimiter
from receiver.operations.checkpoint import Finding

Rate = Annotated[float | None, decimal("At most so many objects a second.", 0.001, 100_000)]
FromStart = Annotated[
    bool, typer.Option("--from-start", help="Begin anew, and not where the last run was cut off.")
]

SHOWN = 200
"""Findings in a table on a terminal; in a pipe and as JSON it is all of them."""


def opened() -> tuple[Config, Mapping[str, str]]:
    """The settings, checked, and the environment that they come from.

    Raises:
        ConfigError: one line that names the setting.
    """
    config, environ = common.opened()
    check_settings(config)
    common.give_to_sdk(environ)
    os.umask(0o077)  # whatever is made here is the owner's alone
    return config, environ


def turns(rate: float | None) -> Callable[[], Awaitable[None]]:
    """Waits for the next object's turn: so many a second, where a rate is given."""
    return _at_once if rate is None else RateLimiter(rate).wait


async def _at_once() -> None:
    """The turn of a run without a rate."""


def print_lines(documents: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    for document in documents:
        print(json.dumps(document, ensure_ascii=False))  # noqa: T201 - a command's output


def print_findings(findings: Iterable[Finding]) -> None:
    """A table on a terminal, tab-separated lines in a pipe."""
    console = Console()
    if not console.is_terminal:
        for finding in findings:
            typer.echo("\t".join(safe(cell) for cell in _cells(finding)))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("job", "reason", "object", "detail"):
        table.add_column(name, overflow="fold")
    more = 0
    for finding in findings:
        if table.row_count < SHOWN:
            table.add_row(*(Text(safe(cell)) for cell in _cells(finding)))
        else:
            more += 1
    if table.row_count:
        console.print(table)
    if more:
        console.print(f"… and {more} more; --json gives all of them.", style="dim")


def print_counts(lines: Iterable[tuple[int, str]]) -> None:
    """How many of what."""
    for number, what in lines:
        typer.echo(f"{number:>9}  {what}")


def _cells(finding: Finding) -> tuple[str, ...]:
    return (finding["job"] or "", finding["reason"], finding["uri"] or "", finding["detail"])
