"""Two receivers on one PostgreSQL: either is killed, the database is killed, or one is cut off from it.

Each at each step of a job. What is cut off is the first receiver's way to the database, a proxy on loopback.
"""

import os
import signal
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from receiver.core.failpoints import POINTS
from tests.faults.matrix import Matrix, audit, in_folder
from tests.faults.steps import deliver, once, sums
from tests.support.postgres import Postgres, postgres
from tests.support.processes import PATIENCE, Programs, Receiver, ReceiverProcess, completion, settings
from tests.support.proxy import Proxy, proxy
from tests.support.source import SIZE, Source, picture
from tests.support.waiting import eventually

HOLDERS = f"{os.getpid()}-"
CLAIM = struct.pack(">i", len(HOLDERS) + 17) + HOLDERS.encode()
"""How the first value of a claim is sent: its length, and its holder's process before 17 other characters.

The statement itself is kept prepared.
"""

STEPS: Mapping[str, tuple[bytes, int]] = {
    "a delivery": (b"INSERT INTO jobs", 1),
    "a claim": (CLAIM, 1),
    "a fetched image": (b"state = 'fetched', event = 'fetched'", 1),
    "an upload's claim": (CLAIM, 2),
    "an archived image": (b"state = 'archived', event = 'archived'", 1),
}
"""The statement of each step of a job, and which of its kind it is."""


@dataclass
class Pair:
    """Two receivers, "one" and "two", on one ledger, with one archive, and each with a disk."""

    programs: Programs
    database: str

    def values(self, name: str, database: str | None = None, **more: str) -> dict[str, str]:
        folder = self.programs.folder
        return settings(
            folder,
            RECEIVER_LEDGER=database or self.database,
            RECEIVER_INSTANCE=name,
            RECEIVER_DATA_DIR=str(folder / name),
            RECEIVER_ARCHIVE=(folder / "archive").as_uri(),
            **more,
        )

    @contextmanager
    def killed_at(self, point: str, name: str = "one") -> Iterator[ReceiverProcess]:
        """A receiver that kills itself at a point."""
        values = self.values(name, RECEIVER_CUT_AT=point)
        with self.programs.receiver_process(values) as receiver:
            yield receiver
            assert receiver.program.process.wait(PATIENCE) == -signal.SIGKILL

    @property
    def archive(self) -> Path:
        return self.programs.folder / "archive"

    def spooled(self, *names: str) -> list[str]:
        return [it.name for name in names for it in (self.programs.folder / name / "spool").glob("*.image")]


@pytest.fixture
def pair(programs: Programs, database: str) -> Pair:
    it = Pair(programs, database)
    it.archive.mkdir()
    return it


@pytest.fixture
def images(host: Source) -> Mapping[str, bytes]:
    return {"first": picture(1), "second": picture(2)}


@pytest.fixture
def urls(host: Source, images: Mapping[str, bytes]) -> Mapping[str, str]:
    return {job_id: host.offer(job_id, image) for job_id, image in images.items()}


def judge(pair: Pair, receiver: Receiver, images: Mapping[str, bytes], matrix: Matrix, fault: str) -> None:
    """Waits for the end of all jobs, and records what became of them."""
    ends = {job_id: receiver.ended(job_id)["state"] for job_id in images}
    held = in_folder(pair.archive)
    matrix(fault, audit(receiver, sums(images), held))
    assert ends == dict.fromkeys(images, "archived")
    assert held == once(images)


@pytest.mark.parametrize("point", POINTS)
def test_one_is_killed_at_each_step_and_comes_back(
    pair: Pair, images: Mapping[str, bytes], urls: Mapping[str, str], matrix: Matrix, point: str
) -> None:
    with pair.killed_at(point) as receiver:
        try:
            deliver(receiver, "first", urls["first"])
        except httpx.TransportError:
            assert point == "recorded"
    with pair.programs.receiver(pair.values("two")) as other:
        deliver(other, "second", urls["second"])
        with pair.programs.receiver(pair.values("one")):
            judge(pair, other, images, matrix, f"one of two killed: {point}")
            eventually(lambda: pair.spooled("one", "two") == [])


