"""The seam by itself: ids, outputs, deadlines and promises, with a provider that only this test knows."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver.core import serializers
from receiver.core.completion import is_bare_id, is_job_id, split_id
from receiver.core.errors import AuthError, UrlError
from receiver.core.headers import RawHeaders
from receiver.core.instrumentation import NO_INSTRUMENTATION
from receiver.core.jobs import State
from receiver.intake.endpoint import WebhookEndpoint
from receiver.ledger import Filter, Ledger, Submission
from receiver.pipeline.provider_questions import ProviderQuestions
from receiver.providers.base import (
    Asked,
    Calls,
    Client,
    DeliveryProof,
    Ending,
    FileAccess,
    Output,
    Proof,
    Provider,
    Reading,
    Report,
    Running,
)
from receiver.providers.bodies import bounded, decode_json, mask, output_of, own_id, time_at
from receiver.providers.signatures import StandardWebhooks
from receiver.reconcile.listing import Plan
from receiver.reconcile.reconciler import Reconciler
from receiver.web.refusals import RefusalCounter
from tests.support.ledgers import make_empty_ledger

NOW = 1_780_000_000_000
KEY = b"a key of this test alone"
HOUR = 3_600_000


class LateProof(DeliveryProof):
    """A proof that has to be awaited."""

    def __init__(self) -> None:
        self._signed = StandardWebhooks([KEY], lambda: NOW)
        self.names = self._signed.names

    def admit(self, headers: RawHeaders) -> Proof | None:
        self._signed.admit(headers)
        return None

    async def check(self, headers: RawHeaders, body: bytes) -> Proof:
        return self._signed.check(headers, body)


class MadeUp(Provider):
    """A provider that signs, brings several outputs, and posts what is no end."""

    name = "made-up"
    title = "Made up"
    url_setting = token_setting = ""

    def __init__(self) -> None:
        super().__init__(LateProof(), "https://api.invalid", "token", timedelta(hours=1))

    def read(self, body: bytes) -> Reading:
        document = decode_json(body)
        job = own_id(document.get("id"))
        if document["status"] == "running":
            return Running(job, "running")
        outputs = bounded([output_of(**it) for it in document["outputs"]])
        return Ending(job, outputs, ended_at=time_at(document.get("ended_at")))

    def open_client(self, calls: Calls) -> Client | None:  # noqa: ARG002 - not asked
        return None


def sign(body: bytes) -> list[tuple[bytes, bytes]]:
    stamp = str(NOW // 1000).encode()
    digest = hmac.new(KEY, b".".join((b"1", stamp, body)), hashlib.sha256).digest()
    signature = b"v1," + base64.b64encode(digest)
    return [(b"webhook-id", b"1"), (b"webhook-timestamp", stamp), (b"webhook-signature", signature)]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=lambda: NOW)
    yield ledger
    await ledger.close()


Deliver = Callable[..., Any]


@pytest.fixture
def deliver(ledger: Ledger) -> Deliver:
    endpoint = WebhookEndpoint(
        ledger=ledger, provider=MadeUp(), max_bytes=10_000, now=lambda: NOW, refusals=RefusalCounter()
    )

    async def deliver(outputs: Sequence[Mapping[str, Any]], status: str = "ended", **more: Any) -> Any:
        body = json.dumps({"id": "run", "status": status, "outputs": outputs, **more}).encode()
        answer = await endpoint.answer(sign(body), body)
        return json.loads(answer if isinstance(answer, bytes) else bytes(answer.body))

    return deliver


async def test_outputs_are_jobs_of_one_transaction_and_the_body_is_kept_once(
    deliver: Deliver, ledger: Ledger
) -> None:
    outputs = [{"url": f"https://a.invalid/{number}"} for number in range(3)]
    assert await deliver(outputs) == {"id": "made-up:run", "state": "received", "duplicate": False}
    assert (await deliver(outputs))["duplicate"]
    jobs = (await ledger.jobs(Filter(provider="made-up"))).jobs
    assert [job.id for job in jobs] == ["made-up:run~3", "made-up:run~2", "made-up:run"]
    assert {job.received_at for job in jobs} == {NOW}
    assert [(job.provider, job.provider_id, job.output) for job in jobs[:1]] == [("made-up", "run", 3)]
    assert (await ledger.jobs(Filter(provider="other"))).jobs == ()


@pytest.mark.parametrize("order", ["announced first", "delivered first"])
async def test_what_an_announcement_says_holds_for_each_output(
    deliver: Deliver, ledger: Ledger, order: str
) -> None:
    outputs = [{"url": f"https://a.invalid/{number}"} for number in range(3)]
    announcement = Submission("made-up:run", "order 7", "a/model")
    await ledger.expect(Submission("made-up:run2"))
    if order == "announced first":
        await ledger.expect(announcement)
    await deliver(outputs)
    if order == "delivered first":
        await ledger.expect(announcement)

    jobs = (await ledger.jobs(Filter(ref="order 7"))).jobs
    assert {(job.id, job.endpoint) for job in jobs} == {
        (f"made-up:run{suffix}", "a/model") for suffix in ("", "~2", "~3")
    }


async def test_a_time_before_the_calendar_spoils_no_list(deliver: Deliver, ledger: Ledger) -> None:
    await deliver([{"url": "https://a.invalid/1"}], ended_at="0001-01-01T00:00:00+23:59")

    (job,) = (await ledger.jobs(Filter())).jobs
    assert serializers.job(job)["url_expires_at"] == serializers.time(NOW + HOUR)


async def test_a_body_that_is_no_end_leaves_nothing(deliver: Deliver, ledger: Ledger) -> None:
    assert await deliver([], "running") == {"id": "made-up:run", "state": None, "ignored": True}
    assert (await ledger.jobs(Filter())).jobs == ()


async def test_an_end_without_outputs_waits_for_the_providers_own_answer(
    deliver: Deliver, ledger: Ledger
) -> None:
    assert (await deliver([]))["state"] == "received"
    job = await ledger.job("made-up:run")
    assert job is not None
    assert (job.state, job.image_url) == (State.RECEIVED, None)


async def test_what_is_promised_is_kept_and_a_promise_that_is_none_is_not(
    deliver: Deliver, ledger: Ledger
) -> None:
    good = {"url": "https://a.invalid/a", "width": 3, "size": 7, "content_type": "image/PNG; q=1"}
    vague = {"url": "https://a.invalid/b", "width": "3", "size": -7, "content_type": "binary/octet-stream"}
    await deliver([good, vague])
    first, second = await ledger.job("made-up:run"), await ledger.job("made-up:run~2")
    assert first is not None
    assert second is not None
    assert (first.promised_width, first.promised_bytes, first.promised_type) == (3, 7, "image/png")
    assert (second.promised_width, second.promised_bytes, second.promised_type) == (None, None, None)


@pytest.mark.parametrize(
    ("ended_at", "ends_at", "deadline"),
    [
        (None, None, NOW + HOUR),
        (NOW - HOUR // 2, None, NOW + HOUR // 2),
        (NOW - 2 * HOUR, None, NOW - HOUR),
        (NOW + HOUR, None, NOW + HOUR),  # a clock ahead lengthens no life
        (None, NOW + 60_000, NOW + 60_000),
        (None, NOW - 60_000, NOW + HOUR),  # only the host can say that a URL is dead
    ],
)
def test_a_life_is_counted_from_the_jobs_end_and_never_from_a_late_receipt(
    ended_at: int | None, ends_at: int | None, deadline: int
) -> None:
    ending = Ending("run", [Output("https://a.invalid/a", ends_at=ends_at)], ended_at=ended_at)
    ((_, found),) = MadeUp().completions(ending, NOW)
    assert found.at == deadline


@pytest.mark.parametrize(
    "job_id", ["a", "_a", "fal:a", "fal:-a", "fal:a~2", "fal:a~500", "made-up:A.b_c-d", "a" * 128]
)
def test_an_id_of_either_form_is_one(job_id: str) -> None:
    assert is_job_id(job_id)


@pytest.mark.parametrize(
    "job_id",
    [
        *("-a", ".a", "fal:.a", "fal:", ":a", "fal:a~1", "fal:a~02", "fal:a~0", "a~2", "fal:a~2~3"),
        *("fal:b:a", "Fal:a", "fal:a/b", "fal:a\n", "a" * 129, "", None, 7),
    ],
)
def test_what_could_leave_a_folder_clash_or_be_an_option_is_none(job_id: object) -> None:
    assert not is_job_id(job_id)


def test_an_id_without_a_name_cannot_be_one_with_a_name() -> None:
    assert not is_bare_id("fal:a")
    assert [split_id(it) for it in ("a", "fal:a", "fal:-a~12")] == [("a", 1), ("a", 1), ("-a", 12)]


def test_a_token_goes_to_the_providers_hosts_over_https_and_to_no_other() -> None:
    files = FileAccess(("files.example", "*.files.example"), {"Authorization": "Bearer t"})
    good = [("https", host, 443) for host in ("files.example", "a.files.example", "a.b.files.example")]
    bad = [
        ("http", "files.example", 80),
        ("https", "files.example", 8443),
        ("https", "evilfiles.example", 443),
        ("https", "files.example.evil", 443),
        ("https", "127.0.0.1", 443),
    ]
    assert all(files.headers_for(*it) == {"Authorization": "Bearer t"} for it in good)
    assert not any(files.headers_for(*it) for it in bad)
    assert "Bearer" not in repr(files)
    with pytest.raises(ValueError, match="printable"):
        FileAccess((), {"Authorization": "Bearer t\r\nX: y"})


@pytest.mark.parametrize("url", [None, 7, "", "a\nb", "https://a/" + "x" * 9000, "https://a/\ud800"])
def test_what_is_no_url_is_refused_and_named_by_its_place(url: object) -> None:
    output = output_of(url, "output 2", width=3, content_type="image/png")
    assert (output.url, output.content_type) == (None, None)
    assert output.failure is not None
    assert output.failure.reason == "url.malformed"
    assert output.failure.detail.startswith("Output 2 is ")


async def test_a_signature_of_another_body_is_refused() -> None:
    with pytest.raises(AuthError, match=r"auth\.refused"):
        await LateProof().check(sign(b"{}"), b"{} ")


class Asking(Client):
    """Answers that the job ended with two outputs, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    async def get(self, job_id: str, endpoint: str | None = None) -> Report:
        self.asked.append((job_id, endpoint))
        return Report(job_id, "ended", Ending(job_id, [Output("https://a/1"), Output("https://a/2")]))

    async def probe(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def questions(ledger: Ledger, client: Client) -> ProviderQuestions:
    return ProviderQuestions(
        ledger=ledger,
        asked={MadeUp.name: Asked(MadeUp(), client)},
        confirm=False,
        asking=timedelta(minutes=1),
        now=lambda: NOW,
        jitter=lambda: 0.5,
        instrumentation=NO_INSTRUMENTATION,
    )


async def test_what_a_delivery_did_not_hold_is_asked_for_with_all_outputs_and_the_endpoint(
    deliver: Deliver, ledger: Ledger
) -> None:
    await ledger.expect(Submission("made-up:run", endpoint="a/model"))
    await deliver([])
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=HOUR)
    client = Asking()

    confirmed = await questions(ledger, client).confirmed(claim)

    assert client.asked == [("run", "a/model")]
    assert confirmed.job.image_url == "https://a/1"
    further = await ledger.job("made-up:run~2")
    assert further is not None
    assert further.endpoint == "a/model"
    assert (further.state, further.image_url) == (State.RECEIVED, "https://a/2")
    assert await questions(ledger, client).confirmed(confirmed) is confirmed


