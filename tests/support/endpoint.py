"""Another program that is notified: it verifies what comes with the scheme's own library."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.processes import PATIENCE

SECRET = "whsec_Y2FuYXJ5LW9mLXRoZS1ub3RpZmljYXRpb25z"
"""The base64 of a canary."""


@dataclass(frozen=True, slots=True)
class Told:
    """One notification that came.

    Attributes:
        id: its ``webhook-id``.
        said: its body.
        headers: in lower case.
        status: what it was answered with.
    """

    id: str
    said: Any
    headers: dict[str, str]
    status: int


@dataclass
class Endpoint:
    """What came, and what is answered.

    Attributes:
        url: where it listens.
        answer: the status, or what gives one for each body.
        headers: of every answer.
        told: all that came, in the order in which it was answered.
        unproved: what the library refused to verify.
        verifies: whether the library is asked; its clock is the machine's.
        gate: while it is closed, nothing is answered.
    """

    url: str = ""
    answer: Callable[[Any], int] | int = 204
    headers: dict[str, str] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)
    verifies: bool = True
    gate: threading.Event = field(default_factory=threading.Event)
    _news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def taken(self) -> list[Told]:
        """What was answered with 2xx."""
        return [told for told in list(self.told) if told.status // 100 == 2]

    def types(self, job_id: str) -> list[str]:
        """What was told of a job, in order, as far as it was taken."""
        return [told.said["type"] for told in self.taken if told.said["data"]["id"] == job_id]

    def until(self, found: Callable[[], object]) -> None:
        """Returns when the condition holds; it is looked at for everything that comes."""
        with self._news:
            assert self._news.wait_for(found, PATIENCE), f"never told: {self.told}, {self.unproved}"


@contextlib.contextmanager
def endpoint(port: int = 0) -> Iterator[Endpoint]:
    """Listens until the block ends."""
    it = Endpoint()
    it.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if it.verifies:
                try:
                    Webhook(SECRET).verify(body, headers)
                except WebhookVerificationError as error:
                    it.unproved.append(f"{error!r}: {body!r}")
            it.gate.wait(PATIENCE)
            said = json.loads(body)
            status = it.answer if isinstance(it.answer, int) else it.answer(said)
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                for name, value in it.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.wfile.flush()
            with it._news:
                it.told.append(Told(headers["webhook-id"], said, headers, status))
                it._news.notify_all()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        it.url = f"http://127.0.0.1:{server.server_address[1]}/told?key=canary-of-the-endpoint"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield it
        finally:
            it.gate.set()
            server.shutdown()
            thread.join()
