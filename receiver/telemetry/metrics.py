"""``GET /metrics``: counters of what happens, and gauges that are read from the ledger at each scrape.

Every meter belongs to a registry that is passed in; the library's global one stays empty.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import metadata
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from receiver.api import params
from receiver.api.health import Probe
from receiver.core.clock import milliseconds
from receiver.core.errors import REASONS, LedgerError, SpoolError
from receiver.core.instrumentation import Step, Work
from receiver.core.jobs import State, overdue_cutoff
from receiver.ledger import COUNTED_TO, NOTIFICATION_OUTCOMES, NOTIFICATIONS, RECONCILED, Ledger, Stats
from receiver.operations.checkpoint import ended_at
from receiver.web.refusals import RefusalCounter

T = TypeVar("T")

log = structlog.get_logger("receiver.metrics")

LEDGER_SECONDS = 3.0
"""How long a scrape waits for the ledger. Prometheus itself waits for 10 seconds, and then has nothing."""

LONG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

DELIVERED = ("recorded", "duplicate", "unread", "ignored")

NO_ANSWER = frozenset({"provider.unavailable", "provider.token_refused"})
"""Reasons with which a provider is taken to be down; any other word of it is an answer."""


COUNTERS = frozenset({"receiver_refusals", "receiver_reconcile", "receiver_notifications"})

LABELS = {
    "receiver_refusals": ["reason"],
    "receiver_provider_up": ["provider"],
    "receiver_in_progress": ["stage"],
    "receiver_queue_depth": ["queue"],
    "receiver_jobs": ["state"],
    "receiver_reconcile": ["outcome", "reason"],
    "receiver_notifications": ["outcome"],
    "receiver_objects_damaged": ["reason"],
    "receiver_run_late": ["run"],
}

SCRAPED: Mapping[str, str] = {
    "receiver_refusals": "Refused requests, by reason: deliveries, requests without an API token, and what"
    " is no HTTP.",
    "receiver_in_progress": "Jobs that each stage is working on; the stage ask exists only with a token of"
    " the provider.",
    "receiver_provider_up": "Whether each provider answered when it was last asked; absent without a token,"
    " and before the first question.",
    "receiver_ledger_writable": "Whether the ledger can be read, and took a commit for this scrape.",
    "receiver_workers_alive": "Whether all workers run, and can claim work.",
    "receiver_archive_up": "Whether the archive took something when it was last tried.",
    "receiver_queue_depth": "What waits: writes for the ledger's next commit, jobs for a download, images"
    " for the archive.",
    "receiver_spool_room_bytes": "Bytes that the spool still takes, by its limit and by the free room of its"
    " disk; 0 where the largest image does not fit.",
    "receiver_jobs": "Jobs by state.",
    "receiver_reconcile": "What came of asking the provider about jobs without a completion: found, one that"
    " no delivery had brought; asked, none, and the reason if there was no answer; late, its delivery"
    " came after all; adopted, a job that nobody had announced.",
    "receiver_notifications": "Attempts to notify RECEIVER_NOTIFY_URL of a final job, by outcome.",
    "receiver_objects_damaged": "Archived objects that the last audit found missing, altered, unproved or"
    " mislabelled, by reason. Must be 0.",
    "receiver_notifications_pending": f"Notifications that are still to be sent; counted up to {COUNTED_TO}.",
    "receiver_soonest_deadline_seconds": "Seconds until the first URL ends whose image is not safe yet;"
    " below zero when it has ended; absent where there is none.",
    "receiver_oldest_waiting_seconds": "Age of the job that waits the longest for its image to be archived.",
    "receiver_jobs_overdue": "Submitted jobs without a completion for longer than RECEIVER_OVERDUE_AFTER;"
    f" counted up to {COUNTED_TO}.",
    "receiver_jobs_at_risk": "Jobs whose image is not safe yet while less than a tenth of its URL's life is"
    f" left; counted up to {COUNTED_TO}.",
    "receiver_jobs_refused": "Jobs whose image is not safe yet and whose URL answered with what is not the"
    f" promised image; counted up to {COUNTED_TO}.",
    "receiver_images_lost": "Acknowledged jobs whose image is gone: its URL ended before it was safe, or the"
    " last audit did not find its object. Must be 0.",
    "receiver_run_late": "Whether no such run has ended within its setting, RECEIVER_BACKUP_EVERY or"
    " RECEIVER_AUDIT_EVERY; absent without the setting.",
    "receiver_spool_bytes": "Bytes of the images on the receiver's disk that wait for the archive.",
}
"""Texts of what is asked at each scrape: counters, and gauges."""

Value = float | Mapping[str, float] | Mapping[tuple[str, ...], float] | None
"""A sample, or samples by their labels; ``None`` for no sample."""


class Meters:
    """Counts what happens, as it happens. Its methods are the callbacks of `Instrumentation` and the ledger.

    The meters are registered in ``collectors``, with those of the process and of Python.
    """

    def __init__(self, collectors: CollectorRegistry, providers: Iterable[str] = ()) -> None:
        # Of the whole process: the library has no other switch.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        counter = partial(Counter, registry=collectors)
        histogram = partial(Histogram, registry=collectors)
        deliveries = counter(
            "receiver_deliveries",
            "Deliveries of proved senders, by outcome and provider; a duplicate changed nothing, an unread"
            " one was no completion, and an ignored one told of a job that has not ended.",
            ["outcome", "provider"],
        )
        self._deliveries = {
            (outcome, provider): deliveries.labels(outcome, provider)
            for provider in providers
            for outcome in DELIVERED
        }
        self._failures = {
            "fetch": counter(
                "receiver_fetch_failures",
                "Failed attempts to bring a verified image to the receiver's disk, by reason.",
                ["reason"],
            ),
            "archive": counter(
                "receiver_upload_failures",
                "Failed attempts to bring an image from the receiver's disk to the archive, by reason.",
                ["reason"],
            ),
        }
        self._failures["archive"].labels("archive.occupied")  # so that the first one is an increase
        span = partial(histogram, buckets=LONG_SECONDS)
        self._seconds = {
            "fetch": span("receiver_fetch_duration_seconds", "Duration of downloads that came whole."),
            "verify": span(
                "receiver_verify_duration_seconds", "Duration of verifying that an image is the promised one."
            ),
            "archive": span(
                "receiver_upload_duration_seconds",
                "Duration of putting an image into the archive and proving it there.",
            ),
        }
        self._bytes = {
            "fetch": counter("receiver_fetched_bytes", "Bytes of downloads that came whole."),
            "archive": counter("receiver_archived_bytes", "Bytes of images that were archived and proved."),
        }
        self._batch_size = histogram(
            "receiver_commit_batch_size", "Writes that shared one commit of the ledger.", buckets=BATCH_SIZES
        )
        self._commit_seconds = histogram(
            "receiver_commit_duration_seconds",
            "Duration of a commit of the ledger, until it was durable.",
            buckets=SHORT_SECONDS,
        )
        self.provider_up: dict[str, bool] = {}
        """Whether each provider answered when it was last asked."""
        ProcessCollector(registry=collectors)
        PlatformCollector(registry=collectors)
        GCCollector(registry=collectors)

    def on_step(self, step: Step) -> None:
        match step.name:
            case "delivery" if step.outcome is not None:
                self._deliveries[step.outcome, step.provider or ""].inc()
            case "confirm" | "ask":
                self.on_provider_result(step.provider or "", step.reason)
            case "fetch" | "verify" | "archive" if step.reason is None:
                self._seconds[step.name].observe(step.seconds)
                if step.name in self._bytes:
                    self._bytes[step.name].inc(step.bytes or 0)

    def on_failed_attempt(self, work: Work, reason: str) -> None:
        self._failures[work].labels(reason).inc()

    def on_provider_result(self, provider: str, reason: str | None) -> None:
        """Note whether a provider answered; the reason says why it did not."""
        self.provider_up[provider] = reason not in NO_ANSWER

    def on_commit(self, size: int, seconds: float) -> None:
        self._batch_size.observe(size)
        self._commit_seconds.observe(seconds)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The endpoint that Prometheus scrapes. A value that cannot be read is left out, not shown as zero.

    Attributes:
        overdue_after: how long a submitted job may stay without a completion.
        every: how often runs should end, by their names.
        spool_room: the bytes that the spool still takes beside so many that it holds.
        timeout: seconds that the ledger has to answer.
    """

    collectors: CollectorRegistry
    meters: Meters
    ledger: Ledger
    overdue_after: timedelta
    every: Mapping[str, timedelta]
    refusals: RefusalCounter
    in_progress: Callable[[], Mapping[str, int]]
    spool_room: Callable[[int], int]
    workers_alive: Probe
    archive_up: Probe
    timeout: float = LEDGER_SECONDS

    async def answer(self, request: Request) -> Response:
        params.nothing(request.query_params)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(await self.collect()), headers={"Content-Type": content_type})

    async def collect(self) -> Collector:
        overdue_before = overdue_cutoff(self.ledger.now(), self.overdue_after)
        stats, late, writable, workers, archive = await asyncio.gather(
            self._within_timeout(self.ledger.stats(overdue_before=overdue_before, counted_to=COUNTED_TO)),
            self._within_timeout(self._late()),
            self._within_timeout(self._writable()),
            self.workers_alive(),
            self.archive_up(),
        )
        queues = {"ledger": self.ledger.waiting}
        values: dict[str, Value] = {
            # The common reasons stand there from the beginning, so that their first burst is an increase.
            "receiver_refusals": {"auth.refused": 0, "auth.token_refused": 0, **self.refusals.counts},
            "receiver_in_progress": self.in_progress(),
            "receiver_provider_up": dict(self.meters.provider_up),
            "receiver_ledger_writable": stats is not None and writable is True,
            "receiver_workers_alive": workers is None,
            "receiver_archive_up": archive is None,
            "receiver_queue_depth": queues,
            "receiver_run_late": late or {},
        }
        if stats is not None:
            queues["fetch"] = stats.unclaimed(State.RECEIVED)
            queues["archive"] = stats.unclaimed(State.FETCHED)
            held = stats.spools.get(self.ledger.member.id, 0)
            values["receiver_spool_bytes"] = held
            values["receiver_spool_room_bytes"] = self._room(held)
            values |= _of_the_ledger(stats, self.ledger.now())
        version = {"version": metadata.version("upscale-receiver")}
        return _Families(
            [
                *self.collectors.collect(),
                InfoMetricFamily("receiver_build", "The running version.", version),
                InfoMetricFamily(
                    "receiver_instance",
                    "The receiver's name among those that share the ledger; empty where none can.",
                    {"name": self.ledger.member.name},
                ),
                *(_family(name, value) for name, value in values.items()),
            ]
        )

    async def _writable(self) -> bool:
        await self.ledger.check_writable()
        return True

    async def _late(self) -> dict[str, float]:
        ends = {name: await ended_at(self.ledger, name) for name in self.every}
        due = {name: self.ledger.now() - milliseconds(every) for name, every in self.every.items()}
        return {name: at is None or at < due[name] for name, at in ends.items()}

    async def _within_timeout(self, question: Awaitable[T]) -> T | None:
        """Return the ledger's answer, or ``None`` where it fails or takes too long."""
        try:
            async with asyncio.timeout(self.timeout):
                return await question
        except LedgerError as error:
            log.warning("not measured", what="ledger", reason=error.reason, detail=error.detail)
        except TimeoutError:
            log.warning("not measured", what="ledger", detail=f"No answer within {self.timeout:g} seconds.")
        return None

    def _room(self, held: int) -> int | None:
        try:
            return self.spool_room(held)
        except SpoolError as error:
            log.warning("not measured", what="spool", reason=error.reason, detail=error.detail)
            return None