async def test_a_bad_output_of_the_providers_answer_is_refused_and_the_others_are_recorded(
    deliver: Deliver, ledger: Ledger
) -> None:
    class AskingBadly(Asking):
        async def get(self, job_id: str, endpoint: str | None = None) -> Report:  # noqa: ARG002 - as the base
            outputs = [output_of(None), Output("https://a/2"), output_of("")]
            return Report(job_id, "ended", Ending(job_id, outputs))

    await deliver([])
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=HOUR)

    with pytest.raises(UrlError, match="no URL") as raised:
        await questions(ledger, AskingBadly()).confirmed(claim)

    assert raised.value.final
    second, third = [await ledger.job(f"made-up:run~{number}") for number in (2, 3)]
    assert second is not None
    assert third is not None
    assert (second.state, second.image_url) == (State.RECEIVED, "https://a/2")
    assert (third.state, third.problem and third.problem.reason) == (State.REJECTED, "url.malformed")


async def test_a_bad_output_beside_it_says_nothing_of_a_job_that_is_asked_about(
    deliver: Deliver, ledger: Ledger
) -> None:
    class AskingWell(Asking):
        async def get(self, job_id: str, endpoint: str | None = None) -> Report:  # noqa: ARG002 - as the base
            return Report(job_id, "ended", Ending(job_id, [output_of(None), Output("https://fresh/2")]))

    await deliver([{"url": "https://a/1"}, {"url": "https://a/2"}])
    claims = await ledger.claim_to_fetch(2, again=1, lease=HOUR)
    (claim,) = [it for it in claims if it.job.output == 2]

    assert await questions(ledger, AskingWell()).refresh_url(claim)
    job = await ledger.job("made-up:run~2")
    assert job is not None
    assert job.image_url == "https://fresh/2"


