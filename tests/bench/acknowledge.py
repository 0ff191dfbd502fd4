"""How much a durable acknowledgement costs: `python -m tests.bench.acknowledge`.

Two servers take the same completions from the same load generator, in turns: the receiver's own intake over
its ledger, which answers after the commit was fsynced; and a bare Starlette route that parses the body and
answers 200. What counts is the ratio of the two; each figure alone says more of the machine.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from receiver.bootstrap.serve import freeze_startup_objects
from receiver.core.clock import wall_clock
from receiver.core.instrumentation import Instrumentation
from receiver.intake.authentication import Authenticator
from receiver.intake.endpoint import WebhookEndpoint
from receiver.ledger import Ledger
from receiver.telemetry.metrics import Meters
from receiver.web.refusals import RefusalCounter

CONNECTIONS = 64
PATH = "/webhooks/ximilar"


def completion(job_id: str) -> bytes:
    """The body of the provider's page, with a job's id in it."""
    return json.dumps(
        {
            "status": "DONE",
            "id": job_id,
            "type": "upscaler",
            "response": {
                "records": [
                    {
                        "_id": str(uuid.uuid4()),
                        "_url": "https://images.example.com/originals/0001/photograph.jpg",
                        "_width": 1024,
                        "_height": 768,
                        "_status": {"code": 200, "text": "OK", "request_id": str(uuid.uuid4())},
                        "_upscaled_width": 2048,
                        "_upscaled_height": 1536,
                        "_upscaled_image_url": f"https://results.example.com/upscaled/{job_id}.jpg?signature=0",
                    }
                ]
            },
        }
    ).encode()


async def bare(request: Request) -> JSONResponse:
    """Parses the body and answers."""
    document = json.loads(await request.body())
    return JSONResponse({"id": document["id"], "state": "received", "duplicate": False})


async def serve(kind: str, port_to: "multiprocessing.connection.Connection[int, None]") -> None:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR")) as folder:
        meters = Meters(CollectorRegistry())  # counting is part of the price
        ledger = await Ledger.serve(Path(folder), on_commit=meters.on_commit)
        authenticator = Authenticator({"X-Webhook-Secret": ["bench"]})
        instrumentation = Instrumentation(meters.on_step, meters.on_failed_attempt)
        intake = WebhookEndpoint(
            ledger,
            authenticator,
            2**18,
            timedelta(hours=24),
            wall_clock,
            RefusalCounter(),
            instrumentation=instrumentation,
        )
        endpoint = intake.deliver if kind == "durable" else bare
        app = Starlette(routes=[Route(PATH, endpoint, methods=["POST"])])
        config = uvicorn.Config(
            app, port=0, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error"
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        freeze_startup_objects()  # as the product does, for both
        port_to.send(server.servers[0].sockets[0].getsockname()[1])
        await task
        await ledger.close()


def run_server(kind: str, port_to: "multiprocessing.connection.Connection[int, None]") -> None:
    import structlog
    import uvloop

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True
    )
    uvloop.run(serve(kind, port_to))


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of one server gave."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float

    def __str__(self) -> str:
        times = f"p50 {self.p50_ms:6.2f} ms  p99 {self.p99_ms:6.2f} ms  CPU {self.cpu_us:4.0f} µs"
        return f"{self.per_second:8.0f}/s  {times}"


def cpu_seconds(pid: int) -> float:
    """The time that a process has spent on a CPU; other work on the machine hardly changes it."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


async def load(port: int, pid: int, requests: int) -> Round:
    """Sends completions of new jobs over keep-alive connections, each of which waits for its answers."""
    took: list[float] = []
    messages = []
    for _ in range(requests):
        body = completion(str(uuid.uuid4()))
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Webhook-Secret: bench\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        messages.append(head.encode() + body)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while messages:
            message = messages.pop()
            begin = time.perf_counter()
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append(time.perf_counter() - begin)
        writer.close()

    begin, cpu = time.perf_counter(), cpu_seconds(pid)
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    seconds, cpu = time.perf_counter() - begin, cpu_seconds(pid) - cpu
    took.sort()
    p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    return Round(requests / seconds, p50, p99, cpu / requests * 1e6)


def main() -> None:
    """Runs the rounds in turns, and prints each and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    servers, ports = [], {}  # the port and the process of each kind
    try:
        for kind in ("bare", "durable"):
            port_from, port_to = spawn.Pipe(duplex=False)
            process = spawn.Process(target=run_server, args=(kind, port_to), daemon=True)
            process.start()
            servers.append(process)
            assert process.pid is not None
            ports[kind] = (port_from.recv(), process.pid)
        rounds: dict[str, list[Round]] = {"bare": [], "durable": []}
        for port, pid in ports.values():
            asyncio.run(load(port, pid, options.requests // 10))  # warm
        for _ in range(options.rounds):
            for kind, (port, pid) in ports.items():
                found = asyncio.run(load(port, pid, options.requests))
                rounds[kind].append(found)
                print(f"{kind:8} {found}")
        median = {kind: statistics.median(r.per_second for r in found) for kind, found in rounds.items()}
        p99 = {kind: statistics.median(r.p99_ms for r in found) for kind, found in rounds.items()}
        print(f"durable / bare: {median['durable'] / median['bare']:.2f} of the throughput,", end=" ")
        print(f"{p99['durable'] / p99['bare']:.1f} times the p99,", end=" ")
        cpu = {kind: statistics.median(r.cpu_us for r in found) for kind, found in rounds.items()}
        print(f"{cpu['durable'] / cpu['bare']:.1f} times the CPU")
    finally:
        for process in servers:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
