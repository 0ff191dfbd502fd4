"""Every answer of the webhook, from a real server over real sockets."""

import base64
import json
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import SIZE
from tests.support.processes import (
    PATIENCE,
    PROOF,
    TRUST,
    WEBHOOK,
    WEBHOOK_SECRET,
    Programs,
    Receiver,
    completion,
    run,
    settings,
)

CAP = 256 * 1024


@pytest.fixture
def job_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def good(job_id: str, hosted: str) -> dict[str, Any]:
    return completion(job_id, hosted, *SIZE)


def events(job: Any) -> list[str]:
    return [line["event"] for line in job["history"]]


# 200


def test_a_new_completion_is_acknowledged_as_received(receiver: Receiver, good: dict[str, Any]) -> None:
    answer = receiver.deliver(good)

    assert answer.status_code == 200
    assert answer.json() == {"id": good["id"], "state": "received", "duplicate": False}


def test_the_same_delivery_after_archiving_changes_nothing(receiver: Receiver, good: dict[str, Any]) -> None:
    receiver.deliver(good)
    archived = receiver.ended(good["id"])

    again = receiver.deliver(good)

    assert again.json() == {"id": good["id"], "state": "archived", "duplicate": True}
    assert receiver.job(good["id"]) == archived


def test_of_twenty_deliveries_at_once_one_is_new(receiver: Receiver, good: dict[str, Any]) -> None:
    together = threading.Barrier(20)

    def deliver(_: int) -> Any:
        together.wait(PATIENCE)
        return receiver.deliver(good).raise_for_status().json()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(deliver, range(20)))

    assert sorted(answer["duplicate"] for answer in answers) == [False] + [True] * 19
    assert events(receiver.ended(good["id"])) == ["received", "fetched", "archived"]


