"""Builds a receiver: opens everything in order, and passes each part to those that need it."""

import asyncio
import os
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
from receiver.archive.factory import open_archive
from receiver.archive.locator import ArchiveLocator
from receiver.bootstrap import factories
from receiver.config import Config
from receiver.core.concurrency import cancel
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.instrumentation import Instrumentation, Step
from receiver.core.paths import webhook_paths
from receiver.dashboard.image_zip import ImageZips
from receiver.dashboard.routes import Dashboard
from receiver.events.feed import Feed
from receiver.intake.endpoint import WebhookEndpoint
from receiver.ledger import DirectoryLock, Ledger
from receiver.operations import acceptance
from receiver.operations.delivery_trial import DeliveryTrials
from receiver.operations.integrity import look_for_damage
from receiver.operations.membership import Membership, while_leading
from receiver.operations.relocate import Relocator
from receiver.operations.retention import keep_pruning
from receiver.pipeline.kept_sources import KeptSources
from receiver.providers.base import Providers, Setup, is_proved_by_headers
from receiver.providers.registry import open_providers
from receiver.reconcile.reconciler import Reconciler
from receiver.telemetry.metrics import Meters, Metrics
from receiver.telemetry.tracing import from_environment
from receiver.web.challenge import installation_key
from receiver.web.clients import UnfinishedBodies
from receiver.web.direct import Direct
from receiver.web.middleware import application, is_admitted
from receiver.web.refusals import OnRefusal, RefusalCounter
from receiver.web.waiter_limit import WaiterLimit


@dataclass(frozen=True, slots=True)
class Receiver:
    """A running receiver.

    Attributes:
        stopping: to be set when no more is to be accepted, so that waiting clients are answered.
        unfinished: limits the requests whose body does not come.
        on_refusal: to be called with the reason of what is refused before it reaches the application.
        direct: routes of the application that can be answered past it, by path.
    """

    app: Starlette
    providers: Providers
    stopping: asyncio.Event
    unfinished: UnfinishedBodies
    on_refusal: OnRefusal
    direct: Mapping[bytes, Direct]


