"""How much a durable acknowledgement costs: `python -m tests.bench.acknowledge`.

Four servers take completions from the same load generator, in turns: a bare Starlette route that parses the
body and answers 200; `receiver serve` with all that it is made of, while the image host is silent; the same
for deliveries that Replicate's signature proves; and the first again while it archives images. One that has
no turn is stopped. What counts is the ratios; each figure alone says more of the machine.

The data directories are made in `BENCH_DIR`, where it is set.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.bench.footprint import cpu_seconds
from tests.bench.pictures import KINDS
from tests.support.caddy import free_port
from tests.support.processes import environment, settings

CONNECTIONS = 64
PATH = "/webhooks/ximilar"
PICTURE = KINDS[0]
KEY = b"the key of the benchmark"


async def parse(request: Request) -> JSONResponse:
    """Parses the body and answers."""
    document = json.loads(await request.body())
    return JSONResponse({"id": document["id"], "state": "received", "duplicate": False})


async def keep_waiting(request: Request) -> Response:
    """Answers once the client has gone."""
    while not await request.is_disconnected():  # noqa: ASYNC110 - Starlette has no event for it
        await asyncio.sleep(1)
    return Response()


@cache
def picture() -> bytes:
    return PICTURE.draw(0)


async def send_picture(_: Request) -> Response:
    return Response(picture(), media_type="image/png")


bare = Starlette(routes=[Route(PATH, parse, methods=["POST"])])
host = Starlette(routes=[Route("/silent/{name}", keep_waiting), Route("/picture/{name}", send_picture)])


def completion(job_id: str, host_url: str) -> bytes:
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
                        "_width": PICTURE.width // 2,
                        "_height": PICTURE.height // 2,
                        "_status": {"code": 200, "text": "OK", "request_id": str(uuid.uuid4())},
                        "_upscaled_width": PICTURE.width,
                        "_upscaled_height": PICTURE.height,
                        "_upscaled_image_url": f"{host_url}/{job_id}.png?signature=0",
                    }
                ]
            },
        }
    ).encode()


def by_header(job_id: str, host_url: str) -> bytes:
    """A delivery that a header proves."""
    return request(PATH, completion(job_id, host_url), {"X-Webhook-Secret": "bench"})


def signed(job_id: str, host_url: str) -> bytes:
    """A delivery of Replicate's, signed by Standard Webhooks."""
    body = json.dumps(
        {
            "id": job_id,
            "model": "example/upscaler",
            "version": "0" * 64,
            "input": {"image": "https://images.example.com/originals/0001/photograph.jpg", "scale": 2},
            "output": f"{host_url}/{job_id}.png?signature=0",
            "status": "succeeded",
            "error": None,
            "logs": "",
            "metrics": {"predict_time": 4.2},
            "urls": {"get": f"https://api.replicate.com/v1/predictions/{job_id}"},
        }
    ).encode()
    now = str(int(time.time()))
    digest = hmac.digest(KEY, f"{job_id}.{now}.".encode() + body, hashlib.sha256)
    proof = {
        "webhook-id": job_id,
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    return request("/webhooks/replicate", body, proof)


def request(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


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


@dataclass(frozen=True, slots=True)
class Server:
    """One that is measured, where the images are that its completions name, and what makes a delivery."""

    pid: int
    port: int
    images: str
    deliver: Callable[[str, str], bytes] = by_header

    def take(self, requests: int) -> Round:
        """Let it run for one round."""
        os.kill(self.pid, signal.SIGCONT)
        try:
            return asyncio.run(load(self, requests))
        finally:
            os.kill(self.pid, signal.SIGSTOP)


async def load(server: Server, requests: int) -> Round:
    """Sends completions of new jobs over keep-alive connections, each of which waits for its answers."""
    took: list[float] = []
    messages = [server.deliver(str(uuid.uuid4()), server.images) for _ in range(requests)]

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
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

    begin, cpu = time.perf_counter(), cpu_seconds(server.pid)
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    seconds, cpu = time.perf_counter() - begin, cpu_seconds(server.pid) - cpu
    took.sort()
    p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    return Round(requests / seconds, p50, p99, cpu / requests * 1e6)


@contextmanager
def process(
    *arguments: str, env: Mapping[str, str] | None = None, port: int, python: str = sys.executable
) -> Iterator[int]:
    """Runs a Python module that listens on a port until the end; gives its process id."""
    running = subprocess.Popen([python, "-m", *arguments], env=env, stderr=subprocess.DEVNULL)
    try:
        while running.poll() is None:
            with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield running.pid
    finally:
        running.kill()
        running.wait()


def start(stack: ExitStack) -> dict[str, Server]:
    """Starts the servers and the image host."""

    def serve_app(name: str, port: int) -> int:
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
        app = f"tests.bench.acknowledge:{name}"
        return stack.enter_context(process("uvicorn", app, "--port", str(port), *options, port=port))

    def serve_receiver(images: str, deliver: Callable[[str, str], bytes] = by_header) -> Server:
        folder, port = Path(stack.enter_context(temporary_folder())), free_port()
        secrets = {
            "RECEIVER_WEBHOOK_HEADERS": '{"X-Webhook-Secret": "bench"}',
            "REPLICATE_WEBHOOK_SECRET": f"whsec_{base64.b64encode(KEY).decode()}",
            "RECEIVER_PORT": str(port),
        }
        env = environment(folder, settings(folder, **secrets))
        pid = stack.enter_context(process("receiver", "serve", env=env, port=port))
        return Server(pid, port, images, deliver)

    host_port, bare_port = free_port(), free_port()
    serve_app("host", host_port)
    silent, pictures = (f"http://127.0.0.1:{host_port}/{name}" for name in ("silent", "picture"))
    return {
        "bare": Server(serve_app("bare", bare_port), bare_port, silent),
        "durable": serve_receiver(silent),
        "signed": serve_receiver(silent, signed),
        "archiving": serve_receiver(pictures),
    }


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("BENCH_DIR"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the rounds in turns, and prints each and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        servers = start(stack)
        for server in servers.values():
            server.take(max(options.requests // 10, CONNECTIONS))  # warm
        rounds: dict[str, list[Round]] = {kind: [] for kind in servers}
        for _ in range(options.rounds):
            for kind, server in servers.items():
                rounds[kind].append(server.take(options.requests))
                print(f"{kind:9} {rounds[kind][-1]}", flush=True)

    def ratio(one: str, other: str, figure: str) -> str:
        """Of the medians."""
        a, b = (statistics.median(getattr(each, figure) for each in rounds[kind]) for kind in (one, other))
        return f"{a / b:.2f}"

    print(f"durable / bare: {ratio('durable', 'bare', 'per_second')} of the throughput,", end=" ")
    print(f"{ratio('durable', 'bare', 'p99_ms')} times the p99,", end=" ")
    print(f"{ratio('durable', 'bare', 'cpu_us')} times the CPU")
    print(f"signed / durable: {ratio('signed', 'durable', 'per_second')} of the throughput,", end=" ")
    print(f"{ratio('signed', 'durable', 'cpu_us')} times the CPU")
    print(f"archiving / durable: {ratio('archiving', 'durable', 'per_second')} of the throughput")


if __name__ == "__main__":
    main()
