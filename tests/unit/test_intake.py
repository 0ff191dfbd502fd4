"""The webhook over a real ledger, where no client could show it: what is read, kept and refused."""

import gc
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive

from receiver.core.jobs import State
from receiver.intake.endpoint import WebhookEndpoint
from receiver.ledger import Filter, Ledger
from receiver.web.refusals import RefusalCounter
from tests.support.ledgers import make_empty_ledger
from tests.support.providers import provider

CAP = 10_000
NOW = 1_763_890_200_000  # 2025-11-23T09:30:00Z
PROOF = {"X-Webhook-Secret": "secret"}


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=lambda: NOW)
    yield ledger
    await ledger.close()


@pytest.fixture
def intake(ledger: Ledger) -> WebhookEndpoint:
    return WebhookEndpoint(
        ledger=ledger,
        provider=provider(),
        max_bytes=CAP,
        now=lambda: NOW,
        refusals=RefusalCounter(),
    )


@pytest.fixture
async def client(intake: WebhookEndpoint) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=[Route("/", intake, methods=["POST"])])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://receiver", headers=PROOF
    ) as client:
        yield client


def completion(job_id: str, url: str = "https://images.example/x.png", **record: Any) -> dict[str, Any]:
    return {"id": job_id, "status": "DONE", "response": {"records": [{"_upscaled_image_url": url, **record}]}}


class Sent:
    """A request's body as an ASGI server hands it over, which counts how much of it was asked for."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = iter(messages)
        self.asked = 0

    async def __call__(self) -> Message:
        self.asked += 1
        return next(self._messages)


async def answer_to(
    intake: WebhookEndpoint, receive: Receive, *headers: tuple[bytes, bytes], secret: bytes = b"secret"
) -> Response:
    """Returns the answer to a request whose body is read."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(b"x-webhook-secret", secret), *headers],
    }
    start: Message = {}
    content = b""

    async def send(message: Message) -> None:
        nonlocal content
        start.update(message)
        content += message.get("body", b"")

    await intake(scope, receive, send)
    return Response(content, start["status"])


def chunk(data: bytes) -> Message:
    return {"type": "http.request", "body": data, "more_body": True}


async def test_a_declared_length_over_the_cap_is_refused_without_asking_for_a_byte(
    intake: WebhookEndpoint,
) -> None:
    sent = Sent([])

    answer = await answer_to(intake, sent, (b"content-length", str(CAP + 1).encode()))

    assert (answer.status_code, sent.asked) == (413, 0)


