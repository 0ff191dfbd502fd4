"""What holds for every provider, shown through the whole receiver: a new one has to pass all of it."""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from receiver.bootstrap.app import open_receiver
from receiver.config import PROVIDERS, load
from receiver.core.completion import MAX_OUTPUTS
from receiver.providers.base import Setup
from receiver.providers.registry import ENTRIES, Entry, open_providers
from tests.providers.sample import Sample
from tests.providers.samples import SAMPLES

TOKEN = "fixture-api-token"
URL = "https://images.invalid/x.png"
TOO_LONG = f"{URL}?{'x' * 8192}"
MINUTES = 60


@dataclass(frozen=True, slots=True)
class Desk:
    """A receiver with one provider on."""

    sample: Sample
    client: httpx.AsyncClient
    answers: list[str]

    async def deliver(
        self, body: bytes, *, late: int = 0, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Deliver a body that is signed so many seconds ago, or with these headers."""
        signed = self.sample.sign(body, at=int(time.time()) - late) if headers is None else headers
        answer = await self.client.post(
            f"/webhooks/{self.sample.name}",
            content=body,
            headers={"Content-Type": "application/json", **signed},
        )
        self.answers.append(answer.text)
        return answer

    async def get(self, path: str) -> Any:
        answer = await self.client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        self.answers.append(answer.text)
        return answer.raise_for_status().json()

    async def ids(self) -> set[str]:
        return {job["id"] for job in (await self.get("/jobs?limit=1000"))["jobs"]}

    def job_id(self, own_id: str, output: int = 1) -> str:
        first = own_id if self.sample.name == "ximilar" else f"{self.sample.name}:{own_id}"
        return first if output == 1 else f"{first}~{output}"


@asynccontextmanager
async def desk_of(sample: Sample, folder: Path) -> AsyncIterator[Desk]:
    settings = {
        **sample.settings,
        "RECEIVER_API_TOKENS": TOKEN,
        "RECEIVER_DATA_DIR": str(folder),
        "RECEIVER_MAX_WEBHOOK_BYTES": "4MiB",
    }
    answers: list[str] = []
    with capture_logs() as lines:
        async with open_receiver(load(settings), settings) as receiver:
            transport = httpx.ASGITransport(receiver.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
                yield Desk(sample, client, answers)
    shown = "\n".join([*answers, *(repr(line) for line in lines)])
    assert not [secret for secret in sample.secrets if secret in shown]


@pytest.fixture(params=SAMPLES, ids=str)
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(SAMPLES[request.param], tmp_path) as desk:
        yield desk


@pytest.fixture(params=[name for name, sample in SAMPLES.items() if sample.several])
async def desk_of_several(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """One of the providers whose jobs can bring several outputs."""
    async with desk_of(SAMPLES[request.param], tmp_path) as desk:
        yield desk


@pytest.fixture(params=[name for name, sample in SAMPLES.items() if sample.running("run1") is not None])
async def desk_of_running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """One of the providers that also post about jobs that have not ended."""
    async with desk_of(SAMPLES[request.param], tmp_path) as desk:
        yield desk


def test_every_provider_has_a_sample_and_settings() -> None:
    assert set(SAMPLES) == {entry.name for entry in ENTRIES} == set(PROVIDERS)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_what_init_prints_switches_a_provider_on_once_it_is_filled_in(entry: Entry) -> None:
    own = SAMPLES[entry.name].settings
    values = {name: value or own.get(name, "filled-in") for name, value in entry.settings.items()}
    found = open_providers(Setup(load(values), values))
    assert list(found) == [entry.name]
    assert found[entry.name].has_token == (entry.token in values)


async def test_a_delivery_is_a_job_and_the_same_again_changes_nothing(desk: Desk) -> None:
    body = desk.sample.succeeded("run1", [URL])
    job_id = desk.job_id("run1")

    first = await desk.deliver(body)
    before = await desk.get(f"/jobs/{job_id}")
    again = await desk.deliver(body)

    assert (first.status_code, first.json()["id"], first.json()["duplicate"]) == (200, job_id, False)
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    job = await desk.get(f"/jobs/{job_id}")
    assert (job["provider"], job["provider_id"], job["output"]) == (desk.sample.name, "run1", 1)
    assert job["image_url"] == URL
    assert [it["event"] for it in job["history"]][:1] == [it["event"] for it in before["history"]][:1]
    assert len((await desk.get(f"/jobs?provider={desk.sample.name}"))["jobs"]) == 1
    assert (await desk.get("/jobs?provider=another"))["jobs"] == []


async def test_a_failure_is_recorded(desk: Desk) -> None:
    answer = await desk.deliver(desk.sample.failed("run1"))

    assert (answer.status_code, answer.json()["state"]) == (200, "failed")
    job = await desk.get(f"/jobs/{desk.job_id('run1')}")
    assert job["error"]["reason"].startswith("provider.")


async def test_a_body_that_is_no_end_is_answered_and_kept_nowhere(desk_of_running: Desk) -> None:
    desk = desk_of_running
    body = desk.sample.running("run1")
    assert body is not None

    answer = await desk.deliver(body)

    expected = {"id": desk.job_id("run1"), "state": None, "ignored": True}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert await desk.ids() == set()
    assert (await desk.get("/deliveries"))["deliveries"] == []


async def test_each_output_is_a_job_of_its_own(desk_of_several: Desk) -> None:
    desk = desk_of_several
    urls = [f"{URL}?{number}" for number in range(3)]

    answer = await desk.deliver(desk.sample.succeeded("run1", urls))

    assert answer.json()["id"] == desk.job_id("run1")
    assert await desk.ids() == {desk.job_id("run1", number) for number in (1, 2, 3)}
    third = await desk.get(f"/jobs/{desk.job_id('run1', 3)}")
    assert (third["output"], third["provider_id"], third["image_url"]) == (3, "run1", urls[2])


@pytest.mark.parametrize("ref", [None, "order 7"])
async def test_a_bad_output_is_rejected_by_itself_and_the_good_ones_keep_their_numbers(
    desk_of_several: Desk, ref: str | None
) -> None:
    desk = desk_of_several
    body = desk.sample.succeeded("run1", [TOO_LONG, URL, "https://images.invalid/\n", f"{URL}?4"])
    if ref:
        announcement = {"id": "run1", "provider": desk.sample.name, "ref": ref}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        (await desk.client.post("/jobs", json=announcement, headers=headers)).raise_for_status()

    answers = [(await desk.deliver(body)).json() for _ in range(2)]

    first = {"id": desk.job_id("run1"), "state": "rejected"}
    assert answers == [{**first, "duplicate": False}, {**first, "duplicate": True}]
    jobs = [await desk.get(f"/jobs/{desk.job_id('run1', number)}") for number in (1, 2, 3, 4)]
    assert [job["state"] for job in jobs] == ["rejected", "received"] * 2
    assert [job["image_url"] for job in jobs] == [None, URL, None, f"{URL}?4"]
    assert {job["ref"] for job in jobs} == {ref}
    for job in jobs[::2]:
        assert job["error"]["reason"] == "url.malformed"
        assert job["image"] is None
    assert "8192" in jobs[0]["error"]["detail"]
    history = [line["to"] for line in jobs[0]["history"]]
    assert history == (["submitted", "received", "rejected"] if ref else ["rejected"])


async def test_a_delivery_without_a_good_output_is_not_sent_again_for_ever(desk: Desk) -> None:
    body = desk.sample.succeeded("run1", [TOO_LONG])

    answer = await desk.deliver(body)

    if desk.sample.several:
        assert (answer.status_code, answer.json()["state"]) == (200, "rejected")
        error = (await desk.get(f"/jobs/{desk.job_id('run1')}"))["error"]
        assert error["reason"] == "url.malformed"
        good = await desk.deliver(desk.sample.succeeded("run1", [URL]))
        assert (good.status_code, good.json()["state"]) == (200, "received")
    else:  # its one output is the completion
        assert (answer.status_code, answer.json()["reason"]) == (422, "body.not_a_completion")
        assert len((await desk.get("/deliveries"))["deliveries"]) == 1


async def test_ten_thousand_outputs_are_refused_and_none_is_recorded(desk_of_several: Desk) -> None:
    desk = desk_of_several
    answer = await desk.deliver(desk.sample.succeeded("run1", [URL] * 10_000))
    most = await desk.deliver(desk.sample.succeeded("run2", [URL] * MAX_OUTPUTS))

    assert (answer.status_code, answer.json()["reason"]) == (422, "body.not_a_completion")
    assert most.status_code == 200
    assert len(await desk.ids()) == MAX_OUTPUTS


async def test_nobody_else_gets_in_and_no_answer_says_why(desk: Desk) -> None:
    body, now = desk.sample.succeeded("run1", [URL]), int(time.time())
    signed = desk.sample.sign(body, at=now)
    attempts = [
        {},
        desk.sample.sign_as_stranger(body, at=now),
        dict.fromkeys(signed, "x"),
        *({name: value for name, value in signed.items() if name != left} for left in signed),
    ]
    answers = [await desk.deliver(body, headers=headers) for headers in attempts]
    if desk.sample.signs_body:
        answers.append(await desk.deliver(body[:-1] + b" }", headers=signed))
    if desk.sample.signs_body and desk.sample.states_time:
        answers += [await desk.deliver(body, late=seconds) for seconds in (6 * MINUTES, -6 * MINUTES)]
    for name, other in SAMPLES.items():
        if name != desk.sample.name:
            answers.append(await desk.deliver(body, headers=other.sign(body, at=now)))

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["reason"] == "auth.refused"
    assert await desk.ids() == set()
    assert (await desk.get("/deliveries"))["deliveries"] == []


@pytest.mark.parametrize("own_id", [7, "a/b", "../x", ".x", "x" * 300, "", "a b", "x~2", "a:b", None, ["x"]])
async def test_an_id_that_can_be_no_jobs_is_kept_unread(desk: Desk, own_id: object) -> None:
    answer = await desk.deliver(desk.sample.succeeded(own_id, [URL]))

    assert (answer.status_code, answer.json()["reason"]) == (422, "body.not_a_completion")
    assert await desk.ids() == set()
    (kept,) = (await desk.get("/deliveries"))["deliveries"]
    assert kept["provider"] == desk.sample.name


async def test_an_id_that_begins_with_a_dash_is_no_option_behind_a_name(desk: Desk) -> None:
    answer = await desk.deliver(desk.sample.succeeded("-x", [URL]))

    assert answer.status_code == (422 if desk.job_id("-x").startswith("-") else 200)


async def test_foreign_and_deep_bodies_are_refused_and_kept(desk: Desk) -> None:
    deep = b'{"a":' * 1000 + b"1" + b"}" * 1000
    bodies = [*desk.sample.foreign, deep, b"[" * 100_000, b"\xff\xfe", b"no JSON", b"NaN"]

    answers = [await desk.deliver(body) for body in bodies]

    assert {answer.status_code for answer in answers} <= {400, 422}
    kept = (await desk.get("/deliveries"))["deliveries"]
    assert len(kept) == len(bodies)
    assert {it["provider"] for it in kept} == {desk.sample.name}
    assert await desk.ids() == set()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
async def test_what_is_kept_of_a_body_holds_no_secret_whatever_its_encoding(
    desk: Desk, encoding: str
) -> None:
    echoed = "".join(f'"echo {secret}": "{secret}", ' for secret in desk.sample.secrets)
    good = desk.sample.succeeded("run1", [URL]).decode().replace("{", "{" + echoed, 1)

    assert (await desk.deliver(good.encode(encoding))).json()["id"] == desk.job_id("run1")
    assert (await desk.deliver(good[:-1].encode(encoding))).json()["reason"] == "body.not_json"
    assert (await desk.deliver(good.replace("run1", "a/b").encode(encoding))).status_code == 422

    kept = (await desk.get("/deliveries"))["deliveries"]
    assert len(kept) == 2
    for delivery in kept:
        body = delivery.get("body") or base64.b64decode(delivery["body_base64"]).decode(encoding)
        assert not [secret for secret in desk.sample.secrets if secret in body.replace("\0", "")]


async def test_a_job_can_be_announced_by_the_providers_own_id(desk: Desk) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"id": "run1", "provider": desk.sample.name, "ref": "order 7", "endpoint": "a/model"}

    announced = await desk.client.post("/jobs", json=body, headers=headers)
    delivered = await desk.deliver(desk.sample.succeeded("run1", [URL]))

    assert (announced.status_code, announced.json()["state"]) == (201, "submitted")
    assert announced.json()["endpoint"] == "a/model"
    corrected = await desk.client.post("/jobs", json={**body, "endpoint": "a/better"}, headers=headers)
    assert (corrected.status_code, corrected.json()["endpoint"]) == (200, "a/better")
    assert delivered.json()["id"] == announced.json()["id"] == desk.job_id("run1")
    assert (await desk.get(f"/jobs/{desk.job_id('run1')}"))["ref"] == "order 7"
    whole = await desk.client.post("/jobs", json={"id": desk.job_id("run1")}, headers=headers)
    assert (whole.status_code, whole.json()["id"]) == (200, desk.job_id("run1"))
    for wrong in ({**body, "provider": "nobody"}, {**body, "id": "a/b"}, {**body, "endpoint": "a/../b"}):
        answer = await desk.client.post("/jobs", json=wrong, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (422, "body.invalid")


async def test_what_nobody_could_complete_cannot_be_announced(desk: Desk) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    ids = ["nobody:x", *(f"{name}:x~2" for name in SAMPLES)]
    ids += [f"{name}:x" for name in SAMPLES if name not in (desk.sample.name, "ximilar")]
    if desk.sample.name != "ximilar":
        ids += ["x", "ximilar:x"]

    for job_id in ids:
        answer = await desk.client.post("/jobs", json={"id": job_id}, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (422, "body.invalid"), job_id
    assert await desk.ids() == set()


async def test_a_provider_that_is_off_answers_404(desk: Desk) -> None:
    for name in {*SAMPLES, "nobody"} - {desk.sample.name}:
        answer = await desk.client.post(f"/webhooks/{name}", content=b"{}")
        assert answer.status_code == 404, name
        assert json.loads(answer.text)["reason"] == "body.no_such_route"


def test_a_package_of_a_provider_is_short() -> None:
    folder = Path(__file__).parents[2] / "receiver" / "providers"
    for name in SAMPLES:
        if name != "ximilar" and (folder / name).is_dir():
            lines = sum(len(path.read_text().splitlines()) for path in (folder / name).glob("*.py"))
            assert lines < 400, name
