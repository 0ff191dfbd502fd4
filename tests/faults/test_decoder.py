"""A decoder that cannot start: downloads pause, readiness says so, and work goes on by itself."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.api.health import readiness_checks
from receiver.verify.decoder import Limits
from receiver.verify.verifier import DECODER, Verifier
from tests.faults.workshop import MIB, Workshop, at_work
from tests.support.gallery import Gallery, gallery
from tests.support.waiting import eventually

HOUR = 3_600_000


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


async def failing(shop: Workshop) -> dict[str, str]:
    checks = readiness_checks(shop.ledger, shop.worker, ())
    found = {name: await probe() for name, probe in checks.items()}
    return {name: wrong for name, wrong in found.items() if wrong is not None}


async def test_while_no_decoder_starts_downloads_pause_and_then_go_on_by_themselves(
    tmp_path: Path, images: Gallery
) -> None:
    installed, starts = tmp_path / "installed", tmp_path / "starts"
    script = f'echo >> "{starts}"; test -e "{installed}" && exec "$@"'
    command = ("/bin/sh", "-c", script, "sh", *DECODER)
    verifier = Verifier(Limits(max_pixels=MIB), command=command)
    async with at_work(tmp_path, images, verifier=verifier) as shop:
        await asyncio.to_thread(eventually, lambda: verifier.error is not None)
        assert set(await failing(shop)) == {"decoder"}  # before any image has come
        for job_id in ("first", "second"):
            await shop.deliver(job_id, 24 * HOUR)
        await asyncio.to_thread(eventually, lambda: starts.read_text().count("\n") > 1)
        assert images.asked == []

        installed.touch()
        for job_id in ("first", "second"):
            await shop.ended(job_id)
        assert await failing(shop) == {}
        assert sorted(images.asked) == ["first", "second"]
        assert (await shop.tally("first", "second")).archived == 2
