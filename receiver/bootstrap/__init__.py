"""Builds the receiver from its settings and serves it."""
