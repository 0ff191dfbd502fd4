"""A ledger in a database: what several writers, lost connections and a database's own troubles do to it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from receiver.core.errors import LedgerError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Filter, Ledger, LedgerReader, inspect_database
from receiver.ledger.commands import deliveries
from receiver.ledger.postgres import connection, schema
from receiver.ledger.postgres.connection import Session
from receiver.ledger.postgres.database import READERS, PostgresOpener
from receiver.ledger.transaction import Transaction
from receiver.ledger.types import Recorded
from tests.ledger.actions import (
    IMAGE,
    STORED,
    brought_to,
    claimed,
    delivery,
    failure,
    history,
    kept_totals,
    recounted_totals,
    tables_of,
    the_job,
)
from tests.ledger.test_queries import run_every_query
from tests.support.clock import HOUR
from tests.support.ledgers import make_empty_ledger
from tests.support.postgres import Postgres, Programs, all_versions, postgres
from tests.support.processes import PATIENCE
from tests.support.proxy import Proxy, proxy
from tests.support.waiting import eventually

MEBIBYTE = 1 << 20


@pytest.fixture
def engine() -> str:
    return "postgres"


@asynccontextmanager
async def served(url: str, folder: Path, instance: str = "here") -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(LedgerLocation(folder, url, instance))
    try:
        yield ledger
    finally:
        await ledger.close()


async def refused(work: object) -> LedgerError:
    with pytest.raises(LedgerError) as caught:
        await work  # type: ignore[misc]
    return caught.value


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


@pytest.fixture
def way(postgres_server: Postgres) -> Iterator[Proxy]:
    with proxy(postgres_server.port) as it:
        yield it


@pytest.fixture
def far(postgres_server: Postgres, place: LedgerLocation, way: Proxy) -> str:
    """The address of the test's database behind the proxy."""
    assert place.url is not None
    return place.url.replace(f":{postgres_server.port}/", f":{way.port}/")


async def test_a_reader_by_number_skips_no_event_of_a_transaction_that_commits_late(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation, tmp_path: Path
) -> None:
    assert place.url is not None
    begun, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slowly(tx: Transaction) -> None:
        deliveries.record(tx, delivery("first"))
        loop.call_soon_threadsafe(begun.set)
        gate.wait()

    def waits() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return second.done() or postgres_server.execute(waiting) != [(0,)]

    async with served(place.url, tmp_path, "other") as other:
        first = asyncio.create_task(ledger._writer.write(slowly))
        await begun.wait()
        second = asyncio.create_task(other.record(failure("second")))
        try:
            await asyncio.to_thread(eventually, waits)
            page = await other.transitions(after=0, limit=9)
        finally:
            gate.set()
        await asyncio.gather(first, second)
        later = await other.transitions(after=page.until, limit=9)
    assert [it.id for it in (*page.transitions, *later.transitions)] == ["first", "second"]


@pytest.mark.parametrize("before", [True, False], ids=["before it", "after it"])
async def test_a_delivery_whose_commit_is_cut_off_is_refused_and_safe_when_it_comes_again(
    far: str, way: Proxy, tmp_path: Path, *, before: bool
) -> None:
    async with served(far, tmp_path) as ledger:
        way.cut_at(b"COMMIT", before=before)
        assert (await refused(ledger.record(delivery()))).reason == "ledger.unavailable"
        assert await ledger.record(delivery()) == Recorded(State.RECEIVED, duplicate=not before)
        assert [event.event for event in await history(ledger)] == ["received"]


async def test_an_outcome_whose_commit_is_cut_off_holds_when_it_is_recorded_again(
    far: str, way: Proxy, tmp_path: Path
) -> None:
    async with served(far, tmp_path) as ledger:
        await ledger.record(delivery(deadline=10**14))
        claim = await claimed(ledger)
        way.cut_at(b"COMMIT", before=False)
        await refused(ledger.fetched(claim, IMAGE, "spool"))
        assert await ledger.fetched(claim, IMAGE, "spool")
        (claim,) = await ledger.claim_to_archive(1, lease=HOUR)
        way.cut_at(b"COMMIT", before=False)
        await refused(ledger.archived(claim, STORED))
        assert await ledger.archived(claim, STORED)
        assert not await ledger.archived(claim, STORED)  # nothing was lost since
        assert [event.event for event in await history(ledger)] == ["received", "fetched", "archived"]


