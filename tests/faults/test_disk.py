"""Full disks, a full spool, a damaged ledger: what cannot be kept is not acknowledged, and all resumes."""

import asyncio
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.ledger import FILE_NAME, Ledger, Submission
from receiver.pipeline.spool import DISK_RESERVE, Spool
from tests.bench.many_jobs import fill
from tests.faults.matrix import Matrix, audit, in_bucket, in_folder
from tests.support.disk import can_mount, disk, kinds, tmpfs
from tests.support.gallery import Gallery, gallery
from tests.support.processes import Programs, Receiver, completion, run_process, settings
from tests.support.seaweed import Seaweed, seaweed
from tests.support.waiting import eventually

MIB = 1 << 20


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


def failing(receiver: Receiver) -> dict[str, str]:
    found: dict[str, str] = receiver.get("/readyz").json()["failing"]
    return found


# The ledger's disk


@pytest.mark.parametrize("kind", kinds())
def test_a_full_disk_is_a_503_and_never_a_false_200_and_ends_by_itself(
    programs: Programs, images: Gallery, matrix: Matrix, tmp_path: Path, kind: str
) -> None:
    acknowledged: list[str] = []
    numbers = iter(range(100_000))

    def deliver(receiver: Receiver) -> int:
        job_id = f"{kind}-{next(numbers)}"
        answer = receiver.deliver(images.completion(job_id))
        if answer.status_code == 200:
            acknowledged.append(job_id)
        else:
            assert (answer.status_code, answer.json()["reason"]) == (503, "ledger.unavailable")
            assert int(answer.headers["retry-after"]) > 0
        return answer.status_code

    with disk(kind, tmp_path / "disk") as full:
        values = settings(full.folder, RECEIVER_ARCHIVE=(tmp_path / "archive").as_uri())
        with programs.receiver_process(values) as receiver:
            pid = receiver.program.process.pid
            assert [deliver(receiver) for _ in range(5)] == [200] * 5
            for job_id in acknowledged:
                receiver.ended(job_id)  # what leaves the spool later would make room again

            full.fill(pid)
            eventually(lambda: deliver(receiver) == 503)
            assert {deliver(receiver) for _ in range(20)} == {503}
            assert "ledger" in failing(receiver)

            full.free(pid)
            eventually(lambda: deliver(receiver) == 200)
            assert [deliver(receiver) for _ in range(5)] == [200] * 5
            assert "ledger" not in failing(receiver)

            full.fill(pid)
            eventually(lambda: deliver(receiver) == 503)
            receiver.program.kill()
        full.free(os.getpid())

        with programs.receiver_process(values) as again:
            for job_id in acknowledged:
                again.ended(job_id)
            tally = audit(again, images.images(acknowledged), in_folder(tmp_path / "archive"))
            matrix("the ledger's disk is full", tally)
            assert tally.kept()
            assert tally.archived == len(acknowledged)
            assert "Traceback" not in again.program.log


