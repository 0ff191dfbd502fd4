"""Hostile peers on real sockets against a real receiver: what they get, and what they cost."""

import contextlib
import itertools
import json
import resource
import socket
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from receiver.core.log_limit import REPEAT_SECONDS
from receiver.web.clients import MAX_UNPROVED_BODIES
from receiver.web.middleware import SECURITY_HEADERS
from receiver.web.protocol import MAX_HEAD_BYTES, MAX_HEADERS
from tests.support.memory import MIB, resident
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    WEBHOOK,
    WEBHOOK_SECRET,
    Programs,
    Receiver,
    ReceiverProcess,
    completion,
    settings,
)
from tests.support.waiting import eventually

FLOOD = 64 * MIB
"""More than any peer gets rid of: kernels' buffers hold a few MiB for a server that does not read."""

GROWTH = 24 * MIB
"""What the receiver's memory may grow by, whatever a peer does."""

NOWHERE = "https://10.0.0.1/never-asked-for"
"""An image URL that is refused: the job ends without a look at the network."""


@contextlib.contextmanager
def connected(receiver: Receiver, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    address = ("127.0.0.1", receiver.port)
    with socket.create_connection(address, PATIENCE, source_address=(source, 0)) as connection:
        yield connection


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset behind the answer is a close as well."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            came += data
    return came


def exchanged(receiver: Receiver, data: bytes, source: str = "127.0.0.1") -> bytes:
    """All that comes for these bytes, until the server ends the connection."""
    with connected(receiver, source) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        return said(connection)


def statuses(came: bytes) -> list[int]:
    """The status of each answer in a row."""
    return [int(part[:3]) for part in came.split(b"HTTP/1.1 ")[1:]]


def delivery(job_id: str, *headers: str) -> bytes:
    """A whole good request, whose connection stays open."""
    body = json.dumps(completion(job_id, NOWHERE, 8, 8)).encode()
    proof = f"X-Webhook-Secret: {WEBHOOK_SECRET}"
    lines = [f"POST {WEBHOOK} HTTP/1.1", "Host: r", proof, f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture
def job_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture(scope="module")
def receiver(
    shared_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReceiverProcess]:
    """A process of its own, whose memory is measured."""
    with shared_programs.receiver_process(settings(tmp_path_factory.mktemp("sockets"))) as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def unharmed(receiver: ReceiverProcess) -> Iterator[None]:
    """Whatever a test's peer did: the next sender gets its 200, nothing broke, and memory stayed small."""
    before = resident(receiver.program.process.pid)
    yield
    assert statuses(exchanged(receiver, delivery(str(uuid.uuid4()), "Connection: close"))) == [200]
    assert "Traceback" not in receiver.program.log
    assert resident(receiver.program.process.pid, "VmHWM") - before < GROWTH


# Heads


def flooded(receiver: Receiver, start: bytes, piece: bytes) -> tuple[int, bytes]:
    """Sends a beginning and then the same for ever. Gives the bytes that went out, and what was answered."""
    block = piece * max(1, 65536 // len(piece))
    sent = 0
    with connected(receiver) as connection:
        try:
            connection.sendall(start)
            while sent < FLOOD:
                connection.sendall(block)
                sent += len(block)
        except ConnectionError:
            pass
        return sent, said(connection)


POST = f"POST {WEBHOOK} HTTP/1.1\r\nHost: r\r\n".encode()
CHUNKED = POST + f"X-Webhook-Secret: {WEBHOOK_SECRET}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"POST /", b"a"),
        (b"POST /?", b"a=b&"),
        (b"A", b"A"),
        (POST, b"X-A: b\r\n"),
        (POST, b"a:\r\n"),
        (POST + b"X-A: ", b"b"),
        (POST + b"X", b"a"),
        (POST + b"Cookie: ", b"a=b; "),
        (POST + b"X-A: ", b" "),
        (b"", b"\r\n"),
        (b"", b"\0"),
        (b"", b"\xff\xfe"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0\1\2\3"),
        (CHUNKED + b"1;", b"a"),
        (CHUNKED + b"1;a=", b"b"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"X-A: b\r\n"),
        (CHUNKED + b"1\r\na\r\n0\r\nX-A: ", b"b"),
        (CHUNKED + b"1\r\na\r\n0\r\nX", b"a"),
        (CHUNKED, b"0000000000000000"),
        (CHUNKED, b"1;" + b"a" * 60_000 + b"\r\na\r\n"),
    ],
    ids=[
        *(
            "path",
            "query",
            "method",
            "headers",
            "headers-without-values",
            "value",
            "name",
            "cookie",
            "blanks",
        ),
        *("line-ends", "nul", "binary", "tls", "extension-name", "extension-value", "trailers"),
        *("trailer-value", "trailer-name", "chunk-size", "extensions"),
    ],
)
def test_an_endless_peer_is_cut_off(receiver: Receiver, start: bytes, piece: bytes) -> None:
    began = time.monotonic()
    sent, came = flooded(receiver, start, piece)
    assert sent < FLOOD
    assert time.monotonic() - began < 10
    assert all(400 <= status < 500 for status in statuses(came))


def head_of(count: int, size: int) -> bytes:
    """A GET with so many headers, and so many bytes in all."""
    first = b"GET /healthz HTTP/1.1\r\nHost: r\r\nConnection: close\r\n"
    headers = [b"X-%d: a\r\n" % number for number in range(count - 2)]
    rest = size - len(first) - sum(map(len, headers)) - 2
    headers[-1] = headers[-1][:-2] + b"a" * rest + b"\r\n"
    return first + b"".join(headers) + b"\r\n"


def test_a_head_at_the_limits_is_taken(receiver: Receiver) -> None:
    data = head_of(MAX_HEADERS, MAX_HEAD_BYTES)
    assert len(data) == MAX_HEAD_BYTES
    assert statuses(exchanged(receiver, data)) == [200]


@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "in-pieces"])
@pytest.mark.parametrize(
    ("count", "size"), [(MAX_HEADERS + 1, 8_000), (1_000, 30_000), (10, 16 * MAX_HEAD_BYTES)]
)
def test_a_head_over_a_limit_is_refused_for_what_it_is(
    receiver: Receiver,
    count: int,
    size: int,
    at_once: bool,  # noqa: FBT001 - a case
) -> None:
    data = head_of(count, size)
    with connected(receiver) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), len(data) if at_once else 500):
                connection.sendall(data[at : at + (len(data) if at_once else 500)])
        came = said(connection)
    if came:  # a reset may overtake it where the rest of the head was still on its way
        assert statuses(came) == [431]
        assert b'"reason":"body.head_too_large"' in came


