"""What readiness depends on, and how each of it is looked at."""

from receiver.api.routes import Check
from receiver.core.errors import REASONS, LedgerError, ReceiverError, SpoolError
from receiver.ledger import Ledger
from receiver.pipeline.worker import Worker
from receiver.reconcile.reconciler import Reconciler


def checks(ledger: Ledger, worker: Worker, reconciler: Reconciler | None) -> list[Check]:
    """The checks, in the order in which they are named.

    Args:
        ledger: takes a commit for it.
        worker: knows its stages, the spool's room, and what the archive said.
        reconciler: works too; ``None`` where there is none.
    """

    async def ledger_writable() -> str | None:
        try:
            await ledger.check_writable()
        except LedgerError as error:
            return _for_strangers(error)
        return None

    async def workers_alive() -> str | None:
        alive = worker.alive() and (reconciler is None or reconciler.alive())
        return None if alive else "A worker has ended, or cannot claim work: the log says why."

    async def spool_has_room() -> str | None:
        try:
            return None if await worker.spool_has_room() else "No download fits any more."
        except (LedgerError, SpoolError) as error:
            return _for_strangers(error)

    async def archive_reachable() -> str | None:
        # Nobody has to show a token here, and the error's own words name the bucket and its host.
        trouble = worker.archive_error
        return None if trouble is None else _for_strangers(trouble)

    return [
        Check("ledger", ledger_writable),
        Check("workers", workers_alive),
        Check("spool", spool_has_room),
        Check("archive", archive_reachable),
    ]


def _for_strangers(error: ReceiverError) -> str:
    """What is wrong, without paths, buckets and a store's own words: those stand in the log alone."""
    return f"{error.reason}: {REASONS[error.reason]}"
