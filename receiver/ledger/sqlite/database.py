"""The ledger's file: how it is opened, checked and committed to."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from receiver.core.clock import Clock, monotonic_clock, wall_clock
from receiver.core.errors import LedgerError
from receiver.ledger.commands import claims
from receiver.ledger.readers import Readers
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.connections import (
    DAMAGE,
    Connection,
    ledger_error,
    open_to_read,
    open_to_write,
    read_once,
)
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.sqlite.lock import DirectoryLock, open_for_owner
from receiver.ledger.transaction import Command, Result, Transaction, run_together
from receiver.ledger.types import Member

FILE_NAME = "ledger.sqlite3"
READERS = 2

_ENDS_THE_BATCH = (
    *DAMAGE,
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_BUSY",
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
)
"""Errors of the file, and of no single command."""


class Database:
    """An open ledger file, with one connection that writes and others that only read."""

    member = Member()
    shared = False

    def __init__(
        self, path: Path, writer: Connection, readers: Readers, now: Clock, monotonic: Clock
    ) -> None:
        self.writer = writer
        self.readers = readers
        self._path = path
        # SQLite keeps the WAL and its index as long as the file is open; without a WAL there are neither.
        parts = (path, *(path.with_name(f"{path.name}-{end}") for end in ("wal", "shm")))
        self._opened = {part: part.stat() for part in parts if part.exists()}
        self._damage: str | None = None
        self.now = now
        self._monotonic = monotonic
        self._data_version: int | None = None
        self._last_seq = 0

    async def close(self) -> None:
        await self.writer.close()

    async def check_for_damage(self) -> None:
        try:
            await read_once(self._path, schema.check_whole)
        except LedgerError as error:
            self._note_damage(error)
            raise

    async def commit(self, commands: Sequence[Command[Any]]) -> Sequence[Result]:
        def run(db: sqlite3.Connection) -> Sequence[Result]:
            self._check_usable()
            return self._commit(db, commands)

        return await self.writer.run(run)

    @staticmethod
    def write_nothing(tx: Transaction) -> None:
        # An UPDATE to the same values would not do: SQLite compares, and leaves the page and the disk alone.
        (version,) = tx.db.execute("PRAGMA user_version").fetchone()
        tx.db.execute(f"PRAGMA user_version = {version:d}")

    @staticmethod
    def recover(tx: Transaction) -> list[str]:
        return claims.release_all(tx)  # the directory's lock proves that no other process holds one

    @contextlib.contextmanager
    def no_server(self) -> Iterator[bool]:
        try:
            lock = DirectoryLock(self._path.parent)
        except LedgerError:
            yield False
            return
        with lock:
            yield True

    async def changed_by_others(self) -> Sequence[str]:
        return await self.writer.read(self._changed_by_others)

    def _changed_by_others(self, db: sqlite3.Connection) -> Sequence[str]:
        last_seq, data_version = self._last_seq, self._data_version
        (self._last_seq,) = db.execute("SELECT coalesce(max(seq), 0) FROM history").fetchone()
        # SQLite's counter of the commits of other connections.
        (self._data_version,) = db.execute("PRAGMA data_version").fetchone()
        if data_version in (None, self._data_version):
            return ()
        changed = db.execute(
            "SELECT DISTINCT jobs.id FROM history JOIN jobs ON jobs.seq = history.job WHERE history.seq > ?",
            (last_seq,),
        )
        # Wake the waiting in any case: a wait may have been set that has no entry in the history.
        return [row["id"] for row in changed] or [""]

    def _commit(self, db: sqlite3.Connection, commands: Sequence[Command[Any]]) -> list[Result]:
        try:
            # IMMEDIATE: a transaction that read before it wrote could fail without waiting for the lock.
            db.execute("BEGIN IMMEDIATE")
            results = run_together(commands, lambda: Transaction(db, self.now(), self._monotonic()))
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
        for part, opened in self._opened.items():
            try:
                present = part.stat()
            except OSError as error:
                raise LedgerError(
                    "ledger.unavailable", f"The ledger's file is gone ({part}: {error.strerror})."
                ) from None
            if not os.path.samestat(present, opened):
                raise LedgerError(
                    "ledger.unavailable",
                    f"Another file stands where the ledger was opened ({part}). Restart the receiver to use"
                    " it, or put the former one back.",
                )


class SqliteOpener:
    """Opens the ledger's file in a data directory."""

    def __init__(self, data_dir: Path, now: Clock | None = None, monotonic: Clock | None = None) -> None:
        self._data_dir = data_dir
        self._path = data_dir / FILE_NAME
        self._now = now or wall_clock
        self._monotonic = monotonic or monotonic_clock

    async def to_read(self) -> Readers:
        if not self._path.is_file():
            raise schema.no_ledger(self._data_dir)
        readers = await self._readers(1)
        try:
            await readers.read(lambda db: schema.check_present(db, self._path))
        except BaseException:  # an interruption, too: a thread that is left would outlive its event loop
            await readers.close()
            raise
        return readers

    async def to_serve(self) -> Database:
        """The caller holds the directory's lock. Where it is ``ledger.corrupt`` or ``ledger.newer``, the file
        is unchanged.
        """
        return await self._open(schema.check, READERS, contextlib.nullcontext)

    async def beside(self, *, make: bool) -> Database:
        """Create (with ``make``) or migrate a file that no server holds, else ``ledger.in_use``."""
        if not make and not self._path.exists():
            raise schema.no_ledger(self._data_dir)
        return await self._open(schema.check_structure, 1, lambda: DirectoryLock(self._data_dir))

    async def _open(
        self,
        check: Callable[[sqlite3.Connection, Path], None],
        readers: int,
        lock: Callable[[], AbstractContextManager[object]],
    ) -> Database:
        path = self._path
        if not await asyncio.to_thread(path.exists):
            os.close(await asyncio.to_thread(open_for_owner, path))
        # Through a connection that cannot write: opening to write would change a file that may be no ledger.
        # On one snapshot: a server that starts at the same time may be migrating the file.
        await read_once(path, lambda db: check(db, path))
        writer = await open_to_write(path)
        try:
            if await writer.run(lambda db: schema.is_older(db, path), path):
                with lock():
                    await writer.run(lambda db: schema.prepare(db, path), path)
            return Database(path, writer, await self._readers(readers), self._now, self._monotonic)
        except BaseException:
            await writer.close()
            raise

    async def _readers(self, number: int) -> Readers:
        return Readers([await open_to_read(self._path) for _ in range(number)], schema.check_whole)
