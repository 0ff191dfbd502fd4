"""Deliveries by clients that offer HTTP/2 with their first request, as they put them on the wire.

Their bytes were recorded from curl 7.88.1 (``--http2``) and from the ``HttpClient`` of OpenJDK 17.0.15.
"""

import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SIZE
from tests.support.processes import PATIENCE, PROOF, WEBHOOK, WEBHOOK_SECRET, Receiver, completion

CURL = f"""\
POST {WEBHOOK} HTTP/1.1
Host: receiver
User-Agent: curl/7.88.1
Accept: */*
Connection: Upgrade, HTTP2-Settings
Upgrade: h2c
HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA
Content-Type: application/json
X-Webhook-Secret: {WEBHOOK_SECRET}
"""

JAVA = f"""\
POST {WEBHOOK} HTTP/1.1
Connection: Upgrade, HTTP2-Settings
Host: receiver
HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA
Upgrade: h2c
User-Agent: Java-http-client/17.0.15
Content-Type: application/json
X-Webhook-Secret: {WEBHOOK_SECRET}
"""


@pytest.fixture
def good(hosted: str) -> dict[str, Any]:
    return completion(str(uuid.uuid4()), hosted, *SIZE)


def request(head: str, body: bytes, *, chunked: bool = False) -> bytes:
    lines = head.splitlines()
    if chunked:
        lines += ["Transfer-Encoding: chunked"]
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        lines += [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchanged(receiver: Receiver, pieces: list[bytes]) -> bytes:
    """All that the receiver answers until it ends the connection."""
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        with connection.makefile("rb") as answer:
            return answer.read()


@pytest.mark.parametrize("piece", [1, 50, 100_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("head", [CURL, JAVA], ids=["curl", "java"])
def test_a_delivery_that_offers_http_2_keeps_its_body(
    receiver: Receiver,
    good: dict[str, Any],
    head: str,
    chunked: bool,  # noqa: FBT001 - a case
    piece: int,
) -> None:
    data = request(head, json.dumps(good).encode(), chunked=chunked)

    answer = exchanged(receiver, [data[at : at + piece] for at in range(0, len(data), piece)])

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "id": good["id"],
        "state": "received",
        "duplicate": False,
    }


def test_what_follows_a_delivery_that_offers_http_2_is_no_request(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    first, second = (json.dumps({**good, "id": good["id"] + suffix}).encode() for suffix in ("", "-hidden"))
    hidden = request(CURL.replace("Upgrade: h2c\n", ""), second)

    answer = exchanged(receiver, [request(CURL, first) + hidden])

    assert answer.count(b"HTTP/1.1 ") == 1
    assert receiver.get(f"/jobs/{good['id']}-hidden").status_code == 404


def test_many_deliveries_that_offer_http_2_leave_no_line_but_their_own(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    before = len(receiver.program.events("Unsupported upgrade request."))
    exchanged(receiver, [request(JAVA, json.dumps(good).encode())])
    receiver.program.until_event("delivery", job=good["id"])
    assert len(receiver.program.events("Unsupported upgrade request.")) == before


def by_curl(url: str, body: str) -> str:
    headers = [argument for pair in PROOF.items() for argument in ("--header", ": ".join(pair))]
    return output("curl", "--silent", "--http2", *headers, "--json", body, url)


def by_java(url: str, body: str) -> str:
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return output("java", *quick, str(Path(__file__).with_name("Post.java")), url, WEBHOOK_SECRET, body)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, text=True).stdout


@pytest.mark.parametrize(
    "send",
    [send for send, tool in ((by_curl, "curl"), (by_java, "javac")) if shutil.which(tool)],
    ids=lambda send: send.__name__,
)
def test_a_client_of_this_machine_that_offers_http_2_delivers(
    receiver: Receiver, good: dict[str, Any], send: Callable[[str, str], str]
) -> None:
    assert json.loads(send(receiver.webhook, json.dumps(good)))["state"] == "received"