async def test_connections_that_ended_while_nobody_used_them_are_made_again_unnoticed(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation
) -> None:
    await ledger.record(delivery())
    await the_job(ledger)
    postgres_server.cut(name_of(place.url or ""))
    assert (await ledger.record(delivery())).duplicate
    assert (await the_job(ledger)).state is State.RECEIVED


async def test_a_ledger_goes_on_after_its_server_was_killed_and_started_again(tmp_path: Path) -> None:
    with postgres() as server, server.database() as url:
        async with served(url, tmp_path) as ledger:
            await ledger.record(delivery())
            server.kill()
            assert (await refused(ledger.record(delivery("lost")))).reason == "ledger.unavailable"
            assert (await refused(ledger.job("job-1"))).reason == "ledger.unavailable"
            server.start()
            assert (await ledger.record(delivery())).duplicate
            assert await ledger.job("lost") is None


async def test_a_ledger_that_reached_a_standby_goes_on_once_its_address_leads_to_the_primary(
    tmp_path: Path,
) -> None:
    with postgres() as former, postgres() as primary, proxy(former.port) as way:
        url = former.url(former.create(), port=way.port)
        async with served(url, tmp_path) as ledger:
            await ledger.record(delivery())
            former.fail_over(primary)
            for work in (ledger.record(delivery("new")), ledger.check_writable()):
                assert (await refused(work)).reason == "ledger.unavailable"
            assert (await the_job(ledger)).state is State.RECEIVED
            way.target = primary.port
            assert (await ledger.record(delivery())).duplicate
            assert not (await ledger.record(delivery("new"))).duplicate
            assert await ledger.job("new") is not None


async def test_a_database_without_free_connections_refuses_and_then_goes_on(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation
) -> None:
    with postgres_server.crowded(name_of(place.url or "")):
        for work in (ledger.record(delivery()), ledger.job("job-1")):
            error = await refused(work)
            assert (error.reason, "too many connections" in error.detail) == ("ledger.unavailable", True)
    assert not (await ledger.record(delivery())).duplicate


async def test_a_database_whose_files_cannot_grow_refuses_and_then_goes_on(tmp_path: Path) -> None:
    async def fill(ledger: Ledger, batch: int) -> None:
        await asyncio.gather(*(ledger.record(delivery(f"{batch}-{n}")) for n in range(200)))

    with postgres() as server, server.database() as url:
        async with served(url, tmp_path) as ledger:
            await fill(ledger, 0)
            with server.files_limited_to(MEBIBYTE):  # the size of a segment of the log, which still fits
                error = None
                for full in range(1, 100):
                    try:
                        await fill(ledger, full)
                    except LedgerError as caught:
                        error = caught
                        break
                assert error is not None
                assert (error.reason, "could not extend file" in error.detail) == ("ledger.unavailable", True)
                assert await ledger.job(f"{full - 1}-199") is not None
                assert await ledger.job(f"{full}-0") is None
            assert not (await ledger.record(delivery(f"{full}-0"))).duplicate
            assert (await ledger.record(delivery(f"{full - 1}-199"))).duplicate


async def test_readers_follow_the_writer_to_a_new_connection(
    ledger: Ledger, postgres_server: Postgres
) -> None:
    """The address may lead to another server, while the former one lives on as one that is only read."""
    query = "SELECT pg_backend_pid()"

    async def readers() -> set[int]:
        found = [ledger._readers.read(lambda db: db.execute(query).fetchone()[0]) for _ in range(READERS)]
        return set(await asyncio.gather(*found))

    before = await readers()
    assert await readers() == before
    writer = await ledger._writer.write(lambda tx: tx.db.execute(query).fetchone()[0])
    postgres_server.execute("SELECT pg_terminate_backend(%s, 10000)", writer)
    await ledger.record(delivery())
    assert not before & await readers()


