"""Another program is told of each job that became final: signed, once, in order, and over kills."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.endpoint import SECRET, Endpoint, endpoint
from tests.support.processes import PROOF, SECRETS, Programs, Receiver, completion, run, settings
from tests.support.waiting import eventually


@pytest.fixture
def told() -> Iterator[Endpoint]:
    with endpoint() as it:
        yield it


def notifying(programs: Programs, told: Endpoint, **more: str) -> dict[str, str]:
    return settings(programs.folder, RECEIVER_NOTIFY_URL=told.url, RECEIVER_NOTIFY_SECRET=SECRET, **more)


def pending(receiver: Receiver) -> int:
    number: int = receiver.get("/stats").json()["notifications"]["pending"]
    return number


def fail(receiver: Receiver, job_id: str) -> str:
    receiver.deliver({"id": job_id, "status": "FAILED"}).raise_for_status()
    return job_id


def test_a_notification_is_verified_by_the_schemes_own_library_and_says_what_the_api_says(
    programs: Programs, told: Endpoint, near: Neighbour, picture: bytes
) -> None:
    job_id = str(uuid.uuid4())
    with programs.receiver(notifying(programs, told)) as receiver:
        receiver.deliver(completion(job_id, near.serve(picture), *SIZE), {**PROOF, "X-Receiver-Ref": "7"})
        told.until(lambda: told.taken)
        job = receiver.job(job_id)
        eventually(lambda: receiver.get("/stats").json()["notifications"]["sent"] == 1)
        assert receiver.program.stop()[0] == 0
    (one,) = told.told
    assert told.unproved == []
    history = job.pop("history")
    assert one.said == {"type": "job.archived", "timestamp": history[-1]["at"], "data": job}
    assert one.headers["content-type"] == "application/json"
    assert one.headers["user-agent"].startswith("upscale-receiver/")
    sent = datetime.fromtimestamp(int(one.headers["webhook-timestamp"]), UTC)
    assert abs(datetime.now(UTC) - sent) < timedelta(minutes=1)
    assert one.id.startswith("msg_")
    assert "." not in one.id
    for secret in (*SECRETS, SECRET, "canary-of-the-endpoint"):
        assert secret not in receiver.program.log


def test_every_end_is_told_once_and_in_order(
    programs: Programs, told: Endpoint, near: Neighbour, picture: bytes
) -> None:
    job_id = str(uuid.uuid4())
    with programs.receiver(notifying(programs, told)) as receiver:
        fail(receiver, job_id)
        told.until(lambda: told.types(job_id) == ["job.failed"])
        fail(receiver, job_id)  # says the same again: nothing becomes final
        for number in range(3):
            url = near.serve(picture, f"picture-{number}")
            receiver.deliver(completion(job_id, url, 1, 1)).raise_for_status()
            receiver.ended(job_id)
        others = [fail(receiver, str(uuid.uuid4())) for _ in range(20)]
        told.until(lambda: len(told.taken) >= 21 + len(ends(receiver, job_id)) - 1)
        assert ends(receiver, job_id) == ["failed", "rejected", "rejected", "rejected"]
        assert told.types(job_id) == [f"job.{state}" for state in ends(receiver, job_id)]
        eventually(lambda: pending(receiver) == 0)
    assert [told.types(other) for other in others] == [["job.failed"]] * len(others)
    assert len({one.id for one in told.told}) == len(told.told)


def ends(receiver: Receiver, job_id: str) -> list[Any]:
    final = ("archived", "failed", "rejected", "expired")
    lines = receiver.job(job_id)["history"]
    return [line["to"] for line in lines if line["to"] in final and line["from"] != line["to"]]


def test_an_endpoint_that_is_away_is_told_after_a_kill_and_a_restart(
    programs: Programs, told: Endpoint
) -> None:
    told.answer = 503
    values = notifying(programs, told)
    with programs.receiver_process(values) as receiver:
        jobs = [fail(receiver, str(uuid.uuid4())) for _ in range(5)]
        told.until(lambda: {one.said["data"]["id"] for one in told.told} == set(jobs))
        receiver.program.kill()
    told.answer = 204
    refused = {one.id for one in told.told}
    with programs.receiver(values) as receiver:
        told.until(lambda: len(told.taken) >= len(jobs))
        eventually(lambda: pending(receiver) == 0)
        assert receiver.get("/stats").json()["notifications"]["sent"] == len(jobs)
    assert {job_id: told.types(job_id) for job_id in jobs} == {job_id: ["job.failed"] for job_id in jobs}
    assert {one.id for one in told.taken} == refused  # the same names as before
    assert told.unproved == []


def test_what_became_final_while_nobody_could_be_told_is_told_at_the_next_start(
    programs: Programs, told: Endpoint
) -> None:
    told.gate.clear()  # takes connections, and answers nothing
    values = notifying(programs, told)
    with programs.receiver_process(values) as receiver:
        jobs = [fail(receiver, str(uuid.uuid4())) for _ in range(12)]
        eventually(lambda: pending(receiver) == 12)
        # Nothing else is held up by it.
        assert receiver.get("/readyz").status_code == 200
        receiver.program.kill()
    told.gate.set()
    with programs.receiver(values) as receiver:
        told.until(lambda: {one.said["data"]["id"] for one in told.taken} == set(jobs))
        eventually(lambda: pending(receiver) == 0)


def test_one_that_is_refused_delays_no_other_job(programs: Programs, told: Endpoint) -> None:
    poison = [str(uuid.uuid4()) for _ in range(10)]
    told.answer = lambda said: 500 if said["data"]["id"] in poison else 200
    with programs.receiver(notifying(programs, told)) as receiver:
        for job_id in poison:
            fail(receiver, job_id)
        good = [fail(receiver, str(uuid.uuid4())) for _ in range(10)]
        told.until(lambda: {one.said["data"]["id"] for one in told.taken} == set(good))
        assert pending(receiver) >= len(poison)
        assert "not notified" in receiver.program.log


def test_a_redirect_is_not_followed(programs: Programs, told: Endpoint) -> None:
    with endpoint() as elsewhere:
        told.answer = 307
        told.headers = {"Location": elsewhere.url}
        with programs.receiver(notifying(programs, told)) as receiver:
            fail(receiver, "moved")
            line = receiver.program.until_event("not notified", job="moved")
        assert elsewhere.told == []
    assert line["detail"] == "The endpoint answers 307."


def test_an_endpoint_that_is_gone_is_left_alone_until_the_next_start(
    programs: Programs, told: Endpoint
) -> None:
    told.answer = 410
    values = notifying(programs, told)
    with programs.receiver(values) as receiver:
        fail(receiver, "first")
        receiver.program.until_event("notification given up", job="first")
        fail(receiver, "second")
        eventually(lambda: pending(receiver) == 1)
        assert receiver.get("/stats").json()["notifications"]["given_up"] == 1
        assert receiver.program.stop()[0] == 0
    assert len(told.told) == 1
    told.answer = 200
    with programs.receiver(values):
        told.until(lambda: told.types("second") == ["job.failed"])
    assert told.types("first") == []


def test_the_past_is_not_told_when_notifying_is_switched_on(programs: Programs, told: Endpoint) -> None:
    with programs.receiver(settings(programs.folder)) as receiver:
        fail(receiver, "before")
        assert receiver.program.stop()[0] == 0
    with programs.receiver(notifying(programs, told)) as receiver:
        fail(receiver, "after")
        told.until(lambda: told.taken)
        assert receiver.program.stop()[0] == 0
    assert [one.said["data"]["id"] for one in told.told] == ["after"]


@pytest.mark.parametrize("secret", ["canary", "whsec_", "whsec_Y2FuYXJ5", ""])
def test_a_wrong_secret_stops_the_start_in_one_line(programs: Programs, told: Endpoint, secret: str) -> None:
    done = run(["serve"], programs.folder, {**notifying(programs, told), "RECEIVER_NOTIFY_SECRET": secret})
    said = done.stderr.strip().splitlines()
    assert (done.returncode, len(said)) == (1, 1)
    assert said[0].startswith("receiver: RECEIVER_NOTIFY_SECRET: ")
    assert secret == "" or secret not in said[0].replace("whsec_ and", "")


def test_what_init_prints_can_be_used(programs: Programs, told: Endpoint) -> None:
    fresh = json.loads(run(("init", "--json"), programs.folder, {}).stdout)
    secret = fresh["RECEIVER_NOTIFY_SECRET"]
    with programs.receiver({**notifying(programs, told), "RECEIVER_NOTIFY_SECRET": secret}) as receiver:
        fail(receiver, "a")
        told.until(lambda: told.taken)
    assert len(told.unproved) == 1  # by another secret, as it should
