"""Whether an installation has everything that it needs, and how to mend what it lacks.

Nothing stays changed: the archive's own probe, and a folder that is made for a moment where one has to be,
are removed again. No secret is said, or sent to who does not know it.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver.config import Config, environment, load_partly, named, origins
from receiver.core.clock import wall_clock
from receiver.core.errors import ConfigError
from receiver.doctor.ledger import look_at_ledger, look_at_server
from receiver.doctor.machine import look_at_address, look_at_directory, look_at_disk, look_at_versions
from receiver.doctor.remote import (
    look_at_archive,
    look_at_no_public_url,
    look_at_provider,
    look_at_public_url,
    look_at_readiness,
)
from receiver.doctor.settings import (
    MEND,
    hidden,
    look_at_dotenv,
    look_at_secret_files,
    look_at_secrets,
    look_at_settings,
    shown,
)
from receiver.doctor.verdict import Check, Level, Verdict, broken, doubtful, examine, in_thread, unheard
from receiver.ledger import holder, unsafe_sqlite

__all__ = ["Level", "Report", "Verdict", "diagnose"]

MOUNTS = Path("/proc/self/mounts")

STORE_SECONDS = 20.0
"""How long the archive's probe may take, which asks the store several times."""

NOT_LOOKED_AT = doubtful(
    "the rest",
    "was not looked at, because the settings cannot be read",
    "Correct that, and look again.",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What all checks came to.

    Attributes:
        verdicts: one for each thing that was looked at.
        settings: each setting without its secrets, and where it comes from; empty where none can be read.
        finished: whether all checks came to their end.
    """

    verdicts: Sequence[Verdict]
    settings: Sequence[Mapping[str, Any]]
    finished: bool = True

    @property
    def good(self) -> bool:
        """Whether all was looked at, and nothing fails."""
        return self.finished and all(verdict.level is not Level.FAILURE for verdict in self.verdicts)


async def diagnose(
    own: Mapping[str, str],
    dotenv: Path,
    *,
    deep: bool = False,
    now: Callable[[], int] = wall_clock,
    stopping: asyncio.Event | None = None,
    waiting: Callable[[Sequence[str]], None] = unheard,
) -> Report:
    """Makes all checks at once.

    Args:
        own: the process's environment.
        dotenv: where more of it is written.
        deep: whether all of the ledger is read, however long that takes.
        now: ms since the epoch.
        stopping: has it end with what is known when it is set.
        waiting: is told the names of the checks that are not through, whenever one is.
    """
    stopping = stopping or asyncio.Event()
    alone = [
        Check("versions", _at_once(lambda: look_at_versions(unsafe_sqlite()))),
        Check(".env", _in_thread(lambda: look_at_dotenv(dotenv))),
    ]
    try:
        environ = environment(own, dotenv)
        given = origins(own, dotenv)
        config, wrong = load_partly(environ)
    except ConfigError as error:
        return Report([broken("settings", str(error), MEND), *await examine(alone), NOT_LOOKED_AT], ())
    checks = [
        Check("settings", _in_thread(lambda: look_at_settings(config, given, wrong))),
        Check("secrets", _at_once(lambda: look_at_secrets(config, environ))),
        Check("secret files", _in_thread(lambda: _look_at_secret_files(environ))),
        *alone,
        *_here(config, now=now, deep=deep),
        *_beyond(config, environ),
    ]
    verdicts = await examine(
        [check.without(named(wrong)) for check in checks],
        hidden(config, environ),
        stopping=stopping,
        waiting=waiting,
    )
    return Report(verdicts, shown(config, given, wrong), finished=not stopping.is_set())


def _look_at_secret_files(environ: Mapping[str, str]) -> list[Verdict]:
    folder = environ.get("RECEIVER_SECRETS_DIR")
    return look_at_secret_files(Path(folder), _mounts()) if folder else []


def _mounts() -> str:
    return MOUNTS.read_text(encoding="utf-8", errors="replace") if MOUNTS.exists() else ""


def _here(config: Config, *, now: Callable[[], int], deep: bool) -> list[Check]:
    """What is looked at on this machine."""

    def directory() -> list[Verdict]:
        return look_at_directory(config, user=os.geteuid(), mounts=_mounts())

    async def ledger() -> list[Verdict]:
        serving = await _server(config) is not None
        return await look_at_ledger(config, now=now(), deep=deep, serving=serving)

    async def serve() -> list[Verdict]:
        pid = await _server(config)
        if pid is None:
            return [look_at_server(None), await in_thread(lambda: look_at_address(config))]
        return [look_at_server(pid), *await look_at_readiness(config, elsewhere=pid == 0)]

    return [
        Check("data directory", _in_thread(directory)),
        Check(
            "disk",
            _in_thread(lambda: look_at_disk(config)),
            needs=frozenset({"RECEIVER_MAX_SPOOL_BYTES", "RECEIVER_MAX_IMAGE_BYTES"}),
        ),
        Check(
            "ledger",
            ledger,
            None if deep else 10.0,
            needs=frozenset({"RECEIVER_OVERDUE_AFTER"}),
        ),
        Check("serve", serve, needs=frozenset({"RECEIVER_HOST", "RECEIVER_PORT"})),
    ]


def _beyond(config: Config, environ: Mapping[str, str]) -> list[Check]:
    """What is looked at beyond this machine, or by a way that leads there."""

    async def public() -> list[Verdict]:
        if config.public_url is None:
            return look_at_no_public_url(config)
        return await look_at_public_url(config, serving=await _server(config) is not None)

    return [
        Check(
            "archive",
            lambda: look_at_archive(config, environ),
            STORE_SECONDS,
            "Does the store answer at all?",
            frozenset({"RECEIVER_ARCHIVE"}),
        ),
        Check(
            "provider",
            lambda: look_at_provider(config),
            remedy="May this machine reach XIMILAR_API_URL?",
            needs=frozenset({"XIMILAR_API_TOKEN", "XIMILAR_API_URL"}),
        ),
        Check(
            "public URL",
            public,
            remedy="Does RECEIVER_PUBLIC_URL answer at all?",
            needs=frozenset({"RECEIVER_PUBLIC_URL", "XIMILAR_API_URL"}),
        ),
    ]


async def _server(config: Config) -> int | None:
    """The process that serves from the data directory, as `holder` tells it."""
    return await in_thread(lambda: holder(config.data_dir))


def _at_once(look: Callable[[], Sequence[Verdict]]) -> Callable[[], Any]:
    async def made() -> Sequence[Verdict]:
        return look()

    return made


def _in_thread(look: Callable[[], Sequence[Verdict]]) -> Callable[[], Any]:
    return lambda: in_thread(look)
