"""The ledger's file: how it is opened, checked and committed to."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from receiver.core.clock import Clock
from receiver.core.errors import LedgerError
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.connections import (
    Connection,
    ReaderPool,
    ledger_error,
    on_snapshot,
    open_to_read,
    open_to_write,
)
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.sqlite.lock import DirectoryLock, open_for_owner
from receiver.ledger.transaction import Batched, Command, Result, Transaction

FILE_NAME = "ledger.sqlite3"
READERS = 2

_ENDS_THE_BATCH = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_READONLY", "SQLITE_CANTOPEN")
"""Errors of the file, and of no single command."""


class Database:
    """An open ledger file, with one connection that writes and others that only read."""

    def __init__(
        self, path: Path, writer: Connection, readers: ReaderPool, *, now: Clock, monotonic: Clock
    ) -> None:
        self.writer = writer
        self.readers = readers
        self._path = path
        self._opened = path.stat()
        self._damage: str | None = None
        self.now = now
        self._monotonic = monotonic

    async def check_whole(self) -> None:
        """Read all of the file. Raise ``ledger.corrupt`` if it is damaged: nothing is committed any more."""
        connection = await open_to_read(self._path)
        try:
            await connection.run(partial(on_snapshot, schema.check_whole), self._path)
        except LedgerError as error:
            self._note_damage(error)
            raise
        finally:
            await connection.interrupt()  # where the task was cancelled
            await connection.close()

    async def commit(self, commands: Sequence[Command[Any]]) -> Sequence[Result]:
        """Run commands in one transaction, and return a result for each after the commit is durable.

        If a command fails, each gets a transaction of its own. After a `LedgerError`, none was committed.
        """

        def run(db: sqlite3.Connection) -> Sequence[Result]:
            self._check_usable()
            return self._commit(db, commands)

        return await self.writer.run(run)

    def _commit(self, db: sqlite3.Connection, commands: Sequence[Command[Any]]) -> list[Result]:
        try:
            # IMMEDIATE: a transaction that read before it wrote could fail without waiting for the lock.
            db.execute("BEGIN IMMEDIATE")
            results: list[Result] = []
            for run, group in groupby(commands, lambda each: each.run if isinstance(each, Batched) else None):
                if run is None:
                    for command in group:
                        tx = Transaction(db, self.now(), self._monotonic())
                        results.append(Result(command(tx), changed=tx.changed))
                else:
                    tx = Transaction(db, self.now(), self._monotonic())
                    values = run(tx, [each.argument for each in group if isinstance(each, Batched)])
                    results += [Result(value) for value in values[:-1]]
                    results.append(Result(values[-1], changed=tx.changed))
            db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - a command's error belongs to its caller, not to this thread
            if db.in_transaction:
                db.execute("ROLLBACK")
            ends_the_batch = str(getattr(error, "sqlite_errorname", "")).startswith(_ENDS_THE_BATCH)
            if len(commands) > 1 and not ends_the_batch:
                return [self._commit(db, [command])[0] for command in commands]
            reported = ledger_error(error) if isinstance(error, sqlite3.Error) else error
            self._note_damage(reported)
            return [Result(error=reported) for _ in commands]
        return results

    def _note_damage(self, error: Exception) -> None:
        # What is written into a damaged file may be lost: the backup that is restored does not have it.
        if isinstance(error, LedgerError) and error.reason == "ledger.corrupt":
            self._damage = error.detail

    def _check_usable(self) -> None:
        if self._damage is not None:
            raise LedgerError("ledger.corrupt", self._damage)
        # An open file that was moved away or replaced takes commits as before, and no start would read them.
        try:
            present = self._path.stat()
        except OSError as error:
            raise LedgerError(
                "ledger.unavailable", f"The ledger's file is gone ({self._path}: {error.strerror})."
            ) from None
        if not os.path.samestat(present, self._opened):
            raise LedgerError(
                "ledger.unavailable",
                f"Another file stands where the ledger was opened ({self._path}). Restart the receiver to use"
                " it, or put the former one back.",
            )


async def open_to_serve(data_dir: Path, *, now: Clock, monotonic: Clock) -> Database:
    """Open the ledger for the server, and create or migrate it; the caller holds the directory's lock.

    Raise `LedgerError`; where it is ``ledger.corrupt`` or ``ledger.newer``, the file is unchanged.
    """
    path = data_dir / FILE_NAME

    async def prepare(writer: Connection) -> None:
        await writer.run(lambda db: schema.prepare(db, path), path)

    return await _open(path, schema.check, prepare, readers=READERS, now=now, monotonic=monotonic)


async def open_beside(data_dir: Path, *, make: bool, now: Clock, monotonic: Clock) -> Database:
    """Open the ledger for a command that writes, beside a server or without one.

    The file is created (with ``make``) or migrated only where no server holds it, else that is
    ``ledger.in_use``.
    """
    path = data_dir / FILE_NAME
    if not make and not path.exists():
        raise schema.no_ledger(data_dir)

    async def prepare(writer: Connection) -> None:
        if await writer.run(lambda db: schema.is_older(db, path), path):
            lock = DirectoryLock(data_dir)
            try:
                await writer.run(lambda db: schema.prepare(db, path), path)
            finally:
                lock.release()

    return await _open(path, schema.check_structure, prepare, readers=1, now=now, monotonic=monotonic)


async def open_read_only(data_dir: Path) -> ReaderPool:
    """Open an existing ledger to read. Raise `LedgerError` where there is none of the present version."""
    path = data_dir / FILE_NAME
    if not path.is_file():
        raise schema.no_ledger(data_dir)
    readers = await ReaderPool.open(path, 1)
    try:
        await readers.read(lambda db: schema.check_present(db, path))
    except BaseException:  # an interruption, too: a thread that is left would outlive its event loop
        await readers.close()
        raise
    return readers


async def _open(
    path: Path,
    check: Callable[[sqlite3.Connection, Path], None],
    prepare: Callable[[Connection], Awaitable[None]],
    *,
    readers: int,
    now: Clock,
    monotonic: Clock,
) -> Database:
    if not await asyncio.to_thread(path.exists):
        os.close(await asyncio.to_thread(open_for_owner, path))
    await _check(path, check)
    writer = await open_to_write(path)
    try:
        await prepare(writer)
        return Database(path, writer, await ReaderPool.open(path, readers), now=now, monotonic=monotonic)
    except BaseException:
        await writer.close()
        raise


async def _check(path: Path, check: Callable[[sqlite3.Connection, Path], None]) -> None:
    # Through a connection that cannot write: opening to write would change a file that may be no ledger.
    connection = await open_to_read(path)
    try:
        # On one snapshot: a server that starts at the same time may be migrating the file.
        await connection.run(partial(on_snapshot, lambda db: check(db, path)), path)
    finally:
        await connection.close()


def write_nothing(tx: Transaction) -> None:
    """Make a durable commit that changes nothing, to find out whether the file can be written."""
    # An UPDATE to the same values would not do: SQLite compares, and leaves the page and the disk alone.
    (version,) = tx.db.execute("PRAGMA user_version").fetchone()
    tx.db.execute(f"PRAGMA user_version = {version:d}")


def changed_by_others(tx: Transaction, data_version: int | None, last_seq: int) -> tuple[int, int]:
    """Mark the jobs as changed that other processes have changed since the last call.

    Take and return SQLite's counter of other connections' commits, ``None`` at the first call, and the last
    entry of the history.
    """
    (present,) = tx.db.execute("PRAGMA data_version").fetchone()
    (newest,) = tx.db.execute("SELECT coalesce(max(seq), 0) FROM history").fetchone()
    if data_version is not None and present != data_version:
        changed = tx.db.execute(
            "SELECT DISTINCT jobs.id FROM history JOIN jobs ON jobs.seq = history.job WHERE history.seq > ?",
            (last_seq,),
        )
        # Wake the waiting in any case: a wait may have been set that has no entry in the history.
        tx.changed.extend([row["id"] for row in changed] or [""])
    return present, newest