@pytest.mark.parametrize("secret", [b"secret", b"wrong"])
async def test_an_undeclared_body_is_asked_for_up_to_the_cap_and_no_further(
    intake: WebhookEndpoint, secret: bytes
) -> None:
    sent = Sent(chunk(b" " * 1000) for _ in range(1000))

    answer = await answer_to(intake, sent, secret=secret)

    assert (answer.status_code, sent.asked) == (413, CAP // 1000 + 1)


async def test_a_body_that_lies_about_its_length_is_still_capped(intake: WebhookEndpoint) -> None:
    sent = Sent(chunk(b" " * 1000) for _ in range(1000))

    answer = await answer_to(intake, sent, (b"content-length", b"1"))

    assert (answer.status_code, sent.asked) == (413, CAP // 1000 + 1)
    assert b"RECEIVER_MAX_WEBHOOK_BYTES" in answer.body  # the setting that decides it


async def test_a_sender_that_goes_away_leaves_nothing_recorded(
    intake: WebhookEndpoint, ledger: Ledger
) -> None:
    whole = json.dumps(completion("gone")).encode()
    sent = Sent([chunk(whole[:-1]), {"type": "http.disconnect"}])

    answer = await answer_to(intake, sent)

    assert answer.status_code == 400
    assert b"body.cut_short" in answer.body
    assert await ledger.job("gone") is None
    assert (await ledger.unread_deliveries()).deliveries == ()


@pytest.mark.parametrize(
    ("secret", "body"),
    [(b"secret", None), (b"secret", b"no completion"), (b"secret", b" " * (CAP + 1)), (b"wrong", b" " * CAP)],
)
async def test_no_delivery_leaves_a_cycle_that_holds_its_body(
    intake: WebhookEndpoint, secret: bytes, body: bytes | None
) -> None:
    async def deliver(number: int) -> None:
        whole = json.dumps(completion(f"job-{number}")).encode() if body is None else body
        sent = Sent([{"type": "http.request", "body": whole, "more_body": False}])
        await answer_to(intake, sent, secret=secret)
        await intake.answer([(b"x-webhook-secret", secret)], whole)

    await deliver(0)
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 51):
            await deliver(number)
        found = gc.collect()
    finally:
        gc.enable()

    assert found < 50


async def test_a_ledger_that_is_stopping_is_503_with_a_time_to_come_back(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.close()

    answers = [
        await client.post("/", json=completion("late")),
        await client.post("/", content=b"no completion"),
    ]

    for answer in answers:
        assert (answer.status_code, answer.json()["reason"]) == (503, "ledger.stopping")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_stranger_is_refused_even_while_the_ledger_is_stopping(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.close()

    answer = await client.post("/", json=completion("x"), headers={"X-Webhook-Secret": "wrong"})

    assert answer.status_code == 401


async def test_a_200_means_that_a_reader_of_the_file_finds_the_job(
    client: httpx.AsyncClient, ledger: Ledger, tmp_path: Path
) -> None:
    body = json.dumps(completion("durable", _upscaled_width=3, _upscaled_height=2)).encode()

    assert (await client.post("/", content=body)).status_code == 200

    job = await ledger.job("durable")
    assert job is not None
    assert (job.state, job.received_at, job.promised_width, job.promised_height) == (
        State.RECEIVED,
        NOW,
        3,
        2,
    )


async def test_the_deadline_is_the_one_in_the_url_and_else_counts_from_the_receipt(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    signed = "https://images.example/x.png?X-Amz-Date=20251123T090000Z&X-Amz-Expires=3600"
    await client.post("/", json=completion("signed", signed))
    await client.post("/", json=completion("plain"))

    deadlines = {job.id: job.deadline for job in (await ledger.jobs(Filter())).jobs}
    assert deadlines == {"signed": NOW + 30 * 60_000, "plain": NOW + 24 * 3600_000}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("order 7", "order 7"),
        ("x" * 200, "x" * 200),
        ("x" * 201, None),
        ("", None),
        (b"caf\xe9", None),
        ("tab\there", None),
    ],
)
async def test_a_ref_that_breaks_its_rule_is_dropped_and_not_the_delivery(
    client: httpx.AsyncClient, ledger: Ledger, given: str | bytes, kept: str | None
) -> None:
    value = given if isinstance(given, bytes) else given.encode()

    answer = await client.post("/", json=completion("labelled"), headers=[(b"X-Receiver-Ref", value)])

    assert answer.status_code == 200
    job = await ledger.job("labelled")
    assert job is not None
    assert job.ref == kept


async def test_two_refs_are_none(client: httpx.AsyncClient, ledger: Ledger) -> None:
    headers = [("X-Receiver-Ref", "one"), ("X-Receiver-Ref", "two")]

    assert (await client.post("/", json=completion("twice"), headers=headers)).status_code == 200
    job = await ledger.job("twice")
    assert job is not None
    assert job.ref is None


async def test_a_failure_that_repeats_our_secret_is_recorded_without_it(
    intake: WebhookEndpoint, ledger: Ledger
) -> None:
    subject = replace(intake, provider=provider({"X-Webhook-Secret": ["nobody guesses"]}))
    app = Starlette(routes=[Route("/", subject, methods=["POST"])])
    status = {"code": 500, "text": "refused with nobody guesses"}
    failed = {"id": "job-1", "status": "FAILED", "response": {"records": [{"_status": status}]}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
        answer = await client.post("/", json=failed, headers={"X-Webhook-Secret": "nobody guesses"})
    assert answer.status_code == 200
    job = await ledger.job("job-1")
    assert job is not None
    assert job.problem is not None
    assert job.problem.detail == "FAILED: 500 refused with **********"
