"""``receiver accept``: archives bytes that verification refused."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from receiver.bootstrap.factories import open_spool
from receiver.cli import output
from receiver.cli.common import AsJson, Yes, can_ask, is_wanted, load_config, print_message
from receiver.cli.selection import JobId, find_job
from receiver.config import Config
from receiver.core import serializers
from receiver.ledger import Ledger, LedgerReader
from receiver.operations import acceptance
from receiver.operations.acceptance import RefusedBytes


def accept(
    job_id: JobId,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would be.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Archive the bytes of a job that verification refused, as they are.

    What they are is shown first, and they are accepted after a yes; in a pipe only with --yes. Bytes from an
    address or a source that is not allowed were never fetched, and cannot be accepted.
    """
    config, _ = load_config()
    found = asyncio.run(_find(config, job_id))
    document = {
        "id": found.job.id,
        "ref": found.job.ref,
        "state": found.job.state.value,
        "format": found.image.format,
        "bytes": found.image.bytes,
        "sha256": found.image.sha256,
        "reason": found.refusal.reason,
        "detail": found.refusal.detail,
        "refused_at": serializers.time(found.refusal.at),
        "file": str(found.path),
    }
    asks = not yes and not dry_run and can_ask()
    if asks or not as_json:
        output.facts(document, Console(stderr=asks, soft_wrap=True))
    done = not dry_run and (yes or (asks and is_wanted("Archive these bytes as they are? [y/N] ")))
    if done:
        asyncio.run(_accept(config, found))
    if as_json and (done or not asks):
        output.print_json({"accepted": done, **document})
    if dry_run:
        return
    if not done:
        print_message("nothing was done" if asks else "nothing was done; --yes does it")
        raise typer.Exit(1)
    print_message("accepted; a running serve archives them within a second, else the next start")


async def _find(config: Config, text: str) -> RefusedBytes:
    async with await LedgerReader.open(config.ledger_location) as reader:
        job = await find_job(reader, text)
        return await acceptance.find_refused(reader, open_spool(config), job.id)


async def _accept(config: Config, found: RefusedBytes) -> None:
    async with await Ledger.open_beside(config.ledger_location) as ledger:
        await acceptance.accept(ledger, open_spool(config), found.job.id, found.image.sha256)
