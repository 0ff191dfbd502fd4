"""The query routes over a real ledger and a real folder: what a running server does not show on demand."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import Message

from receiver.api.routes import Api
from receiver.archive.factory import open_archive
from receiver.core.completion import Completion, Failure
from receiver.core.errors import BodyError, ReceiverError
from receiver.core.jobs import Image, StoredObject
from receiver.ledger import Delivery, Ledger, Submission
from receiver.pipeline.spool import Spool
from receiver.web.middleware import RequireToken
from receiver.web.problem import on_http_exception, on_receiver_error
from receiver.web.refusals import RefusalCounter
from receiver.web.waiter_limit import WaiterLimit
from tests.support.clock import NOW, Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.providers import NAME, provider

TOKEN = "tokën"
DIGEST = "0" * 64


async def well() -> str | None:
    return None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=clock)
    yield ledger
    await ledger.close()


@pytest.fixture
async def api(ledger: Ledger, tmp_path: Path, clock: Clock) -> AsyncIterator[Api]:
    archive = open_archive((tmp_path / "archive").as_uri())
    yield Api(
        ledger,
        archive,
        Spool(tmp_path / "spool", max_bytes=1000, max_image_bytes=100, reserve=0),
        timedelta(minutes=10),
        asyncio.Event(),
        {"well": well},
        RefusalCounter(),
        WaiterLimit(10),
        {NAME: provider()},
    )
    await archive.aclose()


def client_of(api: Api) -> httpx.AsyncClient:
    app = Starlette(
        routes=api.routes(),
        middleware=[Middleware(RequireToken, tokens=[TOKEN])],
        exception_handlers={HTTPException: on_http_exception, ReceiverError: on_receiver_error},
    )
    headers = {b"Authorization": b"Bearer " + TOKEN.encode()}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver", headers=headers)


@pytest.fixture
async def client(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api) as client:
        yield client


async def test_a_token_that_is_not_ascii_is_compared_as_the_bytes_that_came(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/jobs")).status_code == 200
    latin = {b"Authorization": b"Bearer " + TOKEN.encode("latin-1")}
    assert (await client.get("/jobs", headers=latin)).status_code == 401


class Watched(asyncio.Event):
    """An event that tells when somebody begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.awaited.set()
        return await super().wait()


async def test_who_waits_is_answered_when_the_server_is_to_end(api: Api, ledger: Ledger) -> None:
    await ledger.expect(Submission("silent"))
    stopping = Watched()
    async with client_of(replace(api, stopping=stopping)) as client:
        waiting = asyncio.create_task(client.get("/jobs/silent", params={"wait": "60"}))
        await asyncio.wait_for(stopping.awaited.wait(), 30)

        stopping.set()

        answer = await asyncio.wait_for(waiting, 30)
        assert (answer.status_code, answer.json()["state"]) == (200, "submitted")
        later = client.get("/jobs/silent", params={"wait": "60"})
        assert (await asyncio.wait_for(later, 30)).status_code == 200


async def test_readiness_names_every_check_that_fails_and_says_why(api: Api) -> None:
    async def ill() -> str | None:
        return "It is ill."

    checks = {"well": well, "ill": ill, "worse": ill}
    async with client_of(replace(api, checks=checks)) as client:
        answer = await client.get("/readyz", headers={"Authorization": ""})

    assert answer.status_code == 503
    assert answer.json() == {"status": "failing", "failing": {"ill": "It is ill.", "worse": "It is ill."}}


async def test_readiness_can_be_asked_for_the_ledger_alone(api: Api) -> None:
    async def ill() -> str | None:
        return "It is ill."

    archive_away, both_away = {"ledger": well, "archive": ill}, {"ledger": ill, "archive": ill}
    async with client_of(replace(api, checks=archive_away)) as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/readyz?check=ledger&t=1")).status_code == 200
        assert (await client.get("/readyz?check=archive")).status_code == 422
    async with client_of(replace(api, checks=both_away)) as client:
        assert list((await client.get("/readyz?check=ledger")).json()["failing"]) == ["ledger"]
    api.stopping.set()
    async with client_of(replace(api, checks=archive_away)) as client:
        assert list((await client.get("/readyz?check=ledger")).json()["failing"]) == ["serving"]


