"""The archive in S3 and in stores with the same API. No other module imports boto3.

A put is one ``PutObject`` of the spooled file under ``If-None-Match: *``, so that nothing is overwritten,
with its SHA-256, which the store checks. A ``HeadObject`` then proves what is there. `S3Archive.probe` finds
out what a store does not honour, and later puts do without.
"""

import asyncio
import base64
import hashlib
import os
import secrets
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
import httpx
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
    TokenRetrievalError,
)
from botocore.utils import is_valid_endpoint_url

from receiver.archive import metadata, spool_file
from receiver.archive.base import Depth, Item, ListedObject, ObjectInfo, ProbeResult
from receiver.archive.key import check_key
from receiver.archive.spool_file import BLOCK, SpoolFile, digest
from receiver.core.errors import ArchiveError, ConfigError, SpoolError
from receiver.core.jobs import Image, StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef, ListObjectsV2OutputTypeDef

T = TypeVar("T")

CLOSE_SECONDS = 1.0

CLOCK_SECONDS = 60.0
"""By how much the store's clock may differ. Its signatures allow 15 minutes, the deadlines of URLs less."""

URL_LIFETIME = 300
"""Seconds that a presigned URL works."""

WRITERS = 4
"""How many write to one key at once in the probe."""

ROUNDS = 5
"""How often they do. Of 20 rounds, Swift 2.38 let several of four writers win in 12, and in 19."""

FORMATS = {f"image/{name}": name for name in ("jpeg", "png", "webp")}
"""Image formats by the content types of objects."""

CLIENT_VARIABLES = {
    "AWS_ENDPOINT_URL": "endpoint_url",
    "AWS_ENDPOINT_URL_S3": "endpoint_url",
    "AWS_DEFAULT_REGION": "region_name",
    "AWS_REGION": "region_name",  # not read by botocore, but set where AWS runs containers
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
    "AWS_CA_BUNDLE": "verify",
}
"""The SDK's variables that can be given to one client; of two for one option the later one wins."""

ERROR_CODES: Mapping[tuple[str, bool], str] = {
    ("archive.denied", True): (
        "AccessDenied AllAccessDisabled AccountProblem InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken "
        "InvalidToken TokenRefreshRequired InvalidSecurity NotSignedUp 401 403"
    ),
    ("archive.no_bucket", True): "NoSuchBucket",
    ("archive.clock_skew", True): "RequestTimeTooSkewed",
    ("archive.too_large", True): "EntityTooLarge 413",
    ("archive.misconfigured", True): (
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException InvalidBucketName "
        "MissingContentLength NotImplemented MethodNotAllowed 301 405 411 501"
    ),
    ("archive.refused", False): "InvalidRequest InvalidArgument KeyTooLongError MetadataTooLarge",
    ("archive.full", False): "QuotaExceeded InsufficientCapacity InsufficientStorage XMinioStorageFull 507",
}
"""The store's error codes, or else statuses, by reason and by whether somebody must act before it passes.

Everything else (500, 503, SlowDown, 429, ConditionalRequestConflict and whatever is unknown) is
``archive.unavailable``. Which reasons pause the uploads of other objects is decided in `pipeline.outcomes`.
"""

BY_CODE = {code: meaning for meaning, codes in ERROR_CODES.items() for code in codes.split()}

BAD_DIGEST = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
)
"""The store received other bytes than were announced."""

PROBE_DETAILS = {
    "conditional-writes": (
        "A key that is taken is not overwritten.",
        "If-None-Match is ignored or refused: each put asks first whether the key is free.",
    ),
    "simultaneous-writes": (
        "Of several writes to one key at once, one succeeds.",
        "Of several writes to one key at once, more than one succeeds: the last one overwrites the others.",
    ),
    "metadata": (
        "Metadata come back as they were written.",
        "Metadata do not come back: `rebuild` cannot work with this store, and `audit` proves nothing.",
    ),
    "sha256": (
        "Bytes that differ from their SHA-256 are refused.",
        "SHA-256 is ignored or refused: each file is hashed again here, and sent with its MD5.",
    ),
    "checksum-kept": (
        "The store's own SHA-256 proves each object.",
        "The store keeps no SHA-256 that it has checked: each object is read again whole to prove it.",
    ),
    "delete": (
        "The probe's objects were removed.",
        "Nothing may be deleted: the probe's small objects stay under .receiver-probe/.",
    ),
}
"""What a probe found, where the store honours it and where it does not."""

