"""The archive in a folder: each image is put at its key once, whole and durable, and is never overwritten.

Its metadata lies beside it as ``.<name>.json``; no part of a key begins with a dot, so the two cannot
collide. Files and folders are their owner's alone (0600, 0700); an operator may open them to others.
"""

import asyncio
import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from receiver.archive import metadata
from receiver.archive.base import MAX_PICTURE, Depth, ListedObject, ObjectInfo, ProbeResult, SpooledImage
from receiver.archive.key import check_key
from receiver.archive.pooled import PooledArchive, pooled
from receiver.archive.spool_file import BLOCK, SpoolFile, digest
from receiver.core.disk import sync_directory
from receiver.core.errors import ArchiveError, SpoolError
from receiver.core.jobs import Image, StoredObject, image_format

NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of ``link(2)`` between file systems, on one without hard links, and past a file's most links."""

ERRORS = {
    errno.ENOSPC: ("archive.full", False),
    errno.EDQUOT: ("archive.full", False),
    errno.EFBIG: ("archive.too_large", True),
    errno.EACCES: ("archive.denied", True),
    errno.EPERM: ("archive.denied", True),
    errno.EROFS: ("archive.denied", True),
    errno.ENXIO: ("archive.occupied", False),  # no regular file
    errno.ENAMETOOLONG: ("archive.refused", False),
    errno.ENOTDIR: ("archive.refused", False),
    errno.EISDIR: ("archive.refused", False),
}
"""The reason for an error of the disk, and whether somebody must act before it passes."""

PART = re.compile(r"\.[0-9a-f]{16}\.part")
"""The name of an unfinished file."""

PART_LIFETIME = 3600
"""Seconds without a write after which an unfinished file is one that a crash left behind."""

PAGE = 1_000
"""Objects to a page of a listing."""

PICTURE_RESERVE = 512 << 20
"""Bytes of the disk that small pictures leave free: images need them more."""

MAX_METADATA = 64 * 1024
"""Bytes of a metadata file that are read; a put writes a few hundred."""


