"""``GET /metrics``: counters that the rooms feed, and gauges that are asked of the ledger at each scrape.

Everything hangs on a registry that is passed in; the library's own global one is left alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from receiver.api import params
from receiver.core.errors import REASONS, LedgerError, SpoolError
from receiver.core.instrumentation import Step, Work
from receiver.core.jobs import State, overdue_cutoff
from receiver.ledger import COUNTED_TO, NOTIFICATION_OUTCOMES, NOTIFICATIONS, RECONCILED, Ledger, Stats
from receiver.web.refusals import RefusalCounter

T = TypeVar("T")

log = structlog.get_logger("receiver.metrics")

PATIENCE_SECONDS = 3.0
"""How long a scrape waits for an answer. Prometheus itself waits for 10 seconds, and then knows nothing."""

LONG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

DELIVERED = ("recorded", "duplicate", "unread")

LEDGER_GAUGES = {
    "receiver_soonest_deadline_seconds": (
        "Seconds until the first URL ends whose image is not safe yet; below zero when it has ended; absent"
        " where there is none."
    ),
    "receiver_oldest_waiting_seconds": (
        "Age of the job that waits the longest for its image to be archived."
    ),
    "receiver_jobs_overdue": (
        "Submitted jobs without a completion for longer than RECEIVER_OVERDUE_AFTER; counted up to"
        f" {COUNTED_TO}."
    ),
    "receiver_jobs_at_risk": (
        "Jobs whose image is not safe yet while less than a tenth of its URL's life is left; counted up to"
        f" {COUNTED_TO}."
    ),
    "receiver_images_lost": (
        "Acknowledged jobs whose image is gone: its URL ended before it was safe, or the last audit did not"
        " find its object. Must be 0."
    ),
    "receiver_spool_bytes": "Bytes of the images on the receiver's disk that wait for the archive.",
}

NO_ANSWER = frozenset({"provider.unavailable", "provider.token_refused"})
"""Reasons with which a provider is taken to be down; any other word of it is an answer."""

Look = Callable[[], Awaitable[str | None]]
"""Gives what is wrong in a sentence, or ``None``."""


class Meters:
    """What is counted while it happens. Its methods are what a `Instrumentation` and the ledger call.

    Args:
        collectors: where the meters are registered, with those of the process and of Python.
    """

    def __init__(self, collectors: CollectorRegistry) -> None:
        self._deliveries = Counter(
            "receiver_deliveries",
            "Deliveries of proved senders, by outcome; a duplicate changed nothing, and an unread one was no"
            " completion.",
            ["outcome"],
            registry=None,
        )
        self._delivered = {outcome: self._deliveries.labels(outcome) for outcome in DELIVERED}
        self._fetch_failures = Counter(
            "receiver_fetch_failures",
            "Failed attempts to bring a verified image to the receiver's disk, by reason.",
            ["reason"],
            registry=None,
        )
        self._upload_failures = Counter(
            "receiver_upload_failures",
            "Failed attempts to bring an image from the receiver's disk to the archive, by reason.",
            ["reason"],
            registry=None,
        )
        self._fetch_seconds = Histogram(
            "receiver_fetch_duration_seconds",
            "Duration of downloads that came whole.",
            buckets=LONG_SECONDS,
            registry=None,
        )
        self._fetched_bytes = Counter(
            "receiver_fetched_bytes", "Bytes of downloads that came whole.", registry=None
        )
        self._verify_seconds = Histogram(
            "receiver_verify_duration_seconds",
            "Duration of verifying that an image is the promised one.",
            buckets=LONG_SECONDS,
            registry=None,
        )
        self._upload_seconds = Histogram(
            "receiver_upload_duration_seconds",
            "Duration of putting an image into the archive and proving it there.",
            buckets=LONG_SECONDS,
            registry=None,
        )
        self._archived_bytes = Counter(
            "receiver_archived_bytes", "Bytes of images that were archived and proved.", registry=None
        )
        self._batch_size = Histogram(
            "receiver_commit_batch_size",
            "Writes that shared one commit of the ledger.",
            buckets=BATCH_SIZES,
            registry=None,
        )
        self._commit_seconds = Histogram(
            "receiver_commit_duration_seconds",
            "Duration of a commit of the ledger, until it was durable.",
            buckets=SHORT_SECONDS,
            registry=None,
        )
        self.provider_up: bool | None = None
        """Whether the provider answered when it was last asked; ``None`` before the first question."""
        for meter in (
            self._deliveries,
            self._fetch_failures,
            self._upload_failures,
            self._fetch_seconds,
            self._fetched_bytes,
            self._verify_seconds,
            self._upload_seconds,
            self._archived_bytes,
            self._batch_size,
            self._commit_seconds,
        ):
            collectors.register(_Plain(meter))
        ProcessCollector(registry=collectors)
        PlatformCollector(registry=collectors)
        GCCollector(registry=collectors)

    def ended(self, step: Step) -> None:
        """A step of a job's way has ended."""
        match step.name:
            case "delivery" if step.outcome is not None:
                self._delivered[step.outcome].inc()
            case "confirm" | "ask":
                self.heard(step.reason)
            case "fetch" if step.reason is None:
                self._fetch_seconds.observe(step.seconds)
                self._fetched_bytes.inc(step.bytes or 0)
            case "verify" if step.reason is None:
                self._verify_seconds.observe(step.seconds)
            case "archive" if step.reason is None:
                self._upload_seconds.observe(step.seconds)
                self._archived_bytes.inc(step.bytes or 0)

    def failed(self, work: Work, reason: str) -> None:
        """An attempt at a job failed."""
        meter = self._fetch_failures if work == "fetch" else self._upload_failures
        meter.labels(reason).inc()

    def heard(self, reason: str | None) -> None:
        """The provider was asked; the reason says why it gave no answer, if it gave none."""
        self.provider_up = reason not in NO_ANSWER

    def committed(self, size: int, seconds: float) -> None:
        """The ledger has committed so many writes at once."""
        self._batch_size.observe(size)
        self._commit_seconds.observe(seconds)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The page that Prometheus reads.

    What cannot be known at the moment is left out; no zero stands for it.

    Attributes:
        collectors: the registry of the meters.
        meters: asked for the provider.
        ledger: asked for the gauges.
        overdue_after: how long a submitted job may be silent.
        now: the time, ms since the epoch.
        refusals: of deliveries and requests, counted.
        in_progress: how many jobs each stage works on.
        spool_room: the bytes that the spool still takes beside so many that it holds.
        workers_alive: what is wrong with the workers.
        archive_up: what is wrong with the archive.
        patience: seconds that the ledger is given to answer.
    """

    collectors: CollectorRegistry
    meters: Meters
    ledger: Ledger
    overdue_after: timedelta
    now: Callable[[], int]
    refusals: RefusalCounter
    in_progress: Callable[[], Mapping[str, int]]
    spool_room: Callable[[int], int]
    workers_alive: Look
    archive_up: Look
    patience: float = PATIENCE_SECONDS

    async def answer(self, request: Request) -> Response:
        """``GET /metrics``."""
        params.nothing(request.query_params)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(await self.page()), headers={"Content-Type": content_type})

    async def page(self) -> Collector:
        """Everything as it is now."""
        read, writable, workers, archive = await asyncio.gather(
            self._patiently("ledger", self._stats()),
            self._patiently("ledger", self._writable()),
            self.workers_alive(),
            self.archive_up(),
        )
        return _Page(
            [
                *self.collectors.collect(),
                *self._of_the_process(),
                *self._queues(read),
                *_of_the_ledger(read, self.now()),
                _gauge(
                    "receiver_spool_room_bytes",
                    "Bytes that the spool still takes, by its limit and by the free room of its disk.",
                    None if read is None else self._room(read.bytes[State.FETCHED]),
                ),
                _gauge(
                    "receiver_ledger_writable",
                    "Whether the ledger can be read, and took a commit for this scrape.",
                    read is not None and writable is True,
                ),
                _gauge(
                    "receiver_workers_alive",
                    "Whether all workers run, and can claim work.",
                    workers is None,
                ),
                _gauge(
                    "receiver_archive_up",
                    "Whether the archive took something when it was last tried.",
                    archive is None,
                ),
            ]
        )

    async def _stats(self) -> Stats:
        return await self.ledger.stats(
            overdue_before=overdue_cutoff(self.now(), self.overdue_after), counted_to=COUNTED_TO
        )

    async def _writable(self) -> bool:
        await self.ledger.check_writable()
        return True

    async def _patiently(self, what: str, question: Awaitable[T]) -> T | None:
        """The answer, or ``None`` where it fails or takes too long."""
        try:
            async with asyncio.timeout(self.patience):
                return await question
        except LedgerError as error:
            log.warning("not measured", what=what, reason=error.reason, detail=error.detail)
        except TimeoutError:
            log.warning("not measured", what=what, detail=f"No answer within {self.patience:g} seconds.")
        return None

    def _room(self, held: int) -> int | None:
        try:
            return self.spool_room(held)
        except SpoolError as error:
            log.warning("not measured", what="spool", reason=error.reason, detail=error.detail)
            return None

    def _of_the_process(self) -> Iterable[Metric]:
        yield InfoMetricFamily(
            "receiver_build", "The running version.", {"version": metadata.version("upscale-receiver")}
        )
        refusals = CounterMetricFamily(
            "receiver_refusals",
            "Refused requests, by reason: deliveries, requests without an API token, and what is no HTTP.",
            labels=["reason"],
        )
        # The common ones stand there from the beginning, so that their first burst is an increase.
        counts = {"auth.refused": 0, "auth.token_refused": 0, **self.refusals.counts}
        for reason, times in sorted(counts.items()):
            refusals.add_metric([reason], times)
        yield refusals
        in_progress = GaugeMetricFamily(
            "receiver_in_progress",
            "Jobs that each stage is working on; the stage ask exists only with a token of the provider.",
            labels=["stage"],
        )
        for stage, jobs in self.in_progress().items():
            in_progress.add_metric([stage], jobs)
        yield in_progress
        yield _gauge(
            "receiver_provider_up",
            "Whether the provider answered when it was last asked; absent without a token, and before the"
            " first question.",
            self.meters.provider_up,
        )

    def _queues(self, read: Stats | None) -> Iterable[Metric]:
        depth = GaugeMetricFamily(
            "receiver_queue_depth",
            "What waits: writes for the ledger's next commit, jobs for a download, images for the archive.",
            labels=["queue"],
        )
        depth.add_metric(["ledger"], self.ledger.waiting)
        if read is not None:
            depth.add_metric(["fetch"], read.unclaimed(State.RECEIVED))
            depth.add_metric(["archive"], read.unclaimed(State.FETCHED))
        yield depth


def _of_the_ledger(read: Stats | None, now: int) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("receiver_jobs", "Jobs by state.", labels=["state"])
    reconcile = CounterMetricFamily(
        "receiver_reconcile",
        "What came of asking the provider about jobs without a completion: found, one that no delivery had"
        " brought; asked, none, and the reason if there was no answer; late, its delivery came after all;"
        " adopted, a job that nobody had announced.",
        labels=["outcome", "reason"],
    )
    if read is not None:
        for state in State:
            jobs.add_metric([state.value], read.jobs[state])
        for outcome in RECONCILED:
            # Those without a reason stand there from the beginning, so that their first one is an increase.
            for reason, times in sorted({"": 0, **read.counters.get(outcome, {})}.items()):
                if not reason or reason in REASONS:  # an older version may have had others
                    reconcile.add_metric([outcome, reason], times)
    yield jobs
    yield reconcile
    yield from _of_notifications(read)
    damaged = GaugeMetricFamily(
        "receiver_objects_damaged",
        "Archived objects that the last audit found missing, altered, unproved or mislabelled, by reason."
        " Must be 0.",
        labels=["reason"],
    )
    for reason, objects in sorted({} if read is None else {"archive.missing": 0, **read.damaged}.items()):
        damaged.add_metric([reason], objects)
    yield damaged
    values = {} if read is None else _values(read, now)
    for name, text in LEDGER_GAUGES.items():
        yield _gauge(name, text, values.get(name))


def _of_notifications(read: Stats | None) -> Iterable[Metric]:
    told = CounterMetricFamily(
        "receiver_notifications",
        "Attempts to notify RECEIVER_NOTIFY_URL of a final job, by outcome.",
        labels=["outcome"],
    )
    if read is not None:
        for outcome in NOTIFICATION_OUTCOMES:
            told.add_metric([outcome], read.counters.get(NOTIFICATIONS, {}).get(outcome, 0))
    yield told
    yield _gauge(
        "receiver_notifications_pending",
        f"Notifications that are still to be sent; counted up to {COUNTED_TO}.",
        None if read is None else read.notifications_pending,
    )


def _values(read: Stats, now: int) -> dict[str, float | None]:
    deadline, oldest = read.soonest_deadline, read.oldest_waiting_at
    return {
        "receiver_soonest_deadline_seconds": None if deadline is None else (deadline - now) / 1000,
        "receiver_oldest_waiting_seconds": 0 if oldest is None else max(now - oldest, 0) / 1000,
        "receiver_jobs_overdue": read.overdue,
        "receiver_jobs_at_risk": read.at_risk,
        "receiver_images_lost": read.jobs[State.EXPIRED] + read.damaged.get("archive.missing", 0),
        "receiver_spool_bytes": read.bytes[State.FETCHED],
    }


def _gauge(name: str, text: str, value: float | None) -> Metric:
    """A gauge; without a sample where its value is not known."""
    return GaugeMetricFamily(name, text, value)


class _Page(Collector):
    """Families that were gathered already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Plain(Collector):
    """A meter without its ``_created`` samples, which only a switch of the whole process turns off."""

    def __init__(self, meter: Counter | Histogram) -> None:
        self._meter = meter

    def collect(self) -> Iterable[Metric]:
        for family in self._meter.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family
