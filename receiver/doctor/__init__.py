"""Checks an installation, and says how to repair what fails; reads a sample of a delivery.

Nothing stays changed: the archive's probe and folders made to try whether they can be are removed again.
Secrets are neither printed nor sent to anyone who does not know them.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from receiver.config import Config, environment, load_partly, named, origins
from receiver.core.clock import wall_clock
from receiver.core.concurrency import run_in_thread
from receiver.core.errors import BodyError, ConfigError
from receiver.doctor import ledger, machine, remote, settings
from receiver.doctor.checks import Check, Level, Result, failure, run_checks, skipped
from receiver.ledger import holder
from receiver.ledger.sqlite.schema import unsafe_sqlite
from receiver.providers.base import Provider, Running, Setup
from receiver.providers.registry import open_providers, reader_of

__all__ = ["Level", "Report", "Result", "diagnose", "look_at", "read_sample"]

MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks, and each setting with its source and without its secrets.

    ``settings`` is empty if none can be read; ``finished`` tells whether all checks were completed.
    """

    results: Sequence[Result]
    settings: Sequence[Mapping[str, Any]]
    finished: bool = True

    @property
    def good(self) -> bool:
        return self.finished and all(result.level is not Level.FAILURE for result in self.results)


async def diagnose(
    own: Mapping[str, str],
    dotenv: Path,
    *,
    deep: bool = False,
    stopping: asyncio.Event | None = None,
    on_waiting: Callable[[Sequence[str]], None] = lambda _: None,
) -> Report:
    """Run all checks at once, with the settings of the environment and of a file.

    ``deep`` reads all of the ledger, however long that takes. ``stopping`` ends the checks when it is set.
    ``on_waiting`` is called with the names of the unfinished checks whenever one finishes.
    """
    stopping = stopping or asyncio.Event()
    alone = [
        _blocking("versions", lambda: machine.check_versions(unsafe_sqlite())),
        _blocking(".env", lambda: settings.check_dotenv(dotenv)),
    ]
    try:
        environ = environment(own, dotenv)
        given = origins(own, dotenv)
        config, wrong = load_partly(environ)
    except ConfigError as error:
        unreadable = failure("settings", str(error), settings.FIX_SETTING)
        rest = skipped("the rest", "the settings cannot be read")
        return Report([unreadable, *await run_checks(alone), rest], ())
    checks = [
        _blocking("settings", lambda: settings.check_settings(config, given, wrong, environ)),
        _blocking("secrets", lambda: settings.check_secrets(config, environ)),
        _blocking("secret files", lambda: _check_secret_files(environ)),
        *alone,
        _blocking(".env", lambda: settings.check_hidden(own, dotenv)),
        *_checks(config, environ, deep=deep),
    ]
    secrets = settings.secret_values(config, environ)
    results = await run_checks(checks, secrets, wrong=named(wrong), stopping=stopping, on_waiting=on_waiting)
    return Report(results, settings.settings_report(config, given, wrong), finished=not stopping.is_set())


async def look_at(setting: str, environ: Mapping[str, str]) -> list[Result]:
    """Run the checks that depend on a setting."""
    config, wrong = load_partly(environ)
    checks = [check for check in _checks(config, environ, deep=False) if setting in check.needs]
    return await run_checks(checks, settings.secret_values(config, environ), wrong=named(wrong))


def _blocking(name: str, run: Callable[[], Sequence[Result]], needs: Collection[str] = ()) -> Check:
    return Check(name, partial(run_in_thread, run), needs=needs)


def _check_secret_files(environ: Mapping[str, str]) -> list[Result]:
    folder = environ.get("RECEIVER_SECRETS_DIR")
    return settings.check_secret_files(Path(folder), _mounts()) if folder else []


def _mounts() -> str:
    return MOUNTS.read_text(encoding="utf-8", errors="replace") if MOUNTS.exists() else ""


