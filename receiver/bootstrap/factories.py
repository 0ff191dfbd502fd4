"""Builds parts from the settings, and checks settings that only those parts can judge."""

import asyncio
import errno
import os
import random
import shutil
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from importlib import metadata
from pathlib import Path

from receiver.alerts import channels
from receiver.archive.base import ImageReader, Inventory
from receiver.archive.factory import open_archive
from receiver.archive.key import check_template
from receiver.config import Config
from receiver.core.clock import monotonic_clock, wall_clock
from receiver.core.concurrency import cancel
from receiver.core.disk import make_data_directory
from receiver.core.errors import ConfigError
from receiver.core.failpoints import Failpoint
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation
from receiver.core.jobs import State
from receiver.core.rate_limit import RateLimiter, SharedRateLimiter
from receiver.dashboard.thumbnails import THUMBNAIL_MEMORY, Thumbnails
from receiver.events.feed import Feed
from receiver.events.outgoing_webhooks import OutgoingWebhooks
from receiver.fetch.download import DownloadLimits, Fetcher
from receiver.fetch.sources import Sources
from receiver.ledger import FILE_NAME, LOCK_NAME, Filter, Ledger, LedgerReader
from receiver.operations.source_keeper import SourceKeeper, prune_sources
from receiver.pipeline.archive_stage import ArchiveStage
from receiver.pipeline.fetch_stage import FetchPlan, FetchStage
from receiver.pipeline.kept_sources import KeptSources
from receiver.pipeline.spool import Spool
from receiver.pipeline.worker import Worker
from receiver.providers.base import Asked, Calls, Providers, Setup
from receiver.providers.registry import open_providers
from receiver.reconcile.listing import Plan
from receiver.reconcile.reconciler import Reconciler
from receiver.submission import settlement
from receiver.telemetry.metrics import Metrics
from receiver.verify.decoder import Limits
from receiver.verify.verifier import Verifier

FETCH_TIME = timedelta(minutes=10)
"""The longest that one download may take."""

SOURCE_TIME = timedelta(minutes=1)
"""The longest that the download of a source may take. Nothing waits for it but the next source."""

MAX_SOURCE_BYTES = 64 << 20
"""The largest source of which a small picture is made."""


