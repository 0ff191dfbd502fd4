"""What can go wrong at the provider, and where each job ends: sandbox and receiver as real processes."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from receiver.sandbox.pictures import draw
from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import PROVIDER_TOKEN, Programs, Receiver, Sandbox, completion, run, settings

URL_LIFETIME = "4s"
"""Long enough for an attempt and another, short enough to wait for the end."""

SOURCE = {"_base64": base64.b64encode(draw(3, SIZE, "png")).decode()}

EXPIRE = {
    "cut": "fetch.cut_short",
    "empty": "fetch.empty",
    "broken": "fetch.status",
    "gone": "fetch.gone",
    "missing": "fetch.gone",
    "stale": "fetch.gone",
}
"""Faults that another attempt may mend, and the reason of each attempt."""

REJECTED = {"wrong_size": "image.wrong_size", "html": "image.unknown_format", "corrupt": "image.corrupt"}
"""Faults of the bytes themselves, and the reason."""

DOWNLOADS = 3
"""So many have to bring the same before it is believed."""

FAILED = {"record": "provider.record_failed", "failed_told": "provider.job_failed"}

HARMLESS = ("twice", "reorder", "early", "retry")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, shared_programs: Programs) -> Iterator[Receiver]:
    """A receiver for which the images' URLs live a short time."""
    folder = tmp_path_factory.mktemp("impatient")
    with shared_programs.receiver(settings(folder, RECEIVER_URL_LIFETIME=URL_LIFETIME)) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def expiring(impatient: Receiver, box: Sandbox) -> Mapping[str, str]:
    """The jobs by their fault; all are under way at once, so that their times pass together."""
    return {fault: box.submit(SOURCE, impatient.webhook, fault, "early") for fault in EXPIRE}


@pytest.fixture(scope="module")
def spoilt(receiver: Receiver, box: Sandbox) -> Mapping[str, str]:
    return {fault: box.submit(SOURCE, receiver.webhook, fault, "early") for fault in REJECTED}


def attempts(job: Any) -> list[str]:
    return [line["reason"] for line in job["history"] if line["event"] == "attempt_failed"]


@pytest.mark.parametrize(("fault", "reason"), EXPIRE.items(), ids=list(EXPIRE))
def test_what_another_attempt_may_mend_is_tried_until_the_urls_life_ends(
    impatient: Receiver, expiring: Mapping[str, str], fault: str, reason: str
) -> None:
    job = impatient.ended(expiring[fault])

    assert (job["state"], job["error"]["reason"]) == ("expired", "fetch.expired")
    assert set(attempts(job)) == {reason}
    assert attempts(job)[-1] in job["error"]["detail"]
    assert job["history"][-1]["at"] >= job["url_expires_at"]
    assert (job["image"], job["archive"]) == (None, None)


def test_a_result_that_drips_is_archived_though_its_url_ends_before_all_of_it_has_come(
    impatient: Receiver, box: Sandbox
) -> None:
    job = impatient.ended(box.submit(SOURCE, impatient.webhook, "slow", "early"))

    assert job["state"] == "archived"
    assert job["fetched_at"] > job["url_expires_at"]
    assert attempts(job) == []


@pytest.mark.parametrize(("fault", "reason"), REJECTED.items(), ids=list(REJECTED))
def test_wrong_bytes_are_rejected_when_the_same_come_again_and_again(
    receiver: Receiver, spoilt: Mapping[str, str], fault: str, reason: str
) -> None:
    job = receiver.ended(spoilt[fault])

    assert (job["state"], job["error"]["reason"]) == ("rejected", reason)
    assert attempts(job) == [reason] * (DOWNLOADS - 1)
    assert receiver.get(f"/jobs/{job['id']}/image").status_code == 409


@pytest.mark.parametrize(("fault", "reason"), FAILED.items(), ids=list(FAILED))
def test_a_failure_that_is_told_is_recorded(
    receiver: Receiver, box: Sandbox, fault: str, reason: str
) -> None:
    job = receiver.ended(box.submit(SOURCE, receiver.webhook, fault, "early"))

    assert (job["state"], job["error"]["reason"]) == ("failed", reason)


