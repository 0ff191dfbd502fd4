"""kill -9 at every step of both chains, and at random."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from receiver.core.backoff import OCCUPIED_MAX, UPLOAD_MAX
from receiver.core.failpoints import POINTS
from receiver.core.jobs import State
from receiver.ledger import FILE_NAME, Submission
from receiver.ledger.sqlite.backup import back_up
from tests.faults.matrix import Archive, Matrix, audit, in_bucket, in_folder
from tests.faults.steps import archive_of, at, deliver, once, sums
from tests.faults.workshop import at_work
from tests.support.clock import HOUR
from tests.support.gallery import gallery
from tests.support.images import HEIGHT, WIDTH, png
from tests.support.processes import (
    PATIENCE,
    PROOF,
    Programs,
    Receiver,
    completion,
    run,
    run_process,
    settings,
)
from tests.support.proxy import Proxy, proxy
from tests.support.seaweed import Seaweed, seaweed
from tests.support.source import SIZE, Answer, Source, picture, sha256, spooled
from tests.support.waiting import eventually

LARGE = (640, 480)


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


@dataclass
class Place:
    """A receiver's settings, and what its archive holds."""

    values: dict[str, str]
    folder: Path
    store: Seaweed | None = None
    prefix: str = ""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def held(self) -> Archive:
        if self.store is not None:
            return in_bucket(self.store, self.prefix)
        return in_folder(self.data / "archive")

    def put(self, key: str, content: bytes) -> None:
        """Puts an object there that nobody knows."""
        if self.store is None:
            (self.data / "archive").mkdir(parents=True, exist_ok=True)
            (self.data / "archive" / key).write_bytes(content)
            return
        with contextlib.closing(self.store.client()) as client:
            client.put_object(Bucket=self.store.bucket, Key=f"{self.prefix}/{key}", Body=content)

    def remove(self, key: str) -> None:
        """Removes an object."""
        if self.store is None:
            (self.data / "archive" / key).unlink()
            return
        with contextlib.closing(self.store.client()) as client:
            client.delete_object(Bucket=self.store.bucket, Key=f"{self.prefix}/{key}")


def folder_place(folder: Path) -> Place:
    return Place(settings(folder), folder)


def bucket_place(folder: Path, store: Seaweed) -> Place:
    prefix = f"test/{os.urandom(6).hex()}"
    values = settings(folder, RECEIVER_ARCHIVE=f"s3://{store.bucket}/{prefix}", **store.environment())
    return Place(values, folder, store, prefix)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return folder_place(tmp_path)
    return bucket_place(tmp_path, request.getfixturevalue("store"))


@dataclass
class Behind:
    """A bucket that the receiver reaches through a proxy; TLS passes it unread."""

    place: Place
    direct: dict[str, str]
    way: Proxy


@pytest.fixture
def behind(store: Seaweed, tmp_path: Path) -> Iterator[Behind]:
    with proxy(store.ports["s3.port.https"]) as way:
        place = bucket_place(tmp_path, store)
        direct = place.values
        place.values = direct | {"AWS_ENDPOINT_URL_S3": f"https://127.0.0.1:{way.port}"}
        yield Behind(place, direct, way)


def noise(size: tuple[int, int]) -> bytes:
    """A PNG that no compression makes small."""
    file = BytesIO()
    Image.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3)).save(file, "PNG")
    return file.getvalue()


def stopped(receiver: Receiver, data: Path) -> None:
    """Stops it, and looks whether its spool is empty: that is certain only when all was put away."""
    assert receiver.program.stop()[0] == 0
    assert spooled(data) == set()