@pytest.mark.parametrize("piece", [b"X-A: b\r\n", b"a"], ids=["headers", "value"])
def test_an_overlong_head_of_the_second_request_of_a_connection_is_cut_off_too(
    receiver: Receiver, job_id: str, piece: bytes
) -> None:
    sent, came = flooded(receiver, delivery(job_id) + POST + b"X-A: ", piece)
    assert sent < FLOOD
    # The first one's answer may not have been ready when the connection ended.
    assert statuses(came) in ([200, 431], [200], [431], [])


# What is no request, or may be two


GARBAGE = {
    "http-0.9": b"GET /\r\n\r\n",
    "http-0.9-with-blank": b"GET / \r\n\r\n",
    "no-version": b"GET /stats\r\nHost: r\r\n\r\n",
    "version-1.2": b"GET /healthz HTTP/1.2\r\nHost: r\r\n\r\n",
    "version-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version-9": b"GET /healthz HTTP/9.9\r\nHost: r\r\n\r\n",
    "icap": b"GET /healthz ICAP/1.0\r\nHost: r\r\n\r\n",
    "lower-case": b"get /healthz HTTP/1.1\r\nHost: r\r\n\r\n",
    "unknown-method": b"FETCH /healthz HTTP/1.1\r\nHost: r\r\n\r\n",
    "blank-in-path": b"GET /health z HTTP/1.1\r\nHost: r\r\n\r\n",
    "nul-in-path": b"GET /healthz\0 HTTP/1.1\r\nHost: r\r\n\r\n",
    "nul-in-value": b"GET /healthz HTTP/1.1\r\nHost: r\r\nX-A: a\0b\r\n\r\n",
    "no-colon": b"GET /healthz HTTP/1.1\r\nHost: r\r\nX-A\r\n\r\n",
    "empty-name": b"GET /healthz HTTP/1.1\r\nHost: r\r\n: a\r\n\r\n",
    "blank-in-name": b"GET /healthz HTTP/1.1\r\nHost: r\r\nX A: b\r\n\r\n",
    "bare-cr": b"GET /healthz HTTP/1.1\rHost: r\r\r",
    "answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "smtp": b"EHLO evil.example\r\nMAIL FROM:<a@b>\r\n",
    "redis": b"*1\r\n$4\r\nINFO\r\n",
    "json": b'{"status": "DONE"}\n',
    "tls": bytes.fromhex("16030100c4010000c00303") + bytes(190),
    "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
    "proxy-protocol": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /stats HTTP/1.1\r\nHost: r\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_request_is_refused_and_the_connection_ends(receiver: Receiver, data: bytes) -> None:
    came = exchanged(receiver, data)
    assert all(400 <= status < 500 for status in statuses(came)), came
    assert len(statuses(came)) <= 1


def test_a_thousand_requests_that_are_none_do_not_fill_the_log(receiver: Receiver) -> None:
    before = len(receiver.program.lines)
    for _ in range(1000):
        exchanged(receiver, b"EHLO evil.example\r\n\r\n")
    assert len(receiver.program.lines) - before < 50


@pytest.mark.parametrize("secret", [WEBHOOK_SECRET, "wrong"])
@pytest.mark.parametrize(("digits", "status"), [("0" * 6000 + "2", None), ("0" * 6000 + "9" * 18, 413)])
def test_a_length_of_thousands_of_digits_is_a_number_like_any_other(
    receiver: Receiver, secret: str, digits: str, status: int | None
) -> None:
    """llhttp (httptools 0.8) lets leading zeros pass, and Python reads no more than 4,300 digits."""
    lines = [f"POST {WEBHOOK} HTTP/1.1", "Host: r", "Connection: close", f"X-Webhook-Secret: {secret}"]
    data = "\r\n".join([*lines, f"Content-Length: {digits}", "", "{}"]).encode()
    with connected(receiver) as connection:
        connection.sendall(data)
        if status is not None:  # the answer is there; the receiver reads on until the rest has come
            connection.shutdown(socket.SHUT_WR)
        came = said(connection)
    assert statuses(came) == [status or (422 if secret == WEBHOOK_SECRET else 401)]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (["X-Webhook-Secret: wrong"], 401),
        ([f"X-Webhook-Secret: {WEBHOOK_SECRET}"], 422),
        ([f"X-Webhook-Secret: {WEBHOOK_SECRET}", "Content-Type: text/plain"], 415),
        (["Transfer-Encoding: chunked, identity"], 400),
    ],
    ids=["unproved", "no-completion", "wrong-type", "no-request"],
)
def test_requests_of_one_kind_share_a_line_of_the_log(
    receiver: ReceiverProcess, head: list[str], status: int
) -> None:
    lines = [f"POST {WEBHOOK} HTTP/1.1", "Host: r", "Connection: close", "Content-Length: 2", *head]
    data = "\r\n".join([*lines, "", "{}"]).encode()
    before = len(receiver.program.lines)
    for _ in range(100):
        assert statuses(exchanged(receiver, data)) == [status]
    assert len(receiver.program.lines) - before < 20


