"""The fixtures of the end-to-end tests that start processes, for the page's own."""

from tests.e2e.conftest import programs, pytest_runtest_makereport, shared_programs

__all__ = ["programs", "pytest_runtest_makereport", "shared_programs"]
