"""What people and programs with a token can ask, of a real server."""

import base64
import http.client
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    PROOF,
    TRUST,
    Programs,
    Receiver,
    completion,
    settings,
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, shared_programs: Programs) -> Iterator[Receiver]:
    """A receiver of this module's own, two tokens and no patience with silence."""
    tokens = json.dumps([API_TOKEN, "another: token"])
    folder = tmp_path_factory.mktemp("asked")
    values = settings(folder, RECEIVER_API_TOKENS=tokens, RECEIVER_OVERDUE_AFTER="1s")
    with shared_programs.receiver(values) as receiver:
        yield receiver


@pytest.fixture
def ref() -> str:
    return f"ref {uuid.uuid4()}"


def ids(answer: httpx.Response) -> list[str]:
    return [job["id"] for job in answer.raise_for_status().json()["jobs"]]


def is_problem(answer: httpx.Response, status: int, reason: str) -> bool:
    body = answer.json()
    return (
        answer.headers["content-type"] == "application/problem+json"
        and set(body) == {"type", "title", "status", "reason", "detail"}
        and (answer.status_code, body["status"], body["reason"]) == (status, status, reason)
    )


# Who may ask


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {API_TOKEN}",
        f"bearer {API_TOKEN}",
        "Bearer another: token",
        basic("", API_TOKEN),
        basic("anyone", API_TOKEN),
        basic("anyone", "another: token"),
    ],
)
def test_a_token_admits_as_bearer_and_as_the_password_of_basic(asked: Receiver, authorization: str) -> None:
    answer = httpx.get(
        f"{asked.address}/jobs", headers={"Authorization": authorization}, verify=TRUST, trust_env=False
    )

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        f"Bearer {API_TOKEN}x",
        f"Bearer {API_TOKEN[:-1]}",
        f"Token {API_TOKEN}",
        API_TOKEN,
        basic(API_TOKEN, ""),
        basic("anyone", ""),
        "Basic ====",
        "Basic " + base64.b64encode(API_TOKEN.encode()).decode(),
        b"Bearer \xff\xfe",
    ],
)
def test_nothing_else_admits_and_every_refusal_is_the_same(
    asked: Receiver, authorization: str | bytes | None
) -> None:
    headers: dict[str, str | bytes] = {} if authorization is None else {"Authorization": authorization}
    for path in ("/jobs", "/jobs/x", "/jobs/x/image", "/stats", "/deliveries", "/nowhere", "/jobs/"):
        answer = httpx.get(asked.address + path, headers=headers, verify=TRUST, trust_env=False)  # type: ignore[arg-type]

        assert is_problem(answer, 401, "auth.token_refused")
        # A line each: Chromium asks for no password where both stand on one.
        basic_line, bearer_line = answer.headers.get_list("www-authenticate")
        assert basic_line.startswith("Basic ")
        assert bearer_line == "Bearer"


def test_the_custom_headers_of_the_webhook_admit_to_nothing_else(asked: Receiver) -> None:
    answer = httpx.get(f"{asked.address}/jobs", headers=PROOF, verify=TRUST, trust_env=False)

    assert is_problem(answer, 401, "auth.token_refused")


def test_two_authorizations_admit_nobody(asked: Receiver) -> None:
    headers = [("Authorization", f"Bearer {API_TOKEN}"), ("Authorization", "Bearer x")]

    assert (
        httpx.get(f"{asked.address}/jobs", headers=headers, verify=TRUST, trust_env=False).status_code == 401
    )


def test_health_and_readiness_are_open_to_all(asked: Receiver) -> None:
    for path in ("/healthz", "/readyz"):
        assert httpx.get(asked.address + path, verify=TRUST, trust_env=False).status_code == 200


# The form of refusals


def test_every_refusal_is_a_problem(asked: Receiver) -> None:
    assert is_problem(asked.get("/nowhere"), 404, "body.no_such_route")
    assert is_problem(asked.delete("/jobs"), 405, "body.not_allowed")
    assert set(asked.delete("/jobs").headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert is_problem(asked.get("/jobs/"), 404, "body.no_such_route")  # and no redirect by the Host header
    assert is_problem(asked.get("/jobs/nobody"), 404, "ledger.unknown_job")
    assert is_problem(asked.get("/jobs/nobody/image"), 404, "ledger.unknown_job")
    assert is_problem(asked.get("/jobs/nobody", params={"wait": "60"}), 404, "ledger.unknown_job")
    assert is_problem(asked.post("/jobs/nobody/retry"), 404, "ledger.unknown_job")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/jobs?states=received", "states"),
        ("/jobs?state=lost", "state"),
        ("/jobs?state=", "state"),
        ("/jobs?reason=fetch.nothing", "reason"),
        ("/jobs?since=yesterday", "since"),
        ("/jobs?until=99999-01-01T00:00:00Z", "until"),
        ("/jobs?overdue=maybe", "overdue"),
        ("/jobs?limit=0", "limit"),
        ("/jobs?limit=1001", "limit"),
        ("/jobs?limit=%D9%A1", "limit"),
        ("/jobs?cursor=x", "cursor"),
        ("/jobs?cursor=MTotMQ", "cursor"),
        ("/jobs?ref=a&ref=b", "ref"),
        ("/jobs?ref=", "ref"),
        ("/jobs?ref=%C3%A9", "ref"),
        (f"/jobs?ref={'x' * 201}", "ref"),
        ("/jobs/x?wait=61", "wait"),
        ("/jobs/x?wait=-1", "wait"),
        ("/jobs/x?wait=nan", "wait"),
        ("/jobs/x?delay=1", "delay"),
        ("/jobs/x/image?size=1", "size"),
        ("/deliveries?outcome=lost", "outcome"),
        ("/stats?by=state", "by"),
    ],
)
def test_an_unknown_parameter_or_value_is_named(asked: Receiver, path: str, named: str) -> None:
    answer = asked.get(path)

    assert is_problem(answer, 422, "body.invalid_query")
    assert named in answer.json()["detail"]


