"""Checks of the machine: Python, SQLite, the data directory, its disk, and the address of `serve`."""

import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from receiver.bootstrap.factories import bind, unwritable
from receiver.config import Config
from receiver.core.errors import ConfigError
from receiver.doctor.checks import RUN_AS_SERVE, Result, failure, ok, warning
from receiver.ledger import FILE_NAME
from receiver.ledger.sqlite.schema import SAFE_SQLITE
from receiver.pipeline.spool import DISK_RESERVE

NETWORK_FS = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4"),
        *("ocfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "fuse.ceph", "fuse.davfs2", "fuse.gcsfuse"),
        *("fuse.glusterfs", "fuse.mount-s3", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)
"""File systems on which SQLite's WAL does not work, or whose fsync guarantees nothing."""

IN_MEMORY = frozenset({"tmpfs", "ramfs"})
LAYERED = frozenset({"overlay", "aufs"})

_DIRECTORY = "data directory"
_directory_failure = partial(failure, _DIRECTORY)
_directory_warning = partial(warning, _DIRECTORY)

MIB = 2**20

MAX_NAMED = 3
"""Files that are named, of possibly thousands."""


def check_versions(old_sqlite: str | None) -> list[Result]:
    """Check the versions of Python and SQLite; ``old_sqlite`` is the latter if it is too old."""
    if old_sqlite is None:
        sqlite = ok("sqlite", "SQLite is free of the WAL-reset fault")
    else:
        detail = f"SQLite {old_sqlite} has the rare WAL-reset fault, which can damage a ledger"
        wanted = ".".join(map(str, SAFE_SQLITE))
        sqlite = warning("sqlite", detail, f"Use a Python with SQLite {wanted} or newer, and keep backups.")
    return [ok("python", f"Python {platform.python_version()}"), sqlite]


def check_directory(
    config: Config, *, user: int, mounts: str, owner: Callable[[Path], int] = lambda path: path.stat().st_uid
) -> list[Result]:
    """Check the data directory: its existence, owner, permissions and file system.

    ``user`` is the id of this process's user. ``mounts`` is the text of /proc/self/mounts, empty if there is
    none. ``owner`` returns the id of a file's owner.
    """
    folder = config.data_dir
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return _check_parent(folder)
    except PermissionError:
        return [_directory_failure(f"{folder} cannot be reached by this user", RUN_AS_SERVE)]
    if not stat.S_ISDIR(status.st_mode):
        return [_directory_failure(f"{folder} is no folder", "Move it away, or set RECEIVER_DATA_DIR.")]
    mount = mount_of(folder.resolve(), mounts)
    if mount is not None and mount.read_only:
        remedy = (
            f"Mount it so that it can be written: mount -o remount,rw {mount.point}; or, in a container,"
            " the volume without :ro."
        )
        detail = f"{folder} lies on a file system that is mounted read-only ({mount.point})"
        return [_directory_failure(detail, remedy)]
    found = [*_check_ownership(folder, user, owner)]
    shut_out = f"Shut them out: chmod 700 {folder}"
    if status.st_mode & 0o022:
        found.append(_directory_failure(f"other users can write in {folder}", shut_out))
    elif status.st_mode & 0o077:
        found.append(_directory_warning(f"other users can look into {folder}", shut_out))
    found += _check_file_system(folder, mount)
    return found or [ok(_DIRECTORY, f"{folder} is there, and this user's alone")]


def _check_ownership(folder: Path, user: int, owner: Callable[[Path], int]) -> Iterator[Result]:
    """Check that all files are the server's; after a restore by another user, they are that user's."""
    uid = owner(folder)
    give = f"chown -R {user} {folder}"
    if uid != user:
        give = f"run serve, and this, as user {uid}, or: {give}"
        detail = f"{folder} is user {uid}'s, and this runs as user {user}"
        yield _directory_warning(detail, give[0].upper() + give[1:])
    unusable = set(unwritable(folder))
    if folder / FILE_NAME in unusable:
        # SQLite gives these the rights of the ledger, and its check may have made them just now.
        unusable -= {folder / f"{FILE_NAME}{end}" for end in ("-wal", "-shm")}
    for path in sorted(unusable):
        if owner(path) == user:
            detail, remedy = "although it is this user's own", f"Correct its rights: chmod u+rwX {path}"
        else:
            detail, remedy = f"for it is user {owner(path)}'s", f"Give all of it to the user of serve: {give}"
        yield _directory_failure(f"{path} cannot be read and written by user {user}, {detail}", remedy)
    if folder in unusable:
        return  # nothing in it can be read
    parts = (folder, *(folder / name for name in ("spool", "aside", "thumbnails")))  # not the archive
    inside = {path for part in parts for path in part.glob("*")}
    foreign = []
    for path in sorted(inside - unusable):
        with suppress(OSError):  # a running server has just removed it
            if owner(path) != uid:
                foreign.append(path)
    if foreign:
        named = ", ".join(path.relative_to(folder).as_posix() for path in foreign[:MAX_NAMED])
        more = f" and {len(foreign) - MAX_NAMED} more" if len(foreign) > MAX_NAMED else ""
        yield _directory_warning(
            f"{folder} is user {uid}'s, and not all that lies in it: {named}{more}",
            f"Give all of it to the user of serve: chown -R {uid} {folder}",
        )
    ledger = folder / FILE_NAME
    if ledger not in unusable and ledger.exists() and ledger.stat().st_mode & 0o077:
        yield _directory_warning("other users can read the ledger", f"Shut them out: chmod 600 {ledger}*")


def check_address(config: Config) -> Result:
    """Check that `serve` could listen on its address, while it does not run."""
    try:
        bind(config).close()
    except ConfigError as error:
        return failure(
            "address", str(error), "Stop what has it (ss -ltnp shows that), or set another one that is free."
        )
    return ok("address", f"{config.host}, port {config.port} is free for serve")


def check_disk(
    config: Config, *, room: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
) -> list[Result]:
    """Check that the disk has room for downloads. ``room`` returns the free bytes of a folder's disk."""
    folder = config.data_dir.resolve()
    free = room(next(path for path in (folder, *folder.parents) if path.exists()))
    detail = f"{free // MIB} MiB are free"
    remedy = "Make room, or put RECEIVER_DATA_DIR on a larger disk."
    reserve = f"the {DISK_RESERVE // MIB} MiB that are kept for the ledger"
    if free < DISK_RESERVE:
        effect = "downloads stand still, and deliveries will be refused once all is used up"
        return [failure("disk", f"{detail}, less than {reserve}: {effect}", remedy)]
    if free < DISK_RESERVE + config.max_image_bytes:
        detail += f": no download fits beside {reserve} (RECEIVER_MAX_IMAGE_BYTES)"
        return [failure("disk", detail, remedy)]
    spooled = sum(path.stat().st_size for path in config.data_dir.glob("spool/*") if path.is_file())
    wanted = DISK_RESERVE + max(config.max_spool_bytes - spooled, 0)
    if free < wanted:
        detail += (
            f", and RECEIVER_MAX_SPOOL_BYTES with the ledger's reserve wants {wanted // MIB} MiB:"
            " while the archive is away, downloads stop before that"
        )
        return [warning("disk", detail, f"{remedy[:-1]}, or lower RECEIVER_MAX_SPOOL_BYTES.")]
    return [ok("disk", detail)]


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    read_only: bool = False


def mount_of(path: Path, mounts: str) -> Mount | None:
    """Return the mount that a path lies on, from the text of /proc/self/mounts."""
    best: Mount | None = None
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) < 4:
            continue
        point = words[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        # The last of several mounts at one point covers the others.
        if path.is_relative_to(point) and (best is None or len(point) >= len(best.point)):
            best = Mount(point, words[2], read_only="ro" in words[3].split(","))
    return best


def cannot_create(folder: Path) -> str | None:
    """Return why this user cannot create a missing folder; ``None`` if it can.

    A temporary folder is created in its place: permissions alone do not reveal every obstacle.
    """
    parent = next(path for path in folder.resolve().parents if path.exists())
    if not parent.is_dir():
        return f"{parent} is no folder"
    try:
        with tempfile.TemporaryDirectory(prefix=".receiver-doctor-", dir=parent):
            return None
    except OSError as error:
        return f"this user cannot make a folder in {parent}: {error.strerror}"


def _check_parent(folder: Path) -> list[Result]:
    if why := cannot_create(folder):
        remedy = (
            "Correct RECEIVER_DATA_DIR, or make it and give it to this user:"
            f" install -d -m 700 -o {os.geteuid()} {folder}"
        )
        return [_directory_failure(f"{folder} is not there, and {why}", remedy)]
    return [ok(_DIRECTORY, f"{folder} is not there yet; serve makes it")]


def _check_file_system(folder: Path, mount: Mount | None) -> Iterator[Result]:
    kind = mount.kind if mount else ""
    if kind in NETWORK_FS:
        yield _directory_failure(
            f"it lies on a network file system ({kind}), where SQLite's WAL does not work",
            "Put RECEIVER_DATA_DIR on a local disk. The archive may lie elsewhere.",
        )
    elif kind in IN_MEMORY:
        yield _directory_warning(
            f"it lies in memory ({kind}): ledger and images are gone when the machine restarts",
            "Put RECEIVER_DATA_DIR on a disk.",
        )
    elif kind in LAYERED:
        yield _directory_warning(
            f"it lies in the container's own layer ({kind}), and is gone with the container",
            "Mount a volume at RECEIVER_DATA_DIR.",
        )
    spool = folder / "spool"
    if spool.exists() and spool.stat().st_dev != folder.stat().st_dev:
        yield _directory_warning(
            "the spool lies on another file system than the ledger, whose room nobody keeps for it then",
            "Let both lie in one file system.",
        )
