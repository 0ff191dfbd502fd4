"""`ledger-copy`: a ledger in a file becomes the same ledger in a database, whatever cuts it off."""

import asyncio
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from receiver.core.errors import BodyError, LedgerError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import FILE_NAME, Filter, Ledger, LedgerReader
from receiver.ledger.postgres.copy import UNFINISHED, Copied, copy_ledger
from receiver.ledger.sqlite.driver import sqlite3
from tests.ledger.actions import LEASE, brought_to, delivery, long_host
from tests.support.clock import Clock
from tests.support.postgres import Postgres
from tests.support.processes import ROOT

STRANGE = "tab\t back\\slash \\N line\r\n\b\f\v 'quote' \"é\U0001f600\u2028"
PIECE = 3


class CutOffError(Exception):
    """The process was killed, or the network was cut."""


@pytest.fixture
async def folder(tmp_path: Path, clock: Clock, monotonic: Clock) -> Path:
    """A data directory with jobs in each state, and with texts that are hard to copy."""
    async with await Ledger.serve(tmp_path, now=clock, monotonic=monotonic) as ledger:
        for state in sorted(State, key=lambda it: it is State.RECEIVED):  # last: no other may wait meanwhile
            await brought_to(ledger, state, f"job-{state.value}")
        (claim,) = await ledger.claim_to_fetch(1, again=1, lease=LEASE)
        assert claim.job.id == "job-received"
        for number in range(8):
            await ledger.record(delivery(f"other-{number}", ref=f"ref {number}", ticket=f"t{number}"))
        await ledger.record_unread(BodyError("body.not_json", "no JSON"), bytes(range(256)), "ximilar")
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("UPDATE jobs SET source_url = ? WHERE id = 'other-1'", (STRANGE,))
    db.execute("UPDATE jobs SET source_url = ? WHERE id = 'other-2'", ("with \0 in it",))
    host = long_host()  # of an older program, which kept all of it
    for number in (3, 4):
        values = (f"{host}{number}", f"https://{host}{number}", f"other-{number}")
        db.execute("UPDATE jobs SET host = ?, source_url = ? WHERE id = ?", values)
    db.commit()
    db.close()
    return tmp_path


def place(folder: Path, database: str) -> LedgerLocation:
    return LedgerLocation(folder, database, "one")


def copied(folder: Path, database: str, **more: Any) -> Copied:
    return copy_ledger(place(folder, database), on_progress=lambda *_: None, piece=PIECE, **more)


def cut_after(rows: int) -> Callable[[int, int], None]:
    def on_progress(done: int, _: int) -> None:
        if done >= rows:
            raise CutOffError

    return on_progress


async def everything(ledger: LedgerReader) -> Any:
    jobs = (await ledger.jobs(Filter(), limit=1000)).jobs
    histories = [await ledger.job_with_history(job.id) for job in jobs]
    return jobs, histories, await ledger.stats(overdue_before=0)


async def test_a_copy_answers_as_the_file_does(folder: Path, database: str) -> None:
    it = copied(folder, database)
    assert not it.resumed
    assert it.rows["jobs"] == len(State) + 8
    assert it.rows["unread"] == 1
    async with (
        await LedgerReader.open(folder) as before,
        await LedgerReader.open(place(folder, database)) as after,
    ):
        jobs, histories, stats = await everything(before)
        there = await everything(after)
        assert {job.id: job.source_url for job in there[0]}["other-1"] == STRANGE
        assert {job.id: job.source_url for job in there[0]}["other-2"] == "with \ufffd in it"
        assert [repr(job).replace("\\x00", "\ufffd") for job in jobs] == [repr(job) for job in there[0]]
        assert histories[0] == there[1][0]
        assert list(there[2].spools.values()) == list(stats.spools.values())  # of the instance, by its id
        assert replace(stats, spools={}) == replace(there[2], spools={})


async def test_numbers_go_on_after_a_copy(
    folder: Path, database: str, clock: Clock, monotonic: Clock
) -> None:
    copied(folder, database)
    async with await LedgerReader.open(folder) as before:
        newest = (await before.jobs(Filter(), limit=1)).jobs[0]
    async with await Ledger.serve(place(folder, database), now=clock, monotonic=monotonic) as ledger:
        last = await ledger.last_history_seq()
        await ledger.record(delivery("new"))
        first, second = (await ledger.jobs(Filter(), limit=2)).jobs
        assert (first.id, second.id) == ("new", newest.id)
        assert await ledger.last_history_seq() > last
        assert (await ledger.record(delivery("other-3"))).duplicate


@pytest.mark.parametrize("rows", [1, 20, 45, 70])
async def test_a_copy_that_was_cut_off_goes_on(folder: Path, database: str, rows: int) -> None:
    with pytest.raises(CutOffError):
        copy_ledger(place(folder, database), on_progress=cut_after(rows), piece=PIECE)
    with pytest.raises(LedgerError, match="There is no ledger in the database"):
        await LedgerReader.open(place(folder, database))
    again = copied(folder, database)
    assert again.resumed
    with psycopg.connect(database) as db:
        counts = {
            name: db.execute(f"SELECT count(*) FROM upscale_receiver.{name}").fetchone()
            for name in again.rows
        }
        unfinished = db.execute("SELECT to_regnamespace(%s)", (UNFINISHED,)).fetchone()
    assert counts == {name: (rows,) for name, rows in again.rows.items()}
    assert unfinished == (None,)


