"""Searches: what is found is what Python selects, page by page, and at a cost that does not grow."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core.completion import Completion
from receiver.core.jobs import State
from receiver.ledger import Delivery, Filter, Ledger, Submission
from receiver.ledger.commands.attempts import host_of
from receiver.ledger.queries import search, text_search
from receiver.ledger.sqlite.driver import sqlite3
from tests.ledger.actions import claimed, delivery
from tests.ledger.test_pages import Watched, opened
from tests.support.clock import HOUR, NOW


class Row(NamedTuple):
    id: str
    ref: str | None = None
    image_url: str | None = None
    source_url: str | None = None
    state: State = State.ARCHIVED

    def begins(self, text: str) -> bool:
        own_id = self.id.rpartition(":")[2]
        hosts = [host_of(url) for url in (self.image_url, self.source_url) if url]
        return (
            any(name.startswith(word) for name in (self.id, own_id) for word in (text, text.lower()))
            or (self.ref or "").startswith(text)
            or any(host.startswith(host_of(text) or text.lower()) for host in hosts)
        )


def insert(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO jobs (id, ref, image_url, source_url, state, host, event, created_at, updated_at)"
        f" VALUES (?, ?, ?, ?, ?, ?, 'made', {NOW}, {NOW})",
        [(*row[:4], row.state.value, host_of(row.image_url)) for row in rows],
    )
    db.execute("COMMIT")


def found(db: sqlite3.Connection, wanted: Filter, limit: int) -> list[str]:
    ids: list[str] = []
    before = None
    while True:
        page = search.jobs(db, wanted, before=before, limit=limit)
        ids += [job.id for job in page.jobs]
        if (before := page.next) is None:
            return ids


@pytest.fixture
def db() -> Iterator[Watched]:
    with closing(opened()) as db:
        yield db


WORDS = ("a", "ab", "abc", "b", "B", "shop.a", "shop.b")
URLS = [None, *(f"https://{word}.example:8443/{word}?u=https://b/" for word in WORDS), "ab"]
TEXTS = [*WORDS, "A", "ab1", "replicate:ab", "replicate:AB", "shop.a.example:8443", "none", "https://b", "~"]


@given(
    seed=st.integers(0),
    names=st.sampled_from(("{}", "ab{}", "replicate:ab{}")),
    text=st.sampled_from(TEXTS),
    states=st.lists(st.sampled_from(State), max_size=2),
    limit=st.integers(1, 7),
)
def test_what_begins_with_a_text_is_found_once_and_newest_first(
    seed: int, names: str, text: str, states: list[State], limit: int
) -> None:
    dice = random.Random(seed)
    rows = [
        Row(
            names.format(number),
            dice.choice((None, *WORDS)),
            dice.choice(URLS),
            dice.choice(URLS),
            dice.choice(list(State)),
        )
        for number in range(dice.randrange(200))
    ]
    with closing(opened()) as db:
        insert(db, rows)
        assert found(db, Filter(tuple(states), search=text), limit) == [
            row.id for row in rows[::-1] if row.begins(text) and (not states or row.state in states)
        ]


@pytest.mark.parametrize(
    ("text", "most"), [("job-", text_search.MOST), ("order", text_search.MOST), ("host-", 100)]
)
def test_where_too_many_begin_so_it_is_said_and_more_of_the_text_finds_all(
    db: Watched, text: str, most: int
) -> None:
    rows = [Row(f"job-{n:05}", f"order {n:05}", f"https://host-{n:05}.example/") for n in range(most + 1)]
    insert(db, rows[:-1])
    assert not search.jobs(db, Filter(search=text), limit=5).incomplete
    insert(db, rows[-1:])
    page = search.jobs(db, Filter(search=text), limit=5)
    assert page.incomplete
    assert page.jobs[0].id == rows[-1].id
    exact = search.jobs(db, Filter(search=f"host-{most // 2:05}"), limit=5)
    assert ([job.id for job in exact.jobs], exact.incomplete) == ([f"job-{most // 2:05}"], False)


def test_a_frequent_reference_and_a_frequent_host_are_found_to_the_end(db: Watched) -> None:
    number = 3 * text_search.PORTION * 2
    insert(db, [Row(f"job-{n}", "catalogue", "https://host.example/") for n in range(number)])
    for text in ("catalogue", "host.example"):
        assert len(found(db, Filter(search=text), 100)) == number
        assert not search.jobs(db, Filter(search=text)).incomplete


@pytest.mark.parametrize(
    "text", ["job-00017", "order 00017", "order", "rare.example", "host.example", "none"]
)
def test_a_search_costs_the_same_in_a_ledger_ten_times_as_large(text: str) -> None:
    steps = {}
    for number in (2_000, 20_000):
        with closing(opened()) as db:
            hosts = ["rare.example" if n % (number // 20) == 0 else "host.example" for n in range(number)]
            insert(
                db,
                [Row(f"job-{n:05}", f"order {n:05}", f"https://{host}/") for n, host in enumerate(hosts)],
            )
            steps[number] = db.steps_of(Filter(search=text))
    assert steps[20_000] < 1.2 * steps[2_000]


def test_no_search_sorts_or_walks_all_jobs(db: Watched) -> None:
    insert(db, [Row(f"job-{n}", f"order {n}", "https://host.example/") for n in range(500)])
    for text in ("job-1", "order 1", "order 17", "host"):
        lines = [line for plan in db.plans_of(Filter(search=text), None) for line in plan]
        assert not [line for line in lines if line.startswith(("SCAN jobs", "SCAN hosts"))]


async def test_both_engines_find_ids_references_and_hosts_whichever_way_they_came(ledger: Ledger) -> None:
    await ledger.expect(Submission("silent", source_url="https://SHOP.example/a.jpg"))
    await ledger.record(delivery("one", url="https://first.example/1.png"))
    claim = await claimed(ledger)
    fresh = Completion("one", "https://second.example/1.png")
    await ledger.url_refreshed(claim, fresh, NOW + HOUR, NOW)
    silent = Completion("silent", "https://third.example/2.png", "https://other.example?a=1")
    await ledger.record(Delivery(silent, b"{}", NOW + HOUR))

    async def ids(text: str) -> list[str]:
        return [job.id for job in (await ledger.jobs(Filter(search=text))).jobs]

    await ledger.record(delivery("replicate:4F-1", ref="order 17"))
    for text, expected in {
        "on": ["one"],
        "4F-": ["replicate:4F-1"],
        "order": ["replicate:4F-1"],
        "shop.example": [],  # what a later delivery says replaces it
        "other.example": ["silent"],
        "third": ["silent"],
        "second.example": ["one"],
        "first.example": [],
        "https://second.example/1.png?signature=1": ["one"],
    }.items():
        assert await ids(text) == expected, text