async def test_a_server_that_stops_is_alive_and_not_ready(client: httpx.AsyncClient, api: Api) -> None:
    api.stopping.set()

    assert (await client.get("/healthz")).status_code == 200
    assert list((await client.get("/readyz")).json()["failing"]) == ["serving"]


async def test_overdue_jobs_are_those_that_were_silent_for_the_set_time(
    client: httpx.AsyncClient, ledger: Ledger, clock: Clock
) -> None:
    await ledger.expect(Submission("older"))
    clock.now += 1
    await ledger.expect(Submission("newer"))

    clock.now = NOW + 600_000 + 1
    found = await client.get("/jobs", params={"overdue": "true"})

    assert [job["id"] for job in found.json()["jobs"]] == ["older"]
    assert (await client.get("/stats")).json()["overdue"] == 1


@pytest.fixture
async def archived(ledger: Ledger, tmp_path: Path) -> Path:
    """The file of a job ``kept``, which the ledger knows as archived."""
    path = tmp_path / "archive" / "kept.png"
    path.parent.mkdir()
    path.write_bytes(b"the image")
    said = Completion("kept", "https://images.example/x.png")
    await ledger.record(Delivery(said, b"{}", NOW + 1000))
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=1000)
    await ledger.fetched(claim, Image("png", 1, 1, 9, DIGEST), "kept.png")
    (claim,) = await ledger.claim_to_archive(1, lease=1000)
    await ledger.archived(claim, StoredObject(path.as_uri()))
    return path


async def test_an_archived_image_is_served_as_what_it_is_and_can_do_nothing_in_a_browser(
    client: httpx.AsyncClient,
    archived: Path,
) -> None:
    answer = await client.get("/jobs/kept/image")

    assert (answer.status_code, answer.content) == (200, b"the image")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize("part", ["bytes=0-2", "bytes=x", "bytes=100000-"])
@pytest.mark.usefixtures("archived")
async def test_who_asks_for_a_part_of_an_image_gets_the_whole(client: httpx.AsyncClient, part: str) -> None:
    answer = await client.get("/jobs/kept/image", headers={"Range": part})

    assert (answer.status_code, answer.content) == (200, b"the image")


async def test_an_archived_image_that_is_gone_is_said_to_be_missing(
    client: httpx.AsyncClient, archived: Path
) -> None:
    await asyncio.to_thread(archived.unlink)

    answer = await client.get("/jobs/kept/image")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "archive.missing"


async def test_a_body_that_is_cut_short_is_refused_and_nothing_is_announced(api: Api, ledger: Ledger) -> None:
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": b'{"id": "cut"', "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Message:
        return next(messages)

    scope = {"type": "http", "method": "POST", "path": "/jobs", "query_string": b"", "headers": []}

    with pytest.raises(BodyError) as caught:
        await api.announce(Request(scope, receive))

    assert caught.value.reason == "body.cut_short"
    assert await ledger.job("cut") is None


async def test_a_body_that_does_not_come_is_given_up(api: Api, ledger: Ledger) -> None:
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": b'{"id": "slow"', "more_body": True}]
    )

    async def receive() -> Message:
        for message in messages:
            return message
        return await asyncio.Future()

    scope = {"type": "http", "method": "POST", "path": "/jobs", "query_string": b"", "headers": []}

    with pytest.raises(BodyError) as caught:
        await replace(api, body_seconds=0.01).announce(Request(scope, receive))

    assert caught.value.reason == "body.too_slow"
    assert await ledger.job("slow") is None


# ETags, and waiting


