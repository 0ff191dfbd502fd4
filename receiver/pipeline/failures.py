"""The one place that applies what `outcomes` decides: it records the decision and logs it."""

from contextlib import suppress

import structlog

from receiver.core.concurrency import persist
from receiver.core.errors import ReceiverError, SpoolError
from receiver.core.jobs import Job, State
from receiver.ledger import Claim, Ledger
from receiver.pipeline.outcomes import Action, Decision
from receiver.pipeline.spool import Spool

log = structlog.get_logger("receiver.worker")


async def record(
    ledger: Ledger, spool: Spool, claim: Claim, decision: Decision, error: ReceiverError
) -> None:
    """Apply a decision, however long the ledger cannot be written.

    It is neither `Action.ASK` nor `Action.EXAMINE`, which the stages do themselves.
    """

    async def write() -> bool:
        match decision.action:
            case Action.RETRY | Action.ASK_AGAIN:
                return await ledger.retry_later(
                    claim, decision.at, error, suspect=decision.suspect, deadline=decision.deadline
                )
            case Action.REJECT:
                return await ledger.rejected(claim, error)
            case Action.EXPIRE:
                return await ledger.expired(claim)
            case Action.FETCH_AGAIN:
                return await ledger.spool_lost(claim, error)
        raise ValueError(f"a stage does this itself: {decision.action}")

    if decision.action is Action.FETCH_AGAIN and claim.job.spool is not None:
        # Before the record: after it the image may be fetched anew, and lies under the same name.
        with suppress(SpoolError):
            await spool.remove(spool.path(claim.job.spool))
    if await persist(write, log):
        _log(claim.job, decision.action, error)


def _log(job: Job, action: Action, error: ReceiverError) -> None:
    why = {"job": job.id, "reason": error.reason, "detail": error.detail}
    match action:
        case Action.RETRY:
            what = "not fetched" if job.state is State.RECEIVED else "not archived"
            log.warning(what, **why, attempt=job.attempts)
        case Action.ASK_AGAIN:
            log.warning("not expired yet; the provider is asked again", **why)
        case Action.REJECT:
            log.warning("rejected", **why)
        case Action.EXPIRE:
            log.error("expired", job=job.id, reason="fetch.expired")
        case Action.FETCH_AGAIN:
            log.error("lost from the spool", **why)
