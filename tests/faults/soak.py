"""Random faults for so long, then an audit of the ledger against the archive.

    python -m tests.faults.soak --minutes 20 [--seed N]

Real processes: a receiver, a SeaweedFS over TLS, a host of images. Deliveries go on all the time, in bursts
and twice, while the receiver is killed, stopped and started, the store is killed, frozen and started, the
host of images fails, the disk is full, and files vanish from the spool or rot there. What a run does follows
from its seed; how the processes meet it does not. It ends with 1 where one acknowledged image was lost,
archived twice or left waiting.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.matrix import Tally, audit, in_bucket
from tests.support.disk import Quota
from tests.support.gallery import Gallery, gallery
from tests.support.load import Answers, deliver
from tests.support.processes import Programs, ReceiverProcess, settings
from tests.support.seaweed import Seaweed, seaweed

PREFIX = "soak"
SENDERS = 8
LONGEST_STOP = 10
"""Seconds."""

LONGEST_DRAIN = 60 * 60
"""Seconds for what waits at the end: a job may have three faults before it, with up to 15 minutes between."""

LIFE = 120
"""Seconds that the URLs live which never give an image, so that these jobs end in the run as well."""

PASSING = ("503", "cut", "empty", "page", "dropped")
"""Faults of the host of images that pass; each meets a job once: the same page twice is no accident."""

NEVER = ("410", "other")
"""Faults that never pass: these jobs have no image."""


@dataclass
class Soak:
    """One run.

    Attributes:
        dice: what it does next.
        programs: starts the receivers.
        store: where images go.
        images: where they come from.
        values: the receiver's settings.
        until: when it is over, of `time.monotonic`.
        prefix: with which the names of its jobs begin.
        receiver: the running one.
        answers: to all deliveries so far.
        met: how often it met each fault.
        jobs: how many were delivered.
        complaints: what a receiver did that it must never do.
        running: ends the receiver.
    """

    dice: random.Random
    programs: Programs
    store: Seaweed
    images: Gallery
    values: dict[str, str]
    until: float
    prefix: str = "soak"
    receiver: ReceiverProcess | None = None
    answers: Answers = field(default_factory=Answers)
    met: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    complaints: list[str] = field(default_factory=list)
    running: ExitStack = field(default_factory=ExitStack)
    _ends: dict[str, int] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing more is to begin."""
        return time.monotonic() >= self.until

    # The receiver

    def start(self) -> None:
        """Starts a receiver on the port of the one before."""
        self.receiver = self.running.enter_context(self.programs.receiver_process(self.values, cold=True))
        self.values["RECEIVER_PORT"] = str(self.receiver.port)

    def end(self, how: str) -> None:
        """Ends the receiver by a signal, and notes what it did that it must not do."""
        assert self.receiver is not None
        if how == "kill":
            self.receiver.program.kill()
        else:
            code, seconds = self.receiver.program.stop()
            if code != 0 or seconds >= LONGEST_STOP:
                self.complaints.append(f"a stop took {seconds:.1f} s and ended with {code}")
        said = self.receiver.program.log
        self.running.close()
        self.receiver = None
        self.complaints += [line for line in said.splitlines() if "Traceback" in line]
        self.programs.started.clear()

    # What comes

    async def deliver(self) -> None:
        """Delivers until the time is over: now and then a burst, and some of it twice."""
        while not self.over:
            count = self.dice.choice((1, 1, 2, 5, 10, 60))
            fresh = [self._job() for _ in range(count)]
            await self._send(fresh)
            known = self.answers.acknowledged
            await self._send(self.dice.sample(known, min(3, len(known))))
            await asyncio.sleep(self.dice.uniform(0.1, 1.0))

    async def _send(self, job_ids: Sequence[str]) -> None:
        jobs = {job_id: self.images.completion(job_id, self._query(job_id)) for job_id in job_ids}
        port = int(self.values["RECEIVER_PORT"])
        await deliver(port, jobs, SENDERS, insisting=True, into=self.answers)

    def _job(self) -> str:
        self.jobs += 1
        job_id = f"{self.prefix}-{self.jobs}"
        luck = self.dice.random()
        if luck < 0.05:
            self.images.never[job_id] = self.dice.choice(NEVER)
        elif luck < 0.25:
            self.images.faults[job_id] = self.dice.sample(PASSING, self.dice.randint(1, 3))
        return job_id

    def _query(self, job_id: str) -> str:
        """What stands behind the job's URL; of a job without an image, the end of a short life."""
        if job_id not in self.images.never:
            return ""
        ends = self._ends.setdefault(job_id, int(time.time()) + LIFE)
        return f"?Expires={ends}&Signature=x"  # S3's older query signature: seconds since the epoch

    # What goes wrong

    async def harm(self) -> None:
        """One fault after the other until the time is over; each is over before the next."""
        faults = (
            self.receiver_is_killed,
            self.receiver_is_killed,
            self.receiver_is_stopped,
            self.store_is_killed,
            self.store_is_frozen,
            self.store_and_receiver_are_killed,
            self.images_are_away,
            self.spool_rots,
            self.disk_is_full,
        )
        while not self.over:
            await asyncio.sleep(self.dice.uniform(1, 6))
            fault: Callable[[], Awaitable[None]] = self.dice.choice(faults)
            self.met[fault.__name__.replace("_", " ")] += 1
            await fault()

    async def receiver_is_killed(self) -> None:
        await asyncio.to_thread(self.end, "kill")
        await self._lasts(2)
        await asyncio.to_thread(self.start)

    async def receiver_is_stopped(self) -> None:
        await asyncio.to_thread(self.end, "stop")
        await self._lasts(2)
        await asyncio.to_thread(self.start)

    async def store_is_killed(self) -> None:
        await asyncio.to_thread(self.store.kill)
        await self._lasts(15)
        await asyncio.to_thread(self.store.start)

    async def store_is_frozen(self) -> None:
        assert self.store.process is not None
        os.killpg(self.store.process.pid, signal.SIGSTOP)
        try:
            await self._lasts(15)
        finally:
            os.killpg(self.store.process.pid, signal.SIGCONT)

    async def store_and_receiver_are_killed(self) -> None:
        await asyncio.to_thread(self.store.kill)
        await self.receiver_is_killed()
        await self._lasts(5)
        await asyncio.to_thread(self.store.start)

    async def images_are_away(self) -> None:
        self.images.away = True
        try:
            await self._lasts(10)
        finally:
            self.images.away = False

    async def spool_rots(self) -> None:
        """While the store is away, one image in the spool is damaged, and another vanishes."""
        await asyncio.to_thread(self.store.kill)
        await self._lasts(5)
        spool = Path(self.values["RECEIVER_DATA_DIR"]) / "spool"
        whole = sorted(file for file in spool.iterdir() if file.suffix == ".png")
        for file, harm in zip(self.dice.sample(whole, min(2, len(whole))), (_rot, _vanish), strict=False):
            harm(file)
        await asyncio.to_thread(self.store.start)

    async def disk_is_full(self) -> None:
        """No file of the receiver may grow."""
        assert self.receiver is not None
        pid = self.receiver.program.process.pid
        quota = Quota(Path(self.values["RECEIVER_DATA_DIR"]))
        quota.fill(pid)
        try:
            await self._lasts(5)
        finally:
            quota.free(pid)

    async def _lasts(self, longest: float) -> None:
        await asyncio.sleep(self.dice.uniform(0.1, longest))

    # The end

    async def drain(self) -> float:
        """Waits until no job waits any more. Gives how long that took, seconds."""
        began = time.monotonic()
        assert self.receiver is not None
        while time.monotonic() - began < LONGEST_DRAIN:
            stats = await asyncio.to_thread(self.receiver.get, "/stats")
            states = stats.raise_for_status().json()["states"]
            if not states["received"] and not states["fetched"]:
                break
            await asyncio.sleep(1)
        return time.monotonic() - began


