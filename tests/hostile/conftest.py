from collections.abc import Iterator

import pytest

from tests.e2e.conftest import picture, programs, pytest_runtest_makereport, receiver, shared_programs
from tests.support.source import Source, source

__all__ = ["picture", "programs", "pytest_runtest_makereport", "receiver", "shared_programs"]


@pytest.fixture
def host() -> Iterator[Source]:
    """A host of images."""
    with source() as it:
        yield it
