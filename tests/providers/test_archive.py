"""A job with its provider's name in the id: from the delivery to the archive, and back."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from receiver.archive import metadata
from receiver.archive.base import ObjectInfo
from receiver.archive.key import render_key
from receiver.core.completion import Completion
from receiver.core.jobs import Image, Job, State, StoredObject
from receiver.ledger import Delivery
from receiver.operations.audit import mismatch
from tests.faults.workshop import Workshop, at_work
from tests.support.clock import HOUR
from tests.support.gallery import gallery
from tests.support.images import HEIGHT, WIDTH
from tests.support.items import spooled

JOB = "made-up:-run~2"


async def deliver(shop: Workshop, completion: Completion) -> None:
    await shop.ledger.record_together([Delivery(completion, b"{}", shop.wall.now + HOUR)])


async def test_it_is_archived_at_a_key_with_its_whole_id(tmp_path: Path) -> None:
    with gallery() as images:
        async with at_work(tmp_path, images) as shop:
            size = len(images.picture("a"))
            url = f"{images.url}/a"
            await deliver(
                shop, Completion(JOB, url, None, WIDTH, HEIGHT, bytes=size, content_type="image/png")
            )
            job = await shop.ended(JOB)
    assert (job.state, job.provider, job.provider_id, job.output) == (State.ARCHIVED, "made-up", "-run", 2)
    assert job.image is not None
    assert job.image.sha256 == hashlib.sha256(images.picture("a")).hexdigest()
    assert [path.name for path in (tmp_path / "archive").rglob(f"{JOB}.png")] == [f"{JOB}.png"]


async def test_what_the_provider_calls_no_image_is_rejected_and_not_asked_for(tmp_path: Path) -> None:
    with gallery() as images:
        async with at_work(tmp_path, images) as shop:
            await deliver(shop, Completion(JOB, f"{images.url}/a", content_type="video/mp4"))
            await deliver(shop, Completion("made-up:text", None, content_type="text/plain"))
            found = [await shop.ended(job_id) for job_id in (JOB, "made-up:text")]
    for job, kind in zip(found, ("video/mp4", "text/plain"), strict=True):
        assert job.state is State.REJECTED
        assert job.problem is not None
        assert job.problem.reason == "image.unknown_format"
        assert kind in job.problem.detail
    assert images.asked == []


@pytest.mark.parametrize(
    ("promise", "reason"),
    [({"bytes": 7}, "image.wrong_size"), ({"content_type": "image/webp"}, "image.wrong_type")],
)
async def test_another_file_than_was_promised_is_not_taken_at_once(
    tmp_path: Path, promise: dict[str, int | str], reason: str
) -> None:
    with gallery() as images:
        async with at_work(tmp_path, images) as shop:
            await deliver(shop, replace(Completion(JOB, f"{images.url}/a"), **promise))  # type: ignore[arg-type]
            job = await shop.waiting(JOB)
    assert job.problem is not None
    assert job.problem.reason == reason


@pytest.mark.parametrize(
    ("job_id", "provider", "is_read"),
    [
        ("job-1", "ximilar", True),
        ("job-1", None, False),
        ("job-1", "made-up", False),
        (JOB, "made-up", True),
        (JOB, "ximilar", False),
        (JOB, None, False),
    ],
)
def test_a_rebuild_and_an_audit_take_only_objects_whose_provider_is_that_of_their_id(
    tmp_path: Path, job_id: str, provider: str | None, *, is_read: bool
) -> None:
    item = spooled(tmp_path, "key", job_id=job_id)
    kept = metadata.decode_all(metadata.write(item))
    assert (kept.pop("provider") == provider) == is_read
    kept |= {"provider": provider} if provider else {}
    info = ObjectInfo(
        StoredObject("file:///x"), item.image.bytes, item.image.sha256, "png", datetime.now(UTC), kept
    )
    found = metadata.read(info)
    assert (found is not None) == is_read
    assert found is None or found.id == job_id
    audited = mismatch(info, job_id, item.image, info.stored)
    assert audited == (
        None if is_read else ("archive.mislabelled", "Its metadata are others than its job's: provider.")
    )


def test_a_key_may_have_the_provider_and_two_ids_never_share_one() -> None:
    def key(job_id: str, provider: str) -> str:
        job, image = Job(job_id, State.FETCHED, provider=provider), Image("png", 1, 1, 1, "0" * 64)
        return render_key("{provider}/{id}.{ext}", job, image, datetime.now(UTC))

    assert key("fal:a~2", "fal") == "fal/fal:a~2.png"
    assert key("job", "") == "none/job.png"
    ids = ["fal:a", "fal:a~2", "fal-a", "fala", f"fal:{'a' * 100}", f"fal:{'a' * 101}"]
    assert len({key(job_id, "x") for job_id in ids}) == len(ids)