def _rot(file: Path) -> None:
    with file.open("r+b") as image:
        image.seek(20)
        image.write(b"rotten")


def _vanish(file: Path) -> None:
    file.unlink(missing_ok=True)


async def run(soak: Soak, minutes: float) -> bool:
    """Runs it to its end, and prints what became of the jobs. Gives whether the promise was kept."""
    await asyncio.to_thread(soak.start)
    await asyncio.gather(soak.deliver(), soak.harm())
    drained = await soak.drain()
    assert soak.receiver is not None
    job_ids = sorted(set(soak.answers.acknowledged))
    wanted = soak.images.images(job_ids)
    kept = await asyncio.to_thread(in_bucket, soak.store, PREFIX)
    tally = await asyncio.to_thread(audit, soak.receiver, wanted, kept)
    report(soak, tally, minutes, drained)
    for job_id in [] if tally.kept() else job_ids:
        if not audit(soak.receiver, {job_id: wanted[job_id]}, kept).kept():
            say(f"{job_id}: {soak.receiver.job(job_id)}")
    await asyncio.to_thread(soak.end, "stop")
    left = [file.name for file in (Path(soak.values["RECEIVER_DATA_DIR"]) / "spool").iterdir()]
    if left:
        soak.complaints.append(f"left in the spool: {left}")
    for complaint in soak.complaints:
        say(complaint)
    return tally.kept() and not soak.complaints and tally.acknowledged == tally.archived + tally.refused


def report(soak: Soak, tally: Tally, minutes: float, drained: float) -> None:
    """Prints the summary."""
    say(f"faults: {', '.join(f'{name} {count}' for name, count in sorted(soak.met.items()))}")
    answers = ", ".join(f"{status}: {count}" for status, count in sorted(soak.answers.statuses.items()))
    say(
        f"answers: {answers}, none: {len(soak.answers.unanswered)}; drained within {drained:.0f} s of the end"
    )
    say("| minutes | faults | acknowledged | archived | refused | lost | duplicated | needing a human |")
    say("| ------: | -----: | -----------: | -------: | ------: | ---: | ---------: | --------------: |")
    say(
        f"| {minutes:g} | {soak.met.total()} | {tally.acknowledged} | {tally.archived} | {tally.refused}"
        f" | {tally.lost} | {tally.duplicated} | {tally.human} |"
    )


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Random faults, then an audit.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    say(f"seed {options.seed}, {options.minutes:g} minutes")
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        seaweed() as store,
        gallery() as images,
    ):
        values = settings(
            Path(folder),
            RECEIVER_URL_LIFETIME="10m",  # an end that was past when a delivery came is not believed
            RECEIVER_ARCHIVE=f"s3://{store.bucket}/{PREFIX}",
            **store.environment(),
        )
        soak = Soak(
            dice=random.Random(options.seed),
            programs=Programs(Path(folder)),
            store=store,
            images=images,
            values=values,
            until=time.monotonic() + options.minutes * 60,
        )
        with soak.running:
            kept = asyncio.run(run(soak, options.minutes))
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