def bad(path: str, *headers: str, method: str = "POST", body: bytes = b"{}") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: r", "Connection: close", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


PROVED = f"X-Webhook-Secret: {WEBHOOK_SECRET}"
TOKEN = f"Authorization: Bearer {API_TOKEN}"

BAD = {
    "unproved": bad(WEBHOOK, "X-Webhook-Secret: wrong"),
    "no-json": bad(WEBHOOK, PROVED, body=b"{"),
    "no-completion": bad(WEBHOOK, PROVED),
    "wrong-type": bad(WEBHOOK, PROVED, "Content-Type: text/plain"),
    "too-large": bad(WEBHOOK, PROVED, body=b"x" * 300_000),
    "cut-short": POST + f"{PROVED}\r\nContent-Length: 9\r\n\r\nx".encode(),
    "wrong-method": bad(WEBHOOK, method="PUT"),
    "no-token": bad("/jobs", method="GET"),
    "wrong-token": bad("/jobs", "Authorization: Bearer wrong", method="GET"),
    "cross-origin": bad("/jobs", TOKEN, "Origin: https://evil.example"),
    "no-such-route": bad("/none", TOKEN),
    "no-such-job": bad("/jobs/none", TOKEN, method="GET"),
    "wrong-query": bad("/jobs?none=1", TOKEN, method="GET"),
    "wrong-announcement": bad("/jobs", TOKEN, body=b"[]"),
    "no-request": b"EHLO evil.example\r\n\r\n",
    "ambiguous": bad(WEBHOOK, "Transfer-Encoding: chunked, identity"),
    "too-many-headers": bad(WEBHOOK, *["X-A: b"] * 101),
    "head-too-large": bad(WEBHOOK, "X-A: " + "b" * 70_000),
}


