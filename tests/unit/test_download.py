"""Downloads from hostile servers on real sockets."""

# ruff: noqa: ASYNC240 - a test may look at a file between two awaits; nobody else waits for its loop

import asyncio
import contextlib
import dataclasses
import gzip
import hashlib
import itertools
import logging
import random
import re
import ssl
import stat
import tracemalloc
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import brotli
import pytest
import trustme

from receiver.core.errors import FetchError, ReceiverError, SpoolError, UrlError
from receiver.fetch.download import DownloadLimits, Fetcher, _DownloadFile
from receiver.fetch.sources import Sources
from tests.support.hostile import Behaviour, Peer, Recorder, answer, redirect, says, serve

PUBLIC = "93.184.216.34"
LOOPBACK = (ip_network("127.0.0.1/32"),)
LIMITS = DownloadLimits(max_bytes=64 * 1024)
BODY = bytes(range(256)) * 40


def fetcher(limits: DownloadLimits = LIMITS, **changes: object) -> Fetcher:
    settings: dict[str, object] = {"sources": Sources(), "networks": LOOPBACK, "limits": limits}
    return Fetcher(**(settings | changes))  # type: ignore[arg-type]


def limits(**changes: object) -> DownloadLimits:
    return dataclasses.replace(LIMITS, **changes)  # type: ignore[arg-type]


async def refusal(url: str, into: Path, limits: DownloadLimits = LIMITS, **changes: object) -> ReceiverError:
    """The error that a download ends with; it must leave no file behind."""
    async with fetcher(limits, **changes) as subject:
        with pytest.raises(ReceiverError) as caught:
            await subject.fetch(url, into)
    assert list(into.parent.iterdir()) == []
    return caught.value


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "spooled"


# What comes


@pytest.mark.parametrize("size", [1, 65_535, 1024 * 1024, 3 * 1024 * 1024 + 1])
async def test_a_body_is_on_the_disk_with_its_size_and_hash(into: Path, size: int) -> None:
    body = (BODY * (size // len(BODY) + 1))[:size]
    async with serve(says(answer(body))) as server, fetcher(limits(max_bytes=size)) as subject:
        download = await subject.fetch(server.url, into)
    assert download.path.read_bytes() == body
    assert (download.bytes, download.sha256) == (size, hashlib.sha256(body).hexdigest())
    assert stat.S_IMODE(into.stat().st_mode) == 0o600


async def test_a_chunked_body_and_one_that_ends_with_the_connection_are_whole_too(into: Path) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n"
    closed = b"HTTP/1.0 200 OK\r\n\r\nabcdefg"
    for index, raw in enumerate([chunked, closed]):
        async with serve(says(raw)) as server, fetcher() as subject:
            download = await subject.fetch(server.url, into.with_name(str(index)))
        assert download.path.read_bytes() == b"abcdefg"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
        b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3  \r\nabc\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: \xfc\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: y\r\ncontent-length:3 \r\n\r\nabc",
        b"HTTP/1.1 200 OK\nContent-Length: 3, 3\n\nabc",
        b"HTTP/1.1 103 Hints\r\nLink: <a>,\r\n <b>\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\n\tz\r\n\r\nabc",
    ],
)
async def test_what_servers_are_known_to_write_is_read(into: Path, raw: bytes) -> None:
    for pieces in [[raw], [raw[at : at + 1] for at in range(len(raw))]]:
        async with serve(says(*pieces)) as server, fetcher() as subject:
            assert (await subject.fetch(server.url, into)).path.read_bytes() == b"abc"
        into.unlink()


async def test_the_request_is_what_was_judged_and_says_no_more_than_it_must(into: Path) -> None:
    async with serve(says(answer(BODY))) as server, fetcher(user_agent="upscale-receiver/9") as subject:
        await subject.fetch(f"{server.url}a//b%2f{{x}}/../c?X-Sig=a%2Bb|'&y", into)
    head = server.heads[0].decode().lower().split("\r\n")
    assert head[0] == "get /a//b%2f{x}/../c?x-sig=a%2bb|'&y http/1.1"
    assert f"host: 127.0.0.1:{server.port}" in head
    assert "accept-encoding: identity" in head
    assert "user-agent: upscale-receiver/9" in head
    assert not [line for line in head if line.startswith(("cookie", "authorization", "referer", "range"))]


