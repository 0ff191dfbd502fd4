"""``receiver archive-move``."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated

import typer

from receiver.archive.base import Inventory
from receiver.archive.factory import open_archive
from receiver.cli.common import progress_bar
from receiver.cli.maintenance import json_lines, load_checked_config, print_report
from receiver.config import Config
from receiver.core.errors import ConfigError
from receiver.ledger import Ledger
from receiver.operations.relocate import SAMPLE, move


def archive_move(
    former: Annotated[
        str,
        typer.Argument(metavar="FROM", help="Where the images lay: s3://bucket/prefix or file:///folder."),
    ],
    present: Annotated[str, typer.Argument(metavar="TO", help="Where they lie now, under the same keys.")],
    *,
    check_all: Annotated[
        bool, typer.Option("--all", help=f"Look at all images, and not only {SAMPLE}.")
    ] = False,
    as_json: Annotated[bool, json_lines("image not found")] = False,
) -> None:
    """Record in the ledger that the images of FROM, an archive that was moved as a whole, lie in TO now.

    It moves no image. It compares a sample of them with the ledger, and records nothing if one is not there
    or holds other bytes. With --all it compares each image, records those that are right, and names the
    others. Exit 1 if one is wrong. A serve that has TO as its RECEIVER_ARCHIVE needs no command if nothing
    is left in FROM: it notices at its start.
    """
    config, environ = load_checked_config()
    source = _opened(former, "FROM", environ)
    target = _opened(present, "TO", environ)
    if source.uri == target.uri:
        raise typer.BadParameter("FROM and TO are the same", param_hint="TO")
    if not asyncio.run(_move(config, source, target, check_all=check_all, as_json=as_json)):
        raise typer.Exit(1)


def _opened(uri: str, name: str, environ: Mapping[str, str]) -> Inventory:
    try:
        return open_archive(uri, environ=environ)
    except ConfigError as error:
        raise typer.BadParameter(str(error).partition(": ")[2], param_hint=name) from None


async def _move(
    config: Config, source: Inventory, target: Inventory, *, check_all: bool, as_json: bool
) -> bool:
    async with (
        await Ledger.open_beside(config.ledger_location, make=False) as ledger,
        aclosing(source),
        aclosing(target),
    ):
        with progress_bar("images", quiet=as_json) as on_progress:
            checked, changed, findings = await move(
                ledger,
                f"{source.uri}/",
                target,
                check_all=check_all,
                concurrency=config.uploads,
                on_progress=on_progress,
            )
        if not checked:
            raise ConfigError(f"FROM: the ledger knows of no image in {source.uri}")
    lines = [(checked, "images looked at"), (changed, "images recorded at their new place")]
    summary = {"from": source.uri, "to": target.uri, "checked": checked, "changed": changed}
    print_report(findings, lines, summary, as_json=as_json)
    return not findings
