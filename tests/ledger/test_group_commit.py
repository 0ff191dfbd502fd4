"""Group commit: many commands, one commit; and one command's failure is its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from receiver.core.errors import LedgerError
from receiver.ledger import Filter, Ledger
from receiver.ledger.group_commit import MAX_BATCH, MAX_BATCH_BYTES, MAX_WAITING, GroupCommit
from receiver.ledger.readers import Readers
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.connections import Connection, open_to_write
from receiver.ledger.sqlite.database import Database, SqliteOpener
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.transaction import Batched, Command, Transaction
from tests.ledger.actions import delivery, file_of, never_wait_for_others, only_sqlite
from tests.support.clock import Clock

T = TypeVar("T")


class GatedConnection(Connection):
    """Counts the functions that it runs; while a test holds its gate closed, commands gather before it."""

    def __init__(self, path: Path) -> None:
        super().__init__(lambda: sqlite3.connect(path, isolation_level=None), iter_chunk_size=64)
        self.passed = 0
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, work: Callable[[sqlite3.Connection], T], path: Path | None = None) -> T:
        self.arrived.set()
        await self.gate.wait()
        self.passed += 1
        return await super().run(work, path)


class Bench:
    """A group commit on a table of names, with its connection."""

    def __init__(self, path: Path, connection: GatedConnection) -> None:
        self.connection = connection
        self.published: list[str] = []
        database = Database(
            path, connection, Readers([], schema.check_whole), now=lambda: 0, monotonic=lambda: 0
        )
        self.writer = GroupCommit(database.commit, on_change=self.published.extend)

    async def rows(self) -> list[str]:
        rows = await super(GatedConnection, self.connection).run(
            lambda db: db.execute("SELECT name FROM names ORDER BY rowid").fetchall()
        )
        return [name for (name,) in rows]

    async def behind_a_closed_gate(self, commands: Sequence[Command[str]]) -> list[asyncio.Task[str]]:
        """Submits the commands while the connection is held by one that came before them, named ``first``."""
        self.connection.gate.clear()
        self.connection.arrived.clear()
        tasks = [asyncio.create_task(self.writer.write(put("first")))]
        await self.connection.arrived.wait()
        tasks += [asyncio.create_task(self.writer.write(command)) for command in commands]
        await asyncio.sleep(0)  # each task submits its command in its first step
        return tasks


def put(name: str) -> Command[str]:
    def command(tx: Transaction) -> str:
        tx.db.execute("INSERT INTO names VALUES (?)", (name,))
        tx.changed.append(name)
        return name

    return command


def fail(error: Exception) -> Command[str]:
    def command(tx: Transaction) -> str:
        tx.db.execute("INSERT INTO names VALUES ('half done')")
        raise error

    return command


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    path = tmp_path / "names.sqlite3"
    connection = GatedConnection(path)
    await connection
    await connection.run(lambda db: db.execute("CREATE TABLE names (name TEXT UNIQUE)"))
    bench = Bench(path, connection)
    yield bench
    connection.gate.set()
    await bench.writer.close()
    await connection.close()


async def test_everything_that_waits_is_committed_together_in_the_order_in_which_it_came(
    bench: Bench,
) -> None:
    names = [f"name-{number}" for number in range(500)]
    tasks = await bench.behind_a_closed_gate([put(name) for name in names])
    passed = bench.connection.passed
    bench.connection.gate.set()
    assert await asyncio.gather(*tasks) == ["first", *names]
    assert bench.connection.passed == passed + 2
    assert await bench.rows() == bench.published == ["first", *names]


async def test_a_batch_has_a_limit(bench: Bench) -> None:
    tasks = await bench.behind_a_closed_gate([put(f"name-{n}") for n in range(MAX_BATCH + 1)])
    passed = bench.connection.passed
    bench.connection.gate.set()
    await asyncio.gather(*tasks)
    assert bench.connection.passed == passed + 3


async def test_the_bodies_of_a_batch_have_a_limit_which_a_single_one_may_exceed(bench: Bench) -> None:
    def put_all(tx: Transaction, names: Sequence[str]) -> list[str]:
        return [put(name)(tx) for name in names]

    sizes = (MAX_BATCH_BYTES + 1, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES // 2, 1, 0)
    commands = [Batched(put_all, f"name-{number}", size) for number, size in enumerate(sizes)]
    tasks = await bench.behind_a_closed_gate(commands)
    passed = bench.connection.passed
    bench.connection.gate.set()
    await asyncio.gather(*tasks)
    assert bench.connection.passed == passed + 1 + 3
    assert await bench.rows() == ["first", *(command.argument for command in commands)]


async def test_a_hundred_acknowledgements_share_their_commits(
    tmp_path: Path, clock: Clock, monotonic: Clock
) -> None:
    statements: list[str] = []
    database = await SqliteOpener(tmp_path, clock, monotonic).to_serve()
    await database.writer.run(lambda db: db.set_trace_callback(statements.append))
    ledger = Ledger(database)
    await asyncio.gather(*(ledger.record(delivery(f"job-{n}")) for n in range(100)))
    assert len((await ledger.jobs(Filter())).jobs) == 100
    await ledger.close()
    assert 1 <= statements.count("COMMIT") <= 2


async def test_a_commit_returns_after_the_disk_has_it(tmp_path: Path) -> None:
    connection = await open_to_write(tmp_path / "a.sqlite3")
    pragmas = await connection.run(
        lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    await connection.close()
    assert pragmas == ["wal", 2]  # 2 is FULL


async def test_a_command_that_fails_takes_nothing_of_the_others_with_it(bench: Bench) -> None:
    refused = LedgerError("ledger.wrong_state", "No.")
    commands = [put("a"), fail(refused), put("b"), put("a"), fail(ValueError("bug")), put("c")]
    tasks = await bench.behind_a_closed_gate(commands)
    bench.connection.gate.set()
    first, a, no, b, twice, bug, c = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, a, b, c) == ("first", "a", "b", "c")
    assert no is refused
    assert isinstance(twice, LedgerError)
    assert twice.reason == "ledger.unavailable"
    assert isinstance(bug, ValueError)
    assert await bench.rows() == bench.published == ["first", "a", "b", "c"]


async def test_a_full_disk_is_told_to_all_of_the_batch_and_ends(bench: Bench) -> None:
    def limited(pages: int) -> Callable[[sqlite3.Connection], object]:
        return lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await bench.connection.run(limited(1))  # not below what the file has already
    tasks = await bench.behind_a_closed_gate([put("a"), put("b" * 100_000), put("c")])
    bench.connection.gate.set()
    first, *rest = await asyncio.gather(*tasks, return_exceptions=True)
    assert first == "first"
    assert [str(error) for error in rest] == [str(rest[0])] * 3
    assert isinstance(rest[0], LedgerError)
    assert (rest[0].reason, "SQLITE_FULL" in rest[0].detail) == ("ledger.unavailable", True)
    await bench.connection.run(limited(1_000_000))
    assert await bench.writer.write(put("d")) == "d"
    assert await bench.rows() == ["first", "d"]


async def test_a_caller_that_gives_up_stops_nobody_else(bench: Bench) -> None:
    tasks = await bench.behind_a_closed_gate([put("a"), put("b"), put("c")])
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    bench.connection.gate.set()
    assert [await tasks[n] for n in (0, 1, 3)] == ["first", "a", "c"]
    assert await bench.rows() == ["first", "a", "b", "c"]  # its command was submitted, and may well count
    assert await bench.writer.write(put("d")) == "d"


async def test_more_than_can_wait_is_refused_at_once_and_what_waits_is_committed(bench: Bench) -> None:
    def nothing(tx: Transaction) -> str:
        return ""

    tasks = await bench.behind_a_closed_gate([nothing] * MAX_WAITING)
    with pytest.raises(LedgerError) as caught:
        await bench.writer.write(nothing)
    assert caught.value.reason == "ledger.overloaded"
    bench.connection.gate.set()
    await asyncio.gather(*tasks)
    assert await bench.writer.write(put("later")) == "later"


async def test_closing_commits_what_waits_and_takes_nothing_more(tmp_path: Path) -> None:
    ledger = await Ledger.serve(tmp_path)
    records = [asyncio.create_task(ledger.record(delivery(f"job-{n}"))) for n in range(50)]
    await asyncio.sleep(0)  # each task submits its delivery in its first step
    await ledger.close()
    assert [(await record).duplicate for record in records] == [False] * 50
    for late in (ledger.record(delivery()), ledger.job("job-1")):
        with pytest.raises(LedgerError) as caught:
            await late
        assert caught.value.reason == "ledger.stopping"
    with file_of(tmp_path) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] == 50


async def test_closing_a_writer_that_has_nothing_to_do_ends(tmp_path: Path) -> None:
    ledger = await Ledger.serve(tmp_path)
    await ledger.close()
    await ledger.close()


@only_sqlite
async def test_a_write_that_another_process_holds_up_is_refused_and_not_lost_in_silence(
    ledger: Ledger, tmp_path: Path
) -> None:
    await never_wait_for_others(ledger)
    with file_of(tmp_path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError) as caught:
            await ledger.record(delivery())
        assert (caught.value.reason, "SQLITE_BUSY" in caught.value.detail) == ("ledger.unavailable", True)
        with pytest.raises(LedgerError):
            await ledger.check_writable()
        other.execute("ROLLBACK")
    assert not (await ledger.record(delivery())).duplicate
    await ledger.check_writable()
