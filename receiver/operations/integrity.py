"""Reads the whole ledger after the start, which has only checked a part of a large one."""

import asyncio

import structlog

from receiver.core.errors import LedgerError
from receiver.ledger import Ledger

log = structlog.get_logger("receiver.ledger")

PAUSE_SECONDS = 1.0
"""The start's own work comes first."""


async def look_for_damage(ledger: Ledger, pause: float = PAUSE_SECONDS) -> None:
    """Check the ledger once. If it is damaged, the log says so, and no delivery is taken any more."""
    await asyncio.sleep(pause)
    try:
        await ledger.check_for_damage()
    except LedgerError as error:
        log.error("ledger is damaged", reason=error.reason, detail=error.detail)  # noqa: TRY400 - not a bug
