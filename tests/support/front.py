"""A proxy before a receiver, for its public address, that a test breaks."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

Break = Callable[[str, str], int | None]
"""The status with which a proxy answers a method and path itself; ``None`` passes it on."""


class Front:
    """A proxy before a receiver, which a test breaks.

    Attributes:
        target: where the receiver is.
        broken: answers by itself.
        gate: has to be open before an answer goes out whole. Each second a header goes out until then, so
            that nobody gives up waiting.
        drops: headers in lower case that do not pass.
        query: whether the query passes.
    """

    def __init__(self) -> None:
        self.target = ""
        self.address = ""
        self.broken: Break = lambda _method, _path: None
        self.gate: threading.Event | None = None
        self.drops: set[str] = set()
        self.query = True


@contextlib.contextmanager
def running_front() -> Iterator[Front]:
    """Passes on until the block ends."""
    it = Front()

    class Handler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            status = it.broken(self.command, self.path)
            if status is not None:
                self._answer(status, b"of the proxy", {"Location": "https://elsewhere.test/x"})
                return
            headers = {n: v for n, v in self.headers.items() if n.lower() not in it.drops}
            path = self.path if it.query else self.path.partition("?")[0]
            answer = httpx.request(
                self.command,
                it.target + path,
                headers=headers,
                content=content,
                trust_env=False,
                verify=False,
            )
            self._answer(answer.status_code, answer.content, dict(answer.headers))

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            while it.gate is not None and not it.gate.wait(1):
                self.send_header("X-Held", "yes")
                self.flush_headers()
            for name, value in headers.items():
                if name.lower() not in {"content-length", "connection", "date", "server"}:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        do_GET = do_POST = _pass  # noqa: N815 - the library's form

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        it.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield it
        server.shutdown()
        thread.join()
