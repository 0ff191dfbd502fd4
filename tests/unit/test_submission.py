"""Keys, lists, headers, and the way of one image through a provider that has bad days."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from receiver.config import load
from receiver.core.errors import (
    ConfigError,
    InvalidRequestError,
    NoCreditsError,
    RateLimitedError,
    TokenRefusedError,
    UnavailableError,
)
from receiver.core.jobs import State
from receiver.core.rate_limit import RateLimiter
from receiver.ledger import FILE_NAME, Delivery, Intent, Ledger
from receiver.ledger.sqlite.driver import sqlite3
from receiver.providers.base import Calls
from receiver.providers.ximilar.authentication import Authenticator
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.request import Options
from receiver.submission.images import Item, Line, listed, named, read_list
from receiver.submission.run import named_again, prepare, submit_all
from receiver.submission.settlement import SettleProgress, settle
from receiver.submission.submitter import Fate, Outcome, Submitter
from receiver.submission.webhook_template import WebhookTemplate
from tests.ledger.actions import delivery
from tests.support.clock import HOUR, NOW, Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.processes import ROOT

SETTINGS = {
    "RECEIVER_PUBLIC_URL": "https://receiver.example.com/base/",
    "RECEIVER_WEBHOOK_HEADERS": json.dumps(
        {"X-Webhook-Secret": ["canary-new", "canary-old"], "X-Two": "canary-2"}
    ),
}
URL = "https://host/in.png"


# Lists and keys.


def test_a_list_has_urls_references_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# pictures\r\nhttps://host/a.png\r\n\r\n  https://host/b.png\torder 7  \r\n#https://host/c.png"
    )
    assert read_list(path) == [Line("https://host/a.png"), Line("https://host/b.png", "order 7")]


@pytest.mark.parametrize(
    "line", ["a.png", "ftp://host/a", "https://", "https://host/a b", "https://host/a\tü"]
)
def test_a_line_that_cannot_be_submitted_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"\nhttps://host/a.png\n{line}\n")
    with pytest.raises(InvalidRequestError, match=r"list\.txt: line 3: "):
        read_list(path)


def test_a_list_has_files_whose_paths_begin_at_its_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    path = tmp_path / "list.txt"
    path.write_text(f"photos/a.png\torder 7\n{tmp_path}/b.png\n{URL}\n")
    items = listed(read_list(path), "list", Options(), None)
    assert [(item.image, item.ref) for item in items] == [
        (tmp_path / "photos" / "a.png", "order 7"),
        (tmp_path / "b.png", None),
        (URL, None),
    ]
    assert items[0].name == "photos/a.png"
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(InvalidRequestError, match=r"list\.txt: line 2: .*b\.png: is no image"):
        read_list(path)


def keys(
    *lines: Line, name: str = "list", options: Options | None = None, ref: str | None = None
) -> list[str]:
    return [item.key for item in listed(lines, name, options or Options(), ref)]


def test_a_key_does_not_depend_on_where_its_line_stands() -> None:
    one, two, three = Line("https://host/1"), Line("https://host/2"), Line("https://host/3", "order 3")
    assert keys(one, two) == keys(two, three, one)[2::-2]


def test_a_url_that_stands_twice_is_two_images_and_adding_a_third_keeps_both() -> None:
    one = Line(URL)
    twice = keys(one, one)
    assert len(set(twice)) == 2
    assert keys(one, Line("https://host/2"), one, one)[::2][:1] + keys(one, one, one)[1:2] == twice


def test_everything_that_makes_another_job_makes_another_key() -> None:
    line = Line(URL)
    others = [
        keys(line),
        keys(line, name="other"),
        keys(line, ref="order 7"),
        keys(Line("https://host/other")),
        *(
            keys(line, options=options)
            for options in (
                Options(4),
                Options(model_type="gan"),
                Options(mode="ironed_out"),
                Options(image_format="png"),
                Options(image_format="png", image_quality=7),
                Options(tune_colors=False),
            )
        ),
    ]
    assert len({key for (key,) in others}) == len(others)


def test_the_reference_of_a_line_goes_before_the_lists() -> None:
    items = listed([Line(URL), Line(URL, "own")], "list", Options(), "common")
    assert [item.ref for item in items] == ["common", "own"]
    assert len({item.key for item in items}) == 2


def test_images_that_are_named_are_others_each_time() -> None:
    assert len({item.key for _ in range(2) for item in named([URL, URL], None)}) == 4


def test_a_list_that_is_submitted_again_has_another_name() -> None:
    assert named_again("list", datetime.now(UTC)) != named_again(
        "list", datetime.now(UTC) + timedelta(hours=1)
    )


@pytest.mark.parametrize("beginning", [b"\0\0\0\x18ftypheic\0\0\0\0", b"\0\0\0\x18ftypmif1\0\0\0\0"])
def test_heic_is_known_by_its_beginning(tmp_path: Path, beginning: bytes) -> None:
    (tmp_path / "photo.heic").write_bytes(beginning + bytes(20))
    (item,) = prepare([tmp_path / "photo.heic"], Options())
    assert item.image == tmp_path / "photo.heic"


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7\n"])
def test_what_does_not_begin_like_an_image_is_not_sent(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(InvalidRequestError, match="is no image that the provider takes"):
        prepare([str(tmp_path / "file")], Options())
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        prepare([tmp_path], Options())


@pytest.mark.parametrize(
    "options",
    [
        Options(3),  # type: ignore[arg-type] # that is the point
        Options(image_quality=5),
        Options(image_format="png", image_quality=101),
    ],
)
def test_options_are_judged_before_anything_is_sent(options: Options) -> None:
    with pytest.raises(InvalidRequestError):
        prepare([URL], options)


# Headers.


def test_a_webhook_carries_the_first_values_the_mark_and_the_reference() -> None:
    template = WebhookTemplate.from_config(load(SETTINGS))
    webhook = template.webhook("the mark", "order 7")
    assert webhook.endpoint == "https://receiver.example.com/base/webhooks/ximilar"
    assert webhook.headers == {
        "X-Webhook-Secret": "canary-new",
        "X-Two": "canary-2",
        "X-Receiver-Submission": "the mark",
        "X-Receiver-Ref": "order 7",
    }
    assert "canary" not in repr(template) + repr(webhook)
    assert "X-Receiver-Ref" not in template.webhook("the mark", None).headers


def test_with_signing_keys_every_webhook_has_another_ticket_which_the_receiver_takes() -> None:
    config = load({**SETTINGS, "RECEIVER_SIGNING_KEYS": "canary-key, canary-older-key"})
    template = WebhookTemplate.from_config(config)
    proofs = [
        Authenticator.from_config(config).admit(
            [
                (name.lower().encode(), value.encode())
                for name, value in template.webhook("m", None).headers.items()
            ]
        )
        for _ in range(2)
    ]
    assert len({proof.ticket for proof in proofs}) == 2
    assert {proof.mark for proof in proofs} == {"m"}
    assert "canary" not in repr(template)


def test_without_the_receivers_settings_nothing_is_submitted() -> None:
    for missing in SETTINGS:
        with pytest.raises(ConfigError, match=missing):
            WebhookTemplate.from_config(load({k: v for k, v in SETTINGS.items() if k != missing}))


def test_importing_the_package_loads_no_room_of_it() -> None:
    program = (
        "import sys, receiver; assert not [m for m in sys.modules if m.startswith('receiver.')];"
        "[getattr(receiver, name) for name in receiver.__all__];"
        "assert not hasattr(receiver, 'anything_else')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# The way of one image.


@dataclass
class Provider:
    """A provider of which each answer to a POST and each look at the list can be told beforehand.

    Attributes:
        posts: what the next POSTs meet: an answer, or a function; a job is taken after all of them.
        lists: likewise of the next looks at the list.
        jobs: those that were taken, oldest first: id and request.
        silent: ids of those that give no answer.
        asked: how often each kind of call came.
    """

    posts: list[Callable[[httpx.Request], Awaitable[httpx.Response]]] = field(default_factory=list)
    lists: list[int] = field(default_factory=list)
    jobs: dict[str, Any] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    called: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """As over a line: the body is yet to be read."""
        answer = await self._answer(request)
        async with self.called:
            self.called.notify_all()
        body = httpx.ByteStream(answer.content)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=body)

    async def until(self, call: str, times: int) -> None:
        async with self.called:
            await self.called.wait_for(lambda: self.asked[call] >= times)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            self.asked["POST"] += 1
            return await (self.posts.pop(0) if self.posts else self.take)(request)
        if path == "/request":
            self.asked["list"] += 1
            status = self.lists.pop(0) if self.lists else 200
            hidden = status == LAGS
            rows = [] if hidden else [self._row(job_id) for job_id in reversed(self.jobs)]
            return httpx.Response(200 if hidden else status, json={"count": 0, "next": None, "results": rows})
        self.asked["get"] += 1
        job_id = path.rpartition("/")[2]
        if job_id in self.silent:
            return httpx.Response(500)
        return httpx.Response(200, json={**self._row(job_id), "request": self.jobs[job_id]})

    async def take(self, request: httpx.Request) -> httpx.Response:
        job_id = self.taken(request)
        return httpx.Response(201, json={"id": job_id, "status": "CREATED"})

    async def take_and_fail(self, request: httpx.Request) -> httpx.Response:
        self.taken(request)
        return httpx.Response(502, text="<title>Bad Gateway</title>")

    async def take_and_break(self, request: httpx.Request) -> httpx.Response:
        self.taken(request)
        raise httpx.ReadTimeout("", request=request)

    def taken(self, request: httpx.Request) -> str:
        job_id = f"job-{len(self.jobs) + 1}"
        self.jobs[job_id] = json.loads(request.content)
        return job_id

    def _row(self, job_id: str) -> dict[str, Any]:
        return {
            "id": job_id,
            "status": "PROCESSING",
            "type": "upscaler",
            "created": datetime.now(UTC).isoformat(),
        }


LAGS = 0
"""The list answers, and does not have the newest jobs yet."""


def answers(status: int, **headers: str) -> Callable[[httpx.Request], Awaitable[httpx.Response]]:
    async def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"detail": "No."}, headers=headers)

    return answer


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def submitter(tmp_path: Path, provider: Provider, clock: Clock) -> AsyncIterator[Submitter]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=clock)
    client = Ximilar(
        "https://provider", "token", Calls(transport=httpx.MockTransport(provider)), jitter=lambda: 0.0
    )
    async with client:
        yield Submitter(
            ledger,
            client,
            WebhookTemplate.from_config(load(SETTINGS)),
            Options(4),
            patience=timedelta(seconds=5),
            lag=timedelta(milliseconds=10),
        )
    await ledger.close()


ITEM = Item("list:1", URL, URL, "order 7")


async def open_keys(ledger: Ledger) -> list[str]:
    return [intent.key for intent in await ledger.open_intents(before=2**62)]


async def test_the_intent_is_durable_before_anything_is_sent(
    submitter: Submitter, provider: Provider, tmp_path: Path
) -> None:
    seen: list[tuple[Any, ...]] = []

    async def look(request: httpx.Request) -> httpx.Response:
        with sqlite3.connect(tmp_path / FILE_NAME) as db:
            seen.extend(db.execute("SELECT key, mark, job FROM submissions"))
        db.close()
        return await provider.take(request)

    provider.posts = [look]
    outcome = await submitter.submit(ITEM)
    assert outcome == Outcome(URL, "order 7", Fate.SUBMITTED, "job-1")
    headers = provider.jobs["job-1"]["webhook"]["headers"]
    assert seen == [("list:1", headers["X-Receiver-Submission"], None)]
    job = await submitter.ledger.job("job-1")
    assert job is not None
    assert (job.state, job.ref, job.endpoint, job.source_url) == (
        State.SUBMITTED,
        "order 7",
        "upscale_4x",
        URL,
    )


async def test_what_has_a_job_is_not_submitted_again(submitter: Submitter, provider: Provider) -> None:
    await submitter.submit(ITEM)
    again = await submitter.submit(ITEM)
    assert (again.fate, again.id, again.job and again.job.state) == (Fate.KNOWN, "job-1", State.SUBMITTED)
    assert provider.asked == {"POST": 1}


@pytest.mark.parametrize("how", ["take_and_fail", "take_and_break"])
@pytest.mark.parametrize("lists", [[], [LAGS], [503, 503, 503, 503, LAGS]], ids=["at once", "late", "away"])
async def test_a_lost_answer_is_looked_for_and_not_sent_again(
    submitter: Submitter, provider: Provider, how: str, lists: list[int]
) -> None:
    provider.posts = [getattr(provider, how)]
    provider.lists = lists
    outcome = await submitter.submit(ITEM)
    assert (outcome.fate, outcome.id, provider.asked["POST"]) == (Fate.SUBMITTED, "job-1", 1)
    assert await open_keys(submitter.ledger) == []


async def test_only_two_answers_that_there_is_no_job_let_it_be_sent_again(
    submitter: Submitter, provider: Provider
) -> None:
    provider.posts = [answers(502)]
    outcome = await submitter.submit(ITEM)
    assert (outcome.fate, outcome.id) == (Fate.SUBMITTED, "job-1")
    assert provider.asked == {"POST": 2, "list": 2}
    assert await open_keys(submitter.ledger) == []


async def test_a_job_that_is_made_after_it_was_given_up_is_found_by_the_next_look(
    submitter: Submitter, provider: Provider
) -> None:
    given_up: list[httpx.Request] = []

    async def silence(request: httpx.Request) -> httpx.Response:
        for earlier in given_up:
            provider.taken(earlier)
        given_up.append(request)
        raise httpx.ReadTimeout("", request=request)

    provider.posts = [silence, silence]
    outcome = await submitter.submit(ITEM)
    assert (outcome.fate, outcome.id, provider.asked["POST"]) == (Fate.SUBMITTED, "job-1", 2)


async def test_an_intent_of_long_ago_takes_one_answer(
    submitter: Submitter, provider: Provider, clock: Clock
) -> None:
    await submitter.ledger.record_intent(Intent("list:1", "mark-of-a-killed-run"))
    clock.forward(HOUR)
    assert (await submitter.submit(ITEM)).fate is Fate.SUBMITTED
    assert provider.asked == {"POST": 1, "list": 1}


async def test_an_open_intent_of_a_killed_run_is_found(submitter: Submitter, provider: Provider) -> None:
    await submitter.ledger.record_intent(Intent("list:1", "the mark", "order 7", "upscale_4x", URL))
    provider.jobs["job-1"] = {"webhook": {"headers": {"x-receiver-submission": "the mark"}}}
    outcome = await submitter.submit(ITEM)
    assert (outcome.fate, outcome.id, provider.asked["POST"]) == (Fate.SUBMITTED, "job-1", 0)


async def test_jobs_that_are_known_are_not_asked_for_in_the_look(
    submitter: Submitter, provider: Provider
) -> None:
    for number in range(5):
        await submitter.submit(Item(f"other:{number}", URL, URL))
    provider.posts = [provider.take_and_fail]
    assert (await submitter.submit(ITEM)).id == "job-6"
    assert provider.asked == {"POST": 6, "list": 1, "get": 1}


async def test_a_completion_that_carries_the_mark_spares_the_question(
    submitter: Submitter, provider: Provider
) -> None:
    async def complete(request: httpx.Request) -> httpx.Response:
        job_id = provider.taken(request)
        mark = provider.jobs[job_id]["webhook"]["headers"]["X-Receiver-Submission"]
        recorded: Delivery = replace(delivery(job_id, source=None), mark=mark)
        await submitter.ledger.record(recorded)
        return httpx.Response(502)

    provider.posts = [complete]
    outcome = await submitter.submit(ITEM)
    assert (outcome.fate, outcome.id) == (Fate.SUBMITTED, "job-1")
    assert provider.asked == {"POST": 1}
    found = await submitter.ledger.job_with_history("job-1")
    assert found is not None
    job, history = found
    assert (job.state, job.ref, job.endpoint, job.source_url) == (
        State.RECEIVED,
        "order 7",
        "upscale_4x",
        URL,
    )
    assert [event.event for event in history] == ["submitted", "received"]


async def test_a_provider_that_stays_away_leaves_it_open_and_the_next_run_finds_it(
    submitter: Submitter, provider: Provider
) -> None:
    provider.posts = [provider.take_and_fail]
    provider.lists = [503] * 30
    outcome = await replace(submitter, patience=timedelta(milliseconds=30)).submit(ITEM)
    assert (outcome.fate, outcome.id, outcome.ends_the_run) == (Fate.OPEN, None, True)
    assert isinstance(outcome.error, UnavailableError)
    assert await open_keys(submitter.ledger) == ["list:1"]
    provider.lists = []
    assert (await submitter.submit(ITEM)).id == "job-1"
    assert provider.asked["POST"] == 1


@pytest.mark.parametrize(
    ("status", "error", "ends"),
    [
        (400, InvalidRequestError, False),
        (401, TokenRefusedError, True),
        (402, NoCreditsError, True),
        (403, TokenRefusedError, True),
    ],
)
async def test_a_refusal_leaves_nothing_behind(
    submitter: Submitter, provider: Provider, status: int, error: type[Exception], *, ends: bool
) -> None:
    provider.posts = [answers(status)]
    outcome = await submitter.submit(ITEM)
    assert (outcome.fate, type(outcome.error), outcome.ends_the_run) == (Fate.REFUSED, error, ends)
    assert await submitter.ledger.intents_among(["list:1"]) == {}
    assert (await submitter.submit(ITEM)).fate is Fate.SUBMITTED


async def test_what_refuses_one_for_all_ends_the_run(submitter: Submitter, provider: Provider) -> None:
    provider.posts = [provider.take, answers(400), *[answers(402)] * 50]
    items = [Item(f"list:{number}", URL, URL) for number in range(50)]
    outcomes = await submit_all(submitter, items)
    fates = Counter(outcome.fate for outcome in outcomes)
    assert fates[Fate.SUBMITTED] == 1
    assert fates[Fate.UNSENT] >= 44
    assert fates[Fate.OPEN] == 0
    assert await open_keys(submitter.ledger) == []


async def test_it_waits_as_long_as_it_is_told_and_all_others_with_it(
    submitter: Submitter, provider: Provider
) -> None:
    began = asyncio.get_running_loop().time()
    limiter = RateLimiter(clock=lambda: 0.0)
    provider.posts = [answers(429, **{"Retry-After": "1"})]
    assert (await replace(submitter, rate_limiter=limiter).submit(ITEM)).fate is Fate.SUBMITTED
    assert asyncio.get_running_loop().time() - began >= 1
    assert limiter.reserve() == 1


async def test_too_many_requests_without_end_end_the_run(submitter: Submitter, provider: Provider) -> None:
    provider.posts = [answers(429)] * 100
    outcome = await replace(submitter, patience=timedelta(milliseconds=20)).submit(ITEM)
    assert (outcome.fate, type(outcome.error), outcome.ends_the_run) == (Fate.REFUSED, RateLimitedError, True)
    assert await open_keys(submitter.ledger) == []


async def test_a_stop_ends_waits_and_says_what_is_open(submitter: Submitter, provider: Provider) -> None:
    slow = replace(submitter, lag=timedelta(hours=1))
    provider.posts = [answers(502), answers(429, **{"Retry-After": "3600"})]
    looking = asyncio.create_task(slow.submit(ITEM))
    await provider.until("list", 1)
    waiting = asyncio.create_task(slow.submit(replace(ITEM, key="list:2")))
    await provider.until("POST", 2)
    slow.stopping.set()
    assert (await looking).fate is Fate.OPEN
    assert (await waiting).fate is Fate.UNSENT
    assert await open_keys(submitter.ledger) == ["list:1"]


async def test_a_run_that_is_stopped_waits_for_the_answers_to_what_it_sent(
    submitter: Submitter, provider: Provider
) -> None:
    async def answer_after_the_stop(request: httpx.Request) -> httpx.Response:
        submitter.stopping.set()
        await asyncio.sleep(0)
        return await provider.take(request)

    provider.posts = [answer_after_the_stop] * 4
    items = [Item(f"list:{number}", URL, URL) for number in range(10)]
    outcomes = await submit_all(submitter, items)
    taken = [outcome for outcome in outcomes if outcome.fate is Fate.SUBMITTED]
    assert 1 <= len(taken) == len(provider.jobs) <= 4
    assert await open_keys(submitter.ledger) == []


async def test_a_file_that_vanishes_before_its_turn_is_refused(submitter: Submitter, tmp_path: Path) -> None:
    outcome = await submitter.submit(Item("call:1", "gone.png", tmp_path / "gone.png"))
    assert (outcome.fate, type(outcome.error)) == (Fate.REFUSED, InvalidRequestError)
    assert await open_keys(submitter.ledger) == []


# Settled by others.


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    clock = Clock(NOW)
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=clock)
    yield ledger
    await ledger.close()


async def settled(ledger: Ledger, provider: Provider, now: int) -> int:
    async with Ximilar(
        "https://provider", "token", Calls(transport=httpx.MockTransport(provider)), jitter=lambda: 0.0
    ) as client:
        return await settle(ledger, client, now=now)


async def test_an_open_intent_is_settled_by_what_the_provider_knows(
    ledger: Ledger, provider: Provider
) -> None:
    await ledger.record_intent(Intent("found", "mark-1", "order 7", "upscale_4x", URL))
    await ledger.record_intent(Intent("lost", "mark-2"))
    provider.jobs["job-1"] = {"webhook": {"headers": {"X-Receiver-Submission": "mark-1"}}}

    assert await settled(ledger, provider, NOW + 60_000) == 0  # whoever submitted it is still at it
    assert provider.asked == {}
    assert await settled(ledger, provider, NOW + HOUR) == 1
    job = await ledger.job("job-1")
    assert job is not None
    assert (job.state, job.ref, job.endpoint, job.submitted_at) == (
        State.SUBMITTED,
        "order 7",
        "upscale_4x",
        NOW,
    )
    assert await open_keys(ledger) == ["lost"]
    assert await settled(ledger, provider, NOW + 25 * HOUR) == 1
    assert await open_keys(ledger) == []


async def test_an_open_intent_is_asked_about_again_when_it_is_twice_as_old(
    ledger: Ledger, provider: Provider
) -> None:
    await ledger.record_intent(Intent("lost", "mark-2"))
    progress = SettleProgress()
    times = []
    async with Ximilar(
        "https://provider", "token", Calls(transport=httpx.MockTransport(provider)), jitter=lambda: 0.0
    ) as client:
        for minute in range(24 * 60 + 30):
            before = provider.asked["list"]
            await settle(ledger, client, now=NOW + minute * 60_000, progress=progress)
            if provider.asked["list"] > before:
                times.append(minute)
    assert times == [21, 42, 84, 168, 336, 672, 1344, 1441]
    assert await open_keys(ledger) == []


async def test_many_open_intents_take_one_question_for_each_job_and_none_a_second_time(
    ledger: Ledger, provider: Provider
) -> None:
    for number in range(4):
        await ledger.record_intent(Intent(f"key-{number}", f"mark-{number}"))
        provider.jobs[f"other-{number}"] = {"webhook": {"headers": {}}}
    provider.jobs["job-2"] = {"webhook": {"headers": {"X-Receiver-Submission": "mark-2"}}}
    progress = SettleProgress()
    async with Ximilar("https://provider", "token", Calls(transport=httpx.MockTransport(provider))) as client:
        assert await settle(ledger, client, now=NOW + HOUR, progress=progress) == 1
        assert provider.asked == {"list": 1, "get": 5}
        assert await settle(ledger, client, now=NOW + 3 * HOUR, progress=progress) == 0
    assert provider.asked == {"list": 2, "get": 5}


async def test_a_job_without_an_answer_keeps_an_open_intent_no_longer_than_its_image_could_live(
    ledger: Ledger, provider: Provider
) -> None:
    await ledger.record_intent(Intent("lost", "mark"))
    provider.jobs["other"], provider.silent = {}, {"other"}
    assert await settled(ledger, provider, NOW + HOUR) == 0
    assert await settled(ledger, provider, NOW + 25 * HOUR) == 1


async def test_while_the_provider_is_away_nothing_is_withdrawn(ledger: Ledger, provider: Provider) -> None:
    await ledger.record_intent(Intent("lost", "mark-2"))
    provider.lists = [503] * 10
    with pytest.raises(UnavailableError):
        await settled(ledger, provider, NOW + 25 * HOUR)
    assert await open_keys(ledger) == ["lost"]


async def test_a_job_whose_intent_was_withdrawn_meanwhile_counts_all_the_same(ledger: Ledger) -> None:
    assert await ledger.confirm_intent("withdrawn", "job-1")
    assert (await ledger.job("job-1")) is not None
