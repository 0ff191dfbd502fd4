"""A TCP proxy on loopback before a server, to cut, stall or lose its connections when a test wants it."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_BLOCK = 64 * 1024


class Proxy:
    """Passes bytes on in both directions.

    Attributes:
        port: where it listens.
        target: the server's port, of connections to come.
        down: while it is set, every connection is closed at once.
        held: is set when a client's bytes were held back.
        met: is set when `cut_at` has found its bytes.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.down = threading.Event()
        self.held = threading.Event()
        self.met = threading.Event()
        self.target = target
        self._most: int | None = None
        self._gate = threading.Event()
        self._open = threading.Event()
        self._open.set()
        self._trap: _Trap | None = None
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []

    def hold_after(self, count: int) -> None:
        """Only so many of the client's bytes, of all connections together, pass from now on."""
        self._most = count

    def stall(self) -> None:
        """Hold all bytes of all connections back, also of new ones, until `resume`."""
        self._open.clear()

    def resume(self) -> None:
        """End a stall: what was held passes."""
        self._open.set()

    def lose(self) -> None:
        """Forget the connections there are, as a router after a failover: neither side gets an answer."""
        with self._lock:
            for pair in self._pairs:
                pair.lost = True

    def cut(self) -> None:
        """End the connections there are. New ones pass, unless `down` is set."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.end()

    def cut_at(
        self, text: bytes, *, nth: int = 1, at: bytes = b"", before: bool, then_down: bool = False
    ) -> None:
        """End a connection once, at a block of its client.

        Args:
            text: is in the block, such as ``b"COMMIT"``.
            nth: the how manieth block with this text it is, of all connections.
            at: the block is not this one, but the next of the same connection with this text.
            before: the server never sees the block; else it does, and its answer is withheld.
            then_down: nobody else passes from then on, as in a partition.
        """
        self.met.clear()
        self._trap = _Trap(text, nth, at, before=before, then_down=then_down)

    def serve(self, client: socket.socket) -> None:
        """Passes one connection on until either side closes."""
        if self.down.is_set():
            return
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as server:
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
            try:
                back = threading.Thread(target=self._pass_on, args=(pair, server, client, self._answered))
                back.start()
                self._pass_on(pair, client, server, self._sent)
                back.join()
            finally:
                with self._lock:
                    self._pairs.remove(pair)

    def close(self) -> None:
        """Ends all connections."""
        self._gate.set()
        self.resume()
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.end()

    def _sent(self, pair: "_Pair", block: bytes) -> None:
        """Lets bytes of the client pass, or holds them until the proxy ends, or cuts the connection."""
        with self._lock:
            trap = self._trap
            if trap is not None and trap.springs(pair, block):
                self._trap = None
            else:
                trap = None
        if trap is not None:
            if trap.then_down:
                self.down.set()
            if trap.before:
                pair.end()
                self.met.set()
            else:
                pair.doomed = True
            if trap.then_down:
                self._cut_others(pair)
        if self._most is None:
            return
        self._most -= len(block)
        if self._most < 0:
            self.held.set()
            self._gate.wait()

    def _cut_others(self, pair: "_Pair") -> None:
        with self._lock:
            others = [it for it in self._pairs if it is not pair]
        for other in others:
            other.end()

    def _answered(self, pair: "_Pair", _: bytes) -> None:
        if pair.doomed:
            pair.end()
            self.met.set()

    def _pass_on(
        self,
        pair: "_Pair",
        one: socket.socket,
        other: socket.socket,
        passing: Callable[["_Pair", bytes], None],
    ) -> None:
        with contextlib.suppress(OSError):
            while block := one.recv(_BLOCK):
                passing(pair, block)
                self._open.wait()
                if not pair.lost:
                    other.sendall(block)
            self._open.wait()
        if not pair.lost:
            pair.end()


@dataclass
class _Trap:
    """Where a connection is to end."""

    text: bytes
    nth: int
    at: bytes
    before: bool
    then_down: bool
    _of: "_Pair | None" = None

    def springs(self, pair: "_Pair", block: bytes) -> bool:
        """Return whether this is the block."""
        if self._of is not None:
            return pair is self._of and self.at in block
        if self.text in block:
            self.nth -= 1
            if self.nth == 0:
                self._of = pair
                return self.at in block
        return False


@dataclass(eq=False)
class _Pair:
    """Both sides of a connection.

    Attributes:
        doomed: it ends when the server answers.
        lost: nothing of it passes any more, not even its end.
    """

    client: socket.socket
    server: socket.socket
    doomed: bool = False
    lost: bool = False

    def end(self) -> None:
        for each in (self.client, self.server):
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
