"""``receiver forget``: gives up jobs that were announced and never received."""

import asyncio
import sys

import typer
from rich.console import Console

from receiver.cli import output
from receiver.cli.common import AsJson, Yes, is_wanted, load_config, print_message
from receiver.cli.selection import JobId, find_job
from receiver.config import Config
from receiver.core import serializers
from receiver.core.jobs import Job, State
from receiver.ledger import Ledger, LedgerReader


def forget(job_id: JobId, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Give up a job of which nothing was received, such as one that was announced under a mistyped id.

    It is shown first, and given up after a yes; in a pipe only with --yes. It is `failed` then, and no longer
    overdue or asked for. Its completion is taken all the same, should it come.
    """
    config, _ = load_config()
    job = asyncio.run(_find(config, job_id))
    if job.state is State.SUBMITTED and not yes:  # others are refused below
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        if asks:
            output.facts(serializers.job(job), Console(stderr=True, soft_wrap=True))
        if not asks or not is_wanted("Give this job up? [y/N] "):
            print_message("nothing was done" if asks else "nothing was done; --yes does it")
            raise typer.Exit(1)
    job = asyncio.run(_forget(config, job))
    if as_json:
        output.print_json(serializers.job(job))
    print_message(f"job {job.id} is given up")


async def _find(config: Config, text: str) -> Job:
    async with await LedgerReader.open(config.ledger_location) as reader:
        return await find_job(reader, text)


async def _forget(config: Config, job: Job) -> Job:
    async with await Ledger.open_beside(config.ledger_location) as ledger:
        return await ledger.forget(job.id)