async def test_a_difference_is_noticed(folder: Path, database: str) -> None:
    total: list[int] = []

    def on_progress(done: int, of: int) -> None:
        total[:] = [of]
        if done > of - PIECE:  # almost all is copied
            raise CutOffError

    with pytest.raises(CutOffError):
        copy_ledger(place(folder, database), on_progress=on_progress, piece=PIECE)
    with psycopg.connect(database) as db:
        db.execute(f"UPDATE {UNFINISHED}.jobs SET image_url = 'https://other' WHERE id = 'other-5'")
    with pytest.raises(LedgerError, match="table jobs differs") as error:
        copied(folder, database)
    assert error.value.reason == "ledger.corrupt"
    assert not copied(folder, database, restart=True).resumed


async def test_a_part_of_another_ledger_is_not_gone_on_with(folder: Path, database: str) -> None:
    with pytest.raises(CutOffError):
        copy_ledger(place(folder, database), on_progress=cut_after(20), piece=PIECE)
    async with await Ledger.serve(folder) as ledger:
        await ledger.record(delivery("meanwhile"))
    with pytest.raises(LedgerError, match="before it changed") as error:
        copied(folder, database)
    assert error.value.reason == "ledger.in_use"
    assert copied(folder, database, restart=True).rows["jobs"] == len(State) + 9


async def test_a_database_with_a_ledger_is_left_as_it_is(folder: Path, database: str) -> None:
    async with await Ledger.serve(place(folder, database)) as ledger:
        await ledger.record(delivery("there"))
    for restart in (False, True):
        with pytest.raises(LedgerError, match="holds a ledger already"):
            copied(folder, database, restart=restart)
    async with await LedgerReader.open(place(folder, database)) as reader:
        assert await reader.job("there") is not None


async def test_an_empty_schema_that_an_administrator_made_is_taken(folder: Path, database: str) -> None:
    with psycopg.connect(database) as db:
        db.execute("CREATE SCHEMA upscale_receiver")
        db.execute("GRANT USAGE ON SCHEMA upscale_receiver TO pg_monitor")
        db.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA upscale_receiver GRANT SELECT ON TABLES TO pg_monitor")
    assert copied(folder, database).rows["jobs"] == len(State) + 8
    with psycopg.connect(database) as db:
        rights = db.execute(
            "SELECT has_schema_privilege('pg_monitor', 'upscale_receiver', 'USAGE'),"
            " has_table_privilege('pg_monitor', 'upscale_receiver.jobs', 'SELECT')"
        ).fetchone()
    assert rights == (True, True)


async def test_a_schema_of_another_owner_is_refused_before_a_row_is_copied(
    folder: Path, database: str, postgres_server: Postgres
) -> None:
    name = database.rpartition("/")[2]
    postgres_server.execute(
        "CREATE SCHEMA upscale_receiver; GRANT ALL ON SCHEMA upscale_receiver TO PUBLIC", database=name
    )
    done: list[int] = []
    with pytest.raises(LedgerError, match="must be owner of schema") as error:
        copy_ledger(place(folder, database), on_progress=lambda rows, _: done.append(rows))
    assert error.value.reason == "ledger.unavailable"
    assert done == []


async def test_no_statement_of_a_copy_is_bounded_in_time(
    folder: Path, database: str, postgres_server: Postgres
) -> None:
    name = database.rpartition("/")[2]
    postgres_server.execute(
        "CREATE TABLE noted (bound text); GRANT INSERT ON noted TO PUBLIC;"
        " CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.noted VALUES (current_setting('statement_timeout')); END $$;"
        " CREATE EVENT TRIGGER noting ON ddl_command_end WHEN TAG IN ('CREATE INDEX')"
        " EXECUTE FUNCTION note()",
        database=name,
    )
    postgres_server.execute(f"ALTER DATABASE {name} SET statement_timeout = '1min'")
    copied(folder, database)
    noted = postgres_server.execute("SELECT DISTINCT bound FROM noted", database=name)
    assert noted == [("0",)]


async def test_a_vacuum_that_the_database_cuts_short_does_not_stop_a_copy(
    folder: Path, database: str, postgres_server: Postgres
) -> None:
    name = database.rpartition("/")[2]
    postgres_server.execute(f"ALTER DATABASE {name} SET statement_timeout = '1s'")
    with postgres_server.connection(name) as other:

        def on_progress(done: int, of: int) -> None:
            if done == of:  # a vacuum waits from now on
                other.execute(
                    f"BEGIN; LOCK TABLE {UNFINISHED}.bodies IN SHARE UPDATE EXCLUSIVE MODE".encode()
                )

        it = copy_ledger(place(folder, database), on_progress=on_progress)
        other.execute("ROLLBACK")
    assert it.rows["jobs"] == len(State) + 8


async def test_a_dump_is_restored_as_the_operations_page_says(
    folder: Path, database: str, postgres_server: Postgres, tmp_path: Path
) -> None:
    copied(folder, database)
    page = (ROOT / "docs/operations/cluster.md").read_text()
    dump, restore = (
        re.findall(rf"^  ({name} .+)$", page, re.MULTILINE)[0].split() for name in ("pg_dump", "pg_restore")
    )
    with postgres_server.database() as other:
        for words, url in ((dump, database), (restore, other)):
            line = [
                re.sub(r"postgresql://\S+", url, word).replace("ledger.dump", str(tmp_path / "dump"))
                for word in words
            ]
            command = [postgres_server.programs.folder / line[0], *line[1:]]
            await asyncio.to_thread(partial(subprocess.run, command, check=True))
        async with (
            await LedgerReader.open(place(folder, database)) as before,
            await LedgerReader.open(place(folder, other)) as after,
        ):
            assert await everything(before) == await everything(after)
        async with await Ledger.serve(place(folder, other)) as ledger:
            last = await ledger.last_history_seq()
            await ledger.record(delivery("new"))
            assert await ledger.last_history_seq() > last
