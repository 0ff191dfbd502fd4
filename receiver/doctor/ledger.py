"""Checks of the ledger and its jobs."""

from collections.abc import Iterator
from pathlib import Path

from receiver.config import Config
from receiver.core import serializers
from receiver.core.errors import ConfigError, LedgerError
from receiver.core.jobs import State, overdue_cutoff
from receiver.doctor.checks import RUN_AS_SERVE, Result, failure, ok, warning
from receiver.doctor.remote import check_clock
from receiver.ledger import FILE_NAME, Inspection, LedgerReader, Stats, inspect_database

CHECK_SECONDS = 5.0
"""Time limit of the integrity check without --deep."""

MAX_WAIT = 3_600_000
"""ms after which a received image should have been archived."""

RESTORED = "restore a backup (docs/operations/backup-and-restore.md)."


async def check_ledger(config: Config, *, now: int, deep: bool, serving: bool = False) -> list[Result]:
    """Check that the ledger can be opened and is undamaged, and that no job waits too long.

    ``now`` is ms since the epoch. ``deep`` checks all of the file, however long that takes. ``serving`` tells
    whether a server runs on the data directory.
    """
    if config.ledger is not None:
        return await _check_database(config, now=now, serving=serving)
    path = config.data_dir / FILE_NAME
    if not path.exists() and serving:
        detail = (
            f"{path} is not there, though serve runs: it was moved away or removed, and nothing is accepted"
        )
        remedy = f"Put it back under this name while serve runs, or stop serve and {RESTORED}"
        return [failure("ledger", detail, remedy)]
    if not path.exists():
        return [ok("ledger", "there is none yet")]
    if not path.is_file():
        remedy = f"Move it away; if it took a ledger's place, {RESTORED}"
        return [failure("ledger", f"{path} is no file", remedy)]
    cutoff = overdue_cutoff(now, config.overdue_after)
    try:
        async with await LedgerReader.open(config.ledger_location) as ledger:
            jobs = check_jobs(await ledger.stats(overdue_before=cutoff), now)
            whole = await ledger.check_whole(seconds=None if deep else CHECK_SECONDS, deep=deep)
    except LedgerError as error:
        return [_unusable_ledger(error, config.data_dir)]
    if not whole:
        detail = f"is of this version; the look for damage was not finished in {CHECK_SECONDS:g} seconds"
        return [warning("ledger", detail, "`receiver doctor --deep` reads all of it."), *jobs]
    undamaged = "whole" if deep else "no damage was found"
    return [ok("ledger", f"is of this version, and {undamaged}"), *jobs]


async def _check_database(config: Config, *, now: int, serving: bool) -> list[Result]:
    try:
        found = await inspect_database(config.ledger_location)
    except (LedgerError, ConfigError) as error:
        remedy = "Does the server run, and is RECEIVER_LEDGER right? psql with the same URL says more."
        return [failure("database", getattr(error, "detail", str(error)), remedy)]
    results = list(_judge(found))
    results += check_clock("the database", (found.at - now) / 1000)
    try:
        async with await LedgerReader.open(config.ledger_location) as ledger:
            stats = await ledger.stats(overdue_before=overdue_cutoff(found.at, config.overdue_after))
    except LedgerError as error:
        if error.reason == "ledger.newer":
            return [*results, failure("ledger", error.detail, "Start the newer program.")]
        if serving or error.__cause__ is not None:  # the server's own error, and no mere lack of a ledger
            remedy = f"pg_stat_activity shows what blocks it; if its tables are gone, {RESTORED}"
            return [*results, failure("ledger", error.detail, remedy)]
        return [*results, warning("ledger", error.detail, "Start serve once; it makes or migrates it.")]
    return [*results, ok("ledger", "is of this version"), *check_jobs(stats, found.at)]


def _judge(found: Inspection) -> Iterator[Result]:
    server = f"PostgreSQL {found.server}"
    if found.missing:
        more = f" and {len(found.missing) - 3} more" if len(found.missing) > 3 else ""
        detail = f"{server}: this user has not the right to {', '.join(found.missing[:3])}{more}"
        yield failure("database", detail, "GRANT it, or let this user own the schema upscale_receiver.")
    if found.is_read_only:
        detail = f"{server} takes no writes: it is a standby, or default_transaction_read_only is on"
        yield failure("database", detail, "Name the primary in RECEIVER_LEDGER, or make room and set it off.")
    if found.unsafe:
        detail = f"{server}: {' and '.join(found.unsafe)} is off, so a power cut can damage the ledger"
        yield failure("database", detail, "Set it on, and restart the server.")
    if not (found.missing or found.is_read_only or found.unsafe):
        yield ok("database", f"{server} answers, and gives this user the rights that the ledger needs")


def check_jobs(stats: Stats, now: int) -> list[Result]:
    """Check the ledger's counts for jobs that need attention."""
    total = sum(stats.jobs.values())
    return [*_jobs_at_risk(stats, now)] or [ok("jobs", f"{total} are known, and none waits too long")]


def _jobs_at_risk(stats: Stats, now: int) -> Iterator[Result]:
    if stats.at_risk:
        yield failure(
            "jobs",
            f"{stats.at_risk} are at risk: less than a tenth of their image URL's life is left, to"
            f" {serializers.time(stats.soonest_deadline)}",
            "`receiver jobs --state received` lists them, `receiver job ID` says what each met.",
        )
    if stats.overdue:
        yield warning(
            "jobs",
            f"{stats.overdue} are overdue: submitted, and never heard of",
            "`receiver jobs --overdue` lists them, `receiver reconcile` asks the provider about them, and"
            " `receiver forget ID` gives up one that was announced by mistake.",
        )
    for it in stats.instances:
        if it.images and it.state(now) != "live":
            yield warning(
                "jobs",
                f"{it.images} wait for the receiver {it.name}: it does not run, and has their images",
                "Start it with its data directory.",
            )
    waiting = 0 if stats.oldest_waiting_at is None else now - stats.oldest_waiting_at
    if waiting > MAX_WAIT:
        yield warning(
            "jobs",
            f"one has waited for {waiting // 60_000} minutes to be archived",
            "Is serve running? `receiver jobs --state received --state fetched` says what they met.",
        )
    if lost := stats.jobs[State.EXPIRED]:
        yield warning(
            "jobs",
            f"{lost} expired before their image was safe",
            "`receiver jobs --state expired` lists them; submit their pictures again.",
        )


def check_server(pid: int | None) -> Result:
    """Check that a server holds the data directory. ``pid`` is 0 if the process cannot be named."""
    if pid is None:
        return warning("serve", "no serve runs on this data directory", "Start it: receiver serve")
    return ok("serve", f"runs on this data directory{f', as process {pid}' if pid else ''}")


def _unusable_ledger(error: LedgerError, folder: Path) -> Result:
    if error.reason == "ledger.corrupt":
        return failure("ledger", error.detail, f"Stop serve, copy the files away, and {RESTORED}")
    if error.reason == "ledger.newer":
        return failure("ledger", error.detail, "Start the newer program.")
    if error.__cause__ is not None:  # SQLite's own: the file cannot be read
        return failure("ledger", error.detail, f"Correct the rights of what lies in {folder}. {RUN_AS_SERVE}")
    return warning("ledger", error.detail, f"Start serve once; if it says the same, look at {folder}.")
