"""Backs up the ledger on one snapshot, while others write."""

import asyncio
import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from receiver.core.disk import sync_directory
from receiver.core.errors import LedgerError
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.connections import ledger_error, open_to_read
from receiver.ledger.sqlite.driver import sqlite3

Progress = Callable[[int, int], None]
"""Called with the bytes that are written, and about how many there will be."""


NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Errors of ``link(2)`` on a file system without hard links."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A backup that was made and checked, with the ledger's version and its number of jobs."""

    path: Path
    version: int
    jobs: int
    bytes: int


async def back_up(
    ledger: Path,
    target: Path,
    *,
    overwrite: bool,
    on_progress: Progress,
    link: Callable[[Path, Path], None] = os.link,
) -> Copy:
    """Copy a ledger of any version that this program knows, and check the copy.

    The target appears only when it is complete and durable; only its owner can read it. Raise `OSError` where
    its folder cannot be written, `FileExistsError` where its name is taken.
    """
    part = await asyncio.to_thread(_begin, ledger, target, overwrite=overwrite)
    try:
        await _vacuum(ledger, part, on_progress)
        return await asyncio.to_thread(_finish, part, target, link, overwrite=overwrite)
    finally:
        await asyncio.to_thread(lambda: part.unlink(missing_ok=True))


def _begin(ledger: Path, target: Path, *, overwrite: bool) -> Path:
    """Create the empty file that the copy is written to."""
    if not ledger.is_file():
        raise schema.no_ledger(ledger.parent)
    own = {ledger.resolve(), *(ledger.resolve().with_name(f"{ledger.name}-{end}") for end in ("wal", "shm"))}
    if target.resolve() in own:
        raise FileExistsError(errno.EEXIST, "That is the ledger itself", str(target))
    _check_regular(target)
    if not overwrite and target.exists():  # checked again at the end, and here before the work is done
        raise FileExistsError(errno.EEXIST, "It is there already, and --force was not given", str(target))
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return part


def _check_regular(target: Path) -> None:
    """Check that what has the target's name, if anything, is a regular file: no link, device or FIFO."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "It is there already, and is no regular file", str(target))


def _name_once(part: Path, target: Path, link: Callable[[Path, Path], None]) -> None:
    """Give the copy its name, unless something has that already."""
    try:
        link(part, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # The file system has no hard links: the name is taken first, for a moment by an empty file.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        part.replace(target)


def _finish(part: Path, target: Path, link: Callable[[Path, Path], None], *, overwrite: bool) -> Copy:
    """Make the copy durable, read it as a restore would, and give it its name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    try:
        with contextlib.closing(sqlite3.connect(f"{part.resolve().as_uri()}?mode=ro", uri=True)) as db:
            version = schema.version(db, part)
            schema.check(db, part)
            (jobs,) = db.execute("SELECT count(*) FROM jobs").fetchone()
    except sqlite3.Error as error:
        raise ledger_error(error, part) from error
    copy = Copy(target, version, jobs, part.stat().st_size)
    if overwrite:
        _check_regular(target)
        part.replace(target)
    else:
        _name_once(part, target, link)
    sync_directory(target.parent)
    return copy


async def _vacuum(ledger: Path, part: Path, on_progress: Progress) -> None:
    connection = await open_to_read(ledger)
    copying = None
    try:
        size = await connection.run(lambda db: _size(db, ledger), ledger)
        copying = asyncio.create_task(connection.run(lambda db: _copy(db, part), ledger))
        while not copying.done():
            await asyncio.wait({copying}, timeout=0.2)
            on_progress((await asyncio.to_thread(part.stat)).st_size, size)
        await copying
    finally:
        if copying is not None and not copying.done():
            await connection.interrupt()
            with contextlib.suppress(LedgerError):
                await copying
        await connection.close()


def _size(db: sqlite3.Connection, path: Path) -> int:
    if schema.version(db, path) == 0:
        raise LedgerError("ledger.unavailable", f"{path} is empty; `receiver serve` makes a ledger of it.")
    schema.check_structure(db, path)  # here, so that the error names the ledger and not the copy
    (size,) = db.execute(
        "SELECT (page_count - freelist_count) * page_size"
        " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    ).fetchone()
    return int(size)


def _copy(db: sqlite3.Connection, part: Path) -> int:
    # It would forbid to write the copy, too; the ledger is opened read-only.
    db.execute("PRAGMA query_only = OFF")
    db.execute("VACUUM INTO ?", (str(part),))
    return 0
