"""The gallery's routes, and the ZIP of selected images, over a real ledger and both kinds of archive."""

import asyncio
import contextlib
import hashlib
import io
import os
import random
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as Picture
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect

from receiver.archive.base import ImageReader, SpooledImage
from receiver.archive.factory import open_archive
from receiver.archive.key import source_key
from receiver.archive.metadata import ArchivedImage
from receiver.core.errors import ArchiveError
from receiver.core.jobs import Image, Job, State, StoredObject
from receiver.dashboard.gallery import by_day
from receiver.dashboard.image_zip import AT_A_TIME, FAILURES, MISSING, ImageZips, name_of
from receiver.dashboard.routes import Dashboard
from receiver.dashboard.templates import HERE
from receiver.dashboard.thumbnails import PREVIEW_SIDE, SIDE
from receiver.dashboard.zip_stream import ZipStream
from receiver.ledger import Ledger, Submission
from receiver.pipeline import kept_sources
from receiver.sandbox.pictures import draw
from tests.dashboard.test_routes import around, clock, ledger, page, text
from tests.ledger.actions import delivery
from tests.support.clock import HOUR, NOW
from tests.support.memory import MIB, resident
from tests.support.s3_standin import standin

__all__ = ["around", "clock", "ledger", "page"]

DAY = 24 * HOUR


