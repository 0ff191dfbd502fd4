"""Test deliveries: the whole way through the public address, and the name of each step that fails."""

import asyncio
import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.config import load
from receiver.ledger import Ledger
from receiver.operations.delivery_trial import STEPS, DeliveryTrials, Trial, picture
from receiver.providers.base import Setup
from receiver.providers.registry import open_providers
from receiver.sandbox.signing import FalKeys
from tests.support.front import Front, running_front
from tests.support.processes import PROOF, SECRETS, Programs, Receiver, run, run_process, settings
from tests.support.waiting import eventually

SECRET = "whsec_" + base64.b64encode(b"canary of a signing secret").decode()

DESCRIBED = """
name = "acme"
title = "Acme"
url_lifetime = "1h"

[proof]
kind = "hmac-sha256"
secret = "ACME_SECRET"
header = "x-acme-signature"
prefix = "v1="
time = "x-acme-time"
signed = "{x-acme-id}.{x-acme-time}.{body}"

[job]
id = "data.job.id"
state = "data.status"
done = ["finished"]

[outputs]
each = "data.images[]"
url = "url"
"""


@pytest.fixture
def front() -> Iterator[Front]:
    with running_front() as it:
        yield it


@contextlib.contextmanager
def behind(front: Front, programs: Programs, **more: str) -> Iterator[tuple[Receiver, dict[str, str]]]:
    """A receiver behind the proxy, and its settings."""
    values = settings(programs.folder, RECEIVER_PUBLIC_URL=front.address, **more)
    with programs.receiver(values) as receiver:
        front.target = receiver.address
        yield receiver, values