# Lists


def test_each_filter_narrows_and_all_of_them_together(
    asked: Receiver, near: Neighbour, picture: bytes, ref: str
) -> None:
    kinds = [f"{ref.removeprefix('ref ')}-{kind}" for kind in ("silent", "failed", "archived", "rejected")]
    silent, failed, archived, rejected = kinds
    named = {**PROOF, "X-Receiver-Ref": ref}
    asked.post("/jobs", json={"id": silent, "ref": ref}).raise_for_status()
    asked.deliver({"id": failed, "status": "FAILED"}, named)
    url = near.serve(picture)
    asked.deliver(completion(archived, url, *SIZE), named)
    asked.deliver(completion(rejected, url, 1, 1), named)
    first, last = asked.job(silent), asked.ended(rejected)
    asked.ended(archived)

    def found(**narrower: Any) -> list[str]:
        return ids(asked.get("/jobs", params={"ref": ref, **narrower}))

    assert found() == [rejected, archived, failed, silent]
    assert found(state="archived") == [archived]
    assert found(state=["failed", "archived"]) == [archived, failed]
    assert found(reason="image.wrong_size") == [rejected]
    assert found(reason="image.wrong_size", state="archived") == []
    assert found(since=first["submitted_at"]) == [rejected, archived, failed, silent]
    assert found(until=first["submitted_at"]) == []
    assert found(since=last["received_at"]) == [rejected]
    assert found(until=last["received_at"]) == [archived, failed, silent]
    assert found(limit=2) == [rejected, archived]
    assert ids(asked.get("/jobs", params={"ref": ref + "x"})) == []


def test_a_job_that_stays_silent_becomes_overdue(asked: Receiver, ref: str) -> None:
    job_id = ref.removeprefix("ref ")
    asked.post("/jobs", json={"id": job_id, "ref": ref}).raise_for_status()
    before = asked.get("/stats").json()["overdue"]

    # The wait ends at its own time, since nothing will be heard of the job; by then it is overdue.
    assert asked.job(job_id, wait=1.2)["state"] == "submitted"

    assert ids(asked.get("/jobs", params={"ref": ref, "overdue": "true"})) == [job_id]
    assert ids(asked.get("/jobs", params={"ref": ref, "overdue": "false"})) == []
    assert asked.get("/stats").json()["overdue"] > before


def test_pages_by_cursor_hold_every_job_once_while_new_ones_arrive(asked: Receiver, ref: str) -> None:
    made = [f"{ref.removeprefix('ref ')}-{number}" for number in range(7)]
    for job_id in made:
        asked.post("/jobs", json={"id": job_id, "ref": ref}).raise_for_status()

    seen: list[str] = []
    parameters: dict[str, str] = {"ref": ref, "limit": "3"}
    while True:
        page = asked.get("/jobs", params=parameters)
        seen += ids(page)
        asked.post("/jobs", json={"id": str(uuid.uuid4()), "ref": ref}).raise_for_status()
        cursor = page.json()["next"]
        if cursor is None:
            break
        parameters["cursor"] = cursor

    assert seen == made[::-1]


# One job


def test_a_wait_ends_as_soon_as_the_job_is_final(
    asked: Receiver, near: Neighbour, picture: bytes, ref: str
) -> None:
    near.gate = threading.Event()
    job_id = ref.removeprefix("ref ")
    asked.deliver(completion(job_id, near.serve(picture), *SIZE))
    assert near.asked.wait(PATIENCE)
    waiting = http.client.HTTPConnection("127.0.0.1", asked.port, timeout=PATIENCE)
    with closing(waiting):
        waiting.request("GET", f"/jobs/{job_id}?wait=60", headers={"Authorization": f"Bearer {API_TOKEN}"})
        assert asked.job(job_id)["state"] == "received"
        near.gate.set()
        # Well before the wait's own end: the connection's patience is shorter than that.
        job = json.load(waiting.getresponse())

    assert job["state"] == "archived"
    assert PATIENCE < 60


