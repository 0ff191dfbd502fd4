"""Kept connections: what they save, and that they open no way around the guard."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme

from receiver.core.errors import FetchError, ReceiverError
from receiver.fetch.connections import MAX_IDLE, Connections
from receiver.fetch.download import DownloadLimits, Fetcher
from receiver.fetch.network_guard import NetworkGuard, Resolver
from receiver.fetch.sources import Sources, check_url
from tests.support.hostile import Peer, Recorder, Server, answer, redirect, serve

LOOPBACK = (ip_network("127.0.0.1/32"),)
LIMITS = DownloadLimits(max_bytes=4096)
PUBLIC, PUBLIC_2 = "93.184.216.34", "93.184.216.35"

Reply = Callable[[Peer, bytes], Awaitable[object]]
"""Answers one request of a connection; the connection ends when it returns false."""


async def path_back(peer: Peer, head: bytes) -> bool:
    await peer.send(answer(head.split(b" ")[1]))
    return True


@asynccontextmanager
async def keeping(reply: Reply = path_back, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that answers one request after another on each connection."""

    async def behave(peer: Peer) -> None:
        while True:
            server.heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
            if not await reply(peer, server.heads[-1]):
                return

    async with serve(behave, context=context, waits_for_head=False) as server:
        yield server


def fetcher(**changes: object) -> Fetcher:
    settings: dict[str, object] = {"sources": Sources(), "networks": LOOPBACK, "limits": LIMITS}
    return Fetcher(**(settings | changes))  # type: ignore[arg-type]


async def body(subject: Fetcher, url: str, folder: Path) -> bytes:
    download = await subject.fetch(url, folder / "spooled")
    content = download.path.read_bytes()
    download.path.unlink()
    return content


def in_turn(*answers: Sequence[str]) -> Resolver:
    waiting = iter(answers)

    async def resolver(host: str, port: int) -> Sequence[str]:
        return next(waiting)

    return resolver


async def test_images_of_one_host_come_over_one_connection(tmp_path: Path) -> None:
    async with keeping() as server, fetcher() as subject:
        assert [await body(subject, f"{server.url}{n}", tmp_path) for n in range(3)] == [b"/0", b"/1", b"/2"]
        assert len(server.peers) == 1


async def test_a_redirect_within_a_host_needs_no_second_connection(tmp_path: Path) -> None:
    async def reply(peer: Peer, head: bytes) -> bool:
        await peer.send(redirect("/there") if b" /here " in head else answer(b"image"))
        return True

    async with keeping(reply) as server, fetcher() as subject:
        assert await body(subject, f"{server.url}here", tmp_path) == b"image"
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("last", "connections"),
    [
        (answer(b"image", "Connection: close"), 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nimage", 2),
        (answer(b"image") + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 2),
        (answer(b"image") + b"e", 2),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n\r\n", 1),
        (b"HTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\n" + answer(b"image"), 1),
    ],
)
async def test_only_a_connection_that_is_between_two_answers_is_used_again(
    tmp_path: Path, last: bytes, connections: int
) -> None:
    async def reply(peer: Peer, head: bytes) -> bool:
        await peer.send(last)
        return True

    async with keeping(reply) as server, fetcher() as subject:
        assert [await body(subject, server.url, tmp_path) for _ in range(2)] == [b"image"] * 2
        assert len(server.peers) == connections


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_image(tmp_path: Path) -> None:
    sent = asyncio.Event()

    async def reply(peer: Peer, head: bytes) -> bool:
        await peer.send(answer(b"image"))
        if not sent.is_set():
            await fetched.wait()
            await peer.send(answer(b"evil"))
            sent.set()
        return True

    fetched = asyncio.Event()
    async with keeping(reply) as server, fetcher() as subject:
        assert await body(subject, server.url, tmp_path) == b"image"
        fetched.set()
        await sent.wait()
        # What is sent first is received first: once this answer has come, the other one has.
        async with fetcher() as other:
            assert await body(other, server.url, tmp_path) == b"image"
        assert await body(subject, server.url, tmp_path) == b"image"
        assert len(server.peers) == 3


@pytest.mark.parametrize("delayed", [False, True])
async def test_a_kept_connection_that_the_host_has_closed_is_no_error(
    tmp_path: Path,
    delayed: bool,  # noqa: FBT001 - a column
) -> None:
    """At once, or when the next request has come."""

    async def reply(peer: Peer, head: bytes) -> bool:
        if peer in answered:
            return False
        answered.append(peer)
        await peer.send(answer(b"image"))
        return delayed

    answered: list[Peer] = []
    async with keeping(reply) as server, fetcher() as subject:
        assert [await body(subject, server.url, tmp_path) for _ in range(3)] == [b"image"] * 3
        assert len(answered) == 3


