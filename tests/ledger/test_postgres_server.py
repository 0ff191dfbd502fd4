"""The tests' own PostgreSQL, and the proxy before it: what other tests take for granted of both."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.postgres import Postgres, Programs, all_versions, postgres
from tests.support.processes import PATIENCE
from tests.support.proxy import Proxy, proxy


@pytest.fixture
def way(postgres_server: Postgres) -> Iterator[Proxy]:
    with proxy(postgres_server.port) as it:
        yield it


@pytest.fixture
def far(postgres_server: Postgres, database: str, way: Proxy) -> str:
    """The address of a database behind the proxy, with a table."""
    with psycopg.connect(database) as db:
        db.execute("CREATE TABLE t (n integer PRIMARY KEY)")
    return database.replace(f":{postgres_server.port}/", f":{way.port}/")


def numbers(database: str) -> list[int]:
    with psycopg.connect(database) as db:
        return [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")]


@pytest.mark.parametrize("programs", all_versions(), ids=str)
def test_committed_rows_outlive_kills_and_restarts(programs: Programs) -> None:
    with postgres(programs) as server:
        url = server.url(server.create("kept"))
        with psycopg.connect(url) as db:
            db.execute("CREATE TABLE t (n integer PRIMARY KEY)")
        for number, end in enumerate((server.kill, server.stop)):
            with psycopg.connect(url) as db:
                db.execute("INSERT INTO t VALUES (%s)", (number,))
            end()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(url)
            server.start()
        server.restart(max_connections="20")
        assert numbers(url) == [0, 1]
        assert server.execute("SHOW max_connections") == [("20",)]
        assert server.execute("SHOW server_version_num")[0][0].startswith(str(programs.version))


def test_a_database_can_be_crowded_and_read_only(postgres_server: Postgres, database: str) -> None:
    name = database.rpartition("/")[2]
    with psycopg.connect(database) as db, postgres_server.crowded(name):
        with pytest.raises(psycopg.errors.AdminShutdown):
            db.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            psycopg.connect(database)
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with psycopg.connect(database) as db, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.execute("CREATE TABLE t (n integer)")


@pytest.mark.parametrize("before", [True, False], ids=["before the commit", "after it"])
def test_a_commit_is_cut_off(way: Proxy, far: str, database: str, *, before: bool) -> None:
    with psycopg.connect(far) as db:
        db.execute("INSERT INTO t VALUES (1)")
        way.cut_at(b"COMMIT", before=before, then_down=True)
        with pytest.raises(psycopg.OperationalError):
            db.commit()
    assert way.met.wait(PATIENCE)
    assert numbers(database) == ([] if before else [1])
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(far)
    way.down.clear()
    assert numbers(far) == numbers(database)


def test_a_connection_stalls_and_goes_on(way: Proxy, far: str) -> None:
    with psycopg.connect(far, autocommit=True) as db, ThreadPoolExecutor(1) as pool:
        way.stall()
        answer = pool.submit(db.execute, "SELECT 1")
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(far, connect_timeout=2)
        assert not answer.done()
        way.resume()
        assert answer.result(PATIENCE).fetchall() == [(1,)]


def test_lost_connections_stay_silent_and_new_ones_work(way: Proxy, far: str) -> None:
    with psycopg.connect(far, autocommit=True) as db, ThreadPoolExecutor(1) as pool:
        way.lose()
        answer = pool.submit(db.execute, "SELECT 1")
        assert numbers(far) == []
        assert not answer.done()
        way.cut()
        with pytest.raises(psycopg.OperationalError):
            answer.result(PATIENCE)
