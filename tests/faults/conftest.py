from collections.abc import Iterator

import pytest

from tests.e2e.conftest import programs, pytest_runtest_makereport
from tests.faults import matrix as the_matrix
from tests.support.source import Source, source

__all__ = ["programs", "pytest_runtest_makereport"]


def pytest_configure(config: pytest.Config) -> None:
    """Prints the matrix at the end, whoever loads this first."""
    if not config.pluginmanager.is_registered(the_matrix):
        config.pluginmanager.register(the_matrix, "fault-matrix")


@pytest.fixture
def matrix(request: pytest.FixtureRequest) -> the_matrix.Matrix:
    """Takes the rows of one test: ``matrix("kill -9 in a download", audit(…))``."""
    assert isinstance(request.node, pytest.Item)
    return the_matrix.Matrix(request.node)


@pytest.fixture
def host() -> Iterator[Source]:
    """A host of images."""
    with source() as it:
        yield it
