"""Stand-ins for mail servers and for services on the Internet, on loopback."""

import contextlib
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from tests.support.processes import PATIENCE


@dataclass(frozen=True, slots=True)
class Post:
    """A request that came: for which host, and what it said."""

    host: str
    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Services:
    """What came, and how it is answered.

    Attributes:
        port: of plain HTTP, and of the proxy that leads to every host.
        answers: the status for a host; 200 without.
        hang: hosts that never answer.
    """

    port: int = 0
    ca: Path = Path()
    answers: dict[str, int] = field(default_factory=dict)
    hang: set[str] = field(default_factory=set)
    posts: list[Post] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def add(self, post: Post) -> None:
        with self._news:
            self.posts.append(post)
            self._news.notify_all()

    def until(self, count: int) -> list[Post]:
        """Returns what came once there is so much of it."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.posts) >= count, PATIENCE), self.posts
            return list(self.posts)

    def environment(self) -> dict[str, str]:
        """The variables with which a client reaches every https host here."""
        return {"HTTPS_PROXY": f"http://127.0.0.1:{self.port}", "REQUESTS_CA_BUNDLE": str(self.ca)}


@contextlib.contextmanager
def services(folder: Path) -> Iterator[Services]:
    """Answers for all hosts of the world until the block ends."""
    it = Services(ca=folder / "services-ca.pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(it.ca)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        host = "127.0.0.1"

        def do_CONNECT(self) -> None:
            self.send_response_only(200)
            self.end_headers()
            self.host = self.path.rpartition(":")[0]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(self.host).configure_cert(context)
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False

        def finish(self) -> None:
            super().finish()
            self.connection.close()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            it.add(Post(self.host, self.path, body, headers))
            if self.host in it.hang:
                it.over.wait()
            self.send_response(it.answers.get(self.host, 200))
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok" if self.host == "hooks.slack.com" else b"{}")

        do_PUT = do_POST  # noqa: N815 - the library's form

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # one that was ended
        it.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield it
        finally:
            it.over.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """Takes mail until the block ends: its port, and what came."""
    came: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 ready")
            while line := self.rfile.readline().decode().strip():
                word = line[:4].upper()
                if word == "EHLO":
                    self._say("250-hello\r\n250 AUTH PLAIN LOGIN")
                elif word == "AUTH":
                    self._say("235 proved")
                elif word == "DATA":
                    self._say("354 go on")
                    text = ""
                    while (part := self.rfile.readline().decode()) != ".\r\n":
                        text += part
                    came.append(text)
                    self._say("250 taken")
                elif word == "QUIT":
                    self._say("221 bye")
                    return
                else:
                    self._say("250 fine")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1], came
        finally:
            server.shutdown()
            thread.join()
