"""Copies a ledger from a file into a database, in pieces, and compares all of it afterwards."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import NoneType
from typing import Any

import psycopg

from receiver.core.errors import LedgerError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.instance_id import instance_id
from receiver.ledger.postgres import schema
from receiver.ledger.postgres.connection import SCHEMA, Db, Statements, connect, ledger_error
from receiver.ledger.sqlite import schema as file_schema
from receiver.ledger.sqlite.connections import ledger_error as file_error
from receiver.ledger.sqlite.database import FILE_NAME
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.sqlite.lock import DirectoryLock

UNFINISHED = f"{SCHEMA}_copy"
"""The schema that is filled. It gets its name at the end, so that no server finds half a ledger."""

PIECE = 10_000
"""Rows of a transaction: what is done again after a cut."""

OnProgress = Callable[[int, int], None]
"""Called with the rows that are written or compared, and how many there are to write and to compare."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that is complete and was compared.

    Attributes:
        rows: of each table.
        digests: the SHA-256 of each table's rows, in the form of COPY.
        resumed: it went on where an earlier one was cut off.
    """

    rows: Mapping[str, int]
    digests: Mapping[str, str]
    resumed: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of both ledgers: its columns, and those of its primary key."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
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
            file.execute("BEGIN")  # one snapshot, whatever a command beside it writes
            file_schema.check_present(file, path)
            return _Copy(file, db, instance_id(location.data_dir), on_progress, piece).run(restart=restart)
    except sqlite3.Error as error:
        raise file_error(error, path) from error
    except psycopg.Error as error:
        raise ledger_error(error) from error
    finally:
        lock.release()


class _Copy:
    """One run, over two open connections."""

    def __init__(
        self, file: sqlite3.Connection, db: Db, instance: str, on_progress: OnProgress, piece: int
    ) -> None:
        self._piece = piece
        self._file = file
        self._db = db
        self._instance = instance
        self._on_progress = on_progress
        self._done = 0
        self._all = 0

    def run(self, *, restart: bool) -> Copied:
        schema.check_server(Statements(self._db))
        self._execute("RESET ALL")  # an index of millions of jobs takes longer than a server's statements may
        with self._transaction():
            if self._rows("SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace(%s)", SCHEMA):
                raise LedgerError("ledger.in_use", "The database holds a ledger already; it must have none.")
            is_begun = bool(self._rows("SELECT to_regnamespace(%s) IS NOT NULL", UNFINISHED)[0][0])
            if is_begun and restart:
                self._execute(f"DROP SCHEMA {UNFINISHED} CASCADE")
                is_begun = False
            if not is_begun:
                self._begin()
        tables = self._tables()
        self._all = 2 * sum(table.rows for table in tables)
        self._check_source(tables)
        for table in tables:
            self._copy(table)
        self._build_indexes()
        digests = {table.name: self._compare(table) for table in tables}
        self._publish()
        return Copied({table.name: table.rows for table in tables}, digests, is_begun)

    def _begin(self) -> None:
        """Create the schema without its indexes and with its triggers off: rows bring what these write."""
        self._execute(
            f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}; SELECT set_config('search_path', '{SCHEMA}', true)"
        )
        for name in schema.MIGRATIONS:
            script = resources.files("receiver.ledger.postgres").joinpath(name).read_text(encoding="utf-8")
            self._execute(script)
        self._execute(f"ALTER SCHEMA {SCHEMA} RENAME TO {UNFINISHED}")
        self._execute(f"SELECT set_config('search_path', '{UNFINISHED}', true)")
        self._execute("CREATE TABLE copy_progress (name TEXT PRIMARY KEY, value TEXT)")
        indexes = self._rows(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s AND indexname NOT IN"
            " (SELECT conname FROM pg_constraint WHERE connamespace = to_regnamespace(%s))",
            UNFINISHED,
            UNFINISHED,
        )
        for name, _ in indexes:
            self._execute(f'DROP INDEX "{name}"')
        self._note("indexes", [definition for _, definition in indexes])
        for table in self._tables():
            self._execute(f"ALTER TABLE {table.name} DISABLE TRIGGER USER; TRUNCATE {table.name}")

    def _tables(self) -> list[_Table]:
        columns: dict[str, list[str]] = {}
        with self._transaction():
            for table, column in self._rows(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = %s AND is_generated = 'NEVER' ORDER BY ordinal_position",
                UNFINISHED,
            ):
                columns.setdefault(table, []).append(column)
        tables = []
        for (name,) in self._file.execute(
            "SELECT name FROM pragma_table_list WHERE type = 'table'"
        ).fetchall():
            if name not in columns or name == "copy_progress":
                continue  # of SQLite itself, or of Litestream
            found = self._file.execute(f"SELECT name, pk FROM pragma_table_xinfo('{name}')").fetchall()
            known = {column for column, _ in found}
            key = [column for column, place in sorted(found, key=lambda it: it[1]) if place]
            (rows,) = self._file.execute(f"SELECT count(*) FROM {name}").fetchone()
            tables.append(_Table(name, tuple(it for it in columns[name] if it in known), tuple(key), rows))
        return tables

    def _check_source(self, tables: Sequence[_Table]) -> None:
        """Make sure that the part that is there already is of this ledger, as it is now."""
        last = self._file.execute("SELECT coalesce(max(seq), 0), max(updated_at) FROM jobs").fetchone()
        (newest,) = self._file.execute("SELECT max(seq) FROM history").fetchone()
        present = json.loads(json.dumps([[[table.name, table.rows] for table in tables], [*last], newest]))
        with self._transaction():
            if (noted := self._noted("source")) is None:
                self._note("source", present)
            elif noted != present:
                raise LedgerError(
                    "ledger.in_use",
                    "The database holds a part of another ledger, or of this one before it changed;"
                    " --from-start removes that part.",
                )

    def _copy(self, table: _Table) -> None:
        with self._transaction():
            last = self._noted(table.name)
        if last is not None:
            self._advance(self._count_to(table, last))
        columns = ", ".join(table.columns)
        while rows := self._read(table, last).fetchmany(self._piece):
            last = [rows[-1][table.columns.index(column)] for column in table.key]
            with self._transaction():
                with self._db.cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN".encode()) as copy:
                    copy.write(b"".join(map(_line, rows)))
                self._note(table.name, last)
            self._advance(len(rows))

    def _read(self, table: _Table, after: Sequence[Any] | None) -> sqlite3.Cursor:
        """Read rows in the order of their key."""
        key, marks = ", ".join(table.key), ", ".join("?" * len(table.key))
        where = "" if after is None else f"WHERE ({key}) > ({marks})"
        columns = ", ".join(self._expression(table, column) for column in table.columns)
        values = [self._instance] * columns.count("?") + [*(after or ())]
        return self._file.execute(f"SELECT {columns} FROM {table.name} {where} ORDER BY {key}", values)

    @staticmethod
    def _expression(table: _Table, column: str) -> str:
        """Return what stands in a column: what a file says of itself becomes this data directory's."""
        if column != "instance":
            return column
        is_here = "holder IS NOT NULL OR state = 'fetched'" if table.name == "jobs" else "true"
        return f"CASE WHEN instance = '' AND ({is_here}) THEN ? ELSE instance END"

    def _count_to(self, table: _Table, last: Sequence[Any]) -> int:
        key, marks = ", ".join(table.key), ", ".join("?" * len(table.key))
        query = f"SELECT count(*) FROM {table.name} WHERE ({key}) <= ({marks})"
        return int(self._file.execute(query, [*last]).fetchone()[0])

    def _build_indexes(self) -> None:
        while True:
            with self._transaction():
                self._execute("SELECT set_config('maintenance_work_mem', '256MB', true)")
                if not (definitions := self._noted("indexes")):
                    break
                self._execute(definitions.pop())
                self._note("indexes", definitions)

    def _compare(self, table: _Table) -> str:
        """Read a table from both, and return the digest of its rows if they are the same."""
        here, there, rows = hashlib.sha256(), hashlib.sha256(), 0
        for row in self._read(table, None):
            here.update(_line(row))
        columns, key = ", ".join(table.columns), ", ".join(table.key)
        query = f"COPY (SELECT {columns} FROM {table.name} ORDER BY {key}) TO STDOUT"
        with self._transaction(), self._db.cursor().copy(query.encode()) as copy:
            for line in copy:
                there.update(line)
                rows += 1
                if rows % self._piece == 0:
                    self._advance(self._piece)
        self._advance(rows % self._piece)
        if here.digest() != there.digest():
            raise LedgerError(
                "ledger.corrupt",
                f"The copy of the table {table.name} differs from the file ({rows} rows for {table.rows}"
                "). --from-start begins anew.",
            )
        return here.hexdigest()

    def _publish(self) -> None:
        """Give the schema its name, and with it the triggers, the next numbers, and its version."""
        for (name,) in self._rows("SELECT tablename FROM pg_tables WHERE schemaname = %s", UNFINISHED):
            self._execute(f'VACUUM ANALYZE {UNFINISHED}."{name}"')
        with self._transaction():
            self._execute(schema.TAKE_LOCK)  # so that no server creates a ledger at the same moment
            for table in self._tables():
                self._execute(f"ALTER TABLE {table.name} ENABLE TRIGGER USER")
            for name, column in self._rows(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = %s AND is_identity = 'YES'",
                UNFINISHED,
            ):
                self._execute(
                    f"SELECT setval(pg_get_serial_sequence('{name}', '{column}'), max({column})) FROM {name}"
                )
            self._execute(
                f"DROP TABLE copy_progress; DELETE FROM schema_version;"
                f" INSERT INTO schema_version VALUES ({len(schema.MIGRATIONS)});"
                f" DROP SCHEMA IF EXISTS {SCHEMA}; ALTER SCHEMA {UNFINISHED} RENAME TO {SCHEMA}"
            )

    def _noted(self, name: str) -> Any:
        found = self._rows("SELECT value FROM copy_progress WHERE name = %s", name)
        return json.loads(found[0][0]) if found else None

    def _note(self, name: str, value: Any) -> None:
        self._rows(
            "INSERT INTO copy_progress VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value RETURNING name",
            name,
            json.dumps(value),
        )

    def _advance(self, rows: int) -> None:
        self._done += rows
        self._on_progress(self._done, self._all)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db.transaction():
            self._execute(f"SELECT set_config('search_path', '{UNFINISHED}', true)")
            yield

    def _execute(self, statement: str) -> None:
        self._db.execute(statement.encode())

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        return self._db.execute(statement.encode(), values).fetchall()


def _text(value: str) -> str:
    return value if value.isprintable() and "\\" not in value else value.translate(_ESCAPES)


_ESCAPES = str.maketrans(
    {
        "\\": r"\\",
        "\b": r"\b",
        "\f": r"\f",
        "\n": r"\n",
        "\r": r"\r",
        "\t": r"\t",
        "\v": r"\v",
        "\0": "\ufffd",
    }
)
"""What COPY escapes, and the one character that PostgreSQL has not."""

_FORMS: Mapping[type, Callable[[Any], str]] = {
    NoneType: lambda _: r"\N",
    int: str,
    str: _text,
    bytes: lambda value: rf"\\x{value.hex()}",
}


def _line(row: Sequence[Any]) -> bytes:
    """Return a row as COPY writes and reads it."""
    return ("\t".join([_FORMS[type(value)](value) for value in row]) + "\n").encode()
