"""`receiver.Client` and `receiver.AsyncClient`, beside a real receiver and over cuts."""

import ast
import asyncio
import copy
import hashlib
import json
import pickle
import re
import socket
import threading
import time
import traceback
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver import ApiError, AsyncClient, Client
from receiver.client import Job
from tests.docs.documents import DOCUMENTS, blocks
from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import API_TOKEN, PROOF, Programs, Receiver, completion, settings


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    with Client(receiver.address, API_TOKEN) as client:
        yield client


@pytest.fixture
def ref() -> str:
    return f"ref {uuid.uuid4()}"


def archived(receiver: Receiver, near: Neighbour, picture: bytes, ref: str) -> str:
    job_id = str(uuid.uuid4())
    url = near.serve(picture, job_id)
    receiver.deliver(completion(job_id, url, *SIZE), {**PROOF, "X-Receiver-Ref": ref}).raise_for_status()
    return job_id


def test_a_job_is_announced_waited_for_and_its_image_written(
    receiver: Receiver, near: Neighbour, client: Client, *, picture: bytes, ref: str, tmp_path: Path
) -> None:
    job_id = str(uuid.uuid4())
    announced = client.announce(job_id, ref=ref)
    assert (announced.state, announced.ref, announced.is_final) == ("submitted", ref, False)
    with pytest.raises(TimeoutError, match=r"has not ended within 0\.1 seconds"):
        client.wait(job_id, timeout=0.1)
    receiver.deliver(completion(job_id, near.serve(picture), *SIZE))
    job = client.wait(job_id, timeout=60)
    assert (job.state, job.is_final, [each.event for each in job.history][-1]) == (
        "archived",
        True,
        "archived",
    )
    assert job.archived_at is not None
    assert abs(job.archived_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert job == client.job(job_id)
    assert job.image is not None
    assert (job.image.width, job.image.height) == SIZE
    document = job.model_dump(by_alias=True)
    assert document["image"]["width"] == SIZE[0]
    of_a_later_server = {**document, "image": {**document["image"], "depth": 8}}
    assert type(job).model_validate(of_a_later_server).image == job.image

    assert client.image(job_id, tmp_path) == tmp_path / f"{job_id}.png"
    assert client.image(job_id, str(tmp_path / "mine.png")).read_bytes() == picture
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{job_id}.png", "mine.png"])


def test_jobs_are_selected(client: Client, ref: str) -> None:
    ids = [client.announce(f"{uuid.uuid4()}", ref=ref).id for _ in range(5)]
    assert [job.id for job in client.jobs(ref=ref)] == ids[::-1]
    assert [job.id for job in client.jobs(ref=ref, limit=3)] == ids[:1:-1]
    assert [job.id for job in client.jobs(ref=ref, state=["archived", "failed"])] == []
    hour = datetime.now(UTC) - timedelta(hours=1)
    assert [job.id for job in client.jobs(ref=ref, since=hour, state="submitted", overdue=False)] == ids[::-1]
    assert list(client.jobs(ref=ref, until=hour)) == []
    assert [job.id for job in client.jobs(search=ids[1][:30])] == [ids[1]]
    assert [job.id for job in client.jobs(search=ref, limit=2)] == ids[:2:-1]


def test_a_refusal_has_its_reason_and_a_stranger_none(
    receiver: Receiver, client: Client, near: Neighbour
) -> None:
    with pytest.raises(ApiError, match=r"ledger\.unknown_job: There is no job none") as unknown:
        client.job("none-of-this")
    assert (unknown.value.status, unknown.value.reason) == (404, "ledger.unknown_job")
    with Client(receiver.address, "another-token") as other, pytest.raises(ApiError) as refused:
        other.retry("none")
    assert refused.value.reason == "auth.token_refused"
    with (
        Client(near.serve(b"hello").rpartition("/")[0], "token") as lost,
        pytest.raises(ApiError) as stranger,
    ):
        lost.job("none")
    assert stranger.value.reason == ""
    with Client("http://127.0.0.1:9", "token") as nobody, pytest.raises(httpx.ConnectError):
        nobody.job("none")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.job("none")


def test_changes_go_on_over_a_restart(programs: Programs, ref: str) -> None:
    values = settings(programs.folder)
    with programs.receiver(values) as receiver:
        port = str(receiver.port)
        with Client(receiver.address, API_TOKEN) as client:
            first, *_ = [client.announce(f"{uuid.uuid4()}", ref=ref) for _ in range(3)]
            changes = client.changes(after=0, ref=ref)
            assert [change.id for change in islice(changes, 1)] == [first.id]
            receiver.program.stop()
            with programs.receiver({**values, "RECEIVER_PORT": port}):
                last = client.announce(f"{uuid.uuid4()}", ref=ref)
                rest = list(islice(changes, 3))
                assert [change.seq for change in rest] == [2, 3, 4]
                assert (rest[-1].id, rest[-1].event, rest[-1].before) == (last.id, "submitted", None)


async def test_the_other_client_does_the_same(
    receiver: Receiver, near: Neighbour, picture: bytes, ref: str, tmp_path: Path
) -> None:
    job_id = archived(receiver, near, picture, ref)
    async with AsyncClient(receiver.address, API_TOKEN) as client:
        job = await client.wait(job_id)
        assert job.state == "archived"
        assert [job.id async for job in client.jobs(ref=ref)] == [job_id]
        assert (await client.image(job_id, tmp_path / "a.png")).read_bytes() == picture
        async with aclosing(client.changes(after=0, ref=ref, state="archived")) as changes:
            assert (await anext(changes)).id == job_id
        with pytest.raises(ApiError, match=r"ledger\.wrong_state"):
            await client.retry(job_id)


# What no sound receiver answers.


Answer = Callable[[httpx.Request], httpx.Response]


class Stream(httpx.AsyncByteStream):
    """A body that breaks off, or ends, after these bytes."""

    def __init__(self, *blocks: bytes, breaks: bool = False) -> None:
        self._blocks = blocks
        self._breaks = breaks

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        for block in self._blocks:
            yield block
        if self._breaks:
            raise httpx.ReadError("cut")


def answering(*answers: Answer) -> tuple[AsyncClient, list[httpx.Request]]:
    """A client whose requests get these answers, and what it has asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[len(asked) - 1](request)

    return AsyncClient("https://host/base/", "token", transport=httpx.MockTransport(answer)), asked


CONTENT = b"the image's bytes"
ARCHIVED: dict[str, Any] = {
    "id": "../../job:1",
    "state": "archived",
    "ref": "<script>alert(1)</script>",
    "source_url": "https://host/a.png?key=secret",
    "image": {
        "format": "png",
        "width": 3,
        "height": 2,
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "of a later version": 1,
    },
    "archive": {"uri": "s3://bucket/<b>", "etag": None, "version": None},
    "updated_at": "2026-11-24T09:18:55.061Z",
    "of a later version": True,
}


def job_1(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=ARCHIVED)


def elsewhere(_: httpx.Request) -> httpx.Response:
    return httpx.Response(302, headers={"Location": "https://bucket.example/a?signature=secret"})


def page(next_page: str | None, jobs: int = 500) -> Answer:
    return lambda _: httpx.Response(200, json={"jobs": [ARCHIVED] * jobs, "next": next_page})


async def test_jobs_are_iterated_over_all_pages() -> None:
    client, asked = answering(page("a"), page("b"), page(None), page("a"), page("b"))
    async with client:
        assert len([job async for job in client.jobs(state=["archived", "failed"])]) == 1500
        assert [request.url.params.get("cursor") for request in asked] == [None, "a", "b"]
        assert asked[2].url.params.get_list("state") == ["archived", "failed"]
        assert len([job async for job in client.jobs(limit=700)]) == 1000  # as the pages are
    assert [request.url.params["limit"] for request in asked[3:]] == ["500", "200"]


async def test_short_pages_of_a_search_do_not_count_as_whole_ones() -> None:
    client, asked = answering(page("a", 1), page("b", 0), page("c", 2), page("d", 1))
    async with client:
        assert len([job async for job in client.jobs(search="order", limit=4)]) == 4
    assert [request.url.params["limit"] for request in asked] == ["4", "3", "3", "1"]


async def test_a_buckets_address_is_followed_without_the_token_and_an_id_leads_nowhere(
    tmp_path: Path,
) -> None:
    client, asked = answering(job_1, elsewhere, lambda _: httpx.Response(200, stream=Stream(CONTENT)))
    async with client:
        written = await client.image("job:1", tmp_path)
    assert written == tmp_path / ".._.._job_1.png"
    assert written.read_bytes() == CONTENT
    assert asked[1].url.raw_path == b"/base/jobs/job:1/image"
    assert ["authorization" in request.headers for request in asked] == [True, True, False]


@pytest.mark.parametrize(
    ("last", "error", "words"),
    [
        (lambda _: httpx.Response(200, stream=Stream(b"other bytes")), ApiError, "archive.altered"),
        (lambda _: httpx.Response(200, stream=Stream(b"the im", breaks=True)), httpx.ReadError, "cut"),
        (
            lambda _: httpx.Response(403, text="<Error/>"),
            ApiError,
            "403: https://bucket.example/a answers 403",
        ),
    ],
    ids=["other bytes", "cut off", "expired"],
)
async def test_nothing_is_left_of_an_image_that_did_not_come_whole(
    tmp_path: Path, last: Answer, error: type[Exception], words: str
) -> None:
    (tmp_path / "a.png").write_bytes(b"from before")
    client, _ = answering(job_1, elsewhere, last)
    async with client:
        with pytest.raises(error, match=re.escape(words)) as raised:
            await client.image("job", tmp_path / "a.png")
    assert "secret" not in str(raised.value)
    assert everything_in(tmp_path) == {"a.png": b"from before"}


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def event(seq: int) -> bytes:
    data = {"seq": seq, "id": "job", "ref": None, "at": "2026-11-24T09:18:55Z", "event": "received"}
    more = {"from": None, "to": "received", "reason": None, "detail": None}
    return f"id: {seq}\nevent: transition\ndata: {json.dumps(data | more)}\n\n".encode()


async def test_a_stream_that_breaks_within_an_event_is_resumed_after_the_last_whole_one() -> None:
    whole = event(8)
    client, asked = answering(
        lambda _: httpx.Response(
            200, stream=Stream(b"retry: 2000\nid: 6\n\n", event(7), whole[:30], breaks=True)
        ),
        lambda _: httpx.Response(503, json={"reason": "ledger.stopping", "detail": "It stops."}),
        lambda _: httpx.Response(200, stream=Stream(whole[:9], whole[9:], b":\nid: 9\n\n", breaks=True)),
        lambda _: httpx.Response(
            200, stream=Stream(b'id: 20\nevent: gap\ndata: {"after": 9, "until": 20}\n\n', event(21))
        ),
    )
    async with client, aclosing(client.changes()) as changes:
        found = [await anext(changes) for _ in range(4)]
    assert [(change.seq, change.event) for change in found] == [
        (7, "received"),
        (8, "received"),
        (20, "gap"),
        (21, "received"),
    ]
    assert [request.headers.get("last-event-id") for request in asked] == [None, "7", "7", "9"]


async def test_what_fails_at_once_is_not_tried_again() -> None:
    client, asked = answering(
        lambda _: httpx.Response(503, json={"reason": "ledger.crowded", "detail": "Full."})
    )
    async with client, aclosing(client.changes()) as changes:
        with pytest.raises(ApiError, match=r"ledger\.crowded"):
            await anext(changes)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "body", [b'{"key": "secret"}', b'["secret"]', b'{"id": "secret', b'{"jobs": [{"id": 1}]}']
)
async def test_an_answer_that_is_no_receivers_says_what_to_check(body: bytes, tmp_path: Path) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body, headers={"Content-Type": "application/json"})

    def stream(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"data: " + body + b"\n\nevent: gap\ndata: " + body + b"\n\n")

    client, _ = answering(*[answer] * 6, stream)
    async with client:
        calls: list[Awaitable[object]] = [
            client.job("job"),
            client.wait("job"),
            client.image("job", tmp_path),
            client.announce("job"),
            client.retry("job"),
            anext(client.jobs()),
            anext(client.changes()),
        ]
        for call in calls:
            with pytest.raises(ApiError, match=r"^200: .+ Check that the address is a receiver's") as raised:
                await call
            assert (raised.value.status, raised.value.reason) == (200, "")
            assert "secret" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("token", ["t0ken\n", "t0k\u00e9n", "", "t0 ken"])
def test_what_can_be_no_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token") as raised:
        Client("http://127.0.0.1:9", token)
    assert "t0" not in str(raised.value)


@pytest.mark.parametrize("job_id", ["changes", "..", "ok/image", "ok?x", "", "-x"])
async def test_what_is_no_jobs_id_is_not_asked_for(job_id: str, tmp_path: Path) -> None:
    client, asked = answering()
    async with client:
        for call in (
            client.job(job_id),
            client.wait(job_id),
            client.image(job_id, tmp_path),
            client.retry(job_id),
        ):
            with pytest.raises(ValueError, match="is no job's id"):
                await call
    assert asked == []


async def test_a_receiver_that_says_nothing_ends_a_wait_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        async with AsyncClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "token") as client:
            with pytest.raises(TimeoutError, match=r"has not ended within 0\.1 seconds"):
                await client.wait("job", timeout=0.1)


def test_what_waits_in_another_thread_ends_when_the_client_is_closed(
    receiver: Receiver, client: Client, ref: str
) -> None:
    job = client.announce(f"{uuid.uuid4()}", ref=ref)
    with ThreadPoolExecutor() as pool:
        changes = client.changes(after=0, ref=ref)
        assert next(changes).id == job.id
        waiting = pool.submit(next, changes), pool.submit(client.wait, job.id)
        time.sleep(0.2)  # so that they wait for an answer
        client.close()
        for each in waiting:
            assert "closed" in str(each.exception(10))


def test_an_iteration_that_the_clients_own_thread_collects_keeps_no_call_waiting(
    receiver: Receiver, client: Client, ref: str
) -> None:
    held = [client.changes()]
    client.announce(f"{uuid.uuid4()}", ref=ref)
    moved = threading.Thread(target=lambda: next(held[0]), daemon=True)
    moved.start()
    while moved.is_alive():
        client.announce(f"{uuid.uuid4()}", ref=ref)
    done = threading.Event()

    def collect() -> None:
        held.clear()  # as the garbage collector does
        done.set()

    client._loop.call_soon_threadsafe(collect)
    assert done.wait(10)


async def test_a_wait_outlasts_a_restart_and_no_refusal() -> None:
    waiting = {"id": "job", "state": "received", "updated_at": None}

    def refused(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    client, asked = answering(
        lambda _: httpx.Response(200, json=waiting),
        refused,
        lambda _: httpx.Response(502, text="Bad Gateway"),
        job_1,
        lambda _: httpx.Response(200, json=waiting),
        lambda _: httpx.Response(401, json={"reason": "auth.token_refused", "detail": "No."}),
    )
    async with client:
        assert (await client.wait("job")).state == "archived"
        assert asked[1].url.params["wait"] == "60.0"
        with pytest.raises(ApiError, match=r"auth\.token_refused"):
            await client.wait("job")


# In a notebook.


class Seen(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[str | None] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.pictures += [value for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def test_a_job_is_copied_and_given_to_another_process(client: Client, ref: str) -> None:
    job = client.announce(f"{uuid.uuid4()}", ref=ref)
    assert copy.deepcopy(job) == pickle.loads(pickle.dumps(job)) == job
    assert job.id in pickle.loads(pickle.dumps(job))._repr_html_()


def test_a_notebook_shows_the_picture_and_no_markup_or_key_of_a_stranger() -> None:
    thumbnails: list[str] = []

    def load(job_id: str) -> bytes:
        thumbnails.append(job_id)
        return b"RIFF...."

    seen = Seen(Job.model_validate(ARCHIVED).with_thumbnail(load)._repr_html_())
    assert set(seen.tags) == {"table", "tr", "th", "td", "img"}
    assert seen.pictures == ["data:image/webp;base64,UklGRi4uLi4="]
    assert "<script>alert(1)</script>" in seen.text
    assert "secret" not in seen.text
    assert thumbnails == ["../../job:1"]
    waiting = Seen(Job.model_validate({**ARCHIVED, "archive": None}).with_thumbnail(load)._repr_html_())
    assert (waiting.pictures, len(thumbnails)) == ([], 1)


async def test_both_clients_show_a_real_picture_and_none_where_nothing_answers(
    receiver: Receiver, near: Neighbour, picture: bytes, ref: str
) -> None:
    job_id = archived(receiver, near, picture, ref)
    async with AsyncClient(receiver.address, API_TOKEN) as client:
        job = await client.wait(job_id)
    shown = await asyncio.to_thread(job._repr_html_)
    assert "data:image/webp;base64,UklGR" in shown
    away = AsyncClient("http://127.0.0.1:9", "token", transport=httpx.MockTransport(job_1))
    lost = await away.job("job")
    assert "<img" not in await asyncio.to_thread(lost._repr_html_)


# The documentation.


EXAMPLES = blocks("python", {"client": DOCUMENTS["docs/guide/python-client.md"]})
EXAMPLE_ID = "d13e8a4c-5f0e-4c0b-9e57-6a9b7b1d2c01"


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_of_the_documentation_runs(
    receiver: Receiver,
    near: Neighbour,
    picture: bytes,
    *,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    example: str,
) -> None:
    receiver.deliver(completion(EXAMPLE_ID, near.serve(picture), *SIZE)).raise_for_status()
    receiver.ended(EXAMPLE_ID)
    own = example.replace("http://127.0.0.1:8080", receiver.address).replace(
        "photo.png", f"{tmp_path}/photo.png"
    )
    code = compile(own, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, {"token": API_TOKEN})
    if running is not None:
        await running
    said = capsys.readouterr().out
    assert bool(said) == ("print" in example)
    assert ("photo.png" in example) == (tmp_path / "photo.png").exists()


def test_there_are_examples_of_both_clients() -> None:
    assert any("AsyncClient" in example for example in EXAMPLES)
    assert any(" Client" in example for example in EXAMPLES)
