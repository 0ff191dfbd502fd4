"""The ledger in a database: how it is opened and committed to."""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import metadata
from typing import Any

import psycopg

from receiver.core.clock import Clock, monotonic_clock
from receiver.core.errors import LedgerError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.commands import instances
from receiver.ledger.connection import listed
from receiver.ledger.instance_id import instance_id
from receiver.ledger.postgres import schema
from receiver.ledger.postgres.connection import (
    CUT_SECONDS,
    SCHEMA,
    Session,
    Statements,
    is_of_one_command,
    ledger_error,
)
from receiver.ledger.postgres.dialect import insert_rows
from receiver.ledger.readers import Readers
from receiver.ledger.transaction import Command, Result, Transaction, run_together
from receiver.ledger.types import Inspection, Member

READERS = 2

OWN_KEPT = 4096
"""Numbers of this instance's last transactions; older ones are taken for those of others."""

MIGRATING_SECONDS = 6 * 3600

Clocks = tuple[Clock | None, Clock | None]
"""Of times, and of leases; ``None`` is the database's."""

_NOW = f"""SELECT {schema.CLOCK}, coalesce(max(version), 0), pg_current_xact_id()::xid::text,
    CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END
    FROM {SCHEMA}.schema_version"""  # noqa: S608 - a constant
"""Of each transaction: its time, the schema's version, and the number that its rows have as ``xmin``.

Its commit is durable: the server's settings may be loaded again while a connection lasts.
"""


class Database:
    """An open database, with one connection that writes and others that only read."""

    shared = True

    def __init__(
        self, writer: Session, readers: Sequence[Session], member: Member, at: int, clocks: Clocks
    ) -> None:
        now, monotonic = clocks
        self.readers = Readers(readers, schema.check_present)
        self.member = member
        self.now = now or self._database_clock
        self._monotonic = monotonic or self._database_clock
        self._writer = writer
        self._sessions = readers
        self._writer.on_connect = self._connect_readers_again
        self._ahead = at - monotonic_clock()
        self._last_seq: int | None = None
        self._own: deque[str] = deque(maxlen=OWN_KEPT)

    def _connect_readers_again(self) -> None:
        # The address may lead to another server by now, and their own be a former primary that lives on.
        for session in self._sessions:
            session.is_outdated = True

    async def commit(self, commands: Sequence[Command[Any]]) -> Sequence[Result]:
        return await self._writer.run(lambda session: self._commit(session, commands))

    def _commit(self, session: Session, commands: Sequence[Command[Any]]) -> list[Result]:
        try:
            at, version, number, _ = session.begin("read committed", schema.TAKE_LOCK, _NOW)
            schema.check_version(version)
            self._ahead = at - monotonic_clock()
            begin = partial(Transaction, session.statements, instance=self.member.id, insert=insert_rows)
            results = run_together(commands, lambda: begin(self.now(), self._monotonic()))
            session.commit()
            self._own.append(number)
        except Exception as error:  # noqa: BLE001 - a command's error belongs to its caller, not to this thread
            session.roll_back(error)
            if len(commands) > 1 and session.is_connected and is_of_one_command(error):
                # Each gets a transaction of its own, until the connection is lost.
                lost = Result(error=LedgerError("ledger.unavailable", "The connection was lost."))
                return [self._commit(session, [it])[0] if session.is_connected else lost for it in commands]
            reported = ledger_error(error) if isinstance(error, psycopg.Error) else error
            return [Result(error=reported) for _ in commands]
        return results

    def _database_clock(self) -> int:
        """Return the database's time as of the last commit, carried on by this machine's monotonic clock."""
        return monotonic_clock() + self._ahead

    @staticmethod
    def write_nothing(tx: Transaction) -> None:
        tx.db.execute("UPDATE schema_version SET version = version")

    def recover(self, tx: Transaction) -> list[str]:
        return instances.register(tx, self.member)

    @staticmethod
    def no_server() -> AbstractContextManager[bool]:
        return nullcontext(False)

    async def changed_by_others(self) -> Sequence[str]:
        return await self.readers.read(self._changed)

    def _changed(self, db: Statements) -> Sequence[str]:
        last_seq = self._last_seq
        (self._last_seq,) = db.execute("SELECT coalesce(max(seq), 0) FROM history").fetchone()
        if last_seq in (None, self._last_seq):
            return ()
        written = db.execute("SELECT DISTINCT xmin::text FROM history WHERE seq > ?", (last_seq,))
        others = {number for (number,) in written} - set(self._own.copy())
        if not others:
            return ()
        marks, numbers = listed(others)
        changed = db.execute(
            "SELECT DISTINCT jobs.id FROM history JOIN jobs ON jobs.seq = history.job"  # noqa: S608 - placeholders
            f" WHERE history.seq > ? AND history.xmin::text IN ({marks})",
            (last_seq, *numbers),
        )
        return [row["id"] for row in changed]

    async def check_for_damage(self) -> None:
        await self.readers.check_whole()

    async def close(self) -> None:
        await self._writer.close()


class PostgresOpener:
    """Opens the ledger of a database."""

    def __init__(
        self, location: LedgerLocation, clocks: Clocks = (None, None), *, cut_after: float = CUT_SECONDS
    ) -> None:
        self._location = location
        self._clocks = clocks
        self._session = partial(Session, location.url or "", location.instance, cut_after=cut_after)

    async def to_read(self) -> Readers:
        readers = Readers([self._session()], schema.check_present)
        try:
            await readers.check_whole()
        except BaseException:
            await readers.close()
            raise
        return readers

    async def inspect(self) -> Inspection:
        session = self._session()
        try:
            return await session.run(schema.inspect)
        finally:
            await session.close()

    async def to_serve(self) -> Database:
        me = await asyncio.to_thread(instance_id, self._location.data_dir)
        run, version = secrets.token_hex(8), metadata.version("upscale-receiver")
        return await self._open(Member(me, self._location.instance, run, version), READERS)

    async def beside(self, *, make: bool) -> Database:
        member = Member(await asyncio.to_thread(instance_id, self._location.data_dir, make=False))
        return await self._open(member, 1, make=make, migrate=False)

    async def _open(
        self, member: Member, readers: int, *, make: bool = True, migrate: bool = True
    ) -> Database:
        writer = self._session()
        try:
            at = await writer.run(
                lambda session: schema.prepare(session, member.id, make=make, migrate=migrate),
                cut_after=MIGRATING_SECONDS,
            )
        except BaseException:
            await writer.close()
            raise
        return Database(writer, [self._session() for _ in range(readers)], member, at, self._clocks)
