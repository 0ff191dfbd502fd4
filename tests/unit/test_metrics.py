"""The page that Prometheus reads, over a real ledger: what it says, and what it leaves out."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from receiver.core.errors import REASONS, FetchError, ProviderError, ReceiverError, SpoolError
from receiver.core.instrumentation import Instrumentation, StepName
from receiver.core.jobs import State
from receiver.ledger import FILE_NAME, Answer, AuditFinding, Ledger, Submission
from receiver.ledger.sqlite.driver import sqlite3
from receiver.telemetry.metrics import Meters, Metrics
from receiver.web.problem import on_http_exception, on_receiver_error
from receiver.web.refusals import RefusalCounter
from tests.ledger.actions import brought_to, delivery, never_wait_for_others
from tests.support.clock import HOUR, NOW, Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.processes import PATIENCE
from tests.support.providers import NAME

ROOM = 12_345


async def well() -> str | None:
    return None


async def ill() -> str | None:
    return "It is ill."


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def meters(registry: CollectorRegistry) -> Meters:
    return Meters(registry, [NAME])


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock, meters: Meters) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=clock, on_commit=meters.on_commit)
    yield ledger
    await ledger.close()


@pytest.fixture
def metrics(ledger: Ledger, clock: Clock, meters: Meters, registry: CollectorRegistry) -> Metrics:
    return Metrics(
        collectors=registry,
        meters=meters,
        ledger=ledger,
        overdue_after=timedelta(minutes=10),
        every={"backup": timedelta(days=1), "audit": timedelta(days=7)},
        refusals=RefusalCounter(),
        in_progress=lambda: {"fetch": 3, "archive": 0},
        spool_room=lambda held: ROOM - held,
        workers_alive=well,
        archive_up=well,
    )


async def scraped(metrics: Metrics, accept: str = "") -> httpx.Response:
    app = Starlette(
        routes=[Route("/metrics", metrics.answer)],
        exception_handlers={HTTPException: on_http_exception, ReceiverError: on_receiver_error},
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        return await client.get("/metrics", headers={"Accept": accept})


async def families(metrics: Metrics) -> dict[str, Metric]:
    answer = await scraped(metrics)
    assert answer.status_code == 200
    return {family.name: family for family in plain(answer.text)}


async def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample of the receiver's own, by its name and label values."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in (await families(metrics)).values()
        for sample in family.samples
        if sample.name.startswith("receiver_")
    }


def took(meters: Meters, name: StepName, *, size: int = 0, error: Exception | None = None) -> None:
    """One step, as a room takes it."""
    instrumentation = Instrumentation(meters.on_step, meters.on_failed_attempt)
    try:
        with instrumentation.step(name, "job", NOW) as step:
            step.bytes, step.provider = size, NAME
            if error is not None:
                raise error
    except ReceiverError:
        pass


async def test_gauges_say_what_the_ledger_says(metrics: Metrics, ledger: Ledger, clock: Clock) -> None:
    await brought_to(ledger, State.ARCHIVED, "archived")
    await brought_to(ledger, State.EXPIRED, "expired")
    await brought_to(ledger, State.FETCHED, "fetched")
    await ledger.expect(Submission("silent"))
    await ledger.record(delivery("received", deadline=NOW + HOUR))
    clock.now += 600_000 + 1

    found = await samples(metrics)

    assert {state: found[f"receiver_jobs {state}"] for state in State} == {
        "submitted": 1,
        "received": 1,
        "fetched": 1,
        "archived": 1,
        "failed": 0,
        "rejected": 0,
        "expired": 1,
    }
    assert found["receiver_images_lost"] == 1
    assert found["receiver_jobs_overdue"] == 1
    assert found["receiver_jobs_at_risk"] == 0
    assert found["receiver_soonest_deadline_seconds"] == 3600 - 600.001
    assert found["receiver_oldest_waiting_seconds"] == 600.001
    assert found["receiver_spool_bytes"] == 1000
    assert found["receiver_spool_room_bytes"] == ROOM - 1000
    assert found["receiver_queue_depth ledger"] == 0
    assert found["receiver_queue_depth fetch"] == 1
    assert found["receiver_queue_depth archive"] == 1
    assert found["receiver_in_progress fetch"] == 3
    assert found["receiver_ledger_writable"] == 1


async def test_a_deadline_that_has_passed_is_below_zero(
    metrics: Metrics, ledger: Ledger, clock: Clock
) -> None:
    await ledger.record(delivery(deadline=NOW + HOUR))
    clock.now += HOUR + 500

    assert (await samples(metrics))["receiver_soonest_deadline_seconds"] == -0.5


async def test_what_is_not_there_is_left_out_and_no_zero_stands_for_it(metrics: Metrics) -> None:
    found = await families(metrics)

    for absent in (
        "receiver_soonest_deadline_seconds",
        "receiver_provider_up",
    ):
        assert found[absent].samples == [], absent


async def test_a_ledger_that_cannot_be_read_is_said_to_be_so_and_what_is_in_it_is_left_out(
    metrics: Metrics, ledger: Ledger, meters: Meters
) -> None:
    took(meters, "fetch", size=10)
    await ledger.close()

    found = await samples(metrics)

    assert found["receiver_ledger_writable"] == 0
    assert (found["receiver_fetched_bytes_total"], found["receiver_workers_alive"]) == (10, 1)
    for unknown in (
        "receiver_jobs archived",
        "receiver_images_lost",
        "receiver_jobs_overdue",
        "receiver_jobs_at_risk",
        "receiver_oldest_waiting_seconds",
        "receiver_spool_bytes",
        "receiver_spool_room_bytes",
        "receiver_queue_depth fetch",
        "receiver_reconcile_total found ",
    ):
        assert unknown not in found, unknown


async def test_a_ledger_that_only_cannot_be_written_still_says_what_is_in_it(
    metrics: Metrics, ledger: Ledger, tmp_path: Path
) -> None:
    await brought_to(ledger, State.ARCHIVED)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")

        late = await samples(replace(metrics, timeout=0.2))
        await never_wait_for_others(ledger)
        found = await samples(replace(metrics, timeout=PATIENCE))

        other.execute("ROLLBACK")
    finally:
        other.close()
    assert late["receiver_ledger_writable"] == found["receiver_ledger_writable"] == 0
    assert found["receiver_jobs archived"] == 1


async def test_a_spool_that_cannot_be_measured_has_no_room_that_is_known(metrics: Metrics) -> None:
    def gone(_: int) -> int:
        raise SpoolError("spool.disk")

    found = await samples(replace(metrics, spool_room=gone))

    assert "receiver_spool_room_bytes" not in found
    assert found["receiver_spool_bytes"] == 0


async def test_what_readiness_finds_wrong_is_down(metrics: Metrics) -> None:
    found = await samples(replace(metrics, workers_alive=ill, archive_up=ill))

    assert (found["receiver_workers_alive"], found["receiver_archive_up"]) == (0, 0)


async def test_steps_that_came_to_their_end_are_measured_and_failed_attempts_are_counted(
    metrics: Metrics, meters: Meters
) -> None:
    took(meters, "fetch", size=100)
    took(meters, "fetch", size=50, error=FetchError("fetch.timeout"))
    took(meters, "verify", size=100)
    took(meters, "archive", size=100)
    meters.on_failed_attempt("fetch", "fetch.timeout")
    meters.on_failed_attempt("archive", "archive.unavailable")

    found = await samples(metrics)

    assert found["receiver_fetch_duration_seconds_count"] == 1
    assert found["receiver_verify_duration_seconds_count"] == 1
    assert found["receiver_upload_duration_seconds_count"] == 1
    assert found["receiver_fetched_bytes_total"] == 100
    assert found["receiver_archived_bytes_total"] == 100
    assert found["receiver_fetch_failures_total fetch.timeout"] == 1
    assert found["receiver_upload_failures_total archive.unavailable"] == 1


async def test_a_commit_is_measured_with_all_writes_that_shared_it(metrics: Metrics, ledger: Ledger) -> None:
    before = await samples(metrics)
    await ledger.record(delivery())
    after = await samples(metrics)

    # The scrapes themselves commit, to find out whether that is possible.
    assert after["receiver_commit_batch_size_count"] - before["receiver_commit_batch_size_count"] == 2
    assert after["receiver_commit_batch_size_sum"] - before["receiver_commit_batch_size_sum"] == 2
    assert after["receiver_commit_duration_seconds_sum"] > before["receiver_commit_duration_seconds_sum"]


@pytest.mark.parametrize(
    ("reason", "up"),
    [
        (None, 1),
        ("provider.unknown_job", 1),
        ("provider.rate_limited", 1),
        ("provider.unavailable", 0),
        ("provider.token_refused", 0),
    ],
)
@pytest.mark.parametrize("name", ["ask", "confirm"])
async def test_the_provider_is_up_when_its_last_word_was_an_answer(
    metrics: Metrics, meters: Meters, name: StepName, reason: str | None, up: float
) -> None:
    took(meters, name, error=None if reason is None else ProviderError(reason))

    assert (await samples(metrics))[f"receiver_provider_up {NAME}"] == up


async def test_what_asking_the_provider_gave_is_counted_in_the_ledger(
    metrics: Metrics, ledger: Ledger
) -> None:
    await ledger.expect(Submission("job-1"))
    await ledger.record_answer("job-1", Answer(reason="provider.unavailable"), ask_at=NOW + 1)
    await ledger.record_answer("job-1", Answer("PROCESSING"), ask_at=NOW + 2)
    await ledger.record(replace(delivery("job-1"), found=True))
    await ledger.record(delivery("job-1"))
    await ledger.record(replace(delivery("job-2"), found=True))

    found = await samples(metrics)

    assert {name: value for name, value in found.items() if name.startswith("receiver_reconcile")} == {
        "receiver_reconcile_total asked ": 1,
        "receiver_reconcile_total asked provider.unavailable": 1,
        "receiver_reconcile_total found ": 1,
        "receiver_reconcile_total late ": 1,
        "receiver_reconcile_total adopted ": 1,
    }


async def test_notifications_are_counted_by_what_became_of_them(metrics: Metrics, ledger: Ledger) -> None:
    await ledger.start_notifications()
    for job_id in ("sent", "given-up", "pending"):
        await brought_to(ledger, State.FAILED, job_id)
    await ledger.enqueue_notifications(
        until=await ledger.last_history_seq(), render=lambda _job, _event: b"{}"
    )
    sent, given_up, _ = await ledger.notifications_due(by=NOW, limit=9)
    await ledger.notification_sent(sent.seq)
    await ledger.notification_failed(given_up.seq, "It answers 500.", at=NOW)
    await ledger.notification_failed(given_up.seq, "It answers 500.", at=None)

    found = await samples(metrics)

    assert {name: value for name, value in found.items() if name.startswith("receiver_notif")} == {
        "receiver_notifications_total sent": 1,
        "receiver_notifications_total failed": 2,  # the attempt at whose end it is given up, too
        "receiver_notifications_total given_up": 1,
        "receiver_notifications_pending": 1,
    }


async def test_an_archived_image_that_an_audit_did_not_find_is_lost(metrics: Metrics, ledger: Ledger) -> None:
    await brought_to(ledger, State.ARCHIVED)
    assert (await samples(metrics))["receiver_images_lost"] == 0
    (numbered,) = await ledger.archived_jobs(after=0, limit=1)
    await ledger.record_audit([], [AuditFinding(numbered.seq, "archive.missing", "It is not there.")])

    found = await samples(metrics)

    assert (found["receiver_images_lost"], found["receiver_objects_damaged archive.missing"]) == (1, 1)


async def test_every_reason_that_stands_in_a_label_is_one_of_ours(metrics: Metrics, meters: Meters) -> None:
    metrics.refusals.count("auth.refused")
    meters.on_failed_attempt("fetch", "image.corrupt")
    meters.on_failed_attempt("archive", "archive.full")

    reasons = {
        sample.labels["reason"]
        for family in (await families(metrics)).values()
        for sample in family.samples
        if "reason" in sample.labels
    }

    assert reasons == {
        *("", "auth.refused", "auth.token_refused", "image.corrupt"),
        *("archive.full", "archive.missing", "archive.occupied"),
    }
    assert reasons - {""} <= set(REASONS)


async def test_names_and_texts_follow_prometheus_conventions(metrics: Metrics) -> None:
    """What `promtool check metrics` looks for, as far as it concerns us."""
    text = (await scraped(metrics)).text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))

    assert set(types) == set(helps)
    for name, kind in types.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert (kind == "counter") == name.endswith("_total"), name
        assert kind in {"counter", "gauge", "histogram"}
        assert not name.endswith(("_count", "_sum", "_bucket", "_created", "_milliseconds", "_mb"))
    assert "_created" not in text


async def test_who_asks_for_open_metrics_gets_them(metrics: Metrics, meters: Meters) -> None:
    took(meters, "fetch", size=100)
    kind = "application/openmetrics-text; version=1.0.0"

    answer = await scraped(metrics, accept=f"{kind};q=0.8,text/plain;version=0.0.4;q=0.5")

    assert answer.headers["content-type"].startswith(kind)
    told = openmetrics(answer.text)  # type: ignore[no-untyped-call] # the library's own parser
    names = {sample.name for family in told for sample in family.samples}
    plain_ones = (await families(metrics)).values()
    assert names == {sample.name for family in plain_ones for sample in family.samples}


async def test_two_registries_share_nothing(metrics: Metrics, meters: Meters) -> None:
    took(Meters(CollectorRegistry()), "fetch", size=100)

    assert (await samples(metrics))["receiver_fetched_bytes_total"] == 0


async def test_a_parameter_is_refused_as_everywhere(metrics: Metrics) -> None:
    app = Starlette(
        routes=[Route("/metrics", metrics.answer)], exception_handlers={ReceiverError: on_receiver_error}
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
        answer = await client.get("/metrics", params={"name": "receiver_jobs"})

    assert (answer.status_code, answer.json()["reason"]) == (422, "body.invalid_query")