@pytest.mark.parametrize("kind", ["new", "known", "unproved", "no-json", "no-completion", "wrong-type"])
def test_a_body_that_comes_behind_its_head_gets_the_answer_of_one_that_comes_with_it(
    receiver: Receiver, kind: str
) -> None:
    name = f"parts-{uuid.uuid4()}"
    answers = []
    for part in ("whole", "parts"):
        job_id = name if kind == "known" else f"{name}-{part}"
        if kind == "known":
            assert receiver.deliver(completion(job_id, NOWHERE, 8, 8)).status_code == 200
            assert receiver.ended(job_id)["state"] == "rejected"
        data = delivery(job_id, "Connection: close") if kind in ("new", "known") else BAD[kind]
        head, _, body = data.partition(b"\r\n\r\n")
        with connected(receiver) as connection:
            if part == "whole":
                connection.sendall(data)
            else:
                connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
                asked = connection.recv(65536)  # now the receiver waits for the body
                assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
                connection.sendall(body)
            came = said(connection).replace(job_id.encode(), b"JOB")
        status, *lines = came.partition(b"\r\n\r\n")[0].split(b"\r\n")
        kept = sorted(line for line in lines if not line.startswith((b"date:", b"content-length:")))
        answers.append((status, kept, came.partition(b"\r\n\r\n")[2]))
    assert answers[0] == answers[1]
    assert all(b": ".join(header) in answers[0][1] for header in SECURITY_HEADERS)


UNCOUNTED = {"wrong-method", "no-such-route", "no-such-job", "wrong-query", "wrong-announcement"}
"""Mistakes of who may ask, and of nobody in particular: they write no line at all."""


def test_bad_requests_of_all_kinds_write_a_line_for_each_reason_now_and_then(
    receiver: ReceiverProcess,
) -> None:
    times = 40
    refused = sum(receiver.get("/stats").json()["refusals"].values())
    before, began = len(receiver.program.lines), time.monotonic()
    for _ in range(times):
        for kind, data in BAD.items():
            with connected(receiver) as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(data)
                    connection.shutdown(socket.SHUT_WR)
                assert all(400 <= status < 500 for status in statuses(said(connection))), kind
    rounds = 2 + (time.monotonic() - began) // REPEAT_SECONDS
    written = receiver.program.lines[before:]
    assert len(written) <= len(BAD) * rounds, "\n".join(written)
    # A sender that shuts its side down can see the end before its refusal is counted.
    expected = refused + times * len(BAD.keys() - UNCOUNTED)
    eventually(lambda: sum(receiver.get("/stats").json()["refusals"].values()) == expected)


# Bodies that do not end


