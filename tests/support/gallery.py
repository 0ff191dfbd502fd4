"""A host of images on loopback: each job has a picture of its own, and meets the faults that it was given."""

import contextlib
import hashlib
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.images import HEIGHT, WIDTH, chunk, png, swap
from tests.support.processes import PATIENCE, completion

FAULTS = ("503", "410", "cut", "empty", "page", "other", "dropped")
"""An error; gone; half of the picture; no body; HTML with 200; a picture of another size; no answer."""

_SMALL = png()
_BODIES = {
    "empty": b"",
    "page": b"<!doctype html><title>Sorry</title>",
    "other": png(WIDTH * 2, HEIGHT),
}


@dataclass
class Gallery:
    """What the host does.

    Attributes:
        url: what every picture's URL begins with.
        padding: bytes that each picture has beside its pixels.
        away: whether every request is answered with 503.
        gate: where there is one, each request waits until it is set.
        asked: the jobs that were asked for, in order.
        faults: what each job's next requests meet, one after the other; then its picture.
        never: what each request of a job meets: it has no picture.
    """

    url: str = ""
    padding: int = 0
    away: bool = False
    gate: threading.Event | None = None
    asked: list[str] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    never: dict[str, str] = field(default_factory=dict)

    def picture(self, job_id: str) -> bytes:
        """The job's picture; no two jobs have the same."""
        end = chunk(b"IEND")
        mark = chunk(b"tEXt", b"Comment\0" + job_id.encode())
        return swap(_SMALL, end, mark + chunk(b"prVt", bytes(self.padding)) + end)

    def images(self, job_ids: Sequence[str]) -> dict[str, str | None]:
        """The SHA-256 of each job's picture, or ``None``, as `tests.faults.matrix.audit` takes it."""
        return {
            job_id: None if job_id in self.never else hashlib.sha256(self.picture(job_id)).hexdigest()
            for job_id in job_ids
        }

    def completion(self, job_id: str, query: str = "") -> dict[str, Any]:
        """The delivery that tells of the job's picture."""
        return completion(job_id, f"{self.url}/{job_id}{query}", WIDTH, HEIGHT)


@contextlib.contextmanager
def gallery(*, padding: int = 0) -> Iterator[Gallery]:
    """Runs a host on a free port until the block ends."""
    it = Gallery(padding=padding)
    with _Server(("127.0.0.1", 0), _handler(it)) as server:
        # What another test's receiver still asks at a port that was given again is none of this host's.
        it.url = f"http://127.0.0.1:{server.server_port}/{secrets.token_hex(8)}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield it
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A receiver that is killed resets its connections; that is what it is killed for."""


def _handler(it: Gallery) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host, _, job_id = self.path.partition("?")[0].rpartition("/")
            if not it.url.endswith(host or "/"):
                self.say(404, b"")
                return
            it.asked.append(job_id)
            if it.gate is not None:
                it.gate.wait(PATIENCE)
            waiting = it.faults.get(job_id)
            fault = "503" if it.away else it.never.get(job_id) or (waiting.pop(0) if waiting else "")
            picture = it.picture(job_id)
            if fault == "dropped":
                self.connection.shutdown(socket.SHUT_RDWR)
            elif fault in {"503", "410"}:
                self.say(int(fault), b"")
            elif fault == "cut":
                self.say(200, picture[: len(picture) // 2], length=len(picture))
            else:
                self.say(200, _BODIES.get(fault, picture))

        def say(self, status: int, body: bytes, *, length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests read `Gallery.asked` instead."""

    return Handler
