"""Asking the provider about jobs whose completion did not come."""
