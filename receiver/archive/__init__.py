"""The archive: one interface over a folder and S3. It proves that it keeps what it was given."""

from receiver.archive.base import (
    Archive,
    Depth,
    ImageReader,
    Inventory,
    Item,
    ListedObject,
    ObjectInfo,
    ProbeResult,
    open_archive,
)
from receiver.archive.key import check_template, render_key

__all__ = [
    "Archive",
    "Depth",
    "ImageReader",
    "Inventory",
    "Item",
    "ListedObject",
    "ObjectInfo",
    "ProbeResult",
    "check_template",
    "open_archive",
    "render_key",
]
