"""Random faults of two receivers on one PostgreSQL for so long, then an audit.

    python -m tests.faults.soak_cluster --minutes 20 [--seed N]

As `tests.faults.soak`, with two receivers that are killed, stopped and started by themselves and together,
the database killed and restarted, and the first receiver's way to it cut off, stalled, or lost.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.matrix import audit, in_bucket
from tests.faults.soak import PREFIX, Soak, report, say
from tests.support.gallery import gallery
from tests.support.load import Answers
from tests.support.postgres import Postgres, postgres
from tests.support.processes import Programs, settings
from tests.support.proxy import Proxy, proxy
from tests.support.seaweed import seaweed


@dataclass
class Cluster:
    """One run: each receiver has its own senders, and they share everything else."""

    dice: random.Random
    seats: tuple[Soak, Soak]
    server: Postgres
    way: Proxy
    met: Counter[str] = field(default_factory=Counter)

    async def harm(self) -> None:
        """One fault after the other until the time is over; each is over before the next."""
        first, second = self.seats
        faults = (
            first.receiver_is_killed,
            second.receiver_is_killed,
            self.both_are_killed,
            first.receiver_is_stopped,
            second.receiver_is_stopped,
            self.database_is_killed,
            self.database_is_restarted,
            self.one_is_cut_off,
            self.one_is_stalled,
            self.connections_are_lost,
            first.store_is_killed,
            first.images_are_away,
        )
        while not first.over:
            await asyncio.sleep(self.dice.uniform(1, 6))
            fault = self.dice.choice(faults)
            self.met[fault.__name__.replace("_", " ")] += 1
            await fault()

    async def both_are_killed(self) -> None:
        await asyncio.gather(*(seat.receiver_is_killed() for seat in self.seats))

    async def database_is_killed(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await self._lasts(5)
        await asyncio.to_thread(self.server.start)

    async def database_is_restarted(self) -> None:
        await asyncio.to_thread(self.server.restart)

    async def one_is_cut_off(self) -> None:
        self.way.down.set()
        self.way.cut()
        await self._lasts(10)
        self.way.down.clear()

    async def one_is_stalled(self) -> None:
        self.way.stall()
        await self._lasts(10)
        self.way.resume()

    async def connections_are_lost(self) -> None:
        self.way.lose()
        await self._lasts(2)

    async def _lasts(self, longest: float) -> None:
        await asyncio.sleep(self.dice.uniform(0.1, longest))


async def run(cluster: Cluster, minutes: float) -> bool:
    """Run it to its end, and print what became of the jobs. Return whether the promise was kept."""
    first, second = cluster.seats
    for seat in cluster.seats:
        await asyncio.to_thread(seat.start)
    await asyncio.gather(first.deliver(), second.deliver(), cluster.harm())
    drained = await first.drain()
    assert first.receiver is not None
    job_ids = sorted({*first.answers.acknowledged})
    wanted = first.images.images(job_ids)
    kept = await asyncio.to_thread(in_bucket, first.store, PREFIX)
    tally = await asyncio.to_thread(audit, first.receiver, wanted, kept)
    first.met = cluster.met
    report(first, tally, minutes, drained)
    for job_id in [] if tally.kept() else job_ids:
        if not audit(first.receiver, {job_id: wanted[job_id]}, kept).kept():
            say(f"{job_id}: {first.receiver.job(job_id)}")
    complaints = []
    for seat in cluster.seats:
        await asyncio.to_thread(seat.end, "stop")
        left = [file.name for file in (Path(seat.values["RECEIVER_DATA_DIR"]) / "spool").iterdir()]
        complaints += [*seat.complaints, *([f"left in the spool: {left}"] if left else [])]
    for complaint in complaints:
        say(complaint)
    return tally.kept() and not complaints and tally.acknowledged == tally.archived + tally.refused


def main() -> None:
    parser = argparse.ArgumentParser(description="Random faults of two receivers, then an audit.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    say(f"seed {options.seed}, {options.minutes:g} minutes")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        store, images = stack.enter_context(seaweed()), stack.enter_context(gallery())
        server = stack.enter_context(postgres())
        way = stack.enter_context(proxy(server.port))
        database = server.create("ledger")
        dice, answers = random.Random(options.seed), Answers()

        def seat(name: str, port: int) -> Soak:
            (folder / name).mkdir()
            values = settings(
                folder / name,
                RECEIVER_LEDGER=server.url(database, port=port),
                RECEIVER_INSTANCE=name,
                RECEIVER_URL_LIFETIME="10m",  # an end that was past when a delivery came is not believed
                RECEIVER_ARCHIVE=f"s3://{store.bucket}/{PREFIX}",
                **store.environment(),
            )
            until = time.monotonic() + options.minutes * 60
            programs = Programs(folder / name)
            return Soak(dice, programs, store, images, values, until, prefix=name, answers=answers)

        seats = seat("one", way.port), seat("two", server.port)
        for it in seats:
            stack.enter_context(it.running)
        kept = asyncio.run(run(Cluster(dice, seats, server, way), options.minutes))
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