def _of_the_ledger(stats: Stats, now: int) -> dict[str, Value]:
    asked: dict[tuple[str, ...], float] = {}
    for outcome in RECONCILED:
        # Those without a reason stand there from the beginning, so that their first one is an increase.
        for reason, times in {"": 0, **stats.counters.get(outcome, {})}.items():
            if not reason or reason in REASONS:  # an older version may have had others
                asked[outcome, reason] = times
    notifications = stats.counters.get(NOTIFICATIONS, {})
    deadline, oldest = stats.soonest_deadline, stats.oldest_waiting_at
    return {
        "receiver_jobs": {state.value: stats.jobs[state] for state in State},
        "receiver_reconcile": asked,
        "receiver_notifications": {it: notifications.get(it, 0) for it in NOTIFICATION_OUTCOMES},
        "receiver_objects_damaged": {"archive.missing": 0, **stats.damaged},
        "receiver_notifications_pending": stats.notifications_pending,
        "receiver_soonest_deadline_seconds": None if deadline is None else (deadline - now) / 1000,
        "receiver_oldest_waiting_seconds": 0 if oldest is None else max(now - oldest, 0) / 1000,
        "receiver_jobs_overdue": stats.overdue,
        "receiver_jobs_at_risk": stats.at_risk,
        "receiver_jobs_refused": stats.refused,
        "receiver_images_lost": stats.jobs[State.EXPIRED] + stats.damaged.get("archive.missing", 0),
    }


def _family(name: str, value: Value) -> Metric:
    kind = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
    family = kind(name, SCRAPED[name], labels=LABELS.get(name, []))
    if isinstance(value, Mapping):
        for key, number in value.items():
            family.add_metric([key] if isinstance(key, str) else key, number)
    elif value is not None:
        family.add_metric([], value)
    return family


class _Families(Collector):
    """Metrics that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