@pytest.mark.timeout(300)
def test_all_but_one_are_killed_at_each_step_and_stay_away(pair: Pair, host: Source, matrix: Matrix) -> None:
    """The last one notices within a minute, and does all that they had begun."""
    images = {point: picture(number) for number, point in enumerate(POINTS)}
    for point, image in images.items():
        with pair.killed_at(point, f"dead-{point}") as receiver:
            try:
                deliver(receiver, point, host.offer(point, image))
            except httpx.TransportError:
                assert point == "recorded"
    with pair.programs.receiver(pair.values("two")) as other:
        eventually(lambda: all(_state(other, job_id) == "archived" for job_id in images), 100)
        judge(pair, other, images, matrix, "all but one killed for good")


def _state(receiver: Receiver, job_id: str) -> object:
    return receiver.get(f"/jobs/{job_id}").json().get("state")


@pytest.fixture
def way(postgres_server: Postgres) -> Iterator[Proxy]:
    with proxy(postgres_server.port) as it:
        yield it


@pytest.mark.parametrize("moment", ["at the statement", "before the commit", "after the commit"])
@pytest.mark.parametrize("step", STEPS)
def test_one_is_cut_off_at_each_step(
    pair: Pair,
    way: Proxy,
    *,
    postgres_server: Postgres,
    images: Mapping[str, bytes],
    urls: Mapping[str, str],
    matrix: Matrix,
    step: str,
    moment: str,
) -> None:
    text, nth = STEPS[step]
    far = pair.database.replace(f":{postgres_server.port}/", f":{way.port}/")
    with ExitStack() as stack:
        one = stack.enter_context(pair.programs.receiver(pair.values("one", far)))
        at = b"" if moment == "at the statement" else b"COMMIT"
        way.cut_at(text, nth=nth, at=at, before=moment != "after the commit", then_down=True)
        status = one.deliver(completion("first", urls["first"], *SIZE)).status_code
        assert status == 200 or (status == 503 and step in ("a delivery", "a claim"))  # may be one commit
        assert way.met.wait(PATIENCE)
        two = stack.enter_context(pair.programs.receiver(pair.values("two")))
        deliver(two, "first", urls["first"])  # the provider's repetition, or a duplicate
        deliver(two, "second", urls["second"])
        two.ended("second")
        way.down.clear()
        judge(pair, two, images, matrix, f"cut off {moment}: {step}")
        eventually(lambda: pair.spooled("one", "two") == [])
        assert one.get("/readyz?check=ledger").status_code == 200


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A database that a test may kill."""
    with postgres() as it:
        yield it


@pytest.mark.parametrize("step", STEPS)
def test_the_database_is_killed_at_each_step(
    programs: Programs,
    own_server: Postgres,
    *,
    images: Mapping[str, bytes],
    urls: Mapping[str, str],
    matrix: Matrix,
    step: str,
) -> None:
    pair = Pair(programs, own_server.url(own_server.create()))
    pair.archive.mkdir()
    text, nth = STEPS[step]
    with proxy(own_server.port) as way, ExitStack() as stack:
        far = pair.database.replace(f":{own_server.port}/", f":{way.port}/")
        one = stack.enter_context(pair.programs.receiver(pair.values("one", far)))
        way.cut_at(text, nth=nth, at=b"COMMIT", before=False, then_down=True)
        one.deliver(completion("first", urls["first"], *SIZE))
        assert way.met.wait(PATIENCE)
        own_server.kill()
        two_values = pair.values("two")
        way.down.clear()
        own_server.start()
        two = stack.enter_context(pair.programs.receiver(two_values))
        deliver(two, "first", urls["first"])
        deliver(two, "second", urls["second"])
        judge(pair, two, images, matrix, f"the database killed: {step}")
        eventually(lambda: pair.spooled("one", "two") == [])
