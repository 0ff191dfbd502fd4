"""Copies a ledger from a file into a database, in pieces, and compares all of it afterwards."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import psycopg

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

PIECE = 10_000
"""Rows of a transaction: what is done again after a cut."""

_HOST = f"substr(host, 1, {LONGEST_HOST}) AS host"

OnProgress = Callable[[int, int], None]
"""Called with the rows that are written or compared, and how many there are to write and to compare."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that is complete and was compared.

    Attributes:
        rows: of each table.
        digests: the SHA-256 of each table's rows.
        resumed: it went on where an earlier one was cut off.
    """

    rows: Mapping[str, int]
    digests: Mapping[str, str]
    resumed: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of both ledgers; rows are copied and compared in the order of its key.

    ``source`` is what the file's rows are selected from.
    """

    name: str
    source: str
    columns: Sequence[str]
    types: Sequence[str]
    key: str
    rows: int


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
    done: int = 0
    all: int = 0

    def run(self, *, restart: bool) -> Copied:
        source = str(
            self.file.execute(
                "SELECT count(*), max(seq), max(updated_at), (SELECT max(seq) FROM history) FROM jobs"
            ).fetchone()
        )
        with self._transaction():
            schema.check_server(self.db.info)
            if self._rows("SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace(%s)", SCHEMA):
                raise LedgerError("ledger.in_use", "The database holds a ledger already; it must have none.")
            if restart:
                self._run(f"DROP SCHEMA IF EXISTS {UNFINISHED} CASCADE")
            begun = self._rows(
                "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", UNFINISHED
            )
            if not begun:
                self._begin(source)
            elif begun != [(source,)]:
                raise LedgerError(
                    "ledger.in_use",
                    "The database holds a part of another ledger, or of this one before it changed;"
                    " --from-start removes that part.",
                )
            tables = self._tables()
        self.all = 2 * sum(table.rows for table in tables)
        for table in tables:
            self._copy(table)
        digests = {table.name: self._compare(table) for table in tables}
        self._publish(tables)
        return Copied({table.name: table.rows for table in tables}, digests, bool(begun))

    def _begin(self, source: str) -> None:
        """Create the schema with its triggers off: rows bring what these write. Indexes are made at the end.

        The schema notes what it is of.
        """
        self._run(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}; SET LOCAL search_path = {SCHEMA}")
        for script in schema.scripts():
            self._run(script)
        self._run(f"ALTER SCHEMA {SCHEMA} RENAME TO {UNFINISHED}; SET LOCAL search_path = {UNFINISHED}")
        self._run(f"COMMENT ON SCHEMA {UNFINISHED} IS '{source}'")
        for table in self._tables():
            self._run(f"ALTER TABLE {table.name} DISABLE TRIGGER USER; TRUNCATE {table.name}")
        self._run(
            "CREATE TABLE indexes AS SELECT indexname, indexdef FROM pg_indexes"
            f" WHERE schemaname = '{UNFINISHED}' AND indexdef NOT LIKE 'CREATE UNIQUE %'"
        )
        self._run(self._rows("SELECT 'DROP INDEX ' || string_agg(indexname, ', ') FROM indexes")[0][0])

    def _tables(self) -> list[_Table]:
        """Return the tables of the database but that of its version; the file has all of their columns."""
        tables = []
        for name, columns, types in self._rows(
            "SELECT table_name::text, array_agg(column_name::text ORDER BY ordinal_position),"
            " array_agg(data_type::text ORDER BY ordinal_position)"
            " FROM information_schema.columns WHERE table_schema = %s AND is_generated = 'NEVER'"
            " AND table_name NOT IN ('schema_version', 'indexes') GROUP BY table_name ORDER BY table_name",
            UNFINISHED,
        ):
            key = self.file.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (name,))
            source = f"(SELECT DISTINCT {_HOST}, chunk FROM hosts)" if name == "hosts" else name
            (rows,) = self.file.execute(f"SELECT count(*) FROM {source}").fetchone()
            tables.append(_Table(name, source, columns, types, ", ".join(column for (column,) in key), rows))
        return tables

    def _copy(self, table: _Table) -> None:
        with self._transaction():  # there may be rows of a copy that was cut off
            ((present,),) = self._rows(f"SELECT count(*) FROM {table.name}")
        self._advance(present)
        found = self._read(table, skip=present)
        columns = ", ".join(table.columns)
        while rows := found.fetchmany(self.piece):
            with (
                self._transaction(),
                self.db.cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN".encode()) as copy,
            ):
                for row in rows:
                    copy.write_row(row)
            self._advance(len(rows))

    def _read(self, table: _Table, *, skip: int = 0) -> sqlite3.Cursor:
        """Read rows in the order of their key; what a file says of itself becomes this data directory's."""
        is_here = "holder IS NOT NULL OR state = 'fetched'" if table.name == "jobs" else "true"
        other = {"instance": f"CASE WHEN {is_here} THEN :me ELSE '' END", "host": _HOST}
        columns = ", ".join(other.get(column, column) for column in table.columns)
        return self.file.execute(
            f"SELECT {columns} FROM {table.source} ORDER BY {table.key} LIMIT -1 OFFSET :skip",
            {"me": self.instance, "skip": skip},
        )

    def _compare(self, table: _Table) -> str:
        """Read a table from both, and return the digest of its rows if they are the same."""
        digest, done = hashlib.sha256(), 0
        columns = ", ".join(table.columns)
        query = f"COPY (SELECT {columns} FROM {table.name} ORDER BY {table.key}) TO STDOUT"
        with self._transaction(), self.db.cursor().copy(query.encode()) as copy:
            copy.set_types(table.types)
            for done, (there, here) in enumerate(zip_longest(copy.rows(), self._read(table)), start=1):
                if there != here:
                    raise LedgerError(
                        "ledger.corrupt",
                        f"The copy of the table {table.name} differs from the file (row {done} of"
                        f" {table.rows}). --from-start begins anew.",
                    )
                digest.update(repr(here).encode())
                if done % self.piece == 0:
                    self._advance(self.piece)
        self._advance(done % self.piece)
        return digest.hexdigest()

    def _publish(self, tables: Sequence[_Table]) -> None:
        """Give the schema its indexes, triggers, next numbers and version, and then its name."""
        for table in tables:
            self._run(f"VACUUM ANALYZE {UNFINISHED}.{table.name}")
        with self._transaction():
            self._run("SET LOCAL maintenance_work_mem = '256MB'")
            for (definition,) in self._rows("SELECT indexdef FROM indexes"):
                self._run(definition)
            self._run(schema.TAKE_LOCK)  # so that no server creates a ledger at the same moment
            for table in tables:
                self._run(f"ALTER TABLE {table.name} ENABLE TRIGGER USER")
                if "seq" in table.columns:
                    sequence = f"pg_get_serial_sequence('{table.name}', 'seq')"
                    self._run(f"SELECT setval({sequence}, max(seq)) FROM {table.name}")
            self._run(
                f"DROP TABLE indexes; INSERT INTO schema_version VALUES ({len(schema.MIGRATIONS)});"
                f" COMMENT ON SCHEMA {UNFINISHED} IS NULL; DROP SCHEMA IF EXISTS {SCHEMA};"
                f" ALTER SCHEMA {UNFINISHED} RENAME TO {SCHEMA}"
            )

    def _advance(self, rows: int) -> None:
        self.done += rows
        self.on_progress(self.done, self.all)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self.db.transaction():
            self._run(f"SET LOCAL search_path = {UNFINISHED}; {schema.UNBOUNDED}")
            yield

    def _run(self, statements: str) -> None:
        self.db.execute(statements.encode())

    def _rows(self, query: str, *values: str) -> list[Any]:
        return self.db.execute(query.encode(), values).fetchall()