class FolderArchive(PooledArchive):
    """An archive below one folder.

    A file system that is not mounted must not be mistaken for an empty archive: images put into the mount
    point would be hidden once it is mounted. Only `probe` makes the folder, if its parent exists and there
    was no archive before. The arguments are those of `open_archive`.
    """

    def __init__(self, root: Path, *, uploads: int, used: bool = False) -> None:
        super().__init__(uploads)
        self._root = root
        self._used = used
        self._seen = used
        self._was_mount = False

    @property
    def uri(self) -> str:
        return self._root.as_uri()

    @pooled
    def locate(self, stored: StoredObject, image: Image) -> Path:  # noqa: ARG002 - S3 needs the image
        path = self._path(stored)
        with self._translated(path):
            if not path.is_file():
                raise self._missing(stored)
        return path

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:  # noqa: ARG002 - S3
        return await self.locate(stored, image)

    async def entries(self, after: str | None = None) -> AsyncIterator[Sequence[ListedObject]]:
        """List all files but hidden ones, folder by folder, sorted. See `Inventory.entries`."""
        behind = () if after is None else self._path(StoredObject(after)).relative_to(self._root).parts
        walk = self._walk(self._root, behind)

        def page() -> list[ListedObject]:
            with self._translated(""):
                return list(islice(walk, PAGE))

        if not await self._run(self._root.is_dir):
            raise _no_bucket(f"The archive's folder {self.uri} is not there.")
        while found := await self._run(page):
            yield found

    def object_at(self, key: str) -> StoredObject:
        return StoredObject((self._root / key).as_uri())

    @pooled
    def remove(self, stored: StoredObject) -> None:
        path = self._path(stored)
        with self._translated(path):
            path.unlink(missing_ok=True)
            metadata_path(path).unlink(missing_ok=True)

    @pooled
    def keep_picture(self, key: str, content: bytes) -> None:
        """Write a file, unless the disk is nearly full. See `SmallPictures.keep_picture`."""
        target = self._root / key
        with self._translated(key):
            self._make_parents(target.parent)
            if shutil.disk_usage(target.parent).free < PICTURE_RESERVE:
                raise ArchiveError("archive.full", "The disk has no room for small pictures.")
            with _temporary(target) as (path, file):
                file.write(content)
                file.flush()
                _link(path, target)

    @pooled
    def has_picture(self, key: str) -> bool:
        return (self._root / key).is_file()

    @pooled
    def picture(self, key: str) -> bytes | None:
        with self._translated(key), suppress(FileNotFoundError), _open_regular(self._root / key) as file:
            content = file.read(MAX_PICTURE + 1)
            return content if len(content) <= MAX_PICTURE else None
        return None

    @pooled
    def remove_pictures(self, prefix: str, before: datetime) -> int:
        removed = 0
        for folder, _, names in os.walk(self._root / prefix):
            for path in (Path(folder, name) for name in names):
                with self._translated(path), suppress(FileNotFoundError):
                    if path.lstat().st_mtime < before.timestamp():
                        path.unlink()
                        removed += 1
        return removed

    async def aclose(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)

    def _path(self, stored: StoredObject) -> Path:
        path = Path(url2pathname(urlsplit(stored.uri).path))
        if not stored.uri.startswith("file://") or not path.is_relative_to(self._root) or ".." in path.parts:
            raise self._missing(stored)
        return path

    def _missing(self, stored: StoredObject) -> ArchiveError:
        return ArchiveError("archive.missing", f"{stored.uri} is not in the archive {self.uri}.")

    def _walk(self, folder: Path, behind: tuple[str, ...]) -> Iterator[ListedObject]:
        """Yield the files below a folder whose path, part by part, comes after this one."""
        try:
            with os.scandir(folder) as found:
                names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        except OSError as error:
            if folder == self._root:
                raise
            if not isinstance(error, FileNotFoundError):  # removed meanwhile
                yield ListedObject(folder.as_uri(), 0, f"The folder cannot be read: {error.strerror}.")
            return
        first, rest = (behind[0], behind[1:]) if behind else ("", ())
        for name, is_folder in names:
            if name.startswith(".") or name < first:
                continue
            if is_folder:
                yield from self._walk(folder / name, rest if name == first else ())
            elif name > first and (listed := _listed(folder / name)) is not None:
                yield listed

    @pooled
    def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """Hash the file unless the depth is quick. See `Inventory.inspect`."""
        path = self._path(stored)
        try:
            with self._translated(path), _open_regular(path) as file:
                state = os.fstat(file.fileno())
                found = image_format(file.read(12))
                sha256 = None if depth is Depth.QUICK else digest(file).hex()
        except ArchiveError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                raise self._missing(stored) from error
            if error.reason in {"archive.denied", "archive.occupied"}:
                raise ArchiveError("archive.unreadable", error.detail) from error
            raise
        modified_at = datetime.fromtimestamp(state.st_mtime, UTC)
        pairs = _read_metadata(metadata_path(path))
        return ObjectInfo(StoredObject(stored.uri), state.st_size, sha256, found, modified_at, pairs)

    # Writing

    @pooled
    def put(self, item: SpooledImage) -> StoredObject:
        """Link the spooled file, or copy it from another file system. See `Archive.put`."""
        check_key(item.key)
        target = self._root / item.key
        try:
            with SpoolFile(item) as spooled:
                spooled.check()  # always: a link of a file that rotted would be rotten as well
                with self._translated(item.key):
                    self._make_parents(target.parent)
                    if not self._create(spooled, target):
                        self._check_same(item, target)
                    # Only once the image is known to be this one: the loser of a race must not describe it.
                    # The image counts as archived when both are durable.
                    self._write_metadata(item, target)
        except SpoolError as error:
            # Perhaps it was put before, and a crash came before that was recorded.
            if error.reason != "spool.lost" or not self._holds(item, target):
                raise
        return self.object_at(item.key)

    def _holds(self, item: SpooledImage, target: Path) -> bool:
        with suppress(ArchiveError), self._translated(item.key):
            self._check_same(item, target)
            self._write_metadata(item, target)
            return True
        return False

    def _create(self, spooled: SpoolFile, target: Path) -> bool:
        """Make the target once, whole and durable. Return False if something stands there already."""
        item = spooled.item
        try:
            os.fsync(spooled.fileno())
            if not _link(item.path, target):
                return False
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            return self._copy(spooled, target)
        if not os.path.samestat(os.fstat(spooled.fileno()), target.lstat()):
            target.unlink()  # the spool's name came to mean another file than the one that was hashed
            raise ArchiveError("archive.unproved", f"{item.key}: the spooled file was exchanged meanwhile.")
        return True

    def _copy(self, spooled: SpoolFile, target: Path) -> bool:
        """Copy, read the copy again, then name it. Return False if something has that name already."""
        spooled.seek(0)
        with _temporary(target) as (path, file):
            shutil.copyfileobj(spooled, file, BLOCK)
            _sync(file)
            if digest(file).hex() != spooled.item.image.sha256:
                detail = f"{spooled.item.key}: the copy reads otherwise than the original."
                raise ArchiveError("archive.unproved", detail)
            try:
                return _link(path, target)
            except OSError as error:
                if error.errno in NO_LINK:
                    raise self._no_hard_links() from error
                raise

    def _check_same(self, item: SpooledImage, target: Path) -> None:
        image = item.image
        with _open_regular(target) as file:
            same = os.fstat(file.fileno()).st_size == image.bytes and digest(file).hex() == image.sha256
            # The put that made it may have been cut off before it did this, even one of the same job.
            os.fsync(file.fileno())
            sync_directory(target.parent)
        if not same:
            detail = f"{target.as_uri()} holds other bytes than job {item.job_id}."
            raise ArchiveError("archive.occupied", detail)

    def _write_metadata(self, item: SpooledImage, target: Path) -> None:
        with _temporary(target) as (path, file):
            file.write(json.dumps(metadata.write(item), indent=1).encode() + b"\n")
            _sync(file)
            path.replace(metadata_path(target))
        sync_directory(target.parent)

    def _make_parents(self, folder: Path) -> None:
        """Make the folders down to this one, each durable in its parent; never the root itself."""
        if not self._exists():
            raise self._gone()
        at = self._root
        for part in folder.relative_to(self._root).parts:
            parent, at = at, at / part
            at.mkdir(mode=0o700, exist_ok=True)
            sync_directory(parent)  # even if it was there: another put may have made it just now, unsynced

    # Probing

    @pooled
    def probe(self) -> tuple[ProbeResult, ...]:
        """Try a small file, and remove what crashes left. See `Archive.probe`."""
        with self._translated(".receiver-probe"):
            self._find_or_make()
            target = self._root / f".receiver-probe-{secrets.token_hex(8)}"
            content = secrets.token_bytes(64)
            with _temporary(target) as (path, file):
                file.write(content)
                _sync(file)
                # By the disk's clock: a file server's need not be this machine's.
                now = os.fstat(file.fileno()).st_mtime
                try:
                    os.link(path, target)
                except OSError as error:
                    raise self._no_hard_links() from error
                try:
                    once = not _link(path, target)
                    sync_directory(self._root)
                    same = target.read_bytes() == content
                finally:
                    target.unlink()
        if not once or not same:
            detail = f"{self.uri} does not keep files as they are written."
            raise ArchiveError("archive.unproved", detail, permanent=True)
        self._seen = True
        self._was_mount = self._was_mount or self._root.is_mount()
        stuck = self._sweep(now - PART_LIFETIME)
        left = stuck and f"Files that a crash left cannot be removed, such as {stuck[0]}."
        return (
            ProbeResult("write", True, "Files are written, synced and linked."),
            ProbeResult("conditional-writes", True, "A name that is taken is not overwritten."),
            ProbeResult("read-back", True, "What is read is what was written."),
            ProbeResult("delete", not left, left or "The probe's file was removed."),
        )

    def _find_or_make(self) -> None:
        if self._exists():
            if self._used and not any(self._root.iterdir()):
                raise self._gone()
            return
        if self._seen:
            raise self._gone()
        if not self._root.parent.is_dir():
            raise _no_bucket(f"Neither {self.uri} nor its parent is there.")
        self._root.mkdir(mode=0o700, exist_ok=True)
        sync_directory(self._root.parent)

    def _exists(self) -> bool:
        return self._root.is_dir() and (self._root.is_mount() or not self._was_mount)

    def _gone(self) -> ArchiveError:
        detail = f"The archive's folder {self.uri} is not there any more, or is empty, or not mounted."
        return _no_bucket(detail)

    def _no_hard_links(self) -> ArchiveError:
        detail = f"The file system of {self.uri} has no hard links."
        return ArchiveError("archive.misconfigured", detail, permanent=True)

    def _sweep(self, before: float) -> list[Path]:
        """Remove unfinished files without a write since then. Return those that cannot be removed."""
        stuck = []
        for folder, _, names in os.walk(self._root):
            for path in (Path(folder, name) for name in names if PART.fullmatch(name)):
                try:
                    if path.lstat().st_mtime < before:
                        path.unlink(missing_ok=True)
                except FileNotFoundError:  # its put ended just now
                    continue
                except OSError:  # the archive can be used all the same
                    stuck.append(path)
        return stuck

    @contextmanager
    def _translated(self, key: str | Path) -> Iterator[None]:
        """Raise errors of the disk as an ArchiveError that names the file; a path may stand for its key."""
        try:
            yield
        except OSError as error:
            reason, permanent = ERRORS.get(error.errno or 0, ("archive.unavailable", False))
            detail = f"{(self._root / key).as_uri()}: {error.strerror or error}."
            raise ArchiveError(reason, detail, permanent=permanent) from error


