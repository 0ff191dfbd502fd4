"""Submits many images at once, and waits for their jobs to end."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from receiver import config as settings
from receiver.config import Config
from receiver.core.completion import is_ref
from receiver.core.concurrency import cancel, map_concurrently, set_within
from receiver.core.disk import make_data_directory
from receiver.core.errors import ConfigError, InvalidRequestError, ProviderError
from receiver.core.jobs import FINAL, Job
from receiver.core.rate_limit import RateLimiter
from receiver.ledger import Ledger, LedgerReader, ListLock
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.request import Factor, ImageFormat, Mode, ModelType, Options, Upscale
from receiver.submission import images
from receiver.submission.file_sources import FileSources
from receiver.submission.images import ImageLike, Item
from receiver.submission.submitter import PATIENCE, Fate, Outcome, Submitter
from receiver.submission.webhook_template import WebhookTemplate

CONCURRENCY = 4
"""Submissions at a time: so many images are in memory at most."""

STOP_SECONDS = 10.0
"""How long a run that is to end waits for the answers to what it has sent."""

POLL_SECONDS = 0.5
"""Between two reads of the ledger, which other processes write."""


def prepare(
    given: Sequence[ImageLike],
    options: Options,
    *,
    ref: str | None = None,
    from_file: Path | None = None,
    list_name: str | None = None,
) -> list[Item]:
    """Return what is to be submitted; raise `InvalidRequestError` if any of it is wrong. Reads files."""
    Upscale("https://host/", options)  # checks the options alone
    if ref is not None and not is_ref(ref):
        raise InvalidRequestError("ref is not 1 to 200 printable ASCII characters.")
    items = images.named(given, ref)
    if from_file is not None:
        name = list_name or name_of(from_file)
        items += images.listed(images.read_list(from_file), name, options, ref)
    return items


def name_of(list_file: Path) -> str:
    """Return the name of a list that was given none: its path."""
    return str(list_file.resolve())


def named_again(name: str, at: datetime) -> str:
    """Return a new name for the same list; it has to be given to continue that run."""
    return f"{name} again at {at.astimezone(UTC).isoformat(timespec='milliseconds')}"


@contextlib.asynccontextmanager
async def submitting(
    config: Config,
    options: Options,
    *,
    list_name: str | None = None,
    rate: float | None = None,
    patience: timedelta = PATIENCE,
    stopping: asyncio.Event | None = None,
    on_wait: Callable[[ProviderError], None] = lambda _: None,
    environ: Mapping[str, str] = os.environ,
    on_source: Callable[[str, str], object] = lambda _id, _why: None,
) -> AsyncIterator[Submitter]:
    """Open the ledger and the provider's API.

    The settings must be those of `receiver serve`. ``rate`` is the most submissions a second. No other
    process may submit a list of the same name at the same time. In ``environ`` the AWS SDK's variables are
    looked up, for an archive that keeps the sources of files. ``on_source`` is called with the id of a job
    whose source is not kept, and why.

    Raises:
        ConfigError: a setting is missing.
        LedgerError: the ledger cannot be used, or the list is being submitted already.
    """
    template = WebhookTemplate.from_config(config)
    if config.ximilar_api_token is None:
        raise ConfigError(
            "XIMILAR_API_TOKEN: not set, so nothing can be submitted; the provider gives you one"
        )
    token = config.ximilar_api_token.get_secret_value()
    make_data_directory(config.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        if list_name is not None:
            stack.callback(ListLock(config.data_dir, list_name).release)
        ledger = await Ledger.open_beside(config.ledger_location)
        stack.push_async_callback(ledger.close)
        provider = await stack.enter_async_context(Ximilar(str(config.ximilar_api_url), token))
        sources = await stack.enter_async_context(FileSources(config.archive_uri, environ, on_source))
        yield Submitter(
            ledger,
            provider,
            template,
            options,
            rate_limiter=RateLimiter(rate),
            patience=patience,
            stopping=stopping or asyncio.Event(),
            on_wait=on_wait,
            on_taken=(lambda _id, _image: None) if config.keep_sources == "off" else sources.keep,
        )


async def submit_all(
    submitter: Submitter,
    items: Sequence[Item],
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Submit images, a few at a time. Return the outcome of each, in their order.

    Where one fails in a way that all others would, or where ``submitter.stopping`` is set, nothing more is
    begun. What was sent by then has a few seconds to be answered, and is open otherwise.
    """
    outcomes = [Outcome(item.name, item.ref, Fate.UNSENT) for item in items]

    async def submit_one(index: int) -> None:
        if submitter.stopping.is_set():
            return
        outcomes[index] = replace(outcomes[index], fate=Fate.OPEN)  # where this is cancelled
        outcomes[index] = outcome = await submitter.submit(items[index])
        on_outcome(outcome)
        if outcome.ends_the_run:
            submitter.stopping.set()

    async def cutoff() -> None:
        await submitter.stopping.wait()
        await asyncio.sleep(STOP_SECONDS)

    run = asyncio.create_task(map_concurrently(range(len(items)), CONCURRENCY, submit_one))
    end = asyncio.create_task(cutoff())
    try:
        await asyncio.wait((run, end), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel((run, end))
    if not run.cancelled():
        run.result()  # raises what a bug has raised
    return outcomes


async def follow(
    ledger: LedgerReader,
    outcomes: Sequence[Outcome],
    on_change: Callable[[Sequence[Job]], None] = lambda _: None,
    *,
    until: asyncio.Event | None = None,
) -> list[Outcome]:
    """Wait until the jobs have ended, or ``until`` is set. Return the outcomes with their jobs."""
    jobs: dict[str, Job] = {}
    waiting = {outcome.id for outcome in outcomes if outcome.id is not None}
    until = until or asyncio.Event()
    while True:
        ids = list(waiting)
        found: dict[str, Job] = {}
        for start in range(0, len(ids), 500):  # so that no query holds a reader for long
            found |= await ledger.jobs_among(ids[start : start + 500])
        changed = [job for job in found.values() if jobs.get(job.id) != job]
        jobs.update(found)
        if changed:
            on_change(changed)
        waiting -= {job.id for job in changed if job.state in FINAL}
        if not waiting or until.is_set():
            return [replace(it, job=jobs.get(it.id)) if it.id is not None else it for it in outcomes]
        await set_within(until, POLL_SECONDS)


async def submit(
    *given: ImageLike,
    scale: Factor = 2,
    model: ModelType | None = None,
    mode: Mode | None = None,
    format: ImageFormat | None = None,  # noqa: A002 - the option's name
    quality: int | None = None,
    tune_colors: bool | None = None,
    ref: str | None = None,
    from_file: str | os.PathLike[str] | None = None,
    list_name: str | None = None,
    again: bool = False,
    rate: float | None = None,
    wait: bool = False,
    patience: timedelta = PATIENCE,
    config: Config | Mapping[str, str] | None = None,
    tell: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Submit images to the provider, which will call the receiver with each result.

    A program without an event loop runs it as ``asyncio.run(submit("photo.jpg"))``.

    Images may have been taken and billed when others fail. So this raises only before anything is sent. Each
    image has an outcome with its ``id`` or its ``error``. Cancelled, this leaves submissions in progress open
    in the ledger, where a running receiver resolves them.

    Args:
        given: URLs, files, or bytes.
        scale: 2, 4 or 8.
        model: ``classic`` or ``gan``.
        mode: ``artifact_removal``, ``ironed_out`` or ``high_fidelity``.
        format: of the results: ``png``, ``jpg`` or ``webp``.
        quality: 1 to 100, together with a format.
        tune_colors: whether a result's colours are matched to the image's.
        ref: your own reference, 1 to 200 printable ASCII characters.
        from_file: a list of URLs and files; those that an earlier call has submitted are left out.
        list_name: the list's name; its path, by default.
        again: whether the whole list is submitted again.
        rate: the most submissions a second.
        wait: whether to wait until all jobs have ended; a receiver must be serving.
        patience: how long one image waits for a provider that is away.
        config: the receiver's settings: loaded, or as variables; by default those of the environment and of a
            ``.env`` file.
        tell: called with each outcome as it is known.

    Returns:
        An outcome for each image in the given order, and then for each line of the list.

    Raises:
        ConfigError: a setting is missing or wrong.
        InvalidRequestError: an option, an image or a line of the list is wrong.
        LedgerError: the ledger cannot be used, or the list is being submitted already.
    """
    options = Options(scale, model, mode, format, quality, tune_colors)
    path = None if from_file is None else Path(from_file)
    if rate is not None and not rate > 0:
        raise InvalidRequestError("rate is not above 0.")
    if not isinstance(config, Config):
        environ = settings.environment(os.environ, Path(".env")) if config is None else dict(config)
        config = settings.load(environ)
    else:
        environ = dict(os.environ)
    if path is not None:
        list_name = list_name or name_of(path)
        if again:
            list_name = named_again(list_name, datetime.now(UTC))
    items = await asyncio.to_thread(prepare, given, options, ref=ref, from_file=path, list_name=list_name)
    async with submitting(
        config,
        options,
        list_name=None if path is None else list_name,
        rate=rate,
        patience=patience,
        environ=environ,
    ) as submitter:
        outcomes = await submit_all(submitter, items, tell)
        return await follow(submitter.ledger, outcomes) if wait else outcomes