def slow(receiver: Receiver, stack: ExitStack, *headers: str) -> socket.socket:
    """A connection with a request whose body does not come."""
    connection = stack.enter_context(connected(receiver))
    lines = [f"POST {WEBHOOK} HTTP/1.1", "Host: r", "Content-Length: 2", "Connection: close", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def test_more_slow_bodies_than_connections_refuse_no_proved_sender(
    receiver: Receiver, job_id: str, many_files: None
) -> None:
    """Neither at the same address nor at another one, and none waits until the slow ones' time is over."""
    with ExitStack() as stack:
        for number in range(2_100):
            if number % 300 == 0:  # all of them may take longer than one body may
                proved = slow(receiver, stack, f"X-Webhook-Secret: {WEBHOOK_SECRET}")
            newest = slow(receiver, stack, "X-Webhook-Secret: wrong")
            if number % 300 == 299:
                for source in ("127.0.0.1", "127.0.0.2"):
                    whole = delivery(f"{job_id}-{number}-{source}", "Connection: close")
                    assert statuses(exchanged(receiver, whole, source)) == [200]
                newest.sendall(b"{}")
                assert statuses(said(newest)) == [401]  # it was neither ended nor given up
                proved.sendall(b"{}")
                assert statuses(said(proved)) == [422]


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard >= 0 else 8_192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_slow_bodies_of_a_client_end_its_own_oldest_and_nobody_elses(
    shared_programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = settings(tmp_path_factory.mktemp("proxied"), RECEIVER_TRUSTED_PROXIES="127.0.0.0/8")
    with shared_programs.receiver(values) as receiver, ExitStack() as stack:
        other = slow(receiver, stack, "X-Forwarded-For: 192.0.2.2")
        # What a client says of itself stands before what the proxy says of it.
        many = [
            slow(receiver, stack, f"X-Forwarded-For: 198.51.100.{number}, 192.0.2.1, 127.0.0.9")
            for number in range(MAX_UNPROVED_BODIES + 10)
        ]
        assert [said(connection) for connection in many[:10]] == [b""] * 10
        for connection in (other, many[10], many[-1]):
            connection.sendall(b"{}")
            assert statuses(said(connection)) == [401]


def smuggled(job_id: str) -> dict[str, bytes]:
    """Requests whose length two servers in a row may see differently; in the difference is a delivery."""
    inner = delivery(job_id)
    size = len(inner)

    def head(*lines: bytes, end: bytes = b"\r\n") -> bytes:
        return end.join([b"POST /healthz HTTP/1.1", b"Host: r", *lines, b"", b""])

    none = b"0\r\n\r\n"
    return {
        "cl-te": head(b"Content-Length: %d" % (len(none) + size), b"Transfer-Encoding: chunked")
        + none
        + inner,
        "te-cl": head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + none + inner,
        "cl-twice": head(b"Content-Length: 0", b"Content-Length: %d" % size) + inner,
        "cl-twice-turned": head(b"Content-Length: %d" % size, b"Content-Length: 0") + inner,
        "cl-list": head(b"Content-Length: 0, %d" % size) + inner,
        "cl-plus": head(b"Content-Length: +0") + inner,
        "cl-minus": head(b"Content-Length: -1") + inner,
        "cl-hex": head(b"Content-Length: 0x0") + inner,
        "cl-blank": head(b"Content-Length : %d" % size) + inner,
        "cl-empty": head(b"Content-Length:") + inner,
        "cl-overflow": head(b"Content-Length: 18446744073709551616") + inner,
        "cl-words": head(b"Content-Length: 0 0") + inner,
        "cl-underscore": head(b"Content-Length: 1_0") + inner,
        "cl-folded": head(b"Content-Length:", b" 0") + inner,
        "te-unknown": head(b"Transfer-Encoding: xchunked") + none + inner,
        "te-identity": head(b"Transfer-Encoding: chunked, identity") + none + inner,
        "te-twice": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + none + inner,
        "te-blank": head(b"Transfer-Encoding : chunked", b"Content-Length: %d" % size) + inner,
        "te-folded": head(b"Transfer-Encoding:", b" chunked", b"Content-Length: %d" % size) + inner,
        "te-vertical-tab": head(b"Transfer-Encoding: \x0bchunked", b"Content-Length: %d" % size) + inner,
        "te-quoted": head(b'Transfer-Encoding: "chunked"') + none + inner,
        "te-1.0": head(b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0") + none + inner,
        "fold": head(b"X-A: b", b" Content-Length: %d" % size) + inner,
        "bare-lf": head(b"X-A: b", end=b"\n") + inner,
        "bare-lf-in-header": head(b"X-A: b\nContent-Length: %d" % size) + inner,
        "bare-cr-in-header": head(b"X-A: b\rContent-Length: %d" % size) + inner,
        "chunk-overflow": head(b"Transfer-Encoding: chunked") + b"10000000000000000\r\n\r\n" + none + inner,
        "chunk-minus": head(b"Transfer-Encoding: chunked") + b"-1\r\n\r\n" + none + inner,
        "chunk-plus": head(b"Transfer-Encoding: chunked") + b"+0\r\n\r\n" + inner,
        "chunk-hex": head(b"Transfer-Encoding: chunked") + b"0x0\r\n\r\n" + inner,
        "chunk-blank": head(b"Transfer-Encoding: chunked") + b" 0\r\n\r\n" + inner,
        "chunk-bare-lf": head(b"Transfer-Encoding: chunked") + b"0\n\n" + inner,
        "chunk-longer": head(b"Transfer-Encoding: chunked") + b"1\r\nab\r\n" + none + inner,
        "chunk-extension-lf": head(b"Transfer-Encoding: chunked") + b"1;a\nb\r\nx\r\n" + none + inner,
        "trailer-length": head(b"Transfer-Encoding: chunked") + b"0\r\nContent-Length: 9\r\n\r\n" + inner,
        "connect": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: r\r\n\r\n" + inner,
    }


@pytest.mark.parametrize("shape", smuggled("x"))
def test_a_second_request_cannot_be_hidden_in_an_ambiguous_first_one(
    receiver: Receiver, job_id: str, shape: str
) -> None:
    came = exchanged(receiver, smuggled(job_id)[shape])

    assert len(statuses(came)) <= 1, came
    assert all(400 <= status < 500 for status in statuses(came)), came
    assert receiver.get(f"/jobs/{job_id}").status_code == 404


def test_requests_in_a_row_are_answered_in_their_order_up_to_the_garbage(
    receiver: Receiver, job_id: str
) -> None:
    row = delivery(job_id) * 3 + b"\0garbage\r\n\r\n" + delivery(job_id)
    came = statuses(exchanged(receiver, row))
    assert came[-1] == 400
    assert set(came[:-1]) <= {200}


def test_requests_that_come_at_once_are_not_gathered_without_end(receiver: ReceiverProcess) -> None:
    pid = receiver.program.process.pid
    before = resident(pid, "VmHWM")
    with ExitStack() as connections:
        for _ in range(20):
            peer = connections.enter_context(connected(receiver))
            with contextlib.suppress(ConnectionError):
                peer.sendall(delivery("waits") + b"GET /jobs HTTP/1.1\r\n\r\n" * 12_000)
        assert statuses(exchanged(receiver, delivery(str(uuid.uuid4()), "Connection: close"))) == [200]
    assert resident(pid, "VmHWM") - before < GROWTH


def test_a_peer_that_sends_many_and_leaves_is_nothing_to_speak_of(receiver: Receiver) -> None:
    for _ in range(20):
        with connected(receiver) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(delivery("waits") * 8)


def test_what_follows_an_upgrade_is_no_request(receiver: Receiver, job_id: str) -> None:
    asks = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
    with connected(receiver) as connection:
        connection.sendall(b"POST /healthz HTTP/1.1\r\nHost: r\r\n" + asks + delivery(job_id))
        assert 400 <= statuses(connection.recv(65536))[0] < 500
    assert receiver.get(f"/jobs/{job_id}").status_code == 404


# Connections


def test_while_hundreds_of_connections_do_nothing_a_sender_gets_its_200(
    receiver: Receiver, job_id: str
) -> None:
    kinds = [b"", b"P", POST, POST + b"Content-Length: 9\r\n\r\nx", CHUNKED, delivery(job_id)]
    with ExitStack() as idle:
        for _, sent in zip(range(300), itertools.cycle(kinds), strict=False):
            idle.enter_context(connected(receiver)).sendall(sent)
        assert statuses(exchanged(receiver, delivery(str(uuid.uuid4()), "Connection: close"))) == [200]


def test_a_peer_that_ends_its_side_is_not_waited_for(receiver: Receiver) -> None:
    for sent in (b"", b"P", POST, POST + b"Content-Length: 9\r\n\r\nx", CHUNKED, CHUNKED + b"5\r\nab"):
        with connected(receiver) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert statuses(said(connection)) in ([], [400], [401])


def test_a_connection_may_be_used_a_thousand_times(receiver: Receiver) -> None:
    ask = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"
    with connected(receiver) as connection, connection.makefile("rb") as answers:
        for _ in range(1000):
            connection.sendall(ask)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            fields: dict[str, Any] = {}
            while (line := answers.readline().strip()) != b"":
                name, _, value = line.decode().partition(": ")
                fields[name.lower()] = value
            answers.read(int(fields["content-length"]))


def test_who_asks_and_never_listens_costs_little(receiver: Receiver) -> None:
    """Answers that are not taken fill the kernels' buffers, and then no more requests are read."""
    ask = b"GET /jobs/none HTTP/1.1\r\nHost: r\r\n\r\n" * 1000
    with connected(receiver) as connection:
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(FLOOD // len(ask)):
                connection.sendall(ask)
