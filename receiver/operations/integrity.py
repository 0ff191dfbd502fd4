"""Reads the whole ledger after the start, which has only checked a part of a large one."""

import asyncio

import structlog

from receiver.core.errors import LedgerError
from receiver.ledger import Ledger

log = structlog.get_logger("receiver.ledger")


async def look_for_damage(ledger: Ledger) -> None:
    """Check the ledger once. If it is damaged, the log says so, and no delivery is taken any more."""
    await asyncio.sleep(1)  # the start's own work comes first
    try:
        await ledger.check_for_damage()
    except LedgerError as error:
        log.error("ledger is damaged", reason=error.reason, detail=error.detail)  # noqa: TRY400 - not a bug
