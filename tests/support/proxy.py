"""A TCP proxy on loopback before a server, to stop a transfer in the middle or to take the server away."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

_BLOCK = 64 * 1024


class Proxy:
    """Passes bytes on in both directions.

    Attributes:
        port: where it listens.
        down: while it is set, every connection is closed at once.
        held: is set when a client's bytes were held back.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.down = threading.Event()
        self.held = threading.Event()
        self._target = target
        self._most: int | None = None
        self._gate = threading.Event()
        self._sockets: list[socket.socket] = []

    def hold_after(self, count: int) -> None:
        """Only so many of the client's bytes, of all connections together, pass from now on."""
        self._most = count

    def serve(self, client: socket.socket) -> None:
        """Passes one connection on until either side closes."""
        if self.down.is_set():
            return
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            self._sockets += [client, server]
            back = threading.Thread(target=self._pass_on, args=(server, client, lambda _: None))
            back.start()
            self._pass_on(client, server, self._hold)
            back.join()

    def close(self) -> None:
        """Ends all connections."""
        self._gate.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _hold(self, count: int) -> None:
        """Lets bytes of the client pass, or holds them until the proxy ends."""
        if self._most is None:
            return
        self._most -= count
        if self._most < 0:
            self.held.set()
            self._gate.wait()

    def _pass_on(self, one: socket.socket, other: socket.socket, hold: Callable[[int], None]) -> None:
        with contextlib.suppress(OSError):
            while block := one.recv(_BLOCK):
                hold(len(block))
                other.sendall(block)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = False
    request_queue_size = 128


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """Runs a proxy before a port of this machine until the block ends."""
    it = Proxy(target)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            it.serve(self.request)

    with _Server(("127.0.0.1", 0), Handler) as server:
        it.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield it
        finally:
            it.close()
            server.shutdown()
            thread.join()
