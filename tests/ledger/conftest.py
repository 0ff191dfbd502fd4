"""A ledger in a fresh folder and in a fresh database, with clocks that stand still until a test sets them."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Ledger
from tests.support.clock import Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.postgres import Postgres


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monotonic() -> Clock:
    return Clock(5_000_000)


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """What holds the ledger; `actions.only_sqlite` marks tests of what only a file has."""
    return str(request.param)


@pytest.fixture
def new_place(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], LedgerLocation]:
    """Returns where no ledger is yet, or an empty one; what it returned before may be the same."""

    def new() -> LedgerLocation:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        if engine == "sqlite":
            return LedgerLocation(make_empty_ledger(folder))
        server = request.getfixturevalue("postgres_server")
        url = request.getfixturevalue("shared_database")
        empty(server, url)
        return LedgerLocation(folder, url, "here")

    return new


@pytest.fixture
def place(engine: str, tmp_path: Path, new_place: Callable[[], LedgerLocation]) -> LedgerLocation:
    """Where no ledger is yet, or an empty one; a file is in the test's own folder."""
    return LedgerLocation(make_empty_ledger(tmp_path)) if engine == "sqlite" else new_place()


@pytest.fixture
async def ledger(place: LedgerLocation, clock: Clock, monotonic: Clock) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(place, now=clock, monotonic=monotonic)
    yield ledger
    await ledger.close()


@pytest.fixture(scope="session")
def shared_database(postgres_server: Postgres) -> Iterator[str]:
    with postgres_server.database() as url:
        yield url


def empty(server: Postgres, url: str) -> None:
    """Empty the database that all tests share: to make one takes ten times as long."""
    with server.connection(url.rpartition("/")[2]) as db:
        db.execute("SET session_replication_role = replica")  # no triggers
        found = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'upscale_receiver'").fetchall()
        tables = {name for (name,) in found} - {"schema_version"}
        empty = [f"DELETE FROM upscale_receiver.{name}" for name in tables - {"totals"}]
        again = [
            f"ALTER SEQUENCE upscale_receiver.{name}_seq_seq RESTART"
            for name in tables & {"jobs", "history", "unread"}
        ]
        if tables:
            db.execute(
                ";".join([*empty, *again, "UPDATE upscale_receiver.totals SET jobs = 0, bytes = 0"]).encode()
            )