# At each step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_each_step_loses_nothing_repeats_nothing_and_needs_nobody(
    programs: Programs, host: Source, place: Place, matrix: Matrix, point: str
) -> None:
    images = {"first": picture(1), "second": picture(2)}
    urls = {job_id: host.offer(job_id, image) for job_id, image in images.items()}
    with programs.receiver_process(place.values | {"RECEIVER_CUT_AT": point}) as receiver:
        with contextlib.suppress(httpx.TransportError):  # at "recorded" no answer comes
            deliver(receiver, "first", urls["first"])
        assert receiver.program.process.wait(PATIENCE) == -signal.SIGKILL

    with programs.receiver(place.values) as again:
        if point == "recorded":
            # Its sender has heard nothing, but it is recorded all the same; and a sender may send again.
            assert again.ended("first")["state"] == "archived"
            assert again.deliver(completion("first", urls["first"], *SIZE)).json()["duplicate"]
        deliver(again, "second", urls["second"])
        ends = {job_id: again.ended(job_id) for job_id in images}
        held = place.held()
        matrix(f"kill -9: {point}", audit(again, sums(images), held))
        stopped(again, place.data)

    assert {job_id: job["state"] for job_id, job in ends.items()} == dict.fromkeys(images, "archived")
    assert held == once(images)
    for job_id, job in ends.items():
        assert_safe_once(host, job_id, job)
    if point != "recorded":  # there a download may have begun
        assert host.asked("first") == 1


def assert_safe_once(host: Source, job_id: str, job: dict[str, object]) -> None:
    """Once an image was safe on our own disk, nobody asked its source for it again."""
    fetched_at = at(str(job["fetched_at"]))
    late = [at for at in host.times(job_id) if at > fetched_at]
    assert not late, f"{job_id} was asked for again {late} after it was safe at {fetched_at}"


def test_a_kill_in_the_middle_of_a_download_fetches_it_anew(
    programs: Programs, host: Source, matrix: Matrix, tmp_path: Path
) -> None:
    place = folder_place(tmp_path)
    image = noise(LARGE)
    url = host.offer("cut-off", Answer(image, gate=host.gate()), image)
    with programs.receiver_process(place.values) as receiver:
        deliver(receiver, "cut-off", url, LARGE)
        host.until_asked("cut-off")
        until_on_disk(receiver, place.data / "spool")
        receiver.program.kill()
    (part,) = spooled(place.data)
    assert part.endswith(".part")

    with programs.receiver(place.values) as again:
        assert again.ended("cut-off")["state"] == "archived"
        held = place.held()
        matrix("kill -9: in a download", audit(again, {"cut-off": sha256(image)}, held))
        stopped(again, place.data)
    assert host.asked("cut-off") == 2
    assert held == {"cut-off": [sha256(image)]}


def until_on_disk(receiver: Receiver, spool: Path) -> None:
    """Returns when a download has begun to be written; each look is an answered request apart."""
    for _ in range(10_000):
        if list(spool.glob("*.part")):
            return
        receiver.get("/healthz")
    raise AssertionError("nothing was ever written")


