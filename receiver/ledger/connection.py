"""What commands and queries see of a database, whichever engine it is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar, overload

V = TypeVar("V")

MAX_ROWS = 128
"""Rows that one statement of many values inserts."""


class Row(Protocol):
    """One row of a result, by column name, position or slice; of columns with one name, the first counts."""

    @overload
    def __getitem__(self, key: int | str, /) -> Any: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Any, ...]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...
    def keys(self) -> list[str]: ...


class Cursor(Protocol):
    """The result of a statement; ``rowcount`` is the number of rows that it changed."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """Runs SQL that all engines know, with values for ``?`` by position or for ``:name`` by name.

    A limit is written ``LIMIT +?``: behind a bare place SQLite looks at the value, and plans the statement
    anew each time (findings/sqlite-limit-planned-anew.sh).
    """

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ..., /) -> Cursor: ...
    def executemany(self, sql: str, values: Iterable[Sequence[Any] | Mapping[str, Any]], /) -> Cursor: ...


def number(db: Connection, sql: str, values: Sequence[Any] = ()) -> int | None:
    """Return the number that a query finds, ``None`` without one."""
    row = db.execute(sql, values).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def listed(values: Iterable[V]) -> tuple[str, list[V | str]]:
    """Return the placeholders of ``IN (…)``, and the values for them; without values an empty text.

    Values are repeated, so that lists of any length make few statements, and these stay prepared.
    """
    given: list[V | str] = [*values] or [""]
    size = 1 << (len(given) - 1).bit_length()
    return ", ".join("?" * size), given + given[-1:] * (size - len(given))


def insert_rows(
    db: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], end: str = ""
) -> list[Any]:
    """Insert many rows, and return what an ``end`` like ``RETURNING seq`` returns.

    At each statement the thread gives up the interpreter, and waits for the event loop to get it back.
    """
    found: list[Any] = []
    begin = 0
    while begin < len(rows):
        size = 1 << min(len(rows) - begin, MAX_ROWS).bit_length() - 1  # few sizes, so that all stay prepared
        values = [value for row in rows[begin : begin + size] for value in row]
        found += db.execute(_insert(table, tuple(columns), size, end), values).fetchall()
        begin += size
    return found


@cache
def _insert(table: str, columns: tuple[str, ...], rows: int, end: str) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)} {end}"  # noqa: S608
