"""Whether an installation has everything that it needs, and how to mend what it lacks.

Nothing stays changed: the archive's own probe, and a folder that is made for a moment where one has to be,
are removed again. No secret is said, or sent to who does not know it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver.config import Config, environment, faults, load, origins
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
    hidden,
    look_at_dotenv,
    look_at_faults,
    look_at_secrets,
    look_at_settings,
    shown,
)
from receiver.doctor.verdict import Check, Level, Verdict, doubtful, examine, in_thread
from receiver.errors import ConfigError
from receiver.ledger import holder, unsafe_sqlite, wall_clock

__all__ = ["Level", "Report", "Verdict", "diagnose"]

MOUNTS = Path("/proc/self/mounts")

STORE_SECONDS = 20.0
"""How long the archive's probe may take, which asks the store several times."""

NOT_LOOKED_AT = doubtful(
    "the rest", "was not looked at, because a setting is wrong", "Correct the settings, and look again."
)


@dataclass(frozen=True, slots=True)
class Report:
    """What all checks came to.

    Attributes:
        verdicts: one for each thing that was looked at.
        settings: each setting without its secrets, and where it comes from; empty where one is wrong.
    """

    verdicts: Sequence[Verdict]
    settings: Sequence[Mapping[str, Any]]

    @property
    def good(self) -> bool:
        """Whether nothing fails."""
        return all(verdict.level is not Level.FAILURE for verdict in self.verdicts)


async def diagnose(
    own: Mapping[str, str], dotenv: Path, *, deep: bool = False, now: Callable[[], int] = wall_clock
) -> Report:
    """Makes all checks at once.

    Args:
        own: the process's environment.
        dotenv: where more of it is written.
        deep: whether all of the ledger is read, however long that takes.
        now: ms since the epoch.
    """
    alone = [Check("versions", _at_once(lambda: look_at_versions(unsafe_sqlite())))]
    try:
        environ = environment(own, dotenv)
        given = origins(own, dotenv)
    except ConfigError as error:
        wrong: Sequence[str] = (str(error),)
    else:
        wrong = faults(environ)
    alone.append(Check(".env", _in_thread(lambda: look_at_dotenv(dotenv))))
    if wrong:
        return Report([*look_at_faults(wrong), *await examine(alone), NOT_LOOKED_AT], ())
    config = load(environ)
    checks = [
        Check("settings", _at_once(lambda: look_at_settings(config, given))),
        Check("secrets", _at_once(lambda: look_at_secrets(config, environ))),
        *alone,
        *_here(config, now=now, deep=deep),
        Check(
            "archive",
            lambda: look_at_archive(config, environ),
            STORE_SECONDS,
            "Does the store answer at all?",
        ),
        Check("provider", lambda: look_at_provider(config), remedy="May this machine reach XIMILAR_API_URL?"),
        Check("public URL", lambda: _public(config), remedy="Does RECEIVER_PUBLIC_URL answer at all?"),
    ]
    verdicts = await examine(checks, hidden(config, environ))
    return Report(verdicts, shown(config, given))


def _here(config: Config, *, now: Callable[[], int], deep: bool) -> list[Check]:
    """What is looked at on this machine."""

    def directory() -> list[Verdict]:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace") if MOUNTS.exists() else ""
        return look_at_directory(config, user=os.geteuid(), mounts=mounts)

    async def serve() -> list[Verdict]:
        pid = await in_thread(lambda: holder(config.data_dir))
        if pid is None:
            return [look_at_server(None), await in_thread(lambda: look_at_address(config))]
        return [look_at_server(pid), *await look_at_readiness(config, elsewhere=pid == 0)]

    return [
        Check("data directory", _in_thread(directory)),
        Check("disk", _in_thread(lambda: look_at_disk(config))),
        Check("ledger", lambda: look_at_ledger(config, now=now(), deep=deep), None if deep else 10.0),
        Check("serve", serve),
    ]


async def _public(config: Config) -> list[Verdict]:
    if config.public_url is None:
        return look_at_no_public_url(config)
    serving = await in_thread(lambda: holder(config.data_dir)) is not None
    return await look_at_public_url(config, serving=serving)


def _at_once(look: Callable[[], Sequence[Verdict]]) -> Callable[[], Any]:
    async def made() -> Sequence[Verdict]:
        return look()

    return made


def _in_thread(look: Callable[[], Sequence[Verdict]]) -> Callable[[], Any]:
    return lambda: in_thread(look)
