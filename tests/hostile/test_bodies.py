"""Bodies and headers from a fuzzer against the webhook of a real receiver, and what their URLs reach."""

import contextlib
import copy
import json
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.hostile import urls
from tests.support.processes import PATIENCE, PROOF, WEBHOOK, Programs, Receiver, completion
from tests.support.processes import settings as environment

ANSWERS = {200, 400, 401, 405, 408, 413, 415, 422, 431}
"""All that a sender may be told of what it sent. Of ours there is 503, which nothing here gives cause for."""

FUZZ = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, shared_programs: Programs) -> Iterator[Receiver]:
    """A receiver that may fetch from no address of this machine but one, which nobody here names."""
    values = environment(tmp_path_factory.mktemp("fuzzed"), RECEIVER_IMAGE_NETWORKS="127.0.0.9/32")
    with shared_programs.receiver(values) as receiver:
        yield receiver
        assert "Traceback" not in receiver.program.log
        assert "fetch.unexpected" not in receiver.program.log
        assert receiver.get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def deliver(fuzzed: Receiver) -> Iterator[Callable[..., httpx.Response]]:
    """POSTs bytes over a connection that is kept."""
    with httpx.Client(trust_env=False, timeout=PATIENCE) as client:

        def post(body: bytes, **headers: str) -> httpx.Response:
            return client.post(fuzzed.webhook, content=body, headers={**PROOF, **headers})

        yield post


@pytest.fixture(scope="module")
def canaries() -> Iterator[dict[str, int]]:
    """Listeners on loopback that take nobody in: a connection to one would stand in its queue for ever."""
    with contextlib.ExitStack() as stack:
        listeners = {}
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            with contextlib.suppress(OSError):  # not every machine has IPv6
                listener = stack.enter_context(socket.create_server((host, 0), family=family))
                listener.setblocking(False)
                listeners[host] = listener
        yield {host: listener.getsockname()[1] for host, listener in listeners.items()}
        for listener in listeners.values():
            with pytest.raises(BlockingIOError):
                listener.accept()


def is_answered(answer: httpx.Response) -> None:
    assert answer.status_code in ANSWERS, answer.text
    document = answer.json()
    assert document if answer.status_code == 200 else document["reason"]
    assert "Traceback" not in answer.text


# Bytes


