"""What a database must do to hold the ledger, and which one does. All have the same commands and queries."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from receiver.core.clock import Clock
from receiver.core.errors import ConfigError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.readers import Readers
from receiver.ledger.sqlite.database import SqliteOpener
from receiver.ledger.transaction import Command, Result, Transaction
from receiver.ledger.types import Inspection, Member

if TYPE_CHECKING:
    from receiver.ledger.postgres.database import PostgresOpener


class Engine(Protocol):
    """An open ledger that is read and written.

    ``now`` is the clock of ``Transaction.now``, for what happens outside of transactions. ``member`` is
    this process among those that share the ledger, where it is one that is ``shared``.
    """

    readers: Readers
    member: Member
    shared: bool
    now: Clock

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


Place = LedgerLocation | Path
"""Where a ledger is; a path is the data directory of one in a file."""


def opener(
    place: Place, now: Clock | None = None, monotonic: Clock | None = None
) -> "SqliteOpener | PostgresOpener":
    """Return what opens the ledger; without clocks, of times and of leases, the engine has its own."""
    location = LedgerLocation(place) if isinstance(place, Path) else place
    if location.url is None:
        return SqliteOpener(location.data_dir, now, monotonic)
    try:
        from receiver.ledger.postgres.database import PostgresOpener  # noqa: PLC0415 - psycopg is an extra
    except ImportError:
        raise ConfigError(
            "RECEIVER_LEDGER: needs psycopg, which `pip install upscale-receiver[postgres]` brings"
        ) from None
    return PostgresOpener(location, (now, monotonic))


async def inspect_database(location: LedgerLocation) -> Inspection:
    """Look at a ledger's database. Raise `LedgerError` where that is not possible, or it cannot be used."""
    database = opener(location)
    assert not isinstance(database, SqliteOpener)
    return await database.inspect()
