from tests.e2e.conftest import programs, pytest_runtest_makereport

__all__ = ["programs", "pytest_runtest_makereport"]
