"""Submits many images at once: opens what that takes, ends in order, and follows the jobs to their ends."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from receiver import config as settings
from receiver.config import Config
from receiver.core.errors import ConfigError, InvalidRequestError, ProviderError
from receiver.core.jobs import FINAL, Job
from receiver.core.rate_limit import RateLimiter
from receiver.core.references import is_ref
from receiver.ledger import Ledger, LedgerReader, ListLock
from receiver.providers.ximilar import Factor, ImageFormat, Mode, ModelType, Ximilar
from receiver.submission import images
from receiver.submission.images import ImageLike, Item, Options
from receiver.submission.submitter import PATIENCE, Fate, Outcome, Submitter
from receiver.submission.webhook_template import WebhookTemplate

AT_ONCE = 4
"""Submissions under way at a time: so many images are in memory at most."""

STOP_SECONDS = 10.0
"""How long a run that is to end waits for answers to what it has sent."""

FOLLOW_SECONDS = 0.5
"""Between two looks into the ledger, which other processes write."""


def prepare(
    given: Sequence[ImageLike],
    options: Options,
    *,
    ref: str | None = None,
    from_file: Path | None = None,
    list_name: str | None = None,
) -> list[Item]:
    """What is to be submitted. It reads files, so it is no work for an event loop.

    Raises:
        InvalidRequestError: something of it cannot be submitted; nothing is.
    """
    options.upscale("https://host/")  # to judge the options alone
    if ref is not None and not is_ref(ref):
        raise InvalidRequestError("ref is not 1 to 200 printable ASCII characters.")
    items = images.named(given, ref)
    if from_file is not None:
        name = list_name or name_of(from_file)
        items += images.listed(images.read_list(from_file), name, options, ref)
    return items


def name_of(list_file: Path) -> str:
    """What a list is called that was given no name: where it lies."""
    return str(list_file.resolve())


def named_again(name: str, at: datetime) -> str:
    """A name for the same list that nothing was submitted by yet; it has to be given to go on with it."""
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
    notice: Callable[[ProviderError], None] = lambda _: None,
) -> AsyncIterator[Submitter]:
    """Opens the ledger and the provider's API.

    Args:
        config: the settings, the same as of `receiver serve`.
        options: how images are to be upscaled.
        list_name: of a list, which no other process may submit at the same time.
        rate: the most submissions a second.
        patience: how long one image waits for a provider that is away.
        stopping: see `Submitter`.
        notice: see `Submitter`.

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
    try:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"RECEIVER_DATA_DIR: cannot be made ({error.strerror})") from None
    async with contextlib.AsyncExitStack() as stack:
        if list_name is not None:
            stack.callback(ListLock(config.data_dir, list_name).release)
        ledger = await Ledger.open_beside(config.data_dir)
        stack.push_async_callback(ledger.close)
        provider = await stack.enter_async_context(Ximilar(str(config.ximilar_api_url), token))
        yield Submitter(
            ledger,
            provider,
            template,
            options,
            rate_limiter=RateLimiter(rate),
            patience=patience,
            stopping=stopping or asyncio.Event(),
            notice=notice,
        )