@asynccontextmanager
async def open_receiver(
    config: Config,
    environ: Mapping[str, str],
    failpoint: Failpoint = no_failpoint,
    *,
    max_waiters: int = 1_200,
) -> AsyncIterator[Receiver]:
    """Open ledger, spool and archive, start the worker, and yield the routes; then close all of it.

    The settings have passed `factories.check_settings`. In ``environ`` the AWS SDK's variables are looked up,
    beside the process's own. ``max_waiters`` clients may wait for changes at a time. Raise `LedgerError` if
    the data directory is in use, or its ledger is damaged or newer, `SpoolError` if the spool is unreadable.
    """
    async with AsyncExitStack() as stack:
        factories.make_data_dir(config)
        stack.callback(DirectoryLock(config.data_dir).release)
        collectors = CollectorRegistry()
        providers = open_providers(Setup(config, environ))
        meters = Meters(collectors, providers)
        observers = [meters.on_step]
        if (spans := from_environment(os.environ)) is not None:
            stack.push_async_callback(spans.aclose)
            observers.append(spans.on_step)
        instrumentation = Instrumentation(partial(_report, observers), meters.on_failed_attempt)
        ledger = await Ledger.serve(config.ledger_location, on_commit=meters.on_commit)
        stack.push_async_callback(ledger.close)
        membership = await stack.enter_async_context(Membership(ledger))
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
        # One TLS context for all clients of providers: to load the authorities takes 20 ms.
        is_any_asked = any(provider.has_token for provider in providers.values())
        verify = httpx.create_ssl_context() if is_any_asked else True
        on_result = meters.on_provider_result
        worker = await factories.start_worker(
            config,
            ledger,
            stack,
            archive=archive,
            asked=await factories.open_asked(providers, ledger, stack, on_result, verify=verify),
            instrumentation=instrumentation,
            failpoint=failpoint,
            leads=lambda: membership.leads,
        )
        reconcilers = await factories.open_reconcilers(
            config, providers, ledger, stack, on_result, instrumentation=instrumentation, verify=verify
        )
        stack.push_async_callback(cancel, [asyncio.create_task(look_for_damage(ledger))])
        stopping = asyncio.Event()
        feed = await stack.enter_async_context(Feed(ledger, stopping))
        thumbnails, previews, sources = await factories.open_pictures(config, archive, locator, stack)
        stack.callback(stopping.set)

        refusals = RefusalCounter()
        waiters = WaiterLimit(max_waiters)
        checks = readiness_checks(ledger, worker, reconcilers)
        webhooks = {
            path: WebhookEndpoint(
                ledger=ledger,
                provider=provider,
                max_bytes=config.max_webhook_bytes,
                now=ledger.now,
                refusals=refusals,
                confirm=config.confirm,
                instrumentation=instrumentation,
                failpoint=failpoint,
            )
            for provider in providers.values()
            for path in webhook_paths(provider.name)
        }
        api = Api(
            ledger=ledger,
            archive=locator,
            spool=worker.spool,
            overdue_after=config.overdue_after,
            stopping=stopping,
            checks=checks,
            refusals=refusals,
            waiters=waiters,
            providers=providers,
        )
        dashboard = Dashboard(
            ledger=ledger,
            find_refused=partial(acceptance.find_refused, ledger, worker.spool),
            accept_refused=partial(acceptance.accept, ledger, worker.spool),
            thumbnails=thumbnails,
            previews=previews,
            sources=archive,
            zips=ImageZips(ledger, locator, sources.scratch),
            trials=DeliveryTrials(
                ledger=ledger,
                providers=providers,
                address=str(config.public_url or "").rstrip("/"),
                confirm=config.confirm,
            ),
            waiters=waiters,
            failing=api.failing,
            working=lambda: worker.under_way,
            unasked=lambda: _why_providers_are_not_asked(providers, meters),
            overdue_after=config.overdue_after,
            providers={name: provider.title for name, provider in providers.items()},
        )
        stack.push_async_callback(dashboard.aclose)
        stack.push_async_callback(cancel, [asyncio.create_task(dashboard.count_archived())])
        metrics = Metrics(
            collectors=collectors,
            meters=meters,
            ledger=ledger,
            overdue_after=config.overdue_after,
            every=config.runs_every,
            refusals=refusals,
            in_progress=worker.in_progress,
            spool_room=worker.spool.room_bytes,
            workers_alive=checks["workers"],
            archive_up=checks["archive"],
        )

        relocator = Relocator(ledger, archive, locator)
        duties = partial(_duties, config, ledger, feed, sources, reconcilers=reconcilers, relocator=relocator)
        await stack.enter_async_context(while_leading(membership, duties))
        factories.start_alerts(config, ledger, metrics, stack, leads=lambda: membership.led_last)
        document = openapi.document(metadata.version("upscale-receiver"), providers.values())
        routes = [
            *(Route(path, webhook, methods=["POST"]) for path, webhook in webhooks.items()),
            ChangeStream(ledger, feed, waiters).route(),  # before /jobs/{id}, which would take its path
            *dashboard.routes(),
            *api.routes(),
            openapi.route(document),
            Route("/metrics", metrics.answer, methods=["GET"]),
        ]
        tokens = [token.get_secret_value() for token in config.api_tokens]
        unfinished = UnfinishedBodies(
            lambda headers: (
                is_admitted(tokens, headers)
                or any(is_proved_by_headers(provider, headers) for provider in providers.values())
            ),
            config.trusted_proxies,
        )
        app = application(routes, tokens, refusals, installation_key(config.data_dir))
        direct = {path.encode(): webhook.answer for path, webhook in webhooks.items()}
        yield Receiver(app, providers, stopping, unfinished, refusals.count, direct)


@asynccontextmanager
async def _duties(
    config: Config,
    ledger: Ledger,
    feed: Feed,
    sources: KeptSources,
    *,
    reconcilers: Sequence[Reconciler],
    relocator: Relocator,
) -> AsyncIterator[None]:
    """Do what one receiver does for all that share the ledger."""
    async with AsyncExitStack() as stack:
        for reconciler in reconcilers:
            reconciler.start()
            stack.push_async_callback(reconciler.stop)
        await factories.open_outgoing_webhooks(config, ledger, feed, stack)
        await factories.start_keeping_sources(config, ledger, feed, sources, stack)
        loops = [keep_pruning(ledger, config.keep_history), relocator.run()]
        stack.push_async_callback(cancel, [asyncio.create_task(loop) for loop in loops])
        yield


def _report(observers: Sequence[Callable[[Step], None]], step: Step) -> None:
    for on_step in observers:
        on_step(step)


def _why_providers_are_not_asked(providers: Providers, meters: Meters) -> str | None:
    for provider in providers.values():
        if not provider.has_token:
            return f"{provider.token_setting} is not set: the provider is not asked about silent jobs."
        if meters.provider_up.get(provider.name) is False:
            answer = "The provider gave no answer when it was last asked, or refused the token"
            return f"{answer}: the log says which."
    return None
