"""Ledgers with a past: written through the ledger itself, by a clock that is set, before any receiver."""

import asyncio
import hashlib
import random
import uuid
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image as Picture

from receiver.archive.key import source_key
from receiver.core.completion import Completion, Failure
from receiver.core.errors import BodyError, FetchError, ImageError, ReceiverError, UrlError
from receiver.core.jobs import Image, StoredObject
from receiver.ledger import Claim, Delivery, Ledger, Submission
from receiver.sandbox.pictures import Format, draw
from tests.support.clock import HOUR, SECOND, Clock
from tests.support.ledgers import make_empty_ledger

T = TypeVar("T")

MINUTE = 60 * SECOND

HOSTILE = (
    '"><script>alert(1)</script> \x1b[31mred\x1b[0m \u202egnp.exe \u2066\u200b<img src=x onerror=alert(2)>'
)
"""What a stranger may write wherever a stranger may write: markup, a terminal's codes, marks of direction."""

DEAD_URL = "http://127.0.0.1:9/results/{}.png"
"""Nobody listens there."""


@dataclass
class Story:
    """Writes the past of one data directory.

    Attributes:
        ledger: its ledger.
        clock: what the ledger takes for the time.
        archive: the folder that images are put in.
        dice: for ids that look like the provider's, the same each time.
    """

    ledger: Ledger
    clock: Clock
    archive: Path
    dice: random.Random = field(default_factory=lambda: random.Random(4711))

    def id(self) -> str:
        return str(uuid.UUID(int=self.dice.getrandbits(128), version=4))

    async def received(
        self, ref: str | None, *, job: str | None = None, life: int = 24 * HOUR, url: str | None = None
    ) -> str:
        job_id = job or self.id()
        source = f"https://shop.example.com/photos/{ref or 'photo'}?key=secret"
        said = Completion(job_id, url or DEAD_URL.format(job_id), source, 640, 426)
        await self.ledger.record(Delivery(said, b"{}", self.clock.now + life, ref, endpoint="upscale_2x"))
        return job_id

    async def claim(self) -> Claim:
        (claim,) = await self.ledger.claim_to_fetch(1, again=1, lease=60_000)
        return claim

    async def archived(self, ref: str, seed: int, size: tuple[int, int], form: Format = "jpg") -> str:
        job_id = await self.received(ref)
        content = draw(seed, size, form)
        with Picture.open(BytesIO(content)) as picture:
            kind = str(picture.format).lower()
        image = Image(kind, *size, len(content), hashlib.sha256(content).hexdigest())
        self.clock.forward(2 * SECOND)
        await self.ledger.fetched(await self.claim(), image, f"{job_id}.spool")
        self.clock.forward(1 * SECOND)
        path = self.archive / f"{job_id}.{image.extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        (claim,) = await self.ledger.claim_to_archive(1, lease=60_000)
        await self.ledger.archived(claim, StoredObject(path.as_uri()))
        return job_id

    async def rejected(self, ref: str | None, error: ReceiverError, *, job: str | None = None) -> str:
        job_id = await self.received(ref, job=job)
        self.clock.forward(2 * SECOND)
        await self.ledger.rejected(await self.claim(), error)
        return job_id

    async def failed(self, ref: str | None, detail: str) -> str:
        job_id = self.id()
        said = Completion(job_id, None, failure=Failure("provider.job_failed", detail))
        await self.ledger.record(Delivery(said, b"{}", self.clock.now, ref))
        return job_id

    async def expired(self, ref: str | None) -> str:
        job_id = await self.received(ref, life=HOUR)
        error = FetchError("fetch.connect", "results.example.com, port 443: connection refused.")
        await self.ledger.retry_later(await self.claim(), self.clock.now + HOUR - SECOND, error)
        self.clock.forward(HOUR + SECOND)
        assert job_id in await self.ledger.expire()
        return job_id

    async def at_risk(self, ref: str | None, *, life: int) -> str:
        """Little is left: the clock is moved to nine tenths of the life and more."""
        job_id = await self.received(ref, life=life)
        error = FetchError("fetch.connect", "results.example.com, port 443: connection refused.")
        await self.ledger.retry_later(await self.claim(), self.clock.now + life - 2 * SECOND, error)
        self.clock.forward(life * 95 // 100)
        assert job_id in await self.ledger.mark_at_risk()
        return job_id


def keep_source(archive: Path, job_id: str) -> None:
    """Puts a job's source into the archive's folder: the image itself, smaller and blurred."""
    (image,) = archive.glob(f"{job_id}.*")
    kept = archive / source_key(job_id)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with Picture.open(image) as picture:
        small = picture.resize((max(picture.width // 6, 1), max(picture.height // 6, 1)))
        small.save(kept, "WEBP", quality=60)


def told(story: Coroutine[Any, Any, T]) -> T:
    """Writes a story to its end; in a thread, since Playwright keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, story).result()


async def open_story(data: Path, at: int) -> Story:
    """Begins a past at a time, ms since the epoch."""
    clock = Clock(at)
    return Story(await Ledger.serve(make_empty_ledger(data), now=clock), clock, data / "archive")


SIZES: tuple[tuple[int, int], ...] = ((640, 426), (640, 960), (768, 768), (960, 640), (256, 192))
FORMATS: tuple[Format, ...] = ("jpg", "png", "webp", "png-alpha")
NAMES = ("harbour", "dunes", "badge", "meadow", "sticker", "ridge", "orchard", "pier", "gable", "fjord")


async def an_hour_of_work(story: Story, now: int, images: int = 60, minutes: int = 58) -> None:
    """Images archived within the last hour, more of them lately."""
    for number in range(images):
        # Quadratic, so that the drawing rises.
        story.clock.now = now - int(minutes * MINUTE * (1 - (number / images) ** 0.6)) - 5 * SECOND
        name = f"{NAMES[number % len(NAMES)]}-{number:02}"
        await story.archived(
            f"order {4700 + number // 3} {name}",
            number,
            SIZES[number % len(SIZES)],
            FORMATS[number % len(FORMATS)],
        )


async def healthy(data: Path, now: int) -> None:
    """All is well."""
    story = await open_story(data, now - HOUR)
    await an_hour_of_work(story, now)
    story.clock.now = now - 90 * SECOND
    for name in ("tower.jpg", "lantern.png"):
        await story.ledger.expect(
            Submission(story.id(), name, "upscale_4x", f"https://shop.example.com/{name}")
        )
    await story.ledger.close()


async def busy(data: Path, now: int, url: str) -> str:
    """Something of everything, a picture under way at the URL among it. Gives a rejected job's id."""
    story = await open_story(data, now - 30 * HOUR)
    await story.expired("order 4498 skyline.png")
    story.clock.now = now - 3 * HOUR
    for name in ("order 4633 banner.png", "order 4634 hero.jpg"):
        await story.ledger.expect(Submission(story.id(), name, "upscale_2x"))
    await story.failed("order 4640 poster.webp", "FAILED: 500 the model ran out of memory")
    story.clock.now = now - 950 * MINUTE
    await story.at_risk("order 4655 cover.png", life=1_000 * MINUTE)  # tests may take 50 minutes
    story.clock.now = now - 55 * MINUTE
    await an_hour_of_work(story, now, 40, minutes=40)  # within the hour also for tests that take 20 minutes
    story.clock.now = now - 4 * MINUTE
    rejected = await story.rejected(
        "order 4712 label.png",
        ImageError(
            "image.wrong_size",
            "The image is 320 \N{MULTIPLICATION SIGN} 213, not 640 \N{MULTIPLICATION SIGN} 426.",
        ),
    )
    error = UrlError("url.source", "http://10.0.0.7/x.png is under none of RECEIVER_IMAGE_SOURCES.")
    await story.rejected("order 4713", error)
    await story.received("order 4714 quay.png", url=url)
    await story.ledger.record_unread(BodyError("body.not_json"), b"hello?")
    await story.ledger.record_unread(
        BodyError("body.not_a_completion", "The body is no completion: status is missing."),
        b'{"id": "1f0e", "type": "upscaler", "response": {"records": []}}',
    )
    story.clock.now = now - MINUTE
    await story.ledger.record_unread(BodyError("body.not_json"), HOSTILE.encode() + b"\xff\x00")
    await story.ledger.close()
    return rejected