@pytest.mark.parametrize("last", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nima"])
async def test_a_kept_connection_that_breaks_in_its_answer_is_an_error(tmp_path: Path, last: bytes) -> None:
    async def reply(peer: Peer, head: bytes) -> bool:
        await peer.send(last if len(server.heads) == 2 else answer(b"image"))
        return len(server.heads) < 2

    async with keeping(reply) as server, fetcher() as subject:
        await body(subject, server.url, tmp_path)
        with pytest.raises(FetchError) as caught:
            await body(subject, server.url, tmp_path)
        assert caught.value.reason == "fetch.cut_short"
        assert len(server.peers) == 1


async def test_a_host_that_never_answers_is_asked_twice_at_most(tmp_path: Path) -> None:
    async def reply(peer: Peer, head: bytes) -> bool:
        if len(server.heads) == 1:
            await peer.send(answer(b"image"))
        return len(server.heads) == 1

    async with keeping(reply) as server, fetcher() as subject:
        await body(subject, server.url, tmp_path)
        with pytest.raises(FetchError) as caught:
            await body(subject, server.url, tmp_path)
        assert caught.value.reason == "fetch.cut_short"
        assert len(server.heads) == 3


@pytest.fixture(scope="module")
def both_ends() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS of two names for a server, and for a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("images.example", "other.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("now", [["127.0.0.2"], [PUBLIC, "10.0.0.1"], [], ["fe80::1%eth0"]])
async def test_a_kept_connection_is_not_used_once_its_host_has_a_forbidden_address(
    tmp_path: Path, both_ends: tuple[ssl.SSLContext, ssl.SSLContext], now: Sequence[str]
) -> None:
    async with keeping(context=both_ends[0]) as server:
        recorder = Recorder({(PUBLIC, 443): server.port})
        resolver = in_turn([PUBLIC], now, [PUBLIC])
        async with fetcher(resolver=resolver, backend=recorder, ssl_context=both_ends[1]) as subject:
            assert await body(subject, "https://images.example/1", tmp_path) == b"/1"
            with pytest.raises(ReceiverError) as caught:
                await body(subject, "https://images.example/2", tmp_path)
            assert caught.value.reason == ("url.address" if now else "fetch.resolve")
            assert len(server.heads) == 1
            assert await body(subject, "https://images.example/3", tmp_path) == b"/3"
    assert recorder.dialled == [(PUBLIC, 443)]


async def test_a_kept_connection_is_not_used_once_its_address_is_no_longer_the_hosts(
    tmp_path: Path, both_ends: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async with keeping(context=both_ends[0]) as server:
        recorder = Recorder({(PUBLIC, 443): server.port, (PUBLIC_2, 443): server.port})
        resolver = in_turn([PUBLIC], [PUBLIC_2], [PUBLIC_2, PUBLIC])
        async with fetcher(resolver=resolver, backend=recorder, ssl_context=both_ends[1]) as subject:
            for n in range(3):
                await body(subject, f"https://images.example/{n}", tmp_path)
    assert recorder.dialled == [(PUBLIC, 443), (PUBLIC_2, 443)]


async def test_a_kept_connection_is_used_for_no_other_host_scheme_or_port(
    tmp_path: Path, both_ends: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Else a certificate, or the rule that confines plain http, would hold for one and not for the other."""
    places = [("127.0.0.1", 443), ("127.0.0.1", 80), ("127.0.0.1", 8443)]
    async with keeping(context=both_ends[0]) as secure, keeping() as plain:
        ports = {443: secure.port, 80: plain.port, 8443: secure.port}
        recorder = Recorder({(host, port): ports[port] for host, port in places})

        async def resolver(host: str, port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        async with fetcher(resolver=resolver, backend=recorder, ssl_context=both_ends[1]) as subject:
            for origin in [
                "https://images.example",
                "https://other.example",
                "http://images.example",
                "https://images.example:8443",
            ] * 2:
                await body(subject, f"{origin}/a", tmp_path)
    assert recorder.dialled == [places[0], places[0], places[1], places[2]]


@pytest.mark.parametrize(("idle_seconds", "count"), [(0.01, 1), (600, MAX_IDLE + 1)])
async def test_idle_connections_end_and_are_bounded(idle_seconds: float, count: int) -> None:
    ends = asyncio.Semaphore(0)

    async def behave(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer(b"image"))
        await peer.reader.read()
        ends.release()

    async with serve(behave, waits_for_head=False) as server:
        guard, tls = NetworkGuard(LOOPBACK), ssl.create_default_context()
        connections = Connections(guard, tls, 5, idle_seconds=idle_seconds)
        target = check_url(server.url, Sources(), LOOPBACK)
        for connection in [await connections.open(target) for _ in range(count)]:
            await connection.ask(b"GET / HTTP/1.1\r\n\r\n", 5)
            await connection.read(5)
            await connections.release(connection)
        await asyncio.wait_for(ends.acquire(), 10)
        await connections.aclose()
        for _ in range(count - 1):
            await asyncio.wait_for(ends.acquire(), 10)
