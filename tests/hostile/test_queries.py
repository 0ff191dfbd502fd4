"""The query side: who gets in, what a foreign page can do, what a stranger's texts do to who reads them."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from receiver import config
from receiver.bootstrap.app import open_receiver
from receiver.cli.output import print_json, safe
from receiver.core.failpoints import no_failpoint
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    PROOF,
    WEBHOOK,
    Receiver,
    completion,
    run,
    settings,
)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "CONNECT")
OPEN = frozenset({"/healthz", "/readyz"})
WEBHOOKS = frozenset({WEBHOOK, WEBHOOK + "/"})
TOKEN = {"Authorization": f"Bearer {API_TOKEN}"}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Starlette]:
    """The whole application, as it is served."""
    environ = settings(tmp_path)
    async with open_receiver(config.load(environ), environ, no_failpoint) as receiver:
        yield receiver.app


def stranger(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver")


def paths(app: Starlette) -> Iterator[str]:
    """Every path that the application knows, with something in the place of each parameter."""
    for route in app.routes:
        assert isinstance(route, Route), "a mount hides its routes from this test"
        yield route.path.replace("{id}", "some-job")


# Who gets in


async def test_no_route_but_health_and_the_webhook_answers_without_a_token(app: Starlette) -> None:
    known = list(paths(app))
    assert OPEN | {WEBHOOK} < set(known)
    spelled = [
        path + end for path in known for end in ("", "/", "//", "?a=b", "/../healthz", "/%2e", ";a", ".json")
    ]
    async with stranger(app) as client:
        for path in [
            *spelled,
            "/nowhere",
            "/HEALTHZ",
            "//healthz",
            "/healthz/../stats",
            "/healthz%2f..%2fstats",
        ]:
            for method in METHODS:
                answer = await client.request(method, f"http://receiver{path}")
                asked = answer.request.url.raw_path.decode().partition("?")[0]
                if asked in OPEN | WEBHOOKS:
                    continue
                if asked.startswith("/webhooks/"):  # a provider that is off, as a provider itself sees it
                    assert answer.status_code == 404, (method, path)
                    continue
                assert answer.status_code == 401, (method, path)
                assert method == "HEAD" or answer.json()["reason"] == "auth.token_refused"


async def test_the_webhook_takes_the_token_of_nobody(app: Starlette) -> None:
    body = completion("a", "https://10.0.0.1/", 8, 8)
    async with stranger(app) as client:
        answer = await client.post(WEBHOOK, json=body, headers=TOKEN)
    assert (answer.status_code, answer.json()["reason"]) == (401, "auth.refused")


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Bearer", "Bearer ", "Basic", "Basic Og==", "Basic =", "Basic \xff", "Digest a", "Bearer \0"),
        *(
            f"Bearer {API_TOKEN[:-1]}",
            f"Bearer {API_TOKEN}x",
            f"Bearer x{API_TOKEN}",
            f"Bearer {API_TOKEN.upper()}",
        ),
        *(
            f"Bearer {API_TOKEN},{API_TOKEN}",
            f"Bearer {API_TOKEN} x",
            f'Bearer "{API_TOKEN}"',
            f"Token {API_TOKEN}",
        ),
        *(
            API_TOKEN,
            f"Bearer={API_TOKEN}",
            f"Bearer\xa0{API_TOKEN}",
            f"Basic {API_TOKEN}",
            "Bearer " + "a" * 9000,
        ),
    ],
)
async def test_nothing_that_only_resembles_a_token_admits(app: Starlette, authorization: str) -> None:
    async with stranger(app) as client:
        answers = [
            await client.get("/stats", headers={b"Authorization": authorization.encode("latin-1")}),
            await client.get("/stats"),
        ]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].content == answers[1].content


# What a foreign page can make a browser do

FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "http://receiver.evil.example"},
    {"Origin": "http://evil.example/receiver"},
    {"Origin": "http://receiver:81"},
    {"Origin": "http://receiver@evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://[::1"},
    {"Origin": "http://receiver, https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "something-new"},
    {"Origin": "http://receiver", "Sec-Fetch-Site": "cross-site"},
)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_foreign_page_can_change_nothing(app: Starlette, headers: dict[str, str]) -> None:
    async with stranger(app) as client:
        for method, path in (
            ("POST", "/jobs"),
            ("POST", "/jobs/a/retry"),
            ("DELETE", "/jobs"),
            ("PUT", "/jobs/a"),
        ):
            content = json.dumps({"id": "announced-by-a-page"})
            answer = await client.request(method, path, content=content, headers={**TOKEN, **headers})
            assert (answer.status_code, answer.json()["reason"]) == (403, "auth.cross_origin"), (method, path)
        assert (await client.get("/jobs/announced-by-a-page", headers=TOKEN)).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://receiver"},
        {"Origin": "https://receiver"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://receiver"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_programs_and_our_own_pages_can(app: Starlette, headers: dict[str, str]) -> None:
    async with stranger(app) as client:
        answer = await client.post("/jobs", json={"id": "announced"}, headers={**TOKEN, **headers})
    assert answer.status_code == 201


async def test_the_webhook_does_not_care_where_a_sender_says_to_be(app: Starlette) -> None:
    body = completion("a", "https://10.0.0.1/", 8, 8)
    async with stranger(app) as client:
        for headers in FOREIGN:
            answer = await client.post(WEBHOOK, json=body, headers={**PROOF, **headers})
            assert answer.status_code == 200


async def test_no_answer_may_be_framed_sniffed_or_read_by_another_site(app: Starlette) -> None:
    # A stream has an end only if it is told so.
    asked = [f"{path}?wait=0" if path == "/jobs/changes" else path for path in [*paths(app), "/nowhere"]]
    async with stranger(app) as client:
        for path in asked:
            for method in ("GET", "POST", "OPTIONS"):
                for headers in ({}, TOKEN, {**TOKEN, "Origin": "https://evil.example"}):
                    answer = await client.request(method, path, headers=headers)
                    policy = answer.headers["content-security-policy"]
                    assert policy.startswith("default-src 'none'"), (method, path)
                    assert "unsafe" not in policy
                    assert answer.headers["x-content-type-options"] == "nosniff"
                    kind = answer.headers["content-type"]
                    page = kind.startswith("text/html")
                    assert answer.headers["referrer-policy"] == "no-referrer"
                    assert not [name for name in answer.headers if name.startswith("access-control-")]
                    assert page or kind.startswith(
                        ("application/", "image/", "text/event-stream", "text/plain")
                    )
                    assert not page or "frame-ancestors 'none'; base-uri 'none'" in policy


# What a stranger's texts can do

TEXTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}${7*7}<%= 7*7 %>",
    "'; DROP TABLE jobs; --",
    "../../../etc/passwd",
    "[bold red]markup[/]",
    "=cmd|' /C calc'!A0",
    "%s%n%d {0} {self}",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_ref_comes_back_as_the_data_that_it_is(receiver: Receiver, text: str) -> None:
    job_id = str(uuid.uuid4())
    body = completion(job_id, "https://10.0.0.1/", 8, 8)
    assert receiver.deliver(body, {**PROOF, "X-Receiver-Ref": text}).status_code == 200

    answer = receiver.get("/jobs", params={"ref": text})
    assert [job["ref"] for job in answer.json()["jobs"] if job["id"] == job_id] == [text]
    assert answer.headers["content-type"] == "application/json"


ESCAPES = (
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJm\x07",  # fills the clipboard
    "\x9b31m",  # the same in one byte
    "\x08\x08\x08\r",
    "\u202eevil\u2066",  # turns the direction of reading
    "\u2028\x85\x0b\x0c",
)


def test_no_text_of_a_stranger_drives_the_terminal(receiver: Receiver, tmp_path: Path) -> None:
    """Whatever field it stands in, and whichever command shows it."""
    job_id, text = str(uuid.uuid4()), " ".join(ESCAPES)
    body = completion(job_id, "https://10.0.0.1/", 8, 8)
    body["status"] = "FAILED"
    record = body["response"]["records"][0]
    record["_status"] = {"code": 500, "text": f"words {text} end"}
    record["_url"] = f"https://example.com/{text}"
    assert receiver.deliver(body).status_code == 200
    for arguments in (("job", job_id), ("jobs",)):
        shown = run(arguments, tmp_path, {**settings(tmp_path), "RECEIVER_DATA_DIR": str(receiver.data_dir)})
        printed = shown.stdout + shown.stderr
        assert shown.returncode == 0, printed
        assert job_id in printed
        assert not [c for c in printed if not c.isprintable() and c not in "\n\t"], arguments


@pytest.mark.parametrize("text", ESCAPES)
def test_the_commands_strip_what_the_parser_should_have_stripped(text: str) -> None:
    """So far no such text reaches them; the next field that is shown may be one that was not looked at."""
    shown = safe(f"before {text} after")
    assert shown.isprintable()
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize("text", [*ESCAPES, "\U000e0001\ud800"])
def test_json_for_a_terminal_says_the_same_and_drives_nothing(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_json({"detail": f"é {text}"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"detail": f"é {text}"}
    assert "é" in printed
    assert not [c for c in printed if not c.isprintable() and c != "\n"]


async def test_readiness_tells_strangers_no_places(tmp_path: Path) -> None:
    environ = settings(tmp_path, RECEIVER_ARCHIVE=f"{(tmp_path / 'nowhere').as_uri()}/at/all")
    async with (
        open_receiver(config.load(environ), environ, no_failpoint) as receiver,
        stranger(receiver.app) as client,
        asyncio.timeout(PATIENCE),
    ):
        while (answer := await client.get("/readyz")).status_code == 200:
            pass
    said = "archive.no_bucket: The archive's bucket or folder does not exist."
    assert answer.json()["failing"] == {"archive": said}
