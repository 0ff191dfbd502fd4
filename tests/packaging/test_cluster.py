"""Two receivers on one PostgreSQL behind the real Caddy: whatever goes, no delivery is refused."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.caddy import Caddy, caddy, free_port
from tests.support.deliveries import Deliveries
from tests.support.postgres import Postgres, postgres
from tests.support.processes import PATIENCE, Programs, ReceiverProcess, settings

SENDERS = 4
BEFORE_EACH = 15
NAMES = ("one", "two")


@dataclass
class Cluster:
    """Both receivers, each of which can be away."""

    programs: Programs
    database: str
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in NAMES})
    running: dict[str, ReceiverProcess] = field(default_factory=dict)
    _stacks: dict[str, ExitStack] = field(default_factory=dict)

    def start(self, name: str) -> None:
        folder = self.programs.folder
        values = settings(
            folder,
            RECEIVER_LEDGER=self.database,
            RECEIVER_INSTANCE=name,
            RECEIVER_DATA_DIR=str(folder / name),
            RECEIVER_ARCHIVE=(folder / "archive").as_uri(),
            RECEIVER_PORT=str(self.ports[name]),
        )
        self._stacks[name] = ExitStack()
        self.running[name] = self._stacks[name].enter_context(self.programs.receiver_process(values))

    def stop(self, name: str) -> None:
        code, _ = self.running.pop(name).program.stop()
        assert code == 0
        self._stacks.pop(name).close()

    def kill(self, name: str) -> None:
        self.running.pop(name).program.kill()
        self._stacks.pop(name).close()

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()


@pytest.fixture
def cluster(programs: Programs, database: str) -> Iterator[Cluster]:
    it = Cluster(programs, database)
    (programs.folder / "archive").mkdir()
    try:
        for name in NAMES:
            it.start(name)
        yield it
    finally:
        it.close()


@pytest.fixture
def door(cluster: Cluster, tmp_path: Path) -> Iterator[Caddy]:
    upstreams = " ".join(f"127.0.0.1:{port}" for port in cluster.ports.values())
    with caddy(tmp_path / "caddy", upstreams, receivers="several") as it:
        cluster.programs.started.append(it.program)
        yield it


@contextmanager
def under_load(cluster: Cluster, door: Caddy, url: str) -> Iterator[Deliveries]:
    """Deliveries that go on during the block, all of which are acknowledged and archived at its end."""
    deliveries = Deliveries(door, url)
    with ThreadPoolExecutor(SENDERS) as pool:
        senders = [pool.submit(deliveries.run, number) for number in range(SENDERS)]
        try:
            deliveries.until_more(BEFORE_EACH)
            yield deliveries
            deliveries.until_more(BEFORE_EACH)
        finally:
            deliveries.enough.set()
        for sender in senders:
            sender.result(PATIENCE)
    assert deliveries.answers == {200: len(deliveries.sent)}
    receiver = cluster.running["one"]
    ends = {job_id: receiver.ended(job_id)["state"] for job_id in deliveries.sent}
    assert ends == dict.fromkeys(deliveries.sent, "archived")


@pytest.mark.timeout(300)
def test_a_rolling_restart_refuses_no_delivery(cluster: Cluster, door: Caddy, hosted: str) -> None:
    with under_load(cluster, door, hosted) as deliveries:
        for name in NAMES * 2:
            cluster.stop(name)
            deliveries.until_more(BEFORE_EACH)
            cluster.start(name)
            deliveries.until_more(BEFORE_EACH)
    assert deliveries.longest < 30  # lb_try_duration


@pytest.mark.timeout(300)
def test_a_receiver_that_is_killed_takes_no_delivery_with_it(
    cluster: Cluster, door: Caddy, hosted: str
) -> None:
    with under_load(cluster, door, hosted) as deliveries:
        for name in NAMES:
            cluster.kill(name)
            deliveries.until_more(BEFORE_EACH)
            cluster.start(name)  # its claims and its spool are its own again
            deliveries.until_more(BEFORE_EACH)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """One that a test may take away."""
    with postgres() as it:
        yield it


@pytest.mark.timeout(300)
def test_deliveries_wait_at_the_balancer_while_the_database_is_away(
    programs: Programs, own_server: Postgres, hosted: str, tmp_path: Path
) -> None:
    cluster = Cluster(programs, own_server.url(own_server.create()))
    (programs.folder / "archive").mkdir()
    try:
        for name in NAMES:
            cluster.start(name)
        upstreams = " ".join(f"127.0.0.1:{port}" for port in cluster.ports.values())
        with (
            caddy(tmp_path / "caddy", upstreams, receivers="several") as door,
            under_load(cluster, door, hosted) as deliveries,
        ):
            own_server.kill()
            own_server.start()
            deliveries.until_more(BEFORE_EACH)
            own_server.restart()
    finally:
        cluster.close()