def test_downloads_pause_before_the_disk_is_full_and_deliveries_are_still_taken(
    programs: Programs, images: Gallery, matrix: Matrix, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    if not can_mount():  # then the free space is what it is, and the reserve is made too large for it
        assert Spool(data, max_bytes=MIB, max_image_bytes=1, reserve=0).room(0, 0) > 0
        assert Spool(data, max_bytes=MIB, max_image_bytes=1, reserve=1 << 60).room(0, 0) == 0
        return

    job_ids = [f"reserve-{number}" for number in range(5)]
    with tmpfs(data, DISK_RESERVE + 2 * MIB) as small:
        values = settings(
            tmp_path, RECEIVER_ARCHIVE=(tmp_path / "archive").as_uri(), RECEIVER_MAX_IMAGE_BYTES="3MiB"
        )
        with programs.receiver_process(values) as receiver:
            for job_id in job_ids:
                assert receiver.deliver(images.completion(job_id)).status_code == 200
            receiver.program.until_event("spool is full; downloads pause")
            assert "spool" in failing(receiver)
            assert images.asked == []

            small.free(0)
            for job_id in job_ids:
                assert receiver.ended(job_id)["state"] == "archived"
            assert failing(receiver) == {}
            tally = audit(receiver, images.images(job_ids), in_folder(tmp_path / "archive"))
            matrix("the disk's reserve is reached", tally)
            assert tally.kept()


# The spool


def test_a_full_spool_pauses_downloads_while_the_store_is_away_and_all_resumes(
    programs: Programs, store: Seaweed, matrix: Matrix
) -> None:
    job_ids = [f"spooled-{number}" for number in range(16)]
    values = settings(
        programs.folder,
        RECEIVER_ARCHIVE=f"s3://{store.bucket}/full",
        RECEIVER_ARCHIVE_KEY="{id}.{ext}",
        RECEIVER_MAX_IMAGE_BYTES="512KiB",
        RECEIVER_MAX_SPOOL_BYTES="2MiB",
        **store.environment(),
    )
    with gallery(padding=300_000) as images, programs.receiver_process(values) as receiver:
        receiver.program.until_event("archive probed")
        store.kill()
        for job_id in job_ids:
            assert receiver.deliver(images.completion(job_id)).status_code == 200
        receiver.program.until_event("spool is full; downloads pause")

        def held() -> dict[str, int]:
            states: dict[str, int] = receiver.get("/stats").json()["states"]
            return states

        # By then every download that had room has ended: more than so many never fit.
        eventually(lambda: held()["fetched"] >= 2 and "spool" in failing(receiver))
        assert receiver.deliver(images.completion("spooled-late")).status_code == 200
        spool = programs.folder / "data" / "spool"
        assert sum(file.stat().st_size for file in spool.iterdir()) <= 2 * MIB
        assert held()["received"] > 0

        store.start()
        job_ids.append("spooled-late")
        for job_id in job_ids:
            assert receiver.ended(job_id)["state"] == "archived"
        assert failing(receiver) == {}
        tally = audit(receiver, images.images(job_ids), in_bucket(store, "full"))
        matrix("the spool is full", tally)
        assert tally.kept()
        assert sorted(images.asked) == sorted(job_ids)  # nothing was fetched twice


def test_a_spool_that_cannot_be_written_delays_the_image_and_loses_nothing(
    programs: Programs, images: Gallery, matrix: Matrix
) -> None:
    spool = programs.folder / "data" / "spool"
    aside = spool.with_name("moved")
    with programs.receiver_process(settings(programs.folder)) as receiver:
        spool.rename(aside)
        spool.touch()  # no folder, whoever may write
        assert receiver.deliver(images.completion("unwritable")).status_code == 200
        said = receiver.attempted("unwritable")
        assert (said["state"], said["error"]["reason"]) == ("received", "spool.disk")

        spool.unlink()
        aside.rename(spool)
        assert receiver.ended("unwritable")["state"] == "archived"
        tally = audit(
            receiver, images.images(["unwritable"]), in_folder(programs.folder / "data" / "archive")
        )
        matrix("the spool cannot be written", tally)
        assert tally.kept()
        assert "Traceback" not in receiver.program.log


# A damaged ledger


def noise_in_the_middle(file: Path) -> None:
    page, noise = 4096, random.Random(1)
    with file.open("r+b") as ledger:
        # Every second page from the root of the first table on, so that it matters which is hit.
        for at in range(page, file.stat().st_size, 2 * page):
            ledger.seek(at)
            ledger.write(noise.randbytes(page))


def another_files_beginning(file: Path) -> None:
    with file.open("r+b") as ledger:
        ledger.write(b"%PDF-1.7\n%")


def half_of_it(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [noise_in_the_middle, another_files_beginning, half_of_it])
async def test_a_damaged_ledger_is_refused_in_one_line_and_left_as_it_is(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    file = tmp_path / "data" / FILE_NAME
    file.parent.mkdir()
    ledger = await Ledger.serve(file.parent)
    await asyncio.gather(*(ledger.expect(Submission(f"before-{number}")) for number in range(500)))
    await ledger.close()
    damage(file)
    before = hashlib.sha256(file.read_bytes()).digest()

    done = await asyncio.to_thread(run_process, ["serve"], tmp_path, settings(tmp_path))

    said = [line for line in done.stderr.splitlines() if line.startswith("receiver: ")]
    assert (done.returncode, len(said)) == (1, 1)
    assert said[0].startswith("receiver: ledger.corrupt: ")
    assert "backup" in said[0]
    assert "Traceback" not in done.stderr
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_damage_that_is_found_after_the_start_of_a_large_ledger_ends_acknowledgements(
    programs: Programs,
) -> None:
    file = programs.folder / "data" / FILE_NAME
    file.parent.mkdir()
    fill(file.parent, 30_000)
    # A page of rows that no start reads: jobs that were archived long ago. A page of an index would not do.
    page = file.read_bytes().index(b"s3://archive/2026/11/3752.jpg") // 4096
    with file.open("r+b") as ledger:
        ledger.seek(page * 4096)
        ledger.write(random.Random(1).randbytes(4096))

    with programs.receiver(settings(programs.folder)) as receiver:
        assert "backup" in receiver.program.until_event("ledger is damaged")["detail"]

        answer = receiver.deliver(completion("new", "https://results.example.com/new.png", 2, 2))
        assert (answer.status_code, answer.json()["reason"]) == (503, "ledger.corrupt")
        assert failing(receiver)["ledger"].startswith("ledger.corrupt: ")
        assert "receiver_ledger_writable 0.0" in receiver.get("/metrics").text
        assert len(receiver.get("/jobs").json()["jobs"]) == 100