async def test_an_answer_that_the_client_has_is_not_sent_again(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.expect(Submission("job"))
    first = await client.get("/jobs/job")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"

    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await client.get("/jobs/job", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        assert answer.headers["cache-control"] == "private, no-cache"
    for known in ('"other"', tag.strip('"'), ""):
        answer = await client.get("/jobs/job", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (200, first.content)


async def test_every_change_of_what_is_shown_changes_the_tag(
    client: httpx.AsyncClient, ledger: Ledger, clock: Clock
) -> None:
    tags = []

    async def look() -> None:
        answer = await client.get("/jobs/job")
        tags.append(answer.headers["etag"])
        again = await client.get("/jobs/job")
        assert again.headers["etag"] == tags[-1]

    await ledger.expect(Submission("job"))
    await look()
    await ledger.expect(Submission("job", "a ref"))  # no line of the history, and no other time
    await look()
    await ledger.record(Delivery(Completion("job", "https://images.example/x.png"), b"{}", NOW + 1000))
    await look()
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=1000)  # an attempt more
    await look()
    await ledger.release(claim)
    await ledger.record(Delivery(Completion("job", "https://images.example/y.png"), b"{}", NOW + 1000))
    await look()  # a line of the history, and nothing else
    assert len(set(tags)) == len(tags)


async def test_who_says_what_it_has_waits_until_there_is_something_else(api: Api, ledger: Ledger) -> None:
    await ledger.expect(Submission("job"))
    stopping = Watched()
    async with client_of(replace(api, stopping=stopping)) as client:
        tag = (await client.get("/jobs/job")).headers["etag"]
        waiting = asyncio.create_task(
            client.get("/jobs/job", params={"wait": "60"}, headers={"If-None-Match": tag})
        )
        await asyncio.wait_for(stopping.awaited.wait(), 30)
        await ledger.record(Delivery(Completion("job", "https://images.example/x.png"), b"{}", NOW + 1000))
        answer = await asyncio.wait_for(waiting, 30)
    assert (answer.status_code, answer.json()["state"]) == (200, "received")
    assert answer.headers["etag"] != tag


async def test_a_wait_in_vain_for_something_else_ends_with_304(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.expect(Submission("job"))
    tag = (await client.get("/jobs/job")).headers["etag"]
    answer = await client.get("/jobs/job", params={"wait": "0.05"}, headers={"If-None-Match": tag})
    assert answer.status_code == 304


@pytest.mark.usefixtures("archived")
async def test_who_has_the_end_already_does_not_wait_for_another(client: httpx.AsyncClient) -> None:
    tag = (await client.get("/jobs/kept")).headers["etag"]
    answer = client.get("/jobs/kept", params={"wait": "60"}, headers={"If-None-Match": tag})
    assert (await asyncio.wait_for(answer, 30)).status_code == 304


async def test_those_who_wait_ask_the_ledger_only_when_their_job_changed(api: Api, ledger: Ledger) -> None:
    crowd = 300
    for job_id in ("job", "other"):
        await ledger.expect(Submission(job_id))
    stopping = Watched()
    patient = replace(api, stopping=stopping, waiters=WaiterLimit(crowd))
    async with client_of(patient) as client:
        waiting = [asyncio.create_task(client.get("/jobs/job", params={"wait": "60"})) for _ in range(crowd)]
        before = ledger.reads
        async with asyncio.timeout(60):
            while ledger.reads - before < crowd:
                await stopping.awaited.wait()
                await asyncio.sleep(0)
        before = ledger.reads
        for _ in range(50):
            await ledger.expect(Submission("other"))
        assert ledger.reads == before
        await ledger.record(
            Delivery(Completion("job", None, failure=Failure("provider.job_failed", "x")), b"{}", NOW)
        )
        answers = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    assert {answer.json()["state"] for answer in answers} == {"failed"}
    assert ledger.reads - before <= 2


async def test_a_retry_of_a_job_that_is_being_worked_on_is_taken_for_what_goes_on(
    client: httpx.AsyncClient, ledger: Ledger
) -> None:
    await ledger.record(Delivery(Completion("busy", "https://images.example/x.png"), b"{}", NOW + 1000))
    await ledger.claim_to_fetch(1, again=1, lease=1000)

    answer = await client.post("/jobs/busy/retry")

    assert (answer.status_code, answer.json()["state"], answer.json()["attempts"]) == (202, "received", 1)
