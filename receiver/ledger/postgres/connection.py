"""Connections to PostgreSQL, each with a thread of its own, and PostgreSQL's errors."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

from receiver.core.errors import LedgerError
from receiver.ledger.postgres.dialect import Row, Values, in_order, numbered, row_type, sent

T = TypeVar("T")
Db = psycopg.Connection[tuple[Any, ...]]

SCHEMA = "upscale_receiver"

MOST_PREPARED = 500
"""Statements that a connection keeps between two transactions; a receiver has about half as many."""

CUT_SECONDS = 25
"""A connection that gives no answer for so long is cut from this side; `SETTINGS` end work before."""


class Answer(list[Row]):
    """The rows that a statement returned, how many it changed, and what the server calls that."""

    def __init__(self, rows: Iterable[Row], rowcount: int, tag: bytes | None = None) -> None:
        super().__init__(rows)
        self.rowcount = rowcount
        self.tag = tag

    def fetchone(self) -> Any:
        return self.pop(0) if self else None

    def fetchall(self) -> list[Any]:
        return self


class Statements:
    """What commands and queries see of a connection.

    Where a server process serves this connection alone, it keeps each statement prepared: to plan one takes
    several times as long as to run it. PgBouncer, whose number of the process is another one, gives a
    transaction any process; statements are sent whole there.
    """

    def __init__(self, db: Db) -> None:
        self.db = db
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self.is_direct: bool | None = None
        self._prefix = secrets.token_bytes(4).hex()  # another's, if a proxy pretended, must not be executed

    def execute(self, sql: str, values: Values = (), /) -> Answer:
        # psycopg's cursors, which wait with poll(), take three times as long.
        given = [sent(value) for value in in_order(sql, values)]
        types = tuple([number for number, _ in given])
        parameters = [value for _, value in given if value is not None]
        known_types = [number for number in types if number]
        if not self.is_direct:
            statement = numbered(sql, types)
            return self._answer(
                self.db.pgconn.exec_params(statement, parameters, known_types, None, Format.BINARY)
            )
        if (name := self._names.get((sql, types))) is None:
            if len(self._names) == MOST_PREPARED:
                self.run("DEALLOCATE ALL")
                self._names.clear()
            name = f"{self._prefix}_{len(self._names)}".encode()
            self._answer(self.db.pgconn.prepare(name, numbered(sql, types), known_types))
            self._names[sql, types] = name
        return self._answer(self.db.pgconn.exec_prepared(name, parameters, None, Format.BINARY))

    def executemany(self, sql: str, values: Iterable[Values], /) -> Answer:
        """Run a statement for each of the values, all in one round trip."""
        rows = [
            [it.replace("\0", "\ufffd") if isinstance(it, str) else it for it in in_order(sql, each)]
            for each in values
        ]
        cursor = psycopg.RawCursor(self.db)
        if rows:
            cursor.executemany(numbered(sql, (1,) * len(rows[0])), rows)
        return Answer([], max(cursor.rowcount, 0))

    def begin(self, mode: str, queries: Sequence[str]) -> Any:
        if self.is_direct is None:
            is_direct = self.run("SELECT pg_backend_pid()").fetchone()[0] == self.db.info.backend_pid
            if is_direct:
                self.run(SETTINGS.replace("true)", "false)"))
            self.is_direct = is_direct
        settings = () if self.is_direct else (SETTINGS,)
        return self.run(";".join((f"BEGIN ISOLATION LEVEL {mode}", *settings, *queries))).fetchone()

    def is_idle(self) -> bool:
        return self.db.info.transaction_status is TransactionStatus.IDLE

    def run(self, script: str) -> Answer:
        """Run statements without values in one round trip, and return what the last one returned."""
        return self._answer(self.db.pgconn.exec_(script.encode()))

    def _answer(self, result: PGresult) -> Answer:
        if result.status == ExecStatus.COMMAND_OK:
            return Answer([], result.command_tuples or 0, result.command_status)
        if result.status == ExecStatus.TUPLES_OK:
            loader = Transformer(self.db)
            loader.set_pgresult(result)
            names = tuple([(result.fname(n) or b"").decode() for n in range(result.nfields)])
            return Answer(loader.load_rows(0, result.ntuples, row_type(names)), result.ntuples)
        error = errors.error_from_result(result)
        raise error if error.sqlstate else psycopg.OperationalError(self.db.pgconn.get_error_message())


class Session:
    """A connection with a thread of its own, since psycopg's calls block.

    It connects when a transaction begins, and again where the connection broke meanwhile.
    """

    def __init__(self, url: str, instance: str, *, cut_after: float = CUT_SECONDS) -> None:
        self._url = url
        self._instance = instance
        self._cut_after = cut_after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="postgres")
        self._open: Statements | None = None
        self.is_outdated = False  # set by any thread: the next transaction makes a new connection
        self.on_connect: Callable[[], None] = lambda: None

    async def run(self, work: Callable[["Session"], T], *, cut_after: float | None = None) -> T:
        """Run a whole function on the thread. Raise PostgreSQL's errors as `LedgerError`."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        running.add_done_callback(lambda it: it.cancelled() or it.exception())  # a caller may be cancelled
        while not (await asyncio.wait({running}, timeout=cut_after or self._cut_after))[0]:
            self._cut()
        return await running

    async def read(self, query: Callable[[Statements], T]) -> T:
        """Run a query on one snapshot of the ledger, or raise `LedgerError`."""

        def on_snapshot(session: Session) -> T:
            session.begin("repeatable read read only")
            return query(session.statements)

        return await self.run(on_snapshot)

    def _run(self, work: Callable[["Session"], T]) -> T:
        try:
            return work(self)
        except psycopg.Error as error:
            self.roll_back(error)
            raise ledger_error(error) from error
        finally:
            self.roll_back()

    def begin(self, mode: str, *queries: str) -> Any:
        """Begin a transaction, and return the row of the last query; all of it is one round trip."""
        if self.is_outdated:
            self.is_outdated = False
            self.drop()
        if self._open is not None:
            try:
                return self._open.begin(mode, queries)
            except psycopg.Error as error:
                if not has_ended(self._open.db, error):
                    raise
            # It broke while nobody used it: the server was restarted, say. Nothing had begun.
            self.drop()
        self._open = Statements(connect(self._url, self._instance))
        self.on_connect()
        return self._open.begin(mode, queries)

    @property
    def is_connected(self) -> bool:
        """Whether the connection outlived the last transaction."""
        return self._open is not None

    @property
    def statements(self) -> Statements:
        assert self._open is not None
        return self._open

    def commit(self) -> None:
        """Commit. After an error, the server may have committed all the same."""
        if self.statements.run("COMMIT").tag != b"COMMIT":
            raise LedgerError("ledger.unavailable", "The database rolled the transaction back.")

    def roll_back(self, error: Exception | None = None) -> None:
        """End the transaction, if there is one; drop a connection that is of no more use after an error."""
        if isinstance(error, errors.ReadOnlySqlTransaction | errors.InvalidSqlStatementName):
            self.drop()  # the database may be another server's by now
        if self._open is not None and not self._open.is_idle():
            with contextlib.suppress(psycopg.Error):
                self._open.run("ROLLBACK")
            if not self._open.is_idle():
                self.drop()

    def drop(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.db.close()
        self._open = None

    def _cut(self) -> None:
        if (it := self._open) is not None:
            with (
                contextlib.suppress(OSError, psycopg.Error),
                socket.socket(fileno=os.dup(it.db.fileno())) as way,
            ):
                way.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self.drop)
        self._thread.shutdown(wait=False)