@FUZZ
@given(
    st.binary(max_size=2000) | st.text(max_size=500).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_answered(deliver: Callable[..., httpx.Response], body: bytes) -> None:
    is_answered(deliver(body))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["DONE", "FAILED", "upscaler", "200", "\ud800", "\0", "\x1b[31m", "a" * 9000, "../../x"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@FUZZ
@given(JSON)
def test_any_json_is_answered(deliver: Callable[..., httpx.Response], document: Any) -> None:
    is_answered(deliver(json.dumps(document).encode()))


NASTY = {
    "nesting": b"[" * 200_000,
    "nesting-closed": b"[" * 100_000 + b"]" * 100_000,
    "nesting-objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "integer": b'{"id": ' + b"9" * 200_000 + b"}",
    "exponent": b'{"id": 1e999999999}',
    "fraction": b'{"id": 0.' + b"1" * 200_000 + b"}",
    "nan": b'{"id": NaN, "status": Infinity, "type": -Infinity}',
    "nul": b'{"id": "a\\u0000b", "status": "DONE"}',
    "raw-nul": b'{"id": "a\0b"}',
    "surrogate": b'{"id": "\\ud800", "status": "\\udfff"}',
    "surrogate-raw": b'{"id": "\xed\xa0\x80"}',
    "overlong-utf-8": b'{"id": "\xc0\xaf"}',
    "latin-1": b'{"id": "\xfc"}',
    "bom": b'\xef\xbb\xbf{"id": "a"}',
    "utf-16": json.dumps({"id": "a"}).encode("utf-16"),
    "utf-32": json.dumps({"id": "a"}).encode("utf-32"),
    "keys-twice": b'{"id": "a", "id": 1, "status": "DONE", "status": null}',
    "many-keys": json.dumps({str(number): number for number in range(15_000)}).encode(),
    "long-string": b'{"id": "' + b"a" * 250_000 + b'"}',
    "long-blank": b" " * 260_000,
    "proto": b'{"__proto__": {"id": "a"}, "constructor": {"prototype": {}}}',
    "two-documents": b'{"id": "a"}{"id": "b"}',
    "comment": b'{"id": "a" /* b */}',
    "xml": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    "form": b"id=a&status=DONE",
    "gzip": bytes.fromhex("1f8b08000000000000ff"),
    "empty": b"",
}


@pytest.mark.parametrize("body", NASTY.values(), ids=NASTY)
def test_a_nasty_body_is_answered(deliver: Callable[..., httpx.Response], body: bytes) -> None:
    answer = deliver(body)
    is_answered(answer)
    assert answer.status_code in {400, 413, 422}


# Nearly completions


HARMLESS = "x:"
"""Stands for the image's URL where bytes are turned over: no turn of it makes one that could be asked for."""


@FUZZ
@given(st.data())
def test_a_completion_with_turned_bytes_is_answered(
    deliver: Callable[..., httpx.Response], data: st.DataObject
) -> None:
    body = bytearray(json.dumps(completion(str(uuid.uuid4()), HARMLESS, 8, 8)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.sampled_from(["turn", "drop", "insert", "cut", "repeat"]))
        if kind == "turn":
            body[at] = data.draw(st.integers(0, 255))
        elif kind == "drop":
            del body[at : at + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            body[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif kind == "cut":
            del body[at + 1 :]
        else:
            body[at:at] = body[at : at + 40]
        if not body:
            break
    is_answered(deliver(bytes(body)))


def paths(document: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value within a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*so_far, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*so_far, key))


ALL_PATHS = sorted(paths(completion("a", HARMLESS, 8, 8)), key=repr)
URL_PATH = ("response", "records", 0, "_upscaled_image_url")


@FUZZ
@given(
    st.lists(st.tuples(st.sampled_from(ALL_PATHS), st.just(...) | JSON), min_size=1, max_size=3),
    st.booleans(),
)
@example([(("response", "records", 0, "_upscaled_width"), 10**400)], True)
@example([(("response", "records", 0, "_upscaled_width"), float("nan"))], True)
@example([(("response", "records", 0, "_status", "text"), "\ud800\0\x1b]0;a\x07")], True)
@example([(("id",), "a" * 128)], True)
@example([(URL_PATH, "\ud800")], True)
@example([(("response", "records", 0, "_url"), "\ud83d" * 50)], True)
def test_a_completion_with_other_values_is_answered(
    deliver: Callable[..., httpx.Response],
    changes: list[tuple[tuple[Any, ...], Any]],
    fresh: bool,  # noqa: FBT001 - a case
) -> None:
    body = completion(str(uuid.uuid4()) if fresh else "always-the-same", HARMLESS, 8, 8)
    for path, value in changes:
        with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change took the place away
            place: Any = body
            for step in path[:-1]:
                place = place[step]
            if value is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = copy.deepcopy(value)
    is_answered(deliver(json.dumps(body).encode()))


def refused_urls(canaries: dict[str, int]) -> list[str]:
    """URLs of which each would lead to a canary if one check were missing, on its own port."""
    hosts = ["127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0", "[::]", "[::1]", "127.0.0.2"]
    hosts += urls.spellings("127.0.0.1")
    hosts += [f"[{form}]" for form in urls.inside_ipv6("127.0.0.1")]
    hosts += ["a@127.0.0.1", "a:b@[::1]", "a\\@127.0.0.1", "127.0.0.1\\@a", "127.0.0.1#@a", "127.0.0.1?@a"]
    return [
        f"{scheme}://{host}:{port}/a"
        for host in hosts
        for port in canaries.values()
        for scheme in ("http", "https", "HTTP", "ftp")
    ]


def test_no_url_of_a_delivery_leads_to_a_listener_that_is_not_allowed(
    deliver: Callable[..., httpx.Response], fuzzed: Receiver, canaries: dict[str, int]
) -> None:
    jobs = {}
    for url in refused_urls(canaries):
        job_id = str(uuid.uuid4())
        answer = deliver(json.dumps(completion(job_id, url, 8, 8)).encode())
        is_answered(answer)
        if answer.status_code == 200:
            jobs[job_id] = url
    assert len(jobs) > 100
    for job_id, url in jobs.items():
        job = fuzzed.ended(job_id)
        assert job["state"] == "rejected", url
        assert job["error"]["reason"].startswith("url."), url


# Headers

NAMES = st.from_regex(rb"[!-9;-~]{1,30}", fullmatch=True)
VALUES = st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n"))


@FUZZ
@given(st.lists(st.tuples(NAMES, VALUES), max_size=30), st.booleans())
@example([(b"X-Webhook-Secret", b"")], False)
@example([(b"X-Webhook-Secret", b"\xff" * 60)], False)
@example([(b"Content-Type", b"\xff/\xfe; charset=\x80")], True)
@example([(b"Content-Length", b"\xb2")], True)
@example([(b"Authorization", b"Basic \xff")], True)
@example([(b"Cookie", b'a="\\0777')], True)
@example([(b"Expect", b"100-continue")], True)
@example([(b"Content-Encoding", b"gzip")], True)
@example([(b"Host", b"[::1")], True)
@example([(b"Origin", b"http://[::1")], True)
def test_any_headers_are_answered(
    fuzzed: Receiver,
    headers: list[tuple[bytes, bytes]],
    proved: bool,  # noqa: FBT001 - a case
) -> None:
    body = json.dumps(completion(str(uuid.uuid4()), HARMLESS, 8, 8)).encode()
    proof = list(PROOF.items()) if proved else []
    lines = [f"POST {WEBHOOK} HTTP/1.1".encode(), b"Host: r", b"Connection: close"]
    lines += [f"{name}: {value}".encode() for name, value in proof]
    lines += [b"Content-Length: %d" % len(body)]
    lines += [name + b": " + value for name, value in headers]
    with socket.create_connection(("127.0.0.1", fuzzed.port), timeout=PATIENCE) as connection:
        came = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"\r\n".join([*lines, b"", b""]) + body)
            while data := connection.recv(65536):
                came += data
    if came:
        final = came.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert int(final.split(b" ", 2)[1]) in ANSWERS
