"""Loaded here, because only here are they loaded by the process that prints the summary."""

import gc
import os
from collections.abc import Generator

import hypothesis
import pytest

from tests.support.trust import trust_nobody

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
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
