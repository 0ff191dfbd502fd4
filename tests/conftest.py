"""Loaded here, because only here are they loaded by the process that prints the summary."""

pytest_plugins = ["tests.support.skips", "tests.faults.matrix"]
