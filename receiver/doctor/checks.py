"""What a check comes to, and how checks are run: all at once, each within its time."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")

RUN_AS_SERVE = "Run this as the user that runs serve, whose all of the data directory must be."

MASK = "**********"
MIN_MASKED = 6
"""Characters from which on a secret is looked for in what is said; a shorter one would stand in any word."""


class Level(StrEnum):
    """How well a thing stands."""

    OK = "OK"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Result:
    """What was found of one thing.

    Attributes:
        check: the thing's name.
        level: how it stands.
        detail: a sentence.
        remedy: what to do, where it does not stand well.
    """

    check: str
    level: Level
    detail: str
    remedy: str | None = None


def ok(check: str, detail: str) -> Result:
    """It stands well."""
    return Result(check, Level.OK, detail)


def warning(check: str, detail: str, remedy: str) -> Result:
    """It works, or may, and should be looked at."""
    return Result(check, Level.WARNING, detail, remedy)


def failure(check: str, detail: str, remedy: str) -> Result:
    """It does not work."""
    return Result(check, Level.FAILURE, detail, remedy)


def skipped(check: str, setting: str) -> Result:
    """It needs a setting that is wrong."""
    return warning(check, f"was not looked at, because {setting} is wrong", "Correct that, and look again.")


@dataclass(frozen=True, slots=True)
class Check:
    """One look at something.

    Attributes:
        name: of the thing.
        look: gives what was found.
        seconds: how long it may take; without, as long as it takes.
        remedy: what to do where it takes longer.
        needs: the settings without which there is nothing to look at.
    """

    name: str
    look: Callable[[], Awaitable[Sequence[Result]]]
    seconds: float | None = 10.0
    remedy: str = "Look whether the disk, the network and the name server answer at all."
    needs: frozenset[str] = frozenset()

    def skip_if_wrong(self, wrong: frozenset[str]) -> "Check":
        """The same look, but where it needs one of the settings that are wrong it says so and no more."""
        missed = self.needs & wrong
        return replace(self, look=lambda: _skip(self.name, missed)) if missed else self


async def _skip(name: str, wrong: frozenset[str]) -> Sequence[Result]:
    return [skipped(name, " and ".join(sorted(wrong)))]


def ignore(_: Sequence[str]) -> None:
    """Says nothing."""


async def run_checks(
    checks: Sequence[Check],
    hidden: Iterable[str] = (),
    *,
    stopping: asyncio.Event | None = None,
    on_waiting: Callable[[Sequence[str]], None] = ignore,
) -> list[Result]:
    """Makes all checks at once and gives what was found, in their order.

    Args:
        checks: what to look at.
        hidden: secrets; whatever repeats one says it masked.
        stopping: ends the looks that are not through when it is set.
        on_waiting: is told the names of the checks that are not through, whenever one is.
    """
    secrets = sorted({secret for secret in hidden if len(secret) >= MIN_MASKED}, key=len, reverse=True)
    looks = [asyncio.create_task(_run(check)) for check in checks]
    stopped = asyncio.create_task((stopping or asyncio.Event()).wait())
    while not stopped.done() and (left := [look for look in looks if not look.done()]):
        on_waiting([check.name for check, look in zip(checks, looks, strict=True) if look in left])
        await asyncio.wait({stopped, *left}, return_when=asyncio.FIRST_COMPLETED)
    found = [
        look.result()
        if look.done()
        else [warning(check.name, "was not looked at to the end", "Look again, and let it come to its end.")]
        for check, look in zip(checks, looks, strict=True)
    ]
    for task in (stopped, *looks):
        task.cancel()
    return [_mask(result, secrets) for results in found for result in results]


async def run_in_thread(work: Callable[[], T]) -> T:
    """Runs work that blocks in a thread of its own, which nothing waits for where its caller has gone.

    The loop's own threads would be waited for at the end, and a disk may never answer.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(give: Callable[[], None]) -> None:
        def late() -> None:
            if not outcome.done():
                give()

        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(late)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            failure = error
            settle(lambda: outcome.set_exception(failure))
        else:
            settle(lambda: outcome.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await outcome


async def _run(check: Check) -> Sequence[Result]:
    look = asyncio.ensure_future(check.look())
    try:
        # One that does not end even when it is cut off, as it closes a file of a dead disk, is left behind.
        await asyncio.wait({look}, timeout=check.seconds)
    finally:
        look.add_done_callback(_consume)
        look.cancel()
    if not look.done():
        return [failure(check.name, f"no answer within {check.seconds:g} seconds", check.remedy)]
    try:
        return look.result()
    except OSError as error:
        said = f"cannot be looked at: {error.strerror or type(error).__name__}"
        where = f" ({error.filename})" if error.filename else ""
        remedy = RUN_AS_SERVE if isinstance(error, PermissionError) else check.remedy
        return [failure(check.name, said + where, remedy)]
    except Exception as bug:  # noqa: BLE001 - the other checks have something to say, too
        # Without its text: nobody knows what stands in there.
        return [failure(check.name, f"the check itself failed ({type(bug).__name__})", "Report it as a bug.")]


def _consume(look: "asyncio.Future[Sequence[Result]]") -> None:
    if not look.cancelled():
        look.exception()


def _mask(result: Result, secrets: Sequence[str]) -> Result:
    detail, remedy = result.detail, result.remedy
    for secret in secrets:
        detail = detail.replace(secret, MASK)
        remedy = remedy and remedy.replace(secret, MASK)
    return replace(result, detail=detail, remedy=remedy)
