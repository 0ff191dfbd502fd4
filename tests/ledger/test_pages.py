"""Pages of jobs: what SQL selects is what Python selects, by indexes that need no sorting."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core.jobs import State
from receiver.ledger import Filter
from receiver.ledger.queries import search
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.driver import sqlite3
from tests.support.clock import HOUR, NOW

MINUTE = HOUR // 60
DAY = 24 * HOUR
REF, REASON = "order 7", "fetch.timeout"


@dataclass(frozen=True)
class Row:
    """What a filter looks at."""

    state: State
    ref: str | None
    reason: str | None
    created_at: int
    submitted_at: int | None

    def is_wanted(self, wanted: Filter) -> bool:
        def is_overdue(cutoff: int) -> bool:
            silent = self.state is State.SUBMITTED and self.submitted_at is not None
            return silent and (self.submitted_at or 0) < cutoff

        return (
            (not wanted.states or self.state in wanted.states)
            and wanted.ref in (None, self.ref)
            and wanted.reason in (None, self.reason)
            and (wanted.since is None or self.created_at >= wanted.since)
            and (wanted.until is None or self.created_at < wanted.until)
            and (wanted.overdue_before is None or is_overdue(wanted.overdue_before))
            and (wanted.not_overdue_before is None or not is_overdue(wanted.not_overdue_before))
        )


class Watched(sqlite3.Connection):
    """A ledger in memory that notes the plans of what it executes, and counts the steps of them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.row_factory = sqlite3.Row
        self.plans: list[list[str]] | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self.plans is not None:
            lines = super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            self.plans.append([str(line["detail"]) for line in lines])
        return super().execute(sql, parameters)

    def insert(self, rows: Sequence[Row]) -> None:
        super().execute("BEGIN")
        self.executemany(
            "INSERT INTO jobs (id, state, event, ref, reason, created_at, updated_at, submitted_at)"
            " VALUES (lower(hex(randomblob(8))), ?, 'made', ?, ?, ?, ?, ?)",
            [(r.state.value, r.ref, r.reason, r.created_at, r.created_at, r.submitted_at) for r in rows],
        )
        super().execute("COMMIT")

    def plans_of(self, wanted: Filter, before: int | None) -> list[list[str]]:
        self.plans = []
        search.jobs(self, wanted, before=before, limit=5)
        plans, self.plans = self.plans, None
        return plans

    def steps_of(self, wanted: Filter, *, limit: int = 10) -> int:
        """Return the instructions of SQLite's virtual machine that a page takes."""
        taken = 0

        def one() -> int:
            nonlocal taken
            taken += 1
            return 0

        self.set_progress_handler(one, 1)
        search.jobs(self, wanted, limit=limit)
        self.set_progress_handler(None, 1)
        return taken


def opened() -> Watched:
    db = sqlite3.connect(":memory:", isolation_level=None, factory=Watched)
    assert isinstance(db, Watched)
    schema.prepare(db, Path("memory"))
    return db


@pytest.fixture
def db() -> Iterator[Watched]:
    with closing(opened()) as db:
        yield db


def numbers_of(db: sqlite3.Connection, wanted: Filter, limit: int) -> list[int]:
    """Return the positions of all wanted jobs, read page by page."""
    found: list[int] = []
    before = None
    while True:
        page = search.jobs(db, wanted, before=before, limit=limit)
        ids = [job.id for job in page.jobs]
        assert len(ids) == limit or page.next is None
        known = dict(db.execute("SELECT id, seq FROM jobs"))
        found += [known[job_id] for job_id in ids]
        if page.next is None:
            return found
        assert page.next == found[-1]
        before = page.next


STATES = st.sampled_from(State)
REFS = st.sampled_from([None, REF, "order 8"])
REASONS = st.sampled_from([None, REASON, "url.port"])
SPANS = st.sampled_from([0, 1, MINUTE, HOUR, 2 * DAY, 400 * DAY])
CLOCK = st.one_of(st.just(MINUTE), SPANS, SPANS.map(lambda span: -span))
"""How far the clock goes from one job to the next: mostly on, and sometimes back."""


@st.composite
def ledgers(draw: st.DrawFn) -> list[Row]:
    at = NOW
    rows = []
    for step, state, ref, reason, silent in draw(
        st.lists(st.tuples(CLOCK, STATES, REFS, REASONS, SPANS), max_size=30)
    ):
        at += step
        submitted_at = at - silent if state is State.SUBMITTED else None
        rows.append(Row(state, ref, reason, at, submitted_at))
    return rows


def rarely(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.none(), strategy)


@given(rows=ledgers(), data=st.data(), limit=st.integers(1, 9))
def test_pages_hold_what_python_selects_however_the_clock_was_set(
    rows: list[Row], data: st.DataObject, limit: int
) -> None:
    times = st.sampled_from([NOW, NOW + 1, *(row.created_at + near for row in rows for near in (0, 1))])
    states = data.draw(rarely(st.lists(STATES, min_size=1, max_size=3))) or ()
    ref, reason = data.draw(rarely(REFS)), data.draw(rarely(REASONS))
    overdue, not_overdue = data.draw(rarely(times)), data.draw(rarely(times))
    bounds = [None, *data.draw(st.lists(times, min_size=1, max_size=3))]
    with closing(opened()) as db:
        db.insert(rows)
        for since, until in product(bounds, bounds):
            wanted = Filter(tuple(states), ref, reason, since, until, overdue, not_overdue)
            expected = [n for n in range(len(rows), 0, -1) if rows[n - 1].is_wanted(wanted)]
            assert numbers_of(db, wanted, limit) == expected, wanted


