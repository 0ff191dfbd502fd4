"""The checks that readiness depends on."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from receiver.core.errors import REASONS, LedgerError, ReceiverError, SpoolError
from receiver.ledger import Ledger
from receiver.pipeline.worker import Worker
from receiver.reconcile.reconciler import Reconciler

Probe = Callable[[], Awaitable[str | None]]
"""Returns what is wrong in a sentence, or ``None``."""


def readiness_checks(
    ledger: Ledger, worker: Worker, reconcilers: Sequence[Reconciler]
) -> Mapping[str, Probe]:
    """Return the checks by name, in the order in which ``/readyz`` names them. That of the ledger commits."""

    async def ledger_writable() -> str | None:
        try:
            await ledger.check_writable()
        except LedgerError as error:
            return _without_secrets(error)
        return None

    async def workers_alive() -> str | None:
        alive = worker.alive() and all(it.alive() for it in reconcilers)
        return None if alive else "A worker has ended, or cannot claim work: the log says why."

    async def spool_has_room() -> str | None:
        try:
            room = worker.spool.room(await ledger.spool_bytes(), in_progress=0)
        except (LedgerError, SpoolError) as error:
            return _without_secrets(error)
        return None if room else "No download fits any more."

    async def decoder_starts() -> str | None:
        return _without_secrets(worker.fetch_stage.verifier.error)

    async def archive_reachable() -> str | None:
        return _without_secrets(worker.archive_stage.breaker.error)

    return {
        "ledger": ledger_writable,
        "workers": workers_alive,
        "spool": spool_has_room,
        "decoder": decoder_starts,
        "archive": archive_reachable,
    }


def _without_secrets(error: ReceiverError | None) -> str | None:
    """Return what is wrong without the detail: ``/readyz`` is public, and details name paths and hosts."""
    return None if error is None else f"{error.reason}: {REASONS[error.reason]}"