def test_a_kill_in_the_middle_of_an_upload_sends_it_again_and_leaves_one_object(
    programs: Programs, host: Source, behind: Behind, matrix: Matrix
) -> None:
    place, way = behind.place, behind.way
    image = noise(LARGE)
    url = host.offer("cut-off", image)
    with programs.receiver_process(place.values) as receiver:
        receiver.program.until_event("archive probed")
        way.hold_after(len(image) // 2)
        deliver(receiver, "cut-off", url, LARGE)
        assert way.held.wait(PATIENCE)
        receiver.program.kill()
    assert place.held() == {}
    assert spooled(place.data) == {f"cut-off.{sha256(image)}.png"}

    with programs.receiver(behind.direct) as again:
        assert again.ended("cut-off")["state"] == "archived"
        held = place.held()
        matrix("kill -9: in an upload", audit(again, {"cut-off": sha256(image)}, held))
        stopped(again, place.data)
    assert host.asked("cut-off") == 1
    assert held == {"cut-off": [sha256(image)]}


# At random ------------------------------------------------------------------------------------------------

JOBS = 200
KILLS = 5
SENDERS = 4


class Provider:
    """Delivers completions, each until it is acknowledged, to whichever receiver is there.

    Args:
        client: for all of them.
        urls: of each job's image.
    """

    def __init__(self, client: httpx.Client, urls: dict[str, str]) -> None:
        self._client = client
        self.acknowledged: list[str] = []
        self._urls = urls
        self._there = threading.Condition()
        self._receiver: Receiver | None = None

    def send_to(self, receiver: Receiver | None) -> None:
        with self._there:
            self._receiver = receiver
            self._there.notify_all()

    def send(self, job_id: str) -> None:
        """Returns when the job is acknowledged."""
        while True:
            with self._there:
                assert self._there.wait_for(lambda: self._receiver, PATIENCE)
                receiver = self._receiver
                assert receiver is not None
            try:
                body = completion(job_id, self._urls[job_id], *SIZE)
                answer = self._client.post(receiver.webhook, json=body, headers=PROOF)
            except httpx.TransportError:
                with self._there:
                    if self._receiver is receiver:  # nobody has noticed yet that it is dead
                        self._there.wait(PATIENCE)
                continue
            assert answer.status_code in {200, 503}
            if answer.status_code == 200:
                self.acknowledged.append(job_id)
                return


def test_kills_at_random_under_load_lose_nothing_and_fetch_nothing_twice_that_was_safe(
    programs: Programs, host: Source, place: Place, matrix: Matrix
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    images = {f"job-{number}": picture(number) for number in range(JOBS)}
    urls = {job_id: host.offer(job_id, image) for job_id, image in images.items()}
    with (
        httpx.Client(trust_env=False, timeout=PATIENCE) as client,
        ThreadPoolExecutor(SENDERS) as pool,
    ):
        provider = Provider(client, urls)
        sent = [pool.submit(provider.send, job_id) for job_id in images]
        for _ in range(KILLS):
            with programs.receiver_process(place.values) as receiver:
                provider.send_to(receiver)
                lines = chance.randrange(1, 2 * JOBS // KILLS)
                receiver.program.until(lambda: len(receiver.program.lines) > lines)  # noqa: B023 - at once
                receiver.program.kill()
                provider.send_to(None)
        with programs.receiver(place.values) as last:
            provider.send_to(last)
            for each in sent:
                each.result(2 * PATIENCE)
            ends = {job_id: last.ended(job_id) for job_id in images}
            held = place.held()
            matrix(
                "kill -9: at random under load",
                audit(last, sums(images), held),
            )
            stopped(last, place.data)

    assert sorted(provider.acknowledged) == sorted(images)
    assert {job_id: job["state"] for job_id, job in ends.items()} == dict.fromkeys(images, "archived")
    assert held == once(images)
    for job_id, job in ends.items():
        assert_safe_once(host, job_id, job)
        assert [event["event"] for event in job["history"]].count("fetched") == 1


# What lies in the spool -----------------------------------------------------------------------------------


def test_a_start_removes_what_nobody_waits_for_in_the_spool(
    programs: Programs, host: Source, matrix: Matrix, tmp_path: Path
) -> None:
    place = folder_place(tmp_path)
    image = picture(1)
    url = host.offer("done", image)
    with programs.receiver_process(place.values) as receiver:
        deliver(receiver, "done", url)
        assert receiver.ended("done")["state"] == "archived"
        receiver.program.kill()
    spool = place.data / "spool"
    orphans = {"1-abc-7.part", f"done.{sha256(image)}.png", "no-name-of-ours"}
    whole = f"unknown.{sha256(image)}.png"  # of a job that a restored ledger does not know
    for name in {*orphans, whole}:
        (spool / name).write_bytes(image)
    (spool / "lost+found").mkdir()  # as on a file system of its own

    with programs.receiver(place.values) as again:
        removed = {line["file"] for line in again.program.events("orphan removed from the spool")}
        assert orphans <= removed
        assert spooled(place.data) == {"lost+found", whole}
        held = place.held()
        matrix("orphans in the spool", audit(again, {"done": sha256(image)}, held))
    assert host.asked("done") == 1


async def test_a_whole_image_in_the_spool_outlives_a_ledger_that_was_restored(tmp_path: Path) -> None:
    jobs = ("announced", "unknown")  # at the time of the backup
    with gallery() as images:
        async with at_work(tmp_path, images, archive_at=tmp_path / "not" / "mounted") as before:
            await before.ledger.expect(Submission("announced"))
            await back_up(
                tmp_path / FILE_NAME, tmp_path / "copy", overwrite=False, on_progress=lambda *_: None
            )
            for job_id in jobs:
                await before.deliver(job_id, HOUR)
                await before.until(job_id, lambda job: job.state is State.FETCHED)
        (tmp_path / "copy").replace(tmp_path / FILE_NAME)
        images.away = True  # the lives of its URLs have ended

        async with at_work(tmp_path, images) as after:
            for job_id in jobs:
                await after.deliver(job_id, HOUR)
                await after.until(job_id, lambda job: job.state is State.ARCHIVED)
            assert images.asked == list(jobs)
            assert (await after.tally(*jobs)).kept()


async def test_a_whole_file_that_is_not_the_promised_image_gives_way_to_a_download(tmp_path: Path) -> None:
    other = png(WIDTH * 2, HEIGHT)
    with gallery() as images:
        async with at_work(tmp_path, images) as shop:
            pass
        (tmp_path / "spool" / f"late.{sha256(other)}.png").write_bytes(other)
        (tmp_path / "aside").write_bytes(b"")  # nothing can be kept there
        async with at_work(tmp_path, images) as shop:
            await shop.deliver("late", HOUR)
            failed = await shop.waiting("late")
            assert failed.problem is not None
            assert (failed.problem.reason, images.asked) == ("image.wrong_size", [])
            shop.pass_(HOUR // 2)
            await shop.until("late", lambda job: job.state is State.ARCHIVED)


def test_a_spool_file_that_vanished_or_rotted_while_s3_was_down_is_fetched_anew(
    programs: Programs, host: Source, behind: Behind, matrix: Matrix
) -> None:
    place, way = behind.place, behind.way
    images = {name: picture(number) for number, name in enumerate(["vanished", "rotted", "sound"])}
    way.down.set()
    with programs.receiver(place.values) as receiver:
        receiver.program.until_event("archive refuses; uploads pause")
        for job_id, image in images.items():
            deliver(receiver, job_id, host.offer(job_id, image))
            receiver.program.until_event("fetched", job=job_id)
        files = {name.partition(".")[0]: place.data / "spool" / name for name in spooled(place.data)}
        assert files.keys() == images.keys()
        files["vanished"].unlink()
        rotten = bytearray(images["rotted"])
        rotten[len(rotten) // 2] ^= 1
        files["rotted"].write_bytes(rotten)
        way.down.clear()

        ends = {job_id: receiver.ended(job_id) for job_id in images}
        held = place.held()
        matrix(
            "spool file vanished or rotted",
            audit(receiver, sums(images), held),
        )
        stopped(receiver, place.data)

    assert held == once(images)
    assert {job_id: host.asked(job_id) for job_id in images} == {"vanished": 2, "rotted": 2, "sound": 1}
    for job_id in ("vanished", "rotted"):
        (lost,) = (event for event in ends[job_id]["history"] if event["event"] == "spool_lost")
        assert (lost["from"], lost["to"], lost["reason"]) == ("fetched", "received", "spool.lost")


def test_an_image_that_lay_in_the_archive_already_is_not_fetched_anew_where_the_spool_lost_it(
    programs: Programs, host: Source, place: Place, matrix: Matrix
) -> None:
    image = picture(1)
    url = host.offer("stored", image, Answer(status=404))
    with programs.receiver_process(place.values | {"RECEIVER_CUT_AT": "stored"}) as receiver:
        deliver(receiver, "stored", url)
        assert receiver.program.process.wait(PATIENCE) == -signal.SIGKILL
    (name,) = spooled(place.data)
    (place.data / "spool" / name).unlink()

    with programs.receiver(place.values) as again:
        job = again.ended("stored")
        held = place.held()
        matrix("kill -9: stored, then lost from the spool", audit(again, {"stored": sha256(image)}, held))
    assert job["state"] == "archived"
    assert host.asked("stored") == 1
    assert held == {"stored": [sha256(image)]}


def test_an_image_that_lay_in_the_archive_already_stands_though_other_bytes_came_since(
    programs: Programs, host: Source, place: Place, matrix: Matrix
) -> None:
    first, second = picture(1), picture(2)
    url = host.offer("stored", first, second)
    values = place.values | {"RECEIVER_ARCHIVE_KEY": "{id}.{ext}"}
    with programs.receiver_process(values | {"RECEIVER_CUT_AT": "stored"}) as receiver:
        deliver(receiver, "stored", url)
        assert receiver.program.process.wait(PATIENCE) == -signal.SIGKILL
    (name,) = spooled(place.data)
    (place.data / "spool" / name).unlink()
    for file in place.data.glob("ledger.sqlite3*"):
        file.unlink()

    with programs.receiver(values) as again:
        deliver(again, "stored", url)
        job = again.ended("stored")
        held = place.held()
        matrix("kill -9: stored, then lost with the ledger", audit(again, {"stored": sha256(first)}, held))
        assert again.get("/jobs/stored/image").status_code in {200, 302}
        assert again.get("/stats").json()["bytes_archived"] == len(first)
        stopped(again, place.data)
    assert (job["state"], job["image"]["sha256"]) == ("archived", sha256(first))
    assert job["history"][-1]["event"] == "recognised"
    assert sha256(second) in job["history"][-1]["detail"]
    assert host.asked("stored") == 2
    assert held == {"stored": [sha256(first)]}
    assert run(["audit"], programs.folder, values).returncode == 0


def test_what_is_not_the_jobs_own_is_left_and_named_until_somebody_moves_it_away(
    programs: Programs, host: Source, place: Place
) -> None:
    image = picture(1)
    values = place.values | {"RECEIVER_ARCHIVE_KEY": "{id}.{ext}"}
    place.put("taken.png", picture(2))
    with programs.receiver(values) as receiver:
        deliver(receiver, "taken", host.offer("taken", image))
        line = receiver.program.until_event("not archived", job="taken")
        assert line["reason"] == "archive.occupied"
        assert "receiver retry taken" in line["detail"]
        assert "archive" not in receiver.get("/readyz").text  # it says nothing of other objects
        assert place.held() == {"taken": [sha256(picture(2))]}

        place.remove("taken.png")
        receiver.post("/jobs/taken/retry")
        assert receiver.ended("taken")["state"] == "archived"
    assert place.held() == {"taken": [sha256(image)]}


async def test_a_key_that_stays_taken_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "taken.png").write_bytes(b"another's")
    waits = []
    with gallery() as images:
        async with at_work(tmp_path, images) as shop:
            await shop.deliver("taken", HOUR)
            for attempt in range(1, 14):
                job = await shop.until(
                    "taken",
                    lambda job: job.next_attempt_at is not None and job.attempts == attempt,  # noqa: B023 - at once
                )
                assert job.problem is not None
                assert job.problem.reason == "archive.occupied"
                assert job.next_attempt_at is not None
                waits.append(job.next_attempt_at - shop.wall.now)
                await shop.ledger.retry("taken")
    assert waits == sorted(waits)
    assert UPLOAD_MAX < waits[-1] < OCCUPIED_MAX
    assert (tmp_path / "archive" / "taken.png").read_bytes() == b"another's"


def test_an_image_that_was_whole_before_a_kill_is_safe_though_its_url_ends_before_the_restart(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    image = picture(1)
    url = host.offer("whole", image, Answer(status=404))
    values = settings(programs.folder, RECEIVER_URL_LIFETIME="0.5s")
    with programs.receiver_process(values | {"RECEIVER_CUT_AT": "spooled"}) as receiver:
        deliver(receiver, "whole", url)
        assert receiver.program.process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: time.time() > host.times("whole")[0] + 1)
    with programs.receiver(values) as again:
        job = again.ended("whole")
        held = archive_of(programs.folder)
        matrix("kill -9, down beyond the URL's end", audit(again, {"whole": sha256(image)}, held))
    assert job["state"] == "archived"
    assert host.asked("whole") == 1


def test_the_container_refuses_to_be_cut(tmp_path: Path) -> None:
    values = settings(tmp_path, RECEIVER_CUT_AT="spooled", RECEIVER_CONTAINER="1")
    ended = run_process(["serve"], tmp_path, values)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "RECEIVER_CUT_AT" in ended.stderr
    assert not (tmp_path / "data").exists()
