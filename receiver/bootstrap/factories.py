"""Opens the rooms that need more than their arguments, each from the settings; who opened it closes it."""

import asyncio
import errno
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from importlib import metadata
from pathlib import Path

from receiver import submission
from receiver.archive import ImageReader, check_template, open_archive
from receiver.config import Config
from receiver.core.clock import wall_clock
from receiver.core.errors import ConfigError
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation
from receiver.core.jobs import State
from receiver.core.rate_limit import RateLimiter
from receiver.dashboard import THUMBNAIL_MEMORY, Page, Thumbnails
from receiver.events.feed import Feed
from receiver.events.outgoing_webhooks import OutgoingWebhooks
from receiver.fetch import download
from receiver.fetch.sources import Sources
from receiver.ledger import FILE_NAME, LOCK_NAME, Filter, Ledger, LedgerReader
from receiver.providers.ximilar import OnResult, Ximilar, ignore_result
from receiver.reconcile.reconciler import Plan, Reconciler
from receiver.verify.verifier import Limits as VerifyLimits
from receiver.verify.verifier import Verifier

FETCH_TIME = timedelta(minutes=10)
"""The longest that one download may take."""


def check(config: Config) -> None:
    """Checks the settings that only their own rooms can judge, before anything is opened or made.

    Raises:
        ConfigError: one line that names the setting.
    """
    for line in faults(config):
        raise ConfigError(line)


def faults(config: Config) -> Iterator[str]:
    """What `check` would say of each setting: a line for each that is wrong."""
    looks: tuple[Callable[[], object], ...] = (
        lambda: check_template(config.archive_key),
        lambda: Sources.parse(config.image_sources),
        lambda: open_archive(config.archive_uri),
    )
    for look in looks:
        try:
            look()
        except ConfigError as error:
            yield str(error)
    if config.max_spool_bytes < config.max_image_bytes:
        yield "RECEIVER_MAX_SPOOL_BYTES: must be at least RECEIVER_MAX_IMAGE_BYTES"


def make_data_dir(config: Config) -> None:
    """Makes the data directory where there is none.

    Raises:
        ConfigError: it cannot be made, or it or what lies in it cannot be used.
    """
    # A folder that is there already may be shared with others, and keeps the rights that it has.
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"RECEIVER_DATA_DIR: cannot be made ({error.strerror})") from None
    for path in unusable(config.data_dir):
        raise ConfigError(
            f"RECEIVER_DATA_DIR: {path} cannot be written by this user; `receiver doctor` says more"
        )


def unusable(data_dir: Path) -> Iterator[Path]:
    """What serve writes to in a data directory that is there, and this user may not."""
    needs = {
        data_dir: os.R_OK | os.W_OK | os.X_OK,
        **{data_dir / name: os.R_OK | os.W_OK | os.X_OK for name in ("spool", "aside")},
        **{data_dir / f"{FILE_NAME}{end}": os.R_OK | os.W_OK for end in ("", "-wal", "-shm")},
        data_dir / LOCK_NAME: os.R_OK | os.W_OK,
    }
    for path, need in needs.items():
        if (path == data_dir or os.access(path, os.F_OK)) and not os.access(path, need):
            yield path


