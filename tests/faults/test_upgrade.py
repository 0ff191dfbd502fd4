"""Restarts in the middle of everything, and ledgers of other versions than the program's."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest

from receiver.core.errors import LedgerError
from receiver.core.jobs import State
from receiver.ledger import FILE_NAME, Filter, Ledger, Submission
from receiver.ledger.sqlite.schema import MIGRATIONS
from tests.faults.ledgers import make
from tests.faults.matrix import Matrix, audit, in_folder
from tests.support.clock import HOUR, NOW, SECOND, Clock
from tests.support.gallery import Gallery, gallery
from tests.support.load import Answers, deliver
from tests.support.processes import PATIENCE, Programs, run, settings
from tests.support.waiting import eventually

LEDGERS = Path(make.__file__).parent
RELEASED = sorted(file.stem for file in LEDGERS.glob("v*.sql"))


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


# Restarts


class Burst:
    """Deliveries that go on, each until it is acknowledged, over whatever happens to the receiver.

    Args:
        port: of each receiver that comes.
        images: of the jobs.
        count: of jobs.
    """

    def __init__(self, port: int, images: Gallery, count: int) -> None:
        self._jobs = {f"burst-{number}": images.completion(f"burst-{number}") for number in range(count)}
        self._port = port
        self.answers = Answers()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(deliver(self._port, self._jobs, 4, insisting=True, into=self.answers))

    def ended(self) -> list[str]:
        """The acknowledged jobs, once they are all."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert set(self.answers.acknowledged) == set(self._jobs)
        return list(self._jobs)


def test_a_burst_that_goes_on_over_restarts_ends_whole_in_the_archive(
    programs: Programs, images: Gallery, matrix: Matrix
) -> None:
    values = settings(programs.folder)
    restarts = 3
    with programs.receiver_process(values, cold=True) as receiver:
        port = receiver.port
        burst = Burst(port, images, 60 * (restarts + 1))
        eventually(lambda: len(burst.answers.acknowledged) >= 30)
        code, seconds = receiver.program.stop()
        assert (code, seconds < 10) == (0, True)

    values["RECEIVER_PORT"] = str(port)
    for _ in range(restarts):
        known = len(burst.answers.acknowledged)
        with programs.receiver_process(values, cold=True) as receiver:
            eventually(lambda: len(burst.answers.acknowledged) >= min(known + 30, 240))  # noqa: B023 - called at once
            code, seconds = receiver.program.stop()
            assert (code, seconds < 10) == (0, True)
            assert "Traceback" not in receiver.program.log

    with programs.receiver_process(values, cold=True) as receiver:
        job_ids = burst.ended()
        for job_id in job_ids:
            receiver.ended(job_id)
        tally = audit(receiver, images.images(job_ids), in_folder(programs.folder / "data" / "archive"))
        matrix(f"{restarts + 1} restarts in a burst that goes on", tally)
        assert tally.kept()
        assert tally.archived == len(job_ids)
        assert set(burst.answers.statuses) <= {200, 503}


# Versions


def test_a_newer_ledger_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    asyncio.run(make.write(data))
    newer = len(MIGRATIONS) + 1
    with closing(sqlite3.connect(data / FILE_NAME)) as db:
        db.execute(f"PRAGMA user_version = {newer}")
    before = {file.name: file.read_bytes() for file in data.iterdir() if file.name.startswith(FILE_NAME)}

    for command in (["serve"], ["jobs"]):
        done = run(command, tmp_path, settings(tmp_path))
        said = [line for line in done.stderr.splitlines() if line.startswith("receiver: ")]
        assert (done.returncode, len(said)) == (1, 1)
        assert said[0].startswith("receiver: ledger.newer: ")
        assert f"version {newer}" in said[0]
        assert "Traceback" not in done.stderr

    left = {name: (data / name).read_bytes() for name in before}
    assert left == before


def released(version: str, data: Path) -> None:
    """Makes a ledger as that version left it."""
    data.mkdir()
    with closing(sqlite3.connect(data / FILE_NAME)) as db:
        db.executescript((LEDGERS / f"{version}.sql").read_text(encoding="utf-8"))
        db.execute("PRAGMA journal_mode = WAL")


