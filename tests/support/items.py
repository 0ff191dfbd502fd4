"""Spooled items for the archive's tests. The archive decodes nothing, so any bytes do."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from receiver.archive.base import SpooledImage
from receiver.core.jobs import Image

RECEIVED = datetime(2026, 3, 9, 23, 30, 5, tzinfo=UTC)


def spooled(
    folder: Path,
    key: str,
    content: bytes | None = None,
    *,
    job_id: str = "job-1",
    ref: str | None = "order 7",
) -> SpooledImage:
    """An item whose spooled file holds the content, or 100 kB of noise."""
    content = os.urandom(100_000) if content is None else content
    path = folder / f"{os.urandom(8).hex()}.spool"
    path.write_bytes(content)
    image = Image("png", 640, 480, len(content), hashlib.sha256(content).hexdigest())
    return SpooledImage(job_id, path, image, key, ref, RECEIVED)
