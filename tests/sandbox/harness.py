"""A sandbox on a real port in a thread, and a loopback server that serves sources and takes completions."""

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import httpx
import uvicorn
from PIL import Image

from receiver.sandbox.options import Options, ProviderName
from receiver.sandbox.server import Server
from receiver.sandbox.server import stand_in as made
from receiver.sandbox.submits import FAULTS_HEADER
from tests.support.processes import TRUST
from tests.support.waiting import eventually

TOKEN = "sandbox-token"
PATIENCE = 30.0


@dataclass
class Delivery:
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Neighbour:
    """What stands on loopback beside the sandbox: pictures to fetch, and a webhook."""

    url: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    answer: int = 200
    gate: threading.Event | None = None
    asked: threading.Event = field(default_factory=threading.Event)
    _deliveries: "queue.Queue[Delivery]" = field(default_factory=queue.Queue)

    def serve(self, picture: bytes, name: str = "picture") -> str:
        self.pictures[f"/{name}"] = picture
        return f"{self.url}/{name}"

    def take(self) -> Delivery:
        return self._deliveries.get(timeout=PATIENCE)

    @property
    def waiting(self) -> int:
        return self._deliveries.qsize()

    @property
    def webhook(self) -> str:
        return f"{self.url}/hook"


@contextmanager
def neighbour() -> Iterator[Neighbour]:
    it = Neighbour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            it.asked.set()
            if it.gate is not None:
                it.gate.wait(PATIENCE)
            picture = it.pictures.get(self.path)
            self._answer(404 if picture is None else 200, picture or b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            it._deliveries.put(Delivery({k.lower(): v for k, v in self.headers.items()}, body))
            if it.gate is not None:
                it.gate.wait(PATIENCE)
            self._answer(it.answer, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "http://example.com/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        it.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield it
        server.shutdown()
        thread.join()


class Sandbox(httpx.Client):
    """A client of one running sandbox, with its token; ``own`` is the sandbox's address."""

    def __init__(self, own: str) -> None:
        super().__init__(
            base_url=f"{own}/account/v2",
            headers={"Authorization": f"Token {TOKEN}"},
            verify=TRUST,
            trust_env=False,
            timeout=60,
        )
        self.own = own

    def submit(self, record: dict[str, Any], *faults: str, **options: Any) -> Any:
        """Submits one record that meets the faults; the answer must be a 2XX."""
        if faults:
            record |= {"_sandbox": {"fault": list(faults)}}
        body = {"type": "upscaler", "endpoint": "upscale_2x", "records": [record]} | options
        return self.post("/request", json=body).raise_for_status().json()

    def job(self, job_id: str) -> Any:
        return self.get(f"/request/{job_id}").raise_for_status().json()

    def until(self, job_id: str, status: str) -> None:
        """Asks until the status is reached."""
        eventually(lambda: self.get(f"/request/{job_id}/status").json()["status"] == status)

    def outcome(self, record: dict[str, Any], *faults: str, **options: Any) -> Any:
        """The record in the response of a job that has ended when this returns."""
        return self.job(self.submit(record, "early", *faults, **options)["id"])["response"]["records"][0]


@contextmanager
def serving(options: Options, clock: Callable[[], float] | None = None, *, port: int = 0) -> Iterator[str]:
    """A running sandbox, by its address."""
    app = made(options, clock or time.time).app()
    ready = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        server = Server(config, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(PATIENCE)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def sandbox(
    options: Options, clock: Callable[[], float] | None = None, *, port: int = 0
) -> Iterator[Sandbox]:
    with serving(options, clock, port=port) as own, Sandbox(own) as client:
        yield client


@contextmanager
def stand_in(
    provider: ProviderName, clock: Callable[[], float] | None = None, **options: Any
) -> Iterator[httpx.Client]:
    """A client of the running stand-in of a provider that signs, with its token."""
    options = {"token": TOKEN, "delay": 0, **options}
    headers = {
        ProviderName.REPLICATE: {"Authorization": f"Bearer {TOKEN}"},
        ProviderName.FAL: {"Authorization": f"Key {TOKEN}"},
        ProviderName.FREEPIK: {"x-freepik-api-key": TOKEN},
    }[provider]
    with (
        serving(Options(provider=provider, **options), clock) as own,
        httpx.Client(base_url=own, headers=headers, verify=TRUST, trust_env=False, timeout=60) as client,
    ):
        yield client


def faults(*names: str) -> dict[str, str]:
    """The header of a submit whose job meets these faults."""
    return {FAULTS_HEADER: ",".join(names)}


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_780_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def opened(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as picture:
        picture.load()
        return picture
