"""Copies a ledger from a file into a database, in pieces, and reads each again to compare it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors

from receiver.core.errors import LedgerError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.commands.attempts import LONGEST_HOST
from receiver.ledger.instance_id import instance_id
from receiver.ledger.postgres import schema
from receiver.ledger.postgres.connection import SCHEMA, Db, connect, ledger_error
from receiver.ledger.sqlite import schema as file_schema
from receiver.ledger.sqlite.connections import ledger_error as file_error
from receiver.ledger.sqlite.database import FILE_NAME
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.sqlite.lock import DirectoryLock

UNFINISHED = f"{SCHEMA}_copy"
"""The schema that is filled. It gets its name at the end, so that no server finds half a ledger."""

PIECE = 2_000
"""Rows of a transaction: what is done again after a cut, and is held twice to be compared."""

OnProgress = Callable[[int, int], None]
"""Called with the rows that are copied and compared, and how many there are."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that is complete and was compared: how many rows each table has.

    ``resumed``: it went on where an earlier one was cut off.
    """

    rows: Mapping[str, int]
    resumed: bool


def copy_ledger(
    location: LedgerLocation, *, restart: bool = False, on_progress: OnProgress, piece: int = PIECE
) -> Copied:
    """Copy the ledger of the data directory into the database of the location.

    ``restart``: forget what an earlier copy, which was cut off, has written. Raise ``ledger.in_use`` where a
    server runs, or where the database holds a ledger, or a part of another one.
    """
    path = location.data_dir / FILE_NAME
    if not path.is_file():
        raise file_schema.no_ledger(location.data_dir)
    assert location.url is not None
    lock = DirectoryLock(location.data_dir)
    try:
        with (
            contextlib.closing(
                sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
            ) as file,
            connect(location.url, location.instance) as db,
        ):
            file.text_factory = lambda text: text.decode().replace("\0", "\ufffd")  # which PostgreSQL has not
            file.execute("BEGIN")  # one snapshot, whatever a command beside it writes
            file_schema.check_present(file, path)
            return _Copy(file, db, instance_id(location.data_dir), on_progress, piece).run(restart=restart)
    except sqlite3.Error as error:
        raise file_error(error, path) from error
    except psycopg.Error as error:
        raise ledger_error(error) from error
    finally:
        lock.release()


@dataclass(slots=True)
class _Copy:
    """One run, over two open connections."""

    file: sqlite3.Connection
    db: Db
    instance: str
    on_progress: OnProgress
    piece: int
    all: int = 0
    rows: dict[str, int] = field(default_factory=dict)

    def run(self, *, restart: bool) -> Copied:
        of_now = "SELECT count(*), max(seq), max(updated_at), (SELECT max(seq) FROM history) FROM jobs"
        source = str(self.file.execute(of_now).fetchone())
        with self._transaction():
            schema.check_server(self.db.info)
            if self._rows("SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace(%s)", SCHEMA):
                raise LedgerError("ledger.in_use", "The database holds a ledger already; it must have none.")
            if restart:
                self._run(f"DROP SCHEMA IF EXISTS {UNFINISHED} CASCADE")
            begun = self._rows(
                "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", UNFINISHED
            )
            if not begun:  # triggers come at the end, since rows bring what these write, and indexes, too
                # A schema that an administrator made keeps the rights that were given on it.
                is_made = self._rows("SELECT 1 FROM pg_namespace WHERE nspname = %s", SCHEMA)
                make = f"ALTER SCHEMA {SCHEMA} RENAME TO" if is_made else "CREATE SCHEMA"
                self._run(f"{make} {UNFINISHED}; COMMENT ON SCHEMA {UNFINISHED} IS '{source}'")
                self._run(schema.tables())
            elif begun != [(source,)]:
                raise LedgerError(
                    "ledger.in_use",
                    "The database holds a part of another ledger, or of this one before it changed;"
                    " --from-start removes that part.",
                )
            names = "SELECT tablename::text FROM pg_tables WHERE schemaname = %s ORDER BY tablename"
            tables = self._rows(names, UNFINISHED)
        for (table,) in tables:
            self.rows[table] = 0
            self.all += self.file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in self.rows:
            self._copy(table)
        self._publish()
        return Copied(self.rows, bool(begun))

    def _copy(self, table: str) -> None:
        """Write what the database has not yet, and compare all that it has then, in the order of the key."""
        described = self.file.execute(
            "SELECT name, pk FROM pragma_table_info(?) ORDER BY pk", (table,)
        ).fetchall()
        columns, key = [name for name, _ in described], [name for name, pk in described if pk]
        names, order = ", ".join(columns), ", ".join(key)

        def written(after: Sequence[Any]) -> list[Any]:
            rest = f"WHERE ({order}) > ({', '.join(['%s'] * len(after))})" if after else ""
            with self._transaction():
                return self._rows(
                    f"SELECT {names} FROM {table} {rest} ORDER BY {order} LIMIT {self.piece}", *after
                )

        found = self._read(table, columns, order)
        last: list[Any] = []
        while True:
            here, there = found.fetchmany(self.piece), written(last)
            missing = here[len(there) :]
            if missing and there == here[: len(there)]:
                with (
                    self._transaction(),
                    self.db.cursor().copy(f"COPY {table} ({names}) FROM STDIN".encode()) as copy,
                ):
                    for row in missing:
                        copy.write_row(row)
                there = written(last)
            if there != here:
                raise LedgerError(
                    "ledger.corrupt",
                    f"The copy of the table {table} differs from the file. --from-start begins anew.",
                )
            if not here:
                break
            last = [here[-1][columns.index(name)] for name in key]
            self.rows[table] += len(here)
            self.on_progress(sum(self.rows.values()), self.all)

    def _read(self, table: str, columns: Sequence[str], order: str) -> sqlite3.Cursor:
        """Read rows of the file; what it says of itself becomes this data directory's.

        Hosts of an older program may be longer than an index of PostgreSQL takes, and be the same then.
        """
        is_here = "holder IS NOT NULL OR state = 'fetched'" if table == "jobs" else "true"
        other = {
            "instance": f"CASE WHEN {is_here} THEN :me ELSE '' END AS instance",
            "host": f"substr(host, 1, {LONGEST_HOST}) AS host",
        }
        selected = ", ".join(other.get(name, name) for name in columns)
        distinct = "DISTINCT" if table == "hosts" else ""
        query = f"SELECT {distinct} {selected} FROM {table} ORDER BY {order}"
        return self.file.execute(query, {"me": self.instance})

    def _publish(self) -> None:
        """Give the schema its indexes, triggers, next numbers and version, and its name."""
        for table in self.rows:
            # It runs in no transaction, and so within the bounds of the database; else autovacuum does it.
            with contextlib.suppress(errors.QueryCanceled, errors.LockNotAvailable):
                self._run(f"VACUUM ANALYZE {UNFINISHED}.{table}")
        with self._transaction():
            self._run(schema.TAKE_LOCK)  # so that no server creates a ledger at the same moment
            self._run(
                f"DROP SCHEMA IF EXISTS {SCHEMA}; ALTER SCHEMA {UNFINISHED} RENAME TO {SCHEMA};"
                f" COMMENT ON SCHEMA {SCHEMA} IS NULL;"
                f" SET LOCAL search_path = {SCHEMA}; SET LOCAL maintenance_work_mem = '256MB'"
            )
            scripts = schema.scripts()
            for script in (*scripts, schema.noted(scripts)):
                self._run(script)
            for table in ("jobs", "history", "unread"):
                self._run(f"SELECT setval('{table}_seq_seq', max(seq)) FROM {table}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self.db.transaction():
            self._run(
                f"SET LOCAL search_path = {UNFINISHED}; SET LOCAL enable_sort = off;"
                f" SET LOCAL synchronous_commit = on; {schema.UNBOUNDED}"
            )
            yield

    def _run(self, statements: str) -> None:
        self.db.execute(statements.encode())

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self.db.execute(query.encode(), values).fetchall()
