"""Finds an image whose archive was moved: to another folder, mount, bucket or prefix."""

from urllib.parse import unquote

from receiver.archive.base import Depth, Inventory
from receiver.archive.key import check_key
from receiver.core.errors import ArchiveError
from receiver.core.jobs import Image, StoredObject


def split(uri: str, parts: int) -> tuple[str, str]:
    """Split an object's address into the former archive's, to its last slash, and a key of so many parts."""
    pieces = uri.split("/")
    key = "/".join(pieces[-parts:])
    return "/".join([*pieces[:-parts], ""]), unquote(key) if uri.startswith("file:") else key


def key_below(root: str, uri: str) -> str:
    """Return the key of an object below the root of its archive, which ends with a slash."""
    return split(uri, uri.removeprefix(root).count("/") + 1)[1]


async def find(archive: Inventory, stored: StoredObject, image: Image) -> tuple[str, StoredObject] | None:
    """Return under which root an image lay, and where in the archive it lies now; ``None`` if nowhere.

    What is kept of an address does not say where its key begins. So each possible key is tried, the longest
    first; the bytes prove the image. Raise `ArchiveError` where the archive cannot be read.
    """
    for parts in range(stored.uri.partition("://")[2].count("/"), 0, -1):
        root, key = split(stored.uri, parts)
        try:
            check_key(key)
            found = archive.object_at(key)
            if await holds(archive, found, image):
                return root, found
        except ArchiveError as error:
            if error.reason not in {"archive.missing", "archive.refused", "archive.unreadable"}:
                raise
    return None


async def holds(archive: Inventory, stored: StoredObject, image: Image) -> bool:
    """Return whether an object has exactly an image's bytes. Raise ``archive.missing`` if it is not there."""
    info = await archive.inspect(stored, Depth.QUICK)
    if info.bytes == image.bytes and info.sha256 is None:
        info = await archive.inspect(stored, Depth.DEEP)
    return (info.bytes, info.sha256) == (image.bytes, image.sha256)
