"""Proved bodies that are no completions, without end: the newest are kept, and the disk does not fill."""

import asyncio
from pathlib import Path

import pytest

from receiver.core.errors import BodyError
from receiver.ledger import Ledger
from receiver.ledger.commands.deliveries import MAX_UNREAD, MAX_UNREAD_BYTES, UNREAD_BATCH

ERROR = BodyError("body.not_json")


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    ("size", "kept"),
    [(0, MAX_UNREAD), (256 * 2**10, MAX_UNREAD_BYTES // (256 * 2**10))],
    ids=["many", "large"],
)
async def test_of_deliveries_that_are_no_completions_the_newest_are_kept(
    tmp_path: Path, size: int, kept: int
) -> None:
    ledger = await Ledger.serve(tmp_path)
    try:
        sent = kept + 5 * UNREAD_BATCH
        for first in range(0, sent, 100):  # those of a hundred share commits
            numbers = range(first, min(first + 100, sent))
            bodies = [b"%d" % number + bytes(size - 8 if size else 0) for number in numbers]
            await asyncio.gather(*(ledger.record_unread(ERROR, body) for body in bodies))
        assert kept <= (await ledger.stats(overdue_before=0)).unread + 1 <= kept + UNREAD_BATCH + 1
        (newest,) = (await ledger.unread_deliveries(limit=1)).deliveries
        assert newest.body.startswith(b"%d" % (sent - 1))
        if size:
            assert disk_bytes(tmp_path) < 3 * MAX_UNREAD_BYTES
    finally:
        await ledger.close()
