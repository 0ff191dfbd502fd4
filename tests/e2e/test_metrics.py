"""What a real server tells Prometheus."""

import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    SECRETS,
    TRUST,
    Programs,
    Receiver,
    completion,
    settings,
)


def scraped(receiver: Receiver) -> dict[str, float]:
    """Every sample, by its name and label values."""
    text = receiver.get("/metrics").raise_for_status().text
    for secret in SECRETS:
        assert secret not in text
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("authorization", [None, "Bearer wrong"])
def test_metrics_are_for_who_has_a_token(receiver: Receiver, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = httpx.get(f"{receiver.address}/metrics", headers=headers, verify=TRUST, trust_env=False)

    assert (answer.status_code, answer.json()["reason"]) == (401, "auth.token_refused")


def test_prometheus_own_bearer_token_is_taken(receiver: Receiver) -> None:
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    answer = httpx.get(f"{receiver.address}/metrics", headers=headers, verify=TRUST, trust_env=False)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_a_receiver_s_life_can_be_read_from_its_metrics(
    programs: Programs, near: Neighbour, picture: bytes
) -> None:
    values = settings(programs.folder)
    with programs.receiver(values) as receiver:
        good = completion("good", near.serve(picture), *SIZE)
        for _ in range(2):
            receiver.deliver(good).raise_for_status()
        receiver.ended("good")
        receiver.deliver(completion("wrong", near.serve(picture), 1000, 1000)).raise_for_status()
        receiver.ended("wrong")
        receiver.deliver(b"{}")
        receiver.deliver(good, {})
        httpx.get(f"{receiver.address}/jobs", verify=TRUST, trust_env=False)
        httpx.post(
            f"{receiver.address}/jobs",
            headers={"Origin": "https://elsewhere.example"},
            verify=TRUST,
            trust_env=False,
        )
        with socket.create_connection(("127.0.0.1", receiver.port), PATIENCE) as stranger:
            stranger.sendall(b"no HTTP\r\n\r\n")
            assert stranger.recv(100).startswith(b"HTTP/1.1 400")
        first = scraped(receiver)
        receiver.program.stop()
    with programs.receiver(values) as again:
        second = scraped(again)

    expected = {
        "receiver_deliveries_total recorded ximilar": 2,
        "receiver_deliveries_total duplicate ximilar": 1,
        "receiver_deliveries_total unread ximilar": 1,
        "receiver_refusals_total auth.refused": 1,
        "receiver_refusals_total auth.token_refused": 1,
        "receiver_refusals_total auth.cross_origin": 1,
        "receiver_refusals_total body.bad_request": 1,
        "receiver_refusals_total body.not_a_completion": 1,
        "receiver_jobs archived": 1,
        "receiver_jobs rejected": 1,
        "receiver_jobs received": 0,
        "receiver_images_lost": 0,
        "receiver_jobs_refused": 0,
        "receiver_fetch_duration_seconds_count": 4,
        "receiver_verify_duration_seconds_count": 1,
        "receiver_upload_duration_seconds_count": 1,
        "receiver_fetched_bytes_total": 4 * len(picture),
        "receiver_archived_bytes_total": len(picture),
        "receiver_fetch_failures_total image.wrong_size": 3,
        "receiver_spool_bytes": 0,
        "receiver_ledger_writable": 1,
        "receiver_workers_alive": 1,
        "receiver_archive_up": 1,
    }
    assert {name: first.get(name) for name in expected} == expected
    assert {"receiver_in_progress fetch", "receiver_in_progress archive"} <= set(first)
    assert first["receiver_commit_batch_size_count"] > 0
    assert first["receiver_spool_room_bytes"] > 0
    assert first["process_resident_memory_bytes"] > 0
    # What the process counts begins anew with it; what the ledger holds does not.
    assert second["receiver_deliveries_total recorded ximilar"] == 0
    assert second["receiver_jobs archived"] == 1


def test_an_archive_that_refuses_is_down(programs: Programs) -> None:
    place = programs.folder / "place"
    place.write_text("no folder")
    with programs.receiver(settings(programs.folder, RECEIVER_ARCHIVE=place.as_uri())) as receiver:
        receiver.program.until_event("archive refuses; uploads pause")

        assert scraped(receiver)["receiver_archive_up"] == 0
