"""The client against the sandbox, which follows the provider's documentation and shares no code with it."""

import contextlib
import json
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from receiver.core.completion import Completion
from receiver.core.errors import (
    InvalidRequestError,
    ProviderError,
    RateLimitedError,
    TokenRefusedError,
    UnavailableError,
    UnknownJobError,
)
from receiver.providers.api import ATTEMPTS
from receiver.providers.base import Calls, Listed
from receiver.providers.bodies import time_at
from receiver.providers.ximilar import completions, request
from receiver.providers.ximilar.authentication import SUBMISSION_HEADER
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.request import Upscale, Webhook
from receiver.sandbox.faults import Faults
from receiver.sandbox.options import ErrorShape, Options
from receiver.sandbox.pictures import draw
from tests.e2e import test_seed_page
from tests.sandbox import test_sandbox_seed_page as page
from tests.sandbox.harness import TOKEN, Neighbour, sandbox
from tests.support.processes import PROVIDER_TOKEN, Programs
from tests.support.processes import Sandbox as Process
from tests.support.providers import completion_of

PICTURE = draw(1, (40, 30), "jpg")
TAG = SUBMISSION_HEADER.lower()


@dataclass
class Waits:
    """Stands in for sleeping: does what is to happen meanwhile, and counts."""

    seconds: list[float] = field(default_factory=list)
    meanwhile: Callable[[], None] | None = None

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if self.meanwhile is not None:
            self.meanwhile()


def client(own: str, waits: Waits | None = None, token: str = TOKEN) -> Ximilar:
    return Ximilar(f"{own}/account/v2", token, jitter=lambda: 0.5, sleep=waits or Waits())


async def made(subject: Ximilar, number: int, webhook: Webhook | None = None, **options: Any) -> list[str]:
    """The ids of so many jobs, one after the other, each of which has ended when this returns."""
    upscale = Upscale(PICTURE, request.Options(**options), webhook)
    jobs = [await subject.submit(upscale) for _ in range(number)]
    for job in jobs:
        while (await subject.get(job)).status in {"CREATED", "PROCESSING"}:
            pass
    return jobs


# The provider's page, field by field


@pytest.fixture
def own(box: Process) -> str:
    return str(box.base_url).removesuffix("/account/v2/")


async def test_the_pages_request_is_what_the_client_sends_and_its_answers_are_what_it_reads(
    box: Process, own: str, near: Neighbour
) -> None:
    source = near.serve(draw(1, (212, 174), "jpg"))
    places = {"__PATH_TO_IMAGE_URL__": source, "__YOUR_POST_URL__": near.webhook}
    webhook = Webhook(near.webhook, {"optional_field": "optional_value"})
    async with client(own, token=PROVIDER_TOKEN) as subject:
        taken = await subject.submit(Upscale(source, request.Options(2, model_type="gan"), webhook))
        delivery = near.take()
        while (report := await subject.get(taken)).status != "DONE":
            pass
        listing = await subject.page()
    raw = box.get(f"/request/{taken}").json()

    # POST /v2/request, and what it answers
    assert raw["request"] == json.loads(page.filled(page.SUBMIT, places))
    uuid.UUID(taken)

    # GET /v2/request/{id}, each field of the page's answer
    assert set(raw) == set(json.loads(page.WHOLE))
    assert (report.id, report.status) == (raw["id"], raw["status"])
    assert report.ending is not None
    assert report.ending.ended_at == time_at(raw["modified"])
    assert report.ending.endpoint == "upscale_2x"
    assert json.loads(report.body) == {name: raw[name] for name in raw if name != "request"}
    (record,) = raw["response"]["records"]
    assert set(record) == set(json.loads(page.WHOLE)["response"]["records"][0])
    completion = completion_of(report.ending)
    assert completion == Completion(
        taken,
        record["_upscaled_image_url"],
        source,
        record["_upscaled_width"],
        record["_upscaled_height"],
    )
    assert (completion.width, completion.height) == (424, 348)

    # The list
    row = next(row for row in listing.rows if row.id == taken)
    assert row == Listed(taken, raw["status"], time_at(raw["created"]), ended=True)

    # The webhook's body says of the result what the report says; the record's own id alone is not in it.
    assert delivery.headers["optional_field"] == "optional_value"
    assert completion_of(completions.read(delivery.body)) == completion
    assert completion_of(delivery.raw) == completion