def _checks(config: Config, environ: Mapping[str, str], *, deep: bool) -> list[Check]:
    """Return the checks of this machine, then those of remote systems and of addresses that lead there."""
    server_pid = partial(run_in_thread, lambda: holder(config.data_dir))

    async def check_ledger() -> list[Result]:
        serving = await server_pid() is not None
        return await ledger.check_ledger(config, now=wall_clock(), deep=deep, serving=serving)

    async def serve() -> list[Result]:
        pid = await server_pid()
        if pid is None:
            return [ledger.check_server(None), await run_in_thread(lambda: machine.check_address(config))]
        return [ledger.check_server(pid), *await remote.check_readiness(config, elsewhere=pid == 0)]

    try:
        providers = open_providers(Setup(config, environ))
    except ConfigError:  # the check of the settings says so
        providers = {}

    async def public() -> list[Result]:
        return await remote.check_public_url(config, providers, serving=await server_pid() is not None)

    def provider_check(provider: Provider) -> Check:
        name = "provider" if len(providers) == 1 else f"provider {provider.name}"
        return Check(
            name,
            lambda: remote.check_provider(provider, name),
            remedy=f"May this machine reach {provider.url_setting}?",
            needs={provider.token_setting, provider.url_setting},
        )

    return [
        _blocking(
            "data directory",
            lambda: machine.check_directory(config, user=os.geteuid(), mounts=_mounts()),
        ),
        _blocking(
            "disk",
            lambda: machine.check_disk(config),
            {"RECEIVER_MAX_SPOOL_BYTES", "RECEIVER_MAX_IMAGE_BYTES"},
        ),
        Check("ledger", check_ledger, None if deep else 10.0, needs={"RECEIVER_OVERDUE_AFTER"}),
        Check("serve", serve, needs={"RECEIVER_HOST", "RECEIVER_PORT"}),
        Check(
            "archive",
            lambda: remote.check_archive(config, environ),
            20.0,  # the archive's probe asks the store several times
            "Does the store answer at all?",
            {"RECEIVER_ARCHIVE"},
        ),
        Check("alerts", lambda: remote.check_alerts(config), 60.0, needs={"RECEIVER_ALERT_URLS"}),
        *map(provider_check, providers.values()),
        Check(
            "public URL",
            public,
            remedy="Does RECEIVER_PUBLIC_URL answer at all?",
            needs={"RECEIVER_PUBLIC_URL", *(provider.url_setting for provider in providers.values())},
        ),
    ]


def read_sample(setup: Setup, name: str, body: bytes) -> dict[str, Any]:
    """Return what a body says: its jobs, their state, URLs and deadlines, and what is promised of them.

    Raise `ConfigError` if the provider is unknown or wrongly set, `BodyError` if the body is not a job's.
    """
    provider = reader_of(name, setup)
    if provider is None:
        raise ConfigError(f"{name}: no provider of this name is on")
    if len(body) > setup.config.max_webhook_bytes:
        raise BodyError("body.too_large")
    reading = provider.read(body)
    if isinstance(reading, Running):
        return {"id": provider.job_id(reading.id), "status": reading.status, "state": None, "outputs": []}
    error = reading.failure
    completions = provider.completions(reading, setup.now()) if reading.outputs else ()
    return {
        "id": provider.job_id(reading.id),
        "status": None,
        "state": "received" if error is None else "failed",
        "error": error and asdict(error),
        "is_asked_for": error is None and not reading.outputs,
        "outputs": [
            {
                "id": completion.id,
                "image_url": completion.image_url,
                "url_expires_at": datetime.fromtimestamp(deadline.at // 1000, UTC).strftime(
                    "%Y-%m-%dT%H:%M:%SZ"
                ),
                "promised": {"width": completion.width, "height": completion.height},
                "bytes": completion.bytes,
                "content_type": completion.content_type,
                "error": completion.failure and asdict(completion.failure),
            }
            for completion, deadline in completions
        ],
    }
