"""Checks and their results. Checks run all at once, each within its time limit."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from receiver.providers import bodies

RUN_AS_SERVE = "Run this as the user that runs serve, whose all of the data directory must be."

MASK = bodies.MASK.decode()


class Level(StrEnum):
    OK = "OK"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found, in a sentence; and what to do, unless the level is OK."""

    check: str
    level: Level
    detail: str
    remedy: str | None = None


def ok(check: str, detail: str) -> Result:
    return Result(check, Level.OK, detail)


def warning(check: str, detail: str, remedy: str) -> Result:
    return Result(check, Level.WARNING, detail, remedy)


def failure(check: str, detail: str, remedy: str) -> Result:
    return Result(check, Level.FAILURE, detail, remedy)


def skipped(check: str, why: str) -> Result:
    """Return the result of a check that is impossible with the present settings."""
    return warning(check, f"was not looked at, because {why}", "Correct that, and look again.")


@dataclass(frozen=True, slots=True)
class Check:
    """One check, with its time limit and what to do if it exceeds that, and the settings that it needs.

    ``seconds`` is ``None`` for no limit.
    """

    name: str
    run: Callable[[], Awaitable[Sequence[Result]]]
    seconds: float | None = 10.0
    remedy: str = "Look whether the disk, the network and the name server answer at all."
    needs: Collection[str] = ()


async def run_checks(
    checks: Sequence[Check],
    hidden: Iterable[str] = (),
    *,
    wrong: Collection[str] = (),
    stopping: asyncio.Event | None = None,
    on_waiting: Callable[[Sequence[str]], None] = lambda _: None,
) -> list[Result]:
    """Run all checks at once. Return their results in the checks' order, with the secrets ``hidden`` masked.

    A check that needs one of the ``wrong`` settings only says so. ``stopping`` cancels the unfinished checks
    when it is set. ``on_waiting`` is called with their names whenever a check finishes.
    """
    secrets = sorted({secret for secret in hidden if len(secret) >= bodies.MIN_MASKED}, key=len, reverse=True)
    tasks = [asyncio.create_task(_run(check, wrong)) for check in checks]
    stopped = asyncio.create_task((stopping or asyncio.Event()).wait())
    while not stopped.done() and (left := [task for task in tasks if not task.done()]):
        on_waiting([check.name for check, task in zip(checks, tasks, strict=True) if task in left])
        await asyncio.wait({stopped, *left}, return_when=asyncio.FIRST_COMPLETED)
    found = [
        task.result()
        if task.done()
        else [warning(check.name, "was not looked at to the end", "Look again, and let it come to its end.")]
        for check, task in zip(checks, tasks, strict=True)
    ]
    for each in (stopped, *tasks):
        each.cancel()
    return [_mask(result, secrets) for results in found for result in results]


async def _run(check: Check, wrong: Collection[str]) -> Sequence[Result]:
    if missed := sorted(set(wrong).intersection(check.needs)):
        return [skipped(check.name, f"{' and '.join(missed)} is wrong")]
    task = asyncio.ensure_future(check.run())
    try:
        # A check may not end even when cancelled, as when it closes a file of a dead disk: it is abandoned.
        await asyncio.wait({task}, timeout=check.seconds)
    finally:
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        task.cancel()
    if not task.done():
        return [failure(check.name, f"no answer within {check.seconds:g} seconds", check.remedy)]
    try:
        return task.result()
    except OSError as error:
        detail = f"cannot be looked at: {error.strerror or type(error).__name__}"
        where = f" ({error.filename})" if error.filename else ""
        remedy = RUN_AS_SERVE if isinstance(error, PermissionError) else check.remedy
        return [failure(check.name, detail + where, remedy)]
    except Exception as bug:  # noqa: BLE001 - the other checks' results are shown
        # Without its text, which may hold a secret.
        return [failure(check.name, f"the check itself failed ({type(bug).__name__})", "Report it as a bug.")]


def _mask(result: Result, secrets: Sequence[str]) -> Result:
    detail, remedy = result.detail, result.remedy
    for secret in secrets:
        detail = detail.replace(secret, MASK)
        remedy = remedy and remedy.replace(secret, MASK)
    return replace(result, detail=detail, remedy=remedy)