_EACH = {
    "search_path": SCHEMA,
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    # These three bound a transaction.
    "lock_timeout": "8s",  # longer than an instance that stands still can hold the lock
    "idle_in_transaction_session_timeout": "5s",
    "statement_timeout": "10s",
    # A plan is made once and goes along indexes, whatever the statistics were when it was made.
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",  # to start a worker takes longer than a page
    "random_page_cost": "0.1",  # so that the index counts that leaves the fewest rows, not the rows' order
}
SETTINGS = f"""SELECT {", ".join(f"set_config('{name}', '{value}', true)" for name, value in _EACH.items())},
    CASE WHEN current_setting('server_version_num')::int >= 170000
        THEN set_config('transaction_timeout', '20s', true) END"""
"""Sets all of a transaction, each time where PgBouncer gives connections to others meanwhile."""


def connect(url: str, instance: str) -> Db:
    """Connect as a ledger does; the URL and libpq's own variables say more."""
    parameters: dict[str, Any] = {
        "application_name": f"upscale-receiver {instance}",
        "connect_timeout": 5,
        "keepalives_idle": 5,  # a peer that is gone is noticed after 15 s
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
        **conninfo.conninfo_to_dict(url),
        "client_encoding": "utf8",
    }
    return psycopg.connect(
        conninfo.make_conninfo(**parameters),
        autocommit=True,
        cursor_factory=psycopg.ClientCursor,
        prepare_threshold=None,
    )


def has_ended(db: Db, error: psycopg.Error) -> bool:
    """Return whether a connection is of no more use after an error."""
    is_lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return db.closed or is_lost or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def is_of_one_command(error: Exception) -> bool:
    """Return whether an error concerns the data of one command, and not the connection or the database."""
    of_one = (errors.RaiseException, errors.ProgramLimitExceeded)
    of_all = (psycopg.OperationalError, psycopg.InternalError, errors.InsufficientPrivilege)
    return isinstance(error, of_one) or not isinstance(error, of_all)


def ledger_error(error: psycopg.Error) -> LedgerError:
    """Return what PostgreSQL's error means; values of rows are not in it."""
    message = " ".join((error.diag.message_primary or str(error)).split())
    where = f"{error.sqlstate}, " if error.sqlstate else ""
    if isinstance(error, errors.DataCorrupted | errors.IndexCorrupted):
        return LedgerError("ledger.corrupt", f"The database is damaged ({where}{message}).")
    return LedgerError("ledger.unavailable", f"The database cannot be used: {where}{message}.")
