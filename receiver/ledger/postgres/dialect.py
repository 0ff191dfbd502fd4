"""Writes the SQL of commands and queries as PostgreSQL reads it, and the values that go with it.

psycopg would do that, too, but its cursors take three times as long.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import count
from typing import Any, SupportsIndex

import psycopg

from receiver.ledger.connection import Connection

Values = Sequence[Any] | Mapping[str, Any]

NAMED = {
    *("jobs_by_state", "jobs_by_provider", "jobs_not_archived", "jobs_to_fetch_by_host", "jobs_at_risk"),
    *("jobs_not_at_risk", "jobs_refused", "jobs_silent", "jobs_to_ask"),
}
"""Indexes that are only for queries that name them, by a condition of theirs that no job fails."""

_WRITTEN = {
    rf"\bjobs (INDEXED BY ({'|'.join(NAMED)}))\s+WHERE": r"jobs WHERE jobs.id <> '\1' AND",
    r"\s+INDEXED BY \w+": "",
    r"\bgroup_concat\(": "string_agg(",
    r"\binstr\(": "strpos(",
    "%": "%%",
}
"""How PostgreSQL writes what SQLite writes.

``INDEXED BY name`` of jobs becomes that condition: no id has a blank. So a query finds the index that it
names, and not one that seems cheaper by statistics of before, when a state had no jobs.
"""

_TEXT_OR_PLACE = re.compile(r"('(?:[^']|'')*')|\?|(?<!:):([a-z_]\w*)")

_TYPES = psycopg.adapters.types
_TEXT, _BOOL, _INT, _BYTES = (_TYPES[name].oid for name in ("text", "bool", "int8", "bytea"))


@lru_cache(maxsize=1024)
def numbered(sql: str, types: tuple[int, ...]) -> bytes:
    """Return a statement with numbered places for values of these types; NULL, without one, is part of it."""
    numbers = count(1)
    return (_split(sql)[0] % tuple([f"${next(numbers)}" if it else "NULL" for it in types])).encode()


def in_order(sql: str, values: Values) -> Sequence[Any]:
    """Return the values in the order of their places."""
    return [values[name] for name in _split(sql)[1]] if isinstance(values, Mapping) else values


@lru_cache(maxsize=1024)
def _split(sql: str) -> tuple[str, list[str]]:
    """Return a statement with ``%s`` for each placeholder, and the names in these."""
    names = []

    def place(found: re.Match[str]) -> str:
        text, name = found.groups()
        if name:
            names.append(name)
        return text or "%s"

    for form, written in _WRITTEN.items():
        sql = re.sub(form, written, sql)
    return _TEXT_OR_PLACE.sub(place, sql), names


def sent(value: object) -> tuple[int, bytes | None]:
    """Return the number of a value's SQL type, 0 for NULL, and the value as PostgreSQL reads it.

    PostgreSQL's texts hold no NUL, which becomes U+FFFD. What a provider or a client may name holds none
    either, but an error's text may quote anything.
    """
    match value:
        case None:
            return 0, None
        case str():
            return _TEXT, value.replace("\0", "\ufffd").encode()
        case int():
            return _BOOL if type(value) is bool else _INT, str(int(value)).encode()
        case bytes() | bytearray():
            return _BYTES, b"\\x" + value.hex().encode()
        case list():
            elements = [sent(it) for it in value]
            written = [
                b"NULL" if it is None else b'"' + it.replace(b"\\", rb"\\").replace(b'"', rb"\"") + b'"'
                for _, it in elements
            ]
            kind = max((number for number, _ in elements), default=0) or _TEXT
            return _TYPES[kind].array_oid, b"{" + b",".join(written) + b"}"
    raise TypeError(f"a value of {type(value).__name__}")


def insert_rows(
    db: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], end: str = ""
) -> list[Any]:
    """Insert many rows as an array for each column, since PostgreSQL analyses each value of ``VALUES``."""
    if not rows:
        return []
    arrays = ", ".join("?" * len(columns))
    sql = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) {end}"  # noqa: S608
    return db.execute(sql, [list(column) for column in zip(*rows, strict=True)]).fetchall()


class Row(tuple[Any, ...]):
    """A row that is also read by the names of its columns."""

    __slots__ = ()
    positions: dict[str, int]

    def __getitem__(self, key: str | SupportsIndex | slice) -> Any:
        return tuple.__getitem__(self, self.positions[key] if isinstance(key, str) else key)

    def keys(self) -> list[str]:
        return list(self.positions)


@cache
def row_type(columns: tuple[str, ...]) -> type[Row]:
    """Return the type of rows with these columns; of two with one name, the first is read by it."""
    first = {name: n for n, name in reversed(list(enumerate(columns)))}
    return type("Row", (Row,), {"__slots__": (), "positions": {name: first[name] for name in columns}})
