"""What a ledger of many jobs costs: `python -m tests.bench.many_jobs [--jobs N]`.

A ledger of a million jobs and one of a thousand are filled by SQL, then compared: the CPU time of a start, of
each query beside a writer, and of the steps of a job. What counts is the ratio of the two ledgers, and
whether a query stays below `LIMIT_MS`; each figure alone says more of the machine.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from receiver.core.completion import Completion
from receiver.core.jobs import Image, State, StoredObject
from receiver.ledger import COUNTED_TO, FILE_NAME, Delivery, Filter, Ledger, LedgerReader
from receiver.ledger.connection import Connection
from receiver.ledger.engine import Place
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.driver import sqlite3
from tests.support.processes import Programs, settings

T = TypeVar("T")

LIMIT_MS = 5.0
FEW = 1_000
DAY = 86_400_000
DAYS = 10
NOW = int(time.time() * 1000)
SPAN = DAYS * DAY
FREQUENT = "catalogue"
"""The reference of every third job."""
COMMON_HOST, RARE_HOST = "shop.example.com", "rare.example.com"
"""Of the sources: the rare one has 50 jobs."""

_JOBS = f"""
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :jobs),
    jobs_of_states AS (SELECT n, {NOW - SPAN} + n * {SPAN} / :jobs AS at, CASE
        WHEN n % 1000 = 1 THEN 'submitted'
        WHEN n % 100 = 4 THEN 'failed' WHEN n % 100 = 5 THEN 'rejected' WHEN n % 100 = 6 THEN 'expired'
        ELSE 'archived' END AS state FROM numbers)
    INSERT INTO jobs (seq, id, state, ref, endpoint, source_url, image_url, promised_width, promised_height,
        deadline, confirmed_at, format, width, height, bytes, sha256, spool, uri, etag, event, reason, detail,
        reason_at, created_at, submitted_at, received_at, fetched_at, archived_at, updated_at, ask_at)
    SELECT n, lower(hex(randomblob(16))), state, iif(n % 3 = 0, '{FREQUENT}', 'order-' || n), 'upscale_2x',
        'https://' || iif(n % (:jobs / 50) = 0, '{RARE_HOST}', '{COMMON_HOST}') || '/photos/' || n || '.jpg',
        iif(state = 'submitted', NULL, 'https://results.example.com/' || n || '.jpg?signature=0123456789'),
        2048, 1536, at + {DAY}, NULL,
        iif(done, 'jpeg', NULL), iif(done, 2048, NULL), iif(done, 1536, NULL), iif(done, 1000000, NULL),
        iif(done, lower(hex(randomblob(32))), NULL), NULL,
        iif(state = 'archived', 's3://archive/2026/11/' || n || '.jpg', NULL), NULL, state,
        iif(bad, 'fetch.timeout', NULL), iif(bad, 'The host was too slow.', NULL), iif(bad, at, NULL),
        at, at, iif(state = 'submitted', NULL, at), iif(done, at, NULL),
        iif(done, at + 300 + (n * 7919 % 1000) * (n * 104729 % 1000) / 10, NULL), at,
        iif(state = 'submitted', at, NULL)
    FROM (SELECT *, state = 'archived' AS done,
        state IN ('failed', 'rejected', 'expired') AS bad FROM jobs_of_states)
"""
_HISTORY = """
    INSERT INTO history (job, at, event, before, after, reason)
    SELECT seq, created_at, 'received', NULL, 'received', NULL FROM jobs UNION ALL
    SELECT seq, created_at, 'fetched', 'received', 'fetched', NULL FROM jobs UNION ALL
    SELECT seq, created_at, state, 'fetched', state, reason FROM jobs