async def test_no_proxy_is_taken_from_the_environment(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(says(answer(b"from the proxy"))) as proxy, serve(says(answer(BODY))) as server:
        for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"]:
            monkeypatch.setenv(name, proxy.url)
        async with fetcher() as subject:
            download = await subject.fetch(server.url, into)
    assert proxy.peers == []
    assert download.bytes == len(BODY)


async def test_no_cookie_is_carried_to_the_next_request(into: Path) -> None:
    async with serve(says(answer(BODY, "Set-Cookie: a=b; Path=/"))) as server, fetcher() as subject:
        await subject.fetch(server.url, into)
        await subject.fetch(server.url, into.with_name("second"))
    assert len(server.heads) == 2
    assert b"cookie" not in server.heads[1].lower()


async def test_sixty_four_megabytes_take_a_few_of_memory(into: Path) -> None:
    size = 64 * 1024 * 1024
    piece = b"\xa5" * 65536

    async def behave(peer: Peer) -> None:
        await peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // len(piece)):
            await peer.send(piece)

    async with serve(behave) as server, fetcher(limits(max_bytes=size)) as subject:
        tracemalloc.start()
        try:
            download = await subject.fetch(server.url, into)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert download.bytes == into.stat().st_size == size
    assert peak < 8 * 1024 * 1024


# What is refused by its head


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        *[(403, "fetch.gone"), (404, "fetch.gone"), (410, "fetch.gone"), (204, "fetch.empty")],
        *[(201, "fetch.status"), (206, "fetch.status"), (300, "fetch.status"), (304, "fetch.status")],
        *[(400, "fetch.status"), (401, "fetch.status"), (429, "fetch.status"), (500, "fetch.status")],
        *[(503, "fetch.status"), (599, "fetch.status")],
    ],
)
async def test_any_status_but_200_is_an_error_that_names_it(into: Path, status: int, reason: str) -> None:
    body = b"" if status in {204, 304} else BODY
    async with serve(says(answer(body, status=status))) as server:
        error = await refusal(server.url, into)
    assert error.reason == reason
    assert str(status) in error.detail


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[("0", 0.0), ("120", 120.0), ("86400", 86400.0), ("99999999999999999999", 86400.0)],
        *[("Thu, 01 Jan 1970 00:18:20 GMT", 100.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
        *[
            ("Fri, 01 Jan 2100 00:00:00 GMT", 86400.0),
            ("soon", None),
            ("-5", None),
            ("", None),
            ("1.5", None),
        ],
    ],
)
async def test_retry_after_is_read_in_both_its_forms_and_bounded(
    into: Path, value: str, seconds: float | None
) -> None:
    async with serve(says(answer(b"", f"Retry-After: {value}", status=503))) as server:
        error = await refusal(server.url, into, wall_clock=lambda: 1000.0)
    assert isinstance(error, FetchError)
    assert error.retry_after == seconds


async def test_retry_after_counts_only_where_it_is_meant(into: Path) -> None:
    async with serve(says(answer(b"", "Retry-After: 5", status=500))) as server:
        error = await refusal(server.url, into)
    assert isinstance(error, FetchError)
    assert error.retry_after is None


async def test_a_declared_length_over_the_cap_is_refused_unread(into: Path) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(answer(b"", length=LIMITS.max_bytes + 1))
        await peer.stall()

    async with serve(behave) as server:
        assert (await refusal(server.url, into)).reason == "fetch.too_large"


async def test_the_caller_can_lower_the_cap_and_never_raise_it(into: Path) -> None:
    async with serve(says(answer(b"x" * 11))) as server, fetcher(limits(max_bytes=10)) as subject:
        for cap in [5, 10, 1000]:
            with pytest.raises(FetchError) as caught:
                await subject.fetch(server.url, into, max_bytes=cap)
            assert caught.value.reason == "fetch.too_large"


# What is refused by its body


