"""What commands and queries see of a database, whichever engine it is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, overload


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
    """Runs SQL that all engines know, with values for ``?`` by position or for ``:name`` by name."""

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ..., /) -> Cursor: ...
    def executemany(self, sql: str, values: Iterable[Sequence[Any] | Mapping[str, Any]], /) -> Cursor: ...


def number(db: Connection, sql: str, values: Sequence[Any] = ()) -> int | None:
    """Return the number that a query finds, ``None`` without one."""
    row = db.execute(sql, values).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def listed(values: Iterable[str]) -> tuple[str, list[str]]:
    """Return the placeholders of ``IN (…)`` for texts, none of which is empty, and the values for them.

    Values are repeated, so that lists of any length make few statements, and these stay prepared.
    """
    given = list(values) or [""]
    size = 1 << (len(given) - 1).bit_length()
    return ", ".join("?" * size), given + given[-1:] * (size - len(given))
