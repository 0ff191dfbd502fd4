"""Our own disk between the provider and the archive, with real files."""

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from receiver.core.disk import make_data_directory
from receiver.core.errors import ConfigError, SpoolError
from receiver.core.jobs import Image
from receiver.fetch.download import Download
from receiver.pipeline.spool import MAX_ASIDE_BYTES, MAX_ASIDE_FILES, Spool, job_and_sha256

BYTES = b"the bytes of an image"
SHA256 = hashlib.sha256(BYTES).hexdigest()
IMAGE = Image("jpeg", 2, 3, len(BYTES), SHA256)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", max_bytes=1000, max_image_bytes=100, reserve=0)


def download(spool: Spool, claim: str = "1-ab:1:0") -> Path:
    part = spool.part(claim)
    part.write_bytes(BYTES)
    return part


def test_the_folder_is_made_for_this_user_alone(spool: Spool) -> None:
    assert spool.folder.stat().st_mode & 0o777 == 0o700


SYNCED = """
import os, sys
from pathlib import Path
from receiver.bootstrap.factories import make_data_dir, open_spool
from receiver.config import load

def note(event, arguments):
    if event == "open" and arguments[2] & os.O_DIRECTORY:
        print(arguments[0])

config = load({"RECEIVER_DATA_DIR": sys.argv[1]})
sys.addaudithook(note)
make_data_dir(config)
open_spool(config)
"""


def test_new_folders_are_made_durable_in_their_parents(tmp_path: Path) -> None:
    """A folder is opened as one to be synced, and for nothing else."""
    data = tmp_path / "var" / "data"
    synced = subprocess.run(
        [sys.executable, "-c", SYNCED, str(data)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert {str(tmp_path), str(tmp_path / "var"), str(data)} <= set(synced)


@pytest.mark.parametrize("part", ["file/data", "x" * 300])
def test_a_data_directory_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path, part: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="RECEIVER_DATA_DIR: cannot be made"):
        make_data_directory(tmp_path / part)


def test_a_folder_that_cannot_be_made_is_the_spools_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError) as caught:
        Spool(tmp_path / "file" / "spool", max_bytes=1, max_image_bytes=1)
    assert caught.value.reason == "spool.disk"


async def test_a_verified_download_gets_a_name_that_proves_it(spool: Spool) -> None:
    part = download(spool)
    name = await spool.keep(part, "job-1", IMAGE)
    assert name == f"job-1.{SHA256}.jpg"
    assert await spool.names() == [name]
    assert spool.path(name).read_bytes() == BYTES
    assert await spool.check(name) == Download(spool.path(name), len(BYTES), SHA256)


async def test_to_keep_what_is_kept_already_changes_nothing(spool: Spool) -> None:
    name = await spool.keep(download(spool), "job-1", IMAGE)
    assert await spool.keep(spool.path(name), "job-1", IMAGE) == name
    assert spool.path(name).read_bytes() == BYTES


async def test_a_cancelled_keep_leaves_the_whole_file_or_none_and_hinders_no_other(spool: Spool) -> None:
    """Its thread may go on, also behind the removal of the download."""
    for turn in range(40):
        part = download(spool)
        keeping = asyncio.create_task(spool.keep(part, "job-1", IMAGE))
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await spool.remove(part)
        name = await spool.keep(download(spool, f"{turn}-ab:2:0"), "job-1", IMAGE)
        assert await spool.check(name)
        assert set(await spool.names()) <= {name, part.name}
        await spool.remove(spool.path(name))


async def test_a_download_that_vanished_cannot_be_kept(spool: Spool) -> None:
    with pytest.raises(SpoolError) as caught:
        await spool.keep(spool.part("1-ab:1:0"), "job-1", IMAGE)
    assert caught.value.reason == "spool.disk"


async def test_a_file_that_changed_is_not_whole(spool: Spool) -> None:
    name = await spool.keep(download(spool), "job-1", IMAGE)
    spool.path(name).write_bytes(BYTES[:-1] + b"!")
    assert await spool.check(name) is None


async def test_a_file_that_is_not_there_or_has_another_name_is_not_whole(spool: Spool) -> None:
    part = download(spool)
    assert await spool.check(f"job-1.{SHA256}.jpg") is None
    assert await spool.check(part.name) is None


async def test_a_file_is_removed_whether_or_not_it_is_there(spool: Spool) -> None:
    part = download(spool)
    await spool.remove(part)
    await spool.remove(part)
    assert await spool.names() == []


async def test_a_folder_that_vanished_is_the_spools_error(spool: Spool) -> None:
    shutil.rmtree(spool.folder)
    with pytest.raises(SpoolError):
        await spool.names()
    with pytest.raises(SpoolError):
        spool.room(0, 0)


