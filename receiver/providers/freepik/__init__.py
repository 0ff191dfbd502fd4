"""Freepik's image upscaler, described in ``freepik.toml``."""
