"""Large bodies, which threads receive, from hostile servers on real sockets, plain and over TLS."""

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme

from receiver.core.errors import ReceiverError, SpoolError
from receiver.fetch.download import DownloadLimits, Fetcher, Progress
from receiver.fetch.sources import Sources
from tests.support.disk import Quota
from tests.support.hostile import Behaviour, Peer, answer, serve
from tests.support.processes import PATIENCE

BODY = random.Random(1).randbytes(3 * 1024 * 1024 + 5)
HALF = len(BODY) // 2
LIMITS = DownloadLimits(max_bytes=len(BODY))
RECEIVED = HALF // 2
"""Bytes of a body of which half was sent that a thread must have got, but for what kernels hold back."""


@dataclass
class Host:
    """A server and who fetches from it."""

    url: str
    subject: Fetcher
    peers: list[Peer]
    folder: Path
    progress: Progress = field(default_factory=Progress)

    async def fetch(self, name: str = "spooled") -> bytes:
        download = await self.subject.fetch(self.url, self.folder / name, progress=self.progress)
        content = download.path.read_bytes()
        assert (download.bytes, download.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        download.path.unlink()
        return content

    async def refusal(self) -> ReceiverError:
        """The error that a download ends with; it leaves no file behind."""
        with pytest.raises(ReceiverError) as caught:
            await self.fetch()
        assert list(self.folder.iterdir()) == []
        return caught.value


Hosts = Callable[..., contextlib.AbstractAsyncContextManager[Host]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Hosts:
    """Serves a behaviour, over TLS too. Once it ends, it has left no thread and no descriptor."""
    context: ssl.SSLContext | None = None
    trust = ssl.create_default_context()
    if request.param == "https":
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(trust)

    @contextlib.asynccontextmanager
    async def running(
        behaviour: Behaviour, limits: DownloadLimits = LIMITS, *, heads: bool = True, **changes: object
    ) -> AsyncIterator[Host]:
        descriptors, threads = open_descriptors(), set(threading.enumerate())
        subject = Fetcher(
            sources=Sources(),
            networks=(ip_network("127.0.0.1/32"),),
            limits=limits,
            ssl_context=trust,
            **changes,  # type: ignore[arg-type]
        )
        async with serve(behaviour, context=context, waits_for_head=heads) as server, subject:
            url = f"{request.param}://127.0.0.1:{server.port}/"
            yield Host(url, subject, server.peers, tmp_path)
        assert {thread for thread in threading.enumerate() if thread.name.startswith("download")} <= threads
        assert open_descriptors() <= descriptors

    return running


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if true():
                return
            await asyncio.sleep(0.001)


async def stalls_halfway(peer: Peer) -> None:
    await peer.send(answer(BODY[:HALF], length=len(BODY)))
    await peer.reader.read()


@pytest.mark.parametrize("first", [0, 5, 100_000])
async def test_a_large_body_is_received_by_a_thread_and_whole(host: Hosts, first: int) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(answer(BODY[:first], length=len(BODY)))
        await until(lambda: it.progress.bytes == first)
        await peer.send(BODY[first:HALF])
        await until(lambda: it.progress.bytes >= RECEIVED)
        await peer.send(BODY[HALF:])

    threads: set[str] = set()

    class Watched(Progress):
        def __setattr__(self, name: str, value: float) -> None:
            threads.add(threading.current_thread().name.partition("_")[0])
            super().__setattr__(name, value)

    async with host(behave) as it:
        it.progress = Watched()
        assert await it.fetch() == BODY
        assert it.progress.bytes == len(BODY)
    assert "download" in threads


async def test_connections_are_kept_for_the_next_image(host: Hosts) -> None:
    async def behave(peer: Peer) -> None:
        for body in [BODY, b"small", BODY[1:]]:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(answer(body))
        await peer.reader.read()

    async with host(behave, heads=False) as it:
        assert [await it.fetch() for _ in range(3)] == [BODY, b"small", BODY[1:]]
        assert len(it.peers) == 1


async def test_what_stands_behind_the_declared_length_is_not_read_and_ends_the_connection(
    host: Hosts,
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(answer(BODY) + answer(b"evil"))
        with contextlib.suppress(ConnectionError):
            await peer.reader.read()

    async with host(behave) as it:
        assert [await it.fetch() for _ in range(2)] == [BODY] * 2
        assert len(it.peers) == 2


async def ends(peer: Peer) -> None:
    await peer.send(answer(BODY[:HALF], length=len(BODY)))


async def aborts(peer: Peer) -> None:
    """Over TLS without an alert."""
    await ends(peer)
    peer.writer.transport.abort()


async def resets(peer: Peer) -> None:
    await ends(peer)
    await until(lambda: not peer.writer.transport.get_write_buffer_size())
    sock = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


@pytest.mark.parametrize("behaviour", [ends, aborts, resets])
async def test_a_body_that_is_cut_short_is_refused(host: Hosts, behaviour: Behaviour) -> None:
    async with host(behaviour) as it:
        assert (await it.refusal()).reason == "fetch.cut_short"


async def test_a_body_without_a_length_whose_connection_is_reset_is_not_whole(host: Hosts) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:1000])
        await until(lambda: it.progress.bytes == 1000)
        await resets(peer)

    async with host(behave) as it:
        assert (await it.refusal()).reason == "fetch.cut_short"


async def test_a_large_body_that_stalls_is_given_up(host: Hosts) -> None:
    async with host(stalls_halfway, DownloadLimits(len(BODY), idle_seconds=0.1)) as it:
        error = await it.refusal()
    assert (error.reason, error.detail) == ("fetch.timeout", f"{it.url}: nothing came in time")


async def test_the_total_time_bounds_a_large_body_too(host: Hosts) -> None:
    async with host(stalls_halfway, DownloadLimits(len(BODY), total_seconds=0.5)) as it:
        error = await it.refusal()
    assert (error.reason, error.detail) == ("fetch.timeout", "not whole after 0 s")


async def test_a_large_body_below_the_least_rate_is_given_up(host: Hosts) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(answer(b"x" * 1000, length=len(BODY)))
        for sent in itertools.count(1001):
            await peer.send(b"x")
            await until(lambda sent=sent: it.progress.bytes >= sent)  # type: ignore[misc]

    ticks = itertools.count(step=2)
    async with host(behave, clock=lambda: float(next(ticks))) as it:
        error = await it.refusal()
    assert error.reason == "fetch.too_slow"


async def test_many_that_stall_hold_up_no_other_and_end_at_once_when_they_are_cancelled(host: Hosts) -> None:
    stalled = 16
    hung_up: list[Peer] = []

    async def behave(peer: Peer) -> None:
        if len(it.peers) > stalled:
            await peer.send(answer(BODY))
            return
        with contextlib.suppress(ConnectionError):
            await stalls_halfway(peer)
        hung_up.append(peer)

    async with host(behave) as it:
        waiting = [Progress() for _ in range(stalled)]
        tasks = [
            asyncio.create_task(it.subject.fetch(it.url, it.folder / str(number), progress=progress))
            for number, progress in enumerate(waiting)
        ]
        await until(lambda: all(progress.bytes >= RECEIVED for progress in waiting))
        assert await it.fetch() == BODY
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
        assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
        await until(lambda: len(hung_up) == stalled)
        assert list(it.folder.iterdir()) == []


async def test_a_cancellation_at_any_moment_leaves_no_file(host: Hosts) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(answer(BODY))

    async with host(behave) as it:
        for bytes_before in range(0, len(BODY), len(BODY) // 20):
            it.progress.bytes = 0
            task = asyncio.create_task(it.fetch())
            await until(lambda least=bytes_before: it.progress.bytes >= least)  # type: ignore[misc]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert list(it.folder.iterdir()) == []


async def test_a_disk_that_takes_no_more_ends_the_download(host: Hosts, tmp_path: Path) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(answer(BODY[:HALF], length=len(BODY)))
        await until(lambda: it.progress.bytes >= RECEIVED)
        disk.fill(os.getpid())
        with contextlib.suppress(ConnectionError):
            await peer.send(BODY[HALF:])

    disk = Quota(tmp_path)
    async with host(behave) as it:
        try:
            error = await it.refusal()
        finally:
            disk.free(os.getpid())
    assert (type(error), error.reason) == (SpoolError, "spool.disk")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", answer(length=len(BODY))])
async def test_records_of_one_byte_are_refused(authority: trustme.CA, tmp_path: Path, head: bytes) -> None:
    """Each costs a call, so a fast line would keep the event loop, or the thread, busy with them alone."""

    def behave(peer: ssl.SSLSocket) -> None:
        peer.sendall(head + BODY[:100])
        for byte in BODY[100:20_000]:
            peer.sendall(bytes([byte]))

    error = await refused_over_tls(authority, tmp_path, behave)
    assert error.reason == "fetch.protocol"
    assert "TLS carries hardly any data" in str(error)


async def test_a_flood_of_session_tickets_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    """OpenSSL itself reads on for as long as tickets come, and would never return to the event loop."""

    def behave(peer: ssl.SSLSocket) -> None:
        peer.sendall(answer(BODY))

    error = await refused_over_tls(authority, tmp_path, behave, tickets=5_000)
    assert error.reason == "fetch.protocol"
    assert "TLS carries hardly any data" in str(error)


async def refused_over_tls(
    authority: trustme.CA, folder: Path, behaviour: Callable[[ssl.SSLSocket], None], *, tickets: int = 2
) -> ReceiverError:
    """The error of a download from a blocking server, whose writes are TLS records one by one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.num_tickets = tickets
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def accept() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            connection.settimeout(PATIENCE)
            with context.wrap_socket(connection, server_side=True) as peer:
                peer.recv(65536)
                behaviour(peer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(asyncio.to_thread(accept))
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        networks = (ip_network("127.0.0.1/32"),)
        async with Fetcher(sources=Sources(), networks=networks, limits=LIMITS, ssl_context=trust) as subject:
            with pytest.raises(ReceiverError) as caught:
                await subject.fetch(url, folder / "spooled")
        await server
    return caught.value


async def test_a_cancelled_download_takes_nothing_of_the_next_one(host: Hosts) -> None:
    """Its thread may still write the last bytes when their connection carries another body."""
    halfway, taken, go = asyncio.Event(), threading.Event(), threading.Event()

    async def behave(peer: Peer) -> None:
        await peer.send(answer(BODY))
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer(BODY[:HALF], length=len(BODY)))
        await halfway.wait()
        await peer.send(BODY[HALF:])

    class Blocked(Progress):
        def __setattr__(self, name: str, value: float) -> None:
            super().__setattr__(name, value)
            if name == "bytes" and value == len(BODY):
                taken.set()
                go.wait(PATIENCE)

    async with host(behave) as it:
        it.progress = Blocked()
        cancelled = asyncio.create_task(it.fetch("cancelled"))
        await until(taken.is_set)
        cancelled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled
        it.progress = Progress()
        following = asyncio.create_task(it.fetch())
        await until(lambda: it.progress.bytes > 0)
        go.set()
        await asyncio.sleep(0)
        halfway.set()
        assert await following == BODY
        assert len(it.peers) == 1
