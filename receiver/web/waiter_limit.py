"""How many may wait at a time: who only listens shall never take the place of a sender."""

from collections.abc import Iterator
from contextlib import contextmanager

from receiver.core.errors import LedgerError


class Seats:
    """Counts those who wait.

    Args:
        number: so many at a time.
    """

    def __init__(self, number: int) -> None:
        self._free = number

    def check(self) -> None:
        """Looks whether one is free.

        Raises:
            LedgerError: ``ledger.crowded``.
        """
        if self._free <= 0:
            raise LedgerError("ledger.crowded")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Takes one for the time of the block, whether or not one is free: that was looked at before."""
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