async def test_a_reader_whose_statements_somebody_has_removed_connects_again(ledger: Ledger) -> None:
    await ledger.record(delivery())
    # Each takes a connection of its own, since the others are busy.
    await asyncio.gather(*(ledger.job("job-1") for _ in range(READERS)))
    await asyncio.gather(
        *(ledger._readers.read(lambda db: db.execute("DEALLOCATE ALL")) for _ in range(READERS))
    )
    answers = await asyncio.gather(*(ledger.job("job-1") for _ in range(4 * READERS)), return_exceptions=True)
    assert len([it for it in answers if isinstance(it, LedgerError)]) <= READERS  # once a connection
    assert (await the_job(ledger)).state is State.RECEIVED


async def test_a_read_only_database_refuses_writes_answers_reads_and_goes_on(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation
) -> None:
    await ledger.record(delivery())
    name = name_of(place.url or "")
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    postgres_server.cut(name)
    try:
        for work in (ledger.record(delivery("new")), ledger.check_writable()):
            error = await refused(work)
            assert (error.reason, "25006" in error.detail) == ("ledger.unavailable", True)
        assert (await the_job(ledger)).state is State.RECEIVED
    finally:
        postgres_server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert not (await ledger.record(delivery("new"))).duplicate


async def test_missing_rights_are_named_and_the_ledger_goes_on_once_they_are_given(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation, tmp_path: Path
) -> None:
    jobs, name = "upscale_receiver.jobs", name_of(place.url or "")
    postgres_server.execute(f"REVOKE INSERT ON {jobs} FROM receiver", database=name)
    try:
        error = await refused(ledger.record(delivery()))
        assert (error.reason, "42501" in error.detail) == ("ledger.unavailable", True)
    finally:
        postgres_server.execute(f"GRANT INSERT ON {jobs} TO receiver", database=name)
    assert not (await ledger.record(delivery())).duplicate

    foreign = LedgerLocation(tmp_path, postgres_server.url("postgres"))
    assert "permission denied for database" in (await refused(Ledger.serve(foreign))).detail


async def test_a_wrong_password_is_refused_without_showing_it(place: LedgerLocation, tmp_path: Path) -> None:
    url = (place.url or "").replace("canary", "a-wrong-canary")
    error = await refused(Ledger.serve(LedgerLocation(tmp_path, url)))
    assert "password authentication failed" in error.detail
    assert "canary" not in f"{error.detail} {error.__cause__} {LedgerLocation(tmp_path, url)!r}"


async def test_what_libpq_says_in_lines_is_told_as_one(place: LedgerLocation, tmp_path: Path) -> None:
    url = (place.url or "").replace("127.0.0.1", "127.0.0.1,127.0.0.2").replace("canary", "a-wrong-canary")
    detail = (await refused(Ledger.serve(LedgerLocation(tmp_path, url)))).detail
    assert detail.isprintable()
    assert detail.endswith(".")


async def test_a_schema_of_another_version_is_left_alone_also_while_the_ledger_is_open(
    ledger: Ledger, place: LedgerLocation
) -> None:
    assert place.url is not None
    await ledger.record(delivery())
    with psycopg.connect(place.url, autocommit=True) as db:
        for version, reason in ((2, "ledger.newer"), (0, "ledger.unavailable")):
            db.execute("UPDATE upscale_receiver.schema_version SET version = %s", (version,))
            try:
                for work in (
                    ledger.record(delivery("new")),
                    LedgerReader.open(place),
                    Ledger.open_beside(place, make=False),
                ):
                    assert (await refused(work)).reason == reason
            finally:
                db.execute("UPDATE upscale_receiver.schema_version SET version = 1")
    assert (await ledger.record(delivery())).duplicate


