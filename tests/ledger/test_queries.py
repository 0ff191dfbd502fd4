"""Queries: what they return, and that finished jobs make none of them slower."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receiver.core.completion import Completion
from receiver.core.errors import BodyError, LedgerError, SpoolError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import (
    FILE_NAME,
    DirectoryLock,
    Filter,
    Ledger,
    LedgerReader,
    Submission,
    deadlines,
    holder,
    submissions,
)
from receiver.ledger.commands import attempts, claims, deliveries, retries
from receiver.ledger.connection import Connection
from receiver.ledger.queries import aggregates, dashboard, history, search, unread
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.database import Database
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.transaction import Transaction
from tests.bench import many_jobs
from tests.ledger.actions import (
    IMAGE,
    STORED,
    TIMEOUT,
    brought_to,
    claimed,
    delivery,
    failure,
    file_of,
    only_sqlite,
)
from tests.support.clock import HOUR, NOW, SECOND, Clock


async def all_pages(ledger: LedgerReader, wanted: Filter, limit: int) -> list[str]:
    found: list[str] = []
    before = None
    while True:
        page = await ledger.jobs(wanted, before=before, limit=limit)
        assert len(page.jobs) <= limit
        found += [job.id for job in page.jobs]
        before = page.next
        if before is None:
            return found


@pytest.fixture
async def thirty(ledger: Ledger, clock: Clock) -> Ledger:
    """Thirty jobs, an hour apart: every third failed, every second of the others is of one ref."""
    for number in range(30):
        await ledger.record(
            failure(f"job-{number}")
            if number % 3 == 0
            else delivery(f"job-{number}", ref="order 7" if number % 2 else None)
        )
        clock.forward(HOUR)
    await ledger.expect(Submission("job-30"))
    return ledger


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(), range(31)),
        (Filter(states=(State.FAILED,)), range(0, 30, 3)),
        (Filter(states=(State.FAILED, State.RECEIVED)), range(30)),
        (Filter(states=(State.FAILED, State.FAILED)), range(0, 30, 3)),
        (Filter(states=(State.ARCHIVED,)), []),
        (Filter(states=tuple(State)), range(31)),
        (Filter(ref="order 7"), [n for n in range(30) if n % 3 and n % 2]),
        (Filter(ref="order 7", states=(State.FAILED,)), []),
        (Filter(reason="provider.job_failed"), range(0, 30, 3)),
        (Filter(reason="fetch.timeout"), []),
        (Filter(since=NOW + 10 * HOUR), range(10, 31)),
        (Filter(until=NOW + 10 * HOUR), range(10)),
        (Filter(since=NOW + 3 * HOUR, until=NOW + 20 * HOUR, states=(State.FAILED,)), range(3, 20, 3)),
        (Filter(since=NOW + 31 * HOUR), []),
        (Filter(since=NOW + 1000 * HOUR), []),
        (Filter(until=NOW), []),
        (Filter(until=NOW - 1000 * HOUR), []),
        (Filter(overdue_before=NOW + 30 * HOUR), []),
        (Filter(overdue_before=NOW + 30 * HOUR + 1), [30]),
        (Filter(overdue_before=NOW + 99 * HOUR, states=(State.FAILED,)), []),
    ],
)
async def test_pages_hold_each_wanted_job_once_and_newest_first(
    thirty: Ledger, wanted: Filter, numbers: range | list[int]
) -> None:
    expected = [f"job-{number}" for number in sorted(numbers, reverse=True)]
    for limit in (1, 7, 30, 31, 1000):
        assert await all_pages(thirty, wanted, limit) == expected


@pytest.mark.parametrize("back", [HOUR, 99 * HOUR])
async def test_a_span_holds_what_became_known_in_it_however_the_clock_was_set(
    ledger: Ledger, clock: Clock, back: int
) -> None:
    known: list[int] = []
    for round_ in range(3):
        for _ in range(10):
            await ledger.record(delivery(f"job-{len(known)}"))
            known.append(clock())
            clock.forward(HOUR)
        clock.forward(-back if round_ else back)

    for since in (None, *range(min(known) - HOUR, max(known) + 2 * HOUR, 5 * HOUR)):
        for until in (None, *range(min(known) - HOUR, max(known) + 2 * HOUR, 7 * HOUR)):
            wanted = [
                f"job-{number}"
                for number, at in reversed(list(enumerate(known)))
                if (since is None or since <= at) and (until is None or at < until)
            ]
            assert await all_pages(ledger, Filter(since=since, until=until), 7) == wanted


async def test_jobs_that_come_while_pages_are_read_neither_repeat_nor_hide_others(thirty: Ledger) -> None:
    found: list[str] = []
    before = None
    for round_ in range(100):
        page = await thirty.jobs(Filter(states=(State.FAILED, State.RECEIVED)), before=before, limit=4)
        found += [job.id for job in page.jobs]
        await thirty.record(delivery(f"new-{round_}"))
        before = page.next
        if before is None:
            break
    assert found == [f"job-{number}" for number in range(29, -1, -1)]


async def test_the_ledger_in_numbers(ledger: Ledger, clock: Clock) -> None:
    empty = await ledger.stats(overdue_before=NOW)
    assert empty.jobs == dict.fromkeys(State, 0)
    assert (empty.oldest_waiting_at, empty.soonest_deadline, empty.overdue) == (None, None, 0)
    for state in (State.ARCHIVED, State.FETCHED, State.EXPIRED, State.FAILED, State.SUBMITTED):
        await brought_to(ledger, state, f"job-{state}")
        clock.forward(HOUR)
    await ledger.record(delivery("a", deadline=NOW + 9 * HOUR))
    await ledger.record(delivery("b", deadline=NOW + 8 * HOUR))
    await ledger.record_unread(BodyError("body.not_json", "No."), b"")
    stats = await ledger.stats(overdue_before=clock())
    assert stats.jobs == {
        State.SUBMITTED: 1,
        State.RECEIVED: 2,
        State.FETCHED: 1,
        State.ARCHIVED: 1,
        State.FAILED: 1,
        State.REJECTED: 0,
        State.EXPIRED: 1,
    }
    assert (stats.bytes[State.ARCHIVED], stats.bytes[State.FETCHED]) == (IMAGE.bytes, IMAGE.bytes)
    assert stats.soonest_deadline == NOW + 8 * HOUR
    assert stats.oldest_waiting_at == NOW + HOUR
    assert (stats.overdue, stats.unread) == (1, 1)
    await claimed(ledger)
    assert (await ledger.stats(overdue_before=clock())).soonest_deadline == NOW + 8 * HOUR
    assert (await ledger.stats(overdue_before=NOW)).overdue == 0


async def test_an_unknown_job_is_none(ledger: Ledger) -> None:
    assert await ledger.job("job-1") is None
    assert await ledger.job_with_history("job-1") is None


async def test_a_view_beside_the_server_sees_what_is_committed_and_writes_nothing(
    ledger: Ledger, place: LedgerLocation
) -> None:
    await ledger.record(delivery("job-1"))
    view = await LedgerReader.open(place)
    assert await all_pages(view, Filter(), 10) == ["job-1"]
    await ledger.record(delivery("job-2"))
    assert await all_pages(view, Filter(), 10) == ["job-2", "job-1"]
    with pytest.raises(LedgerError, match=r"SQLITE_READONLY|25006"):
        await view._readers.read(lambda db: db.execute("DELETE FROM jobs"))
    await view.close()
    await ledger.record(delivery("job-3"))


async def test_a_view_of_a_ledger_that_nobody_serves_from(place: LedgerLocation) -> None:
    ledger = await Ledger.serve(place)
    await ledger.record(delivery())
    await ledger.close()
    view = await LedgerReader.open(place)
    assert await view.job("job-1") is not None
    await view.close()


class Explaining(sqlite3.Connection):
    """A connection that notes how each statement is carried out."""

    plans: list[tuple[str, list[str]]]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        lines = super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
        self.plans.append((sql, [str(line[3]) for line in lines]))
        return super().execute(sql, parameters)


class Planning(sqlite3.Connection):
    """A connection that notes which statements are planned again, although they were planned before."""

    known: set[str]
    again: set[str]
    planned = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self.planned = False
        cursor = super().execute(sql, parameters)
        if self.planned and sql in self.known:
            self.again.add(sql)
        self.known.add(sql)
        return cursor

    def note(self, *_: object) -> int:
        self.planned = True
        return sqlite3.SQLITE_OK


def prepared(path: Path, factory: type[sqlite3.Connection]) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, factory=factory, cached_statements=1000)
    db.row_factory = sqlite3.Row
    return db


@pytest.fixture
def explaining(tmp_path: Path) -> Iterator[Explaining]:
    with file_of(tmp_path) as db:
        schema.prepare(db, tmp_path / FILE_NAME)
    db = prepared(tmp_path / FILE_NAME, Explaining)
    assert isinstance(db, Explaining)
    db.plans = []
    yield db
    db.close()


def fill(db: sqlite3.Connection, done: int) -> None:
    """A few unfinished jobs amid so many finished ones."""
    tx = Transaction(db, NOW, 0)
    db.execute("BEGIN")
    for number in range(done):
        if number == done // 2:
            _fill_unfinished(tx)
        db.execute(
            "INSERT INTO jobs (id, state, event, reason, ref, created_at, updated_at, received_at, deadline)"
            " VALUES (?, ?, 'x', 'fetch.timeout', 'order 8', ?, ?, ?, ?)",
            (f"done-{number}", ("archived", "failed", "rejected")[number % 3], NOW, NOW, NOW, NOW + HOUR),
        )
        deliveries.record_unread(tx, BodyError("body.not_json"), b"x")
    db.execute("COMMIT")


def _fill_unfinished(tx: Transaction) -> None:
    for number in range(12):
        submissions.expect(tx, Submission(f"silent-{number}"))
        deliveries.record(tx, delivery(f"job-{number}", deadline=NOW + number * SECOND, ref="order 7"))
    taken = claims.claim_to_fetch(tx, 8, again=8, lease=1)
    for claim in taken[:4]:
        attempts.retry_later(tx, claim, NOW + HOUR, TIMEOUT)
    for claim in taken[4:6]:
        attempts.fetched(tx, claim, IMAGE, claim.job.id)


FILTERS = [
    Filter(states=states, ref=ref, reason=reason, since=since, until=until, overdue_before=silent)
    for states in ((), (State.RECEIVED,), (State.RECEIVED, State.FETCHED))
    for ref, reason in (
        (None, None),
        ("order 7", None),
        (None, "fetch.expired"),
        ("order 7", "fetch.expired"),
        ("order 8", None),
        (None, "fetch.timeout"),
        ("order 8", "fetch.timeout"),
    )
    for since, until in (
        (None, None),
        (NOW + 48 * HOUR, None),
        (None, NOW - 48 * HOUR),
        (NOW - 48 * HOUR, NOW),
    )
    for silent in (None, NOW)
]


def run_every_query(db: Connection) -> None:
    """Every query, with every kind of filter."""
    for before in (None, 10**6):
        for wanted in FILTERS:
            search.jobs(db, wanted, before=before, limit=5)
        for outcome in (None, "body.not_json"):
            unread.unread_deliveries(db, outcome, before=before, limit=5)
    search.job(db, "job-1")
    search.job_with_history(db, "job-1")
    aggregates.stats(db, overdue_before=NOW + 1)
    dashboard.overview(db, overdue_before=NOW + 1, limit=5)
    dashboard.archived_lately(db, 5)
    deadlines.spool_names(db, "")
    deadlines.spool_bytes(db, "")
    deadlines.next_event_at(db)
    search.jobs_with_prefix(db, "job-1", 5)
    history.transitions(db, after=10, limit=5)
    history.last_history_seq(db)
    submissions.pending(db, "ximilar", submitted_before=NOW + 1, ask_by=NOW + 1, limit=5)
    submissions.open_intents(db, before=NOW + 1)
    submissions.job_ids_submitted_since(db, NOW + 1)


def run_every_command(db: sqlite3.Connection) -> None:
    """Every command, on the jobs of `fill`."""
    tx = Transaction(db, NOW, 0)
    late_tx = Transaction(db, NOW + 99 * HOUR, 0)
    said = Completion("job-1", "https://host/2.png")
    deliveries.record(tx, delivery("new", ticket="number"))
    deliveries.record(tx, delivery("new", url="https://host/2.png"))
    deliveries.record(tx, failure("silent-0"))
    deliveries.record(tx, delivery("silent-0"))
    submissions.expect(tx, Submission("silent-1"))
    (one, two) = claims.claim_to_fetch(tx, 2, again=2, lease=1)
    claims.release(tx, one)
    attempts.rejected(tx, two, TIMEOUT)
    retries.retry(tx, two.job.id)
    (one, two) = claims.claim_to_fetch(tx, 2, again=2, lease=1)
    attempts.retry_later(tx, two, NOW, TIMEOUT)
    confirmed = attempts.confirmed(tx, one, said, NOW)
    assert confirmed is not None
    attempts.url_refreshed(tx, one, said, NOW, NOW)
    (late, *_) = claims.claim_past_deadline(late_tx, 2, lease=1)
    attempts.expired(tx, late)
    (one, two) = claims.claim_to_archive(tx, 2, lease=1)
    attempts.archived(tx, one, STORED)
    attempts.spool_lost(tx, two, SpoolError("spool.lost"))
    claims.release_expired_leases(replace(tx, monotonic=2))
    claims.release_all(tx)
    deadlines.mark_at_risk(late_tx)
    deadlines.shift_waits(tx, 5)
    Database.write_nothing(tx)
    assert deadlines.expire(late_tx, 5)


SMALL = (
    "jobs_claimed",
    "jobs_at_risk",
    "jobs_refused",
    "jobs_waiting",
    "jobs_to_fetch",
    "jobs_to_fetch_again",
    "jobs_waiting_to_fetch",
    "jobs_to_archive",
)
"""Indexes over unfinished jobs: a scan of one is no scan of all jobs."""


def complaint(sql: str, lines: list[str]) -> str | None:
    for above, line in zip(["", *lines], lines, strict=False):
        walk = line.partition(" ")[2]
        if line.startswith("SCAN ") and walk.split(" ")[0] in (
            *("jobs", "history", "bodies", "tickets", "submissions"),
        ):
            bounded = "WHERE" not in sql and ("LIMIT" in sql or "max(seq)" in sql)
            if not bounded and not walk.endswith(SMALL):
                return f"scans everything: {line}"
        of_few = "FROM instances" in sql  # a handful of receivers
        if "TEMP B-TREE" in line and not above.startswith(("SCAN (subquery", "SCAN scan_")) and not of_few:
            return f"sorts more than the pages of its states: {line}"
    return None


def test_no_statement_scans_all_jobs_or_sorts_them(explaining: Explaining) -> None:
    fill(explaining, 20)
    explaining.plans = []
    run_every_query(explaining)
    run_every_command(explaining)
    assert len(explaining.plans) > 100
    complaints = {(why, sql) for sql, lines in explaining.plans if (why := complaint(sql, lines))}
    assert complaints == set()


def test_no_statement_is_planned_twice(tmp_path: Path) -> None:
    with file_of(tmp_path) as db:
        schema.prepare(db, tmp_path / FILE_NAME)
    with contextlib.closing(prepared(tmp_path / FILE_NAME, Planning)) as db:
        assert isinstance(db, Planning)
        db.known, db.again = set(), set()
        db.set_authorizer(db.note)  # SQLite calls it while it plans a statement
        fill(db, 20)
        run_every_query(db)
        run_every_command(db)
        assert len(db.known) > 90
        assert db.again == set()


def steps(path: Path, done: int, work: Callable[[sqlite3.Connection], None]) -> int:
    """Return the steps of SQLite's virtual machine that the work takes, in tens."""
    with file_of(path) as db:
        schema.prepare(db, path / FILE_NAME)
        fill(db, done)
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        db.set_progress_handler(step, 10)
        work(db)
        db.set_progress_handler(None, 0)
    return count


