"""The ledger against a simple model of it: any commands in any order, with crashes between any two of them.

The model is a dictionary of small records and says in plain Python what each command is meant to do. Whatever
Hypothesis makes up, the ledger must answer as the model does, hold what the model holds, and have kept both
through a crash: the files as they lie on the disk at that moment are copied and opened again.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from receiver.core.backoff import UPLOAD_MAX
from receiver.core.completion import Completion, Failure
from receiver.core.errors import AuthError, FetchError, LedgerError, SpoolError
from receiver.core.jobs import MOVES, Event, Image, Job, State, StoredObject
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Claim, Delivery, Filter, Ledger, Submission
from receiver.ledger import deadlines as due
from receiver.ledger.connection import Connection
from receiver.ledger.queries import aggregates, search
from receiver.ledger.types import Recorded
from tests.ledger.actions import kept_totals, recounted_totals, tables_of
from tests.ledger.conftest import empty
from tests.support.clock import HOUR, NOW, SECOND, Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.postgres import Postgres

T = TypeVar("T")

MINUTE = 60 * SECOND
LEASE = HOUR

NAMES = st.sampled_from(["a", "b", "c"])
URLS = st.sampled_from(["https://host/1", "https://host/2", "https://host/3"])
LIVES = st.sampled_from([5 * HOUR, 2 * HOUR, 10 * MINUTE, -HOUR])
LIMITS = st.sampled_from([4, 2, 1, 0])
WHICH = st.sampled_from([0, 0, 0, 1, 2, 3, 5])
"""Which claim is used: mostly the newest, sometimes one that may be void long since."""


@dataclass
class Model:
    """One job, as it is meant to be. Times as in the ledger."""

    state: State
    url: str | None = None
    source: str | None = None
    deadline: int = 0
    attempts: int = 0
    waits_until: int | None = None
    changed_at: int = 0
    holder: str | None = None
    lease_until: int = 0
    at_risk: bool = False
    received_at: int = 0
    fetched_at: int = 0
    ref: str | None = None
    suspect: str | None = None
    suspects: int = 0
    suspect_since: int | None = None
    spool: str | None = None
    reason: str | None = None
    events: list[str] = field(default_factory=list)
    others: set[str] = field(default_factory=set)

    def trust(self) -> None:
        """Nothing is held against the job's URL any more."""
        self.suspect, self.suspects, self.suspect_since = None, 0, None

    @property
    def ready(self) -> bool:
        """Whether a worker could take it now."""
        return self.waits_until is None and self.holder is None


a_claim = precondition(lambda machine: machine.claims)