@pytest.fixture
async def client(page: Dashboard) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Starlette(routes=page.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        yield client


async def keep(
    ledger: Ledger, folder: Path, job_id: str, content: bytes, *, at: int = NOW, ref: str | None = None
) -> None:
    """Put an archived job into the ledger, and its image into the archive's folder."""
    path = folder / "archive" / f"{job_id.replace(':', '-')}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    image = Image("png", 4, 3, len(content), hashlib.sha256(content).hexdigest())
    await ledger.rebuild(ArchivedImage(job_id, ref, image, StoredObject(path.as_uri()), at, at))


def opened(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        assert zipped.testzip() is None
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipped.infolist())
        return {entry.filename: zipped.read(entry) for entry in zipped.infolist()}


def selected(*ids: str) -> dict[str, str]:
    body = "&".join(["which=selected", *(f"id={job_id}" for job_id in ids)])
    return {"content": body, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}  # type: ignore[dict-item]


# The page


async def test_images_stand_by_day_with_state_and_provider_and_pages_follow(
    client: httpx.AsyncClient, ledger: Ledger, tmp_path: Path
) -> None:
    for number in range(5):
        await keep(
            ledger, tmp_path, f"job-{number}", b"x", at=NOW - (5 - number) * HOUR * 12, ref=f"r {number}"
        )
    await ledger.record(delivery("waiting"))
    first = await client.get("/page/gallery?limit=3&ref=")
    assert "job-4" in first.text
    assert "waiting" not in first.text
    assert [day for day, _ in by_day((await ledger.jobs_with_prefix("job", 9))[::-1])] == [
        "2026-11-17",
        "2026-11-16",
        "2026-11-15",
    ]
    following = first.text.partition('rel="next"')[0].rpartition('href="')[2].partition("#")[0]
    second = await client.get(following.replace("&amp;", "&"))
    assert "job-1" in second.text
    assert "job-2" not in second.text
    assert 'rel="next"' not in second.text


async def test_filters_stay_in_the_address_and_narrow_what_is_shown(
    client: httpx.AsyncClient, ledger: Ledger, tmp_path: Path
) -> None:
    await keep(ledger, tmp_path, "job-1", b"x", at=NOW - 3 * DAY, ref="a b")
    await keep(ledger, tmp_path, "job-2", b"x", ref="a b")
    await ledger.expect(Submission("silent"))
    answer = await client.get("/page/gallery?ref=a+b&since=2026-11-17&limit=1")
    assert "job-2" in answer.text
    assert "job-1" not in answer.text
    assert 'value="2026-11-17"' in answer.text
    assert 'action="/page/gallery/zip?state=archived&amp;ref=a+b&amp;since=2026-11-17"' in answer.text
    other = await client.get("/page/gallery?state=submitted")
    assert "silent" in other.text
    assert '<img src="/page' not in other.text
    assert "No image is like that." in text(await client.get("/page/gallery?ref=none"))
    assert (await client.get("/page/gallery?reason=url.port")).status_code == 422


# The ZIP


async def test_selected_images_come_as_they_are_under_names_of_their_own(
    client: httpx.AsyncClient, ledger: Ledger, tmp_path: Path
) -> None:
    await keep(ledger, tmp_path, "job-1", b"one")
    await keep(ledger, tmp_path, "replicate:job-1~2", b"two" * 300_000)
    await keep(ledger, tmp_path, "job-2", b"three")
    answer = await client.post("/page/gallery/zip", **selected("replicate:job-1~2", "job-1"))  # type: ignore[arg-type]

    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"].startswith('attachment; filename="images-2026-')
    assert opened(answer.content) == {
        "2026-11-18/replicate/job-1~2.png": b"two" * 300_000,
        "2026-11-18/job-1.png": b"one",
    }
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_all_that_match_come_however_many_pages_they_are(
    client: httpx.AsyncClient, ledger: Ledger, tmp_path: Path
) -> None:
    await asyncio.gather(*(keep(ledger, tmp_path, f"job-{n}", b"%d" % n, ref="many") for n in range(450)))
    await keep(ledger, tmp_path, "other", b"other")
    answer = await client.post("/page/gallery/zip?state=archived&ref=many", data={"which": "all"})

    assert sorted(opened(answer.content).values()) == sorted(b"%d" % n for n in range(450))


async def test_what_cannot_be_had_is_listed_and_nothing_else_is_lost(
    client: httpx.AsyncClient, ledger: Ledger, tmp_path: Path
) -> None:
    for job_id in ("sound", "gone", "altered", "last"):
        await keep(ledger, tmp_path, job_id, job_id.encode(), ref="<b>\t\u202e")
    (tmp_path / "archive" / "gone.png").unlink()
    (tmp_path / "archive" / "altered.png").write_bytes(b"ALTERED")
    await ledger.expect(Submission("silent"))
    ids = ("sound", "gone", "altered", "nobody", "silent", "last")
    found = opened((await client.post("/page/gallery/zip", **selected(*ids))).content)  # type: ignore[arg-type]

    missing = found.pop(MISSING).decode().splitlines()
    assert sorted(found.values()) == [b"last", b"sound"]
    assert [(*line.split("\t")[:1], line.split("\t")[2]) for line in missing[2:]] == [
        ("gone", "archive.missing"),
        ("altered", "archive.altered"),
        ("nobody", "ledger.unknown_job"),
        ("silent", "ledger.wrong_state"),
    ]


class Refusing:
    """An archive that is away."""

    def __init__(self) -> None:
        self.asked = 0

    async def locate(self, stored: StoredObject, image: Image) -> Path | str:
        raise NotImplementedError

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:  # noqa: ARG002
        self.asked += 1
        raise ArchiveError("archive.unavailable", "It does not answer.")


async def test_an_archive_that_is_away_is_not_asked_for_each_image(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(40):
        await keep(ledger, tmp_path, f"job-{number}", b"x")
    archive = Refusing()
    zips = ImageZips(ledger, archive, tmp_path / "scratch")
    found = opened(b"".join([block async for block in await zips.open(jobs(ledger))]))

    assert set(found) == {MISSING}
    listed = found[MISSING].decode()
    assert (listed.count("archive.unavailable"), "any more. Not tried" in listed) == (40, False)
    assert FAILURES <= archive.asked < 3 * FAILURES


async def jobs(ledger: Ledger, prefix: str = "job") -> AsyncGenerator[tuple[str, Job | None]]:
    for job in await ledger.jobs_with_prefix(prefix, 5_000):
        yield job.id, job


async def test_a_file_that_shrinks_while_it_is_sent_ends_the_answer(ledger: Ledger, tmp_path: Path) -> None:
    await keep(ledger, tmp_path, "job-1", bytes(2 * MIB))
    archive = open_archive((tmp_path / "archive").as_uri())
    zips = ImageZips(ledger, archive, tmp_path / "scratch")
    stream = await zips.open(jobs(ledger))
    await anext(stream)
    (tmp_path / "archive" / "job-1.png").write_bytes(b"short")
    with pytest.raises(RuntimeError, match="changed while it was sent"):
        [block async for block in stream]
    assert list((tmp_path / "scratch").iterdir()) == []
    await archive.aclose()


async def test_few_zips_at_a_time_and_a_client_that_leaves_makes_room(
    client: httpx.AsyncClient, page: Dashboard, ledger: Ledger, tmp_path: Path
) -> None:
    await keep(ledger, tmp_path, "job-1", b"one")
    streams = [await page.zips.open(jobs(ledger)) for _ in range(AT_A_TIME)]
    for stream in streams:
        await anext(stream)
    refused = await client.post("/page/gallery/zip", **selected("job-1"))  # type: ignore[arg-type]
    assert (refused.status_code, "archive.crowded" in refused.text) == (503, True)

    await streams[0].aclose()
    assert (await client.post("/page/gallery/zip", **selected("job-1"))).status_code == 200  # type: ignore[arg-type]
    await streams[1].aclose()
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_no_more_zips_come_of_asking_at_the_same_moment(page: Dashboard, ledger: Ledger) -> None:
    asked = (page.zips.open(jobs(ledger)) for _ in range(12))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    streams = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(streams) == AT_A_TIME
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("version", ["2.3", "2.4"])
async def test_a_client_that_leaves_before_the_first_byte_makes_room(
    client: httpx.AsyncClient, page: Dashboard, ledger: Ledger, tmp_path: Path, version: str
) -> None:
    await keep(ledger, tmp_path, "job-1", b"one")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": version},
        "method": "POST",
    }
    scope |= {"path": "/page/gallery/zip", "query_string": b"", "headers": []}

    async def gone(_message: object) -> None:
        raise OSError

    for _ in range(2 * AT_A_TIME):
        came = iter([{"type": "http.request", "body": b"which=all"}])

        async def receive(came: Iterator[dict[str, Any]] = came) -> dict[str, Any]:
            return next(came, {"type": "http.disconnect"})

        with contextlib.suppress(ClientDisconnect, OSError):
            await Starlette(routes=page.routes())(scope, receive, gone)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (await client.post("/page/gallery/zip", **selected("job-1"))).status_code == 200  # type: ignore[arg-type]


@pytest.mark.parametrize("body", ["", "which=selected", "id=..%2F", "id=%FF", "which=other"])
async def test_a_selection_of_nothing_is_a_page_that_says_so(client: httpx.AsyncClient, body: str) -> None:
    answer = await client.post("/page/gallery/zip", content=body)
    assert answer.status_code == 422
    assert "No image is selected." in text(answer)


async def test_a_full_disk_is_said_before_anything_is_sent(
    client: httpx.AsyncClient, page: Dashboard, ledger: Ledger, tmp_path: Path
) -> None:
    await keep(ledger, tmp_path, "job-1", b"one")
    page.zips.min_free = 1 << 60
    answer = await client.post("/page/gallery/zip", **selected("job-1"))  # type: ignore[arg-type]
    assert (answer.status_code, "spool.full" in answer.text) == (503, True)


async def test_the_memory_of_a_zip_does_not_grow_with_its_images(ledger: Ledger, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(50_000)
    await asyncio.gather(*(keep(ledger, tmp_path, f"job-{n}", content) for n in range(2_000)))
    archive = open_archive((tmp_path / "archive").as_uri())
    zips = ImageZips(ledger, archive, tmp_path / "scratch")
    held: list[int] = []
    total = 0
    async for block in await zips.open(jobs(ledger)):
        total += len(block)
        if total // (5 * MIB) >= len(held):
            held.append(resident(os.getpid()))
    await archive.aclose()

    assert total > 2_000 * len(content)
    assert max(held) - held[1] < 10 * MIB  # of 95


async def test_images_of_a_bucket_come_one_by_one_and_leave_nothing_behind(
    ledger: Ledger, tmp_path: Path
) -> None:
    with standin() as store:
        archive = open_archive("s3://bucket/prefix", environ=store.environment())
        try:
            await in_bucket(ledger, archive, tmp_path, 12)
            del store.objects["/bucket/prefix/job-3.png"]
            zips = ImageZips(ledger, archive, tmp_path / "scratch")
            found = opened(b"".join([block async for block in await zips.open(jobs(ledger))]))
        finally:
            await archive.aclose()
    assert "job-3\t\tarchive.missing" in found.pop(MISSING).decode()
    assert sorted(found.values()) == sorted(b"%03d" % n for n in range(12) if n != 3)
    assert list((tmp_path / "scratch").iterdir()) == []


async def in_bucket(ledger: Ledger, archive: ImageReader, folder: Path, number: int) -> None:
    for n in range(number):
        content = b"%03d" % n
        (folder / "spooled").write_bytes(content)
        image = Image("png", 4, 3, len(content), hashlib.sha256(content).hexdigest())
        when = datetime.fromtimestamp(NOW / 1000, UTC)
        item = SpooledImage(f"job-{n}", folder / "spooled", image, f"job-{n}.png", None, when)
        stored = await archive.put(item)  # type: ignore[attr-defined]
        await ledger.rebuild(ArchivedImage(f"job-{n}", None, image, stored, NOW, NOW))


def test_no_two_jobs_have_the_same_name() -> None:
    image = Image("png", 1, 1, 1, "0" * 64)
    ids: tuple[str, ...] = (
        "a",
        "fal:a",
        "fal:a~2",
        "fal-a",
        "fal_a",
        "A" * 128,
        "fal:" + "A" * 128,
        "fal:" + "A" * 127,
    )
    ids += ("UPPER.a", "upper.A", "upper.a", "fal:A")
    names = {name_of(Job(job_id, State.ARCHIVED, received_at=NOW), image).lower() for job_id in ids}
    assert len(names) == len(ids)
    assert all(not set(name) & set('\\:*?"<>|') for name in names)


# The format


def test_a_zip_beyond_four_gigabytes_and_65_535_entries_is_read_by_others(tmp_path: Path) -> None:
    zipped, size = ZipStream(tmp_path), 5 << 30
    with (tmp_path / "large.zip").open("wb") as file:
        file.write(zipped.entry("large", size=size, crc=0, at=NOW))
        file.seek(size, io.SEEK_CUR)  # a hole, which takes up no disk
        for number in range(70_000):
            file.write(zipped.entry(f"{number}", size=0, crc=0, at=0))
        file.write(zipped.entry("last", size=5, crc=0x3610A686, at=NOW) + b"hello")
        for block in zipped.end():
            file.write(block)
    zipped.close()
    with zipfile.ZipFile(tmp_path / "large.zip") as read:
        assert len(read.infolist()) == 70_002
        assert read.getinfo("large").file_size == size
        assert read.read("last") == b"hello"
        assert read.getinfo("last").date_time == (2026, 11, 18, 11, 6, 40)
        assert read.getinfo("0").date_time == (1980, 1, 1, 0, 0, 0)
        (tmp_path / "large.zip").unlink()


# Before and after


async def test_a_jobs_page_shows_the_kept_source_beside_the_result(
    client: httpx.AsyncClient, page: Dashboard, ledger: Ledger, tmp_path: Path
) -> None:
    await keep(ledger, tmp_path, "job-1", draw(1, (3000, 2000), "png"))
    archive = page.sources
    without = await client.get("/page/jobs/job-1")
    assert 'class="before"' not in without.text
    assert (await client.get("/page/jobs/job-1/source")).headers["content-type"] == "image/svg+xml"

    await archive.keep_picture(source_key("job-1"), b"RIFF....WEBP")

    shown = await client.get("/page/jobs/job-1")
    assert 'class="before" src="/page/jobs/job-1/source"' in shown.text
    assert 'class="after" src="/page/jobs/job-1/preview"' in shown.text
    source = await client.get("/page/jobs/job-1/source")
    assert (source.content, source.headers["content-type"]) == (b"RIFF....WEBP", "image/webp")
    assert "sandbox" in source.headers["content-security-policy"]
    after = await client.get("/page/jobs/job-1/preview")
    with Picture.open(io.BytesIO(after.content)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (PREVIEW_SIDE, PREVIEW_SIDE * 2 // 3))


async def test_a_source_is_compared_with_nothing_but_an_archived_image(
    client: httpx.AsyncClient, page: Dashboard, ledger: Ledger, tmp_path: Path
) -> None:
    await ledger.expect(Submission("silent"))
    (tmp_path / "archive").mkdir()
    await page.sources.keep_picture(source_key("silent"), b"x")
    answer = await client.get("/page/jobs/silent")

    assert 'class="before"' in answer.text
    assert 'class="after"' not in answer.text


async def test_an_archive_that_says_nothing_of_a_source_holds_up_no_page(
    client: httpx.AsyncClient, page: Dashboard, ledger: Ledger
) -> None:
    class Silent:
        async def has_picture(self, _key: str) -> bool:
            await asyncio.Event().wait()
            raise AssertionError

        async def picture(self, _key: str) -> bytes | None:
            raise ArchiveError("archive.denied")

    await ledger.record(delivery())
    page.sources = Silent()  # type: ignore[assignment]
    assert (await client.get("/page/jobs/job-1")).status_code == 200
    assert (await client.get("/page/jobs/job-1/source")).headers["content-type"] == "image/svg+xml"


async def test_no_small_picture_is_taken_for_the_placeholder(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.record(delivery())
    placeholder = (await client.get("/page/jobs/job-1/thumbnail")).text
    size = int(placeholder.partition('width="')[2].partition('"')[0])
    assert size > max(PREVIEW_SIDE, SIDE, kept_sources.SIDE)
    for script in ("gallery.js", "compare.js"):
        assert f"const PLACEHOLDER = {size};" in (HERE / "static" / script).read_text()
