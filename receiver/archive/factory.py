"""Opens the archive that an address names. Imports ``folder`` or ``s3`` on demand: boto3 loads slowly."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from receiver.archive.base import Inventory
from receiver.archive.key import MAX_KEY
from receiver.core.errors import ConfigError

MAX_PREFIX = 1024 - MAX_KEY - 1
"""Bytes of a bucket's prefix, so that prefix, slash and key stay within the 1,024 bytes of an S3 key."""

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
"""Wider than today's rules of S3: its oldest buckets, and other stores, have names with upper case and
underscores, and of up to 255 characters."""


def open_archive(
    uri: str,
    *,
    uploads: int = 8,
    environ: Mapping[str, str] | None = None,
    used: bool = False,
    public_url: str | None = None,
) -> Inventory:
    """Open the archive at ``file:///folder`` or ``s3://bucket/prefix``, where the prefix is optional.

    Uses neither the disk nor the network: `Archive.probe` does. ``uploads`` images are put at a time.
    ``environ`` has variables of the AWS SDK (``AWS_…``) that hold beside those of the process: endpoint,
    region, access key and CA bundle. All others the SDK takes from the process alone. ``used``: images were
    put there before; a folder that has vanished is then not made again. ``public_url`` is the endpoint of S3
    for presigned URLs, if people reach the store by another one. Raise `ConfigError` for another address, or
    where the SDK cannot use its variables.
    """
    form = "RECEIVER_ARCHIVE: must be file:///folder or s3://bucket/prefix"
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise ConfigError(form) from None
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(f"{form}, and nothing behind")
    if parts.scheme == "file":
        folder = Path(url2pathname(parts.path))
        if parts.netloc not in {"", "localhost"} or not folder.is_absolute() or "\0" in str(folder):
            raise ConfigError("RECEIVER_ARCHIVE: a folder is written file:///folder, with its whole path")
        from receiver.archive.folder import FolderArchive  # noqa: PLC0415 - loaded on demand

        return FolderArchive(folder, uploads=uploads, used=used)
    if parts.scheme == "s3":
        bucket, prefix = parts.netloc, parts.path.strip("/")
        if not BUCKET.fullmatch(bucket):
            raise ConfigError(
                "RECEIVER_ARCHIVE: must be s3://bucket/prefix, the bucket's name of at least three letters,"
                " digits, dots, dashes and underscores"
            )
        dotted = prefix != "" and not {"", ".", ".."}.isdisjoint(prefix.split("/"))
        if dotted or len(prefix.encode()) > MAX_PREFIX or not prefix.isprintable():
            detail = f"the prefix must be plain text of at most {MAX_PREFIX} bytes"
            raise ConfigError(f"RECEIVER_ARCHIVE: {detail}")
        # boto3 takes a quarter of a second to load.
        from receiver.archive.s3.archive import S3Archive  # noqa: PLC0415
        from receiver.archive.s3.client import Client  # noqa: PLC0415

        client = Client(uploads=uploads, environ=environ or {}, public_url=public_url)
        return S3Archive(bucket, prefix, client=client, uploads=uploads)
    raise ConfigError("RECEIVER_ARCHIVE: must begin with file:// or s3://")