def tried(programs: Programs, values: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run(["test-delivery", "--json", *arguments], programs.folder, values)
    assert not any(secret in done.stdout + done.stderr for secret in (*SECRETS, SECRET))
    return done.returncode, json.loads(done.stdout)


def last(result: dict[str, Any]) -> tuple[str, str, str]:
    step = result["steps"][-1]
    assert step["state"] == "failed"
    assert all(before["state"] == "ok" for before in result["steps"][:-1])
    assert step["remedy"]
    return step["name"], step["detail"], step["remedy"]


def test_a_test_delivery_goes_the_whole_way_from_a_process_of_its_own(tmp_path: Path, front: Front) -> None:
    programs = Programs(tmp_path)
    values = settings(tmp_path, RECEIVER_PUBLIC_URL=front.address)
    with programs.receiver_process(values) as receiver:
        front.target = receiver.address
        done = run_process(["test-delivery"], tmp_path, values)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        assert [(state, name) for state, name, *_ in lines] == [("ok", name) for name in STEPS]
        job_id = lines[0][2].split(",")[0]
        assert job_id.startswith("test-")
        job = receiver.get(f"/jobs/{job_id}").raise_for_status().json()
        assert job["state"] == "archived"
        assert job["archive"]["uri"] == lines[-1][2]
        assert receiver.get(f"/jobs/{job_id}/image").content == picture()
        shown = receiver.get("/page/test-delivery").text
        assert "It worked" in shown
        assert job_id in shown
        assert receiver.get("/stats").json()["states"]["archived"] == 1


PROVIDERS = {
    "ximilar with tickets": ("ximilar", {"RECEIVER_SIGNING_KEYS": "canary-of-the-signing-key"}),
    "replicate": ("replicate", {"REPLICATE_WEBHOOK_SECRET": SECRET}),
    "freepik": ("freepik", {"FREEPIK_WEBHOOK_SECRET": "canary-of-freepik"}),
}


@pytest.mark.parametrize("case", PROVIDERS)
def test_it_is_proved_as_each_provider_proves_its_own(
    tmp_path: Path, front: Front, programs: Programs, case: str
) -> None:
    name, more = PROVIDERS[case]
    with behind(front, programs, **more) as (_, values):
        code, result = tried(programs, values, "--provider", name)
    assert (code, result["worked"]) == (0, True), result
    assert result["job"].startswith("test-" if name == "ximilar" else f"{name}:test-")


def test_it_is_made_for_a_described_provider_from_its_description(
    tmp_path: Path, front: Front, programs: Programs
) -> None:
    (tmp_path / "acme.toml").write_text(DESCRIBED)
    more = {"RECEIVER_PROVIDERS": str(tmp_path / "acme.toml"), "ACME_SECRET": "canary-of-acme"}
    with behind(front, programs, **more) as (_, values):
        code, result = tried(programs, values, "--provider", "acme")
    assert (code, result["worked"]) == (0, True), result


def test_what_only_the_provider_can_sign_is_said(tmp_path: Path, front: Front, programs: Programs) -> None:
    with behind(front, programs, FAL_JWKS=json.dumps(FalKeys(1).jwks())) as (_, values):
        code, result = tried(programs, values, "--provider", "fal")
        unknown = run(["test-delivery", "--provider", "nobody"], tmp_path, values)
    assert code == 1
    name, detail, remedy = last(result)
    assert name == "make"
    assert "fal.ai signs with a key that only it has" in detail
    assert f"{front.address}/webhooks/fal" in remedy
    assert unknown.returncode == 1
    assert "nobody is not on; there are ximilar, fal" in unknown.stderr


def test_without_a_public_address_it_says_which_setting_is_missing(programs: Programs) -> None:
    values = settings(programs.folder)
    with programs.receiver(values):
        code, result = tried(programs, values)
    assert code == 1
    assert last(result)[:2] == ("make", "RECEIVER_PUBLIC_URL is not set")


def answers(method: str, status: int) -> Callable[[Front], None]:
    def broken(front: Front) -> None:
        front.broken = lambda given, _path: status if given == method else None

    return broken


def without_query(front: Front) -> None:
    front.query = False


def without_header(front: Front) -> None:
    front.drops = {name.lower() for name in PROOF}


BROKEN: dict[str, tuple[Callable[[Front], None], str, str, str]] = {
    "a proxy without a target": (
        answers("GET", 502),
        "reach",
        "does not reach the receiver",
        "proxy's target",
    ),
    "a proxy that redirects": (answers("GET", 301), "reach", "redirect (301)", "https://elsewhere.test"),
    "a proxy with a login": (answers("GET", 401), "reach", "asks for a login", "without one"),
    "a proxy with a page": (
        answers("GET", 200),
        "reach",
        "something else than this receiver",
        "GET and POST",
    ),
    "a proxy without queries": (without_query, "reach", "without the URL's query", "RECEIVER_PUBLIC_URL"),
    "a proxy that takes no POST": (answers("POST", 404), "deliver", "something else", "GET and POST"),
    "a proxy that loses POSTs": (answers("POST", 504), "deliver", "does not reach the receiver", "target"),
    "a proxy that says yes": (answers("POST", 200), "deliver", "something else than this receiver", "POST"),
    "a proxy that drops a header": (without_header, "deliver", "401", "x-webhook-secret"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_behind_a_broken_proxy_the_step_is_named_with_what_to_do(
    front: Front, programs: Programs, case: str
) -> None:
    breaks, step, detail, remedy = BROKEN[case]
    breaks(front)
    with behind(front, programs) as (receiver, values):
        code, result = tried(programs, values)
        assert receiver.get("/stats").json()["states"]["expired"] == 0
    assert code == 1
    name, said, todo = last(result)
    assert name == step
    assert detail in said
    assert remedy in todo


def test_where_nothing_listens_that_is_said(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = settings(programs.folder, RECEIVER_PUBLIC_URL=f"http://127.0.0.1:{port}")
    with programs.receiver(values):
        code, result = tried(programs, values)
    assert code == 1
    assert last(result)[:2] == (
        "reach",
        f"http://127.0.0.1:{port} is not reached from here: nothing listens there (connection refused)",
    )


def test_another_installation_behind_the_address_is_told_apart(
    tmp_path: Path, front: Front, programs: Programs
) -> None:
    (tmp_path / "other").mkdir()
    other = settings(tmp_path / "other")
    with (
        behind(front, programs) as (receiver, values),
        programs.receiver(other, folder=tmp_path / "other") as stranger,
    ):
        front.target = stranger.address
        _, result = tried(programs, values)
        assert last(result)[0] == "reach"
        assert receiver.get("/jobs").json()["jobs"] == []


FETCHES = {
    "sources": (
        {"RECEIVER_IMAGE_SOURCES": "https://*.ximilar.com/"},
        "url.source",
        "/webhooks/ximilar to RECEIVER_IMAGE_SOURCES",
    ),
    "networks": (
        {"RECEIVER_IMAGE_NETWORKS": "10.0.0.0/8"},
        "url.scheme",
        "add 127.0.0.1/32 to RECEIVER_IMAGE_NETWORKS",
    ),
}


def test_an_address_with_a_password_ends_before_the_fetch_and_needs_no_network(
    front: Front, programs: Programs
) -> None:
    with behind(front, programs) as (_, values):
        values["RECEIVER_PUBLIC_URL"] = front.address.replace("://", "://user:pass-w0rd@")
        _, result = tried(programs, values)
    name, detail, remedy = last(result)
    assert (name, detail.partition(":")[0]) == ("fetch", "url.userinfo")
    assert remedy.startswith("Nothing: all before this works")


@pytest.mark.parametrize("case", FETCHES)
def test_where_the_guard_refuses_its_picture_the_setting_is_named_and_no_image_counts_as_lost(
    front: Front, programs: Programs, case: str
) -> None:
    more, reason, remedy = FETCHES[case]
    with behind(front, programs, **more) as (receiver, values):
        code, result = tried(programs, values)
        job = receiver.get(f"/jobs/{result['job']}").json()
        assert receiver.get("/readyz").status_code == 200
    assert code == 1
    name, detail, todo = last(result)
    assert name == "fetch"
    assert detail.startswith(reason)
    assert remedy in todo
    assert job["state"] == "rejected"
    assert job["error"]["reason"] in {"fetch.trial_ended", reason}


def test_with_confirmations_it_ends_where_the_provider_is_asked(front: Front, programs: Programs) -> None:
    more = {"RECEIVER_CONFIRM": "on", "XIMILAR_API_TOKEN": "t", "XIMILAR_API_URL": "http://127.0.0.1:9/v2"}
    with behind(front, programs, **more) as (receiver, values):
        code, result = tried(programs, values)
        eventually(lambda: receiver.get(f"/jobs/{result['job']}").json()["state"] == "rejected")
    assert code == 1
    assert last(result)[0] == "fetch"
    assert "RECEIVER_CONFIRM" in last(result)[1]


def test_an_archive_that_refuses_is_the_last_step(tmp_path: Path, front: Front, programs: Programs) -> None:
    (tmp_path / "archive").mkdir()
    more = {"RECEIVER_ARCHIVE": (tmp_path / "archive" / "missing" / "deep").as_uri()}
    with behind(front, programs, **more) as (receiver, values):
        trial = asyncio.run(tried_here(values, patience=1))
        assert receiver.get(f"/jobs/{trial.job}").json()["state"] == "fetched"
    assert not trial.worked
    assert [step.state for step in trial.steps] == ["ok"] * 5 + ["failed"]
    assert "archived by itself" in trial.steps[-1].remedy


async def tried_here(values: dict[str, str], patience: float) -> Trial:
    """A test delivery that waits for less time than the command does."""
    config = load(values)
    async with await Ledger.open_beside(config.ledger_location) as ledger:
        trials = DeliveryTrials(
            ledger=ledger,
            providers=open_providers(Setup(config, values)),
            address=str(config.public_url).rstrip("/"),
            confirm=False,
            patience=patience,
        )
        return await trials.run(await trials.begin("ximilar"))


def test_the_page_sends_one_and_shows_its_steps(front: Front, programs: Programs) -> None:
    with behind(front, programs) as (receiver, _):
        assert "None was sent yet" in receiver.get("/page/test-delivery").text
        begun = receiver.post("/page/test-delivery/send/ximilar")
        assert (begun.status_code, begun.headers["location"]) == (303, "/page/test-delivery")
        with receiver.stream("GET", "/page/test-delivery/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "".join(stream.iter_text()).endswith("event: end\ndata:\n\n")
        shown = receiver.get("/page/test-delivery").text
        assert "It worked" in shown
        assert "http-equiv" not in shown
        assert all(title in shown for title in STEPS.values())


def test_while_one_is_under_way_the_page_reloads_by_itself_and_takes_no_other(
    front: Front, programs: Programs
) -> None:
    gate = threading.Event()
    front.broken = lambda _method, _path: None if gate.wait(30) else 504
    with behind(front, programs) as (receiver, values):
        receiver.post("/page/test-delivery/send/ximilar")
        eventually(lambda: "Under way" in receiver.get("/page/test-delivery").text)
        shown = receiver.get("/page/test-delivery").text
        assert '<noscript><meta http-equiv="refresh"' in shown
        assert 'data-events="/page/test-delivery/events"' in shown
        assert STEPS["archive"] in shown
        again = receiver.post("/page/test-delivery/send/ximilar")
        assert again.status_code == 409
        assert "A test delivery is under way" in again.text
        beside = run(["test-delivery"], programs.folder, values)
        assert beside.returncode == 1
        assert "is under way" in beside.stderr
        gate.set()
        eventually(lambda: "It worked" in receiver.get("/page/test-delivery").text)


def test_only_those_with_a_token_and_no_other_site_can_send_one(front: Front, programs: Programs) -> None:
    with behind(front, programs) as (receiver, _), httpx.Client(verify=False, trust_env=False) as stranger:
        path = f"{receiver.address}/page/test-delivery/send/ximilar"
        assert stranger.post(path).status_code == 401
        assert stranger.get(f"{receiver.address}/page/test-delivery").status_code == 401
        assert stranger.get(f"{receiver.address}/page/test-delivery/events").status_code == 401
        forged = receiver.post("/page/test-delivery/send/ximilar", headers={"Origin": "https://evil.test"})
        assert forged.status_code == 403
        assert receiver.post("/page/test-delivery/send/nobody").status_code == 404
        assert receiver.get("/jobs").json()["jobs"] == []


def test_the_picture_is_there_for_its_ticket_alone(front: Front, programs: Programs) -> None:
    asked: list[str] = []

    def note(method: str, path: str) -> None:
        if method == "GET":
            asked.append(path)

    front.broken = note
    with behind(front, programs) as (receiver, values), httpx.Client(trust_env=False, verify=False) as anyone:

        def get(path: str) -> httpx.Response:
            return anyone.get(receiver.address + path)

        assert get("/webhooks/ximilar?signature=" + 43 * "a").status_code == 405
        assert tried(programs, values)[0] == 0
        (path, *_) = asked
        assert get(path).content == picture()
        ticket = path.partition("signature=")[2]
        for wrong in (ticket[:-1], ticket[:-1] + "é", ticket.swapcase(), "", 10_000 * "a"):
            answer = get(f"/webhooks/ximilar?signature={wrong}")
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            assert answer.json()["reason"] == "body.not_allowed"
        assert tried(programs, values)[0] == 0
        assert get(path).status_code == 405  # another's ticket
