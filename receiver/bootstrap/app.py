"""Builds everything and hands it in."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from receiver.api import openapi, params
from receiver.api.health import checks
from receiver.api.routes import Api
from receiver.api.sse import Stream
from receiver.archive import open_archive
from receiver.archive.locator import ArchiveLocator
from receiver.bootstrap import factories
from receiver.config import Config
from receiver.core.clock import monotonic_clock, wall_clock
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.instrumentation import Instrumentation, Step
from receiver.core.paths import WEBHOOK_PATHS
from receiver.dashboard import Page, Sources, Work
from receiver.events.feed import Feed
from receiver.intake.authentication import Authenticator
from receiver.intake.endpoint import WebhookEndpoint
from receiver.ledger import DirectoryLock, Ledger
from receiver.operations.retention import Pruner
from receiver.pipeline.archive_stage import ArchiveStage
from receiver.pipeline.fetch_stage import FetchPlan, FetchStage
from receiver.pipeline.spool import Spool
from receiver.pipeline.worker import Worker
from receiver.reconcile.reconciler import Reconciler
from receiver.telemetry.metrics import Meters, Metrics
from receiver.telemetry.tracing import Tracing, from_environment
from receiver.web.challenge import installation_key, prove
from receiver.web.middleware import application
from receiver.web.refusals import OnRefusal, RefusalCounter, ignore_refusal
from receiver.web.waiter_limit import WaiterLimit

MAX_WAITERS = 1_200
"""Clients that may wait for changes at a time, where the server does not say how many it has room for."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver that is open and working.

    Attributes:
        app: the routes.
        stopping: to be set when no more is to be accepted, so that those who wait are answered.
        refused: to be told the reason of what is refused before it reaches a route.
    """

    app: Starlette
    stopping: asyncio.Event
    refused: OnRefusal = ignore_refusal


@asynccontextmanager
async def open_receiver(
    config: Config,
    environ: Mapping[str, str],
    failpoint: Failpoint = no_failpoint,
    *,
    max_waiters: int = MAX_WAITERS,
) -> AsyncIterator[Receiver]:
    """Opens ledger, spool and archive, starts the worker, and yields the routes; then closes all of it.

    Args:
        config: as it passed `opening.check`.
        environ: where the AWS SDK's variables are looked up beside the process's own.
        failpoint: for tests.
        max_waiters: how many may wait for changes at a time.

    Raises:
        LedgerError: the data directory is in use, or its ledger is damaged or of a newer version.
        SpoolError: the spool cannot be read.
    """
    async with AsyncExitStack() as stack:
        works = await _start(config, environ, failpoint, stack)
        stopping = asyncio.Event()
        feed = await stack.enter_async_context(Feed(works.ledger, stopping))
        await factories.open_notifier(config, works.ledger, feed, stack)
        stack.callback(stopping.set)
        refusals = RefusalCounter()
        waiters = WaiterLimit(max_waiters)
        routes = await _routes(config, works, _Front(stopping, feed, refusals, waiters, failpoint), stack)
        tokens = [token.get_secret_value() for token in config.api_tokens]
        yield Receiver(application(routes, tokens, refusals), stopping, refusals.count)


@dataclass(frozen=True, slots=True)
class _Works:
    """What works whether or not anybody asks.

    Attributes:
        ledger: of all jobs.
        places: where archived images are read.
        spool: images on their way.
        worker: fetches and archives.
        reconciler: asks about silent jobs; ``None`` without a token.
        collectors: where all is measured.
        meters: what is counted while it happens.
        instrumentation: told of every step of a job's way.
    """

    ledger: Ledger
    places: ArchiveLocator
    spool: Spool
    worker: Worker
    reconciler: Reconciler | None
    collectors: CollectorRegistry
    meters: Meters
    instrumentation: Instrumentation


@dataclass(frozen=True, slots=True)
class _Front:
    """What the routes share.

    Attributes:
        stopping: set when no more is to be accepted.
        feed: of the transitions.
        refusals: counted.
        waiters: for those who wait.
        failpoint: for tests.
    """

    stopping: asyncio.Event
    feed: Feed
    refusals: RefusalCounter
    waiters: WaiterLimit
    failpoint: Failpoint


async def _start(
    config: Config, environ: Mapping[str, str], failpoint: Failpoint, stack: AsyncExitStack
) -> _Works:
    """Opens ledger, archive and spool, and starts all that works on jobs."""
    factories.make_data_dir(config)
    lock = DirectoryLock(config.data_dir)
    stack.callback(lock.release)
    collectors = CollectorRegistry()
    meters = Meters(collectors)
    tracing = from_environment(os.environ)
    if tracing is not None:
        stack.push_async_callback(tracing.aclose)
    instrumentation = Instrumentation(_both(meters, tracing), meters.failed)
    ledger = await Ledger.serve(config.data_dir, on_commit=meters.committed)
    stack.push_async_callback(ledger.close)
    archive = open_archive(
        config.archive_uri,
        uploads=config.uploads,
        environ=environ,
        used=await factories.was_used(ledger, config.archive_uri),
    )
    stack.push_async_callback(archive.aclose)
    places = ArchiveLocator(archive, environ)
    stack.push_async_callback(places.aclose)
    verifier = await stack.enter_async_context(factories.verifier(config))
    spool = Spool(
        config.data_dir / "spool",
        max_bytes=config.max_spool_bytes,
        max_image_bytes=config.max_image_bytes,
    )
    fetch_stage = FetchStage(
        ledger=ledger,
        fetcher=await stack.enter_async_context(factories.fetcher(config)),
        verifier=verifier,
        spool=spool,
        provider=await factories.open_provider(config, stack, meters.heard),
        plan=FetchPlan(config.fetches, factories.FETCH_TIME, config.url_lifetime, config.confirm),
        now=wall_clock,
        jitter=random.random,
        instrumentation=instrumentation,
        failpoint=failpoint,
    )
    archive_stage = ArchiveStage(
        ledger=ledger,
        archive=archive,
        spool=spool,
        verifier=verifier,
        concurrency=config.uploads,
        key=config.archive_key,
        now=wall_clock,
        jitter=random.random,
        instrumentation=instrumentation,
        failpoint=failpoint,
    )
    worker = Worker(
        ledger=ledger,
        spool=spool,
        fetch_stage=fetch_stage,
        archive_stage=archive_stage,
        now=wall_clock,
        monotonic=monotonic_clock,
    )
    await worker.start()
    stack.push_async_callback(worker.stop)
    reconciler = await factories.open_reconciler(config, ledger, stack, meters.heard, instrumentation)
    if reconciler is not None:
        reconciler.start()
        stack.push_async_callback(reconciler.stop)
    pruner = Pruner(ledger=ledger, keep=config.keep_history, now=wall_clock)
    pruner.start()
    stack.push_async_callback(pruner.stop)
    return _Works(ledger, places, spool, worker, reconciler, collectors, meters, instrumentation)


async def _routes(config: Config, works: _Works, front: _Front, stack: AsyncExitStack) -> Sequence[Route]:
    """All that can be asked for, in the order in which the routes are tried."""
    looks = checks(works.ledger, works.worker, works.reconciler)
    intake = WebhookEndpoint(
        ledger=works.ledger,
        authenticator=Authenticator.from_config(config),
        max_bytes=config.max_webhook_bytes,
        url_lifetime=config.url_lifetime,
        now=wall_clock,
        refusals=front.refusals,
        confirm=config.confirm,
        instrumentation=works.instrumentation,
        failpoint=front.failpoint,
    )
    api = Api(
        ledger=works.ledger,
        archive=works.places,
        overdue_after=config.overdue_after,
        now=wall_clock,
        stopping=front.stopping,
        checks=looks,
        refusals=front.refusals,
        prove=partial(prove, installation_key(config.data_dir)),
        waiters=front.waiters,
    )
    page = Page(
        ledger=works.ledger,
        thumbnails=await factories.open_thumbnails(config, works.places, stack),
        sources=Sources(
            failing=api.failing,
            working=lambda: _working(works.worker),
            unasked=lambda: _unasked(config, works.meters),
        ),
        overdue_after=config.overdue_after,
        outcomes=params.UNREAD_OUTCOMES,
        now=wall_clock,
    )
    await stack.enter_async_context(factories.kept(page))
    stream = Stream(works.ledger, front.feed, front.waiters)
    look = {check.name: check.look for check in looks}
    metrics = Metrics(
        collectors=works.collectors,
        meters=works.meters,
        ledger=works.ledger,
        overdue_after=config.overdue_after,
        now=wall_clock,
        refusals=front.refusals,
        in_progress=works.worker.in_progress,
        spool_room=works.spool.room_bytes,
        workers_alive=look["workers"],
        archive_up=look["archive"],
    )
    return [
        # The provider tries once: a slash too many in the submitter's settings must not cost the image.
        *(Route(path, intake.deliver, methods=["POST"]) for path in WEBHOOK_PATHS),
        *stream.routes(),
        *page.routes(),
        *api.routes(),
        openapi.route(_document(config)),
        Route("/metrics", metrics.answer, methods=["GET"]),
    ]


def _both(meters: Meters, tracing: Tracing | None) -> Callable[[Step], None]:
    if tracing is None:
        return meters.ended

    def ended(step: Step) -> None:
        meters.ended(step)
        tracing.ended(step)

    return ended


def _working(worker: Worker) -> Sequence[Work]:
    return [Work(stage, claim.job, seconds) for stage, claim, seconds in worker.under_way]


def _unasked(config: Config, meters: Meters) -> str | None:
    if config.ximilar_api_token is None:
        return "XIMILAR_API_TOKEN is not set: the provider is not asked about silent jobs."
    if meters.provider_up is False:
        return "The provider gave no answer when it was last asked, or refused the token: the log says which."
    return None


def _document(config: Config) -> openapi.Json:
    version = metadata.version("upscale-receiver")
    return openapi.document(version, tuple(config.webhook_headers), tickets=bool(config.signing_keys))
