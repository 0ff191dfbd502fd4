"""Whom clients trust: to read the system's hundred authorities takes longer than many a test."""

import os
from pathlib import Path

AUTHORITY = Path(__file__).with_name("authority.pem")
"""The certificate of an authority whose key nobody has."""

OUTSIDE = dict(os.environ)
"""The environment of programs that speak to the world outside."""


def trust_nobody() -> None:
    """Has this process and its children trust nobody but `AUTHORITY`."""
    os.environ["SSL_CERT_FILE"] = str(AUTHORITY)
