"""Writes down the ledger of the present version: `python -m tests.faults.ledgers.make`.

To be run when a version of the schema is released, and never again for that version: what it wrote is what
ledgers out there look like. It holds one job in each state, and one that waits for its next attempt.
"""

import asyncio
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from receiver.core.errors import BodyError, FetchError, UrlError
from receiver.core.jobs import Image, StoredObject
from receiver.ledger import FILE_NAME, Claim, Delivery, Ledger, Submission
from receiver.ledger.sqlite.schema import APPLICATION_ID, MIGRATIONS
from tests.support.clock import HOUR, NOW, SECOND, Clock
from tests.support.processes import completion
from tests.support.providers import completion_of

FOLDER = Path(__file__).parent
SHA256 = "5e" * 32
IMAGE = Image("png", 64, 48, 1234, SHA256)
STORED = StoredObject("file:///archive/archived.png", etag="tag", version="1")
JOBS = ("submitted", "received", "waiting", "fetched", "archived", "failed", "rejected", "expired")
"""The jobs' ids: each its own state, but that ``waiting`` is ``received`` as well."""


async def write(data: Path) -> None:
    """Brings one job into each state, by the ledger's own commands."""
    clock = Clock()
    ledger = await Ledger.serve(data, now=clock, monotonic=Clock(0))
    try:
        await ledger.expect(Submission("submitted", "order 1", "upscale_2x", "https://example.com/a.jpg"))
        await ledger.record_unread(BodyError("body.not_json"), b"\xff{")
        await _deliver(ledger, "expired", NOW + SECOND)
        await ledger.retry_later(await _claim(ledger), NOW + SECOND, FetchError("fetch.timeout"))
        clock.forward(2 * SECOND)
        assert await ledger.expire() == ["expired"]
        await _deliver(ledger, "failed", NOW, failed=True)
        await _deliver(ledger, "rejected", NOW + HOUR)
        await ledger.rejected(await _claim(ledger), UrlError("url.source"))
        for job_id in ("archived", "fetched"):
            await _deliver(ledger, job_id, NOW + HOUR)
            await ledger.fetched(await _claim(ledger), IMAGE, f"{job_id}.{SHA256}.png")
            if job_id == "archived":
                (claim,) = await ledger.claim_to_archive(1, lease=HOUR)
                await ledger.archived(claim, STORED)
        await _deliver(ledger, "waiting", NOW + HOUR)
        await ledger.retry_later(
            await _claim(ledger), NOW + HOUR // 2, FetchError("fetch.timeout"), suspect=SHA256
        )
        await _deliver(ledger, "received", NOW + HOUR, ticket="ticket")
    finally:
        await ledger.close()


async def _deliver(
    ledger: Ledger, job_id: str, deadline: int, *, failed: bool = False, ticket: str | None = None
) -> None:
    body = {"id": job_id, "type": "upscaler", "status": "FAILED"}
    if not failed:
        body = completion(job_id, f"https://example.com/{job_id}.png", 64, 48)
    raw = json.dumps(body).encode()
    await ledger.record(Delivery(completion_of(raw), raw, deadline, f"ref of {job_id}", ticket))


async def _claim(ledger: Ledger) -> Claim:
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=HOUR)
    return claim


def dump(file: Path) -> str:
    """All that is in a ledger, as SQL that makes it again."""
    with closing(sqlite3.connect(file)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        lines = list(db.iterdump())
    pragmas = [f"PRAGMA application_id = {APPLICATION_ID};", f"PRAGMA user_version = {version};"]
    return "\n".join([*lines, *pragmas, ""])


def main() -> None:
    """Writes ``vN.sql`` beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(write(Path(folder)))
        (FOLDER / f"v{len(MIGRATIONS)}.sql").write_text(dump(Path(folder) / FILE_NAME), encoding="utf-8")


if __name__ == "__main__":
    main()