async def test_a_schema_whose_version_is_missing_refuses_and_then_goes_on(
    ledger: Ledger, place: LedgerLocation
) -> None:
    with psycopg.connect(place.url or "", autocommit=True) as db:
        row = db.execute("DELETE FROM upscale_receiver.schema_version RETURNING *").fetchone()
        try:
            assert (await refused(ledger.record(delivery()))).reason == "ledger.unavailable"
        finally:
            db.execute("INSERT INTO upscale_receiver.schema_version VALUES (%s, %s)", row)
    assert not (await ledger.record(delivery())).duplicate


@pytest.mark.parametrize("change", ["UPDATE {} SET structure = 'another'", "ALTER TABLE {} DROP structure"])
async def test_a_structure_that_an_unreleased_version_made_is_refused(
    database: str, tmp_path: Path, change: str
) -> None:
    place = LedgerLocation(tmp_path, database, "one")
    await (await Ledger.serve(place)).close()
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(change.format("upscale_receiver.schema_version").encode())
    error = await refused(Ledger.serve(place))
    assert error.reason == "ledger.corrupt"
    assert "an unreleased version made it" in error.detail


async def test_a_command_makes_no_ledger_in_a_database_unless_it_may(database: str, tmp_path: Path) -> None:
    place = LedgerLocation(tmp_path, database)
    for work in (LedgerReader.open(place), Ledger.open_beside(place, make=False)):
        assert "There is no ledger in the database" in (await refused(work)).detail
    beside = await Ledger.open_beside(place)
    await beside.close()
    async with await LedgerReader.open(place) as reader:
        assert await reader.job("job-1") is None


async def test_texts_that_postgres_cannot_hold_are_recorded_without_their_nul(ledger: Ledger) -> None:
    bad = failure("job-1")
    assert bad.completion.failure is not None
    object.__setattr__(bad.completion.failure, "detail", "no\0GPU")
    assert not (await ledger.record(bad)).duplicate
    problem = (await the_job(ledger)).problem
    assert problem is not None
    assert problem.detail == "no\ufffdGPU"
    assert (await ledger.jobs(Filter(ref="a\0"))).jobs == ()


async def test_a_connection_that_gives_no_answer_is_cut_and_made_again(
    far: str, way: Proxy, tmp_path: Path
) -> None:
    place = LedgerLocation(tmp_path, far, "here")
    ledger = Ledger(await PostgresOpener(place, cut_after=0.3).to_serve())
    try:
        await ledger.record(delivery())
        way.lose()
        assert (await ledger.record(delivery())).duplicate
        way.down.set()
        way.lose()
        assert (await refused(ledger.record(delivery()))).reason == "ledger.unavailable"
        way.down.clear()
        assert (await ledger.record(delivery())).duplicate
    finally:
        await ledger.close()


async def test_transactions_are_bounded_durable_and_see_only_the_ledger_s_schema(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation
) -> None:
    name = name_of(place.url or "")
    postgres_server.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    postgres_server.cut(name)
    names = ("search_path", "lock_timeout", "statement_timeout", "synchronous_commit")
    query = f"SELECT {', '.join(f'current_setting(?) AS {name}' for name in names)}"
    try:
        found = await ledger._writer.write(lambda tx: tx.db.execute(query, names).fetchone())
        assert tuple(found) == ("upscale_receiver", "8s", "10s", "on")
        with psycopg.connect(place.url or "") as db:
            assert db.execute("SHOW synchronous_commit").fetchone() == ("off",)
    finally:
        postgres_server.execute(f"ALTER DATABASE {name} RESET synchronous_commit")


async def test_settings_of_the_database_do_not_change_what_values_say(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation
) -> None:
    name = name_of(place.url or "")
    postgres_server.execute(f"ALTER DATABASE {name} SET array_nulls = off")  # {NULL} is a text then
    postgres_server.execute(f"ALTER DATABASE {name} SET standard_conforming_strings = off")
    postgres_server.execute(f"ALTER DATABASE {name} SET bytea_output = escape")
    postgres_server.cut(name)
    try:
        refs = {"named": "\\'NULL", **{f"nameless-{number}": None for number in range(8)}}
        await asyncio.gather(*(ledger.record(delivery(job, ref=ref)) for job, ref in refs.items()))
        assert {job: (await the_job(ledger, job)).ref for job in refs} == refs
    finally:
        postgres_server.execute(f"ALTER DATABASE {name} RESET ALL")