def test_a_job_that_was_announced_is_no_duplicate_and_keeps_its_ref(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    receiver.post("/jobs", json={"id": good["id"], "ref": "announced"}).raise_for_status()

    answer = receiver.deliver(good, {**PROOF, "X-Receiver-Ref": "delivered"})

    assert answer.json() == {"id": good["id"], "state": "received", "duplicate": False}
    job = receiver.ended(good["id"])
    assert (job["state"], job["ref"]) == ("archived", "announced")
    assert events(job) == ["submitted", "received", "fetched", "archived"]


def test_a_job_with_the_name_of_the_stream_is_archived_and_seen_everywhere_but_there(
    receiver: Receiver, hosted: str
) -> None:
    """`/jobs/changes` is taken; a delivery is never refused for it."""
    assert receiver.deliver(completion("changes", hosted, *SIZE)).status_code == 200
    receiver.program.until_event("archived", job="changes")

    assert receiver.get("/jobs/changes?wait=0").headers["content-type"].startswith("text/event-stream")
    assert "changes" in {job["id"] for job in receiver.get("/jobs").json()["jobs"]}
    assert "Archived, and proved to be in the archive" in receiver.get("/page/jobs/changes").text
    assert receiver.get("/jobs/changes/image").status_code == 200
    assert receiver.post("/jobs/changes/retry").json()["reason"] == "ledger.wrong_state"
    shown = run(["job", "changes", "--json"], receiver.program.folder, receiver.program.values)
    assert json.loads(shown.stdout)["history"][-1]["event"] == "archived"


def test_another_url_for_an_archived_job_stands_in_the_history_alone(
    receiver: Receiver, good: dict[str, Any], hosted: str
) -> None:
    receiver.deliver(good)
    receiver.ended(good["id"])

    answer = receiver.deliver(completion(good["id"], hosted + "/other", *SIZE))

    assert answer.json() == {"id": good["id"], "state": "archived", "duplicate": True}
    job = receiver.job(good["id"])
    assert job["image_url"] == hosted
    noted = job["history"][-1]
    assert (noted["reason"], noted["detail"]) == ("ledger.other_url", hosted + "/other")
    assert (noted["from"], noted["to"]) == ("archived", "archived")


def test_a_record_that_failed_fails_the_job_in_the_providers_own_words(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    record = good["response"]["records"][0]
    record["_status"] = {"code": 503, "text": "Model is overloaded", "request_id": "r"}
    del record["_upscaled_image_url"]

    answer = receiver.deliver(good)

    assert answer.json() == {"id": good["id"], "state": "failed", "duplicate": False}
    error = receiver.job(good["id"])["error"]
    assert (error["reason"], error["detail"]) == ("provider.record_failed", "503 Model is overloaded")


def test_a_job_that_failed_is_failed_and_a_later_good_completion_is_archived(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    failed = {"id": good["id"], "type": "upscaler", "status": "FAILED"}
    assert receiver.deliver(failed).json()["state"] == "failed"
    assert receiver.job(good["id"])["error"]["reason"] == "provider.job_failed"
    assert receiver.deliver(failed).json() == {"id": good["id"], "state": "failed", "duplicate": True}

    assert receiver.deliver(good).json() == {"id": good["id"], "state": "received", "duplicate": False}

    job = receiver.ended(good["id"])
    assert (job["state"], job["error"]) == ("archived", None)
    assert receiver.deliver(failed).json() == {"id": good["id"], "state": "archived", "duplicate": True}


@pytest.mark.parametrize(
    "declared", ["application/json; charset=utf-8", "application/problem+json", "APPLICATION/JSON", None]
)
def test_json_by_any_name_and_a_body_without_a_type_are_taken(
    receiver: Receiver, good: dict[str, Any], declared: str | None
) -> None:
    headers = {**PROOF} if declared is None else {**PROOF, "Content-Type": declared}

    answer = httpx.post(
        receiver.webhook, content=json.dumps(good), headers=headers, verify=TRUST, trust_env=False
    )

    assert answer.status_code == 200


# 401


IMPOSTORS: dict[str, list[tuple[str, str | bytes]]] = {
    "none": [],
    "wrong": [("X-Webhook-Secret", "wrong")],
    "empty": [("X-Webhook-Secret", "")],
    "cut": [("X-Webhook-Secret", WEBHOOK_SECRET[:-1])],
    "longer": [("X-Webhook-Secret", WEBHOOK_SECRET + "x")],
    "twice": [("X-Webhook-Secret", WEBHOOK_SECRET)] * 2,
    "listed": [("X-Webhook-Secret", f"{WEBHOOK_SECRET}, {WEBHOOK_SECRET}")],
    "other name": [("X-Webhook-Secre", WEBHOOK_SECRET)],
    "not ASCII": [("X-Webhook-Secret", b"\xff\xfe" + WEBHOOK_SECRET.encode())],
    "the API token": [("Authorization", "Bearer canary-of-the-api-token")],
}


def test_whatever_fails_to_prove_the_sender_gets_the_very_same_answer(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    body = json.dumps(good).encode()
    answers = {}
    for name, headers in IMPOSTORS.items():
        with httpx.Client(verify=TRUST, trust_env=False) as client:
            raw: list[tuple[bytes, bytes]] = [
                (key.encode(), value if isinstance(value, bytes) else value.encode())
                for key, value in headers
            ]
            answers[name] = client.post(receiver.webhook, content=body, headers=raw)

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(IMPOSTORS, 401)
    assert {answer.headers["content-type"] for answer in answers.values()} == {"application/problem+json"}
    kept = [
        {name: text for name, text in answer.headers.items() if name != "date"} for answer in answers.values()
    ]
    assert all(headers == kept[0] for headers in kept)
    assert len({answer.content for answer in answers.values()}) == 1
    assert answers["none"].json()["reason"] == "auth.refused"
    assert receiver.get(f"/jobs/{good['id']}").status_code == 404


def test_nothing_of_a_stranger_is_parsed_kept_or_told_apart(receiver: Receiver, job_id: str) -> None:
    for body in (b"no json " + job_id.encode(), json.dumps({"id": job_id}).encode(), b""):
        answer = receiver.deliver(body, {})
        assert (answer.status_code, answer.json()["reason"]) == (401, "auth.refused")

    kept = receiver.get("/deliveries", params={"limit": "1000"}).json()["deliveries"]
    assert not [row for row in kept if job_id in row["body"]]


def test_while_a_secret_is_rotated_both_values_are_taken(programs: Programs, good: dict[str, Any]) -> None:
    accepted = json.dumps({"X-Webhook-Secret": ["the new one", "the old one"], "X-Second": "two"})
    with programs.receiver(settings(programs.folder, RECEIVER_WEBHOOK_HEADERS=accepted)) as receiver:
        codes = [
            receiver.deliver(good, {"X-Webhook-Secret": first, **second}).status_code
            for first in ("the new one", "the old one", "another")
            for second in ({"X-Second": "two"}, {})
        ]

    assert codes == [200, 401, 200, 401, 401, 401]


# 400, 415, 422: kept


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{not json ID", 400, "body.not_json"),
        (b"", 400, "body.not_json"),
        (b"[" * 100_000, 400, "body.not_json"),
        (b"\xff\xfe ID", 400, "body.not_json"),
        (b'["ID"]', 422, "body.not_a_completion"),
        (b'{"id": "ID", "status": "PROCESSING"}', 422, "body.not_a_completion"),
        (b'{"id": "ID", "status": "DONE", "response": {"records": []}}', 422, "body.not_a_completion"),
        (b'{"id": "../ID", "status": "FAILED"}', 422, "body.not_a_completion"),
        (b'{"id": "ID", "status": "DONE\\ud800"}', 422, "body.not_a_completion"),
    ],
    ids=["broken", "empty", "deep", "binary", "list", "no end", "no record", "odd id", "half a pair"],
)
def test_an_authenticated_body_that_is_no_completion_is_refused_and_kept_as_it_came(
    receiver: Receiver, job_id: str, body: bytes, status: int, reason: str
) -> None:
    body = body.replace(b"ID", job_id.encode())

    answer = receiver.deliver(body)

    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    newest = receiver.get("/deliveries", params={"outcome": reason, "limit": "1"}).json()["deliveries"][0]
    as_it_came = newest["body"].encode() if "body" in newest else base64.b64decode(newest["body_base64"])
    assert as_it_came == body
    assert newest["outcome"] == reason
    assert receiver.get(f"/jobs/{job_id}").status_code == 404


def test_a_declared_type_that_is_not_json_is_refused_and_the_body_kept(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    body = json.dumps(good)

    answer = httpx.post(
        receiver.webhook,
        content=body,
        headers={**PROOF, "Content-Type": "text/plain"},
        verify=TRUST,
        trust_env=False,
    )

    assert (answer.status_code, answer.json()["reason"]) == (415, "body.unsupported_type")
    kept = receiver.get("/deliveries", params={"outcome": "body.unsupported_type"}).json()["deliveries"]
    assert kept[0]["body"] == body


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_the_webhook_takes_posts_alone(receiver: Receiver, method: str) -> None:
    answer = httpx.request(method, receiver.webhook, headers=PROOF, verify=TRUST, trust_env=False)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert answer.json()["reason"] == "body.not_allowed"


# 413: raw sockets, because no client would send such requests


@contextmanager
def connected(receiver: Receiver) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE) as connection:
        yield connection


def head(*headers: str) -> bytes:
    lines = [f"POST {WEBHOOK} HTTP/1.1", "Host: receiver", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer_to_the_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset behind the answer is a close as well."""
    came = b""
    try:
        while data := connection.recv(65536):
            came += data
    except ConnectionResetError:
        pass
    return came


@pytest.mark.parametrize("secret", [(), (f"X-Webhook-Secret: {WEBHOOK_SECRET}",)], ids=["stranger", "sender"])
def test_a_length_over_the_cap_is_refused_before_a_byte_of_the_body_and_the_connection_ends(
    receiver: Receiver, secret: tuple[str, ...]
) -> None:
    with connected(receiver) as connection:
        connection.sendall(head(f"Content-Length: {CAP + 1}", *secret))
        came = answer_to_the_end(connection)

    assert came.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in came
    assert b'"reason":"body.too_large"' in came


@pytest.mark.parametrize("secret", [(), (f"X-Webhook-Secret: {WEBHOOK_SECRET}",)], ids=["stranger", "sender"])
def test_a_chunked_body_is_refused_at_the_cap_and_an_endless_sender_is_cut_off(
    receiver: Receiver, secret: tuple[str, ...]
) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    with connected(receiver) as connection:
        connection.sendall(head("Transfer-Encoding: chunked", *secret))
        # A server that read on would take this for ever; what the kernels' buffers hold is far less.
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            connection.sendall(chunk * (64 * 1024 * 1024 // len(chunk)))


def test_a_chunked_body_over_the_cap_is_told_so(receiver: Receiver) -> None:
    with connected(receiver) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n" % (CAP + 1) + b" " * (CAP + 1))  # and no more: the body stays open
        came = answer_to_the_end(connection)

    assert came.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in came


def test_a_body_of_exactly_the_cap_is_read(receiver: Receiver, good: dict[str, Any]) -> None:
    body = json.dumps(good).encode()

    assert receiver.deliver(body + b" " * (CAP - len(body))).status_code == 200
    assert receiver.deliver(body + b" " * (CAP - len(body) + 1)).status_code == 413


def test_a_sender_that_goes_away_in_mid_body_leaves_nothing_and_harms_nobody(
    receiver: Receiver, good: dict[str, Any]
) -> None:
    body = json.dumps(good).encode()
    with connected(receiver) as connection:
        connection.sendall(head(f"Content-Length: {len(body)}", f"X-Webhook-Secret: {WEBHOOK_SECRET}"))
        connection.sendall(body[:-1])

    assert receiver.deliver(good).json()["duplicate"] is False
    assert "Traceback" not in receiver.program.log


@pytest.mark.parametrize("path", ["/jobs", "/nowhere", "/stats"])
def test_no_route_reads_on_for_a_stranger(receiver: Receiver, path: str) -> None:
    with connected(receiver) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000000\r\n\r\n".encode())
        came = answer_to_the_end(connection)

    assert came.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in came


def test_two_deliveries_over_one_connection_are_both_answered(receiver: Receiver, hosted: str) -> None:
    with httpx.Client(verify=TRUST, trust_env=False) as client:
        for _ in range(2):
            body = completion(str(uuid.uuid4()), hosted, *SIZE)
            answer = client.post(receiver.webhook, json=body, headers=PROOF)
            assert answer.json()["duplicate"] is False
            assert "connection" not in answer.headers
