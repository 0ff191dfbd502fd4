"""Archives: listing, inspecting and locating objects."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from receiver.archive.base import Depth, Inventory
from receiver.archive.factory import open_archive
from receiver.archive.locator import ArchiveLocator
from receiver.core.errors import ArchiveError
from receiver.core.jobs import StoredObject
from receiver.operations.audit import mismatch
from tests.support.items import spooled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
async def archive(root: Path) -> AsyncIterator[Inventory]:
    archive = open_archive(root.as_uri())
    yield archive
    await archive.aclose()


async def listed(archive: Inventory, after: str | None = None) -> list[str]:
    return [entry.uri async for page in archive.entries(after) for entry in page]


async def test_a_folder_is_listed_in_one_order_and_from_any_object_on(
    archive: Inventory, root: Path, tmp_path: Path
) -> None:
    keys = ["a.png", "a/b/c.png", "a/b!1.png", "a-b/c.png", "b/1.png", "ž/2.png"]
    for key in keys:
        await archive.put(spooled(tmp_path, key, key.encode(), job_id=key))
    (root / ".hidden").write_text("")
    (root / "a" / ".0123456789abcdef.part").write_text("")
    (root / "b" / "link").symlink_to("/etc/hosts")
    found = await listed(archive)
    assert sorted(found) == sorted([*((root / key).as_uri() for key in keys), (root / "b/link").as_uri()])
    for place, uri in enumerate(found):
        assert await listed(archive, uri) == found[place + 1 :]


async def test_a_folder_that_is_not_there_is_no_empty_archive(root: Path, archive: Inventory) -> None:
    await asyncio.to_thread(root.rmdir)
    with pytest.raises(ArchiveError) as refusal:
        await listed(archive)
    assert (refusal.value.reason, refusal.value.permanent) == ("archive.no_bucket", True)


async def test_a_look_at_a_file_tells_what_it_is(archive: Inventory, tmp_path: Path) -> None:
    item = spooled(tmp_path, "x/1.png", b"\x89PNG\r\n\x1a\n" + os.urandom(100), ref="žluť")
    stored = await archive.put(item)
    held = await archive.inspect(stored)
    assert (held.bytes, held.sha256, held.format) == (108, item.image.sha256, "png")
    assert held.metadata["ref"] == "žluť"
    assert mismatch(held, "job-1", item.image, stored) is None
    assert (await archive.inspect(stored, Depth.QUICK)).sha256 is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def relabel(path: Path) -> None:
    kept = path.with_name(f".{path.name}.json")
    kept.write_text(kept.read_text().replace("job-1", "job-2"))


def unlabel(path: Path) -> None:
    path.with_name(f".{path.name}.json").write_text("[")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "archive.altered"),
        (flip, "archive.altered"),
        (relabel, "archive.mislabelled"),
        (unlabel, "archive.mislabelled"),
    ],
)
async def test_damage_of_a_file_is_seen(
    archive: Inventory, root: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    item = spooled(tmp_path, "x/1.png")
    stored = await archive.put(item)
    path = root / "x" / "1.png"
    _unlinked(path)
    damage(path)
    found = mismatch(await archive.inspect(stored), "job-1", item.image, stored)
    assert found is not None
    assert found[0] == reason


def _unlinked(path: Path) -> None:
    """Another file with the same bytes, for the archive's is a link of the spooled one."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("uri", ["x/none.png", "x", "x/1.png/below"])
async def test_what_is_no_file_is_missing(archive: Inventory, root: Path, tmp_path: Path, uri: str) -> None:
    await archive.put(spooled(tmp_path, "x/1.png"))
    with pytest.raises(ArchiveError) as refusal:
        await archive.inspect(StoredObject((root / uri).as_uri()))
    assert refusal.value.reason == "archive.missing"


async def test_images_are_read_from_where_they_lie_whichever_folder_that_is(
    archive: Inventory, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    former = open_archive(other.as_uri())
    here, there = spooled(tmp_path, "1.png"), spooled(tmp_path, "2.png")
    stored = [await archive.put(here), await former.put(there)]
    places = ArchiveLocator(archive, {})
    try:
        for item, place in zip((here, there), stored, strict=True):
            path = await places.locate(place, item.image)
            assert isinstance(path, Path)
            assert path.read_bytes() == item.path.read_bytes()
            assert (await places.inspect(place)).sha256 == item.image.sha256
        with pytest.raises(ArchiveError, match="missing"):
            await places.locate(StoredObject((other / ".." / "other" / "2.png").as_uri()), there.image)
    finally:
        await places.aclose()
        await former.aclose()
