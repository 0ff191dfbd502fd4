"""A store that is away, refuses or forgets: images wait on our own disk, and drain by themselves."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.matrix import Archive, Matrix, Tally, audit, in_bucket, in_folder
from tests.support.gallery import Gallery, gallery
from tests.support.load import deliver
from tests.support.processes import Programs, Receiver, settings
from tests.support.s3_standin import Standin, standin
from tests.support.seaweed import Seaweed, seaweed

KEY = "{id}.{ext}"
UPLOADS = 2
SENDERS = 4
ATTEMPTS = 3
"""The most requests that the AWS SDK makes of one."""


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


def archive_in(store: Seaweed, prefix: str, **more: str) -> dict[str, str]:
    return {
        "RECEIVER_ARCHIVE": f"s3://{store.bucket}/{prefix}",
        "RECEIVER_ARCHIVE_KEY": KEY,
        "RECEIVER_UPLOADS": str(UPLOADS),
        **store.environment(),
        **more,
    }


def delivered(receiver: Receiver, images: Gallery, name: str, count: int) -> list[str]:
    """Delivers so many jobs, and returns when all their images are safe on our own disk."""
    job_ids = [f"{name}-{number}" for number in range(count)]
    jobs = {job_id: images.completion(job_id) for job_id in job_ids}
    answers = asyncio.run(deliver(receiver.port, jobs, SENDERS))
    assert answers.statuses == {200: count}
    for job_id in job_ids:
        receiver.program.until_event("fetched", job=job_id)
    return job_ids


def judged(
    receiver: Receiver,
    images: Gallery,
    job_ids: list[str],
    *,
    archive: Callable[[], Archive],
    record: Callable[[Tally], None],
) -> None:
    """All of them end in the archive, once, without being fetched again; and the row says so."""
    ends = {job_id: receiver.ended(job_id)["state"] for job_id in job_ids}
    tally = audit(receiver, images.images(job_ids), archive())
    record(tally)
    assert ends == dict.fromkeys(job_ids, "archived")
    assert tally.kept()
    assert sorted(set(images.asked) & set(job_ids)) == sorted(job_ids)
    assert len([job_id for job_id in images.asked if job_id in job_ids]) == len(job_ids)
    assert receiver.get("/readyz").json() == {"status": "ok", "failing": {}}
    assert "Traceback" not in receiver.program.log


def alarms(receiver: Receiver) -> list[str]:
    return [line["reason"] for line in receiver.program.events("archive refuses; uploads pause")]


# A real store


def stopped(store: Seaweed) -> None:
    assert store.process is not None
    os.killpg(store.process.pid, signal.SIGSTOP)


def resumed(store: Seaweed) -> None:
    assert store.process is not None
    os.killpg(store.process.pid, signal.SIGCONT)


@dataclass(frozen=True)
class Outage:
    fault: str
    goes: Callable[[Seaweed], None]
    returns: Callable[[Seaweed], None]
    answers: bool
    """Whether it is known to be away at once."""


OUTAGES = {
    "killed": Outage("the store is killed and started again", Seaweed.kill, Seaweed.start, answers=True),
    "frozen": Outage("the store takes connections and never answers", stopped, resumed, answers=False),
}


@pytest.mark.parametrize("name", OUTAGES)
def test_while_the_store_is_away_images_are_fetched_and_wait_and_all_drain_when_it_returns(
    programs: Programs, store: Seaweed, images: Gallery, matrix: Matrix, name: str
) -> None:
    outage = OUTAGES[name]
    with programs.receiver(settings(programs.folder, **archive_in(store, name))) as receiver:
        before = delivered(receiver, images, f"{name}-before", 3)
        for job_id in before:
            receiver.ended(job_id)

        outage.goes(store)
        try:
            meanwhile = delivered(receiver, images, f"{name}-meanwhile", 20)
            states = receiver.get("/stats").json()["states"]
            assert (states["archived"], states["fetched"]) == (3, 20)
            if outage.answers:  # a refused connection is known at once, and a silent one after half a minute
                receiver.program.until_event("archive refuses; uploads pause")
                assert "archive" in receiver.get("/readyz").json()["failing"]
        finally:
            outage.returns(store)

        judged(
            receiver,
            images,
            [*before, *meanwhile],
            archive=lambda: in_bucket(store, name),
            record=lambda tally: matrix(outage.fault, tally),
        )
        assert set(alarms(receiver)) <= {"archive.unavailable"}
        assert len(alarms(receiver)) <= 1


def credentials(file: Path, store: Seaweed, *, secret: str) -> None:
    written = file.with_suffix(".new")
    written.write_text(
        f"[default]\naws_access_key_id = {store.access_key}\naws_secret_access_key = {secret}\n"
    )
    written.replace(file)


def test_a_wrong_secret_is_mended_by_rotating_the_credentials_file_without_a_restart(
    programs: Programs, store: Seaweed, images: Gallery, matrix: Matrix
) -> None:
    file = programs.folder / "credentials"
    credentials(file, store, secret="not the secret")
    values = settings(programs.folder, **archive_in(store, "rotated"), AWS_SHARED_CREDENTIALS_FILE=str(file))
    del values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]
    with programs.receiver_process(values) as receiver:
        refused = receiver.program.until_event("archive refuses; uploads pause", reason="archive.denied")
        assert "SignatureDoesNotMatch" in refused["detail"]
        job_ids = delivered(receiver, images, "rotated", 10)
        assert receiver.get("/readyz").json()["failing"]["archive"].startswith("archive.denied: ")
        assert not receiver.program.events("not archived")  # no job found it out by itself

        credentials(file, store, secret=store.secret_key)

        judged(
            receiver,
            images,
            job_ids,
            archive=lambda: in_bucket(store, "rotated"),
            record=lambda tally: matrix("wrong credentials, until their file is rotated", tally),
        )
        assert alarms(receiver) == ["archive.denied"]
        assert "not the secret" not in receiver.program.log


def test_a_bucket_that_is_missing_is_named_and_used_once_it_is_made(
    programs: Programs, store: Seaweed, images: Gallery, matrix: Matrix
) -> None:
    values = settings(programs.folder, **archive_in(store, "x", RECEIVER_ARCHIVE="s3://made-later/x"))
    with programs.receiver(values) as receiver:
        alarm = receiver.program.until_event("archive refuses; uploads pause", reason="archive.no_bucket")
        assert "s3://made-later/" in alarm["detail"]
        job_ids = delivered(receiver, images, "later", 10)

        client = store.client()
        client.create_bucket(Bucket="made-later")
        client.close()

        made = Seaweed(store.folder, store.ports, bucket="made-later")
        judged(
            receiver,
            images,
            job_ids,
            archive=lambda: in_bucket(made, "x"),
            record=lambda tally: matrix("the bucket is missing, until it is made", tally),
        )
        assert alarms(receiver) == ["archive.no_bucket"]


# A folder


def test_an_archive_s_folder_that_is_not_mounted_is_waited_for_and_not_made_anew(
    programs: Programs, images: Gallery, matrix: Matrix
) -> None:
    disk = programs.folder / "disk"
    root = disk / "archive"
    disk.mkdir()
    values = settings(programs.folder, RECEIVER_ARCHIVE=root.as_uri(), RECEIVER_ARCHIVE_KEY=KEY)

    def refused(receiver: Receiver) -> None:
        receiver.program.until_event("archive refuses; uploads pause", reason="archive.no_bucket")
        assert "archive" in receiver.get("/readyz").json()["failing"]
        assert not root.exists()

    with programs.receiver(values) as receiver:
        job_ids = delivered(receiver, images, "before", 2)
        for job_id in job_ids:
            receiver.ended(job_id)
        root.rename(disk.with_name("unmounted"))
        job_ids += delivered(receiver, images, "meanwhile", 3)
        refused(receiver)
    with programs.receiver(values) as again:  # a restart does not take what is not there for new
        refused(again)
        disk.with_name("unmounted").rename(root)
        judged(
            again,
            images,
            job_ids,
            archive=lambda: in_folder(root),
            record=lambda tally: matrix("the archive's folder is not mounted", tally),
        )


# What a real store does not do on demand: the stand-in counts what it is asked


@contextmanager
def served(programs: Programs, fake: Standin) -> Iterator[Receiver]:
    values = settings(
        programs.folder,
        RECEIVER_ARCHIVE="s3://bucket",
        RECEIVER_ARCHIVE_KEY=KEY,
        RECEIVER_UPLOADS=str(UPLOADS),
        **fake.environment(),
    )
    with programs.receiver(values) as receiver:
        receiver.program.until_event("archive probed")
        yield receiver


FINDINGS = 11
"""Lines of a probe."""

REFUSALS = {
    "passing": {
        "the store asks to slow down": ((503, "SlowDown"), "archive.unavailable"),
        "the store fails inside": ((500, "InternalError"), "archive.unavailable"),
        "the store drops connections": ((0, "dropped"), "archive.unavailable"),
        "the store is full": ((507, "InsufficientStorage"), "archive.full"),
    },
    "to be mended": {
        "a right is taken away": ((403, "AccessDenied"), "archive.denied"),
        "a token has expired": ((400, "ExpiredToken"), "archive.denied"),
        "this machine's clock is off": ((403, "RequestTimeTooSkewed"), "archive.clock_skew"),
        "the region is wrong": ((301, "PermanentRedirect"), "archive.misconfigured"),
    },
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_each_refusal_pauses_all_uploads_behind_one_probe_and_one_alarm_and_ends_by_itself(
    programs: Programs, images: Gallery, matrix: Matrix, kind: str
) -> None:
    with standin(programs.folder) as fake, served(programs, fake) as receiver:
        for number, (fault, (answer, reason)) in enumerate(REFUSALS[kind].items()):
            fake.requests.clear()
            heard = len(alarms(receiver))
            fake.always = answer

            job_ids = delivered(receiver, images, f"refused-{number}", 12)
            receiver.program.until(lambda: len(alarms(receiver)) > heard)  # noqa: B023 - called at once
            assert "archive" in receiver.get("/readyz").json()["failing"]
            states = receiver.get("/stats").json()["states"]
            assert (states["fetched"], states["received"]) == (12, 0)
            puts = [key for method, key, _ in list(fake.requests) if method == "PUT"]
            probes = [key for key in puts if "/.receiver-probe/" in key]
            assert len(puts) - len(probes) <= UPLOADS * ATTEMPTS  # what was under way, and no more
            assert alarms(receiver)[heard:] == [reason], fault

            fake.always = None
            judged(
                receiver,
                images,
                job_ids,
                archive=lambda: kept(fake, job_ids),  # noqa: B023 - called at once
                record=lambda tally: matrix(fault, tally),  # noqa: B023 - likewise
            )
            assert alarms(receiver)[heard:] == [reason], fault


def test_one_image_that_the_store_refuses_neither_stops_the_others_nor_fails_readiness(
    programs: Programs, images: Gallery
) -> None:
    with standin(programs.folder) as fake, served(programs, fake) as receiver:
        fake.refused = "refused-0"
        delivered(receiver, images, "refused", 1)
        probes = 2  # the store is probed again, and found in order
        receiver.program.until(lambda: len(receiver.program.events("archive probed")) >= probes * FINDINGS)
        others = delivered(receiver, images, "other", 3)
        assert [receiver.ended(job_id)["state"] for job_id in others] == ["archived"] * 3
        refused = receiver.job("refused-0")
        assert (refused["state"], refused["error"]["reason"]) == ("fetched", "archive.denied")
        assert receiver.get("/readyz").status_code == 200
        assert alarms(receiver) == []


def kept(fake: Standin, job_ids: list[str]) -> Archive:
    """What the stand-in holds of these jobs; a key holds one object, and theirs are named by their ids."""
    return {
        job_id: [hashlib.sha256(fake.objects[f"/bucket/{job_id}.png"][0]).hexdigest()] for job_id in job_ids
    }
