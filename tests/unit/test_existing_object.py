"""What stands at a job's key already: its own image, or anything else."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from receiver.archive.base import Inventory, SpooledImage
from receiver.archive.factory import open_archive
from receiver.archive.folder import metadata_path
from receiver.core.errors import ArchiveError
from receiver.core.jobs import Image, Job, State
from receiver.ledger import Claim
from receiver.pipeline.existing_object import ExistingObjectVerifier
from receiver.pipeline.spool import Spool
from receiver.verify.decoder import Limits
from receiver.verify.verifier import Verifier
from tests.support.images import HEIGHT, WIDTH, png

MIB = 1 << 20
KEY = "job-1.png"
CONTENT = png()
IMAGE = Image("png", WIDTH, HEIGHT, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
CLAIM = Claim(
    Job("job-1", State.FETCHED, promised_width=WIDTH, promised_height=HEIGHT, image=IMAGE), "holder:1"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
async def archive(root: Path) -> AsyncIterator[Inventory]:
    archive = open_archive(root.as_uri())
    await archive.probe()
    yield archive
    await archive.aclose()


@pytest.fixture
async def verifier() -> AsyncIterator[Verifier]:
    async with Verifier(Limits(max_pixels=MIB)) as verifier:
        yield verifier


@pytest.fixture
def existing_object(archive: Inventory, verifier: Verifier, tmp_path: Path) -> ExistingObjectVerifier:
    spool = Spool(tmp_path / "spool", max_bytes=MIB, max_image_bytes=MIB, reserve=0)
    return ExistingObjectVerifier(archive, spool, verifier)


async def put(archive: Inventory, folder: Path, content: bytes = CONTENT, job_id: str = "job-1") -> None:
    """Puts an image as the receiver does, whatever its bytes are."""
    path = folder / "spooled"
    path.write_bytes(content)
    image = Image("png", WIDTH, HEIGHT, len(content), hashlib.sha256(content).hexdigest())
    await archive.put(SpooledImage(job_id, path, image, KEY, "order 7", datetime(2026, 3, 9, tzinfo=UTC)))


async def test_the_jobs_own_image_is_known_by_what_it_holds(
    archive: Inventory, existing_object: ExistingObjectVerifier, tmp_path: Path
) -> None:
    await put(archive, tmp_path)
    shown = await existing_object.verify(CLAIM, archive.object_at(KEY))
    assert (shown.id, shown.image, shown.stored) == ("job-1", IMAGE, archive.object_at(KEY))
    assert list((tmp_path / "spool").iterdir()) == []


def relabel(**values: str) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        beside = metadata_path(path)
        beside.write_text(json.dumps(json.loads(beside.read_text()) | values))

    return work


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: metadata_path(path).unlink(), "do not say that it is the job's"),
        (relabel(**{"job-id": "job-2"}), "do not say that it is the job's"),
        (relabel(provider="another"), "do not say that it is the job's"),
        (relabel(width="17"), "another image than its metadata say"),
        (lambda path: path.write_bytes(CONTENT[:-1] + b"x"), "not those that its metadata name"),
    ],
)
async def test_what_does_not_prove_to_be_the_jobs_is_refused_with_what_to_do(
    archive: Inventory,
    existing_object: ExistingObjectVerifier,
    tmp_path: Path,
    damage: Callable[[Path], None],
    why: str,
) -> None:
    await put(archive, tmp_path)
    damage(tmp_path / "archive" / KEY)
    with pytest.raises(ArchiveError, match="receiver retry job-1") as caught:
        await existing_object.verify(CLAIM, archive.object_at(KEY))
    assert caught.value.reason == "archive.occupied"
    assert why in caught.value.detail
    assert (tmp_path / "archive" / KEY).exists()


@pytest.mark.parametrize("content", [png(WIDTH * 2, HEIGHT), CONTENT[: len(CONTENT) // 2]])
async def test_what_is_labelled_as_the_jobs_and_is_not_the_promised_image_is_refused(
    archive: Inventory, existing_object: ExistingObjectVerifier, tmp_path: Path, content: bytes
) -> None:
    await put(archive, tmp_path, content)
    with pytest.raises(ArchiveError, match="not the promised image") as caught:
        await existing_object.verify(CLAIM, archive.object_at(KEY))
    assert caught.value.reason == "archive.occupied"


async def test_an_object_that_went_away_meanwhile_is_missing_and_no_fault_of_the_archive(
    archive: Inventory, existing_object: ExistingObjectVerifier
) -> None:
    with pytest.raises(ArchiveError, match=r"^archive\.missing"):
        await existing_object.verify(CLAIM, archive.object_at(KEY))
