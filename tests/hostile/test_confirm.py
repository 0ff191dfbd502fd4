"""Forged deliveries where the provider must confirm each: they move nothing that it has not said."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults.steps import archive_of, asking, deliver, events, question, says
from tests.support.processes import Programs, settings
from tests.support.source import Answer, Source, picture, sha256

PAST = "https://images.example/x.png?Expires=1000000000"


def running(job_id: str) -> Answer:
    return Answer(json.dumps({"id": job_id, "status": "PROCESSING"}).encode())


@pytest.mark.parametrize("forged", ["past", "failed", "own"])
def test_a_job_that_the_provider_calls_running_is_asked_about_until_it_is_done(
    programs: Programs, host: Source, forged: str
) -> None:
    """The forged delivery's clock, of 2 s, runs out several times meanwhile."""
    image = picture(1)
    url = host.offer("image", image)
    asked = question("job")
    host.offer(asked, *[running("job")] * 5, says("job", url))
    values = settings(programs.folder, RECEIVER_CONFIRM="on", RECEIVER_URL_LIFETIME="2s", **asking(host))
    with programs.receiver(values) as receiver:
        assert receiver.post("/jobs", json={"id": "job"}).status_code == 201
        if forged == "failed":
            receiver.deliver({"id": "job", "status": "FAILED"})
        else:
            deliver(receiver, "job", PAST if forged == "past" else url)
        job = receiver.ended("job")

    assert job["state"] == "archived"
    assert set(events(job)) == {"submitted", "received", "attempt_failed", "confirmed", "fetched", "archived"}
    assert archive_of(programs.folder) == {"job": [sha256(image)]}
    assert datetime.now(UTC) - datetime.fromisoformat(job["received_at"]) > timedelta(seconds=2)
