"""The webhook's way past ASGI answers, records, counts and logs as the application itself does."""

import asyncio
import json
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs

from receiver import config
from receiver.bootstrap.app import open_receiver
from receiver.core.failpoints import no_failpoint
from receiver.web.protocol import AnswerCancelled, CloseUnread, limited_protocol
from tests.support.processes import API_TOKEN, WEBHOOK_SECRET, completion, settings

REQUESTS = 400
CAP = 20_000
BY_TIME = re.compile(
    r"_created |_(sum|bucket)\b|_seconds|^process_|^python_|_bytes |\d{4}-\d\d-\d\dT[\d:.]+Z"
)
"""What differs from run to run."""


def requests(seed: int) -> list[bytes]:
    """Requests to the webhook that are right, wrong, or odd in head, proof, path, type or body."""
    chance = random.Random(seed)

    def one_of(*choices: bytes) -> bytes:
        return chance.choice(choices)

    def one() -> bytes:
        job_id = f"job-{chance.randrange(60)}"
        good = completion(job_id, f"http://127.0.0.1:9/{chance.randrange(3)}.png", 64, 64)
        failed = {"id": job_id, "status": "FAILED", "type": "upscaler", "response": {}}
        body = one_of(
            *[json.dumps(good).encode()] * 6,
            json.dumps(failed).encode(),
            json.dumps({**good, "id": "\N{BELL}"}).encode(),
            json.dumps(good).encode().replace(b"DONE", b"DO\xffNE"),
            b"",
            b"{",
            b"[]",
            b"null",
            b"[" * 5_000,
            b" " * (CAP + 1),
            json.dumps({**good, "more": "x" * CAP}).encode(),
        )
        secret = WEBHOOK_SECRET.encode()
        chunked = chance.random() < 0.15
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(body)
        if chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        head = [
            one_of(*[b"POST"] * 12, b"GET", b"HEAD", b"OPTIONS", b"PUT", b"post"),
            b" ",
            one_of(
                *[b"/webhooks/ximilar"] * 12,
                b"/webhooks/ximilar/",
                b"//webhooks/ximilar",
                b"/webhooks/ximilar?a=b",
                b"/webhooks/%78imilar",
                b"/webhooks/XIMILAR",
                b"/webhooks/replicate",
                b"http://receiver/webhooks/ximilar",
                b"/webhooks/ximilar#a",
                b"*",
            ),
            one_of(*[b" HTTP/1.1\r\n"] * 12, b" HTTP/1.0\r\n", b" HTTP/2.0\r\n"),
            one_of(*[b"Host: receiver\r\n"] * 6, b"", b"Host: a\r\nHost: b\r\n"),
            one_of(
                *[b"X-Webhook-Secret: %b\r\n" % secret] * 12,
                b"",
                b"X-Webhook-Secret: wrong\r\n",
                b"X-Webhook-Secret: %b\r\nX-Webhook-Secret: wrong\r\n" % secret,
                b"X-Webhook-Secret: %b\r\nX-Webhook-Secret: %b\r\n" % (secret, secret),
                b"x-webhook-secret:\t%b \r\n" % secret,
                b"X-Webhook-Secret: \xff\xfe\r\n",
            ),
            one_of(
                *[b"Content-Type: application/json\r\n"] * 6,
                b"",
                b"Content-Type: text/plain\r\n",
                b"Content-Type: Application/problem+JSON; charset=utf-8\r\n",
                b"Content-Type: text/plain\r\nContent-Type: application/json\r\n",
            ),
            one_of(*[b""] * 4, b"X-Receiver-Ref: a-ref\r\n", b"X-Receiver-Ref: %b\r\n" % (b"x" * 300)),
            one_of(*[b""] * 9, b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"),
            one_of(*[b""] * 6, b"Origin: https://evil.example\r\n", b"X: y\r\n" * 120),
            one_of(*[framing] * 20, framing * 2, b"Content-Length: 3\r\n" + framing),
            one_of(*[b""] * 6, b"Connection: close\r\n", b"Connection: keep-alive\r\n"),
            b"\r\n",
        ]
        return b"".join(head) + body

    return [one() for _ in range(REQUESTS)]


@asynccontextmanager
async def door(folder: Path, *, direct: bool) -> AsyncIterator[int]:
    environ = settings(folder, RECEIVER_MAX_WEBHOOK_BYTES=str(CAP))
    async with open_receiver(config.load(environ), environ, no_failpoint) as receiver:
        served = uvicorn.Config(
            AnswerCancelled(CloseUnread(receiver.app)),
            http=limited_protocol(
                receiver.on_refusal, receiver.unfinished, receiver.direct if direct else {}
            ),
            lifespan="off",
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=0,
        )
        served.load()
        server = uvicorn.Server(served)
        server.lifespan = served.lifespan_class(served)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.startup([listener])
            try:
                yield listener.getsockname()[1]
            finally:
                await server.shutdown([listener])


async def answered(port: int, *pieces: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines of an answer's head, sorted, and its body. Each request has its own connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            for _ in range(3):  # the server is in this loop, and reads each piece apart
                await asyncio.sleep(0)
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            while head.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
                head += await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
            assert length, head
            size = 0 if pieces[0].startswith(b"HEAD") else int(length[1])
            # The application may answer before it has read the body, and then says that it closes.
            lines = sorted({*head.splitlines()} - {b"connection: close"})
            return lines, await reader.readexactly(size)
    finally:
        writer.close()


def whole(request: bytes) -> list[bytes]:
    return [request]


def head_first(request: bytes) -> list[bytes]:
    head, end, body = request.partition(b"\r\n\r\n")
    return [head + end, body]


async def observed(
    folder: Path, sent: Sequence[bytes], *, direct: bool, pieces: Callable[[bytes], list[bytes]] = whole
) -> Mapping[str, Any]:
    with capture_logs() as lines:
        async with door(folder, direct=direct) as port:
            answers = [await answered(port, *pieces(each)) for each in sent]

            async def get(path: str) -> str:
                head = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {API_TOKEN}\r\n\r\n"
                return (await answered(port, head.encode()))[1].decode()

            deliveries = json.loads(await get("/deliveries"))
            jobs = json.loads(await get("/jobs?limit=1000"))["jobs"]
            metrics = await get("/metrics")
    return {
        "answers": answers,
        "deliveries": [{**each, "at": None} for each in deliveries["deliveries"]],
        "jobs": sorted(
            (job["id"], job["ref"], job["endpoint"], job["promised"]["width"], job["source_url"])
            for job in jobs
        ),
        "metrics": [line for line in metrics.splitlines() if "deliver" in line and not BY_TIME.search(line)],
        "logs": sorted(
            repr(sorted((name, value) for name, value in line.items() if name != "state"))
            for line in lines
            if line["event"].startswith("deliver")
        ),
    }


@pytest.mark.parametrize("pieces", [whole, head_first])
async def test_each_request_has_the_same_answer_record_count_and_line_either_way(
    tmp_path: Path, pieces: Callable[[bytes], list[bytes]]
) -> None:
    sent = requests(seed=7)
    past_asgi = await observed(tmp_path / "direct", sent, direct=True, pieces=pieces)
    by_asgi = await observed(tmp_path / "asgi", sent, direct=False, pieces=pieces)
    for request, one, other in zip(sent, past_asgi["answers"], by_asgi["answers"], strict=True):
        assert one == other, request
    assert past_asgi == by_asgi
