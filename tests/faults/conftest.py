import pytest

from tests.e2e.conftest import programs, pytest_runtest_makereport
from tests.faults import matrix as the_matrix

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
