"""Connections to PostgreSQL, each with a thread of its own, and PostgreSQL's errors."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors
from psycopg.pq import TransactionStatus

from receiver.core.errors import LedgerError
from receiver.ledger.postgres.dialect import Row, Values, row_type, statement

T = TypeVar("T")
Db = psycopg.Connection[Row]

SCHEMA = "upscale_receiver"

CUT_SECONDS = 25
"""A connection that gives no answer for so long is cut from this side; `LIMITS` end work before."""

LIMITS = {
    "lock_timeout": "8s",  # longer than an instance that stands still can hold the lock
    "idle_in_transaction_session_timeout": "5s",
    "statement_timeout": "10s",
}
"""What bounds a transaction. It is set in each one, since PgBouncer gives connections to others."""

CONNECTING = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""Parameters of libpq that the URL may override: a peer that is gone is noticed after 15 s."""


class Statements:
    """What commands and queries see of a connection."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def execute(self, sql: str, values: Values = (), /) -> psycopg.Cursor[Row]:
        return self._db.execute(statement(sql, values).encode())

    def executemany(self, sql: str, values: Iterable[Values], /) -> "Changed":
        """Run a statement for each of the values, all in one round trip."""
        statements = ";".join(statement(sql, each) for each in values)
        if not statements:
            return Changed(0)
        return Changed(sum(result.rowcount for result in self._db.execute(statements.encode()).results()))

    def script(self, sql: str) -> None:
        """Run statements without values."""
        self._db.execute(sql.encode())


class Changed:
    """The result of statements that return no rows."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount

    def fetchone(self) -> None:
        return None

    def fetchall(self) -> list[Any]:
        return []

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Session:
    """A connection with a thread of its own, since psycopg's calls block.

    It connects when a transaction begins, and again where the connection broke meanwhile.
    """

    def __init__(self, url: str, instance: str, *, cut_after: float = CUT_SECONDS) -> None:
        self._url = url
        self._instance = instance
        self._cut_after = cut_after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="postgres")
        self._db: Db | None = None

    async def run(self, work: Callable[["Session"], T], *, cut_after: float | None = None) -> T:
        """Run a whole function on the thread. Raise PostgreSQL's errors as `LedgerError`."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        running.add_done_callback(lambda it: it.cancelled() or it.exception())  # a caller may be cancelled
        while not (await asyncio.wait({running}, timeout=cut_after or self._cut_after))[0]:
            self._cut()
        return await running

    def _run(self, work: Callable[["Session"], T]) -> T:
        try:
            return work(self)
        except psycopg.Error as error:
            raise ledger_error(error) from error
        finally:
            self.roll_back()

    def begin(self, mode: str, *queries: str) -> Any:
        """Begin a transaction, and return the row of the last query; all of it is one round trip."""
        script = ";".join([f"BEGIN ISOLATION LEVEL {mode}", _SETTINGS, *queries]).encode()
        if self._db is not None:
            try:
                return _last_row(self._db, script)
            except psycopg.Error as error:
                if not has_ended(self._db, error):
                    raise
            # It broke while nobody used it: the server was restarted, say. Nothing had begun.
            self.drop()
        self._db = connect(self._url, self._instance)
        return _last_row(self._db, script)

    @property
    def is_connected(self) -> bool:
        """Whether the connection outlived the last transaction."""
        return self._db is not None

    @property
    def statements(self) -> Statements:
        assert self._db is not None
        return Statements(self._db)

    def commit(self) -> None:
        """Commit. After an error, the server may have committed all the same."""
        assert self._db is not None
        if self._db.execute(b"COMMIT").statusmessage != "COMMIT":  # after an error that nobody told of
            raise LedgerError("ledger.unavailable", "The database rolled the transaction back.")

    def roll_back(self, error: Exception | None = None) -> None:
        """End the transaction, if there is one; drop a connection that is of no more use after an error."""
        if isinstance(error, errors.ReadOnlySqlTransaction):
            self.drop()  # the database may be another server's by now
        if self._db is not None and self._db.info.transaction_status is not TransactionStatus.IDLE:
            try:
                self._db.execute(b"ROLLBACK")
            except psycopg.Error:
                self.drop()

    def drop(self) -> None:
        """Close the connection."""
        if self._db is not None:
            self._db.close()
        self._db = None

    def _cut(self) -> None:
        if (db := self._db) is not None:
            with (
                contextlib.suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(db.fileno())) as way,
            ):
                way.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self.drop)
        self._thread.shutdown(wait=False)


class SessionPool:
    """Connections that only read, so that no query waits for a commit; ``reads`` counts the queries."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.reads = 0
        self._sessions = sessions
        self._closing = False
        self._idle: asyncio.Queue[Session] = asyncio.Queue()
        for session in sessions:
            self._idle.put_nowait(session)

    async def read(self, query: Callable[[Statements], T]) -> T:
        """Run a query on one snapshot of the ledger, or raise `LedgerError`."""

        def on_snapshot(session: Session) -> T:
            session.begin("repeatable read read only")
            return query(session.statements)

        session = await self._idle.get()
        try:
            if self._closing:
                raise LedgerError("ledger.stopping")
            self.reads += 1
            return await session.run(on_snapshot)
        finally:
            self._idle.put_nowait(session)

    async def close(self) -> None:
        """Finish the queries that run, and close all connections."""
        self._closing = True
        for session in self._sessions:
            await session.close()


_SETTINGS = f"""SELECT set_config('search_path', '{SCHEMA}', true),
    {", ".join(f"set_config('{name}', '{value}', true)" for name, value in LIMITS.items())},
    set_config('jit', 'off', true), set_config('standard_conforming_strings', 'on', true),
    CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END,
    CASE WHEN current_setting('server_version_num')::int >= 170000
        THEN set_config('transaction_timeout', '20s', true) END"""


def connect(url: str, instance: str) -> Db:
    """Connect as a ledger does; the URL and libpq's own variables say more."""
    given = conninfo.conninfo_to_dict(url)
    name = f"upscale-receiver {instance}"
    parameters: dict[str, Any] = {"application_name": name, **CONNECTING, **given, "client_encoding": "utf8"}
    return psycopg.connect(
        conninfo.make_conninfo(**parameters),
        autocommit=True,
        cursor_factory=psycopg.ClientCursor,
        row_factory=_rows,
    )


def _rows(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], Row]:
    return row_type(tuple(column.name for column in cursor.description or ()))


def _last_row(db: Db, script: bytes) -> Any:
    cursor = db.execute(script)
    cursor.set_result(-1)
    return cursor.fetchone()


def has_ended(db: Db, error: psycopg.Error) -> bool:
    """Return whether a connection is of no more use after an error."""
    is_lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return db.closed or is_lost or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def is_of_one_command(error: Exception) -> bool:
    """Return whether an error concerns the data of one command, and not the connection or the database."""
    of_all = (psycopg.OperationalError, psycopg.InternalError, errors.InsufficientPrivilege)
    return isinstance(error, errors.RaiseException) or not isinstance(error, of_all)


def ledger_error(error: psycopg.Error) -> LedgerError:
    """Return what PostgreSQL's error means; values of rows are not in it."""
    message = (error.diag.message_primary or str(error)).strip()
    where = f"{error.sqlstate}, " if error.sqlstate else ""
    if isinstance(error, errors.DataCorrupted | errors.IndexCorrupted):
        return LedgerError("ledger.corrupt", f"The database is damaged ({where}{message}).")
    return LedgerError("ledger.unavailable", f"The database cannot be used: {where}{message}.")
