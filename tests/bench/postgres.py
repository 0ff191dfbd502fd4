"""What the ledger in PostgreSQL gives: `python -m tests.bench.postgres`.

Acknowledged deliveries, in turns, from one load generator, on one PostgreSQL with fsync, each with a database
of its own: `receiver serve`; two of them on one ledger; and behind a Starlette route that parses the same
body, a workflow of DBOS that is enqueued, and a job of Procrastinate that is deferred. Every server is held
to one core, the second receiver to another; the database and the generator are free, and their CPU is named
apart. One that has no turn is stopped.

Then every query, beside a writer, and the steps of a job, on a ledger of a million jobs that `ledger-copy`
has copied. CPU is the client's thread's and the server process's.

The contenders are installed in a temporary folder, or in that of `--contenders`.
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Ledger
from receiver.ledger.postgres.copy import copy_ledger
from tests.bench import many_jobs
from tests.bench.acknowledge import by_header, process, temporary_folder
from tests.bench.footprint import cpu_seconds
from tests.support.caddy import free_port
from tests.support.postgres import Postgres, postgres
from tests.support.processes import ROOT, environment, settings

CONTENDERS = ("dbos==3.4.0", "procrastinate==3.10.0")
BESIDE = ("starlette", "uvicorn", "uvloop", "httptools", "psycopg[binary]")
"""What the contenders' route needs; the versions are this environment's."""

CONNECTIONS = 64
LIMIT_MS = 5.0


@dataclass(frozen=True, slots=True)
class Round:
    """What one round gave: deliveries a second, times, and µs of CPU for a delivery."""

    per_second: float
    p50_ms: float
    p99_ms: float
    server: float
    database: float
    generator: float

    def __str__(self) -> str:
        times = f"p50 {self.p50_ms:6.1f} ms  p99 {self.p99_ms:6.1f} ms"
        cpu = f"server {self.server:5.0f}  database {self.database:5.0f}  generator {self.generator:4.0f}"
        return f"{self.per_second:7.0f}/s  {times}  CPU, µs: {cpu}"


@dataclass(frozen=True, slots=True)
class Servers:
    """Those that share a turn."""

    pids: tuple[int, ...]
    ports: tuple[int, ...]
    images: str

    def take(self, requests: int, database: int) -> Round:
        """Let them run for one round."""
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        try:
            return uvloop.run(load(self, requests, database))
        finally:
            for pid in self.pids:
                os.kill(pid, signal.SIGSTOP)


class _Client(asyncio.Protocol):
    """A keep-alive connection that sends the next delivery when it has the answer to the former."""

    def __init__(self, messages: list[bytes], took: list[float]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._messages = messages
        self._took = took
        self._answer = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._finish(RuntimeError(self._answer.decode()))
            return
        self._took.append(time.perf_counter() - self._began)
        self._answer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc or ConnectionError("The server hung up."))

    def _send(self) -> None:
        if self._messages:
            self._began = time.perf_counter()
            self._transport.write(self._messages.pop())
        else:
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None) if error is None else self.done.set_exception(error)
            self._transport.close()


async def load(servers: Servers, requests: int, database: int) -> Round:
    """Send deliveries of new jobs over as many connections to each server."""
    took: list[float] = []
    messages = [by_header(str(uuid.uuid4()), servers.images) for _ in range(requests)]
    loop = asyncio.get_running_loop()
    begin, before = time.perf_counter(), _cpu(servers, database)
    clients = [
        (await loop.create_connection(lambda: _Client(messages, took), "127.0.0.1", port))[1]
        for _ in range(CONNECTIONS // len(servers.ports))
        for port in servers.ports
    ]
    await asyncio.gather(*(client.done for client in clients))
    seconds = time.perf_counter() - begin
    cpu = [(now - then) / requests * 1e6 for now, then in zip(_cpu(servers, database), before, strict=True)]
    took.sort()
    p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    return Round(requests / seconds, p50, p99, *cpu)


def _cpu(servers: Servers, database: int) -> tuple[float, float, float]:
    return sum(map(cpu_seconds, servers.pids)), cpu_seconds(database), time.process_time()


def contenders_python(folder: Path) -> str:
    """Return the interpreter of an environment with the contenders, which is made where it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        from importlib import metadata

        pinned = [f"{name}=={metadata.version(name.partition('[')[0])}" for name in BESIDE]
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *CONTENDERS, *pinned], check=True)
    return str(python)


def start(stack: ExitStack, server: Postgres, python: str) -> dict[str, Servers]:
    """Start all that take turns, each on a core."""
    cores = sorted(os.sched_getaffinity(0))

    def started(core: int, *arguments: str, **more: Any) -> tuple[int, int]:
        os.sched_setaffinity(0, {cores[core % len(cores)]})  # which the process inherits
        try:
            port = free_port()
            text = [word.format(port=port) for word in arguments]
            env = {name: value.format(port=port) for name, value in more.pop("env").items()}
            return stack.enter_context(process(*text, env=env, port=port, **more)), port
        finally:
            os.sched_setaffinity(0, cores)

    def receiver(core: int, database: str, name: str) -> tuple[int, int]:
        folder = Path(stack.enter_context(temporary_folder()))
        values = settings(
            folder,
            RECEIVER_LEDGER=database,
            RECEIVER_INSTANCE=name,
        )
        plain = {key: value for key, value in environment(folder, values).items() if "{" not in value}
        env = {
            **plain,
            "RECEIVER_WEBHOOK_HEADERS": '{{"X-Webhook-Secret": "bench"}}',
            "RECEIVER_PORT": "{port}",
        }
        return started(core, "receiver", "serve", env=env)

    def contender(name: str) -> tuple[int, int]:
        database = server.url(server.create(name))
        env = {"CONTENDER": name, "DATABASE": database, "PATH": os.environ.get("PATH", ""), "HOME": str(ROOT)}
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
        app = "tests.bench.postgres_contenders:application"
        return started(0, "uvicorn", "--factory", app, "--port", "{port}", *options, env=env, python=python)

    host_port = free_port()
    host = ("uvicorn", "tests.bench.acknowledge:host", "--port", str(host_port), "--log-level", "error")
    stack.enter_context(process(*host, port=host_port))
    silent = f"http://127.0.0.1:{host_port}/silent"  # so that nothing is fetched
    shared = server.url(server.create("shared"))
    # Not one of the two: the other one could be stopped while it holds the ledger's lock.
    alone = receiver(0, server.url(server.create("alone")), "alone")
    turns = {
        "one receiver": (alone,),
        "two receivers": (receiver(0, shared, "one"), receiver(1, shared, "two")),
        "dbos": (contender("dbos"),),
        "procrastinate": (contender("procrastinate"),),
    }
    return {
        name: Servers(tuple(pid for pid, _ in them), tuple(port for _, port in them), silent)
        for name, them in turns.items()
    }