"""
_OTHERS = """
    INSERT INTO submissions (key, mark, at, job)
    SELECT 'list-' || seq, 'mark-' || seq, created_at, id FROM jobs WHERE seq % 4 = 0;
    INSERT INTO findings (job, reason, detail, at)
    SELECT seq, 'archive.missing', 'There is none.', updated_at FROM jobs WHERE state = 'archived' LIMIT 1000;
    INSERT INTO hosts SELECT DISTINCT 'results.example.com', seq / 64 FROM jobs WHERE image_url IS NOT NULL;
    INSERT INTO hosts SELECT DISTINCT substr(source_url, 9, 16), seq / 64 FROM jobs;
    INSERT INTO archived_by_hour SELECT archived_at - archived_at % 3600000,
        (SELECT max(low) FROM durations WHERE low <= archived_at - received_at), count(*), sum(bytes)
        FROM jobs WHERE state = 'archived' GROUP BY 1, 2;
    INSERT INTO failed_by_day SELECT reason_at - reason_at % 86400000, reason, count(*)
        FROM jobs WHERE reason IS NOT NULL GROUP BY 1, 2;
    UPDATE totals SET jobs = (SELECT count(*) FROM jobs WHERE jobs.state = totals.state),
        bytes = (SELECT coalesce(sum(bytes), 0) FROM jobs WHERE jobs.state = totals.state);
"""


def fill(folder: Path, jobs: int) -> None:
    """Make a ledger of so many jobs of ten days, nearly all of them archived."""
    path = folder / FILE_NAME
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000")
    schema.prepare(db, path)
    # Indexes are built at the end, and nothing is counted by triggers: a tenth of the time.
    later = db.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
    ).fetchall()
    for kind, name, _ in later:
        db.execute(f"DROP {kind} {name}")
    db.execute("BEGIN")
    db.execute(_JOBS, {"jobs": jobs})
    db.execute(_HISTORY)
    for _, _, sql in later:
        db.execute(sql)
    db.execute("COMMIT")
    db.executescript(_OTHERS)
    db.close()


Query = Callable[[LedgerReader, int], Awaitable[object]]
"""Asks a ledger; the number is another one each time, below the number of its jobs."""


def _listing(moved: Sequence[str] = (), **wanted: Any) -> Query:
    """Ask for pages of 100 jobs; the bounds of time that are named move by a minute each time."""

    def ask(ledger: LedgerReader, number: int) -> Awaitable[object]:
        later = {name: wanted[name] + number % 50 * 60_000 for name in moved}
        return ledger.jobs(Filter(**{**wanted, **later}), limit=100)

    return ask


async def _one(ledger: LedgerReader, number: int) -> object:
    (job,) = (await ledger.jobs(Filter(), before=number + 2, limit=1)).jobs
    return await ledger.job_with_history(job.id)


MIDDLE, CUTOFF = NOW - SPAN // 2, NOW - DAY // 24
RARE, COMMON = (State.EXPIRED,), (State.ARCHIVED,)
UNTIL: dict[str, Any] = {"moved": ["until"], "until": MIDDLE}
QUERIES: dict[str, Query] = {
    "GET /jobs/{id}": _one,
    "GET /jobs": _listing(),
    "GET /jobs?cursor": lambda ledger, number: ledger.jobs(Filter(), before=number, limit=100),
    "GET /jobs?state (common)": _listing(states=COMMON),
    "GET /jobs?state (1 %)": _listing(states=RARE),
    "GET /jobs?state (three)": _listing(states=(State.FAILED, State.REJECTED, State.EXPIRED)),
    "GET /jobs?until": _listing(**UNTIL),
    "GET /jobs?since": _listing(["since"], since=MIDDLE),
    "GET /jobs?since&until": _listing(["since", "until"], since=MIDDLE, until=MIDDLE + DAY // 24),
    "GET /jobs?state&until (common)": _listing(**UNTIL, states=COMMON),
    "GET /jobs?state&until (1 %)": _listing(**UNTIL, states=RARE),
    "GET /jobs?ref": _listing(ref=FREQUENT),
    "GET /jobs?ref&state (common)": _listing(ref=FREQUENT, states=COMMON),
    "GET /jobs?ref&state (1 %)": _listing(ref=FREQUENT, states=RARE),
    "GET /jobs?ref&until": _listing(**UNTIL, ref=FREQUENT),
    "GET /jobs?ref&state&until": _listing(**UNTIL, ref=FREQUENT, states=COMMON),
    "GET /jobs?reason": _listing(reason="fetch.timeout"),
    "GET /jobs?reason&until": _listing(**UNTIL, reason="fetch.timeout"),
    "GET /jobs?reason&ref": _listing(ref=FREQUENT, reason="fetch.timeout"),
    "GET /jobs?overdue=true": _listing(overdue_before=CUTOFF),
    "GET /jobs?overdue=false": _listing(not_overdue_before=CUTOFF),
    "GET /jobs?search (an id)": lambda ledger, number: ledger.jobs(Filter(search=f"{number:06x}")),
    "GET /jobs?search (references)": lambda ledger, number: ledger.jobs(Filter(search=f"order-{number}")),
    "GET /jobs?search (most references)": _listing(search="order"),
    "GET /jobs?search (frequent ref.)": _listing(search=FREQUENT),
    "GET /jobs?search (frequent host)": _listing(search=COMMON_HOST),
    "GET /jobs?search (rare host)": _listing(search=RARE_HOST),
    "GET /jobs?search&state (1 %)": _listing(search=COMMON_HOST, states=RARE),
    "GET /jobs/changes": lambda ledger, number: ledger.transitions(after=number, limit=500),
    "GET /deliveries": lambda ledger, _: ledger.unread_deliveries(limit=100),
    "GET /stats": lambda ledger, _: ledger.stats(overdue_before=CUTOFF),
    "GET /metrics": lambda ledger, _: ledger.stats(overdue_before=CUTOFF, counted_to=COUNTED_TO),
    "GET /": lambda ledger, _: ledger.overview(overdue_before=CUTOFF, limit=10),
    "GET /, the last week": lambda ledger, _: ledger.week(NOW),
    "reconciler, pending": lambda ledger, _: ledger.pending(
        "ximilar", submitted_before=CUTOFF, ask_by=NOW, limit=200
    ),
    "reconciler, intents": lambda ledger, _: ledger.open_intents(before=NOW),
    "reconciler, submitted": lambda ledger, _: ledger.job_ids_submitted_since(NOW - 60_000),
    "worker, next event": lambda ledger, _: ledger.next_event_at(),
}
"""The queries of the API, the status page, the metrics, the feed, the reconciler and the worker."""


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds that a query takes, and the CPU time of its thread, which other work hardly changes."""

    p50: float
    p99: float
    cpu_p50: float
    cpu_p99: float

    def __str__(self) -> str:
        return f"{self.p50:7.2f} {self.p99:7.2f} {self.cpu_p50:7.2f} {self.cpu_p99:7.2f}"


