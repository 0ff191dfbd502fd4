"""What the maintenance commands share."""

import os
from collections.abc import Mapping
from typing import Annotated

import typer

from receiver.bootstrap.factories import check_settings
from receiver.cli import common
from receiver.config import Config

FromStart = Annotated[
    bool, typer.Option("--from-start", help="Begin anew, and not where the last run was cut off.")
]


def load_checked_config() -> tuple[Config, Mapping[str, str]]:
    """Return the settings, checked as `serve` does, and their environment, or raise `ConfigError`."""
    config, environ = common.load_config()
    check_settings(config, environ)
    os.umask(0o077)  # whatever is created here is readable by its owner alone
    return config, environ
