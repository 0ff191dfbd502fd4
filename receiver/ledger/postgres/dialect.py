"""Writes the SQL of commands and queries, and the rows that they read, as psycopg has them."""

import re
from functools import cache, lru_cache
from typing import Any, SupportsIndex

_TOKEN = re.compile(
    r"(?P<text>'(?:[^']|'')*')|(?P<hint>\s+INDEXED BY \w+)|(?P<mark>\?)|(?<!:):(?P<name>[a-z_]\w*)|%"
)


@lru_cache(maxsize=1024)
def translate(sql: str) -> str:
    """Return a statement with psycopg's placeholders, and without names of indexes."""
    return _TOKEN.sub(_translated, sql)


def _translated(token: re.Match[str]) -> str:
    match token.lastgroup:
        case "hint":
            return ""
        case "mark":
            return "%s"
        case "name":
            return f"%({token['name']})s"
    return token[0].replace("%", "%%")


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
