"""Sources that are kept small: by the guard and limits of images, behind everything else, and for a while."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from PIL import Image

from receiver.archive.base import Inventory
from receiver.archive.factory import open_archive
from receiver.archive.key import SOURCES, source_key
from receiver.core.errors import ArchiveError, ImageError
from receiver.core.jobs import State
from receiver.events.feed import Feed
from receiver.fetch.download import DownloadLimits, Fetcher
from receiver.fetch.sources import Sources
from receiver.ledger import Ledger
from receiver.operations.source_keeper import CHECKPOINT, SourceKeeper, prune_sources
from receiver.pipeline.kept_sources import SIDE, KeptSources
from receiver.submission.file_sources import FileSources
from receiver.verify.decoder import Limits
from receiver.verify.verifier import Verifier
from tests.ledger.actions import IMAGE, LEASE, STORED, claimed, delivery
from tests.support import images
from tests.support.clock import Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.s3_standin import standin
from tests.support.source import Answer, Source, source
from tests.support.waiting import eventually


@pytest.fixture(params=["folder", "bucket"])
async def archive(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Inventory]:
    if request.param == "folder":
        archive = open_archive((tmp_path / "archive").as_uri())
        await archive.probe()
        yield archive
        await archive.aclose()
        return
    with standin() as store:
        archive = open_archive("s3://bucket/prefix", environ=store.environment())
        yield archive
        await archive.aclose()


@pytest.fixture
async def folder_archive(tmp_path: Path) -> AsyncIterator[Inventory]:
    archive = open_archive((tmp_path / "archive").as_uri())
    await archive.probe()
    yield archive
    await archive.aclose()


@pytest.fixture
async def kept(tmp_path: Path, folder_archive: Inventory) -> AsyncIterator[KeptSources]:
    async with Verifier(Limits(50_000_000, 20, 1 << 30), processes=1) as verifier:
        yield KeptSources(folder_archive, verifier, tmp_path / "scratch")


@pytest.fixture
def host() -> Iterator[Source]:
    with source() as host:
        yield host


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=Clock())
    yield ledger
    await ledger.close()


@asynccontextmanager
async def keeping(
    ledger: Ledger, kept: KeptSources, *allowed: str, follow: bool = True
) -> AsyncIterator[SourceKeeper]:
    """A keeper that runs until the block ends, and follows an empty ledger from its first line."""
    if not await ledger.last_history_seq():
        await ledger.save_checkpoint(CHECKPOINT, "0")
    stopping = asyncio.Event()
    fetcher = Fetcher(
        sources=Sources.parse(allowed),
        networks=(ip_network("127.0.0.1/32"),),
        limits=DownloadLimits(max_bytes=1 << 20, total_seconds=20),
    )
    async with fetcher, Feed(ledger, stopping) as feed:
        keeper = SourceKeeper(ledger=ledger, feed=feed, fetcher=fetcher, kept=kept)
        running = asyncio.create_task(keeper.run() if follow else stopping.wait())
        yield keeper
        stopping.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until_kept(kept: KeptSources, job_id: str) -> None:
    """Returns when the folder archive has the picture."""
    path = url2pathname(urlsplit(kept.archive.uri).path)  # type: ignore[attr-defined]
    await asyncio.to_thread(eventually, Path(path, source_key(job_id)).is_file)


def large(width: int = 2400, height: int = 1200) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(target, "JPEG", exif=b"Exif\0\0secret")
    return target.getvalue()


# In the archive


async def test_a_picture_is_kept_once_hidden_and_read_again(archive: Inventory) -> None:
    key = source_key("replicate:a~2")
    assert (await archive.has_picture(key), await archive.picture(key)) == (False, None)
    await archive.keep_picture(key, b"first")
    await archive.keep_picture(key, b"second")

    assert (await archive.has_picture(key), await archive.picture(key)) == (True, b"first")
    assert [listed async for page in archive.entries() for listed in page] == []


async def test_pictures_are_removed_by_their_age(folder_archive: Inventory) -> None:
    for job_id in ("a", "b"):
        await folder_archive.keep_picture(source_key(job_id), b"x")
    assert await folder_archive.remove_pictures(SOURCES, datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await folder_archive.remove_pictures(SOURCES, datetime.now(UTC) + timedelta(hours=1)) == 2
    assert not await folder_archive.has_picture(source_key("a"))


def test_no_two_jobs_share_a_key_and_none_leaves_the_folder() -> None:
    ids = ("a", "fal:a", "fal:a~2", "../../x", "a/b", "A" * 300, "A" * 301, ".", "ü")
    keys = {source_key(job_id) for job_id in ids}
    assert len(keys) == len(ids)
    assert all(key.startswith(SOURCES) and key.count("/") == 2 and ".." not in key for key in keys)


async def test_a_daily_round_removes_what_is_old_and_survives_a_refusal(folder_archive: Inventory) -> None:
    await folder_archive.keep_picture(source_key("a"), b"x")
    rounds: list[float] = []

    async def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 2:
            raise asyncio.CancelledError

    class Refusing:
        def __init__(self) -> None:
            self.asked = 0

        async def remove_pictures(self, prefix: str, before: datetime) -> int:
            self.asked += 1
            if self.asked == 1:
                raise ArchiveError("archive.denied")
            return await folder_archive.remove_pictures(prefix, before)

    future = int(datetime.now(UTC).timestamp() * 1000) + 10_000
    with pytest.raises(asyncio.CancelledError):
        await prune_sources(Refusing(), timedelta(0), lambda: future, sleep)  # type: ignore[arg-type]
    assert not await folder_archive.has_picture(source_key("a"))


# Made small


async def test_a_source_becomes_a_small_picture_without_metadata(kept: KeptSources, tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(large())
    await kept.keep("job-1", tmp_path / "in.jpg")
    content = await kept.archive.picture(source_key("job-1"))
    assert content is not None
    with Image.open(io.BytesIO(content)) as small:
        assert (small.format, small.size) == ("WEBP", (SIDE, SIDE // 2))
    assert b"secret" not in content
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_what_is_no_image_is_refused_and_leaves_nothing(kept: KeptSources, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(ImageError):
        await kept.keep("job-1", tmp_path / "in")
    assert not await kept.has("job-1")
    assert list((tmp_path / "scratch").iterdir()) == []


# From URLs


async def test_the_source_of_a_delivery_is_kept(ledger: Ledger, kept: KeptSources, host: Source) -> None:
    url = host.offer("in.jpg", large())
    async with keeping(ledger, kept):
        await ledger.record(delivery("job-1", source=url))
        await until_kept(kept, "job-1")
        claim = await claimed(ledger)
        await ledger.fetched(claim, IMAGE, "job-1.spool")
        (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
        await ledger.archived(claim, STORED)
        await ledger.record(delivery("job-2", source=url))
        await until_kept(kept, "job-2")
    assert host.asked("in.jpg") == 2  # and not once more when the first was archived


async def test_a_source_that_fails_is_tried_again_when_the_job_goes_on(
    ledger: Ledger, kept: KeptSources, host: Source
) -> None:
    url = host.offer("in.jpg", Answer(status=500), large())
    async with keeping(ledger, kept):
        await ledger.record(delivery("job-1", source=url))
        await asyncio.to_thread(host.until_asked, "in.jpg")
        await ledger.fetched(await claimed(ledger), IMAGE, "job-1.spool")
        (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
        await ledger.archived(claim, STORED)
        await until_kept(kept, "job-1")


@pytest.mark.parametrize(
    "answer", [b"<html>", Answer(b"x", endless=True), images.png()[:-1], Answer(large(), sent=100)]
)
async def test_a_hostile_source_costs_a_line_of_the_log(
    ledger: Ledger, kept: KeptSources, host: Source, answer: Answer | bytes
) -> None:
    bad, good = host.offer("bad", answer), host.offer("good", large())
    async with keeping(ledger, kept, follow=False) as keeper:
        for job_id, url in (("bad", bad), ("good", good)):
            await ledger.record(delivery(job_id, source=url))
            await keeper.keep(job_id)
    assert [await kept.has(job_id) for job_id in ("bad", "good")] == [False, True]
    assert list(kept.scratch.iterdir()) == []


@pytest.mark.parametrize("url", ["http://10.0.0.1/x", "https://127.0.0.2/x", "file:///etc/passwd", "data:,x"])
async def test_the_guard_of_images_holds_for_sources(ledger: Ledger, kept: KeptSources, url: str) -> None:
    async with keeping(ledger, kept, follow=False) as keeper:
        await ledger.record(delivery("job-1", source=url))
        await keeper.keep("job-1")
    assert not await kept.has("job-1")


async def test_the_allowed_hosts_of_images_hold_for_sources(
    ledger: Ledger, kept: KeptSources, host: Source
) -> None:
    url = host.offer("in.jpg", large())
    async with keeping(ledger, kept, "https://elsewhere.example/", follow=False) as keeper:
        await ledger.record(delivery("job-1", source=url))
        await keeper.keep("job-1")
    assert host.asked("in.jpg") == 0
    assert not await kept.has("job-1")


async def test_what_came_before_it_was_switched_on_is_left_alone(
    ledger: Ledger, kept: KeptSources, host: Source
) -> None:
    old, new = host.offer("old", large()), host.offer("new", large())
    await ledger.record(delivery("old", source=old))
    async with keeping(ledger, kept):
        for number in count():  # when it begins to follow cannot be seen
            await ledger.record(delivery(f"new-{number}", source=new))
            if host.asked("new"):
                break
    assert host.asked("old") == 0


async def test_after_a_restart_it_goes_on_where_it_was(
    ledger: Ledger, kept: KeptSources, host: Source
) -> None:
    await ledger.record(delivery("first"))
    await ledger.save_checkpoint(CHECKPOINT, str(await ledger.last_history_seq()))
    await ledger.record(delivery("second", source=host.offer("in.jpg", large())))
    async with keeping(ledger, kept):
        await until_kept(kept, "second")
    assert (await ledger.job("second")).state is State.RECEIVED  # type: ignore[union-attr]


# From files


async def test_submitted_files_are_kept_and_urls_are_left_to_the_server(
    tmp_path: Path, folder_archive: Inventory
) -> None:
    (tmp_path / "in.jpg").write_bytes(large())
    failures: list[str] = []
    async with FileSources(folder_archive.uri, {}, lambda job_id, _: failures.append(job_id)) as sources:
        sources.keep("file", tmp_path / "in.jpg")
        sources.keep("bytes", images.png())
        sources.keep("url", "https://host/in.png")
        sources.keep("text", b"no image")
        sources.keep("gone", tmp_path / "gone")

    found = [
        job_id for job_id in ("file", "bytes", "url", "text", "gone") if await has(folder_archive, job_id)
    ]
    assert found == ["file", "bytes"]
    assert failures == ["text", "gone"]


async def has(archive: Inventory, job_id: str) -> bool:
    return await archive.has_picture(source_key(job_id))


@pytest.mark.parametrize("uri", ["file:///nowhere/at/all", "s3://x", "s3://bucket"])
async def test_an_archive_that_cannot_be_used_fails_no_submission(uri: str) -> None:
    failures: list[str] = []
    environ = {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    async with FileSources(uri, environ, lambda job_id, why: failures.append(f"{job_id} {why}")) as sources:
        sources.keep("job-1", images.png())
    assert len(failures) == 1
    assert failures[0].startswith("job-1 ")
