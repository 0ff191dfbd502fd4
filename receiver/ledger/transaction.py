"""A command of the ledger, the transaction that it runs in, and its result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from receiver.ledger.sqlite.driver import sqlite3

A = TypeVar("A")
T = TypeVar("T")


@dataclass(slots=True)
class Transaction:
    """What a command works on: the connection, the wall clock's time, and that of leases, both in ms.

    ``changed`` takes the ids of jobs that the command changed; they are published after the durable commit.
    """

    db: sqlite3.Connection
    now: int
    monotonic: int
    changed: list[str] = field(default_factory=list)


Command = Callable[[Transaction], T]


@dataclass(frozen=True, slots=True)
class Batched(Generic[A, T]):
    """A command that runs together with its like beside it: ``run`` returns a result for each argument."""

    run: Callable[[Transaction, Sequence[A]], Sequence[T]]
    argument: A

    def __call__(self, tx: Transaction) -> T:
        return self.run(tx, [self.argument])[0]


class Result(NamedTuple):
    """What a command returned or raised, and the ids of the jobs that it changed."""

    value: Any = None
    error: Exception | None = None
    changed: Sequence[str] = ()