class LedgerMachine(RuleBasedStateMachine):
    """Does the same to the ledger and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="ledger-model-"))
        self.closing = ExitStack()
        self.closing.callback(shutil.rmtree, self.root)
        self.runner = asyncio.Runner()
        self.clock, self.monotonic = Clock(NOW), Clock(0)
        self.lives = self.serial = 0
        self.jobs: dict[str, Model] = {}
        self.claims: list[Claim] = []
        self.tickets: dict[str, str] = {}

    @initialize(lives=st.tuples(LIVES, LIVES))
    def start(self, lives: tuple[int, int]) -> None:
        self.place = self.first_place()
        self.open()
        for name, life in zip("ab", lives, strict=True):
            self.record(name, "https://host/1", life, None, None)

    def first_place(self) -> LedgerLocation:
        """Return where a new ledger is made."""
        folder = self.root / "0"
        folder.mkdir()
        return LedgerLocation(make_empty_ledger(folder))

    def cut_off(self) -> None:
        """End the ledger as if its process were killed; what it had committed is at `place` then."""
        after = self.root / str(self.lives)
        # The index of the WAL is memory that processes share: a power cut leaves none of it.
        shutil.copytree(self.place.data_dir, after, ignore=shutil.ignore_patterns("*-shm"))
        self.run(self.ledger.close())
        self.place = LedgerLocation(after)

    def open(self) -> None:
        self.ledger = self.run(Ledger.serve(self.place, now=self.clock, monotonic=self.monotonic))
        self.read = self.closing.enter_context(tables_of(self.place))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.ledger.close())
        self.runner.close()
        self.closing.close()

    # Time.

    @rule(by=st.sampled_from([1, SECOND, 10 * MINUTE, HOUR, 3 * HOUR]))
    def time_passes(self, by: int) -> None:
        self.clock.forward(by)
        self.monotonic.forward(by)

    @rule(by=st.sampled_from([-HOUR, HOUR]), noticed=st.booleans())
    def someone_sets_the_wall_clock(self, by: int, noticed: bool) -> None:  # noqa: FBT001 - drawn
        self.clock.forward(by)
        if noticed:
            self.run(self.ledger.shift_waits(by))
            for job in self.jobs.values():
                if job.waits_until is not None and job.changed_at <= self.clock() - by:
                    job.waits_until += by
                    if job.state is State.RECEIVED and job.waits_until >= job.deadline:
                        job.waits_until = self.clock()
                    if job.suspect_since is not None:
                        job.suspect_since += by

    @rule()
    def leases_end(self) -> None:
        self.monotonic.forward(LEASE // 2)
        self.run(self.ledger.release_expired_leases())
        for job in self.jobs.values():
            if job.lease_until < self.monotonic():
                job.holder = None

    @rule()
    def the_process_crashes(self) -> None:
        self.lives += 1
        self.cut_off()
        self.monotonic.now = 0
        for job in self.jobs.values():
            if job.state is State.FETCHED and (job.waits_until or 0) > self.clock() + UPLOAD_MAX:
                job.waits_until = None
            if job.state is State.RECEIVED and job.changed_at > self.clock():  # it was set back since
                job.waits_until = None
            if job.holder is None:
                continue
            job.holder = None
            before = job.events.count("cut_off")
            if job.state is State.RECEIVED:
                job.events.append("cut_off")
                job.changed_at = self.clock()
            if job.state is State.RECEIVED and before >= 2:
                wait = min(SECOND * 2**before, 15 * MINUTE, (job.deadline - self.clock()) // 8)
                job.waits_until = self.clock() + max(wait, SECOND)
            else:  # an attempt that was cut off is none
                job.attempts = max(job.attempts - 1, 0)
        self.open()

    # What comes from outside.

    @rule(name=NAMES, ref=st.none() | st.just("order 7"), source=st.none() | st.just("https://host/in"))
    def expect(self, name: str, ref: str | None, source: str | None) -> None:
        known = name in self.jobs
        assert self.run(self.ledger.expect(Submission(name, ref, source_url=source))) is not known
        job = self.jobs.setdefault(name, Model(State.SUBMITTED, events=["submitted"]))
        job.ref = job.ref or ref
        job.source = job.source or source

    @rule(
        name=NAMES,
        url=URLS,
        life=LIVES,
        ticket=st.none() | st.sampled_from(["t1", "t2"]),
        source=st.none() | st.just("https://host/other"),
    )
    def record(self, name: str, url: str, life: int, ticket: str | None, source: str | None) -> None:
        delivery = Delivery(
            Completion(name, url, source), b"{}", self.deadline(life), ref="mine", ticket=ticket
        )
        self.deliver(delivery, self.jobs.get(name))

    @rule(name=NAMES)
    def record_failure(self, name: str) -> None:
        said = Completion(name, None, failure=Failure("provider.job_failed", "FAILED"))
        self.deliver(Delivery(said, b"{}", self.clock(), ref="mine"), self.jobs.get(name))

    def deliver(self, delivery: Delivery, job: Model | None) -> None:
        said, ticket = delivery.completion, delivery.ticket
        try:
            recorded = self.run(self.ledger.record(delivery))
        except AuthError:
            assert ticket is not None
            assert self.tickets[ticket] != said.id
            return
        if ticket is not None:
            assert self.tickets.setdefault(ticket, said.id) == said.id
        after = State.FAILED if said.failure else State.RECEIVED
        new = (
            job is None
            or job.state is State.SUBMITTED
            or (job.state is State.FAILED and said.image_url is not None)
            or (job.state in (State.REJECTED, State.EXPIRED) and said.image_url not in (None, job.url))
        )
        if not new:
            assert job is not None
            assert recorded == Recorded(job.state, duplicate=True)
            if said.image_url not in (None, job.url, *job.others):
                assert said.image_url is not None
                job.others.add(said.image_url)
                job.events.append("other_url")
            return
        assert recorded == Recorded(after, duplicate=False)
        if job is None:
            job = self.jobs[said.id] = Model(after)
        job.state, job.url, job.received_at = after, said.image_url, self.clock()
        job.source = said.source_url or job.source
        job.deadline = delivery.deadline
        job.ref = job.ref or delivery.ref
        job.attempts, job.waits_until, job.holder, job.at_risk = 0, None, None, False
        job.trust()
        job.reason = said.failure.reason if said.failure else None
        job.events.append("failed" if said.failure else "received")

    @rule(name=NAMES)
    def retry(self, name: str) -> None:
        job = self.jobs.get(name)
        try:
            answer = self.run(self.ledger.retry(name))
        except LedgerError as error:
            expected = "ledger.unknown_job" if job is None else "ledger.wrong_state"
            refused = error.reason
        else:
            expected = refused = ""
        assert refused == expected
        if job is None:
            return
        possible = job.url is not None and job.state not in (State.SUBMITTED, State.ARCHIVED)
        assert (possible and job.holder is None) is (refused == "")
        if refused:
            return
        if job.state in (State.FAILED, State.REJECTED, State.EXPIRED):
            job.state, job.attempts = State.RECEIVED, 0
        job.waits_until, job.reason, job.at_risk = None, None, False
        job.trust()
        job.events.append("retried")
        assert (answer.state, answer.attempts) == (job.state, job.attempts)

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        job = self.jobs.get(name)
        try:
            refused = ""
            assert self.run(self.ledger.forget(name)).state is State.FAILED
        except LedgerError as error:
            refused = error.reason
        if job is None or job.state is not State.SUBMITTED:
            assert refused == ("ledger.unknown_job" if job is None else "ledger.wrong_state")
            return
        assert refused == ""
        job.state, job.reason = State.FAILED, "ledger.forgotten"
        job.events.append("forgotten")

    # Claims.

    @rule(limit=LIMITS, again=LIMITS)
    def claim_to_fetch(self, limit: int, again: int) -> None:
        self.promote()
        ready = [n for n, job in self.jobs.items() if job.state is State.RECEIVED and job.ready]
        by_deadline = sorted(ready, key=lambda name: self.jobs[name].deadline)
        living = [name for name in by_deadline if self.jobs[name].deadline > self.clock()]
        fresh = [name for name in living if self.jobs[name].attempts == 0][:limit]
        tried = [name for name in living if self.jobs[name].attempts > 0][: min(limit, again)]
        chosen = [name for name in living if name in fresh or name in tried][:limit]
        late = [n for n in by_deadline if n not in living and self.jobs[n].attempts == 0]
        chosen += late[: limit - len(chosen)]
        found = self.run(self.ledger.claim_to_fetch(limit, again=again, lease=LEASE))
        self.taken(found, chosen)

    @rule(limit=LIMITS)
    def claim_to_archive(self, limit: int) -> None:
        self.promote()
        ready = {name for name, job in self.jobs.items() if job.state is State.FETCHED and job.ready}
        found = self.run(self.ledger.claim_to_archive(limit, lease=LEASE))
        since = [(claim.job.attempts - 1, self.jobs[claim.job.id].fetched_at) for claim in found]
        assert since == sorted(since)
        names = [claim.job.id for claim in found]
        assert set(names) <= ready
        assert len(names) == min(limit, len(ready))
        left = [(self.jobs[name].attempts, self.jobs[name].fetched_at) for name in ready - set(names)]
        assert all(since[-1] <= other for other in left if since)
        self.taken(found, names)

    @rule(limit=LIMITS)
    def claim_past_deadline(self, limit: int) -> None:
        self.promote()
        over = {name for name in self.over() if self.jobs[name].ready}
        found = self.run(self.ledger.claim_past_deadline(limit, lease=LEASE))
        names = [claim.job.id for claim in found]
        assert set(names) <= over
        assert len(names) == min(limit, len(over))
        self.taken(found, names)

    def taken(self, found: list[Claim], names: list[str]) -> None:
        assert [claim.job.id for claim in found] == names
        for claim in found:
            job = self.jobs[claim.job.id]
            job.holder, job.lease_until = claim.holder, self.monotonic() + LEASE
            job.attempts += 1
            assert (claim.job.attempts, claim.job.image_url) == (job.attempts, job.url)
        self.claims += found

    # What becomes of a claim. It may be void long since: then nothing happens.

    def holds(self, claim: Claim, *states: State) -> Model | None:
        job = self.jobs[claim.job.id]
        return job if job.holder == claim.holder and job.state in states else None

    @a_claim
    @rule(which=WHICH)
    def fetched(self, which: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        self.serial += 1
        spool = f"{claim.job.id}-{self.serial}"
        image = Image("png", 1, 1, 100 + self.serial, "ab" * 32)
        job = self.holds(claim, State.RECEIVED)
        assert self.run(self.ledger.fetched(claim, image, spool)) is (job is not None)
        if job is not None:
            job.state, job.holder, job.attempts, job.at_risk = State.FETCHED, None, 0, False
            job.trust()
            job.spool, job.fetched_at, job.reason = spool, self.clock(), None
            job.events.append("fetched")

    @a_claim
    @rule(which=WHICH)
    def archived(self, which: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, State.FETCHED)
        assert self.run(self.ledger.archived(claim, StoredObject("file:///x"))) is (job is not None)
        if job is not None:
            job.state, job.holder, job.spool, job.reason = State.ARCHIVED, None, None, None
            job.events.append("archived")

    @a_claim
    @rule(which=WHICH)
    def rejected(self, which: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, State.RECEIVED)
        error = FetchError("fetch.too_large")
        assert self.run(self.ledger.rejected(claim, error)) is (job is not None)
        if job is not None:
            job.state, job.holder, job.reason = State.REJECTED, None, "fetch.too_large"
            job.events.append("rejected")

    @a_claim
    @rule(
        which=WHICH,
        wait=st.sampled_from([SECOND, 5 * MINUTE, HOUR]),
        suspect=st.sampled_from([None, "cd" * 32, "url.redirects: x"]),
    )
    def retry_later(self, which: int, wait: int, suspect: str | None) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, claim.job.state)
        at, error = self.clock() + wait, FetchError("fetch.timeout")
        done = self.run(self.ledger.retry_later(claim, at, error, suspect=suspect))
        assert done is (job is not None)
        if job is not None:
            job.holder, job.waits_until, job.reason = None, at, "fetch.timeout"
            job.changed_at = self.clock()
            if suspect is not None and suspect != job.suspect:
                job.suspect, job.suspects, job.suspect_since = suspect, 0, self.clock()
            job.suspects += suspect is not None
            job.events.append("attempt_failed")

    @a_claim
    @rule(which=WHICH)
    def spool_lost(self, which: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, State.FETCHED)
        assert self.run(self.ledger.spool_lost(claim, SpoolError("spool.lost"))) is (job is not None)
        if job is not None:
            job.state, job.holder, job.attempts = State.RECEIVED, None, 0
            job.spool, job.reason = None, "spool.lost"
            job.events.append("spool_lost")

    @a_claim
    @rule(which=WHICH, url=URLS, life=LIVES)
    def url_refreshed(self, which: int, url: str, life: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, State.RECEIVED)
        said, deadline, at = Completion(claim.job.id, url), self.deadline(life), self.clock() + SECOND
        assert self.run(self.ledger.url_refreshed(claim, said, deadline, at)) is (job is not None)
        if job is not None:
            job.url, job.deadline, job.waits_until, job.holder = url, deadline, at, None
            job.changed_at, job.attempts = self.clock(), 0
            job.at_risk = False
            job.trust()
            job.events.append("url_refreshed")

    @a_claim
    @rule(which=WHICH, url=URLS, life=LIVES)
    def confirmed(self, which: int, url: str, life: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, State.RECEIVED)
        said, deadline = Completion(claim.job.id, url), self.deadline(life)
        after = self.run(self.ledger.confirmed(claim, said, deadline))
        assert (after is not None) is (job is not None)
        if job is None or after is None:
            return
        job.url, job.deadline = url, deadline
        job.events.append("confirmed")
        assert (after.holder, after.job.image_url, after.job.deadline) == (claim.holder, url, deadline)

    @a_claim
    @rule(which=WHICH)
    def expired(self, which: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, State.RECEIVED)
        assert self.run(self.ledger.expired(claim)) is (job is not None)
        if job is not None:
            job.state, job.holder, job.reason = State.EXPIRED, None, "fetch.expired"
            job.events.append("expired")

    @a_claim
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        claim = self.claims[-1 - which % len(self.claims)]
        job = self.holds(claim, *State)
        assert self.run(self.ledger.release(claim)) is (job is not None)
        if job is not None:
            job.holder = None
            job.attempts -= 1

    # What the clock brings.

    @rule()
    def expire(self) -> None:
        over = self.over()
        assert set(self.run(self.ledger.expire())) == over
        for name in over:
            job = self.jobs[name]
            job.state, job.waits_until, job.reason = State.EXPIRED, None, "fetch.expired"
            job.events.append("expired")

    @rule()
    def mark_at_risk(self) -> None:
        now = self.clock()
        found = set(self.run(self.ledger.mark_at_risk()))
        risky = {
            name
            for name, job in self.jobs.items()
            if job.state is State.RECEIVED
            and not job.at_risk
            and (job.deadline - now) * 10 < job.deadline - job.received_at
        }
        assert found == risky
        for name in risky:
            self.jobs[name].at_risk = True
            self.jobs[name].changed_at = self.clock()
            self.jobs[name].events.append("at_risk")

    def promote(self) -> None:
        for job in self.jobs.values():
            if job.waits_until is not None and job.waits_until <= self.clock():
                job.waits_until = None

    def over(self) -> set[str]:
        """Jobs whose time is over, which were tried, and which nobody works on."""
        return {
            name
            for name, job in self.jobs.items()
            if job.state is State.RECEIVED
            and job.holder is None
            and job.deadline <= self.clock()
            and (job.attempts > 0 or job.waits_until is not None)
        }

    def deadline(self, life: int) -> int:
        self.serial += 1  # no two deadlines are alike, so that there is one right order
        return (self.clock() + life) // SECOND * SECOND + self.serial

    # What must hold after every step, read past the ledger.

    @invariant()
    def the_file_holds_what_the_model_holds(self) -> None:
        db = self.read
        assert {job.id for job in search.jobs(db, Filter()).jobs} == set(self.jobs)
        for name, job in self.jobs.items():
            found = search.job_with_history(db, name)
            assert found is not None
            self.compare(job, *found)
        assert kept_totals(db) == recounted_totals(db)
        self.compare_numbers(db)

    def compare(self, job: Model, found: Job, events: Sequence[Event]) -> None:
        assert (found.state, found.attempts, found.next_attempt_at) == (
            job.state,
            job.attempts,
            job.waits_until,
        )
        assert (found.image_url, found.source_url, found.ref) == (job.url, job.source, job.ref)
        assert (found.suspect, found.suspects, found.suspect_since) == (
            job.suspect,
            job.suspects,
            job.suspect_since,
        )
        assert found.spool == job.spool
        assert (found.problem.reason if found.problem else None) == job.reason
        assert job.state is not State.RECEIVED or found.deadline == job.deadline
        assert [event.event for event in events] == job.events
        assert events[0].before is None
        assert events[-1].after is job.state
        for one, other in pairwise(events):
            assert other.before is one.after
            assert other.after is one.after or other.after in MOVES[one.after]

    def compare_numbers(self, db: Connection) -> None:
        jobs = self.jobs.values()
        stats = aggregates.stats(db, overdue_before=0)
        assert stats.jobs == {state: sum(job.state is state for job in jobs) for state in State}
        received = [job for job in jobs if job.state is State.RECEIVED]
        deadlines = [job.deadline for job in received]
        assert stats.soonest_deadline == min(deadlines, default=None)
        assert stats.at_risk == sum(job.at_risk for job in received)
        assert stats.refused == sum(job.suspect is not None for job in received)
        assert due.spool_names(db, self.ledger.member.id) == {
            job.spool for job in jobs if job.state is State.FETCHED
        }
        waits = [job.waits_until for job in jobs if job.waits_until is not None]
        assert due.next_event_at(db) == min([*waits, *deadlines], default=None)


class DatabaseMachine(LedgerMachine):
    """Does the same to a ledger in a database, whose connections are cut off in place of a crash."""

    server: Postgres
    url: str

    def first_place(self) -> LedgerLocation:
        empty(self.server, self.url)
        return LedgerLocation(self.root, self.url, "here")

    def cut_off(self) -> None:
        self.server.cut(self.url.rpartition("/")[2])
        self.run(self.ledger.close())


@pytest.mark.timeout(300)
def test_a_ledger_in_a_database_answers_as_the_model_does(
    postgres_server: Postgres, shared_database: str
) -> None:
    class Machine(DatabaseMachine):
        server, url = postgres_server, shared_database

    run_state_machine_as_test(
        Machine,
        settings=settings(TestLedgerModel.settings, max_examples=15),
    )


TestLedgerModel = LedgerMachine.TestCase
TestLedgerModel.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
