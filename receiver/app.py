"""Builds everything and hands it in."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from receiver import openapi, query, submitting
from receiver.api import Api, Check, RequireToken, SameOrigin
from receiver.archive import Images, check_template, open_archive
from receiver.archive.places import Places
from receiver.archiving import Archiving
from receiver.config import Config
from receiver.cuts import Cut, no_cut
from receiver.errors import REASONS, ConfigError, LedgerError, ReceiverError, SpoolError
from receiver.feed import Feed
from receiver.fetch import fetch
from receiver.fetch.sources import Sources as ImageSources
from receiver.fetching import Fetching, FetchPlan
from receiver.intake import Intake
from receiver.ledger import DirectoryLock, Filter, Ledger, monotonic_clock, wall_clock
from receiver.metrics import Meters, Metrics
from receiver.notify import Notifier
from receiver.page import THUMBNAIL_MEMORY, Page, Sources, Thumbnails, Work
from receiver.problem import for_no_route, for_our_error
from receiver.pruning import Pruner
from receiver.reconcile import Plan as ReconcilePlan
from receiver.reconcile import Reconciler
from receiver.refusals import Refusals, Refused, untold
from receiver.seats import Seats
from receiver.sender import Sender
from receiver.spool import Spool
from receiver.states import State
from receiver.steps import UNWATCHED, Step, Watch
from receiver.stream import Stream
from receiver.tracing import Tracing, from_environment
from receiver.verify import Limits as VerifyLimits
from receiver.verify import Verifier
from receiver.worker import Worker
from receiver.ximilar import Heard, Pace, Ximilar, unheard

log = structlog.get_logger("receiver.app")

FETCH_TIME = timedelta(minutes=10)
"""The longest that one download may take."""


SETTLED_AT_A_TIME = 10
"""Submissions of unknown fate that a round of reconciling asks about; each can take many questions."""
LISTENERS = 1_200
"""Clients that may wait for changes at a time, where the server does not say how many it has room for."""

WEBHOOK_PATHS = ("/webhooks/ximilar", "/webhooks/ximilar/")

OPEN_TO_ALL = frozenset({*WEBHOOK_PATHS, "/healthz", "/readyz"})
"""Paths that need no API token; the webhook has a proof of its own."""


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
    refused: Refused = untold


def check(config: Config) -> None:
    """Checks the settings that only their own rooms can judge, before anything is opened or made.

    Raises:
        ConfigError: one line that names the setting.
    """
    check_template(config.archive_key)
    ImageSources.parse(config.image_sources)
    open_archive(config.archive_uri)
    if config.max_spool_bytes < config.max_image_bytes:
        raise ConfigError("RECEIVER_MAX_SPOOL_BYTES: must be at least RECEIVER_MAX_IMAGE_BYTES")


@asynccontextmanager
async def open_receiver(
    config: Config,
    environ: Mapping[str, str],
    cut: Cut = no_cut,
    *,
    seats_for_listeners: int = LISTENERS,
) -> AsyncIterator[Receiver]:
    """Opens ledger, spool and archive, starts the worker, and yields the routes; then closes all of it.

    Args:
        config: as it passed `check`.
        environ: where the AWS SDK's variables are looked up beside the process's own.
        cut: for tests.
        seats_for_listeners: how many may wait for changes at a time.

    Raises:
        LedgerError: the data directory is in use, or its ledger is damaged or of a newer version.
        SpoolError: the spool cannot be read.
    """
    async with AsyncExitStack() as stack:
        make_data_dir(config)
        lock = DirectoryLock(config.data_dir)
        stack.callback(lock.release)
        collectors = CollectorRegistry()
        meters = Meters(collectors)
        tracing = from_environment(os.environ)
        if tracing is not None:
            stack.push_async_callback(tracing.aclose)
        watch = Watch(_both(meters, tracing), meters.failed)
        ledger = await Ledger.serve(config.data_dir, committed=meters.committed)
        stack.push_async_callback(ledger.close)
        archive = open_archive(
            config.archive_uri,
            uploads=config.uploads,
            environ=environ,
            used=await _was_used(ledger, config.archive_uri),
        )
        stack.push_async_callback(archive.aclose)
        places = Places(archive, environ)
        stack.push_async_callback(places.aclose)
        spool = Spool(
            config.data_dir / "spool",
            max_bytes=config.max_spool_bytes,
            max_image_bytes=config.max_image_bytes,
        )
        fetching = Fetching(
            ledger=ledger,
            fetcher=await stack.enter_async_context(_fetcher(config)),
            verifier=await stack.enter_async_context(_verifier(config)),
            spool=spool,
            provider=await _provider(config, stack, meters.heard),
            plan=FetchPlan(config.fetches, FETCH_TIME, config.url_lifetime, config.confirm),
            now=wall_clock,
            dice=random.random,
            watch=watch,
            cut=cut,
        )
        archiving = Archiving(
            ledger=ledger,
            archive=archive,
            spool=spool,
            hands=config.uploads,
            key=config.archive_key,
            now=wall_clock,
            dice=random.random,
            watch=watch,
            cut=cut,
        )
        worker = Worker(
            ledger=ledger,
            spool=spool,
            fetching=fetching,
            archiving=archiving,
            now=wall_clock,
            monotonic=monotonic_clock,
        )
        await worker.start()
        stack.push_async_callback(worker.stop)
        reconciler = await open_reconciler(config, ledger, stack, meters.heard, watch)
        if reconciler is not None:
            reconciler.start()
            stack.push_async_callback(reconciler.stop)
        pruner = Pruner(ledger=ledger, keep=config.keep_history, now=wall_clock)
        pruner.start()
        stack.push_async_callback(pruner.stop)
        stopping = asyncio.Event()
        feed = await stack.enter_async_context(Feed(ledger, stopping))
        await _notify(config, ledger, feed, stack)
        stack.callback(stopping.set)
        refusals = Refusals()
        seats = Seats(seats_for_listeners)
        intake = Intake(
            ledger=ledger,
            sender=Sender.from_config(config),
            max_bytes=config.max_webhook_bytes,
            url_lifetime=config.url_lifetime,
            now=wall_clock,
            refusals=refusals,
            confirm=config.confirm,
            watch=watch,
            cut=cut,
        )
        checks = _checks(ledger, worker, reconciler)
        api = Api(
            ledger=ledger,
            archive=places,
            overdue_after=config.overdue_after,
            now=wall_clock,
            stopping=stopping,
            checks=checks,
            refusals=refusals,
            seats=seats,
        )
        page = Page(
            ledger=ledger,
            thumbnails=await _thumbnails(config, places, stack),
            sources=Sources(failing=api.failing, working=lambda: _working(worker)),
            overdue_after=config.overdue_after,
            outcomes=query.UNREAD_OUTCOMES,
            now=wall_clock,
        )
        await stack.enter_async_context(_kept(page))
        stream = Stream(ledger, feed, seats)
        looks = {check.name: check.look for check in checks}
        metrics = Metrics(
            collectors=collectors,
            meters=meters,
            ledger=ledger,
            overdue_after=config.overdue_after,
            now=wall_clock,
            refusals=refusals,
            in_progress=worker.in_progress,
            spool_room=spool.room_bytes,
            workers_alive=looks["workers"],
            archive_up=looks["archive"],
        )
        routes = [
            # The provider tries once: a slash too many in the submitter's settings must not cost the image.
            *(Route(path, intake.deliver, methods=["POST"]) for path in WEBHOOK_PATHS),
            *stream.routes(),
            *page.routes(),
            *api.routes(),
            openapi.route(_document(config)),
            Route("/metrics", metrics.answer, methods=["GET"]),
        ]
        yield Receiver(_guarded(config, routes, refusals), stopping, refusals.count)


def _both(meters: Meters, tracing: Tracing | None) -> Callable[[Step], None]:
    if tracing is None:
        return meters.ended

    def ended(step: Step) -> None:
        meters.ended(step)
        tracing.ended(step)

    return ended


def make_data_dir(config: Config) -> None:
    """Makes the data directory where there is none.

    Raises:
        ConfigError: it cannot be made or written.
    """
    # A folder that is there already may be shared with others, and keeps the rights that it has.
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"RECEIVER_DATA_DIR: cannot be made ({error.strerror})") from None
    if not os.access(config.data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError("RECEIVER_DATA_DIR: cannot be written by this user")


async def _was_used(ledger: Ledger, archive: str) -> bool:
    """Whether the newest of the jobs that are archived has its image in this archive."""
    newest = (await ledger.jobs(Filter(states=(State.ARCHIVED,)), limit=1)).jobs
    return any(job.stored and job.stored.uri.startswith(f"{archive.rstrip('/')}/") for job in newest)


def _fetcher(config: Config) -> fetch.Fetcher:
    return fetch.Fetcher(
        sources=ImageSources.parse(config.image_sources),
        networks=config.image_networks,
        limits=fetch.Limits(max_bytes=config.max_image_bytes, total_seconds=FETCH_TIME.total_seconds()),
        user_agent=_user_agent(),
    )


def _verifier(config: Config) -> Verifier:
    return Verifier(VerifyLimits(max_pixels=config.max_image_pixels))


async def _provider(config: Config, stack: AsyncExitStack, heard: Heard) -> Ximilar | None:
    if config.ximilar_api_token is None:
        return None
    client = Ximilar(str(config.ximilar_api_url), config.ximilar_api_token.get_secret_value(), heard=heard)
    return await stack.enter_async_context(client)


async def open_reconciler(
    config: Config,
    ledger: Ledger,
    stack: AsyncExitStack,
    heard: Heard = unheard,
    watch: Watch = UNWATCHED,
) -> Reconciler | None:
    """What asks the provider about silent jobs; ``None`` where there is no token to ask with.

    Args:
        config: the settings.
        ledger: which jobs are silent, and where what was found is recorded.
        stack: closes the connections.
        heard: told whether the provider answers.
        watch: told of what is found.
    """
    if config.ximilar_api_token is None:
        return None
    # A client of its own: its pace must not hold up the questions of downloads whose URL has died.
    provider = await stack.enter_async_context(
        Ximilar(
            str(config.ximilar_api_url),
            config.ximilar_api_token.get_secret_value(),
            turn=Pace(config.reconcile_rate).turn,
            heard=heard,
        )
    )

    asked: dict[str, int] = {}

    async def settle() -> int:
        return await submitting.settle(
            ledger,
            provider,
            now=wall_clock(),
            limit=SETTLED_AT_A_TIME,
            lifetime=config.url_lifetime,
            asked=asked,
        )

    plan = ReconcilePlan(
        config.overdue_after, config.reconcile_every, config.url_lifetime, adopt=config.adopt
    )
    return Reconciler(ledger=ledger, provider=provider, plan=plan, settle=settle, now=wall_clock, watch=watch)


async def _notify(config: Config, ledger: Ledger, feed: Feed, stack: AsyncExitStack) -> None:
    if config.notify_url is None or config.notify_secret is None:
        await ledger.end_notifying()
        return
    notifier = Notifier(
        ledger=ledger,
        feed=feed,
        url=str(config.notify_url),
        secret=config.notify_secret.get_secret_value(),
        user_agent=_user_agent(),
        now=wall_clock,
        dice=random.random,
    )
    await stack.enter_async_context(notifier)


def _document(config: Config) -> openapi.Json:
    version = metadata.version("upscale-receiver")
    return openapi.document(version, tuple(config.webhook_headers), tickets=bool(config.signing_keys))


def _user_agent() -> str:
    return f"upscale-receiver/{metadata.version('upscale-receiver')}"


def _working(worker: Worker) -> Sequence[Work]:
    return [Work(stage, claim.job, seconds) for stage, claim, seconds in worker.under_way]


async def _thumbnails(config: Config, archive: Images, stack: AsyncExitStack) -> Thumbnails:
    # A child of its own: the page's pictures shall not stand in line before images with a deadline.
    limits = VerifyLimits(max_pixels=config.max_image_pixels, max_seconds=20, max_memory=THUMBNAIL_MEMORY)
    verifier = await stack.enter_async_context(Verifier(limits, processes=1))
    return Thumbnails(config.data_dir / "thumbnails", archive, verifier)


@asynccontextmanager
async def _kept(page: Page) -> AsyncIterator[None]:
    keeping = asyncio.create_task(page.keep())
    try:
        yield
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


def _guarded(config: Config, routes: Sequence[Route], refusals: Refusals) -> Starlette:
    tokens = [token.get_secret_value() for token in config.api_tokens]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(SameOrigin, exempt=WEBHOOK_PATHS, refused=refusals.count),
            Middleware(RequireToken, tokens=tokens, open_to_all=OPEN_TO_ALL, refused=refusals.count),
        ],
        exception_handlers={HTTPException: for_no_route, ReceiverError: for_our_error},
    )
    # A redirect would be built from the Host header, and would name http behind a proxy that speaks TLS.
    app.router.redirect_slashes = False
    return app


def _for_strangers(error: ReceiverError) -> str:
    """What is wrong, without paths, buckets and a store's own words: those stand in the log alone."""
    return f"{error.reason}: {REASONS[error.reason]}"


def _checks(ledger: Ledger, worker: Worker, reconciler: Reconciler | None) -> list[Check]:
    async def ledger_writable() -> str | None:
        try:
            await ledger.check_writable()
        except LedgerError as error:
            return _for_strangers(error)
        return None

    async def workers_alive() -> str | None:
        alive = worker.alive() and (reconciler is None or reconciler.alive())
        return None if alive else "A worker has ended, or cannot claim work: the log says why."

    async def spool_has_room() -> str | None:
        try:
            return None if await worker.spool_has_room() else "No download fits any more."
        except (LedgerError, SpoolError) as error:
            return _for_strangers(error)

    async def archive_reachable() -> str | None:
        # Nobody has to show a token here, and the error's own words name the bucket and its host.
        trouble = worker.archive_trouble
        return None if trouble is None else _for_strangers(trouble)

    return [
        Check("ledger", ledger_writable),
        Check("workers", workers_alive),
        Check("spool", spool_has_room),
        Check("archive", archive_reachable),
    ]
