"""The folder archive on a real disk."""

# ruff: noqa: ASYNC240 - nothing else waits for the loop while a test looks at its temporary folder

import asyncio
import errno
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.archive.base import Archive
from receiver.archive.factory import open_archive
from receiver.archive.folder import FolderArchive, metadata_path
from receiver.archive.metadata import decode, decode_all, encode, write
from receiver.core.errors import ArchiveError, ConfigError, SpoolError
from receiver.core.jobs import Image, StoredObject
from tests.support.disk import can_mount, tmpfs
from tests.support.items import spooled

OTHER_DISK = Path("/dev/shm")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "the archive"


@pytest.fixture
async def archive(root: Path) -> AsyncIterator[Archive]:
    archive = open_archive(root.as_uri())
    await archive.probe()
    yield archive
    await archive.aclose()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def on_another_disk(folder: Path) -> bool:
    return (
        OTHER_DISK.is_dir()
        and os.access(OTHER_DISK, os.W_OK)
        and OTHER_DISK.stat().st_dev != folder.stat().st_dev
    )


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_an_image_lies_at_its_key_with_its_metadata_beside_it(
    archive: Archive, root: Path, spool: Path
) -> None:
    item = spooled(spool, "2026/03/09/job-1.png", b"bytes")
    stored = await archive.put(item)
    path = root / "2026/03/09/job-1.png"
    assert stored.uri == path.as_uri()
    assert path.read_bytes() == b"bytes"
    assert files(root) == ["2026/03/09/.job-1.png.json", "2026/03/09/job-1.png"]
    assert json.loads(metadata_path(path).read_text()) == {
        "job-id": "job-1",
        "ref": "order 7",
        "sha256": item.image.sha256,
        "width": "640",
        "height": "480",
        "received-at": "2026-03-09T23:30:05Z",
        "provider": "ximilar",
    }


async def test_a_spooled_file_on_the_same_disk_is_linked_and_outlives_the_spool(
    archive: Archive, root: Path, spool: Path
) -> None:
    item = spooled(spool, "a.png", b"bytes")
    await archive.put(item)
    assert (root / "a.png").stat().st_ino == item.path.stat().st_ino
    item.path.unlink()
    assert (root / "a.png").read_bytes() == b"bytes"


async def test_a_spooled_file_on_another_disk_is_copied(archive: Archive, root: Path, tmp_path: Path) -> None:
    if not on_another_disk(tmp_path):
        pytest.skip("needs a second file system to copy from")
    item = spooled(OTHER_DISK, "a/b.png", os.urandom(3_000_001))
    try:
        await archive.put(item)
        await archive.put(item)
        assert (root / "a/b.png").read_bytes() == item.path.read_bytes()
        assert (root / "a/b.png").stat().st_dev != item.path.stat().st_dev
        assert files(root) == ["a/.b.png.json", "a/b.png"]
        with pytest.raises(ArchiveError, match=r"^archive\.occupied"):
            await archive.put(spooled(tmp_path, "a/b.png", b"other"))
    finally:
        item.path.unlink()