async def _write(ledger: Ledger) -> None:
    """Record deliveries and archive them, without an end."""
    for number in itertools.count():
        ids = [f"{os.getpid()}-{number}-{n}" for n in range(8)]
        await asyncio.gather(*(ledger.record(delivery(job_id)) for job_id in ids))
        for claim in await ledger.claim_to_fetch(8, again=8, lease=60_000):
            await ledger.fetched(claim, IMAGE, f"{claim.job.id}.image")
        await asyncio.sleep(0.005)  # two hundred commits a second leave the disk to others


IMAGE = Image("jpeg", 2048, 1536, 1_000_000, "ab" * 32)
STORED = StoredObject("s3://archive/image.jpg")


def delivery(job_id: str) -> Delivery:
    url = f"https://results.example.com/{job_id}.jpg?signature=0123456789"
    completion = Completion(job_id, url, "https://shop.example.com/original.jpg", 2048, 1536)
    return Delivery(completion, b"{}" * 400, int(time.time() * 1000) + DAY, FREQUENT)


def thread_cpu(_: Connection) -> float:
    """Return the CPU seconds of this thread, in which SQLite runs."""
    return time.thread_time()


async def time_queries(
    place: Place, jobs: int, rounds: int, *, cpu_clock: Callable[[Any], float] = thread_cpu
) -> dict[str, Times]:
    """Ask every query so often, in turns, while a writer commits."""
    taken: dict[str, list[tuple[float, float]]] = {}
    cpu: list[float] = []
    async with await Ledger.serve(place) as ledger:
        read = ledger._readers.read

        async def timed_read(query: Callable[[Connection], object]) -> object:
            def timed(db: Connection) -> object:
                begin = cpu_clock(db)
                try:
                    return query(db)
                finally:
                    cpu.append(cpu_clock(db) - begin)

            return await read(timed)

        ledger._readers.read = timed_read  # type: ignore[assignment,method-assign]
        writer = asyncio.create_task(_write(ledger))
        for number in range(rounds):
            for name, query in QUERIES.items():
                begin = time.perf_counter()
                await query(ledger, number * 7919 % jobs)
                taken.setdefault(name, []).append((time.perf_counter() - begin, cpu[-1]))
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer
    return times_of(taken)