async def sends_endlessly(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await peer.send_forever(b"x" * 65536)


async def sends_endless_chunks(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await peer.send_forever(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")


async def sends_an_endless_chunk_extension(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=")
    await peer.send_forever(b"x" * 65536)


async def sends_an_endless_header(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nX: ")
    await peer.send_forever(b"x" * 65536)


async def sends_endless_headers(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\n")
    await peer.send_forever(b"X: y\r\n" * 1000)


async def says_103_forever(peer: Peer) -> None:
    await peer.send_forever(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000)


async def greets_as_another_protocol(peer: Peer) -> None:
    await peer.send(b"SSH-2.0-OpenSSH_9.9\r\n")
    await peer.stall()


async def sends_endless_chunks_of_a_byte(peer: Peer) -> None:
    await peer.send(CHUNKED)
    await peer.send_forever(b"1\r\na\r\n" * 1000)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (sends_endlessly, "fetch.too_large"),
        (sends_endless_chunks, "fetch.too_large"),
        (sends_an_endless_chunk_extension, "fetch.protocol"),
        (sends_an_endless_header, "fetch.protocol"),
        (sends_endless_headers, "fetch.protocol"),
        (says_103_forever, "fetch.protocol"),
        (sends_endless_chunks_of_a_byte, "fetch.protocol"),
        (greets_as_another_protocol, "fetch.protocol"),
        (says(answer(BODY, length=len(BODY) + 1)), "fetch.cut_short"),
        (says(answer(BODY, length=0)), "fetch.empty"),
        (says(answer(b"")), "fetch.empty"),
        (says(CHUNKED + b"0\r\n\r\n"), "fetch.empty"),
        (says(b"HTTP/1.1 200 OK\r\n\r\n"), "fetch.empty"),
        (says(CHUNKED + b"4\r\nab"), "fetch.cut_short"),
        (says(CHUNKED + b"4\r\nabcd\r\n"), "fetch.cut_short"),
        (says(CHUNKED + b"zz\r\nabcd\r\n"), "fetch.protocol"),
        (says(CHUNKED + b"-1\r\nabcd\r\n"), "fetch.protocol"),
        (says(), "fetch.cut_short"),
        (says(b"HTTP/1.1 200 OK\r\nConte"), "fetch.cut_short"),
        (says(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), "fetch.protocol"),
        (says(b"\x16\x03\x01\x00\r\n\r\n"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabcd"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length:\r\n 4\r\n\r\na"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabcd"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\nContent-Length: -3\r\n\r\na"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding :\r\n chunked\r\n\r\n3\r\na"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 30 + b"\r\n\r\nabcd"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 5000 + b"4\r\n\r\nabcd"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "fetch.protocol"),
        (says(b"HTTP/1.1 200 OK\r\nX\x00: y\r\n\r\nabcd"), "fetch.protocol"),
        (says(b"HTTP/1.1 000 X\r\n\r\n"), "fetch.protocol"),
        (says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nabcd"), "fetch.protocol"),
    ],
)
async def test_a_broken_answer_has_its_reason_and_leaves_no_file(
    into: Path, behaviour: Behaviour, reason: str
) -> None:
    async with serve(behaviour) as server:
        error = await refusal(server.url, into)
        assert error.reason == reason
        assert not re.search(r"bytearray|[a-z][A-Z]|\b_", error.detail.partition("/: ")[2]), error.detail
        # What the kernel's buffers took, and no endless body.
        assert all(peer.sent < 32 * 1024 * 1024 for peer in server.peers)


async def test_a_long_body_in_chunks_as_servers_make_them_is_taken(into: Path) -> None:
    chunks = [b"100\r\n" + bytes(256) + b"\r\n"] * 2000
    answered = says(CHUNKED, *chunks, b"0\r\n\r\n")
    async with serve(answered) as server, fetcher(limits(max_bytes=1024 * 1024)) as subject:
        assert (await subject.fetch(server.url, into)).bytes == 512_000


async def test_what_stands_behind_the_declared_length_is_not_read(into: Path) -> None:
    async with serve(says(answer(BODY, length=100))) as server, fetcher() as subject:
        assert (await subject.fetch(server.url, into)).bytes == 100


async def test_an_endless_answer_takes_no_memory(into: Path) -> None:
    tracemalloc.start()
    try:
        for behaviour in [sends_endless_headers, sends_an_endless_header, sends_an_endless_chunk_extension]:
            async with serve(behaviour) as server:
                await refusal(server.url, into)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024


# What is coded


IMAGE = b"\x89PNG\r\n\x1a\n" + BODY
GZIP = partial(gzip.compress, mtime=0)
CODED: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": GZIP,
    "GZIP": GZIP,
    "x-gzip": GZIP,
    "gzip, identity": GZIP,
    "aws-chunked,gzip": GZIP,
    "br": partial(brotli.compress, quality=5),
    "deflate": zlib.compress,
    "deflate, none": lambda body: zlib.compress(body, wbits=-15),
}
"""Bodies as gzip and zlib of Python and Google's Brotli make them."""


@pytest.mark.parametrize(
    "label",
    [
        *("identity", "identity, identity", "none", "utf-8", "UTF-8", "binary", "aws-chunked", ""),
        *("gzip", "br", "deflate", "gzip, gzip", "aws-chunked, gzip", "x"),
    ],
)
async def test_an_image_is_taken_as_it_is_whatever_its_label(into: Path, label: str) -> None:
    async with serve(says(answer(IMAGE, f"Content-Encoding: {label}"))) as server, fetcher() as subject:
        download = await subject.fetch(server.url, into)
    assert into.read_bytes() == IMAGE
    assert download.sha256 == hashlib.sha256(IMAGE).hexdigest()


@pytest.mark.parametrize("label", ["identity", "utf-8", "binary,identity"])
async def test_a_label_that_names_no_coding_is_no_reason_to_refuse(into: Path, label: str) -> None:
    async with serve(says(answer(BODY, f"Content-Encoding: {label}"))) as server, fetcher() as subject:
        assert (await subject.fetch(server.url, into)).bytes == len(BODY)


@pytest.mark.parametrize("label", CODED)
@pytest.mark.parametrize("size", [1, 3 * 1024 * 1024 + 1])
async def test_a_coded_image_is_decoded(into: Path, label: str, size: int) -> None:
    image = IMAGE + random.Random(1).randbytes(size)
    body = CODED[label](image)
    answered, cap = says(answer(body, f"Content-Encoding: {label}")), limits(max_bytes=len(image) + 1024)
    async with serve(answered) as server, fetcher(cap) as subject:
        download = await subject.fetch(server.url, into)
    assert into.read_bytes() == image
    assert (download.bytes, download.sha256) == (len(image), hashlib.sha256(image).hexdigest())


@pytest.mark.parametrize(
    ("label", "body"),
    [
        *[("gzip", BODY), ("br", BODY), ("deflate", BODY), ("x", BODY), ("zstd", BODY)],
        *[("gzip", GZIP(BODY)), ("br", brotli.compress(BODY)), ("deflate", zlib.compress(BODY))],
        *[("gzip", GZIP(b"")), ("br", brotli.compress(b""))],
        *[("gzip", GZIP(IMAGE)[:-1]), ("br", brotli.compress(IMAGE)[:-1])],
        *[("gzip", GZIP(IMAGE) + b"x"), ("br", brotli.compress(IMAGE) + b"x")],
        *[("gzip", GZIP(IMAGE)[:-5] + b"wrong"), ("gzip", b"\x1f"), ("br", b"\x00")],
        *[("gzip, gzip", GZIP(GZIP(IMAGE))), ("gzip, br", GZIP(IMAGE))],
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
async def test_a_coded_body_that_is_no_whole_image_is_refused(into: Path, label: str, body: bytes) -> None:
    async with serve(says(answer(body, f"Content-Encoding: {label}"))) as server:
        assert (await refusal(server.url, into)).reason == "fetch.encoded"


@pytest.mark.parametrize("label", ["gzip", "br", "deflate"])
async def test_a_body_that_decodes_to_more_than_the_cap_takes_neither_memory_nor_disk(
    into: Path, label: str
) -> None:
    body = CODED[label](IMAGE + bytes(64 * 1024 * 1024))
    assert len(body) < LIMITS.max_bytes * 2
    async with serve(says(answer(body, f"Content-Encoding: {label}"))) as server:
        tracemalloc.start()
        try:
            error = await refusal(server.url, into, limits(max_bytes=1024 * 1024))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert error.reason == "fetch.too_large"
    assert peak < 8 * 1024 * 1024


# Time


async def drips_its_head(peer: Peer) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\n")
    await peer.drip(b"X-%d: y\r\n" % n for n in itertools.count())


async def says_nothing(peer: Peer) -> None:
    await peer.stall()


@pytest.mark.parametrize("behaviour", [drips_its_head, says_nothing])
async def test_a_head_that_does_not_come_is_given_up(into: Path, behaviour: Behaviour) -> None:
    async with serve(behaviour) as server:
        error = await refusal(server.url, into, limits(answer_seconds=0.1))
    assert error.reason == "fetch.timeout"


async def drips_its_body(peer: Peer) -> None:
    await peer.send(answer(b"", length=60_000))
    await peer.drip(itertools.repeat(b"x"))


async def stalls_in_its_body(peer: Peer) -> None:
    await peer.send(answer(b"x" * 1000, length=60_000))
    await peer.stall()


async def test_a_body_that_stalls_is_given_up(into: Path) -> None:
    async with serve(stalls_in_its_body) as server:
        error = await refusal(server.url, into, limits(idle_seconds=0.1))
    assert (error.reason, error.detail) == ("fetch.timeout", f"{server.url}: nothing came in time")


@pytest.mark.parametrize("behaviour", [drips_its_head, drips_its_body, stalls_in_its_body])
async def test_the_total_time_bounds_it_whatever_the_other_limits_are(
    into: Path, behaviour: Behaviour
) -> None:
    async with serve(behaviour) as server:
        error = await refusal(server.url, into, limits(total_seconds=0.2, min_rate=0, answer_seconds=600))
    assert error.reason == "fetch.timeout"


async def test_the_caller_can_lower_the_time(into: Path) -> None:
    async with serve(says_nothing) as server, fetcher() as subject:
        for seconds in [0.05, 0, -1]:
            with pytest.raises(FetchError) as caught:
                await subject.fetch(server.url, into, seconds=seconds)
            assert caught.value.reason == "fetch.timeout"


async def test_a_body_below_the_least_rate_is_given_up(into: Path) -> None:
    ticks = itertools.count(step=5)
    async with serve(drips_its_body) as server:
        error = await refusal(server.url, into, clock=lambda: float(next(ticks)))
    assert error.reason == "fetch.too_slow"


async def test_a_slow_body_above_the_least_rate_is_taken(into: Path) -> None:
    ticks = itertools.count(step=5)
    subject = fetcher(limits(min_rate=1), clock=lambda: float(next(ticks)))
    async with serve(says(answer(BODY))) as server, subject:
        assert (await subject.fetch(server.url, into)).bytes == len(BODY)


async def test_a_cancelled_download_leaves_no_file_and_no_connection(into: Path) -> None:
    hung_up, written = asyncio.Event(), asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.send(answer(b"x" * 2**20, length=2**21))
        with contextlib.suppress(ConnectionError):  # what was not read ends it with a reset
            await peer.reader.read()
        hung_up.set()

    loop = asyncio.get_running_loop()

    def clock() -> float:
        if into.exists():
            loop.call_soon_threadsafe(written.set)
        return 0.0

    async with serve(behave) as server, fetcher(limits(max_bytes=2**21), clock=clock) as subject:
        task = asyncio.create_task(subject.fetch(server.url, into))
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not into.exists()
        await asyncio.wait_for(hung_up.wait(), 10)


async def test_a_download_cancelled_at_any_step_leaves_no_file(into: Path) -> None:
    async with serve(says(answer(BODY))) as server, fetcher() as subject:
        for steps in range(80):
            task = asyncio.create_task(subject.fetch(server.url, into))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
                into.unlink()  # it was faster than the cancellation
            assert not into.exists()


# Redirects


async def test_redirects_are_followed_by_hand_up_to_three(into: Path) -> None:
    def hops(peer_count: int) -> Behaviour:
        seen = itertools.count(1)

        async def behave(peer: Peer) -> None:
            n = next(seen)
            await peer.send(redirect(f"../{n}?n={n}") if n <= peer_count else answer(BODY))

        return behave

    async with serve(hops(3)) as server, fetcher() as subject:
        assert (await subject.fetch(server.url + "a/b?x", into)).bytes == len(BODY)
        assert [head.split(b" ")[1] for head in server.heads] == [b"/a/b?x", b"/1?n=1", b"/2?n=2", b"/3?n=3"]
        into.unlink()
    async with serve(hops(4)) as server:
        assert (await refusal(server.url, into)).reason == "url.redirects"
        assert len(server.heads) == 4


async def test_headers_of_a_url_go_to_its_own_host_and_never_along_a_redirect(into: Path) -> None:
    answers = iter([redirect("/b"), answer(BODY), answer(BODY)])
    asked: list[tuple[str, str, int]] = []

    async def behave(peer: Peer) -> None:
        await peer.send(next(answers))

    def headers_for(*origin: Any) -> Mapping[str, str]:
        asked.append(origin)
        return {"Authorization": "Bearer x"}

    async with serve(behave) as server, fetcher() as subject:
        await subject.fetch(server.url + "a", into, headers_for=headers_for)
        await subject.fetch(server.url + "c", into.with_name("second"))

    assert [b"Authorization: Bearer x\r\n" in head for head in server.heads] == [True, False, False]
    assert asked == [("http", "127.0.0.1", server.port)]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "url.scheme"),
        ("https://169.254.169.254/latest/meta-data/", "url.address"),
        ("https://[::ffff:169.254.169.254]/", "url.address"),
        ("https://127.0.0.2/", "url.address"),
        ("https://metadata.example/", "url.address"),
        ("//169.254.169.254/", "url.scheme"),
        ("https://user@example.com/", "url.userinfo"),
        ("https://example.com:22/", "url.port"),
        ("https://2130706433/", "url.malformed"),
        ("file:///etc/passwd", "url.scheme"),
        ("gopher://127.0.0.1/", "url.scheme"),
        ("\\\\169.254.169.254/", "url.malformed"),
        ("/a\\b", "url.malformed"),
        ("/a\tb", "url.malformed"),
        ("/a\u0085b", "url.malformed"),
        ("https://ex\u00e4mple.com/", "url.malformed"),
        ("https://public.example /", "url.malformed"),
        ("https://[::1/", "url.malformed"),
        ("//[", "url.malformed"),
        ("/" + "a" * 9000, "url.malformed"),
    ],
)
async def test_each_hop_is_judged_anew_and_nothing_refused_is_dialled(
    into: Path, location: str, reason: str
) -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["169.254.169.254"]

    async with serve(says(redirect(location))) as server:
        recorder = Recorder({("127.0.0.1", server.port): server.port})
        error = await refusal(server.url, into, resolver=resolver, backend=recorder)
    assert isinstance(error, UrlError)
    assert (error.reason, error.final) == (reason, False)  # the host may redirect elsewhere the next time
    assert recorder.dialled == [("127.0.0.1", server.port)]


@pytest.mark.parametrize(
    ("url", "reason", "final"),
    [
        ("https://user@example.com/", "url.userinfo", True),
        ("ftp://example.com/", "url.scheme", True),
        ("https://example.com:22/", "url.port", False),  # within the networks it is allowed
        ("https://169.254.169.254/", "url.address", True),
        ("https://[::ffff:169.254.169.254]/", "url.address", True),
        ("https://metadata.example/", "url.address", False),
        ("http://metadata.example/", "url.scheme", False),
    ],
)
async def test_only_what_no_answer_of_a_host_or_a_name_server_can_change_is_final(
    into: Path,
    url: str,
    reason: str,
    final: bool,  # noqa: FBT001 - a column
) -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["169.254.169.254"]

    recorder = Recorder()
    error = await refusal(url, into, resolver=resolver, backend=recorder)
    assert isinstance(error, UrlError)
    assert (error.reason, error.final, recorder.dialled) == (reason, final, [])


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (b"/a b", b"/a%20b"),
        (b"  a  b ", b"/from/a%20%20b"),
        (b"/B\xc3\xbccher?\xc3\xbc=1 2#\xc3\xbc", b"/B%C3%BCcher?%C3%BC=1%202"),
        (b"/B\xfccher?\xe4 b", b"/B%FCcher?%E4%20b"),
        (b"b\xfc:c", b"/from/b%FC:c"),
        (b"?\xfc", b"/from/?%FC"),
    ],
)
async def test_a_location_in_raw_bytes_is_read_as_browsers_read_it(
    into: Path, location: bytes, target: bytes
) -> None:
    """curl 7.88 asks for the same, with small hex digits and ``+`` for a blank in a query."""

    async def behave(peer: Peer) -> None:
        first = len(server.heads) == 1
        moved = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
        await peer.send(moved if first else answer(BODY))

    async with serve(behave) as server, fetcher() as subject:
        assert (await subject.fetch(server.url + "from/", into)).bytes == len(BODY)
    assert server.heads[1].split(b" ")[1] == target


async def test_a_location_in_raw_bytes_is_judged_as_any_other(into: Path) -> None:
    async with serve(says(b"HTTP/1.1 302 X\r\nLocation: https://127.0.0.1/\xc3\xbc\r\n\r\n")) as server:
        recorder = Recorder({("127.0.0.1", server.port): server.port})
        assert (
            await refusal(server.url, into, networks=LOOPBACK, backend=recorder)
        ).reason == "fetch.connect"
        sources = Sources.parse([server.url + "in/"])
        assert (await refusal(server.url + "in/", into, sources=sources)).reason.startswith("url.")


async def test_a_redirect_to_nowhere_is_an_error(into: Path) -> None:
    async with serve(says(answer(status=302))) as server:
        assert (await refusal(server.url, into)).reason == "fetch.status"


async def test_the_body_of_a_redirect_is_not_read(into: Path) -> None:
    async def behave(peer: Peer) -> None:
        if len(server.heads) > 1:
            await peer.send(answer(BODY))
            return
        await peer.send(b"HTTP/1.1 307 X\r\nLocation: /there\r\n\r\n")
        await peer.send_forever(b"x" * 65536)

    async with serve(behave) as server, fetcher() as subject:
        assert (await subject.fetch(server.url, into)).bytes == len(BODY)
        assert server.peers[0].sent < 32 * 1024 * 1024


async def test_a_redirect_may_not_leave_the_sources(into: Path) -> None:
    async with serve(says(redirect("/outside/a"))) as server:
        sources = Sources.parse([server.url + "inside/"])
        assert (await refusal(server.url + "inside/a", into, sources=sources)).reason == "url.source"
        assert len(server.heads) == 1


# Names and certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def certificate(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def names(table: Mapping[str, Sequence[str]]) -> Callable[[str, int], object]:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return table[host]

    return resolver


async def test_https_keeps_the_name_in_host_sni_and_certificate_and_dials_the_address(
    into: Path, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    seen: list[str | None] = []
    context = certificate(authority, "images.example")
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with serve(says(answer(BODY)), context=context) as server:
        recorder = Recorder({(PUBLIC, 443): server.port})
        resolver = names({"images.example": [PUBLIC]})
        async with fetcher(resolver=resolver, backend=recorder, ssl_context=trust) as subject:
            assert (await subject.fetch("https://images.example/a?b", into)).bytes == len(BODY)
    assert recorder.dialled == [(PUBLIC, 443)]
    assert seen == ["images.example"]
    assert b"\r\nHost: images.example\r\n" in server.heads[0]


@pytest.mark.parametrize("host", ["xn--mnchen-3ya.example", "xn--a.example", "my_bucket.example"])
async def test_odd_names_reach_the_dial_as_they_were_judged(into: Path, host: str) -> None:
    recorder = Recorder()
    error = await refusal(f"https://{host}/", into, resolver=names({host: [PUBLIC]}), backend=recorder)
    assert error.reason == "fetch.connect"
    assert recorder.dialled == [(PUBLIC, 443)]


async def test_a_certificate_that_does_not_prove_the_name_is_refused(
    into: Path, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    strangers = trustme.CA()
    for host, issued in [
        ("images.example", certificate(authority, "other.example")),
        ("images.example", certificate(strangers, "images.example")),
        ("images.example", certificate(authority, PUBLIC)),
        ("my_bucket.example", certificate(authority, "images.example")),
        ("xn--a.example", certificate(authority, "images.example")),
    ]:
        async with serve(says(answer(BODY)), context=issued) as server:
            recorder = Recorder({(PUBLIC, 443): server.port})
            resolver = names({host: [PUBLIC]})
            error = await refusal(
                f"https://{host}/", into, resolver=resolver, backend=recorder, ssl_context=trust
            )
        assert error.reason == "fetch.tls"
        assert server.heads == []


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [(says(), "fetch.tls"), (says(answer(BODY)), "fetch.tls"), (says_nothing, "fetch.timeout")],
)
async def test_a_handshake_that_does_not_succeed_has_its_reason_and_is_closed(
    into: Path, behaviour: Behaviour, reason: str
) -> None:
    hung_up = asyncio.Event()

    async def behave(peer: Peer) -> None:
        if reason == "fetch.timeout":
            await peer.reader.read()
            hung_up.set()
        else:
            await peer.reader.read(1)
            await behaviour(peer)
            hung_up.set()

    for changes in [{"connect_seconds": 0.1}, {"answer_seconds": 0.1}] if reason == "fetch.timeout" else [{}]:
        async with serve(behave, waits_for_head=False) as server:
            url = f"https://127.0.0.1:{server.port}/"
            assert (await refusal(url, into, limits(**changes))).reason == reason
            await asyncio.wait_for(hung_up.wait(), 10)
            hung_up.clear()


async def test_a_name_that_answers_differently_the_second_time_is_never_looked_up_twice(
    into: Path, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    answers = iter([[PUBLIC], ["127.0.0.2"], ["127.0.0.2"]])

    async def resolver(host: str, port: int) -> Sequence[str]:
        return next(answers)

    # The first hop dials what was judged; the second look-up, for the redirect, is judged anew and refused.
    context = certificate(authority, "images.example")
    async with serve(says(redirect("https://images.example/again")), context=context) as server:
        recorder = Recorder({(PUBLIC, 443): server.port})
        error = await refusal(
            "https://images.example/", into, resolver=resolver, backend=recorder, ssl_context=trust
        )
    assert error.reason == "url.address"
    assert recorder.dialled == [(PUBLIC, 443)]


async def test_a_redirect_from_https_to_http_is_refused(
    into: Path, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    async with serve(says(answer(BODY))) as plain:
        context = certificate(authority, "127.0.0.1")
        async with serve(says(redirect(plain.url)), context=context) as server:
            error = await refusal(f"https://127.0.0.1:{server.port}/", into, ssl_context=trust)
        assert error.reason == "url.scheme"
        assert plain.peers == []


@pytest.mark.parametrize(
    ("url", "answers", "reason"),
    [
        ("https://images.example/", ["127.0.0.2"], "url.address"),
        ("https://images.example/", [PUBLIC, "10.0.0.1"], "url.address"),
        ("http://images.example/", [PUBLIC], "url.scheme"),
        ("http://images.example/", ["127.0.0.1", PUBLIC], "url.scheme"),
        ("https://images.example:8443/", [PUBLIC], "url.port"),
        ("https://images.example/", [], "fetch.resolve"),
        ("http://images.example/", [], "url.scheme"),
    ],
)
async def test_a_name_is_refused_by_the_rule_that_its_addresses_break(
    into: Path, url: str, answers: list[str], reason: str
) -> None:
    recorder = Recorder()
    error = await refusal(url, into, resolver=names({"images.example": answers}), backend=recorder)
    assert error.reason == reason
    assert recorder.dialled == []


async def test_plain_http_reaches_a_name_whose_addresses_all_lie_in_the_networks(into: Path) -> None:
    subject = fetcher(resolver=names({"localhost": ["127.0.0.1"]}))
    async with serve(says(answer(BODY))) as server, subject:
        download = await subject.fetch(f"http://localhost:{server.port}/a", into)
    assert download.bytes == len(BODY)


async def test_a_port_that_nobody_listens_on_is_fetch_connect(into: Path) -> None:
    async with serve(says()) as server:
        pass
    assert (await refusal(server.url, into)).reason == "fetch.connect"


# Our own side


async def test_a_file_that_exists_is_neither_overwritten_nor_removed(into: Path) -> None:
    into.write_bytes(b"mine")
    async with serve(says(answer(BODY))) as server, fetcher() as subject:
        with pytest.raises(SpoolError) as caught:
            await subject.fetch(server.url, into)
    assert caught.value.reason == "spool.disk"
    assert into.read_bytes() == b"mine"


def test_a_thread_that_comes_too_late_creates_nothing_for_a_discarded_download(into: Path) -> None:
    file = _DownloadFile(into)
    file.discard()
    file.write([b"late"])
    with pytest.raises(SpoolError):
        file.finish([b"later"])
    assert not into.exists()


async def test_a_folder_that_is_not_there_is_spool_disk(into: Path) -> None:
    async with serve(says(answer(BODY))) as server, fetcher() as subject:
        with pytest.raises(SpoolError) as caught:
            await subject.fetch(server.url, into / "a")
    assert caught.value.reason == "spool.disk"


async def test_neither_errors_nor_logs_hold_the_signature(
    into: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    behaviours = [says(answer(status=403)), says(answer(BODY, length=10**6)), says(b"x\r\n\r\n"), says()]
    behaviours += [
        says(redirect("http://127.0.0.9/?X-Sig=s3cret")),
        says(answer(BODY, "Content-Encoding: gzip")),
    ]
    for behaviour in behaviours:
        async with serve(behaviour) as server:
            error = await refusal(server.url + "a?X-Sig=s3cret", into)
        assert "s3cret" not in str(error)
    async with fetcher() as subject:
        with pytest.raises(UrlError) as caught:
            await subject.fetch("https://s3cret@example.com/?s3cret", into)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in caplog.text


async def test_many_downloads_at_a_time_keep_apart(tmp_path: Path) -> None:
    async def behave(peer: Peer) -> None:
        await peer.send(answer(server.heads[-1].split(b" ")[1] * 1000))

    async with serve(behave) as server, fetcher() as subject:
        downloads = await asyncio.gather(
            *(subject.fetch(f"{server.url}{n}", tmp_path / str(n)) for n in range(40))
        )
    for n, download in enumerate(downloads):
        assert download.path.read_bytes() == f"/{n}".encode() * 1000
