"""Group commit: all commands that wait are committed in one transaction.

An fsync costs the same for one row as for a thousand. While one batch is being committed, the next one
gathers; so the more deliveries come, the less each of them costs. None waits for a timer, but each for the
event loop to have nothing else at hand.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from receiver.core.errors import LedgerError
from receiver.ledger.transaction import Batched, Command, Result

T = TypeVar("T")

MAX_BATCH = 2_000
"""Commands to a transaction: bounds how long the first of a batch waits for the last."""

MAX_BATCH_BYTES = 16 * 2**20
"""Of the deliveries' bodies: other receivers wait for the commit, and a database ends what takes long."""

IDLE_TURNS = 8
"""Turns of the event loop without a new command, after which a batch is committed: some 0.1 ms."""

MAX_TURNS = 100
"""Turns of the event loop in which a batch may grow."""

MAX_WAITING = 20_000
"""Commands that may wait. More are refused at once, so that the queue cannot exhaust the memory."""

Commit = Callable[[Sequence[Command[Any]]], Awaitable[Sequence[Result]]]
"""Runs commands in one durable transaction, and returns a result for each."""

OnCommit = Callable[[int, float], None]
"""Called after each commit with the number of its commands and its duration in seconds."""


class GroupCommit:
    """Commits commands in batches, in the order in which they came."""

    def __init__(
        self, commit: Commit, *, on_change: Callable[[Sequence[str]], None], on_commit: OnCommit | None = None
    ) -> None:
        self._commit = commit
        self._on_change = on_change
        self._on_commit = on_commit
        self._waiting: list[tuple[Command[Any], asyncio.Future[Any]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self.refusal: LedgerError | None = None
        """Why nothing is taken any more, if so."""
        self._loop = asyncio.create_task(self._commit_until_closed(), name="ledger-writer")

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def write(self, command: Command[T]) -> T:
        """Run a command in a transaction, and return its result after the commit is durable.

        Cancelling the caller does not withdraw the command: it may be committed already. After an error, the
        command's own or a `LedgerError`, nothing of the command is recorded.
        """
        if self._closing:
            raise LedgerError("ledger.stopping")
        if self.refusal is not None:
            raise self.refusal
        if len(self._waiting) >= MAX_WAITING:
            raise LedgerError("ledger.overloaded")
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, result))
        self._wake.set()
        return await result

    async def close(self) -> None:
        """Commit what waits, and refuse all that comes later."""
        self._closing = True
        self._wake.set()
        await self._loop

    async def _commit_until_closed(self) -> None:
        while self._waiting or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._gather()
                end = self._end_of_batch()
                batch, self._waiting = self._waiting[:end], self._waiting[end:]
                results = await self._commit_batch([command for command, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    if future.done():  # its caller was cancelled
                        continue
                    if result.error is not None:
                        future.set_exception(result.error)
                    else:
                        future.set_result(result.value)
                if changed := [job for result in results for job in result.changed]:
                    self._on_change(changed)

    async def _gather(self) -> None:
        """Let the event loop answer the batch before, and bring what comes upon that, while more comes.

        A commit that runs beside that takes twice as long, because the two share the interpreter, and the
        next commit gets what could have shared this one.
        """
        idle_turns = 0
        for _ in range(MAX_TURNS):
            waiting = len(self._waiting)
            await asyncio.sleep(0)
            idle_turns = idle_turns + 1 if len(self._waiting) == waiting else 0
            if idle_turns == IDLE_TURNS:
                return

    def _end_of_batch(self) -> int:
        size = 0
        for number, (command, _) in enumerate(self._waiting[:MAX_BATCH]):
            size += command.size if isinstance(command, Batched) else 0
            if number > 0 and size > MAX_BATCH_BYTES:
                return number
        return MAX_BATCH

    async def _commit_batch(self, commands: Sequence[Command[Any]]) -> Sequence[Result]:
        began = time.perf_counter()
        try:
            results = await self._commit(commands)
        except Exception as error:  # noqa: BLE001 - the connection itself broke: no caller may wait for ever
            return [Result(error=error) for _ in commands]
        if self._on_commit is not None and any(result.error is None for result in results):
            self._on_commit(len(commands), time.perf_counter() - began)
        return results