def acknowledge(server: Postgres, contenders: Path, requests: int, rounds: int) -> None:
    """Run the rounds in turns, and print each and the ratios of the medians."""
    assert server.process is not None
    with ExitStack() as stack:
        turns = start(stack, server, contenders_python(contenders))
        for servers in turns.values():
            servers.take(max(requests // 5, CONNECTIONS), server.process.pid)  # warm
        found: dict[str, list[Round]] = {name: [] for name in turns}
        for _ in range(rounds):
            for name, servers in turns.items():
                found[name].append(servers.take(requests, server.process.pid))
                print(f"{name:13} {found[name][-1]}", flush=True)
    print("ratios of the medians: deliveries a second, and what the servers' own CPU allows")
    for name, other in (
        ("one receiver", "dbos"),
        ("one receiver", "procrastinate"),
        ("two receivers", "one receiver"),
    ):
        measured = _median(found[name], "per_second") / _median(found[other], "per_second")
        pids = len(turns[name].pids) / len(turns[other].pids)
        allowed = pids * _median(found[other], "server") / _median(found[name], "server")
        print(f"{name} / {other}: {measured:.2f}, {allowed:.2f}")


def _median(rounds: Sequence[Round], figure: str) -> float:
    return statistics.median(float(getattr(it, figure)) for it in rounds)


def backend_cpu(db: Any) -> float:
    """Return the CPU seconds of this thread, and of the process that serves its connection."""
    pid: int = db.db.info.backend_pid
    nanoseconds = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    seconds: float = time.thread_time() + nanoseconds / 1e9
    return seconds


async def time_claims(place: LedgerLocation, rounds: int) -> dict[str, many_jobs.Times]:
    """Return the times of each step of jobs that come in eights, with the commit."""
    taken: dict[str, list[tuple[float, float]]] = {}

    async def timed(name: str, work: Any) -> Any:
        begin = time.perf_counter()
        result = await work
        taken.setdefault(name, []).append((time.perf_counter() - begin, 0.0))
        return result

    async with await Ledger.serve(place) as ledger:
        for number in range(rounds):
            ids = [f"step-{number}-{n}" for n in range(8)]
            await asyncio.gather(*(ledger.record(many_jobs.delivery(each)) for each in ids))
            held = await timed("claim 8 downloads", ledger.claim_to_fetch(8, again=8, lease=60_000))
            for claim in held:
                await timed("fetched", ledger.fetched(claim, many_jobs.IMAGE, claim.job.id))
            held = await timed("claim 8 uploads", ledger.claim_to_archive(8, lease=60_000))
            for claim in held:
                await timed("archived", ledger.archived(claim, many_jobs.STORED))
    return many_jobs.times_of(taken)


def many(server: Postgres, jobs: int, rounds: int) -> None:
    """Fill a ledger of so many jobs, and print what its queries and steps take."""
    with temporary_folder() as name:
        folder = Path(name)
        many_jobs.fill(folder, jobs)
        place = LedgerLocation(folder, server.url(server.create("many")), "bench")
        begin, cpu = time.perf_counter(), time.process_time()
        copy_ledger(place, on_progress=lambda *_: None)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        print(f"\nledger-copy of {jobs:,} jobs: {seconds:.0f} s, {cpu:.0f} s of CPU")
        print(f"\n{'ms':34}     p50     p99  CPU50   CPU99")
        for step, times in asyncio.run(time_claims(place, rounds)).items():
            print(f"{step:34} {times.p50:7.2f} {times.p99:7.2f}")
        queries = asyncio.run(many_jobs.time_queries(place, jobs, rounds, cpu_clock=backend_cpu))
        for query, times in queries.items():
            slow = "" if times.cpu_p99 < LIMIT_MS else f"  {LIMIT_MS:g} ms or more"
            print(f"{query:34} {times}{slow}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000, help="in each round; 0: none of them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="of the ledger; 0: none")
    parser.add_argument("--times", type=int, default=300, help="that each query is asked")
    parser.add_argument("--contenders", type=Path, help="the folder of their environment, which is kept")
    options = parser.parse_args(arguments)
    with (
        postgres(
            fsync="on",
            full_page_writes="on",
            shared_buffers="256MB",
            max_wal_size="4GB",
            max_connections="100",
        ) as server,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
    ):
        if options.requests:
            acknowledge(server, options.contenders or Path(folder), options.requests, options.rounds)
        if options.jobs:
            many(server, options.jobs, options.times)


if __name__ == "__main__":
    main()
