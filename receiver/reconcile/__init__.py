"""Asks the provider about jobs whose completion did not arrive."""