@pytest.mark.parametrize("work", [run_every_query, run_every_command])
def test_the_work_does_not_grow_with_the_jobs_that_are_done(
    tmp_path: Path, work: Callable[[sqlite3.Connection], None]
) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    assert steps(many, 3000, work) < 1.3 * steps(few, 300, work)


def test_the_benchmark_of_many_jobs_asks_every_query(capsys: pytest.CaptureFixture[str]) -> None:
    many_jobs.main(["--jobs", "2000", "--rounds", "2", "--steps", "16", "--starts", "1"])
    printed = capsys.readouterr().out
    assert [query for query in many_jobs.QUERIES if query not in printed] == []
    assert "CPU time of a start" in printed


async def test_a_job_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    for job_id in ("d13e-1", "d13e-2", "d14f-1", "d13"):
        await ledger.expect(Submission(job_id))

    async def found(prefix: str, limit: int = 10) -> list[str]:
        return [job.id for job in await ledger.jobs_with_prefix(prefix, limit)]

    assert await found("d13e") == ["d13e-1", "d13e-2"]
    assert await found("d13") == ["d13", "d13e-1", "d13e-2"]
    assert await found("d13", 2) == ["d13", "d13e-1"]
    assert await found("d13e-1") == ["d13e-1"]
    assert await found("D13") == []
    assert await found("d1_") == []
    assert await found("%") == []


@only_sqlite
async def test_the_look_for_damage_ends_in_its_time_and_finds_damage(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(300):
        await ledger.record(delivery(f"job-{number}"))
    assert await ledger.check_whole(seconds=None)
    assert await ledger.check_whole(seconds=None, deep=True)
    assert not await ledger.check_whole(seconds=0)
    assert await ledger.job("job-1")  # the connection is as it was


async def test_a_damaged_ledger_is_told(tmp_path: Path) -> None:
    ledger = await Ledger.serve(tmp_path)
    for number in range(100):
        await ledger.record(delivery(f"job-{number}"))
    await ledger.close()
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_by_state'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    view = await LedgerReader.open(tmp_path)
    with pytest.raises(LedgerError, match=r"ledger\.corrupt"):
        await view.check_whole(seconds=None)
    await view.close()


async def test_who_holds_the_directory_is_told_without_trying_its_lock(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    lock = DirectoryLock(tmp_path)
    assert holder(tmp_path) == os.getpid()
    assert holder(tmp_path, tmp_path / "no list of locks") == 0
    lock.release()
    assert holder(tmp_path) is None
    assert holder(tmp_path, tmp_path / "no list of locks") is None
