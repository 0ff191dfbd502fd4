"""Accepts bytes that verification refused: at an operator's request they are archived unchanged.

The bytes stay where they are until the archive has them, so that one commit is all that happens.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from receiver.core.errors import LedgerError
from receiver.core.jobs import Image, Job, Problem
from receiver.ledger import Ledger, LedgerReader
from receiver.pipeline.spool import ASIDE, Spool

log = structlog.get_logger("receiver.api")


@dataclass(frozen=True, slots=True)
class RefusedBytes:
    """Bytes that are kept aside, what is known of them, and why verification refused them."""

    job: Job
    path: Path
    image: Image
    refusal: Problem


async def find_refused(ledger: LedgerReader, spool: Spool, job_id: str) -> RefusedBytes:
    """Return the bytes of a job that can be accepted; raise ``ledger.wrong_state`` where there are none."""
    job, refusal = await ledger.refusal_of(job_id)
    kept = await spool.refused(job_id)
    if kept is None:
        raise LedgerError(
            "ledger.wrong_state",
            f"The refused bytes of job {job_id} are not kept any more; a retry may fetch them.",
        )
    return RefusedBytes(job, kept[0], replace(kept[1], accepted=refusal.reason), refusal)


async def accept(ledger: Ledger, spool: Spool, job_id: str, sha256: str) -> Job:
    """Let the archive stage take a job's refused bytes, which have this SHA-256.

    Raise ``ledger.wrong_state`` where these are other bytes, there are none, or the job is being fetched.
    """

    async def take() -> Job:
        found = await find_refused(ledger, spool, job_id)
        if sha256 != await spool.sha256(found.path):
            raise LedgerError(
                "ledger.wrong_state",
                f"The refused bytes of job {job_id} are others than {sha256}; look again.",
            )
        job = await ledger.accept(job_id, found.image, ASIDE + found.path.name)
        log.info("accepted", job=job_id, reason=found.refusal.reason, sha256=sha256)
        return job

    return await spool.hold_aside(take)