def _no_bucket(detail: str) -> ArchiveError:
    return ArchiveError("archive.no_bucket", detail, permanent=True)


def metadata_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.json")


def _read_metadata(path: Path) -> Mapping[str, str]:
    """Return an image's metadata; empty unless a put can have written it."""
    try:
        with _open_regular(path) as file:
            pairs = json.loads(file.read(MAX_METADATA))
        if isinstance(pairs, dict) and all(isinstance(value, str) for value in pairs.values()):
            return metadata.decode_all(pairs)
    except (OSError, ValueError, RecursionError):
        pass
    return {}


def _listed(path: Path) -> ListedObject | None:
    """Return a file as an object of a listing; ``None`` if it was removed meanwhile."""
    try:
        size, is_file = path.lstat().st_size, path.is_file()
    except FileNotFoundError:
        return None
    except OSError as error:
        return ListedObject(path.as_uri(), 0, f"It cannot be read: {error.strerror}.")
    return ListedObject(path.as_uri(), size, None if is_file else "It is no regular file.")


def _open_regular(path: Path) -> io.FileIO:
    """Open a regular file to read it, else raise ``ENXIO``: the reader of a FIFO would wait for a writer."""
    file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.ENXIO, "It is no regular file", str(path))


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Make a hidden file beside a target, readable by its owner alone; its name is gone afterwards."""
    path = target.with_name(f".{secrets.token_hex(8)}.part")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w+b") as file:  # noqa: PTH123 - takes a descriptor, not a path
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def _link(path: Path, target: Path) -> bool:
    """Give a file another name. Return False if something has that name already."""
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    return True


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