async def test_a_connection_whose_settings_failed_is_not_used_without_them(
    ledger: Ledger, postgres_server: Postgres, place: LedgerLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_server.cut(name_of(place.url or ""))
    with monkeypatch.context() as patched:  # somebody cancels that statement, say
        patched.setattr(connection, "SETTINGS", "SELECT 1 / 0")
        assert (await refused(ledger.record(delivery()))).reason == "ledger.unavailable"
    assert not (await ledger.record(delivery())).duplicate


async def test_commits_stay_durable_when_the_server_loads_other_settings(
    ledger: Ledger, postgres_server: Postgres
) -> None:
    async def setting(name: str) -> object:
        query = "SELECT current_setting(?)"
        return await ledger._writer.write(lambda tx: tx.db.execute(query, (name,)).fetchone()[0])

    assert await setting("synchronous_commit") == "on"
    postgres_server.reload(synchronous_commit="off", log_rotation_size="1MB")
    try:
        async with asyncio.timeout(PATIENCE):
            while await setting("log_rotation_size") != "1MB":  # noqa: ASYNC110 - until it has loaded them
                await asyncio.sleep(0.01)
        assert await setting("synchronous_commit") == "on"
    finally:
        postgres_server.reload(synchronous_commit="on", log_rotation_size="10MB")


async def test_a_transaction_that_was_rolled_back_is_no_commit(ledger: Ledger) -> None:
    def careless(tx: Transaction) -> Recorded | None:
        recorded = deliveries.record(tx, delivery())
        with contextlib.suppress(psycopg.Error):
            tx.db.execute("SELECT 1 / 0")
        return recorded

    assert (await refused(ledger._writer.write(careless))).reason == "ledger.unavailable"
    assert await ledger.job("job-1") is None


async def test_times_are_those_of_the_database(place: LedgerLocation, tmp_path: Path) -> None:
    async def database_time(ledger: Ledger) -> int:
        (at,) = await ledger._readers.read(lambda db: db.execute(f"SELECT {schema.CLOCK}").fetchone())
        return int(at)

    async with served(place.url or "", tmp_path) as ledger:
        before = await database_time(ledger)
        await ledger.record(delivery())
        after = await database_time(ledger)
        received = (await the_job(ledger)).received_at
        assert received is not None
        assert before <= received <= after
        assert received - 1 <= ledger.now() <= await database_time(ledger) + 1


async def test_a_migration_waits_until_no_older_program_runs_and_then_keeps_all(
    database: str, tmp_path: Path
) -> None:
    newer = [*schema.scripts(), "ALTER TABLE jobs ADD COLUMN more TEXT"]

    def migrate(session: Session) -> int:
        return schema.prepare(session, "another", migrations=newer)

    session = Session(database, "there")
    async with served(database, tmp_path) as ledger:
        await ledger.record(delivery())
        error = await refused(session.run(migrate))
        assert (error.reason, "runs on it as here" in error.detail) == ("ledger.in_use", True)
        assert (await ledger.record(delivery())).duplicate
        await ledger.resign()
        await session.run(migrate)
        assert (await refused(ledger.record(delivery("new")))).reason == "ledger.newer"
    assert (await refused(Ledger.serve(LedgerLocation(tmp_path, database, "here")))).reason == "ledger.newer"
    session.begin("read committed")
    assert tuple(session.statements.execute("SELECT id, more FROM jobs").fetchone() or ()) == ("job-1", None)
    session.drop()


async def test_the_tables_and_their_indexes_are_those_of_a_file(
    ledger: Ledger, place: LedgerLocation, tmp_path: Path
) -> None:
    with tables_of(place) as db:
        columns = db.execute(
            "SELECT table_name::text || ' ' || column_name FROM information_schema.columns"
            " WHERE table_schema = 'upscale_receiver' AND table_name <> 'schema_version'"
        )
        there = {name for (name,) in columns}
        indexes = db.execute(
            "SELECT indexname::text FROM pg_indexes WHERE schemaname = 'upscale_receiver'"
            " AND indexdef NOT LIKE 'CREATE UNIQUE %'"
        )
        there |= {name for (name,) in indexes}
    with tables_of(LedgerLocation(make_empty_ledger(tmp_path / "file"))) as db:
        columns = db.execute(
            "SELECT tables.name || ' ' || columns.name FROM sqlite_schema AS tables, pragma_table_xinfo"
            " (tables.name) AS columns WHERE tables.type = 'table' AND tables.name <> 'durations'"
        )
        here = {name for (name,) in columns}
        indexes = db.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
        here |= {name for (name,) in indexes}
    assert there == here


@pytest.mark.parametrize("programs", all_versions(), ids=str)
async def test_every_state_is_reached_on_every_supported_server(programs: Programs, tmp_path: Path) -> None:
    with postgres(programs) as server, server.database() as url:
        place = LedgerLocation(tmp_path, url, "here")
        async with served(url, tmp_path) as ledger:
            for state in State:
                await brought_to(ledger, state, state.value)
                if state is State.RECEIVED:
                    await ledger.claim_to_fetch(9, again=9, lease=HOUR)
                await ledger.claim_to_archive(9, lease=HOUR)
            stats = await ledger.stats(overdue_before=0)
            assert stats.jobs == dict.fromkeys(State, 1)
            with tables_of(place) as db:
                assert kept_totals(db) == recounted_totals(db)
                run_every_query(db)
        found = await inspect_database(place)
        assert found.server.startswith(str(programs.version))
        assert (found.missing, found.is_read_only) == ([], False)


@pytest.mark.parametrize(
    ("query", "state"), [("SELECT 1 / 0", "22012"), ("SELECT repeat('x', 3000)::tsvector", "54000")]
)
async def test_a_command_that_fails_takes_no_other_of_its_batch_along(
    ledger: Ledger, query: str, state: str
) -> None:
    def fail(tx: Transaction) -> None:
        tx.db.execute(query)

    writes = [ledger.record(delivery("one")), ledger._writer.write(fail), ledger.record(delivery("two"))]
    one, failed, two = await asyncio.gather(*writes, return_exceptions=True)
    assert one == two == Recorded(State.RECEIVED, duplicate=False)
    assert isinstance(failed, LedgerError)
    assert state in failed.detail


async def test_a_connection_that_is_lost_among_commands_one_by_one_ends_them_all(
    far: str, way: Proxy, tmp_path: Path
) -> None:
    tried = []

    def fail(tx: Transaction) -> None:
        tried.append(tx)
        tx.db.execute("SELECT 1 / 0")

    def lose(_: Transaction) -> None:
        tried.append(_)
        if len(tried) > 2:  # the batch as a whole ends at the first failure
            way.down.set()
            way.cut()

    async with served(far, tmp_path) as ledger:
        writes = [ledger._writer.write(work) for work in (fail, lose, fail, fail)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(result, LedgerError) for result in results)
        assert len(tried) == 3  # the first twice, and the second; no other is tried without a connection
        way.down.clear()
        assert not (await ledger.record(delivery())).duplicate


async def test_what_this_instance_has_committed_itself_is_no_change_by_others(
    database: str, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    async with served(database, folders[0], "one") as one, served(database, folders[1], "other") as other:
        await one._engine.changed_by_others()
        await one.record(delivery("own"))
        assert await one._engine.changed_by_others() == ()
        await other.record(delivery("other-1"))
        await one.record(delivery("own-2"))
        await other.record(delivery("other-2"))
        assert sorted(await one._engine.changed_by_others()) == ["other-1", "other-2"]
        assert await one._engine.changed_by_others() == ()