@pytest.mark.parametrize("fault", HARMLESS)
def test_however_the_completion_travels_the_image_is_archived_once(
    receiver: Receiver, box: Sandbox, fault: str
) -> None:
    job_id = box.submit(SOURCE, receiver.webhook, fault)
    if fault == "reorder":
        box.submit(SOURCE, receiver.webhook)
    box.program.until(lambda: f"job {job_id}: completion answered with 200" in box.program.log)

    job = receiver.ended(job_id)

    assert job["state"] == "archived"
    assert [line["event"] for line in job["history"]] == ["received", "fetched", "archived"]


def test_a_result_that_comes_at_the_third_attempt_is_archived_and_an_operator_need_not_wait(
    receiver: Receiver, box: Sandbox
) -> None:
    job_id = box.submit(SOURCE, receiver.webhook, "flaky", "early")
    for attempt in (1, 2):
        receiver.program.until_event("not fetched", job=job_id, attempt=attempt)
        assert receiver.post(f"/jobs/{job_id}/retry").status_code == 202

    job = receiver.ended(job_id)

    assert (job["state"], job["error"]) == ("archived", None)
    assert attempts(job) == ["fetch.status"] * 2


def test_an_expired_job_whose_url_works_after_all_is_archived_by_a_retry(
    impatient: Receiver, near: Neighbour, picture: bytes
) -> None:
    impatient.deliver(completion("late", f"{near.url}/late", *SIZE))
    assert impatient.ended("late")["state"] == "expired"
    near.serve(picture, "late")

    assert impatient.post("/jobs/late/retry").status_code == 202

    job = impatient.ended("late")
    assert (job["state"], job["error"]) == ("archived", None)


def test_a_dropped_completion_is_a_job_that_nobody_knows_until_it_was_announced(
    receiver: Receiver, box: Sandbox
) -> None:
    job_id = box.submit(SOURCE, receiver.webhook, "drop")
    box.program.until(lambda: f"job {job_id}: completion dropped" in box.program.log)

    assert receiver.get(f"/jobs/{job_id}").status_code == 404
    assert receiver.post("/jobs", json={"id": job_id}).json()["state"] == "submitted"


def test_with_the_providers_token_a_stale_url_is_replaced_by_the_one_the_provider_names(
    programs: Programs, box: Sandbox
) -> None:
    values = settings(programs.folder, XIMILAR_API_TOKEN=PROVIDER_TOKEN, XIMILAR_API_URL=str(box.base_url))
    with programs.receiver(values) as receiver:
        job_id = box.submit(SOURCE, receiver.webhook, "stale", "early")
        job = receiver.ended(job_id)

        assert job["state"] == "archived"
        assert job["image_url"] == box.record(job_id)["_upscaled_image_url"]
        assert "url_refreshed" in {line["event"] for line in job["history"]}


def test_a_job_whose_images_host_is_not_allowed_is_rejected_without_asking_it(
    programs: Programs, box: Sandbox
) -> None:
    values = settings(programs.folder, RECEIVER_IMAGE_SOURCES="https://*.ximilar.com/")
    with programs.receiver(values) as receiver:
        job = receiver.ended(box.submit(SOURCE, receiver.webhook, "early"))

    assert (job["state"], job["error"]["reason"]) == ("rejected", "url.source")


def test_a_job_that_expired_without_a_token_is_archived_by_a_retry_once_there_is_one(
    programs: Programs, box: Sandbox
) -> None:
    values = settings(programs.folder, RECEIVER_URL_LIFETIME="3s")
    with programs.receiver(values) as receiver:
        job_id = box.submit(SOURCE, receiver.webhook, "stale", "early")
        assert receiver.ended(job_id)["state"] == "expired"

    values |= {"XIMILAR_API_TOKEN": PROVIDER_TOKEN, "XIMILAR_API_URL": str(box.base_url)}
    with programs.receiver(values) as receiver:
        assert run(["retry", job_id], programs.folder, values).returncode == 0
        job = receiver.ended(job_id)
        assert (job["state"], job["error"]) == ("archived", None)
        assert job["image_url"] == box.record(job_id)["_upscaled_image_url"]
