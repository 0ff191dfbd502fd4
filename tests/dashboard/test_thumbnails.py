"""Small pictures: made once, in a child process, kept in a folder of bounded size, from either archive."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image as Picture

from receiver.archive.base import Archive, ImageReader, SpooledImage
from receiver.archive.factory import open_archive
from receiver.core.errors import ImageError, SpoolError
from receiver.core.jobs import Image, Job, State, StoredObject
from receiver.dashboard.thumbnails import RETRY_SECONDS, SIDE, THUMBNAIL_MEMORY, Thumbnails
from receiver.sandbox.pictures import draw
from receiver.verify.decoder import Limits
from receiver.verify.verifier import Verifier
from tests.support import images
from tests.support.images import Good
from tests.support.memory import MIB, resident
from tests.support.processes import PATIENCE
from tests.support.s3_standin import standin

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[Verifier]:
    async with Verifier(Limits(50_000_000, 20, THUMBNAIL_MEMORY), processes=1) as verifier:
        yield verifier


@pytest_asyncio.fixture(loop_scope="module")
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    archive = open_archive((tmp_path / "archive").as_uri())
    await archive.probe()
    yield archive
    await archive.aclose()


def kept(folder: Path, content: bytes, name: str = "a", form: str = "png") -> Job:
    path = folder / "archive" / f"{name}.{form}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    image = Image(form, 1, 1, len(content), hashlib.sha256(content).hexdigest())
    return Job(name, State.ARCHIVED, image=image, stored=StoredObject(path.as_uri()))


def opened(content: bytes | None) -> Picture.Image:
    assert content is not None
    with Picture.open(io.BytesIO(content)) as picture:
        assert picture.format == "WEBP"
        picture.load()
        return picture


def thumbnails_in(
    folder: Path, archive: ImageReader, verifier: Verifier, *, wait: float = PATIENCE, **more: Any
) -> Thumbnails:
    """Thumbnails whose making is waited for, however long it takes here."""
    return Thumbnails(folder / "small", archive, verifier, wait=wait, **more)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "small").iterdir())


async def test_a_picture_is_small_made_once_and_the_only_file(
    tmp_path: Path, archive: Archive, verifier: Verifier
) -> None:
    thumbnails = thumbnails_in(tmp_path, archive, verifier)
    job = kept(tmp_path, draw(1, (1200, 800), "png"))
    first, second = await asyncio.gather(thumbnails.of(job), thumbnails.of(job))
    (tmp_path / "archive" / "a.png").unlink()

    assert opened(first).size == (SIDE, 213)
    assert first == second == await thumbnails.of(job)
    assert job.image is not None
    assert files(tmp_path) == [f"{job.image.sha256}.webp"]
    assert len(verifier.pids) == 1


async def test_what_is_not_archived_has_none(tmp_path: Path, archive: Archive, verifier: Verifier) -> None:
    assert await thumbnails_in(tmp_path, archive, verifier).of(Job("a", State.FETCHED)) is None
    assert not (tmp_path / "small").exists()


async def test_where_none_can_be_made_it_is_not_tried_again_at_once(
    tmp_path: Path, archive: Archive, verifier: Verifier
) -> None:
    now = 0.0
    thumbnails = thumbnails_in(tmp_path, archive, verifier, monotonic=lambda: now)
    sound = draw(1, (64, 48), "png")
    job = kept(tmp_path, sound)
    (tmp_path / "archive" / "a.png").write_bytes(b"no image")
    assert await thumbnails.of(job) is None
    (tmp_path / "archive" / "a.png").write_bytes(sound)

    assert await thumbnails.of(job) is None
    now = RETRY_SECONDS
    assert opened(await thumbnails.of(job)).size == (64, 48)
    assert len(files(tmp_path)) == 1


async def test_a_missing_image_has_none(tmp_path: Path, archive: Archive, verifier: Verifier) -> None:
    job = kept(tmp_path, b"x")
    (tmp_path / "archive" / "a.png").unlink()

    assert await thumbnails_in(tmp_path, archive, verifier).of(job) is None


class Hanging:
    """An archive that gives an image only when it is let go."""

    def __init__(self, archive: Archive) -> None:
        self.go = asyncio.Event()
        self._archive = archive

    async def locate(self, stored: StoredObject, image: Image) -> Path | str:
        return await self._archive.locate(stored, image)

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        await self.go.wait()
        return await self._archive.local_file(stored, image, scratch)


async def test_an_archive_that_hangs_keeps_nobody_waiting_and_the_picture_is_there_later(
    tmp_path: Path, archive: Archive, verifier: Verifier
) -> None:
    hanging = Hanging(archive)
    thumbnails = thumbnails_in(tmp_path, hanging, verifier, wait=0.05)
    jobs = [kept(tmp_path, draw(seed, (32, 32), "png"), str(seed)) for seed in range(6)]
    async with asyncio.timeout(30):
        assert await asyncio.gather(*(thumbnails.of(job) for job in jobs)) == [None] * 6

        hanging.go.set()
        for job in jobs:
            while await thumbnails.of(job) is None:
                pass


async def test_a_stop_waits_for_no_picture(tmp_path: Path, archive: Archive, verifier: Verifier) -> None:
    thumbnails = thumbnails_in(tmp_path, Hanging(archive), verifier, wait=0.05)
    assert await thumbnails.of(kept(tmp_path, draw(1, (32, 32), "png"))) is None
    async with asyncio.timeout(30):
        await thumbnails.aclose()
    assert files(tmp_path) == []


async def test_the_folder_stays_within_its_bound_and_loses_its_oldest(
    tmp_path: Path, archive: Archive, verifier: Verifier
) -> None:
    thumbnails = thumbnails_in(tmp_path, archive, verifier, max_files=3)
    jobs = [kept(tmp_path, draw(seed, (32, 32), "png"), str(seed)) for seed in range(7)]
    for job in jobs:
        assert await thumbnails.of(job) is not None
        assert len(files(tmp_path)) <= 3

    assert jobs[-1].image is not None
    assert f"{jobs[-1].image.sha256}.webp" in files(tmp_path)


async def test_on_a_disk_that_is_nearly_full_none_are_made(
    tmp_path: Path, archive: Archive, verifier: Verifier
) -> None:
    thumbnails = thumbnails_in(tmp_path, archive, verifier, min_free=1 << 60)

    assert await thumbnails.of(kept(tmp_path, images.png())) is None
    assert files(tmp_path) == []


async def test_a_folder_that_cannot_be_written_costs_only_the_picture(
    tmp_path: Path, archive: Archive, verifier: Verifier
) -> None:
    (tmp_path / "small").write_text("no folder")

    assert await thumbnails_in(tmp_path, archive, verifier).of(kept(tmp_path, images.png())) is None


async def test_an_image_in_a_bucket_is_brought_and_not_left_behind(
    tmp_path: Path, verifier: Verifier
) -> None:
    content = draw(3, (640, 400), "jpg")
    spooled = tmp_path / "spooled"
    spooled.write_bytes(content)
    image = Image("jpeg", 640, 400, len(content), hashlib.sha256(content).hexdigest())
    with standin() as store:
        archive = open_archive("s3://bucket/prefix", environ=store.environment())
        try:
            item = SpooledImage("a", spooled, image, "a.jpg", None, datetime.now(UTC))
            job = Job("a", State.ARCHIVED, image=image, stored=await archive.put(item))
            thumbnails = thumbnails_in(tmp_path, archive, verifier)
            assert opened(await thumbnails.of(job)).size == (SIDE, 200)
            assert files(tmp_path) == [f"{image.sha256}.webp"]

            shorter = replace(image, bytes=image.bytes - 1, sha256="0" * 64)
            assert await thumbnails.of(job._replace(image=shorter)) is None
            assert files(tmp_path) == [f"{image.sha256}.webp"]

            lost = Job("b", State.ARCHIVED, image=image, stored=StoredObject("s3://bucket/prefix/other.jpg"))
            (tmp_path / "small" / f"{image.sha256}.webp").unlink()
            assert await thumbnails.of(lost) is None
            assert files(tmp_path) == []
        finally:
            await archive.aclose()


# How an image is made small


@pytest.mark.parametrize("image", images.good(), ids=lambda image: image.name)
async def test_every_image_that_is_accepted_can_be_made_small(
    tmp_path: Path, verifier: Verifier, image: Good
) -> None:
    path, target = tmp_path / "image", tmp_path / "small"
    path.write_bytes(image.data)

    await verifier.thumbnail(path, target, 32)

    small = opened(target.read_bytes())
    assert max(small.size) <= 32
    assert not set(small.info) & {"exif", "icc_profile", "xmp"}


async def test_an_image_is_turned_as_it_says_and_keeps_its_clear_parts(
    tmp_path: Path, verifier: Verifier
) -> None:
    turned, clear = tmp_path / "turned", tmp_path / "clear"
    exif = Picture.Exif()
    exif[0x0112] = 6
    Picture.new("RGB", (400, 200), "red").save(turned, "JPEG", exif=exif)
    Picture.new("RGBA", (400, 200), (255, 0, 0, 0)).save(clear, "PNG")
    await verifier.thumbnail(turned, tmp_path / "small turned", 100)
    await verifier.thumbnail(clear, tmp_path / "small clear", 100)

    assert opened((tmp_path / "small turned").read_bytes()).size == (50, 100)
    pixel = opened((tmp_path / "small clear").read_bytes()).getpixel((50, 25))
    assert isinstance(pixel, tuple)
    assert pixel[3] == 0


async def test_sixteen_bits_of_grey_stay_grey(tmp_path: Path, verifier: Verifier) -> None:
    Picture.new("I;16", (64, 64), 0x8000).save(tmp_path / "grey", "PNG")
    await verifier.thumbnail(tmp_path / "grey", tmp_path / "small", 32)

    pixel = opened((tmp_path / "small").read_bytes()).convert("L").getpixel((16, 16))
    assert isinstance(pixel, int)
    assert 120 < pixel < 136


async def test_an_image_that_takes_too_much_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "image"
    Picture.new("RGB", (4000, 4000)).save(path, "WEBP")
    async with Verifier(Limits(50_000_000, 20, 100 << 20)) as verifier:
        with pytest.raises(ImageError) as caught:
            await verifier.thumbnail(path, tmp_path / "small", 32)
        assert caught.value.reason == "image.undecodable"
    async with Verifier(Limits(1_000_000)) as verifier:
        with pytest.raises(ImageError) as caught:
            await verifier.thumbnail(path, tmp_path / "small", 32)
        assert caught.value.reason == "image.too_many_pixels"


async def test_a_disk_that_fails_is_not_blamed_on_the_image(tmp_path: Path, verifier: Verifier) -> None:
    (tmp_path / "image").write_bytes(images.png())

    with pytest.raises(SpoolError):
        await verifier.thumbnail(tmp_path / "image", tmp_path / "nowhere" / "small", 32)
    with pytest.raises(SpoolError):
        await verifier.thumbnail(tmp_path / "nothing", tmp_path / "small", 32)


@pytest.mark.parametrize(
    ("name", "most"), [("baseline.jpg", 8), ("interlaced.png", 52), ("strips.png", 18), ("lossy.webp", 8)]
)
async def test_a_thumbnail_takes_no_more_memory_than_its_decoder(
    tmp_path: Path, name: str, most: int
) -> None:
    """In MiB; the pixels are 46, and of an interlaced PNG the decoder holds them all."""
    path, small, target = tmp_path / name, tmp_path / "small.webp", tmp_path / "target"
    small.write_bytes(images.webp())
    if name.endswith("png"):
        path.write_bytes(images.png(3000, 2000, depth=16, colour=6, interlace=int(name[0] == "i")))
    else:
        Picture.effect_noise((300, 200), 60).resize((3000, 2000)).convert("RGB").save(path)
    async with Verifier(Limits(10_000_000), processes=1) as verifier:
        await verifier.thumbnail(small, target, SIDE)  # the code of libwebp's encoder is in memory
        (pid,) = verifier.pids
        before = resident(pid, "VmHWM")
        await verifier.thumbnail(path, target, SIDE)
        assert resident(pid, "VmHWM") < before + most * MIB