def put(path: Path, size: int, mtime: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    os.utime(path, (mtime, mtime))
    return path


async def nothing() -> frozenset[str]:
    return frozenset()


def asides(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.aside.iterdir())


async def test_bytes_that_are_not_the_image_are_kept_aside(spool: Spool) -> None:
    await spool.set_aside(download(spool), "job-1", SHA256, nothing)
    assert await spool.names() == []
    assert (spool.aside / f"job-1.{SHA256}").read_bytes() == BYTES


async def test_asides_that_come_at_once_make_room_one_after_the_other(spool: Spool) -> None:
    spool.aside.mkdir()
    for number in range(MAX_ASIDE_FILES):
        put(spool.aside / f"old-{number:03}", 1, number)
    files = [put(spool.part(f"new-{number}"), 1, 10**9) for number in range(30)]
    await asyncio.gather(*(spool.set_aside(file, file.stem, SHA256, nothing) for file in files))
    assert len(asides(spool)) == MAX_ASIDE_FILES
    assert len([name for name in asides(spool) if name.startswith("new-")]) == 30


async def test_the_oldest_asides_make_room_by_number_and_by_size(spool: Spool) -> None:
    spool.aside.mkdir()
    for number in range(MAX_ASIDE_FILES):
        put(spool.aside / f"old-{number:03}", 1, number)
    await spool.set_aside(download(spool), "job-1", SHA256, nothing)
    kept = asides(spool)
    assert len(kept) == MAX_ASIDE_FILES
    assert "old-000" not in kept
    assert "old-001" in kept
    await spool.set_aside(put(spool.part("big"), MAX_ASIDE_BYTES - 10, 10**9), "job-2", SHA256, nothing)
    assert sum(path.stat().st_size for path in spool.aside.iterdir()) <= MAX_ASIDE_BYTES
    assert f"job-2.{SHA256}" in asides(spool)


async def test_what_is_too_large_to_be_kept_aside_pushes_nothing_else_out(spool: Spool) -> None:
    await spool.set_aside(download(spool), "job-1", SHA256, nothing)
    await spool.set_aside(put(spool.part("huge"), MAX_ASIDE_BYTES + 1, 10**9), "job-2", SHA256, nothing)
    assert asides(spool) == [f"job-1.{SHA256}"]


def test_a_claims_download_has_a_name_of_its_own_that_no_whole_file_has(spool: Spool) -> None:
    parts = {spool.part(claim).name for claim in ("1-ab:1:0", "1-ab:1:1", "1-ab:2:0", "2-ab:1:0")}
    assert len(parts) == 4
    assert all(name.endswith(".part") and ":" not in name for name in parts)
    assert {job_and_sha256(name) for name in parts} == {None}


@pytest.mark.parametrize("job", ["job-1", "a.b", "_", "x" * 128, "a.part"])
def test_the_job_and_the_checksum_are_read_from_a_whole_files_name(job: str) -> None:
    assert job_and_sha256(f"{job}.{SHA256}.png") == (job, SHA256)


@pytest.mark.parametrize("name", ["", ".", "x.part", f"{SHA256}.png", f".{SHA256}.png", "job.abc.png", "job"])
def test_other_names_say_nothing(name: str) -> None:
    assert job_and_sha256(name) is None


@pytest.mark.parametrize(
    ("held", "under_way", "room"),
    [(0, 0, 10), (1, 0, 9), (0, 4, 6), (500, 3, 2), (900, 0, 1), (901, 0, 0), (0, 10, 0), (5000, 50, 0)],
)
def test_each_download_under_way_has_its_room_kept(
    spool: Spool, held: int, under_way: int, room: int
) -> None:
    assert spool.room(held, under_way) == room


def test_there_is_no_room_where_the_largest_image_does_not_fit(spool: Spool) -> None:
    """The alert of a spool without room reads it; ``/readyz`` says so at the same moment."""
    assert (spool.room_bytes(900), spool.room_bytes(901)) == (100, 0)


def test_downloads_leave_the_reserve_of_the_disk_alone(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    full = Spool(tmp_path / "a", max_bytes=10**18, max_image_bytes=100, reserve=free + 10**12)
    assert full.room(0, 0) == 0
    half = Spool(tmp_path / "b", max_bytes=10**18, max_image_bytes=free // 4, reserve=free // 2)
    assert half.room(0, 0) in (1, 2)  # others write to this disk too
    assert half.room(0, 3) == 0


async def test_what_is_being_accepted_makes_room_for_nothing_and_is_read_where_it_lies(spool: Spool) -> None:
    spool.aside.mkdir()
    for number in range(MAX_ASIDE_FILES + 1):
        put(spool.aside / f"old-{number:03}.{SHA256}", 1, number)

    async def awaited() -> frozenset[str]:
        return frozenset({f"aside/old-000.{SHA256}"})

    await spool.set_aside(download(spool), "job-1", SHA256, awaited)
    kept = asides(spool)
    assert f"old-000.{SHA256}" in kept
    assert f"old-001.{SHA256}" not in kept
    assert spool.path(f"aside/old-000.{SHA256}") == spool.aside / f"old-000.{SHA256}"


async def test_what_lies_aside_is_locked_while_it_is_accepted_and_while_room_is_made(spool: Spool) -> None:
    async def is_locked() -> frozenset[str]:
        """Try the lock, as another process would."""
        file = os.open(spool.aside, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(file)
        return frozenset()

    await spool.hold_aside(is_locked)
    await spool.set_aside(download(spool), "job-1", SHA256, is_locked)
    with pytest.raises(pytest.fail.Exception):
        await is_locked()


@pytest.mark.parametrize("name", [f"job-1.{SHA256}", f"job-1.{SHA256[:16]}"], ids=["now", "earlier version"])
async def test_refused_bytes_are_told_by_their_job(spool: Spool, name: str) -> None:
    assert await spool.refused("job-1") is None
    spool.aside.mkdir()
    assert await spool.refused("job-1") is None
    (spool.aside / name).write_bytes(BYTES)
    put(spool.aside / f"job-1.2.{SHA256}", 1, 1)
    assert await spool.refused("job-1") == (spool.aside / name, Image(None, None, None, len(BYTES), SHA256))
