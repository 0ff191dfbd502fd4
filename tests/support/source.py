"""A host of images on loopback: it answers each request as it was told, and keeps count of them."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from receiver.sandbox.pictures import draw
from tests.support.images import chunk
from tests.support.processes import PATIENCE

SIZE = (64, 48)
"""Width and height of each `picture`."""

DRIP = 2
"""Bytes a second behind a closed gate: with RECEIVER_LEAST_RATE=1 no download there is given up."""

_END = 12
"""Bytes of a PNG's last chunk."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request is answered with.

    Attributes:
        body: after the head.
        status: of the answer.
        headers: beside Content-Length.
        sent: how many bytes of the body really go out before the connection is closed; ``None``: all.
        gate: has to be open before the second half of the body goes out; until then it drips.
        endless: the body is repeated for ever, and no length is declared.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: int | None = None
    gate: threading.Event | None = None
    endless: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One request.

    Attributes:
        name: of what was asked for.
        at: seconds since the epoch.
    """

    name: str
    at: float


class Source:
    """What the host offers, and what it was asked for; ``ahead`` are the seconds by which its clock is."""

    def __init__(self) -> None:
        self.url = ""
        self.ahead = 0.0
        self.seen: list[Seen] = []
        self.connections = 0
        self._offers: dict[str, list[Answer]] = {}
        self._gates: list[threading.Event] = []
        self._news = threading.Condition()

    def offer(self, name: str, *answers: Answer | bytes) -> str:
        """Gives the URL. Each request takes the next answer; the last one stands for all that follow."""
        ready = [Answer(answer) if isinstance(answer, bytes) else answer for answer in answers]
        with self._news:
            self._offers[name] = ready
        return f"{self.url}/{name}"

    def gate(self) -> threading.Event:
        """A closed gate for answers; the end of the source opens it, too."""
        self._gates.append(threading.Event())
        return self._gates[-1]

    def asked(self, name: str) -> int:
        """How often something was asked for."""
        return len(self.times(name))

    def times(self, name: str) -> list[float]:
        """When something was asked for, seconds since the epoch."""
        return [seen.at for seen in list(self.seen) if seen.name == name]

    def until(self, found: Callable[[], bool]) -> None:
        """Returns when the condition holds; it is looked at for every request.

        Raises:
            AssertionError: it does not within `PATIENCE`.
        """
        with self._news:
            assert self._news.wait_for(found, PATIENCE), f"never asked for; only: {self.seen}"

    def until_asked(self, name: str, times: int = 1) -> None:
        """Returns when something was asked for so often."""
        self.until(lambda: self.asked(name) >= times)

    def next(self, name: str) -> Answer:
        """Notes a request, and gives its answer."""
        with self._news:
            self.seen.append(Seen(name, time.time()))
            answers = self._offers.get(name, [Answer(status=404)])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            self._news.notify_all()
        return answer

    def close(self) -> None:
        """Opens all gates."""
        for gate in self._gates:
            gate.set()


class _Server(ThreadingHTTPServer):
    request_queue_size = 512  # a connection that finds the queue full waits a whole second
    daemon_threads = False


@contextlib.contextmanager
def source() -> Iterator[Source]:
    """Runs a host until the block ends."""
    it = Source()

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            it.connections += 1
            super().setup()

        def do_GET(self) -> None:
            answer = it.next(self.path.partition("?")[0].removeprefix("/"))
            with contextlib.suppress(ConnectionError):  # who asked may be dead by now
                self._send(answer)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + it.ahead)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if not answer.endless:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if answer.gate is not None:
                sent = len(answer.body) // 2
                self.wfile.write(answer.body[:sent])
                while not answer.gate.wait(1) and sent < len(answer.body) - DRIP:
                    self.wfile.write(answer.body[sent : sent + DRIP])
                    sent += DRIP
                answer.gate.wait()
                self.wfile.write(answer.body[sent:])
                return
            self.wfile.write(answer.body[: answer.sent])
            while answer.endless:
                self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Tests read `Source.seen` instead."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        it.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield it
        finally:
            it.close()
            server.shutdown()
            thread.join()


@cache
def _drawn() -> bytes:
    return draw(7, SIZE, "png")


def picture(number: int) -> bytes:
    """A sound PNG of `SIZE`; each number gives other bytes."""
    drawn = _drawn()
    return drawn[:-_END] + chunk(b"tEXt", b"Title\0No. %d" % number) + drawn[-_END:]


def sha256(content: bytes) -> str:
    """64 lower-case hex digits."""
    return hashlib.sha256(content).hexdigest()


def signed(url: str, *, since: float, seconds: int) -> str:
    """The URL as a bucket would sign it: it says itself that it works so long from then on.

    Args:
        url: without a query.
        since: seconds since the epoch; whole seconds count.
        seconds: its life.
    """
    date = datetime.fromtimestamp(since, UTC)
    return f"{url}?X-Amz-Date={date:%Y%m%dT%H%M%SZ}&X-Amz-Expires={seconds}"


def spooled(data: Path) -> set[str]:
    """The names of the files in the spool of a data directory."""
    return {path.name for path in (data / "spool").iterdir()}
