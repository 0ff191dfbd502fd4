"""Every bad image through the whole receiver: none is archived, nothing breaks, and good ones come through.

What each verdict is, `tests/unit/test_verifier.py` shows; here it is shown that the verdicts are obeyed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images, polyglots
from tests.support.images import HEIGHT, WIDTH, Bad, picture
from tests.support.load import deliver
from tests.support.memory import MIB, of_children, resident
from tests.support.processes import PATIENCE, Programs, ReceiverProcess, completion, settings
from tests.support.source import Source, source

CORPUS = [image for image in [*images.bad(), *polyglots.polyglots()] if image.data]
"""A file without bytes is no image that is bad: it did not come at all."""


@dataclass
class Gone:
    """What became of the corpus.

    Attributes:
        jobs: by the image's name.
        good: jobs of good images, which were delivered between the bad ones.
        archive: the folder of the archive.
        server: the most memory of the receiver, bytes.
        decoders: the most memory of one decoder, bytes.
        log: all that the receiver said.
        statuses: of the deliveries' answers.
    """

    jobs: dict[str, Any]
    good: list[Any]
    archive: Path
    server: int
    decoders: int
    log: str
    statuses: Counter[int]


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gone]:
    folder = tmp_path_factory.mktemp("hostile-images")
    programs = Programs(folder)
    values = settings(folder, RECEIVER_MAX_IMAGE_PIXELS=str(images.MAX_PIXELS))

    with source() as host, programs.receiver_process(values) as receiver:
        yield _put_through(receiver, host, folder / "data" / "archive")


def _put_through(receiver: ReceiverProcess, host: Source, archive: Path) -> Gone:
    pid = receiver.program.process.pid
    bodies = {f"bad-{number}": _body(f"bad-{number}", image, host) for number, image in enumerate(CORPUS)}
    for number in range(len(CORPUS) // 20):
        data = images.encode(picture().rotate(number * 3), "PNG")
        body = completion(f"good-{number}", host.offer(f"good-{number}.png", data), WIDTH, HEIGHT)
        bodies[f"good-{number}"] = body
    order = sorted(bodies, key=lambda job_id: job_id[::-1])  # the good ones between the bad ones
    answers = asyncio.run(deliver(receiver.port, {job_id: bodies[job_id] for job_id in order}, 8))

    decoders, until = 0, time.monotonic() + 4 * PATIENCE
    while receiver.get("/jobs", params={"state": "received", "limit": 1}).json()["jobs"]:
        decoders = max(decoders, of_children(pid))
        assert time.monotonic() < until, receiver.get("/stats").json()
    jobs = {image.name: receiver.ended(f"bad-{number}") for number, image in enumerate(CORPUS)}
    good = [receiver.ended(job_id) for job_id in bodies if job_id.startswith("good")]
    return Gone(
        jobs,
        good,
        archive,
        resident(pid, "VmHWM"),
        max(decoders, of_children(pid)),
        receiver.program.log,
        answers.statuses,
    )


def _body(job_id: str, image: Bad, host: Source) -> dict[str, Any]:
    url = host.offer(f"{job_id}.png", image.data)
    body = completion(job_id, url, image.promise.width or WIDTH, image.promise.height or HEIGHT)
    record = body["response"]["records"][0]
    if image.promise.width is None:
        del record["_upscaled_width"]
    if image.promise.height is None:
        del record["_upscaled_height"]
    return body


def test_the_corpus_is_as_large_as_it_is_meant_to_be() -> None:
    assert len(CORPUS) >= 280
    assert len({image.reason for image in CORPUS}) >= 7


def test_every_delivery_is_acknowledged(gone: Gone) -> None:
    assert gone.statuses == Counter({200: len(gone.jobs) + len(gone.good)})


def test_every_bad_image_is_rejected_for_what_it_is(gone: Gone) -> None:
    found = {name: (job["state"], job["error"]["reason"]) for name, job in gone.jobs.items()}
    assert found == {image.name: ("rejected", image.reason) for image in CORPUS}


def test_none_is_given_up_before_the_same_bytes_came_three_times_and_asked_for_after(gone: Gone) -> None:
    assert {job["attempts"] for job in gone.jobs.values()} == {3}


def test_only_the_good_images_are_in_the_archive(gone: Gone) -> None:
    assert [job["state"] for job in gone.good] == ["archived"] * len(gone.good)
    # Each image has a file of the same name beside it, behind a dot, which says whose it is.
    found = {
        path.name.removeprefix(".").partition(".")[0] for path in gone.archive.rglob("*") if path.is_file()
    }
    assert found == {job["id"] for job in gone.good}
    assert all((job["image"], job["archive"]) == (None, None) for job in gone.jobs.values())


def test_nothing_broke(gone: Gone) -> None:
    assert "Traceback" not in gone.log
    assert "fetch.unexpected" not in gone.log


def test_memory_stays_bounded(gone: Gone) -> None:
    said = f"server {gone.server / MIB:.0f} MiB, decoders {gone.decoders / MIB:.0f} MiB"
    print(said)
    assert gone.server < 200 * MIB, said
    assert 0 < gone.decoders < 200 * MIB, said
