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

_TOKEN = re.compile(
    r"('(?:[^']|'')*')|(?<=\bjobs) (INDEXED BY \w+)\s+WHERE|\s+INDEXED BY \w+|(\?)|(?<!:):([a-z_]\w*)"
)

_TEXT = psycopg.adapters.types["text"]
_TYPES = {
    bool: psycopg.adapters.types["bool"],
    int: psycopg.adapters.types["int8"],
    bytes: psycopg.adapters.types["bytea"],
    bytearray: psycopg.adapters.types["bytea"],
}


def type_of(value: object) -> int:
    """Return the number of a value's SQL type: 0 for NULL; an array has that of its first value."""
    if value is None:
        return 0
    if type(value) is list:
        return _TYPES.get(type(next((it for it in value if it is not None), "")), _TEXT).array_oid
    return _TYPES.get(type(value), _TEXT).oid


@lru_cache(maxsize=1024)
def numbered(sql: str, types: tuple[int, ...]) -> bytes:
    """Return a statement with numbered places for values of these types; NULL, without one, is part of it.

    ``INDEXED BY name`` of jobs becomes a condition that is part of that index's own, and that no job fails:
    no id has a blank. So a query finds the index that it names, and not one that seems cheaper by statistics
    of before, when a state had no jobs.
    """
    first, *others = _split(sql)[0]
    numbers = count(1)
    marks = [f"${next(numbers)}" if it else "NULL" for it in types]
    return (first + "".join([mark + part for mark, part in zip(marks, others, strict=True)])).encode()


def in_order(sql: str, values: Values) -> Sequence[Any]:
    """Return the values in the order of their places."""
    return [values[name] for name in _split(sql)[1]] if isinstance(values, Mapping) else values


@lru_cache(maxsize=1024)
def _split(sql: str) -> tuple[list[str], list[str]]:
    """Return the texts between the placeholders of a statement, and the names in these."""
    parts, names = [""], []
    end = 0
    sql = sql.replace("group_concat(", "string_agg(").replace("instr(", "strpos(")
    for token in _TOKEN.finditer(sql):
        text, hint, mark, name = token.groups()
        condition = f" WHERE jobs.id <> '{hint}' AND" if hint else ""
        parts[-1] += sql[end : token.start()] + (text or condition)
        if mark or name:
            parts.append("")
        if name:
            names.append(name)
        end = token.end()
    parts[-1] += sql[end:]
    return parts, names


def encoded(value: object) -> bytes:
    """Return a value, but for NULL, as PostgreSQL reads it.

    PostgreSQL's texts hold no NUL, which becomes U+FFFD. What a provider or a client may name holds none
    either, but an error's text may quote anything.
    """
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode()
        case int():  # and bool
            return str(int(value)).encode()
        case bytes() | bytearray():
            return b"\\x" + value.hex().encode()
        case list():
            return b"{" + b",".join(map(_element, value)) + b"}"
    raise TypeError(f"a value of {type(value).__name__}")


def _element(value: object) -> bytes:
    """Return a value as it stands in an array's text."""
    return (
        b"NULL"
        if value is None
        else b'"' + encoded(value).replace(b"\\", rb"\\").replace(b'"', rb"\"") + b'"'
    )


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
