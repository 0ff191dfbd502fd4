"""``receiver accept``: archives bytes that verification refused."""

from typing import Annotated

import typer
from rich.console import Console

from receiver.bootstrap.factories import open_spool
from receiver.cli import output
from receiver.cli.common import (
    AsJson,
    Yes,
    can_ask,
    exit_undone,
    is_wanted,
    load_config,
    on_ledger,
    print_message,
)
from receiver.cli.selection import JobId, find_job
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

    async def find(reader: LedgerReader) -> RefusedBytes:
        job = await find_job(reader, job_id)
        return await acceptance.find_refused(reader, open_spool(config), job.id)

    async def take(ledger: Ledger) -> None:
        await acceptance.accept(ledger, open_spool(config), found.job.id, found.image.sha256)

    found = on_ledger(LedgerReader.open(config.ledger_location), find)
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
        on_ledger(Ledger.open_beside(config.ledger_location), take)
    if as_json and (done or not asks):
        output.print_json({"accepted": done, **document})
    if dry_run:
        return
    if not done:
        exit_undone(asked=asks)
    print_message("accepted; a running serve archives them within a second, else the next start")