FILTERS = [
    Filter(states, ref, reason, since, until, overdue, not_overdue)
    for states, (ref, reason), since, until, (overdue, not_overdue) in product(
        ((), (State.ARCHIVED,), (State.SUBMITTED,), (State.RECEIVED, State.SUBMITTED), tuple(State)),
        ((None, None), (REF, None), (None, REASON), (REF, REASON)),
        (None, NOW + 3 * HOUR),
        (None, NOW + 6 * HOUR),
        ((None, None), (NOW + 5 * HOUR, None), (None, NOW + 5 * HOUR)),
    )
]
"""Every combination of parameters that `GET /jobs` takes."""


def scans_or_sorts(plans: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines by which all jobs are scanned, or more is sorted than the page of one state."""
    return [
        line
        for plan in plans
        for above, line in pairwise(["", *plan])
        if line.startswith("SCAN jobs") or ("TEMP B-TREE" in line and not above.startswith("SCAN scan_"))
    ]


def index_of(wanted: Filter) -> str | None:
    """Return the index that holds the wanted jobs by their positions; ``None`` for the table itself."""
    if wanted.ref is not None:
        return "jobs_by_ref" if wanted.reason is None else "jobs_by_ref_and_reason"
    if wanted.reason is not None:
        return "jobs_by_reason"
    overdue = (wanted.overdue_before, wanted.not_overdue_before)
    return "jobs_by_state" if wanted.states or overdue != (None, None) else None


@pytest.mark.parametrize("before", [None, 500])
def test_each_combination_of_parameters_walks_one_index_in_its_order(db: Watched, before: int | None) -> None:
    states = list(State)
    db.insert(
        [
            Row(states[n % 7], REF if n % 3 else None, REASON if n % 2 else None, NOW + n * MINUTE, NOW)
            for n in range(700)
        ]
    )
    table = "USING INTEGER PRIMARY KEY (rowid"
    for wanted in FILTERS:
        plans = db.plans_of(wanted, before)
        assert not scans_or_sorts(plans), wanted
        if not plans:  # a job of these states is never overdue
            assert wanted.overdue_before is not None
            assert wanted.states == (State.ARCHIVED,)
            continue
        searches = [line for line in plans[-1] if line.startswith("SEARCH jobs")]
        index = index_of(wanted)
        walks = [line for line in searches if f"INDEX {index} (" in line]
        assert all(line.endswith(" AND seq>? AND seq<?)") for line in walks), wanted
        if index is None:
            assert searches == [f"SEARCH jobs {table}>? AND rowid<?)"], wanted
        elif len(searches) == 1:
            assert searches == walks, wanted
        else:  # one walk for each state, and a look-up of the jobs that they find
            assert searches == [f"SEARCH jobs {table}=?)", *walks], wanted


@pytest.mark.parametrize("states", [(), (State.ARCHIVED,), (State.ARCHIVED, State.FAILED)])
@pytest.mark.parametrize("ref", [None, REF])
def test_jobs_of_another_time_are_passed_over_without_a_look(
    states: tuple[State, ...], ref: str | None
) -> None:
    """The clock goes two years ahead, and back after some jobs; then some days behind, and on again."""
    steps = {}
    for wrong in (200, 2000):
        ahead = [NOW + 730 * DAY + n * MINUTE for n in range(wrong)]
        behind = [NOW - 9 * DAY + n for n in range(wrong)]
        right = [NOW + n * MINUTE for n in range(300)]
        times = [*right[:100], *ahead, *right[100:200], *behind, *right[200:]]
        with closing(opened()) as db:
            db.insert([Row(State.ARCHIVED, REF, None, at, None) for at in times])
            wanted = Filter(states, ref, since=right[80], until=right[220])
            assert len(search.jobs(db, wanted, limit=1000).jobs) == 140
            steps[wrong] = db.steps_of(wanted, limit=1000)
    assert steps[2000] < 1.1 * steps[200]


def test_a_state_that_is_never_overdue_is_not_looked_through(db: Watched) -> None:
    db.insert([Row(State.ARCHIVED, None, None, NOW, None)] * 1000)
    assert db.steps_of(Filter((State.ARCHIVED,), overdue_before=NOW + HOUR)) == 0


@pytest.mark.parametrize("states", [(), (State.RECEIVED,), (State.ARCHIVED, State.FAILED)])
def test_jobs_of_one_provider_are_found_by_an_index_in_their_order(
    db: Watched, states: tuple[State, ...]
) -> None:
    db.insert([Row(State.ARCHIVED, None, None, NOW + n * MINUTE, NOW) for n in range(100)])
    for provider in ("ximilar", "replicate"):
        plans = db.plans_of(Filter(states, provider=provider), None)
        assert not scans_or_sorts(plans)
        walks = [line for line in plans[-1] if line.startswith("SEARCH jobs USING") and "rowid=" not in line]
        assert walks
        assert all(
            "INDEX jobs_by_provider (provider=? AND state=? AND seq>? AND seq<?)" in it for it in walks
        )
