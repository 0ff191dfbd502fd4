"""An engine of the ledger that commits, and whose answer does not come."""

from collections.abc import Callable, Sequence
from typing import Any

from receiver.core.clock import Clock
from receiver.core.errors import LedgerError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Ledger
from receiver.ledger.engine import Engine, opener
from receiver.ledger.transaction import Command, Result


class LosesAnswers:
    """An engine; ``is_lost`` says after each commit whether its answer is lost."""

    def __init__(self, engine: Engine, is_lost: Callable[[], bool]) -> None:
        self._engine = engine
        self._is_lost = is_lost
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def commit(self, commands: Sequence[Command[Any]]) -> Sequence[Result]:
        results = await self._engine.commit(commands)
        if self._is_lost() and all(result.error is None for result in results):
            self.lost += 1
            raise LedgerError("ledger.unavailable", "The connection broke before the answer to COMMIT.")
        return results


async def open_to_lose(
    place: LedgerLocation, is_lost: Callable[[], bool], *, now: Clock, monotonic: Clock
) -> tuple[Ledger, LosesAnswers]:
    """Open the ledger of a server, as `Ledger.serve` does."""
    engine = await opener(place, now, monotonic).to_serve()
    await engine.commit([engine.recover])
    lossy = LosesAnswers(engine, is_lost)
    return Ledger(lossy), lossy
