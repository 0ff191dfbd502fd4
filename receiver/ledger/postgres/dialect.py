"""Writes the SQL of commands and queries for PostgreSQL, with the values in it.

psycopg would do that, too, but reads a long statement anew each time, and takes twenty times as long for a
value. Nothing else than `written` puts a value into SQL.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import count, zip_longest
from types import NoneType
from typing import Any, SupportsIndex

from receiver.ledger.connection import Connection

Values = Sequence[Any] | Mapping[str, Any]

_TOKEN = re.compile(
    r"('(?:[^']|'')*')|(?<=\bjobs) (INDEXED BY \w+)\s+WHERE|\s+INDEXED BY \w+|(\?)|(?<!:):([a-z_]\w*)"
)


def statement(sql: str, values: Values = ()) -> str:
    """Return a statement with its values.

    ``INDEXED BY name`` of jobs becomes a condition that is part of that index's own, and that no job fails:
    no id has a blank. So a query finds the index that it names, and not one that seems cheaper by statistics
    of before, when a state had no jobs.
    """
    parts, given = ordered(sql, values)
    return "".join([text for pair in zip_longest(parts, map(written, given), fillvalue="") for text in pair])


def prepared(name: str, sql: str, types: Sequence[str]) -> str:
    """Return what prepares a statement for values of these types; NULL has none, and is part of it."""
    first, *others = _split(sql)[0]
    numbers = count(1)
    marks = [f"${next(numbers)}" if it else "NULL" for it in types]
    taken = ", ".join(filter(None, types))
    text = first + "".join([mark + part for mark, part in zip(marks, others, strict=True)])
    return f"PREPARE {name} ({taken}) AS {text}" if taken else f"PREPARE {name} AS {text}"


def execution(name: str, values: Sequence[Any]) -> str:
    """Return what executes a prepared statement."""
    given = ", ".join([written(value) for value in values if value is not None])
    return f"EXECUTE {name}({given})" if given else f"EXECUTE {name}"


def types_of(values: Sequence[Any]) -> tuple[str, ...]:
    """Return the SQL types of values; that of NULL is empty, and an array has that of its first value."""
    return tuple([_array_type(it) if type(it) is list else _TYPES.get(type(it), "text") for it in values])


def _array_type(values: Sequence[Any]) -> str:
    return f"{next(filter(None, types_of(values)), 'text')}[]"


_TYPES: Mapping[type, str] = {
    NoneType: "",
    bool: "boolean",
    int: "bigint",
    bytes: "bytea",
    bytearray: "bytea",
}


def ordered(sql: str, values: Values) -> tuple[list[str], Sequence[Any]]:
    """Return the texts between the placeholders, and the values in the order of these."""
    parts, names = _split(sql)
    given = [values[name] for name in names] if isinstance(values, Mapping) else values
    if len(given) != len(parts) - 1:
        raise ValueError(f"{len(given)} values for {len(parts) - 1} placeholders")
    return parts, given


@lru_cache(maxsize=1024)
def _split(sql: str) -> tuple[list[str], list[str]]:
    """Return the texts between the placeholders of a statement, and the names in these."""
    parts, names = [""], []
    end = 0
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


def written(value: object) -> str:
    """Return a value as SQL writes it, where ``standard_conforming_strings`` is on.

    PostgreSQL's texts hold no NUL, which becomes U+FFFD. What a provider or a client may name holds none
    either, but an error's text may quote anything.
    """
    match value:
        case None:
            return "NULL"
        case str():
            return _quoted(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value >= 0 else f"({value})"
        case bytes() | bytearray():
            return f"'\\x{value.hex()}'::bytea"
        case list():
            return f"{_quoted('{' + ','.join(map(_element, value)) + '}')}::{types_of([value])[0]}"
    raise TypeError(f"a value of {type(value).__name__}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace("\0", "\ufffd") + "'"


def _element(value: object) -> str:
    """Return a value as it stands in an array's text."""
    match value:
        case None:
            return "NULL"
        case str():
            return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'
        case bytes() | bytearray():
            return rf'"\\x{value.hex()}"'
    return str(value)


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