def check_settings(config: Config, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` for the first of the `wrong_settings`, before anything is opened or made."""
    for line in wrong_settings(config, environ):
        raise ConfigError(line)


def wrong_settings(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each wrong setting that `Config` cannot judge alone."""
    checks: tuple[Callable[[], object], ...] = (
        lambda: check_template(config.archive_key),
        lambda: Sources.parse(config.image_sources),
        lambda: open_archive(config.archive_uri),
        lambda: open_providers(Setup(config, environ)),
        lambda: alert_channels(config),
    )
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield str(error)
    if config.max_spool_bytes < config.max_image_bytes:
        yield "RECEIVER_MAX_SPOOL_BYTES: must be at least RECEIVER_MAX_IMAGE_BYTES"
    if config.fetches == 0 and config.ledger is None:
        yield "RECEIVER_FETCHES: with 0 images expire, unless others on a RECEIVER_LEDGER download them"


def alert_channels(config: Config) -> dict[str, str]:
    """Return the URLs of ``RECEIVER_ALERT_URLS`` by the channels' names. Raise `ConfigError` if unusable."""
    return channels.named([url.get_secret_value() for url in config.alert_urls])


def make_data_dir(config: Config) -> None:
    """Make the data directory where there is none. Raise `ConfigError` if it or a part of it is unusable."""
    make_data_directory(config.data_dir)
    for path in unwritable(config.data_dir):
        raise ConfigError(
            f"RECEIVER_DATA_DIR: {path} cannot be written by this user; `receiver doctor` says more"
        )


def unwritable(data_dir: Path) -> Iterator[Path]:
    """Yield the paths in an existing data directory that serve writes to and this user may not."""
    folders = (data_dir, data_dir / "spool", data_dir / "aside")
    files = (data_dir / name for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", LOCK_NAME))
    for path in (*folders, *files):
        need = os.R_OK | os.W_OK | (os.X_OK if path in folders else 0)
        if (path == data_dir or os.access(path, os.F_OK)) and not os.access(path, need):
            yield path


def bind(config: Config) -> socket.socket:
    """Return a socket that is bound to the address, and does not listen yet, or raise `ConfigError`."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except (OSError, UnicodeError, OverflowError) as error:
        listener.close()
        taken = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        name = "RECEIVER_PORT" if taken else "RECEIVER_HOST"
        what = error.strerror if isinstance(error, OSError) else "is no address"
        raise ConfigError(
            f"{name}: {config.host}, port {config.port} cannot be listened on ({what})"
        ) from None
    return listener


def public_endpoint(config: Config) -> str | None:
    """Return the endpoint of presigned URLs, where it is another than the receiver's own."""
    return str(config.public_archive_url).rstrip("/") if config.public_archive_url else None


async def is_archive_used(ledger: LedgerReader, archive: str) -> bool:
    """Return whether the newest of the jobs that are archived has its image in this archive."""
    newest = (await ledger.jobs(Filter(states=(State.ARCHIVED,)), limit=1)).jobs
    return any(job.stored and job.stored.uri.startswith(f"{archive.rstrip('/')}/") for job in newest)


def open_spool(config: Config) -> Spool:
    folder = config.data_dir / "spool"
    return Spool(folder, max_bytes=config.max_spool_bytes, max_image_bytes=config.max_image_bytes)


async def start_worker(
    config: Config,
    ledger: Ledger,
    stack: AsyncExitStack,
    *,
    archive: Inventory,
    asked: Mapping[str, Asked],
    instrumentation: Instrumentation,
    failpoint: Failpoint,
    leads: Callable[[], bool],
) -> Worker:
    """Start what fetches, verifies and archives. Raise `SpoolError` or `LedgerError` if it cannot begin."""
    spool = open_spool(config)
    verifier = Verifier(Limits(max_pixels=config.max_image_pixels))
    fetch_stage = FetchStage(
        ledger=ledger,
        fetcher=await stack.enter_async_context(_fetcher(config, config.max_image_bytes, FETCH_TIME)),
        verifier=await stack.enter_async_context(verifier),
        spool=spool,
        asked=asked,
        plan=FetchPlan(config.fetches, FETCH_TIME, config.confirm, config.reject_after),
        now=ledger.now,
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
        now=ledger.now,
        jitter=random.random,
        instrumentation=instrumentation,
        failpoint=failpoint,
    )
    worker = Worker(
        ledger=ledger,
        spool=spool,
        fetch_stage=fetch_stage,
        archive_stage=archive_stage,
        now=ledger.now,
        monotonic=monotonic_clock,
        leads=leads,
    )
    await worker.start()
    stack.push_async_callback(worker.stop)
    return worker


OnProviderResult = Callable[[str, str | None], object]
"""Called after a question with the provider's name, and the reason for which there was no answer."""


async def open_asked(
    providers: Providers,
    ledger: Ledger,
    stack: AsyncExitStack,
    on_result: OnProviderResult = lambda _name, _reason: None,
    *,
    rate: float | None = None,
    verify: ssl.SSLContext | bool = True,
) -> dict[str, Asked]:
    """Return the providers that can be asked, each with a client of its own, by name.

    With ``rate``, each is asked so many questions a second at most, by all who share the ledger together.
    """
    asked = {}
    for name, provider in providers.items():
        before = None if rate is None else _limit(ledger, f"{name} rounds", rate)
        calls = Calls(before, partial(on_result, name), verify=verify, limit=partial(_limit, ledger, name))
        client = provider.open_client(calls)
        if client is not None:
            stack.push_async_callback(client.aclose)
            asked[name] = Asked(provider, client)
    return asked


def _limit(ledger: Ledger, name: str, rate: float) -> Callable[[], Awaitable[object]]:
    """Return what keeps a rate, in calls a second, when it is awaited before each of them."""
    if not ledger.shared:
        return RateLimiter(rate).wait
    return SharedRateLimiter(rate, partial(ledger.next_call, name), now=ledger.now).wait


async def open_reconcilers(
    config: Config,
    providers: Providers,
    ledger: Ledger,
    stack: AsyncExitStack,
    on_result: OnProviderResult = lambda _name, _reason: None,
    *,
    instrumentation: Instrumentation = NO_INSTRUMENTATION,
    verify: ssl.SSLContext | bool = True,
) -> list[Reconciler]:
    """Return a loop for each provider that can be asked about silent jobs.

    They have clients of their own, whose rate limits do not delay downloads that need a fresh URL.
    """
    asked = await open_asked(providers, ledger, stack, on_result, rate=config.reconcile_rate, verify=verify)
    return [
        Reconciler(
            ledger=ledger,
            asked=one,
            plan=Plan(config.overdue_after, config.reconcile_every, adopt=config.adopt),
            settle=partial(_settle, ledger, one, settlement.SettleProgress()),
            now=ledger.now,
            instrumentation=instrumentation,
        )
        for one in asked.values()
    ]


async def _settle(ledger: Ledger, asked: Asked, progress: settlement.SettleProgress) -> int:
    if not asked.client.finds_submissions:
        return 0
    lifetime = asked.provider.url_lifetime
    return await settlement.settle(
        ledger, asked.client, now=ledger.now(), lifetime=lifetime, progress=progress
    )


async def open_outgoing_webhooks(config: Config, ledger: Ledger, feed: Feed, stack: AsyncExitStack) -> None:
    """Start the loop that notifies of final jobs, where ``RECEIVER_NOTIFY_URL`` is set."""
    if config.notify_url is None or config.notify_secret is None:
        await ledger.stop_notifications()
        return
    webhooks = OutgoingWebhooks(
        ledger=ledger,
        feed=feed,
        url=str(config.notify_url),
        secret=config.notify_secret.get_secret_value(),
        user_agent=_user_agent(),
        now=ledger.now,
        jitter=random.random,
    )
    await stack.enter_async_context(webhooks)


def start_alerts(
    config: Config, ledger: Ledger, metrics: Metrics, stack: AsyncExitStack, leads: Callable[[], bool]
) -> None:
    """Start the loop that tells of alerts, where ``RECEIVER_ALERT_URLS`` is set."""
    if found := alert_channels(config):
        from receiver.alerts.alerter import Alerter  # noqa: PLC0415 - its table is for those alone who use it

        alerter = Alerter(
            ledger=ledger,
            collect=metrics.collect,
            channels=found,
            address=config.public_address,
            leads=leads,
        )
        stack.push_async_callback(cancel, [asyncio.create_task(alerter.run(), name="alerts")])


async def open_pictures(
    config: Config, archive: Inventory, images: ImageReader, stack: AsyncExitStack
) -> tuple[Thumbnails, Thumbnails, KeptSources]:
    """Open what makes thumbnails and previews of archived images, and small pictures of sources.

    It has a child process of its own, so that images with a deadline never wait.
    """
    limits = Limits(max_pixels=config.max_image_pixels, max_seconds=20, max_memory=THUMBNAIL_MEMORY)
    verifier = await stack.enter_async_context(Verifier(limits, processes=1))
    scratch = config.data_dir / "scratch"
    for left in (*scratch.glob("zip-*"), *scratch.glob("source-*")):  # by a crash
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    thumbnails = Thumbnails(config.data_dir / "thumbnails", images, verifier)
    previews = Thumbnails.for_comparison(config.data_dir / "previews", images, verifier)
    stack.push_async_callback(thumbnails.aclose)
    stack.push_async_callback(previews.aclose)
    return thumbnails, previews, KeptSources(archive, verifier, scratch)


async def start_keeping_sources(
    config: Config, ledger: Ledger, feed: Feed, kept: KeptSources, stack: AsyncExitStack
) -> None:
    """Begin to keep the sources of URLs where the settings say so, and to remove old ones."""
    tasks = [asyncio.create_task(prune_sources(kept.archive, config.keep_history, wall_clock))]
    if config.keep_sources == "small":
        max_bytes = min(config.max_image_bytes, MAX_SOURCE_BYTES)
        fetcher = await stack.enter_async_context(_fetcher(config, max_bytes, SOURCE_TIME))
        keeper = SourceKeeper(ledger=ledger, feed=feed, fetcher=fetcher, kept=kept)
        tasks.append(asyncio.create_task(keeper.run(), name="sources"))
    stack.push_async_callback(cancel, tasks)


def _fetcher(config: Config, max_bytes: int, longest: timedelta) -> Fetcher:
    return Fetcher(
        sources=Sources.parse(config.image_sources),
        networks=config.image_networks,
        limits=DownloadLimits(max_bytes, longest.total_seconds(), min_rate=config.least_rate),
        user_agent=_user_agent(),
    )


def _user_agent() -> str:
    return f"upscale-receiver/{metadata.version('upscale-receiver')}"