async def test_the_webhook_sections_request_is_what_the_client_sends(
    box: Process, own: str, near: Neighbour
) -> None:
    source = near.serve(PICTURE)
    webhook = Webhook(near.webhook, {"optional_field": "optional_value"})
    async with client(own, token=PROVIDER_TOKEN) as subject:
        taken = await subject.submit(Upscale(source, webhook=webhook))
    wanted = page.filled(
        page.SUBMIT_FROM_THE_WEBHOOK_SECTION, {"__URL_PATH__": source, "__YOUR_POST_URL__": near.webhook}
    )
    assert box.get(f"/request/{taken}").json()["request"] == json.loads(wanted)
    assert page.SUBMIT == test_seed_page.SUBMIT  # one page, two copies


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"factor": 2, "mode": "artifact_removal", "model_type": "classic"}, (80, 60)),
        ({"factor": 4, "mode": "ironed_out", "model_type": "gan", "image_format": "png"}, (160, 120)),
        ({"factor": 8, "mode": "high_fidelity", "image_format": "jpg", "image_quality": 1}, (320, 240)),
        ({"image_format": "webp", "image_quality": 100, "tune_colors": False}, (80, 60)),
        ({"tune_colors": True}, (80, 60)),
    ],
)
async def test_every_option_of_the_page_is_taken_for_bytes_too(
    box: Process, own: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    async with client(own, token=PROVIDER_TOKEN) as subject:
        (job,) = await made(subject, 1, **options)
        report = await subject.get(job)
    assert report.ending is not None
    completion = completion_of(report.ending)
    assert (completion.width, completion.height) == size
    assert completion.source_url is None
    assert b"_base64" not in report.body
    sent = box.get(f"/request/{job}").json()["request"]
    assert sent.pop("endpoint") == f"upscale_{options.pop('factor', 2)}x"
    assert {name: sent[name] for name in sent if name not in {"type", "records"}} == options


async def test_a_job_that_failed_and_one_that_does_not_end(box: Process, own: str, near: Neighbour) -> None:
    source = {"_url": near.serve(PICTURE)}
    ends = {
        fault: box.submit(source, near.webhook, "early", fault)
        for fault in ("failed", "limit", "unsupported", "record", "stuck")
    }
    async with client(own, token=PROVIDER_TOKEN) as subject:
        reports = {fault: await subject.get(job_id) for fault, job_id in ends.items()}
    failures = {
        fault: report.ending and report.ending.failure and report.ending.failure.reason
        for fault, report in reports.items()
    }
    assert failures == {
        "failed": "provider.job_failed",
        "limit": "provider.job_failed",
        "unsupported": "provider.job_failed",
        "record": "provider.record_failed",
        "stuck": None,
    }
    assert reports["stuck"].status == "PROCESSING"


# The list


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_all_pages_are_read_although_their_links_name_another_host(*, oldest_first: bool) -> None:
    options = Options(
        token=TOKEN, delay=0, page_size=2, link_base="http://10.255.255.1:81", oldest_first=oldest_first
    )
    with sandbox(options) as box:
        async with client(box.own) as subject:
            jobs = await made(subject, 5)
            failed = box.submit({"_url": "http://127.0.0.1:1/"}, "early", "failed")["id"]
            listing = await subject.page()
            assert box.get("/request").json()["next"] == "http://10.255.255.1:81/account/v2/request?page=2"
            assert (listing.next, len(listing.rows)) == ("page=2", 2)
            following = await subject.page(listing.next)
            order = [*jobs, failed] if oldest_first else [failed, *jobs[::-1]]
            assert [row.id for row in (*listing.rows, *following.rows)] == order[:4]
            assert [row.id async for rows in subject.pages() for row in rows] == order


async def test_a_list_that_grows_while_it_is_read_gives_each_job_once() -> None:
    with sandbox(Options(token=TOKEN, delay=0, page_size=2)) as box:
        async with client(box.own) as subject:
            jobs = await made(subject, 6)
            found = []
            async for row in (row async for rows in subject.pages() for row in rows):
                found.append(row.id)
                if len(found) % 2 == 0 and len(found) < 6:
                    await made(subject, 3)  # whole pages are pushed onto the next ones
            assert [job for job in found if job in jobs] == jobs[::-1]
            assert len(found) == len(set(found))


async def test_a_list_that_shrinks_while_it_is_read_ends() -> None:
    with sandbox(Options(token=TOKEN, delay=0, page_size=2, keep_jobs=3)) as box:
        async with client(box.own) as subject:
            before = await made(subject, 3)
            found = []
            async for row in (row async for rows in subject.pages() for row in rows):
                found.append(row.id)
                if len(found) == 2:
                    await made(subject, 3)  # all that were there are forgotten
            assert found[:2] == before[:0:-1]
            assert len(found) == len(set(found))


# A submission whose fate is unknown


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("fault", ["lost_answer", "cut_answer"])
async def test_a_job_whose_answer_was_lost_is_found_by_its_header_and_was_made_once(
    near: Neighbour, fault: str, *, oldest_first: bool
) -> None:
    options = Options(
        token=TOKEN, delay=0, page_size=2, faults=Faults(**{fault: 1.0}), oldest_first=oldest_first
    )
    with sandbox(options) as box:
        waits = Waits()
        began = datetime.now(UTC)
        tags = [f"tag {number}" for number in range(5)]
        async with client(box.own, waits) as subject:
            for tag in tags:
                webhook = Webhook(near.webhook, {TAG: tag})
                with pytest.raises(UnavailableError) as lost:
                    await subject.submit(Upscale(PICTURE, webhook=webhook))
                assert lost.value.maybe_sent
            assert box.get("/request").json()["count"] == 5
            assert waits.seconds == []
            for tag in tags:
                job_id = await subject.find(tag, since=began)
                assert job_id is not None
                assert box.get(f"/request/{job_id}").json()["request"]["webhook"]["headers"] == {TAG: tag}
            assert await subject.find("tag", since=began) is None


async def test_only_jobs_since_the_submission_are_asked_for() -> None:
    began = 1_700_000_000.0
    now = began
    asked: list[str] = []

    class Counting(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.raw_path.decode().removeprefix("/account/v2/request"))
            return await super().handle_async_request(request)

    with sandbox(Options(token=TOKEN, delay=0, page_size=2), lambda: now) as box:
        async with Ximilar(f"{box.own}/account/v2", TOKEN, Calls(transport=Counting())) as subject:
            await made(subject, 6)
            now += 3600
            webhook = Webhook("http://127.0.0.1:1/", {TAG: "a"})
            wanted = await made(subject, 2, webhook=webhook)
            await made(subject, 1)
            asked.clear()
            found = await subject.find("a", since=datetime.fromtimestamp(now, UTC))
            assert found == wanted[1]  # the newest of them
            assert [path for path in asked if not path.startswith("/")] == ["", "?page=2"]
            assert len([path for path in asked if path.startswith("/")]) == 2
            # By the provider's clock it may have been before: some minutes of slack, and no more.
            late = datetime.fromtimestamp(now, UTC) + timedelta(minutes=5)
            assert await subject.find("a", since=late) is not None
            assert await subject.find("a", since=late + timedelta(hours=1)) is None


# What is tried again


async def test_questions_outlast_a_gateways_bad_moments() -> None:
    waits = Waits()
    with sandbox(Options(token=TOKEN, delay=0, seed=3, faults=Faults(outage=0.4))) as box:
        async with client(box.own, waits) as subject:
            answers = 0
            for _ in range(30):
                with contextlib.suppress(UnavailableError):
                    assert (await subject.page()).rows == []
                    answers += 1
            assert answers > 20
            assert set(waits.seconds) == {0.25, 0.5}


async def test_a_submission_waits_for_a_provider_that_does_not_listen_yet_and_is_sent_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    nobody = Waits()
    async with client(f"http://127.0.0.1:{port}", nobody) as subject:
        with pytest.raises(UnavailableError) as refused:
            await subject.submit(Upscale(PICTURE))
    assert not refused.value.maybe_sent
    assert len(nobody.seconds) == ATTEMPTS - 1

    with contextlib.ExitStack() as stack:
        boxes: list[httpx.Client] = []

        def begin() -> None:
            if not boxes:
                boxes.append(stack.enter_context(sandbox(Options(token=TOKEN, delay=0), port=port)))

        waits = Waits(meanwhile=begin)
        async with client(f"http://127.0.0.1:{port}", waits) as subject:
            taken = await subject.submit(Upscale(PICTURE))
        assert len(waits.seconds) == 1
        (row,) = boxes[0].get("/request").json()["results"]
        assert row["id"] == taken


@pytest.mark.parametrize("fault", ["outage", "throttle", "refuse"])
async def test_a_submission_that_was_answered_is_not_sent_again(fault: str) -> None:
    waits = Waits()
    with sandbox(Options(token=TOKEN, delay=0, retry_after=7, faults=Faults(**{fault: 1.0}))) as box:
        async with client(box.own, waits) as subject:
            with pytest.raises(ProviderError) as failed:
                await subject.submit(Upscale(PICTURE))
    assert waits.seconds == []
    assert failed.value.maybe_sent == (fault == "outage")
    assert failed.value.retry_after == (7 if fault == "throttle" else None)
    kinds = {"outage": UnavailableError, "throttle": RateLimitedError, "refuse": TokenRefusedError}
    assert type(failed.value) is kinds[fault]


# Proxies


async def test_a_proxy_of_the_environment_leads_to_other_machines_and_never_to_this_one(
    monkeypatch: pytest.MonkeyPatch, near: Neighbour
) -> None:
    with sandbox(Options(token=TOKEN, delay=0)) as box:
        port = box.own.rpartition(":")[2]
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, near.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        for own in (box.own, f"http://localhost:{port}"):
            async with client(own) as subject:
                assert (await subject.page()).rows == []
        assert not near.asked.is_set()
        async with client("http://api.example") as subject:
            with pytest.raises(ProviderError):
                await subject.page()
        assert near.asked.is_set()


# Refusals


@pytest.mark.parametrize("shape", list(ErrorShape))
async def test_errors_of_every_form_become_the_same_errors(shape: ErrorShape) -> None:
    secret = "canary-of-the-header"

    def calls(subject: Ximilar) -> dict[str, Callable[[], Awaitable[object]]]:
        elsewhere = Webhook("https://hook.example/", {"X-Secret": secret})
        return {
            "invalid": lambda: subject.submit(Upscale(PICTURE, webhook=elsewhere)),
            "unknown": lambda: subject.get(str(uuid.uuid4())),
            "no page": lambda: subject.page("page=7"),
        }

    errors: dict[str, ProviderError] = {}
    with sandbox(Options(token=TOKEN, delay=0, error_shape=shape)) as box:
        async with client(box.own) as subject:
            for name, call in calls(subject).items():
                with pytest.raises(ProviderError) as failed:
                    await call()
                errors[name] = failed.value
        async with client(box.own, token="canary-of-a-wrong-token") as subject:
            with pytest.raises(ProviderError) as failed:
                await subject.page()
            errors["token"] = failed.value
        async with Ximilar(f"{box.own}/elsewhere", TOKEN) as subject:
            with pytest.raises(ProviderError) as failed:
                await subject.submit(Upscale(PICTURE))
            errors["address"] = failed.value

    assert {name: type(error) for name, error in errors.items()} == {
        "invalid": InvalidRequestError,
        "unknown": UnknownJobError,
        "no page": errors["no page"].__class__,
        "token": TokenRefusedError,
        "address": UnavailableError,
    }
    assert isinstance(errors["no page"], UnavailableError)
    assert not any(error.maybe_sent for error in errors.values())
    for error in errors.values():
        assert error.detail.isprintable()
        assert not [own for own in (secret, TOKEN, "canary", "hook.example") if own in error.detail]
    said = {
        "invalid": "the sandbox speaks to loopback only",
        "token": "Invalid token",
        "unknown": "Not found",
    }
    for name, words in said.items():
        assert (words if shape is not ErrorShape.EMPTY else "does not say why") in errors[name].detail


async def test_the_command_line_has_the_switches_of_the_list_and_of_errors(programs: Programs) -> None:
    switches = ["--oldest-first", "--link-base", "https://api.elsewhere.example", "--error-shape", "fields"]
    with programs.sandbox("--page-size", "1", "--cut-answer", "1", *switches) as box:
        own = str(box.base_url).removesuffix("/account/v2/")
        began = datetime.now(UTC)
        async with client(own, token=PROVIDER_TOKEN) as subject:
            for tag in ("a", "b"):
                with pytest.raises(UnavailableError) as lost:
                    await subject.submit(Upscale(PICTURE, webhook=Webhook("http://127.0.0.1:1/", {TAG: tag})))
                assert lost.value.maybe_sent
            found = [await subject.find(tag, since=began) for tag in ("a", "b")]
            assert found == [row.id async for rows in subject.pages() for row in rows]
        answer = box.get("/request/nobodys")
        assert answer.json() == {"non_field_errors": ["Not found."]}
        assert box.get("/request").json()["next"].startswith("https://api.elsewhere.example/account/v2/")
