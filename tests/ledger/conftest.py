"""A ledger in a fresh folder, with clocks that stand still until a test sets them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.ledger import Ledger
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monotonic() -> Clock:
    return Clock(5_000_000)


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock, monotonic: Clock) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(tmp_path, now=clock, monotonic=monotonic)
    yield ledger
    await ledger.close()