def test_there_is_a_ledger_of_each_version() -> None:
    versions = [f"v{number}" for number in range(1, len(MIGRATIONS) + 1)]
    assert sorted(versions) == RELEASED, "run `python -m tests.faults.ledgers.make`"


def test_every_script_is_one_of_the_migrations() -> None:
    scripts = (file.name for file in resources.files("receiver.ledger.sqlite").iterdir())
    assert {name for name in scripts if name.endswith(".sql")} == set(MIGRATIONS)


@pytest.mark.parametrize("version", RELEASED)
async def test_a_released_ledger_opens_with_all_that_it_holds_and_goes_on(
    tmp_path: Path, version: str
) -> None:
    data = tmp_path / "data"
    released(version, data)

    ledger = await Ledger.serve(data, now=Clock(NOW + 10 * SECOND), monotonic=Clock(0))
    try:
        jobs = {job.id: job for job in (await ledger.jobs(Filter())).jobs}
        assert {job_id: job.state for job_id, job in jobs.items()} == {
            **{state.value: state for state in State},
            "waiting": State.RECEIVED,
        }
        assert (jobs["archived"].image, jobs["archived"].stored) == (make.IMAGE, make.STORED)
        assert jobs["fetched"].spool == f"fetched.{make.SHA256}.png"
        assert (jobs["waiting"].next_attempt_at, jobs["waiting"].suspect) == (NOW + HOUR // 2, make.SHA256)
        assert jobs["received"].ref == "ref of received"
        assert all(jobs[name].problem is not None for name in ("failed", "rejected", "expired"))
        (unread,) = (await ledger.unread_deliveries()).deliveries
        assert unread.body == b"\xff{"
        stats = await ledger.stats(overdue_before=0)
        assert sum(stats.jobs.values()) == len(make.JOBS)

        assert [c.job.id for c in await ledger.claim_to_fetch(9, again=9, lease=HOUR)] == ["received"]
        assert [c.job.id for c in await ledger.claim_to_archive(9, lease=HOUR)] == ["fetched"]
        assert (await ledger.retry("expired")).state is State.RECEIVED
        assert await ledger.expect(Submission("new"))
    finally:
        await ledger.close()


@pytest.mark.parametrize("version", RELEASED)
@pytest.mark.parametrize("opening", [Ledger.serve, Ledger.open_beside])
async def test_a_released_ledger_that_somebody_changed_is_never_served_and_left_as_it_is(
    tmp_path: Path, version: str, opening: Callable[[Path], Awaitable[object]]
) -> None:
    data = tmp_path / "data"
    released(version, data)
    with closing(sqlite3.connect(data / FILE_NAME)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = (data / FILE_NAME).read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerError, match="structure"):
            await opening(data)
    assert (data / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("version", RELEASED)
def test_a_receiver_serves_from_a_released_ledger(programs: Programs, images: Gallery, version: str) -> None:
    released(version, programs.folder / "data")
    with programs.receiver_process(settings(programs.folder)) as receiver:
        assert receiver.job("archived")["archive"]["uri"] == make.STORED.uri
        receiver.deliver(images.completion("new")).raise_for_status()
        assert receiver.ended("new")["state"] == "archived"


@pytest.mark.parametrize("version", RELEASED)
def test_what_made_a_released_ledger_is_not_edited_any_more(tmp_path: Path, version: str) -> None:
    released(version, tmp_path / "data")
    with closing(sqlite3.connect(":memory:")) as made:
        for name in MIGRATIONS[: int(version.removeprefix("v"))]:
            made.executescript(
                resources.files("receiver.ledger.sqlite").joinpath(name).read_text(encoding="utf-8")
            )
        today = schema(made)
    with closing(sqlite3.connect(tmp_path / "data" / FILE_NAME)) as then:
        assert schema(then) == today, (
            "A released schema was edited: add a migration instead. Before the first release,"
            " run `python -m tests.faults.ledgers.make`."
        )


def schema(db: sqlite3.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