async def test_with_confirm_a_bad_output_is_a_hint_as_all_are(ledger: Ledger) -> None:
    endpoint = WebhookEndpoint(
        ledger=ledger,
        provider=MadeUp(),
        max_bytes=10_000,
        now=lambda: NOW,
        refusals=RefusalCounter(),
        confirm=True,
    )
    body = json.dumps({"id": "run", "status": "ended", "outputs": [{"url": None}]}).encode()
    await endpoint.answer(sign(body), body)
    job = await ledger.job("made-up:run")
    assert job is not None
    assert (job.state, job.problem) == (State.RECEIVED, None)


async def test_a_provider_without_fresh_urls_is_not_asked_when_a_life_is_over(
    deliver: Deliver, ledger: Ledger
) -> None:
    await deliver([{"url": "https://a.invalid/a"}])
    job = await ledger.job("made-up:run")
    assert job is not None
    asking = questions(ledger, Asking())
    assert asking.can_ask(job)
    assert not asking.may_revive(job)


async def test_silent_jobs_are_asked_for_and_every_output_is_recorded(ledger: Ledger) -> None:
    await ledger.expect(Submission("made-up:run", "order 7", "a/model"))
    await ledger.expect(Submission("of-another"))
    client = Asking()

    async def settle() -> int:
        return 0

    reconciler = Reconciler(
        ledger=ledger,
        asked=Asked(MadeUp(), client),
        plan=Plan(timedelta(minutes=10), timedelta(minutes=1), adopt=True),
        settle=settle,
        now=lambda: NOW,
    )
    summary = await reconciler.round(submitted_before=NOW + 1, ask_by=NOW)

    assert (client.asked, summary.found) == ([("run", "a/model")], 1)
    jobs = (await ledger.jobs(Filter(provider="made-up"))).jobs
    assert [(job.id, job.image_url) for job in jobs] == [
        ("made-up:run~2", "https://a/2"),
        ("made-up:run", "https://a/1"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["a/b+c=", r"a\/b+c=", r"a/b\u002Bc=", r"a/b\u002bc=", "a/b+c= and a/b+c="])
def test_a_secret_is_hidden_in_all_spellings_and_encodings_of_json(text: str, encoding: str) -> None:
    kept = mask(f'{{"echo": "{text}"}}'.encode(encoding), ["a/b+c="])
    assert json.loads(kept)["echo"].replace(" and ", "") in {"*" * 10, "*" * 20}
