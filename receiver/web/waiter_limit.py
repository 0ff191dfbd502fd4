"""Caps long polls and SSE clients so that they cannot starve webhook senders."""

from collections.abc import Iterator
from contextlib import contextmanager

from receiver.core.errors import LedgerError


class WaiterLimit:
    """Counts the clients that wait, of which ``number`` may at a time."""

    def __init__(self, number: int) -> None:
        self._free = number

    def check(self) -> None:
        """Raise `LedgerError`, ``ledger.crowded``, unless one more may wait."""
        if self._free <= 0:
            raise LedgerError("ledger.crowded")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count one client for the time of the block. `check` came before: an answer may have begun since."""
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