def times_of(taken: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Times]:
    return {
        name: Times(*_quantiles(wall), *_quantiles(own))
        for name, (wall, own) in ((name, zip(*found, strict=True)) for name, found in taken.items())
    }


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in ms."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * 0.99)] * 1000


async def time_steps(folder: Path, times: int) -> dict[str, float]:
    """Return the µs of CPU time that each step of a job takes, commits and threads included."""
    spent: Counter[str] = Counter()

    async def timed(name: str, *work: Awaitable[T]) -> list[T]:
        begin = time.process_time()
        done = await asyncio.gather(*work)
        spent[name] += int((time.process_time() - begin) * 1e9)
        return done

    async with await Ledger.serve(folder) as ledger:
        prefix = os.urandom(4).hex()
        for at in range(0, times, 64):
            ids = (f"{prefix}-{number}" for number in range(at, min(at + 64, times)))
            await timed("record", *(ledger.record(delivery(job_id)) for job_id in ids))
        for _ in range(0, times, 8):
            (held,) = await timed("claim a download", ledger.claim_to_fetch(8, again=8, lease=60_000))
            await timed("fetched", *(ledger.fetched(claim, IMAGE, claim.job.id) for claim in held))
        for _ in range(0, times, 8):
            (held,) = await timed("claim an upload", ledger.claim_to_archive(8, lease=60_000))
            await timed("archived", *(ledger.archived(claim, STORED) for claim in held))
        for _ in range(times):
            await timed("list 100 jobs", ledger.jobs(Filter(), limit=100))
    return {name: total / times / 1000 for name, total in spent.items()}


def start_seconds(folder: Path) -> float:
    """Return the CPU seconds of `receiver serve` until it is ready."""
    with Programs(folder).receiver_process(settings(folder), cold=True) as receiver:
        times = Path(f"/proc/{receiver.program.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill both ledgers, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=300, help="of all queries")
    parser.add_argument("--steps", type=int, default=1_000, help="jobs that are recorded and archived")
    parser.add_argument("--starts", type=int, default=5, help="of each ledger, in turns")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as name:
        folders = {jobs: Path(name) / str(jobs) / "data" for jobs in (FEW, options.jobs)}
        for jobs, folder in folders.items():
            folder.mkdir(parents=True)
            begin = time.perf_counter()
            fill(folder, jobs)
            size = (folder / FILE_NAME).stat().st_size / 2**20
            print(f"{jobs:9,} jobs: {size:.0f} MiB, filled in {time.perf_counter() - begin:.1f} s")
        starts: dict[int, list[float]] = {jobs: [] for jobs in folders}
        for _ in range(options.starts):
            for jobs, folder in folders.items():
                starts[jobs].append(start_seconds(folder.parent))
        few, many = (statistics.median(found) for found in starts.values())
        print(f"\nCPU time of a start: {few:.2f} s and {many:.2f} s, ratio {many / few:.2f}")
        print(f"\n{'step, µs of CPU time':32} {FEW:>9,} {options.jobs:>9,}  ratio")
        steps = [asyncio.run(time_steps(folder, options.steps)) for folder in folders.values()]
        for step in steps[0]:
            few, many = (found[step] for found in steps)
            print(f"{step:32} {few:9.0f} {many:9.0f} {many / few:6.2f}")
        print(f"\n{'query beside a writer, ms':32}  {FEW:,} jobs{options.jobs:>37,} jobs")
        print(f"{'':32}{'     p50     p99  CPU50  CPU99   ' * 2}")
        small, large = (
            asyncio.run(time_queries(folder, jobs, options.rounds)) for jobs, folder in folders.items()
        )
        for query, times in large.items():
            slow = "" if times.cpu_p99 < LIMIT_MS else f"  {LIMIT_MS:g} ms or more"
            print(f"{query:32} {small[query]} |{times}{slow}")


if __name__ == "__main__":
    main()
