"""What a database must do to hold the ledger, and which one does. All have the same commands and queries."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from receiver.core.clock import Clock
from receiver.core.errors import ConfigError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.connection import Connection
from receiver.ledger.sqlite.database import SqliteOpener
from receiver.ledger.transaction import Command, Result, Transaction
from receiver.ledger.types import Inspection, Member

T = TypeVar("T")


class Readers(Protocol):
    """Connections that only read; ``reads`` counts the queries."""

    reads: int

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query on one snapshot, or raise `LedgerError`."""

    async def check_whole(self, *, seconds: float | None = None, deep: bool = False) -> bool:
        """Read the whole ledger; return whether that ended within the seconds. Raise ``ledger.corrupt``."""

    async def close(self) -> None:
        """Finish the queries that run, and close all connections."""


class Engine(Protocol):
    """An open ledger that is read and written.

    ``now`` is the clock of ``Transaction.now``, for what happens outside of transactions. ``member`` is
    this process among those that share the ledger, where it is one that is ``shared``.
    """

    @property
    def readers(self) -> Readers: ...
    @property
    def member(self) -> Member: ...
    @property
    def shared(self) -> bool: ...
    @property
    def now(self) -> Clock: ...

    async def commit(self, commands: Sequence[Command[Any]]) -> Sequence[Result]:
        """Run commands in one transaction, and return a result for each after the commit is durable.

        If a command fails, each gets a transaction of its own. After a `LedgerError`, none was committed.
        """

    def write_nothing(self, tx: Transaction) -> None:
        """Make the commit durable although it changes nothing, to find out whether the ledger is writable."""

    def recover(self, tx: Transaction) -> list[str]:
        """Void the claims of servers that are gone, and return the ids of interrupted downloads."""

    def no_server(self) -> AbstractContextManager[bool]:
        """Keep servers from starting, and tell whether none runs."""

    async def changed_by_others(self) -> Sequence[str]:
        """Return the ids of jobs that other processes have changed since the last call, or an empty id."""

    async def check_for_damage(self) -> None:
        """Read the whole ledger. Raise ``ledger.corrupt`` if it is damaged, and commit nothing more then."""

    async def close(self) -> None:
        """Close the connection that writes; the readers are closed before."""


class Opener(Protocol):
    """Opens the ledger of one place. All raise `LedgerError`."""

    async def to_read(self) -> Readers:
        """Open an existing ledger of the present version."""

    async def to_serve(self, *, now: Clock | None, monotonic: Clock | None) -> Engine:
        """Open the ledger for a server, and create or migrate it. Without clocks the engine has its own."""

    async def beside(self, *, make: bool, now: Clock | None, monotonic: Clock | None) -> Engine:
        """Open the ledger for a command that writes, beside a server or without one."""


Place = LedgerLocation | Path
"""Where a ledger is; a path is the data directory of one in a file."""


def opener(place: Place) -> Opener:
    if isinstance(place, Path):
        return SqliteOpener(place)
    if place.url is None:
        return SqliteOpener(place.data_dir)
    return _postgres("database").PostgresOpener(place)  # type: ignore[no-any-return]


async def inspect_database(location: LedgerLocation) -> Inspection:
    """Look at a ledger's database. Raise `LedgerError` where that is not possible, or it cannot be used."""
    return await _postgres("inspection").inspect(location)  # type: ignore[no-any-return]


def _postgres(name: str) -> Any:
    """Import a module of PostgreSQL's engine, only here since psycopg is an extra."""
    try:
        return import_module(f"receiver.ledger.postgres.{name}")
    except ImportError:
        raise ConfigError(
            "RECEIVER_LEDGER: needs psycopg, which `pip install upscale-receiver[postgres]` brings"
        ) from None
