"""The one door for writes: everything that waits is committed in one transaction.

An fsync costs the same for one row as for a thousand. While one batch is being committed on the connection's
thread, the next one gathers; so the more deliveries come, the less each pays, and none waits for a timer.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from receiver.core.errors import LedgerError
from receiver.ledger.sqlite.connections import Door, translate
from receiver.ledger.sqlite.driver import sqlite3

T = TypeVar("T")

MAX_BATCH = 2_000
"""Verbs to a transaction: bounds how long the first of a batch waits for the last."""

MAX_WAITING = 20_000
"""Verbs that may wait. More is refused at once, because memory is not what a ledger is kept in."""

_DIES_WITH_THE_BATCH = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_READONLY", "SQLITE_CANTOPEN")


@dataclass(slots=True)
class Transaction:
    """What a verb works on.

    Attributes:
        db: the connection, in a transaction.
        changed: ids of jobs that the verb changed; announced once the commit is durable.
    """

    db: sqlite3.Connection
    changed: list[str] = field(default_factory=list)


Command = Callable[[Transaction], T]


@dataclass(slots=True)
class _Waiting:
    verb: Command[Any]
    answer: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: Any = None
    error: Exception | None = None
    changed: Sequence[str] = ()


Committed = Callable[[int, float], None]
"""Told of each commit: how many verbs were in it, and how many seconds it took."""


def untold(size: int, seconds: float) -> None:
    """Nobody wants to know."""


class Writer:
    """Commits verbs in groups, in the order in which they came.

    Args:
        door: the connection.
        announce: called with the ids of jobs that a durable commit has changed.
        in_place: raises a `LedgerError` where the connection's file is not the one that a start would open.
        committed: told of each commit.
    """

    def __init__(
        self,
        door: Door,
        announce: Callable[[Sequence[str]], None],
        *,
        in_place: Callable[[], None],
        committed: Committed = untold,
    ) -> None:
        self._door = door
        self._announce = announce
        self._in_place = in_place
        self._committed = committed
        self._waiting: list[_Waiting] = []
        self._something = asyncio.Event()
        self._closing = False
        self._loop = asyncio.create_task(self._commit_until_closed(), name="ledger-writer")

    @property
    def waiting(self) -> int:
        """How many verbs wait for the next transaction."""
        return len(self._waiting)

    async def write(self, verb: Command[T]) -> T:
        """Runs the verb in a transaction and returns its result after the commit is durable.

        A caller that is cancelled while it waits does not take its verb back: it may be committed already.

        Raises:
            LedgerError: ``ledger.unavailable``, ``ledger.overloaded`` or ``ledger.stopping``: nothing was
                recorded; or what the verb itself raised, and then nothing of it was.
        """
        if self._closing:
            raise LedgerError("ledger.stopping")
        if len(self._waiting) >= MAX_WAITING:
            raise LedgerError("ledger.overloaded")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(verb, answer))
        self._something.set()
        return await answer

    async def close(self) -> None:
        """Commits what waits, takes nothing more, and closes the connection."""
        self._closing = True
        self._something.set()
        await self._loop
        await self._door.close()

    async def _commit_until_closed(self) -> None:
        while self._waiting or not self._closing:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                self._answer(batch, await self._outcomes([waiting.verb for waiting in batch]))

    async def _outcomes(self, verbs: Sequence[Command[Any]]) -> Sequence[_Outcome]:
        def commit(db: sqlite3.Connection) -> Sequence[_Outcome]:
            self._in_place()
            return _commit(db, verbs)

        began = time.perf_counter()
        try:
            outcomes = await self._door.run(commit)
        except Exception as error:  # noqa: BLE001 - the connection itself broke: nobody may wait for ever
            told = translate(error) if isinstance(error, sqlite3.Error) else error
            return [_Outcome(error=told) for _ in verbs]
        if any(outcome.error is None for outcome in outcomes):
            self._committed(len(verbs), time.perf_counter() - began)
        return outcomes

    def _answer(self, batch: Sequence[_Waiting], outcomes: Sequence[_Outcome]) -> None:
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.done():  # its caller was cancelled
                continue
            if outcome.error is not None:
                waiting.answer.set_exception(outcome.error)
            else:
                waiting.answer.set_result(outcome.result)
        changed = [job for outcome in outcomes for job in outcome.changed]
        if changed:
            self._announce(changed)


def _commit(db: sqlite3.Connection, verbs: Sequence[Command[Any]]) -> list[_Outcome]:
    """One transaction for all; where one verb fails, each gets a transaction of its own instead."""
    try:
        db.execute("BEGIN IMMEDIATE")
        outcomes = []
        for verb in verbs:
            transaction = Transaction(db)
            result = verb(transaction)
            outcomes.append(_Outcome(result, changed=transaction.changed))
        db.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - whatever a verb raises belongs to its caller, not to this thread
        if db.in_transaction:
            db.execute("ROLLBACK")
        if len(verbs) > 1 and not _is_the_files_fault(error):
            return [_commit(db, [verb])[0] for verb in verbs]
        told = translate(error) if isinstance(error, sqlite3.Error) else error
        return [_Outcome(error=told) for _ in verbs]
    return outcomes


def _is_the_files_fault(error: Exception) -> bool:
    return str(getattr(error, "sqlite_errorname", "")).startswith(_DIES_WITH_THE_BATCH)
