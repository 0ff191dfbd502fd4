"""Bounded statistics: they are right, and their cost does not grow with the ledger."""

from pathlib import Path

import pytest

from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Ledger
from receiver.ledger.connection import Connection
from receiver.ledger.queries.aggregates import stats
from receiver.ledger.sqlite.driver import sqlite3
from tests.ledger.actions import IMAGE, LEASE, TIMEOUT, brought_to, claimed, delivery, file_of, tables_of
from tests.support.clock import HOUR, NOW, Clock

FEW, MANY = 100, 20_000
COUNTED_TO = 40

CROWDS = {
    # Of each kind of job that a reading looks for, and of each that merely lies there.
    "state, received_at, deadline": "'received', n, :later + n",
    "state, received_at, deadline, attempts": "'received', n, :later + n, 1",
    "state, received_at, deadline, next_attempt_at": "'received', n, :later + n, :later",
    "state, received_at, deadline, at_risk_at": "'received', n, :later + n, n",
    "state, received_at, bytes": "'fetched', n, 10",
    "state, received_at, bytes, next_attempt_at": "'fetched', n, 10, :later",
    "state, received_at, bytes, archived_at": "'archived', n, 10, n",
    "state, submitted_at": "'submitted', n",
    "state, submitted_at, ask_at": "'submitted', :later + n, n",
    "state": "'expired'",
    "state, received_at, deadline, suspect, suspect_since": "'received', n, :later + n, 'cd', n",
}


def crowd(db: Connection, each: int) -> None:
    """Fills a ledger with so many jobs of each kind, of which three are claimed."""
    db.execute("BEGIN")
    for kind, (columns, values) in enumerate(CROWDS.items()):
        db.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :each)"
            f" INSERT INTO jobs (id, event, created_at, updated_at, {columns})"
            f" SELECT :kind || '-' || n, 'made', n, n, {values} FROM numbers",
            {"kind": kind, "later": NOW, "each": each},
        )
    db.execute("UPDATE jobs SET holder = 'h' || seq, lease_until = 1 WHERE id IN ('0-1', '0-2', '4-1')")
    db.execute("COMMIT")


def steps(db: sqlite3.Connection) -> int:
    """Return how many instructions of SQLite's virtual machine the bounded statistics take."""
    taken = 0

    def one() -> None:
        nonlocal taken
        taken += 1

    db.set_progress_handler(one, 1)
    stats(db, overdue_before=NOW, counted_to=COUNTED_TO)
    db.set_progress_handler(None, 1)
    return taken


async def test_a_scrape_costs_the_same_in_a_small_ledger_and_in_a_large_one(tmp_path: Path) -> None:
    taken = {}
    for each in (FEW, MANY):
        folder = tmp_path / str(each)
        folder.mkdir()
        await (await Ledger.serve(folder)).close()
        with file_of(folder) as db:
            crowd(db, each)
            taken[each] = steps(db)

    assert taken[MANY] == taken[FEW]


async def test_a_scrape_counts_only_so_far_along_an_index(place: LedgerLocation) -> None:
    await (await Ledger.serve(place)).close()
    with tables_of(place) as db:
        crowd(db, FEW)
        short = stats(db, overdue_before=NOW, counted_to=COUNTED_TO)
        whole = stats(db, overdue_before=NOW)

    assert (short.overdue, short.at_risk, short.refused) == (COUNTED_TO, COUNTED_TO, COUNTED_TO)
    assert (whole.overdue, whole.at_risk, whole.refused) == (FEW, FEW, FEW)
    assert whole.jobs[State.RECEIVED] == 5 * FEW
    assert (whole.unclaimed(State.RECEIVED), whole.unclaimed(State.FETCHED)) == (5 * FEW - 2, 2 * FEW - 1)
    assert whole.bytes[State.FETCHED] == 2 * FEW * 10
    assert (whole.oldest_waiting_at, whole.soonest_deadline) == (1, NOW + 1)


async def test_an_empty_ledger_has_no_deadline_and_nothing_that_waits(ledger: Ledger) -> None:
    read = await ledger.stats(overdue_before=NOW)

    assert (read.soonest_deadline, read.oldest_waiting_at) == (None, None)
    assert read.jobs == dict.fromkeys(State, 0)
    assert (read.claimed, read.counters) == ({}, {})


@pytest.mark.parametrize("state", list(State))
async def test_a_bounded_count_of_a_small_ledger_is_exact(ledger: Ledger, clock: Clock, state: State) -> None:
    await brought_to(ledger, state)
    clock.now += HOUR

    bounded = await ledger.stats(overdue_before=NOW + 1, counted_to=COUNTED_TO)

    assert bounded == await ledger.stats(overdue_before=NOW + 1)


async def test_what_is_worked_on_does_not_wait(ledger: Ledger) -> None:
    for number in range(3):
        await ledger.record(delivery(f"job-{number}"))
    claim = await claimed(ledger)
    read = await ledger.stats(overdue_before=NOW)
    assert (read.jobs[State.RECEIVED], read.unclaimed(State.RECEIVED)) == (3, 2)

    await ledger.retry_later(claim, NOW + HOUR, TIMEOUT)
    read = await ledger.stats(overdue_before=NOW)
    assert read.unclaimed(State.RECEIVED) == 3

    await ledger.fetched(await claimed(ledger), IMAGE, "spooled")
    await ledger.claim_to_archive(1, lease=LEASE)
    read = await ledger.stats(overdue_before=NOW)
    assert (read.unclaimed(State.RECEIVED), read.unclaimed(State.FETCHED)) == (2, 0)