async def test_what_is_made_is_its_owners_alone(archive: Archive, root: Path, spool: Path) -> None:
    await archive.put(spooled(spool, "a/b.png"))
    for path in (root, root / "a"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(metadata_path(root / "a/b.png").stat().st_mode) == 0o600


async def test_the_same_image_twice_is_one_success(archive: Archive, root: Path, spool: Path) -> None:
    first = await archive.put(spooled(spool, "a.png", b"bytes"))
    assert await archive.put(spooled(spool, "a.png", b"bytes")) == first
    assert files(root) == [".a.png.json", "a.png"]


async def test_a_spooled_file_that_is_lost_after_it_was_put_is_a_success(
    archive: Archive, root: Path, spool: Path
) -> None:
    item = spooled(spool, "a.png", b"bytes")
    first = await archive.put(item)
    metadata_path(root / "a.png").unlink()  # a crash may have come before this was written
    item.path.unlink()
    assert await archive.put(item) == first
    assert files(root) == [".a.png.json", "a.png"]
    (root / "a.png").write_bytes(b"other")
    with pytest.raises(SpoolError, match=r"^spool\.lost"):
        await archive.put(item)


async def test_an_image_whose_metadata_was_cut_off_by_a_crash_gets_it_again(
    archive: Archive, root: Path, spool: Path
) -> None:
    item = spooled(spool, "a.png")
    (root / "a.png").hardlink_to(item.path)
    await archive.put(item)
    assert json.loads(metadata_path(root / "a.png").read_text())["job-id"] == "job-1"


@pytest.mark.parametrize("other", [b"other bytes", b"BYTES"])
async def test_other_bytes_at_the_key_are_never_overwritten(
    archive: Archive, root: Path, spool: Path, other: bytes
) -> None:
    await archive.put(spooled(spool, "a.png", b"bytes", job_id="first"))
    with pytest.raises(ArchiveError) as caught:
        await archive.put(spooled(spool, "a.png", other, job_id="second"))
    assert (caught.value.reason, caught.value.permanent) == ("archive.occupied", False)
    assert (root / "a.png").read_bytes() == b"bytes"
    assert json.loads(metadata_path(root / "a.png").read_text())["job-id"] == "first"


async def test_of_a_race_for_one_key_one_image_remains_and_its_own_metadata(
    archive: Archive, root: Path, spool: Path
) -> None:
    items = [
        spooled(spool, "new/a.png", job_id=f"job-{n % 4}", content=bytes([n % 4]) * 50_000) for n in range(8)
    ]
    results = await asyncio.gather(*(archive.put(item) for item in items), return_exceptions=True)
    assert sum(isinstance(result, StoredObject) for result in results) == 2
    assert {result.reason for result in results if isinstance(result, ArchiveError)} == {"archive.occupied"}
    winner = (root / "new/a.png").read_bytes()[0]
    assert json.loads(metadata_path(root / "new/a.png").read_text())["job-id"] == f"job-{winner}"
    assert files(root) == ["new/.a.png.json", "new/a.png"]


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"!", lambda b: bytes([b[0] ^ 1]) + b[1:]]
)
async def test_a_spooled_file_that_changed_is_lost_and_not_archived(
    archive: Archive, root: Path, spool: Path, change: "type[bytes]"
) -> None:
    item = spooled(spool, "a.png")
    item.path.write_bytes(change(item.path.read_bytes()))
    with pytest.raises(SpoolError, match=r"^spool\.lost"):
        await archive.put(item)
    assert files(root) == []


async def test_a_spooled_file_that_vanished_is_lost(archive: Archive, spool: Path) -> None:
    item = spooled(spool, "a.png")
    item.path.unlink()
    with pytest.raises(SpoolError, match=r"^spool\.lost"):
        await archive.put(item)


async def test_a_symbolic_link_in_place_of_the_spooled_file_is_not_archived(
    archive: Archive, root: Path, spool: Path
) -> None:
    item = spooled(spool, "a.png")
    item.path.rename(spool / "elsewhere")
    item.path.symlink_to(spool / "elsewhere")
    with pytest.raises(ArchiveError, match=r"^archive\.unproved"):
        await archive.put(item)
    assert files(root) == []


@pytest.mark.parametrize("key", ["../a.png", "/a.png", "a/../../b.png", ".a.png.json", ""])
async def test_a_key_that_leaves_the_folder_is_refused(archive: Archive, tmp_path: Path, key: str) -> None:
    before = files(tmp_path)
    item = spooled(tmp_path, key)
    with pytest.raises(ArchiveError, match=r"^archive\.refused"):
        await archive.put(item)
    item.path.unlink()
    assert files(tmp_path) == before


async def test_an_archived_image_is_located_as_a_file(archive: Archive, root: Path, spool: Path) -> None:
    item = spooled(spool, "a b%.png")
    stored = await archive.put(item)
    assert await archive.locate(stored, item.image) == root / "a b%.png"


async def test_what_is_not_in_the_folder_is_missing(archive: Archive, root: Path, spool: Path) -> None:
    item = spooled(spool, "a.png")
    stored = await archive.put(item)
    (root / "a.png").unlink()
    outside = f"{root.as_uri()}/../spool/{item.path.name}"
    for uri in (stored.uri, item.path.as_uri(), outside, "s3://bucket/a.png", "file:///etc/passwd", ""):
        with pytest.raises(ArchiveError, match=r"^archive\.missing"):
            await archive.locate(StoredObject(uri), item.image)


