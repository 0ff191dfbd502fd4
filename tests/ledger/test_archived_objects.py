"""Archived jobs: listed, audited, relocated, and rebuilt from their objects."""

import asyncio
from dataclasses import replace

import pytest

from receiver.archive.metadata import ArchivedImage
from receiver.core.jobs import MOVES, Image, State, StoredObject
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import AuditFinding, Ledger, LedgerReader, Rebuilt
from tests.ledger.actions import (
    IMAGE,
    LEASE,
    STORED,
    brought_to,
    claimed,
    delivery,
    history,
    kept_totals,
    recounted_totals,
    tables_of,
    the_job,
)
from tests.support.clock import HOUR, NOW, Clock

MOVED = StoredObject("s3://bucket/moved", "etag-2")
SHOWN = ArchivedImage("job-1", "order 7", IMAGE, STORED, received_at=NOW - HOUR, archived_at=NOW - HOUR // 2)


async def test_archived_jobs_are_gone_through_in_the_order_in_which_they_came(ledger: Ledger) -> None:
    for number in range(5):
        await brought_to(ledger, State.ARCHIVED, f"job-{number}")
    await brought_to(ledger, State.FAILED, "failed")
    first = await ledger.archived_jobs(after=0, limit=3)
    rest = await ledger.archived_jobs(after=first[-1].seq, limit=3)
    assert [one.job.id for one in (*first, *rest)] == [f"job-{number}" for number in range(5)]
    assert await ledger.archived_jobs(after=rest[-1].seq, limit=3) == ()


async def test_places_are_told_of_archived_jobs_alone(ledger: Ledger) -> None:
    await brought_to(ledger, State.ARCHIVED)
    await brought_to(ledger, State.FAILED, "failed")
    assert await ledger.archive_uris(["job-1", "failed", "unknown"]) == {"job-1": STORED.uri}


async def test_what_an_audit_found_is_counted_until_it_is_found_sound_and_no_job_is_changed(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    await brought_to(ledger, State.ARCHIVED)
    before = await the_job(ledger)
    (one,) = await ledger.archived_jobs(after=0, limit=9)
    await ledger.record_audit([], [AuditFinding(one.seq, "archive.missing", "It is gone.")])
    assert (await ledger.stats(overdue_before=0)).damaged == {"archive.missing": 1}
    clock.forward(HOUR)
    await ledger.record_audit([], [AuditFinding(one.seq, "archive.missing", "It is gone.")])
    with tables_of(place) as db:
        assert [row["at"] for row in db.execute("SELECT at FROM findings")] == [NOW]
    await ledger.record_audit([], [AuditFinding(one.seq, "archive.altered", "It is another.")])
    assert (await ledger.stats(overdue_before=0)).damaged == {"archive.altered": 1}
    assert await the_job(ledger) == before
    await ledger.record_audit([one.seq], [])
    assert (await ledger.stats(overdue_before=0)).damaged == {}


async def test_a_relocated_job_is_still_archived_and_its_history_says_from_where(ledger: Ledger) -> None:
    await brought_to(ledger, State.ARCHIVED)
    assert await ledger.relocated("job-1", STORED, MOVED)
    job = await the_job(ledger)
    assert (job.state, job.stored, job.problem) == (State.ARCHIVED, MOVED, None)
    line = (await history(ledger))[-1]
    assert (line.event, line.before, line.after) == ("relocated", State.ARCHIVED, State.ARCHIVED)
    assert STORED.uri in (line.detail or "")
    assert not await ledger.relocated("job-1", STORED, MOVED)  # it lies there no more


@pytest.mark.parametrize("state", [state for state in State if state is not State.ARCHIVED])
async def test_only_an_archived_job_is_relocated(ledger: Ledger, state: State) -> None:
    await brought_to(ledger, state)
    assert not await ledger.relocated("job-1", STORED, MOVED)


async def test_a_job_is_made_of_its_object(ledger: Ledger, place: LedgerLocation) -> None:
    assert await ledger.rebuild(SHOWN) is Rebuilt.ADDED
    job = await the_job(ledger)
    assert (job.state, job.ref, job.image, job.stored) == (State.ARCHIVED, "order 7", IMAGE, STORED)
    assert (job.received_at, job.archived_at) == (NOW - HOUR, NOW - HOUR // 2)
    assert [line.event for line in await history(ledger)] == ["rebuilt"]
    assert await ledger.rebuild(SHOWN) is Rebuilt.KNOWN
    assert await ledger.rebuild(replace(SHOWN, stored=MOVED)) is Rebuilt.DUPLICATE
    assert (await the_job(ledger)) == job
    assert (await ledger.record(delivery())).duplicate
    with tables_of(place) as db:
        assert kept_totals(db) == recounted_totals(db)


async def test_positions_of_rebuilt_jobs_follow_the_time_at_which_they_were_heard_of(
    ledger: Ledger, place: LedgerLocation
) -> None:
    ages = {"a": NOW - 9 * HOUR, "b": NOW - 5 * HOUR, "c": NOW - 7 * HOUR, "from the future": NOW + HOUR}
    for job_id, at in ages.items():
        await ledger.rebuild(replace(SHOWN, id=job_id, received_at=at))
    await ledger.record(delivery("last"))
    with tables_of(place) as db:
        heard = [row["created_at"] for row in db.execute("SELECT created_at FROM jobs ORDER BY seq")]
    assert heard == sorted(heard)
    assert max(heard) == NOW


@pytest.mark.parametrize("state", [state for state in State if state is not State.ARCHIVED])
async def test_a_known_job_whose_object_is_there_becomes_archived_by_legal_moves(
    ledger: Ledger, state: State, place: LedgerLocation
) -> None:
    await brought_to(ledger, state)
    born = len(await history(ledger))
    assert await ledger.rebuild(SHOWN) is Rebuilt.MOVED
    job = await the_job(ledger)
    assert (job.state, job.image, job.stored, job.spool, job.problem) == (
        State.ARCHIVED,
        IMAGE,
        STORED,
        None,
        None,
    )
    lines = (await history(ledger))[born:]
    assert {line.event for line in lines} == {"rebuilt"}
    assert all(line.before is not None and line.after in MOVES[line.before] for line in lines)
    with tables_of(place) as db:
        assert kept_totals(db) == recounted_totals(db)
    assert await ledger.claim_to_fetch(9, again=9, lease=LEASE) == []
    assert await ledger.claim_to_archive(9, lease=LEASE) == []


async def test_a_job_that_is_being_worked_on_is_left_to_that(ledger: Ledger) -> None:
    await brought_to(ledger, State.RECEIVED)
    claim = await claimed(ledger)
    assert await ledger.rebuild(SHOWN) is Rebuilt.BUSY
    assert await ledger.fetched(claim, IMAGE, "spool")


@pytest.mark.parametrize("other", [Image("png", 424, 349, 1000, "ab" * 32), replace(IMAGE, sha256="cd" * 32)])
async def test_an_object_that_is_another_image_changes_nothing(ledger: Ledger, other: Image) -> None:
    await brought_to(ledger, State.FETCHED)
    before = await the_job(ledger)
    assert await ledger.rebuild(replace(SHOWN, image=other)) is Rebuilt.CONFLICT
    assert await the_job(ledger) == before


async def test_a_ledger_can_be_asked_for_damage_by_who_only_reads(
    ledger: Ledger, place: LedgerLocation
) -> None:
    view = await LedgerReader.open(place)
    assert (await view.stats(overdue_before=0)).damaged == {}
    await view.close()


async def test_of_those_who_replace_a_checkpoint_at_once_one_does(ledger: Ledger) -> None:
    for before, after in ((None, "a"), ("a", "b")):
        all_at_once = [ledger.replace_checkpoint("run", before, f"{after}{n}") for n in range(3)]
        assert sorted(await asyncio.gather(*all_at_once)) == [False, False, True]
        kept = await ledger.checkpoint("run")
        assert kept is not None
        assert kept[0] == after
        await ledger.save_checkpoint("run", after)
    assert not await ledger.replace_checkpoint("run", None, "c")
    assert await ledger.checkpoint("run") == "b"
