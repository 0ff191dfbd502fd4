import sys
from collections.abc import Iterator

import pytest

from receiver.sandbox.options import Options
from tests.sandbox.harness import TOKEN, Neighbour, Sandbox, neighbour, sandbox

# The client needs pydantic.v1, which does not work from Python 3.14 on.
collect_ignore = ["test_sandbox_replicate_client.py"] if sys.version_info >= (3, 14) else []


@pytest.fixture
def near() -> Iterator[Neighbour]:
    with neighbour() as it:
        yield it


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with sandbox(Options(token=TOKEN, delay=0)) as it:
        yield it


@pytest.fixture(scope="module")
def any_box() -> Iterator[Sandbox]:
    """One for tests that leave it as they found it, or do not care what others left."""
    with sandbox(Options(token=TOKEN, delay=0)) as it:
        yield it