def bound(config: Config) -> socket.socket:
    """A socket that has the address, and listens only when the receiver is open.

    One that never listens keeps no other from doing so.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except (OSError, UnicodeError, OverflowError) as error:
        listener.close()
        name = (
            "RECEIVER_PORT"
            if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
            else "RECEIVER_HOST"
        )
        what = error.strerror if isinstance(error, OSError) else "is no address"
        raise ConfigError(
            f"{name}: {config.host}, port {config.port} cannot be listened on ({what})"
        ) from None
    return listener


async def was_used(ledger: LedgerReader, archive: str) -> bool:
    """Whether the newest of the jobs that are archived has its image in this archive."""
    newest = (await ledger.jobs(Filter(states=(State.ARCHIVED,)), limit=1)).jobs
    return any(job.stored and job.stored.uri.startswith(f"{archive.rstrip('/')}/") for job in newest)


def fetcher(config: Config) -> download.Fetcher:
    """What downloads images."""
    return download.Fetcher(
        sources=Sources.parse(config.image_sources),
        networks=config.image_networks,
        limits=download.Limits(max_bytes=config.max_image_bytes, total_seconds=FETCH_TIME.total_seconds()),
        user_agent=_user_agent(),
    )


def verifier(config: Config) -> Verifier:
    """What tells whether an image is the promised one."""
    return Verifier(VerifyLimits(max_pixels=config.max_image_pixels))


async def open_provider(config: Config, stack: AsyncExitStack, on_result: OnResult) -> Ximilar | None:
    """What asks the provider for fresh URLs; ``None`` where there is no token to ask with.

    Args:
        config: the settings.
        stack: closes the connections.
        on_result: called after each call to the provider.
    """
    if config.ximilar_api_token is None:
        return None
    client = Ximilar(
        str(config.ximilar_api_url), config.ximilar_api_token.get_secret_value(), on_result=on_result
    )
    return await stack.enter_async_context(client)


async def open_reconciler(
    config: Config,
    ledger: Ledger,
    stack: AsyncExitStack,
    on_result: OnResult = ignore_result,
    instrumentation: Instrumentation = NO_INSTRUMENTATION,
) -> Reconciler | None:
    """What asks the provider about silent jobs; ``None`` where there is no token to ask with.

    Args:
        config: the settings.
        ledger: which jobs are silent, and where what was found is recorded.
        stack: closes the connections.
        on_result: called after each call to the provider.
        instrumentation: told of what is found.
    """
    if config.ximilar_api_token is None:
        return None
    # A client of its own: its pace must not hold up the questions of downloads whose URL has died.
    provider = await stack.enter_async_context(
        Ximilar(
            str(config.ximilar_api_url),
            config.ximilar_api_token.get_secret_value(),
            before_attempt=RateLimiter(config.reconcile_rate).wait,
            on_result=on_result,
        )
    )

    progress = submission.SettleProgress()

    async def settle() -> int:
        return await submission.settle(
            ledger, provider, now=wall_clock(), lifetime=config.url_lifetime, progress=progress
        )

    plan = Plan(config.overdue_after, config.reconcile_every, config.url_lifetime, adopt=config.adopt)
    return Reconciler(
        ledger=ledger,
        provider=provider,
        plan=plan,
        settle=settle,
        now=wall_clock,
        instrumentation=instrumentation,
    )


async def open_notifier(config: Config, ledger: Ledger, feed: Feed, stack: AsyncExitStack) -> None:
    """Begins to tell of jobs that become final, where somebody is to be told.

    Args:
        config: the settings.
        ledger: keeps what is to be told.
        feed: tells what happens.
        stack: ends it.
    """
    if config.notify_url is None or config.notify_secret is None:
        await ledger.stop_notifications()
        return
    notifier = OutgoingWebhooks(
        ledger=ledger,
        feed=feed,
        url=str(config.notify_url),
        secret=config.notify_secret.get_secret_value(),
        user_agent=_user_agent(),
        now=wall_clock,
        jitter=random.random,
    )
    await stack.enter_async_context(notifier)


async def open_thumbnails(config: Config, archive: ImageReader, stack: AsyncExitStack) -> Thumbnails:
    """What makes the page's small pictures.

    Args:
        config: the settings.
        archive: where images are read.
        stack: ends what is under way, and the child process.
    """
    # A child of its own: the page's pictures shall not stand in line before images with a deadline.
    limits = VerifyLimits(max_pixels=config.max_image_pixels, max_seconds=20, max_memory=THUMBNAIL_MEMORY)
    own = await stack.enter_async_context(Verifier(limits, processes=1))
    thumbnails = Thumbnails(config.data_dir / "thumbnails", archive, own)
    stack.push_async_callback(thumbnails.aclose)
    return thumbnails


@asynccontextmanager
async def kept(page: Page) -> AsyncIterator[None]:
    """The page counts what is archived for as long as the block lasts."""
    keeping = asyncio.create_task(page.keep())
    try:
        yield
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


def _user_agent() -> str:
    return f"upscale-receiver/{metadata.version('upscale-receiver')}"
