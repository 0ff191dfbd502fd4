"""What a ledger of many jobs costs: `python -m tests.bench.many_jobs [--jobs N]`.

A ledger of a million jobs and one of a thousand are filled by SQL, then compared: the CPU time of a start, of
each query beside a writer, and of the steps of a job. What counts is the ratio of the two ledgers, and
whether a query stays below `LIMIT_MS`; each figure alone says more of the machine. `--only pages` compares
the pages of two running receivers, one of them with a hundred jobs, and `--only searches` each kind of search
with that in a ledger of ten thousand.
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
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from receiver.api import params
from receiver.bootstrap.serve import freeze_startup_objects
from receiver.core.completion import Completion
from receiver.core.jobs import Image, State, StoredObject
from receiver.events.feed import PAGE_SIZE
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
CDN = "cdn-"
"""The begin of the names of a thousand hosts of images, which one of a hundred images comes from."""


def _digits(count: int) -> str:
    """SQL for so many hexadecimal digits of ``n``: no two numbers have the same, and no two runs differ."""
    parts = [f"n * {2654435761 * odd} & 4294967295" for odd in range(1, count // 4, 2)]
    return f"printf('{'%08x' * len(parts)}', {', '.join(parts)})"


_JOBS = f"""
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :jobs),
    jobs_of_states AS (SELECT n, {NOW - SPAN} + n * {SPAN} / :jobs AS at, CASE
        WHEN n % 1000 = 1 THEN 'submitted'
        WHEN n % 100 = 4 THEN 'failed' WHEN n % 100 = 5 THEN 'rejected' WHEN n % 100 = 6 THEN 'expired'
        ELSE 'archived' END AS state FROM numbers)
    INSERT INTO jobs (seq, id, state, ref, endpoint, source_url, image_url, host, promised_width,
        promised_height, deadline, confirmed_at, format, width, height, bytes, sha256, spool, uri, etag,
        event, reason, detail, reason_at, created_at, submitted_at, received_at, fetched_at, archived_at,
        updated_at, ask_at)
    SELECT n, {_digits(32)}, state, iif(n % 3 = 0, '{FREQUENT}', 'order-' || n), 'upscale_2x',
        'https://' || iif(n % (:jobs / 50) = 0, '{RARE_HOST}', '{COMMON_HOST}') || '/photos/' || n || '.jpg',
        iif(state = 'submitted', NULL, 'https://' || iif(n % 100 = 7, '{CDN}' || (n / 100 % 1000), 'results')
            || '.example.com/' || n || '.jpg?signature=0123456789'),
        iif(state = 'submitted', '', iif(n % 100 = 7, '{CDN}' || (n / 100 % 1000), 'results')
            || '.example.com'),
        2048, 1536, at + {DAY}, NULL,
        iif(done, 'jpeg', NULL), iif(done, 2048, NULL), iif(done, 1536, NULL), iif(done, 1000000, NULL),
        iif(done, {_digits(64)}, NULL), NULL,
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
    INSERT INTO archived_by_hour SELECT archived_at - archived_at % 3600000,
        (SELECT max(low) FROM durations WHERE low <= archived_at - received_at), count(*), sum(bytes)
        FROM jobs WHERE state = 'archived' GROUP BY 1, 2;
    INSERT INTO failed_by_day SELECT reason_at - reason_at % 86400000, reason, count(*)
        FROM jobs WHERE reason IS NOT NULL GROUP BY 1, 2;
    UPDATE totals SET jobs = (SELECT count(*) FROM jobs WHERE jobs.state = totals.state),
        bytes = (SELECT coalesce(sum(bytes), 0) FROM jobs WHERE jobs.state = totals.state);
"""
_HOSTS = "; ".join(
    f"INSERT INTO hosts SELECT DISTINCT substr({url}, 9, instr(substr({url}, 9), '/') - 1), seq / 16 AS chunk"
    f" FROM jobs WHERE {url} IS NOT NULL ORDER BY 1, 2"
    for url in ("image_url", "source_url")
)


def fill(folder: Path, jobs: int, *, history: bool = True) -> None:
    """Make a ledger of so many jobs of ten days, nearly all archived; searches need no history."""
    path = folder / FILE_NAME
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000")
    schema.prepare(db, path)
    db.execute("PRAGMA journal_mode = OFF")  # with ten million jobs, the log would take as long again
    # Indexes are built at the end, and nothing is counted by triggers: a tenth of the time.
    later = db.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
    ).fetchall()
    for kind, name, _ in later:
        db.execute(f"DROP {kind} {name}")
    db.execute("BEGIN")
    db.execute(_JOBS, {"jobs": jobs})
    if history:
        db.execute(_HISTORY)
    for _, _, sql in later:
        db.execute(sql)
    db.execute("COMMIT")
    db.executescript(_HOSTS)
    if history:
        db.executescript(_OTHERS)
    db.execute("PRAGMA journal_mode = WAL")
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
    "GET /jobs/changes": lambda ledger, number: ledger.transitions(after=number, limit=PAGE_SIZE),
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


@dataclass(frozen=True, slots=True)
class Pages:
    """Milliseconds that a page takes, and the CPU time of the receiver's process meanwhile."""

    p50: float
    p95: float
    cpu_p50: float
    cpu_p95: float

    @classmethod
    def of(cls, seconds: Sequence[tuple[float, float]]) -> Self:
        """Make it from pairs of both."""
        wall, own = zip(*seconds, strict=True)
        return cls(*_quantiles(wall, 0.95), *_quantiles(own, 0.95))

    def __str__(self) -> str:
        return f"{self.p50:7.1f} {self.p95:7.1f} {self.cpu_p50:7.1f} {self.cpu_p95:7.1f}"


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