async def submit_all(
    submitter: Submitter, items: Sequence[Item], tell: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Submits images, a few at a time. Gives what became of each, in their order.

    Where one meets what all others would meet too, or where ``submitter.stopping`` is set, nothing more is
    begun. What was sent then has a few seconds to be answered, and is open otherwise.

    Args:
        submitter: does one.
        items: the images.
        tell: called with each outcome as it is known.
    """
    outcomes = [Outcome(item.name, item.ref, Fate.UNSENT) for item in items]
    left = iter(enumerate(items))

    async def work() -> None:
        for index, item in left:
            if submitter.stopping.is_set():
                return
            outcomes[index] = replace(outcomes[index], fate=Fate.OPEN)  # where this is cut off
            outcomes[index] = outcome = await submitter.submit(item)
            tell(outcome)
            if outcome.ends_the_run:
                submitter.stopping.set()

    async def stopped() -> None:
        await submitter.stopping.wait()
        await asyncio.sleep(STOP_SECONDS)

    workers = [asyncio.create_task(work()) for _ in range(min(AT_ONCE, len(items)))]
    if not workers:
        return []
    ended = asyncio.create_task(asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION))
    end = asyncio.create_task(stopped())
    try:
        await asyncio.wait((ended, end), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (ended, end, *workers):
            task.cancel()
        ends = await asyncio.gather(*workers, return_exceptions=True)
    for error in ends:
        if isinstance(error, Exception):
            raise error
    return outcomes


async def follow(
    ledger: LedgerReader,
    outcomes: Sequence[Outcome],
    tell: Callable[[Sequence[Job]], None] = lambda _: None,
    *,
    until: asyncio.Event | None = None,
) -> list[Outcome]:
    """Waits until the jobs have ended. Gives the outcomes with their jobs.

    Args:
        ledger: which some server writes.
        outcomes: those without an id have no job to wait for.
        tell: called with the jobs that have changed.
        until: ends the wait earlier.
    """
    jobs: dict[str, Job] = {}
    waiting = {outcome.id for outcome in outcomes if outcome.id is not None}
    until = until or asyncio.Event()
    while True:
        found = await look(ledger, waiting)
        changed = [job for job in found.values() if jobs.get(job.id) != job]
        jobs.update(found)
        if changed:
            tell(changed)
        waiting -= {job.id for job in changed if job.state in FINAL}
        if not waiting or until.is_set():
            return with_jobs(outcomes, jobs)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_SECONDS):
                await until.wait()


async def look(ledger: LedgerReader, ids: Iterable[str]) -> Mapping[str, Job]:
    """The jobs of these ids, as they are now."""
    ids = list(ids)
    found: dict[str, Job] = {}
    for start in range(0, len(ids), 500):  # so that no question holds a reader for long
        found |= await ledger.jobs_among(ids[start : start + 500])
    return found


def with_jobs(outcomes: Sequence[Outcome], jobs: Mapping[str, Job]) -> list[Outcome]:
    """The outcomes, each with its job."""
    return [
        outcome if outcome.id is None else replace(outcome, job=jobs.get(outcome.id)) for outcome in outcomes
    ]


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
    """Submits images to the provider, which will call the receiver with each result.

    A program without an event loop runs it as ``asyncio.run(submit("photo.jpg"))``.

    Images may have been taken and billed when others fail. So this raises only before anything is sent; what
    becomes of each image stands in its outcome: its ``id``, or its ``error``. Cancelled, it leaves what was
    under way open in the ledger, where a receiver that serves finds out what became of it.

    Args:
        given: URLs, files, or bytes.
        scale: 2, 4 or 8.
        model: ``classic`` or ``gan``.
        mode: ``artifact_removal``, ``ironed_out`` or ``high_fidelity``.
        format: of the results: ``png``, ``jpg`` or ``webp``.
        quality: 1 to 100, together with a format.
        tune_colors: whether a result's colours are matched to the image's.
        ref: your own reference, 1 to 200 printable ASCII characters.
        from_file: a list of URLs, of which only those are submitted that no earlier call has.
        list_name: what the list is known by; where it lies, by default.
        again: whether all of the list is submitted, also what was before.
        rate: the most submissions a second.
        wait: whether to wait until all jobs have ended; a receiver must be serving.
        patience: how long one image waits for a provider that is away.
        config: the settings of the receiver: loaded, or as variables; by default the environment's, and those
            of a ``.env`` file.
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
        environ = settings.environment(os.environ, Path(".env")) if config is None else config
        config = settings.load(environ)
    if path is not None:
        list_name = list_name or name_of(path)
        if again:
            list_name = named_again(list_name, datetime.now(UTC))
    items = await asyncio.to_thread(prepare, given, options, ref=ref, from_file=path, list_name=list_name)
    async with submitting(
        config, options, list_name=None if path is None else list_name, rate=rate, patience=patience
    ) as submitter:
        outcomes = await submit_all(submitter, items, tell)
        return await follow(submitter.ledger, outcomes) if wait else outcomes
