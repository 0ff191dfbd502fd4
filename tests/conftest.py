"""Loaded here, because only here are they loaded by the process that prints the summary."""

import contextlib
import fcntl
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.trust import trust_nobody

if TYPE_CHECKING:
    from tests.support.postgres import Postgres

pytest_plugins = ["tests.support.skips", "tests.faults.matrix"]

trust_nobody()

# No deadline: how long an example takes says more of the machine than of the code. In CI the same examples
# each time, so that what fails there fails again at a developer's.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects no garbage among the thousands of tests, which all stay to the end."""
    gc.disable()
    try:
        with _first_alone():
            return (yield)
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _first_alone() -> Iterator[None]:
    """Let one worker import all tests before the others do: it keeps for them what it has compiled."""
    with Path(__file__).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@pytest.fixture(scope="session")
def postgres_server() -> "Iterator[Postgres]":
    """A PostgreSQL for all tests of this worker that leave it running."""
    from tests.support.postgres import postgres  # only workers that need it import the driver

    with postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: "Postgres") -> Iterator[str]:
    """The address of a new database."""
    with postgres_server.database() as url:
        yield url
