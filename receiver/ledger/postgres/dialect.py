"""Writes the SQL of commands and queries for PostgreSQL, with the values in it.

psycopg would do that, too, but reads a long statement anew each time, and takes twenty times as long for a
value. Nothing else than `written` puts a value into SQL.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, SupportsIndex

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
    parts, names = _split(sql)
    given = [values[name] for name in names] if isinstance(values, Mapping) else values
    if len(given) != len(parts) - 1:
        raise ValueError(f"{len(given)} values for {len(parts) - 1} placeholders")
    texts = [""] * (2 * len(parts) - 1)
    texts[::2], texts[1::2] = parts, map(written, given)
    return "".join(texts)


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
            return "'" + value.replace("'", "''").replace("\0", "\ufffd") + "'"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value >= 0 else f"({value})"
        case bytes() | bytearray():
            return f"'\\x{value.hex()}'::bytea"
    raise TypeError(f"a value of {type(value).__name__}")


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