PROBE_METADATA = {"job-id": "probe", "received-at": "1970-01-01T00:00:00Z", "ref": " é / % " + "r" * 180}
"""Names and values such as a put writes."""

PRESIGNED_TIMEOUT = 5.0
"""Seconds to connect to the host of a presigned URL, and between two reads there."""

NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Whether the store honours ``If-None-Match: *`` and checks an announced SHA-256."""

    conditional: bool = True
    sha256: bool = True


class _Clients(NamedTuple):
    """The SDK's clients of one archive.

    Attributes:
        store: makes all requests.
        presigner: signs the URLs that are handed out; it makes no request.
        verify: what proves the store's name: a file of certificates, or ``True`` for the usual ones.
    """

    store: "S3Client"
    presigner: "S3Client"
    verify: str | bool


class _Address(NamedTuple):
    """Where an object lies, with the archive's prefix in its key."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def arguments(self, version: str | None = None) -> dict[str, Any]:
        """Return the arguments of a call of the SDK."""
        of_version = {"VersionId": version} if version else {}
        return {"Bucket": self.bucket, "Key": self.key, **of_version}


def open_s3(
    bucket: str, prefix: str, *, uploads: int, environ: Mapping[str, str], public_url: str | None = None
) -> "S3Archive":
    """Open a bucket with the AWS SDK's own settings, as `open_archive` says; no request is made yet.

    Raises:
        ConfigError: the SDK cannot use its settings, or would not see one of them.
    """
    options = _options(environ)

    def connect() -> _Clients:
        session, ca_bundle = _session()
        client = _client(session, options, uploads, signed_payload=True)
        if client.meta.endpoint_url.startswith("https:"):
            # TLS protects the body on its way, and the store checks its SHA-256 at the end. botocore need not
            # read and hash every file once more. Only a client knows its endpoint.
            client.close()
            client = _client(session, options, uploads, signed_payload=False)
        presigner = client
        if public_url is not None:
            presigner = _client(session, {**options, "endpoint_url": public_url}, 1, signed_payload=True)
        verify = options.get("verify") or ca_bundle or True
        return _Clients(client, presigner, verify)

    try:
        clients = connect()
    except (BotoCoreError, ValueError, OSError) as error:
        if (name := _wrong_address(environ)) is not None:
            raise ConfigError(f"{name}: must be a URL such as https://host or http://host:port") from None
        # The kind alone: the SDK's text may quote a credentials file.
        raise ConfigError(f"AWS_*: the AWS SDK cannot use its settings ({type(error).__name__})") from None
    return S3Archive(bucket, prefix, clients=clients, connect=connect, uploads=uploads)


