"""``receiver disk-lost``: gives up the disk of a receiver that will not come back."""

import asyncio
import sys
from typing import Annotated

import typer

from receiver.cli.common import Yes, fail, is_wanted, load_config, print_message
from receiver.config import Config
from receiver.ledger import Ledger

Name = Annotated[str, typer.Argument(help="The receiver's RECEIVER_INSTANCE.", show_default=False)]


def disk_lost(name: Name, *, yes: Yes = False) -> None:
    """Give up the disk of a receiver that will not come back, of several on one ledger.

    Images that only that disk has are fetched again. Those whose URL lives no more become `expired`, unless
    the provider names another one. It asks first; in a pipe it needs --yes.
    """
    config, _ = load_config()
    if not yes:
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        if not asks or not is_wanted(f"Give up the disk of {name} for good? [y/N] "):
            print_message("nothing was done" if asks else "nothing was done; --yes does it")
            raise typer.Exit(1)
    jobs = asyncio.run(_give_up(config, name))
    if jobs is None:
        fail(f"no receiver named {name} is dead; one that is killed is noticed after a minute")
    print_message(f"the images of {len(jobs)} jobs are fetched again, as far as their URLs live")


async def _give_up(config: Config, name: str) -> list[str] | None:
    async with await Ledger.open_beside(config.ledger_location) as ledger:
        return await ledger.give_up_disk(name)