async def test_the_probe_makes_the_folder_finds_all_honoured_and_leaves_nothing(root: Path) -> None:
    archive = open_archive(root.as_uri())
    findings = await archive.probe()
    await archive.aclose()
    assert {finding.name for finding in findings} == {"write", "read-back", "conditional-writes", "delete"}
    assert all(finding.honoured and finding.detail for finding in findings)
    assert list(root.iterdir()) == []


def left_by_a_crash(path: Path, *, hours: float) -> Path:
    """A file under way that was last written to so many hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half an ima")
    then = path.stat().st_mtime - hours * 3600
    os.utime(path, (then, then))
    return path


async def test_the_probe_removes_what_a_crash_left_and_nothing_that_may_be_under_way(
    archive: Archive, root: Path, spool: Path
) -> None:
    await archive.put(spooled(spool, "2026/03/a.png"))
    old = left_by_a_crash(root / "2026/03/.0123456789abcdef.part", hours=1.1)
    at_the_top = left_by_a_crash(root / ".00000000000000ff.part", hours=1000)
    under_way = left_by_a_crash(root / "2026/03/.fedcba9876543210.part", hours=0.9)
    anothers = left_by_a_crash(root / "2026/03/.somebody.part", hours=1000)
    findings = {finding.name: finding.honoured for finding in await archive.probe()}
    assert findings["delete"]
    assert not old.exists()
    assert not at_the_top.exists()
    assert under_way.exists()
    assert anothers.exists()
    assert {"2026/03/.a.png.json", "2026/03/a.png"} < set(files(root))


async def test_what_a_crash_left_and_cannot_be_removed_is_told_and_is_no_failure(
    archive: Archive, root: Path
) -> None:
    name = ".0123456789abcdef.part"
    folder = root
    while (
        room := 4090 - len(str(folder))
    ) > 10:  # Linux takes paths of 4,095 bytes: the folder's, not the file's
        folder /= "d" * min(200, room - 1)
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    findings = {finding.name: finding for finding in await archive.probe()}
    os.unlink(name, dir_fd=descriptor)
    os.close(descriptor)
    assert not findings["delete"].honoured
    assert str(folder / name) in findings["delete"].detail


async def test_a_folder_without_its_parent_is_no_archive(tmp_path: Path) -> None:
    archive = open_archive((tmp_path / "not mounted" / "archive").as_uri())
    with pytest.raises(ArchiveError) as caught:
        await archive.probe()
    await archive.aclose()
    assert (caught.value.reason, caught.value.permanent) == ("archive.no_bucket", True)


async def test_a_folder_that_went_away_is_not_made_anew_by_a_put(
    archive: Archive, root: Path, spool: Path
) -> None:
    root.rmdir()
    with pytest.raises(ArchiveError) as caught:
        await archive.put(spooled(spool, "a.png"))
    assert (caught.value.reason, caught.value.permanent) == ("archive.no_bucket", True)
    assert not root.exists()


async def test_a_folder_that_went_away_is_not_made_anew_by_a_probe_either(
    archive: Archive, root: Path
) -> None:
    root.rename(root.with_name("away"))
    with pytest.raises(ArchiveError, match=r"^archive\.no_bucket"):
        await archive.probe()
    assert not root.exists()
    root.with_name("away").rename(root)
    await archive.probe()


@pytest.mark.parametrize("empty", [False, True])
async def test_where_images_were_put_before_a_folder_that_is_gone_or_empty_is_no_archive(
    root: Path, spool: Path, *, empty: bool
) -> None:
    if empty:
        root.mkdir()
    archive = open_archive(root.as_uri(), used=True)
    with pytest.raises(ArchiveError, match=r"^archive\.no_bucket"):
        await archive.probe()
    assert root.exists() is empty
    root.mkdir(exist_ok=True)
    (root / "2026").mkdir()
    await archive.probe()
    await archive.put(spooled(spool, "2026/a.png"))
    await archive.aclose()


async def test_a_file_system_that_is_mounted_no_more_takes_nothing(root: Path, spool: Path) -> None:
    if not can_mount():
        return
    root.mkdir()
    archive = open_archive(root.as_uri())
    with tmpfs(root, 1 << 20):
        await archive.probe()
        await archive.put(spooled(spool, "a.png"))
    for attempt in (archive.put(spooled(spool, "b.png")), archive.probe()):
        with pytest.raises(ArchiveError, match=r"^archive\.no_bucket"):
            await attempt
    with tmpfs(root, 1 << 20):
        await archive.probe()
    assert list(root.iterdir()) == []
    await archive.aclose()


async def test_a_file_where_a_folder_must_be_is_named(archive: Archive, root: Path, spool: Path) -> None:
    await archive.put(spooled(spool, "a.png"))
    with pytest.raises(ArchiveError, match=r"^archive\.(refused|unavailable): .*a\.png/b\.png"):
        await archive.put(spooled(spool, "a.png/b.png"))


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (errno.ENOSPC, ("archive.full", False)),
        (errno.EDQUOT, ("archive.full", False)),
        (errno.EROFS, ("archive.denied", True)),
        (errno.EACCES, ("archive.denied", True)),
        (errno.EIO, ("archive.unavailable", False)),
    ],
)
async def test_what_the_disk_says_has_a_reason(root: Path, number: int, meaning: tuple[str, bool]) -> None:
    archive = FolderArchive(root, uploads=1)
    with pytest.raises(ArchiveError) as caught, archive._translated("a.png"):
        raise OSError(number, os.strerror(number))
    await archive.aclose()
    assert (caught.value.reason, caught.value.permanent) == meaning
    assert os.strerror(number) in caught.value.detail


def test_the_metadata_of_any_text_is_printable_ascii(tmp_path: Path) -> None:
    metadata = write(spooled(tmp_path, "a", job_id="jöb\n", ref=None))
    assert metadata["job-id"] == "=?UTF-8?B?asO2Ygo=?="
    assert "ref" not in metadata


@given(st.none() | st.text(st.sampled_from(" =?UTF-8Baé\n") | st.characters(codec=None), max_size=40))
@example(" ")
@example("")
@example(" order 7")
@example("order 7 ")
@example("=?UTF-8?B?IA==?=")
@example("=?UTF-8?B?no base64?=")
@example("50%25")
@example("\ud800")
def test_any_text_is_read_back_from_a_value_that_a_header_does_not_change(ref: str | None) -> None:
    value = encode(ref or "")
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip() != ""
    assert decode(value) == (ref or "")


@pytest.mark.parametrize("ref", [None, " ", " order 7 ", "žluť"])
async def test_the_metadata_beside_an_image_gives_back_its_reference(
    archive: Archive, root: Path, spool: Path, ref: str | None
) -> None:
    await archive.put(spooled(spool, "a.png", ref=ref))
    kept = decode_all(json.loads(metadata_path(root / "a.png").read_text()))
    assert kept.get("ref") == ref
    assert kept["job-id"] == "job-1"


@pytest.mark.parametrize("bucket", ["abc", "Old_Bucket.us", "0-9", "a" * 63, "a" * 255])
async def test_a_bucket_s_name_may_be_what_some_store_takes(bucket: str) -> None:
    archive = open_archive(f"s3://{bucket}/x")
    assert archive.uri == f"s3://{bucket}/x"
    await archive.aclose()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://Bad_Bucket!/x",
        "s3://ab/x",
        "s3://.../x",
        "s3://bücket/x",
        "s3://buck%20et/x",
        "s3://buck et/x",
        "s3://" + "a" * 256 + "/x",
        "",
        "archive",
        "/archive",
        "file:archive",
        "file://host/archive",
        "file:///archive?x",
        "ftp://bucket/",
        "s3:///prefix",
        "s3://bucket:80/x",
        "s3://key:secret@bucket/prefix",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "s3://bucket/" + "a" * 256,
        "s3://[bucket",
    ],
)
def test_an_address_that_is_no_archive_is_refused_without_quoting_it(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^RECEIVER_ARCHIVE: [^\n]+$") as caught:
        open_archive(uri)
    assert "secret" not in str(caught.value)


async def test_the_image_s_size_does_not_matter_to_locate(archive: Archive, spool: Path) -> None:
    item = spooled(spool, "empty.png", b"")
    stored = await archive.put(item)
    located = await archive.locate(stored, Image("png", 1, 1, 0, item.image.sha256))
    assert isinstance(located, Path)
    assert located.read_bytes() == b""
