"""Builds a receiver: opens everything in order, and passes each part to those that need it."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata

import httpx
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from receiver.api import openapi
from receiver.api.health import readiness_checks
from receiver.api.routes import Api
from receiver.api.sse import ChangeStream
from receiver.archive.base import open_archive
from receiver.archive.locator import ArchiveLocator
from receiver.bootstrap import factories
from receiver.config import Config
from receiver.core.clock import monotonic_clock, wall_clock
from receiver.core.concurrency import cancel
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.instrumentation import Instrumentation, Step
from receiver.core.paths import WEBHOOK_PATHS
from receiver.dashboard import Dashboard, Work
from receiver.events.feed import Feed
from receiver.intake.authentication import Authenticator
from receiver.intake.endpoint import WebhookEndpoint
from receiver.ledger import DirectoryLock, Ledger
from receiver.operations.relocate import Relocator
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
from receiver.web.refusals import OnRefusal, RefusalCounter
from receiver.web.waiter_limit import WaiterLimit

MAX_WAITERS = 1_200
"""Clients that may wait for changes at a time, unless the caller sets another limit."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver that is open and working.

    Attributes:
        app: the routes behind the middleware.
        stopping: to be set when no more is to be accepted, so that waiting clients are answered.
        on_refusal: to be called with the reason of what is refused before it reaches the application.
    """

    app: Starlette
    stopping: asyncio.Event
    on_refusal: OnRefusal


@asynccontextmanager
async def open_receiver(
    config: Config,
    environ: Mapping[str, str],
    failpoint: Failpoint = no_failpoint,
    *,
    max_waiters: int = MAX_WAITERS,
) -> AsyncIterator[Receiver]:
    """Open ledger, spool and archive, start the worker, and yield the routes; then close all of it.

    Args:
        config: as it passed `factories.check_settings`.
        environ: where the AWS SDK's variables are looked up beside the process's own.
        failpoint: for tests.
        max_waiters: how many clients may wait for changes at a time.

    Raises:
        LedgerError: the data directory is in use, or its ledger is damaged or of a newer version.
        SpoolError: the spool cannot be read.
    """
    async with AsyncExitStack() as stack:
        services = await _open_services(config, environ, failpoint, stack)
        routes = await _routes(config, services, WaiterLimit(max_waiters), failpoint, stack)
        tokens = [token.get_secret_value() for token in config.api_tokens]
        refusals = services.refusals
        yield Receiver(application(routes, tokens, refusals), services.stopping, refusals.count)


@dataclass(frozen=True, slots=True)
class _Services:
    """What works whether or not a request comes; the routes are built on it."""

    ledger: Ledger
    locator: ArchiveLocator
    spool: Spool
    worker: Worker
    reconciler: Reconciler | None
    feed: Feed
    collectors: CollectorRegistry
    meters: Meters
    refusals: RefusalCounter
    instrumentation: Instrumentation
    stopping: asyncio.Event


async def _open_services(
    config: Config, environ: Mapping[str, str], failpoint: Failpoint, stack: AsyncExitStack
) -> _Services:
    """Open ledger, archive and spool, and start the worker and the loops."""
    factories.make_data_dir(config)
    lock = DirectoryLock(config.data_dir)
    stack.callback(lock.release)
    collectors = CollectorRegistry()
    meters = Meters(collectors)
    tracing = from_environment(os.environ)
    if tracing is not None:
        stack.push_async_callback(tracing.aclose)
    instrumentation = Instrumentation(_on_step(meters, tracing), meters.on_failed_attempt)
    ledger = await Ledger.serve(config.data_dir, on_commit=meters.on_commit)
    stack.push_async_callback(ledger.close)
    archive = open_archive(
        config.archive_uri,
        uploads=config.uploads,
        environ=environ,
        used=await factories.is_archive_used(ledger, config.archive_uri),
        public_url=factories.public_endpoint(config),
    )
    stack.push_async_callback(archive.aclose)
    locator = ArchiveLocator(archive, environ, public_url=factories.public_endpoint(config))
    stack.push_async_callback(locator.aclose)
    verifier = await stack.enter_async_context(factories.new_verifier(config))
    spool = Spool(
        config.data_dir / "spool",
        max_bytes=config.max_spool_bytes,
        max_image_bytes=config.max_image_bytes,
    )
    # One TLS context for both clients of the provider: to load the authorities takes 20 ms.
    verify = httpx.create_ssl_context() if config.ximilar_api_token else True
    fetch_stage = FetchStage(
        ledger=ledger,
        fetcher=await stack.enter_async_context(factories.new_fetcher(config)),
        verifier=verifier,
        spool=spool,
        provider=await factories.open_provider(config, stack, meters.on_provider_result, verify=verify),
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
    reconciler = await factories.open_reconciler(
        config, ledger, stack, meters.on_provider_result, instrumentation, verify=verify
    )
    if reconciler is not None:
        reconciler.start()
        stack.push_async_callback(reconciler.stop)
    pruner = Pruner(ledger=ledger, keep=config.keep_history, now=wall_clock)
    pruner.start()
    stack.push_async_callback(pruner.stop)
    relocator = Relocator(ledger, archive, locator)
    relocator.start()
    stack.push_async_callback(relocator.stop)
    stopping = asyncio.Event()
    feed = await stack.enter_async_context(Feed(ledger, stopping))
    await factories.open_outgoing_webhooks(config, ledger, feed, stack)
    stack.callback(stopping.set)
    return _Services(
        ledger=ledger,
        locator=locator,
        spool=spool,
        worker=worker,
        reconciler=reconciler,
        feed=feed,
        collectors=collectors,
        meters=meters,
        refusals=RefusalCounter(),
        instrumentation=instrumentation,
        stopping=stopping,
    )


async def _routes(
    config: Config, services: _Services, waiters: WaiterLimit, failpoint: Failpoint, stack: AsyncExitStack
) -> Sequence[Route]:
    """Return all routes, in the order in which they are tried."""
    ledger = services.ledger
    checks = readiness_checks(ledger, services.worker, services.reconciler)
    webhook = WebhookEndpoint(
        ledger=ledger,
        authenticator=Authenticator.from_config(config),
        max_bytes=config.max_webhook_bytes,
        url_lifetime=config.url_lifetime,
        now=wall_clock,
        refusals=services.refusals,
        confirm=config.confirm,
        instrumentation=services.instrumentation,
        failpoint=failpoint,
    )
    api = Api(
        ledger=ledger,
        archive=services.locator,
        overdue_after=config.overdue_after,
        now=wall_clock,
        stopping=services.stopping,
        checks=checks,
        refusals=services.refusals,
        prove=partial(prove, installation_key(config.data_dir)),
        waiters=waiters,
    )
    dashboard = Dashboard(
        ledger=ledger,
        thumbnails=await factories.open_thumbnails(config, services.locator, stack),
        failing=api.failing,
        working=lambda: [Work(stage, claim.job, age) for stage, claim, age in services.worker.under_way],
        unasked=lambda: _why_provider_is_not_asked(config, services.meters),
        overdue_after=config.overdue_after,
        now=wall_clock,
    )
    counting = asyncio.create_task(dashboard.count_archived(), name="throughput")
    stack.push_async_callback(cancel, [counting])
    probes = {check.name: check.probe for check in checks}
    metrics = Metrics(
        collectors=services.collectors,
        meters=services.meters,
        ledger=ledger,
        overdue_after=config.overdue_after,
        now=wall_clock,
        refusals=services.refusals,
        in_progress=services.worker.in_progress,
        spool_room=services.spool.room_bytes,
        workers_alive=probes["workers"],
        archive_up=probes["archive"],
    )
    document = openapi.document(
        metadata.version("upscale-receiver"),
        tuple(config.webhook_headers),
        tickets=bool(config.signing_keys),
    )
    return [
        *(Route(path, webhook.deliver, methods=["POST"]) for path in WEBHOOK_PATHS),
        ChangeStream(ledger, services.feed, waiters).route(),  # before /jobs/{id}, which would take its path
        *dashboard.routes(),
        *api.routes(),
        openapi.route(document),
        Route("/metrics", metrics.answer, methods=["GET"]),
    ]


def _on_step(meters: Meters, tracing: Tracing | None) -> Callable[[Step], None]:
    if tracing is None:
        return meters.on_step

    def on_step(step: Step) -> None:
        meters.on_step(step)
        tracing.on_step(step)

    return on_step


def _why_provider_is_not_asked(config: Config, meters: Meters) -> str | None:
    if config.ximilar_api_token is None:
        return "XIMILAR_API_TOKEN is not set: the provider is not asked about silent jobs."
    if meters.provider_up is False:
        return "The provider gave no answer when it was last asked, or refused the token: the log says which."
    return None