def test_a_wait_for_a_job_that_is_final_already_does_not_wait(asked: Receiver, ref: str) -> None:
    job_id = ref.removeprefix("ref ")
    asked.deliver({"id": job_id, "status": "FAILED"})

    assert asked.get(f"/jobs/{job_id}", params={"wait": "60"}, timeout=PATIENCE).json()["state"] == "failed"


def test_the_image_is_409_with_the_state_until_it_is_archived(
    asked: Receiver, near: Neighbour, picture: bytes, ref: str
) -> None:
    near.gate = threading.Event()
    job_id = ref.removeprefix("ref ")
    asked.deliver(completion(job_id, near.serve(picture), *SIZE))
    early = asked.get(f"/jobs/{job_id}/image")
    near.gate.set()
    asked.ended(job_id)
    late = asked.get(f"/jobs/{job_id}/image")

    assert is_problem(early, 409, "ledger.wrong_state")
    assert "received" in early.json()["detail"]
    assert (late.status_code, late.content) == (200, picture)
    assert late.headers["content-type"] == "image/png"
    assert late.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in late.headers["content-security-policy"]


def test_a_retry_is_202_where_there_is_something_to_try_and_else_409(
    asked: Receiver, near: Neighbour, picture: bytes, ref: str
) -> None:
    job_id = ref.removeprefix("ref ")
    url = near.serve(picture).replace("://", "://user@")  # refused at once
    asked.deliver(completion(job_id, url, *SIZE))
    assert asked.ended(job_id)["state"] == "rejected"

    again = asked.post(f"/jobs/{job_id}/retry")
    assert (again.status_code, again.json()["state"], again.json()["error"]) == (202, "received", None)
    assert asked.ended(job_id)["state"] == "rejected"
    assert [e["event"] for e in asked.job(job_id)["history"]] == [
        "received",
        "rejected",
        "retried",
        "rejected",
    ]

    asked.deliver(completion(f"{job_id}-good", near.serve(picture), *SIZE))
    asked.ended(f"{job_id}-good")
    asked.post("/jobs", json={"id": f"{job_id}-silent"})
    asked.deliver({"id": f"{job_id}-failed", "status": "FAILED"})
    for kind in ("good", "silent", "failed"):
        assert is_problem(asked.post(f"/jobs/{job_id}-{kind}/retry"), 409, "ledger.wrong_state")


def test_an_announced_job_is_201_and_then_200(asked: Receiver, ref: str) -> None:
    job_id = ref.removeprefix("ref ")
    first = asked.post("/jobs", json={"id": job_id})
    again = asked.post("/jobs", json={"id": job_id, "ref": ref})
    third = asked.post("/jobs", json={"id": job_id, "ref": "another"})

    assert [a.status_code for a in (first, again, third)] == [201, 200, 200]
    assert [a.json()["ref"] for a in (first, again, third)] == [None, ref, ref]
    assert first.json()["state"] == "submitted"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"id": "../x"}', 422),
        (b'{"id": 5}', 422),
        (b'{"id": "x", "ref": ""}', 422),
        (b'{"id": "x", "ref": "\xc3\xa9"}', 422),
        (b'{"id": "x", "state": "archived"}', 422),
        (b'{"id": "' + b"x" * 100_000 + b'"}', 413),
    ],
)
def test_an_announcement_in_another_form_is_refused(asked: Receiver, body: bytes, status: int) -> None:
    answer = asked.post("/jobs", content=body)

    assert is_problem(answer, status, answer.json()["reason"])


def test_deliveries_come_newest_first_in_pages(asked: Receiver, ref: str) -> None:
    for number in range(3):
        asked.deliver(f"{ref} {number}".encode())

    first = asked.get("/deliveries", params={"limit": "2"}).json()
    rest = asked.get("/deliveries", params={"limit": "1", "cursor": first["next"]}).json()

    bodies = [row["body"] for row in first["deliveries"] + rest["deliveries"]]
    assert bodies == [f"{ref} 2", f"{ref} 1", f"{ref} 0"]


def test_stats_count_what_happened(asked: Receiver, near: Neighbour, picture: bytes, ref: str) -> None:
    job_id = ref.removeprefix("ref ")
    before = asked.get("/stats").json()
    near.gate = threading.Event()
    asked.deliver(completion(job_id, near.serve(picture), *SIZE))
    waiting = asked.get("/stats").json()
    near.gate.set()
    asked.ended(job_id)
    after = asked.get("/stats").json()

    assert waiting["states"]["received"] == 1
    assert waiting["soonest_deadline"] == asked.job(job_id)["url_expires_at"]
    assert waiting["oldest_waiting_seconds"] >= 0
    assert (after["oldest_waiting_seconds"], after["soonest_deadline"]) == (None, None)
    assert after["states"]["archived"] == before["states"]["archived"] + 1
    assert after["bytes_archived"] == before["bytes_archived"] + len(picture)
    assert after["spool_bytes"] == 0