def _count_cpu(ledger: LedgerReader, cpu_clock: Callable[[Any], float] = thread_cpu) -> list[float]:
    """Return a list to which each query of the ledger adds the CPU seconds that it took."""
    cpu: list[float] = []
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
    return cpu


async def time_queries(
    place: Place, jobs: int, rounds: int, *, cpu_clock: Callable[[Any], float] = thread_cpu
) -> dict[str, Times]:
    """Ask every query so often, in turns, while a writer commits."""
    taken: dict[str, list[tuple[float, float]]] = {}
    freeze_startup_objects()  # as `receiver serve` does
    async with await Ledger.serve(place) as ledger:
        cpu = _count_cpu(ledger, cpu_clock)
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


def _quantiles(seconds: Sequence[float], high: float = 0.99) -> tuple[float, float]:
    """Return the median and a high quantile, in ms."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * high)] * 1000


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


def _search(text: str, **wanted: Any) -> Query:
    return lambda ledger, _: ledger.jobs(Filter(search=text, **wanted), limit=100)


def _deep(text: str) -> Query:
    return lambda ledger, number: ledger.jobs(Filter(search=text), before=number + 2, limit=100)


async def _an_id(ledger: LedgerReader, number: int, letters: int | None = None) -> object:
    (job,) = (await ledger.jobs(Filter(), before=number + 2, limit=1)).jobs
    return await ledger.jobs(Filter(search=job.id[:letters]), limit=100)


SEARCHES: dict[str, Query] = {
    "an id": _an_id,
    "12 digits of an id": lambda ledger, number: _an_id(ledger, number, 12),
    "a digit, which ids begin with": lambda ledger, number: ledger.jobs(Filter(search=f"{number % 10}")),
    "a reference": lambda ledger, number: ledger.jobs(Filter(search=f"order-{number}")),
    "a reference of every third job": _search(FREQUENT),
    "a later page of it": _deep(FREQUENT),
    "what two thirds of references begin with": _search("order"),
    "the source's host, of nearly all": _search(COMMON_HOST),
    "a later page of them": _deep(COMMON_HOST),
    "its begin": _search("shop"),
    "the source's host, of 50 jobs": _search(RARE_HOST),
    "the image's host, of nearly all": _search("results.example.com"),
    "the image's host, of one in 100,000": lambda ledger, number: ledger.jobs(
        Filter(search=f"{CDN}{number % 1000}.example.com")
    ),
    "what a thousand hosts begin with": _search(CDN),
    "a later page of these": _deep(CDN),
    "a frequent host, of a state of 1 %": _search(COMMON_HOST, states=RARE),
    "nothing": _search("nothing"),
}
"""Searches by what is looked for."""


async def time_searches(folders: Mapping[int, Path], rounds: int) -> dict[int, dict[str, Times]]:
    """Search each ledger for everything so often, in turns."""
    taken: dict[int, dict[str, list[tuple[float, float]]]] = {jobs: {} for jobs in folders}
    async with AsyncExitStack() as stack:
        ledgers = {
            jobs: await stack.enter_async_context(await LedgerReader.open(folder))
            for jobs, folder in folders.items()
        }
        spent = {jobs: _count_cpu(ledger) for jobs, ledger in ledgers.items()}
        for number, (name, query) in itertools.product(range(rounds), SEARCHES.items()):
            for jobs, ledger in ledgers.items():
                begin = time.perf_counter()
                await query(ledger, number * 7919 % jobs)
                took = time.perf_counter() - begin, spent[jobs][-1]
                taken[jobs].setdefault(name, []).append(took)
    return {jobs: times_of(found) for jobs, found in taken.items()}


PAGES: dict[str, Callable[[str, int], str]] = {
    "/": lambda _, __: "/",
    "/?cursor": lambda _, number: f"/?cursor={params.cursor(number)}",
    "/?search": lambda _, __: "/?search=order",
    "/page/gallery": lambda _, __: "/page/gallery",
    "/page/gallery?cursor": lambda _, number: f"/page/gallery?cursor={params.cursor(number)}",
    "/page/jobs/{id}": lambda job_id, _: f"/page/jobs/{job_id}",
}
"""Paths by a job's id and by a position before which there are jobs for a whole page."""


