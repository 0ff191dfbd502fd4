"""What a provider is made from."""

from collections.abc import Mapping
from dataclasses import dataclass

from receiver.config import Config
from receiver.core.clock import Clock, wall_clock


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings, the environment with what a ``.env`` adds to it, and the clock (ms since the epoch).

    The environment holds what only a description of a provider names, such as the variable of its secret.
    """

    config: Config
    environ: Mapping[str, str]
    now: Clock = wall_clock
