"""Test deliveries: one at a time, also where several begin at once or one is killed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.config import load
from receiver.core.errors import LedgerError
from receiver.core.jobs import State
from receiver.ledger import Ledger
from receiver.operations.delivery_trial import SILENT_MS, DeliveryTrials, Trial, read_trial
from receiver.providers.base import Setup
from receiver.providers.registry import open_providers
from tests.ledger.actions import delivery, the_job
from tests.support.clock import SECOND, Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.processes import settings


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def trials(tmp_path: Path, clock: Clock) -> AsyncIterator[DeliveryTrials]:
    values = settings(tmp_path)
    providers = open_providers(Setup(load(values), values))
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=clock)
    yield DeliveryTrials(ledger=ledger, providers=providers, address="", confirm=False)
    await ledger.close()


async def test_of_several_that_begin_at_once_one_does(trials: DeliveryTrials) -> None:
    begun = await asyncio.gather(*(trials.begin("ximilar") for _ in range(3)), return_exceptions=True)
    (trial,) = (it for it in begun if isinstance(it, Trial))
    assert {it.reason for it in begun if isinstance(it, LedgerError)} == {"ledger.wrong_state"}
    assert await read_trial(trials.ledger) == trial
    assert not (await trials.run(trial)).worked
    await trials.begin("ximilar")


async def test_one_that_was_killed_makes_way_and_its_job_never_counts_as_lost(
    trials: DeliveryTrials, clock: Clock
) -> None:
    killed = await trials.begin("ximilar")
    await trials.ledger.record(delivery(killed.job))
    clock.forward(SILENT_MS - SECOND)
    with pytest.raises(LedgerError, match="under way"):
        await trials.begin("ximilar")
    clock.forward(SECOND)
    second = await trials.begin("ximilar")
    assert (await the_job(trials.ledger, killed.job)).state is State.REJECTED
    with pytest.raises(LedgerError, match="under way"):
        await trials.run(killed)
    assert await read_trial(trials.ledger) == second


async def test_where_tls_fails_the_remedy_is_about_tls(trials: DeliveryTrials) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 This is no TLS\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        trials.address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        trial = await trials.run(await trials.begin("ximilar"))
    assert trial.steps[-1].name == "reach"
    assert trial.steps[-1].remedy.startswith("Let the proxy speak TLS at this port, with a certificate")
