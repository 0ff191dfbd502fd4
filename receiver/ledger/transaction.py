"""A command of the ledger, the transaction that it runs in, and its result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Generic, NamedTuple, TypeVar

from receiver.ledger.connection import Connection, insert_rows

A = TypeVar("A")
T = TypeVar("T")


@dataclass(slots=True)
class Transaction:
    """What a command works on: the connection, the wall clock's time, and that of leases, both in ms.

    ``instance`` is this receiver among those that share the ledger, empty where it is the only one.
    ``changed`` takes the ids of jobs that the command changed; they are published after the durable commit.
    ``insert`` is `insert_rows`, or the engine's own way to do that.
    """

    db: Connection
    now: int
    monotonic: int
    instance: str = ""
    changed: list[str] = field(default_factory=list)
    insert: Callable[..., list[Any]] = insert_rows

    def change(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        """Run an update of jobs that returns their ids, and return its rows."""
        rows = self.db.execute(sql, values).fetchall()
        self.changed += [row["id"] for row in rows]
        return rows


Command = Callable[[Transaction], T]


@dataclass(slots=True)  # a frozen one takes three times as long to make, and each delivery makes one
class Batched(Generic[A, T]):
    """A command that runs together with its like beside it: ``run`` returns a result for each argument.

    ``size`` is how many bytes the argument has.
    """

    run: Callable[[Transaction, Sequence[A]], Sequence[T]]
    argument: A
    size: int = 0

    def __call__(self, tx: Transaction) -> T:
        return self.run(tx, [self.argument])[0]


class Result(NamedTuple):
    """What a command returned or raised, and the ids of the jobs that it changed."""

    value: Any = None
    error: Exception | None = None
    changed: Sequence[str] = ()


def run_together(commands: Sequence[Command[Any]], begin: Callable[[], Transaction]) -> list[Result]:
    """Run commands in the transaction that is open, each with a `Transaction` that ``begin`` makes."""
    results: list[Result] = []
    for run, group in groupby(commands, lambda each: each.run if isinstance(each, Batched) else None):
        if run is None:
            for command in group:
                tx = begin()
                results.append(Result(command(tx), changed=tx.changed))
        else:
            tx = begin()
            values = run(tx, [each.argument for each in group if isinstance(each, Batched)])
            results += [Result(value) for value in values[:-1]]
            results.append(Result(values[-1], changed=tx.changed))
    return results