def time_pages(folders: Mapping[int, Path], rounds: int) -> dict[str, dict[int, Pages]]:
    """Ask a receiver of each ledger for every page so often, in turns."""
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        receivers = {
            jobs: stack.enter_context(Programs(folder).receiver_process(settings(folder), cold=True))
            for jobs, folder in folders.items()
        }
        for receiver in receivers.values():
            _until_idle(receiver.program.process.pid)
        for number, name in itertools.product(range(rounds), PAGES):
            for jobs, receiver in receivers.items():
                at = jobs - number * 7919 % (jobs - 70)
                listed = {"limit": 1, "cursor": params.cursor(at)}
                job_id = receiver.get("/jobs", params=listed).json()["jobs"][0]["id"]
                path, pid = PAGES[name](job_id, at), receiver.program.process.pid
                begin, own = time.perf_counter(), _cpu_seconds(pid)
                receiver.get(path, headers={"Accept-Encoding": "gzip"}).raise_for_status()
                spent = time.perf_counter() - begin, _cpu_seconds(pid) - own
                taken.setdefault((name, jobs), []).append(spent)
    return {
        name: {jobs: Pages.of(found) for (other, jobs), found in taken.items() if other == name}
        for name in PAGES
    }


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, all threads together."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3)


def _until_idle(pid: int) -> None:
    """Wait until a receiver has done what it does after its start, such as reading the whole ledger."""
    spent = -1.0
    while _cpu_seconds(pid) - spent > 0.1:
        spent = _cpu_seconds(pid)
        time.sleep(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill both ledgers, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("pages", "searches"), help="measure these, and nothing else")
    parser.add_argument("--rounds", type=int, default=300, help="of all queries")
    parser.add_argument("--steps", type=int, default=1_000, help="jobs that are recorded and archived")
    parser.add_argument("--starts", type=int, default=5, help="of each ledger, in turns")
    options = parser.parse_args(arguments)
    few = {"pages": 100, "searches": 10_000}.get(options.only, FEW)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as name:
        folders = {jobs: Path(name) / str(jobs) / "data" for jobs in (few, options.jobs)}
        for jobs, folder in folders.items():
            folder.mkdir(parents=True)
            begin = time.perf_counter()
            fill(folder, jobs, history=options.only != "searches")
            size = (folder / FILE_NAME).stat().st_size / 2**20
            print(f"{jobs:9,} jobs: {size:.0f} MiB, filled in {time.perf_counter() - begin:.1f} s")
        if options.only == "pages":
            print(f"\n{'page, ms':32}  {few:,} jobs{options.jobs:>37,} jobs")
            print(f"{'':32}{'     p50     p95   CPU50   CPU95   ' * 2}")
            parents = {jobs: folder.parent for jobs, folder in folders.items()}
            for page, asked in time_pages(parents, options.rounds).items():
                print(f"{page:32} {asked[few]} | {asked[options.jobs]}")
            return
        if options.only == "searches":
            print(f"\n{'search, ms':42}  {few:,} jobs{options.jobs:>37,} jobs")
            print(f"{'':42}{'     p50     p99   CPU50   CPU99   ' * 2}")
            found = asyncio.run(time_searches(folders, options.rounds))
            for search, taken in found[options.jobs].items():
                print(f"{search:42} {found[few][search]} | {taken}")
            return
        starts: dict[int, list[float]] = {jobs: [] for jobs in folders}
        for _ in range(options.starts):
            for jobs, folder in folders.items():
                starts[jobs].append(start_seconds(folder.parent))
        first, second = (statistics.median(seconds) for seconds in starts.values())
        print(f"\nCPU time of a start: {first:.2f} s and {second:.2f} s, ratio {second / first:.2f}")
        print(f"\n{'step, µs of CPU time':32} {FEW:>9,} {options.jobs:>9,}  ratio")
        steps = [asyncio.run(time_steps(folder, options.steps)) for folder in folders.values()]
        for step in steps[0]:
            small_cost, large_cost = (costs[step] for costs in steps)
            print(f"{step:32} {small_cost:9.0f} {large_cost:9.0f} {large_cost / small_cost:6.2f}")
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