def _options(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the client's options for what the process's own environment lacks.

    The SDK, and the programs that it starts for credentials, read dozens of variables, always from the
    process and some of them late. A variable that they would not see is therefore refused rather than
    ignored.
    """
    own = {
        name: value
        for name, value in environ.items()
        if name.startswith("AWS_") and value and os.environ.get(name) != value
    }
    unseen = sorted(own.keys() - CLIENT_VARIABLES.keys())
    if unseen:
        raise ConfigError(f"{unseen[0]}: the AWS SDK reads it from the process's environment alone")
    variables = environ if own else {"AWS_REGION": os.environ.get("AWS_REGION", "")}
    return {option: variables[name] for name, option in CLIENT_VARIABLES.items() if variables.get(name)}


def _session() -> tuple[boto3.session.Session, str | None]:
    """Return a new session, and the file of certificates that its settings name."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=session), session.get_config_variable("ca_bundle")


@cache
def _models(data_path: str | None) -> botocore.loaders.Loader:
    """Return the SDK's descriptions of services.

    They never change. Each session would read megabytes of JSON anew: a tenth of a second for each client.
    """
    return botocore.loaders.create_loader(data_path)


def _wrong_address(environ: Mapping[str, str]) -> str | None:
    """Return the variable that should hold the store's address, where it does not."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if given := environ.get(name) or os.environ.get(name):
            return None if is_valid_endpoint_url(given) else name
    return None


def _client(
    session: boto3.session.Session, options: dict[str, Any], uploads: int, *, signed_payload: bool
) -> "S3Client":
    client: S3Client = session.client(
        "s3",
        config=Config(
            signature_version="s3v4",
            # Not every store knows botocore's default, a CRC32 trailer of a body without Content-Length.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # The ledger keeps the waits of minutes and hours; these attempts only bridge a hiccup.
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=max(uploads, WRITERS),
            s3={} if signed_payload else {"payload_signing_enabled": False},
        ),
        **options,
    )
    return client


class S3Archive:
    """An archive below one bucket's prefix.

    Args:
        bucket: its name.
        prefix: of all keys, without a slash at either end; may be empty.
        clients: as `open_s3` makes them; closed with the archive.
        connect: makes others, with the credentials that the SDK finds then.
        uploads: how many objects are put at a time.
    """

    def __init__(
        self, bucket: str, prefix: str, *, clients: _Clients, connect: Callable[[], _Clients], uploads: int
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._connect = connect
        self._clock_offset: float | None = None
        self._use(clients)
        self._capabilities = Capabilities()
        self._asks_for_checksum = True
        # A pool of its own: the default executor also resolves names, and must not wait for uploads.
        self._pool = ThreadPoolExecutor(max_workers=uploads, thread_name_prefix="archive")
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    async def probe(self) -> tuple[ProbeResult, ...]:
        """Try with small objects below ``.receiver-probe/`` what a put relies on. See `Archive.probe`."""
        try:
            return await self._run(self._probe)
        except ArchiveError as error:
            if error.reason == "archive.denied":
                # The SDK reads a credentials file once; it may have been rotated before the next probe.
                await self._run(self._reconnect)
            raise

    async def put(self, item: Item) -> StoredObject:
        """PutObject and HeadObject. See `Archive.put`."""
        check_key(item.key)
        return await self._run(lambda: self._put(item))

    async def locate(self, stored: StoredObject, image: Image) -> str:
        """Presign a URL that serves the image as its own type. See `ImageReader.locate`."""
        return await self._run(lambda: self._presign(stored, image))

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        """Download the object. See `ImageReader.local_file`."""
        await self._run(lambda: self._download(stored, image, scratch))
        return scratch

    async def entries(self, after: str | None = None) -> AsyncIterator[Sequence[ListedObject]]:
        """List the objects below the prefix in the store's order. See `Inventory.entries`."""
        begin = self._at("").key
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": begin}
        if after is not None:
            arguments["StartAfter"] = self._address(after).key
        while True:
            page = await self._run(lambda: self._list(arguments))
            found = [
                ListedObject(str(_Address(self._bucket, listed["Key"])), listed["Size"])
                for listed in page.get("Contents", [])
                # No part of an image's key begins with a dot; some stores list their folders as well.
                if not listed["Key"].removeprefix(begin).startswith(".") and not listed["Key"].endswith("/")
            ]
            if found:
                yield found
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == arguments.get("ContinuationToken"):
                # Taken for the end, it would hide all further objects.
                raise ArchiveError(
                    "archive.misconfigured",
                    f"{self.uri}: the store says that its listing goes on, and not how"
                    " (IsTruncated without a new NextContinuationToken).",
                    permanent=True,
                )
            arguments["ContinuationToken"] = token

    def object_at(self, key: str) -> StoredObject:
        return StoredObject(str(self._at(key)))

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """HeadObject, and GetObject where all bytes are to be read. See `Inventory.inspect`.

        It inspects the current version: one that was deleted or replaced lasts only as long as the bucket's
        lifecycle lets it.
        """
        at = self._address(stored.uri)
        return await self._run(lambda: self._inspect(at, depth))

    async def remove(self, stored: StoredObject) -> None:
        """DeleteObject. See `Inventory.remove`."""
        at = self._address(stored.uri)
        await self._run(lambda: self._delete(at))

    async def aclose(self) -> None:
        """Wait a moment for running puts; a store that hangs must not hold up a stop."""
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        self._clients.presigner.close()

    async def _run(self, work: Callable[[], T]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._running.add(running)
        running.add_done_callback(self._ended)
        # Shielded: a cancelled caller does not stop the thread, and `aclose` waits for threads.
        return await asyncio.shield(running)

    def _ended(self, running: "asyncio.Future[Any]") -> None:
        self._running.discard(running)
        if not running.cancelled():
            running.exception()  # retrieved, even where the caller has gone

    def _reconnect(self) -> None:
        with suppress(BotoCoreError, ValueError, OSError):  # the old client then stays, and stays refused
            self._use(self._connect())

    def _use(self, clients: _Clients) -> None:
        clients.store.meta.events.register("after-call.s3", self._note_clock)
        self._clients = clients
        self._client = clients.store

    def _note_clock(self, http_response: Any, **_: Any) -> None:
        """Note by how many seconds the store's clock is ahead of ours, whatever the answer."""
        with suppress(TypeError, ValueError):
            date = parsedate_to_datetime(http_response.headers.get("date"))
            self._clock_offset = date.timestamp() - time.time()

    # Writing

    def _put(self, item: Item) -> StoredObject:
        try:
            return self._put_spool_file(item)
        except SpoolError as error:
            # Perhaps it was put before, and a crash came before that was recorded.
            if error.reason == "spool.lost" and (stored := self._stored_before(item)) is not None:
                return stored
            raise

    def _stored_before(self, item: Item) -> StoredObject | None:
        at = self._at(item.key)
        with suppress(
            ArchiveError
        ):  # a deadline runs again, so a store that does not answer is not waited for
            if (head := self._head_or_none(at)) is not None and self._holds(
                item.image, at, head, head.get("VersionId")
            ):
                return _stored(at, head)
        return None

    def _put_spool_file(self, item: Item) -> StoredObject:
        at = self._at(item.key)
        conditional = self._capabilities.conditional
        with spool_file.opened(item) as spooled:
            head = None if conditional else self._head_or_none(at)
            if head is None:
                stored = self._send(item, spooled, at, {"IfNoneMatch": "*"} if conditional else {})
                if stored is not None:
                    return stored
                # Perhaps our own first attempt, whose answer was lost: what is there decides.
                head = self._head(at)
            if self._holds(item.image, at, head, head.get("VersionId")):
                return _stored(at, head)
            if self._is_cut(item, spooled, at, head):
                stored = self._replace(item, spooled, at, head)
                if stored is not None:
                    return stored
        raise ArchiveError("archive.occupied", f"{at} holds other bytes than job {item.job_id}.")

    def _send(
        self, item: Item, spooled: SpoolFile, at: _Address, condition: Mapping[str, str]
    ) -> StoredObject | None:
        """Put the image and prove it. Return ``None`` where the condition does not hold."""
        arguments = {**at.arguments(), **condition}
        if self._capabilities.sha256:
            spooled.seek(0)
            arguments["ChecksumSHA256"] = _base64(bytes.fromhex(item.image.sha256))
        else:
            spool_file.check(item, spooled)  # the store will not compare with what was verified
            arguments["ContentMD5"] = _base64(digest(spooled, "md5"))
        try:
            answer = self._client.put_object(
                Body=spooled,
                ContentLength=item.image.bytes,
                ContentType=item.image.content_type,
                Metadata=metadata.write(item),
                **arguments,
            )
        except (ClientError, BotoCoreError, OSError) as error:
            if spooled.failed is not None:  # the SDK reports this as a lost connection
                raise spool_file.unreadable(item, spooled.failed) from error
            if not isinstance(error, ClientError | BotoCoreError):
                raise
            if _status(error) == 412:
                return None
            if _code(error) in BAD_DIGEST:
                raise self._digest_refused(item, spooled, at, error) from error
            raise self._translate(error, at) from error
        version = answer.get("VersionId")
        head = self._head(at, version, missing="archive.unproved")
        if not self._holds(item.image, at, head, version):
            raise ArchiveError("archive.unproved", f"{at} does not hold the bytes that were sent.")
        return _stored(at, head)

    def _is_cut(self, item: Item, spooled: SpoolFile, at: _Address, head: "HeadObjectOutputTypeDef") -> bool:
        """Whether an object is a part of this very image: some stores keep what came before a kill."""
        if head["ContentLength"] == item.image.bytes:
            return False
        pairs = _metadata(head)
        if (pairs.get("job-id"), pairs.get("sha256")) == (item.job_id, item.image.sha256):
            return True
        if head["ContentLength"] > item.image.bytes:
            return False
        try:
            spooled.seek(0)
            with self._translated(at), closing(self._blocks(at, head.get("VersionId"))) as blocks:
                return all(spooled.read(len(block)) == block for block in blocks)
        except OSError as error:
            raise spool_file.unreadable(item, error) from error

    def _replace(
        self, item: Item, spooled: SpoolFile, at: _Address, before: "HeadObjectOutputTypeDef"
    ) -> StoredObject | None:
        """Put the image in the place of a cut object; ``None`` if that has changed meanwhile."""
        # The store may ignore If-Match, so the object is looked at once more, right before the write.
        head = self._head(at)
        seen = [(one.get("ETag"), one["ContentLength"], one.get("LastModified")) for one in (before, head)]
        if seen[0] != seen[1]:
            return None
        try:
            return self._send(item, spooled, at, {"IfMatch": head.get("ETag", "*")})
        except ArchiveError as error:
            if not _is_answer(error, 400, 501):
                raise
        return self._send(item, spooled, at, {})

    def _digest_refused(self, item: Item, spooled: SpoolFile, at: _Address, error: Exception) -> Exception:
        """Return why the store got other bytes than were verified: a rotten spool, or damage on the way."""
        try:
            intact = digest(spooled).hex() == item.image.sha256
        except OSError:
            intact = False
        if not intact:
            return spool_file.changed(item)
        return ArchiveError("archive.unavailable", f"{at}: damaged on its way ({_code(error)}).")

    def _delete(self, at: _Address) -> None:
        with self._translated(at):
            self._client.delete_object(**at.arguments())

    # Reading

    def _head(
        self, at: _Address, version: str | None = None, *, missing: str = "archive.unavailable"
    ) -> "HeadObjectOutputTypeDef":
        with self._translated(at, missing):
            if self._asks_for_checksum:
                try:
                    return self._client.head_object(ChecksumMode="ENABLED", **at.arguments(version))
                except ClientError as error:
                    if _status(error) not in {400, 405, 501}:
                        raise
            head = self._client.head_object(**at.arguments(version))
            self._asks_for_checksum = False  # its header is what the store refused
            return head

    def _head_or_none(self, at: _Address) -> "HeadObjectOutputTypeDef | None":
        """``None`` also where the store does not say, as S3 does without s3:ListBucket."""
        try:
            return self._head(at, missing="archive.missing")
        except ArchiveError as error:
            if error.reason in {"archive.missing", "archive.denied"}:
                return None
            raise

    def _holds(
        self, image: Image, at: _Address, head: "HeadObjectOutputTypeDef", version: str | None
    ) -> bool:
        """Whether an object is the image: by the store's own checksum, else by reading all of it again."""
        if head["ContentLength"] != image.bytes:
            return False
        if checksum := self._checksum(head):
            return checksum == _base64(bytes.fromhex(image.sha256))
        return self._sha256(at, version) == image.sha256

    def _checksum(self, head: "HeadObjectOutputTypeDef") -> str | None:
        """Return the store's own SHA-256, base64; ``None`` also where it only repeats what it was told.

        A dash marks the checksum of a multipart object's checksums.
        """
        checksum = head.get("ChecksumSHA256")
        return checksum if checksum and "-" not in checksum and self._capabilities.sha256 else None

    def _list(self, arguments: Mapping[str, Any]) -> "ListObjectsV2OutputTypeDef":
        with self._translated(_Address(arguments["Bucket"], arguments["Prefix"])):
            return self._client.list_objects_v2(**arguments)

    def _is_listed(self, at: _Address) -> bool:
        """Whether a listing shows this key, which is the first of all that begin with it."""
        listed = self._list({"Bucket": at.bucket, "Prefix": at.key, "MaxKeys": 1}).get("Contents", [])
        return any(found["Key"] == at.key for found in listed)

    def _inspect(self, at: _Address, depth: Depth) -> ObjectInfo:
        try:
            head = self._head(at, missing="archive.missing")
        except ArchiveError as error:
            # S3 answers "forbidden" for an absent object without s3:ListBucket, for which a condition on the
            # prefix can be enough. The list tells the two cases apart.
            if error.reason != "archive.denied" or self._is_listed(at):
                raise
            raise ArchiveError("archive.missing", f"{at} is not there.") from error
        checksum = self._checksum(head)
        sha256 = base64.b64decode(checksum).hex() if checksum else None
        if depth is Depth.DEEP:
            sha256 = self._sha256(at, head.get("VersionId"))
        image_format = FORMATS.get(head.get("ContentType", ""))
        modified_at = head["LastModified"].astimezone(UTC)
        return ObjectInfo(
            _stored(at, head), head["ContentLength"], sha256, image_format, modified_at, _metadata(head)
        )

    def _blocks(self, at: _Address, version: str | None) -> Generator[bytes, None, None]:
        """Yield the bytes of an object; the generator is to be closed."""
        body = self._client.get_object(**at.arguments(version))["Body"]
        try:
            yield from body.iter_chunks(BLOCK)
        finally:
            body.close()

    def _sha256(self, at: _Address, version: str | None) -> str:
        value = hashlib.sha256()
        with self._translated(at), closing(self._blocks(at, version)) as blocks:
            for block in blocks:
                value.update(block)
        return value.hexdigest()

    def _download(self, stored: StoredObject, image: Image, target: Path) -> None:
        at = self._address(stored.uri)
        version = self._readable_version(stored, image)
        size = 0
        try:
            with (
                self._translated(at, "archive.missing"),
                closing(self._blocks(at, version)) as blocks,
                target.open("wb") as file,
            ):
                for block in blocks:
                    size += len(block)
                    if size > image.bytes:  # not what was put, and it must not fill the disk
                        break
                    file.write(block)
        except OSError as error:
            raise SpoolError("spool.disk", f"{target.name} cannot be written: {error.strerror}.") from error
        if size != image.bytes:
            raise ArchiveError("archive.missing", f"{stored.uri} is not as long as what was put there.")

    def _readable_version(self, stored: StoredObject, image: Image) -> str | None:
        """Return the version to read: the job's own, or else the current one, if it is the same.

        An operator who restores a deleted image by a copy makes a new version. The archived version goes with
        the bucket's lifecycle, and the copy stays.
        """
        at = self._address(stored.uri)
        try:
            self._head(at, stored.version, missing="archive.missing")
        except ArchiveError as error:
            if stored.version is None or error.reason not in {"archive.missing", "archive.denied"}:
                raise
        else:
            return stored.version
        head = self._head(at, missing="archive.missing")
        version = head.get("VersionId")
        if not self._holds(image, at, head, version):
            raise ArchiveError("archive.missing", f"{stored.uri} holds other bytes by now.")
        return version

    def _presign(self, stored: StoredObject, image: Image) -> str:
        at = self._address(stored.uri)
        arguments = at.arguments(self._readable_version(stored, image))
        arguments["ResponseContentType"] = image.content_type
        with self._translated(at):
            return self._presigned(arguments)

    def _presigned(self, arguments: Mapping[str, Any]) -> str:
        return self._clients.presigner.generate_presigned_url(
            "get_object", Params=arguments, ExpiresIn=URL_LIFETIME
        )

    # Probing

    def _probe(self) -> tuple[ProbeResult, ...]:
        at = self._at(f".receiver-probe/{secrets.token_hex(8)}")
        content = secrets.token_bytes(64)
        written = [at]
        simultaneous = True
        try:
            capabilities = self._negotiate(at, content)
            if capabilities.conditional and not self._refuses(
                at, content[::-1], Capabilities(sha256=capabilities.sha256)
            ):
                capabilities = replace(capabilities, conditional=False)
                self._write(at, content, capabilities)
            if capabilities.sha256:
                written.append(_Address(at.bucket, f"{at.key}-false"))
                false = Capabilities(conditional=False)
                if not self._refuses(written[-1], content, false, announced=content[::-1]):
                    capabilities = replace(capabilities, sha256=False)
            if self._sha256(at, None) != hashlib.sha256(content).hexdigest():
                raise ArchiveError("archive.unproved", f"{at} reads otherwise than written.", permanent=True)
            head = self._head(at)
            presigned = self._try_presigned(at, content)
            if capabilities.conditional:
                written += (races := [_Address(at.bucket, f"{at.key}-{n}") for n in range(ROUNDS)])
                simultaneous = all(self._wins_once(one, capabilities) for one in races)
        finally:
            deleted = [self._try_to_delete(one) for one in written]
        self._capabilities = capabilities
        checksum = head.get("ChecksumSHA256")
        if checksum and not capabilities.sha256:
            detail = "The store repeats an announced SHA-256 even if it is false, so it proves nothing:"
            kept = ProbeResult("checksum-kept", False, f"{detail} each object is read again whole.")
        else:
            kept = _result("checksum-kept", bool(checksum))
        return (
            ProbeResult("write", True, f"Objects are written to {self.uri}."),
            ProbeResult("read-back", True, "What is read is what was written."),
            _result("conditional-writes", capabilities.conditional),
            *([_result("simultaneous-writes", simultaneous)] if capabilities.conditional else []),
            _result("sha256", capabilities.sha256),
            kept,
            _result("metadata", PROBE_METADATA.items() <= _metadata(head).items()),
            presigned,
            _result("delete", all(deleted)),
            *self._clock(),
        )

    def _wins_once(self, at: _Address, capabilities: Capabilities) -> bool:
        """Whether of several writes to a key at once no more than one succeeds."""
        ready = threading.Barrier(WRITERS)

        def write(_: int) -> bool:
            ready.wait()
            try:
                self._write(at, secrets.token_bytes(64), capabilities)
            except ArchiveError:
                return False
            return True

        with ThreadPoolExecutor(WRITERS) as pool:
            return sum(pool.map(write, range(WRITERS))) <= 1

    def _try_presigned(self, at: _Address, content: bytes) -> ProbeResult:
        """Read an object as a person does who was sent there."""
        url = self._presigned(at.arguments())
        parts = urlsplit(url)
        verify = self._clients.verify
        context = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else True
        try:
            with httpx.stream("GET", url, verify=context, timeout=PRESIGNED_TIMEOUT) as answer:
                works = answer.status_code == 200 and next(answer.iter_raw(len(content) + 1), b"") == content
                how = "works" if works else f"is answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            works, how = False, f"is not answered ({type(error).__name__})"
        detail = f"A presigned URL to {parts.scheme}://{parts.netloc} {how}"
        return ProbeResult(
            "presigned-urls",
            works,
            f"{detail}." if works else f"{detail}: nobody gets an image by `GET /jobs/ID/image`.",
        )

    def _clock(self) -> tuple[ProbeResult, ...]:
        offset = self._clock_offset
        if offset is None:
            return ()
        if abs(offset) < CLOCK_SECONDS:
            return (ProbeResult("clock", True, "The store's clock agrees with this machine's."),)
        side = "ahead of" if offset > 0 else "behind"
        detail = f"The store's clock is {abs(offset):.0f} seconds {side} this machine's."
        return (ProbeResult("clock", False, detail),)

    def _negotiate(self, at: _Address, content: bytes) -> Capabilities:
        """Write with everything, then with less and less, until the store accepts it."""
        refusals: list[ArchiveError] = []
        for conditional in (True, False):
            for sha256 in (True, False):
                capabilities = Capabilities(conditional, sha256)
                try:
                    self._write(at, content, capabilities)
                except ArchiveError as error:
                    # Stores answer so to an unknown header; no other refusal goes away with less.
                    if not _is_answer(error, 400, 501):
                        raise
                    refusals.append(error)
                else:
                    return capabilities
        raise refusals[0]

    def _refuses(
        self, at: _Address, content: bytes, capabilities: Capabilities, *, announced: bytes | None = None
    ) -> bool:
        """Whether the store refuses a write that it must refuse; raises if it fails for another reason."""
        try:
            self._write(at, content, capabilities, announced=announced)
        except ArchiveError as error:
            if not _is_answer(error, 400, 409, 412):
                raise
            return True
        return False

    def _write(
        self, at: _Address, content: bytes, capabilities: Capabilities, *, announced: bytes | None = None
    ) -> None:
        arguments = at.arguments()
        if capabilities.conditional:
            arguments["IfNoneMatch"] = "*"
        if capabilities.sha256:
            arguments["ChecksumSHA256"] = _base64(hashlib.sha256(announced or content).digest())
        else:
            arguments["ContentMD5"] = _base64(hashlib.md5(content, usedforsecurity=False).digest())
        with self._translated(at):
            self._client.put_object(
                Body=content,
                ContentType="application/octet-stream",
                Metadata=metadata.encode_all(PROBE_METADATA),
                **arguments,
            )

    def _try_to_delete(self, at: _Address) -> bool:
        try:
            self._delete(at)
        except ArchiveError:  # the rights to write and read are enough
            return False
        return True

    # Addresses and errors

    def _at(self, key: str) -> _Address:
        return _Address(self._bucket, f"{self._prefix}/{key}" if self._prefix else key)

    def _address(self, uri: str) -> _Address:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not key:
            raise ArchiveError("archive.missing", f"{uri} is not in the archive {self.uri}.")
        return _Address(bucket, key)

    @contextmanager
    def _translated(self, at: _Address, missing: str | None = None) -> Iterator[None]:
        """Raise the SDK's errors as ArchiveError; a 404 with the reason ``missing``, where one is given."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            if missing is not None and _status(error) == 404:
                raise ArchiveError(missing, f"{at} is not there.") from error
            raise self._translate(error, at) from error

    def _translate(self, error: ClientError | BotoCoreError, at: _Address) -> ArchiveError:
        """Translate an error by codes and kinds alone: the other texts of stores can quote secrets."""
        if isinstance(error, ClientError):
            code, status = _code(error), _status(error)
            reason, permanent = (
                BY_CODE.get(code) or BY_CODE.get(str(status)) or ("archive.unavailable", False)
            )
            detail = f"{at}: {error.operation_name} was answered {status} {code}."
            return ArchiveError(reason, detail, permanent=permanent)
        kind = type(error).__name__
        if isinstance(error, NO_CREDENTIALS):
            return ArchiveError(
                "archive.denied", f"{at}: the AWS SDK has no credentials ({kind}).", permanent=True
            )
        if isinstance(error, ParamValidationError):
            return ArchiveError("archive.refused", f"{at}: the AWS SDK refuses the request.")
        endpoint = urlsplit(self._client.meta.endpoint_url)
        where = f"{endpoint.scheme}://{endpoint.netloc.rpartition('@')[2]}"
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            detail = f"{at}: {where} did not prove its name; see AWS_CA_BUNDLE."
            return ArchiveError("archive.misconfigured", detail, permanent=True)
        if isinstance(error, SSLError) and _lacks_bundle(error):
            detail = f"{at}: the file of AWS_CA_BUNDLE cannot be read, or holds no certificate."
            return ArchiveError("archive.misconfigured", detail, permanent=True)
        return ArchiveError("archive.unavailable", f"{at}: {where} does not answer ({kind}).")


def _lacks_bundle(error: SSLError) -> bool:
    """Whether TLS failed at our own file of certificates, before any request."""
    of_urllib3 = error.kwargs.get("error")
    cause = of_urllib3.args[0] if isinstance(of_urllib3, Exception) and of_urllib3.args else None
    return isinstance(
        cause, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
    ) or "NO_CERTIFICATE_OR_CRL_FOUND" in str(cause)


def _status(error: Exception) -> int:
    """The HTTP status of an answer; 0 if there was none."""
    metadata_ = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    return int(metadata_.get("HTTPStatusCode", 0))


def _is_answer(error: ArchiveError, *statuses: int) -> bool:
    """Whether an error stands for an answer of the store with one of these statuses."""
    return isinstance(error.__cause__, ClientError) and _status(error.__cause__) in statuses


def _code(error: Exception) -> str:
    """The store's own error code, cut to what can stand in a log line."""
    code = str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
    return "".join(c for c in code if c.isascii() and (c.isalnum() or c in "._-"))[:64]


def _stored(at: _Address, head: "HeadObjectOutputTypeDef") -> StoredObject:
    etag = head.get("ETag", "").strip('"')
    return StoredObject(str(at), etag=etag or None, version=head.get("VersionId"))


def _metadata(head: "HeadObjectOutputTypeDef") -> Mapping[str, str]:
    """Return an object's metadata; empty unless a put can have written them.

    Header names have no case, and Ceph turns an underscore into a dash.
    """
    try:
        return metadata.decode_all(
            {name.lower().replace("_", "-"): value for name, value in head["Metadata"].items()}
        )
    except ValueError:
        return {}


def _base64(digest_: bytes) -> str:
    return base64.b64encode(digest_).decode()


def _result(name: str, honoured: bool) -> ProbeResult:  # noqa: FBT001 - it is the result
    return ProbeResult(name, honoured, PROBE_DETAILS[name][0 if honoured else 1])
