"""Backups: one snapshot, checked, and never an incomplete file under the target's name."""

import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest

from receiver.core.errors import LedgerError
from receiver.ledger import FILE_NAME, Filter, Ledger, back_up
from receiver.ledger.sqlite import schema
from tests.faults.ledgers import make
from tests.ledger.actions import delivery, file_of, kept_totals, recounted_totals


def ignored(_done: int, _total: int) -> None:
    """Nobody looks."""


def names_in(folder: Path) -> list[str]:
    """What lies beside the ledger."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(FILE_NAME))


async def restored(copy: Path, folder: Path) -> Ledger:
    await asyncio.to_thread(folder.mkdir)
    shutil.copy(copy, folder / FILE_NAME)
    return await Ledger.serve(folder)


async def test_a_copy_of_a_busy_ledger_is_of_one_moment_and_opens(tmp_path: Path) -> None:
    ledger = await Ledger.serve(tmp_path)
    written = 0
    stop = asyncio.Event()
    more = asyncio.Condition()

    async def deliver() -> None:
        nonlocal written
        while not stop.is_set():
            await ledger.record(delivery(f"job-{written:06}", body=b"x" * 2000))
            async with more:
                written += 1
                more.notify_all()

    async def until(count: int) -> None:
        async with more:
            await more.wait_for(lambda: written >= count)

    writer = asyncio.create_task(deliver())
    try:
        for number in range(3):
            await until(100 * (number + 1))
            acknowledged = written
            copy = await back_up(
                tmp_path / FILE_NAME, tmp_path / f"{number}", overwrite=False, on_progress=ignored
            )
            later = written
            assert copy.version == len(schema.MIGRATIONS)
            assert copy.path.stat().st_mode & 0o777 == 0o600
            assert copy.bytes == copy.path.stat().st_size
            twin = await restored(copy.path, tmp_path / f"restored-{number}")
            ids = [job.id for job in (await twin.jobs(Filter(), limit=10**6)).jobs][::-1]
            await twin.close()
            # What was acknowledged before it is in it, and of what came meanwhile a beginning.
            assert acknowledged <= len(ids) == copy.jobs <= later + 1
            assert ids == [f"job-{number:06}" for number in range(len(ids))]
            with file_of(tmp_path / f"restored-{number}") as db:
                assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
                assert kept_totals(db) == recounted_totals(db)
                (lines,) = db.execute("SELECT count(*) FROM history").fetchone()
                assert lines == len(ids)
    finally:
        stop.set()
        await writer
        await ledger.close()


async def a_ledger(folder: Path) -> Path:
    await (await Ledger.serve(folder)).close()
    return folder / FILE_NAME


async def test_a_file_that_is_there_is_not_replaced_unless_that_is_wanted(tmp_path: Path) -> None:
    path = await a_ledger(tmp_path)
    (tmp_path / "copy").write_text("precious")
    with pytest.raises(FileExistsError):
        await back_up(path, tmp_path / "copy", overwrite=False, on_progress=ignored)
    assert (tmp_path / "copy").read_text() == "precious"
    await back_up(path, tmp_path / "copy", overwrite=True, on_progress=ignored)
    await (await restored(tmp_path / "copy", tmp_path / "restored")).close()
    assert names_in(tmp_path) == ["copy", "restored"]


async def test_a_copy_is_made_where_there_are_no_hard_links_and_replaces_nothing_there(
    tmp_path: Path,
) -> None:
    def refused(_part: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(target))  # as VFAT and SMB say

    path = await a_ledger(tmp_path)
    await back_up(path, tmp_path / "copy", overwrite=False, on_progress=ignored, link=refused)
    await (await restored(tmp_path / "copy", tmp_path / "restored")).close()

    def late(part: Path, target: Path) -> None:
        target.write_text("precious")
        refused(part, target)

    with pytest.raises(FileExistsError):
        await back_up(path, tmp_path / "other", overwrite=False, on_progress=ignored, link=late)
    assert (tmp_path / "other").read_text() == "precious"
    assert names_in(tmp_path) == ["copy", "other", "restored"]


@pytest.mark.parametrize("overwrite", [True, False])
async def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, *, overwrite: bool) -> None:
    path = await a_ledger(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("fifo", "folder", "link"):
        with pytest.raises(FileExistsError, match="no regular file"):
            await back_up(path, tmp_path / name, overwrite=overwrite, on_progress=ignored)
    assert names_in(tmp_path) == ["fifo", "folder", "link"]


async def test_a_ledger_of_an_older_version_is_copied_as_it_is(tmp_path: Path) -> None:
    with file_of(tmp_path) as db:
        db.executescript((Path(make.__file__).parent / "v1.sql").read_text())
    copy = await back_up(tmp_path / FILE_NAME, tmp_path / "copy", overwrite=False, on_progress=ignored)
    assert (copy.version, copy.jobs) == (1, len(make.JOBS))
    with file_of(tmp_path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "unavailable"), (b"", "unavailable"), (b"no database" * 1000, "corrupt")],
)
async def test_what_is_no_ledger_is_not_copied(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(LedgerError) as refusal:
        await back_up(tmp_path / FILE_NAME, tmp_path / "copy", overwrite=False, on_progress=ignored)
    assert refusal.value.reason == f"ledger.{reason}"
    assert names_in(tmp_path) == []


async def test_a_damaged_ledger_leaves_no_copy(tmp_path: Path) -> None:
    ledger = await Ledger.serve(tmp_path)
    for number in range(50):
        await ledger.record(delivery(f"job-{number}", body=b"x" * 1000))
    await ledger.close()
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 200] = b"\xa5" * 200
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"ledger\.corrupt"):
        await back_up(path, tmp_path / "copy", overwrite=False, on_progress=ignored)
    assert names_in(tmp_path) == []


async def test_a_ledger_of_another_structure_is_named_itself_and_not_its_copy(tmp_path: Path) -> None:
    await (await Ledger.serve(tmp_path)).close()
    with file_of(tmp_path) as other:
        other.execute("CREATE TABLE strange (x)")
    with pytest.raises(LedgerError) as refused:
        await back_up(tmp_path / FILE_NAME, tmp_path / "copy", overwrite=False, on_progress=ignored)
    assert refused.value.reason == "ledger.corrupt"
    assert refused.value.detail.startswith(f"{tmp_path / FILE_NAME} has not the structure")
    assert names_in(tmp_path) == []


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = await a_ledger(tmp_path)
    with pytest.raises(FileNotFoundError):
        await back_up(path, tmp_path / "nowhere" / "copy", overwrite=False, on_progress=ignored)
