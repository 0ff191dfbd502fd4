"""The archive in S3 and in the stores that speak like it. boto3 is known here and nowhere else.

A put is one ``PutObject`` of the spooled file with its SHA-256, which the store checks, under
``If-None-Match: *``, so that nothing is overwritten; then a ``HeadObject`` proves what is there. What a store
does not honour, `S3Archive.probe` finds out, and a put does without.
"""

import asyncio
import base64
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
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

from receiver.archive import metadata
from receiver.archive.base import Depth, Item, ListedObject, ObjectInfo, ProbeResult
from receiver.archive.key import check_key
from receiver.archive.spool_file import (
    BLOCK,
    SpoolFile,
    changed,
    check_spool_file,
    digest,
    open_spool_file,
    unreadable,
)
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

FORMATS = {f"image/{name}": name for name in ("jpeg", "png", "webp")}
"""The formats of images by the content types that objects are given."""

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
"""The SDK's variables that can be given to one client; of two for one thing the later one wins."""

REFUSALS: Mapping[tuple[str, bool], str] = {
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
    # These can be one object's alone, so the others are not made to wait.
    ("archive.misconfigured", False): "InvalidRequest InvalidArgument KeyTooLongError MetadataTooLarge",
    ("archive.full", False): "QuotaExceeded InsufficientCapacity InsufficientStorage XMinioStorageFull 507",
}
"""Reason, and whether every object would meet it alike: the store's error codes, or else statuses, behind it.

What stands nowhere here (500, 503, SlowDown, 429, ConditionalRequestConflict and all that is unknown) is
``archive.unavailable``: it is asked again later, and nothing else waits for it.
"""

BY_CODE = {code: refusal for refusal, codes in REFUSALS.items() for code in codes.split()}

BAD_DIGEST = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
)
"""The store received other bytes than were announced."""

NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the store honours of a put; all of it, until a probe says otherwise.

    Attributes:
        conditional: ``If-None-Match: *`` keeps what is there.
        sha256: an announced SHA-256 is checked.
    """

    conditional: bool = True
    sha256: bool = True


def open_s3(bucket: str, prefix: str, *, uploads: int, environ: Mapping[str, str]) -> "S3Archive":
    """Opens a bucket with the AWS SDK's own settings; no request is made yet.

    Args:
        bucket: its name.
        prefix: what all keys begin with, without a slash at either end; may be empty.
        uploads: how many objects are put at a time.
        environ: those of ``CLIENT_VARIABLES`` that hold beside the process's own.

    Raises:
        ConfigError: the SDK cannot use its settings, or would not see one of them.
    """
    options = _options(environ)

    # The SDK's own words may quote a credentials file, so only the kind of its error is passed on.
    def connect() -> "S3Client":
        session = boto3.session.Session()
        client = _client(session, options, uploads, signed_payload=True)
        if client.meta.endpoint_url.startswith("https:"):
            # TLS keeps the body whole on its way and the store checks its SHA-256 at the end; without this
            # botocore would read and hash every file once more. Only the made client knows its endpoint.
            client.close()
            client = _client(session, options, uploads, signed_payload=False)
        return client

    try:
        client = connect()
    except (BotoCoreError, ValueError, OSError) as error:
        if (name := _wrong_address(environ)) is not None:
            raise ConfigError(f"{name}: must be a URL such as https://host or http://host:port") from None
        raise ConfigError(f"AWS_*: the AWS SDK cannot use its settings ({type(error).__name__})") from None
    return S3Archive(bucket, prefix, client=client, connect=connect, uploads=uploads)


def _options(environ: Mapping[str, str]) -> dict[str, str]:
    """What a client must be told of an environment, because it does not stand in the process's own.

    The SDK and the programs that it starts for credentials read dozens of variables, some of them long after
    the start, and always from the process. So one that it would not see is refused rather than ignored.
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


def _wrong_address(environ: Mapping[str, str]) -> str | None:
    """The variable with the store's address, where that is no address."""
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
            # The ledger carries the waits of minutes and hours; here only a hiccup is bridged.
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=uploads,
            s3={} if signed_payload else {"payload_signing_enabled": False},
        ),
        **options,
    )
    return client


class S3Archive:
    """An archive below one bucket's prefix.

    Args:
        bucket: its name.
        prefix: what all keys begin with, without a slash at either end; may be empty.
        client: as `open_s3` makes it; closed with the archive.
        connect: makes another one, with the credentials that the SDK finds then.
        uploads: how many objects are put at a time.
    """

    def __init__(
        self, bucket: str, prefix: str, *, client: "S3Client", connect: Callable[[], "S3Client"], uploads: int
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._connect = connect
        self._ahead: float | None = None
        self._client = self._listened_to(client)
        self._abilities = Abilities()
        # A pool of its own: the default executor also resolves names, and must not wait for uploads.
        self._pool = ThreadPoolExecutor(max_workers=uploads, thread_name_prefix="archive")
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    async def probe(self) -> tuple[ProbeResult, ...]:
        """Tries what a put relies on with small objects below ``.receiver-probe/``. See `Archive.probe`."""
        try:
            return await self._run(self._probe)
        except ArchiveError as error:
            if error.reason == "archive.denied":
                # The SDK reads a credentials file once; by the next probe it may have been rotated.
                await self._run(self._reconnect)
            raise

    async def put(self, item: Item) -> StoredObject:
        """One PutObject and its proof. See `Archive.put`."""
        check_key(item.key)
        return await self._run(lambda: self._put(item))

    async def locate(self, stored: StoredObject, image: Image) -> str:
        """A presigned URL that serves the image as its own type. See `ImageReader.locate`."""
        return await self._run(lambda: self._presign(stored, image))

    async def entries(self, after: str | None = None) -> AsyncIterator[Sequence[ListedObject]]:
        """The objects below the prefix, as the store lists them. See `Inventory.entries`."""
        begin = self._full("")
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": begin}
        if after is not None:
            arguments["StartAfter"] = self._address(after)[1]
        while True:
            page = await self._run(lambda: self._list(arguments))
            found = [
                ListedObject(self._name(listed["Key"]), listed["Size"])
                for listed in page.get("Contents", [])
                # No part of a key of ours begins with a dot; some stores list their folders as well.
                if not listed["Key"].removeprefix(begin).startswith(".") and not listed["Key"].endswith("/")
            ]
            if found:
                yield found
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return
            arguments["ContinuationToken"] = token

    def object_at(self, key: str) -> StoredObject:
        """The object's address. See `Inventory.object_at`."""
        return StoredObject(self._name(self._full(key)))

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """HeadObject, and GetObject where all bytes are to be read. See `Inventory.inspect`.

        Of what stands there now: a version of an object that was deleted or replaced can be read for as long
        as the bucket's lifecycle lets it, and no longer.
        """
        bucket, key = self._address(stored.uri)
        return await self._run(lambda: self._look_at(bucket, key, depth))

    async def remove(self, stored: StoredObject) -> None:
        """DeleteObject. See `Inventory.remove`."""
        bucket, key = self._address(stored.uri)

        def remove() -> None:
            try:
                self._client.delete_object(Bucket=bucket, Key=key)
            except (ClientError, BotoCoreError) as error:
                raise self._translate(error, key, bucket) from error

        await self._run(remove)

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        """The bytes, brought here. See `ImageReader.local_file`."""
        await self._run(lambda: self._bring(stored, image, scratch))
        return scratch

    async def aclose(self) -> None:
        """Waits a moment for the puts under way; a store that hangs must not hold up a stop."""
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def _run(self, work: Callable[[], T]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._running.add(running)
        running.add_done_callback(self._ended)
        # Shielded: a cancelled caller does not stop the thread, and `aclose` waits for threads.
        return await asyncio.shield(running)

    def _ended(self, running: "asyncio.Future[Any]") -> None:
        self._running.discard(running)
        if not running.cancelled():
            running.exception()  # seen, even where the caller has gone

    def _reconnect(self) -> None:
        with suppress(BotoCoreError, ValueError, OSError):  # then the old one goes on being refused
            self._client = self._listened_to(self._connect())

    def _listened_to(self, client: "S3Client") -> "S3Client":
        client.meta.events.register("after-call.s3", self._heard)
        return client

    def _heard(self, http_response: Any, **_: Any) -> None:
        """Notes by how many seconds the store's clock is ahead of ours, whatever it answered."""
        with suppress(TypeError, ValueError):
            said = parsedate_to_datetime(http_response.headers.get("date"))
            self._ahead = said.timestamp() - time.time()

    # One object ------------------------------------------------------------------------------------------

    def _put(self, item: Item) -> StoredObject:
        try:
            return self._put_spool_file(item)
        except SpoolError as error:
            # Perhaps it was put before, and a crash came before that was recorded.
            if error.reason == "spool.lost" and (stored := self._stored_before(item)) is not None:
                return stored
            raise

    def _stored_before(self, item: Item) -> StoredObject | None:
        key = self._full(item.key)
        with suppress(ArchiveError):  # a deadline runs again: who cannot say so now is not waited for
            if (there := self._look(key)) is not None:
                return self._compare(item, key, there)
        return None

    def _put_spool_file(self, item: Item) -> StoredObject:
        key = self._full(item.key)
        abilities = self._abilities
        with open_spool_file(item) as spooled:
            if not abilities.conditional and (there := self._look(key)) is not None:
                return self._compare(item, key, there)
            arguments: dict[str, Any] = {
                "ContentType": item.image.content_type,
                "Metadata": metadata.write(item),
            }
            if abilities.conditional:
                arguments["IfNoneMatch"] = "*"
            if abilities.sha256:
                arguments["ChecksumSHA256"] = _base64(bytes.fromhex(item.image.sha256))
            else:
                check_spool_file(
                    item, spooled
                )  # the store will not compare with what was verified: done here
                arguments["ContentMD5"] = _base64(digest(spooled, "md5"))
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket, Key=key, Body=spooled, ContentLength=item.image.bytes, **arguments
                )
            except (ClientError, BotoCoreError, OSError) as error:
                if spooled.failed is not None:  # to the SDK, the connection has ended
                    raise unreadable(item, spooled.failed) from error
                if not isinstance(error, ClientError | BotoCoreError):
                    raise
                if _status(error) == 412:
                    # Perhaps our own first attempt, whose answer was lost: what counts is what is there.
                    return self._compare(item, key, self._head(key))
                if _code(error) in BAD_DIGEST:
                    raise self._digest_refused(item, spooled, key, error) from error
                raise self._translate(error, key) from error
        version = answer.get("VersionId")
        head = self._head(key, version, missing="archive.unproved")
        if not self._holds(item.image, key, head, version):
            raise ArchiveError(
                "archive.unproved", f"{self._name(key)} does not hold the bytes that were sent."
            )
        return self._stored(key, head)

    def _compare(self, item: Item, key: str, there: "HeadObjectOutputTypeDef") -> StoredObject:
        """What stands at the key already is a success if it is the same, byte for byte."""
        version = there.get("VersionId")
        if not self._holds(item.image, key, there, version):
            detail = f"{self._name(key)} holds other bytes than job {item.job_id}."
            raise ArchiveError("archive.occupied", detail)
        return self._stored(key, there)

    def _holds(
        self,
        image: Image,
        key: str,
        head: "HeadObjectOutputTypeDef",
        version: str | None,
        *,
        bucket: str | None = None,
    ) -> bool:
        """Whether an object is the image: by the store's own checksum, else by reading all of it again."""
        if head["ContentLength"] != image.bytes:
            return False
        checksum = head.get("ChecksumSHA256", "")
        if checksum and "-" not in checksum:  # a dash marks the checksum of a multipart object's checksums
            return checksum == _base64(bytes.fromhex(image.sha256))
        return self._sha256(key, version, bucket=bucket) == image.sha256

    def _list(self, arguments: Mapping[str, Any]) -> "ListObjectsV2OutputTypeDef":
        try:
            return self._client.list_objects_v2(**arguments)
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, str(arguments["Prefix"])) from error

    def _is_listed(self, bucket: str, key: str) -> bool:
        """Whether a listing shows this key, which is the first of all that begin with it."""
        listed = self._list({"Bucket": bucket, "Prefix": key, "MaxKeys": 1}).get("Contents", [])
        return any(found["Key"] == key for found in listed)

    def _look_at(self, bucket: str, key: str, depth: Depth) -> ObjectInfo:
        try:
            head = self._head(key, bucket=bucket, missing="archive.missing")
        except ArchiveError as error:
            # S3 says "forbidden" of an absent object to whom it does not think to hold s3:ListBucket, and a
            # condition on the prefix can be enough for that. The list itself tells the two apart.
            if error.reason != "archive.denied" or self._is_listed(bucket, key):
                raise
            raise ArchiveError("archive.missing", f"{self._name(key, bucket)} is not there.") from error
        version = head.get("VersionId")
        checksum = head.get("ChecksumSHA256", "")
        sha256 = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        if depth is Depth.DEEP:
            sha256 = self._sha256(key, version, bucket=bucket)
        try:
            kept = metadata.decode_all(head["Metadata"])
        except ValueError:
            kept = {}
        kind = FORMATS.get(head.get("ContentType", ""))
        etag = head.get("ETag", "").strip('"') or None
        stored = StoredObject(self._name(key, bucket), etag=etag, version=version)
        return ObjectInfo(
            stored, head["ContentLength"], sha256, kind, head["LastModified"].astimezone(UTC), kept
        )

    def _sha256(self, key: str, version: str | None, *, bucket: str | None = None) -> str:
        value = hashlib.sha256()
        try:
            body = self._client.get_object(Bucket=bucket or self._bucket, Key=key, **_version(version))[
                "Body"
            ]
            try:
                for block in body.iter_chunks(BLOCK):
                    value.update(block)
            finally:
                body.close()
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, key) from error
        return value.hexdigest()

    def _bring(self, stored: StoredObject, image: Image, target: Path) -> None:
        bucket, key = self._address(stored.uri)
        version = self._readable(stored, image)
        size = 0
        try:
            body = self._client.get_object(Bucket=bucket, Key=key, **_version(version))["Body"]
            try:
                with target.open("wb") as file:
                    for block in body.iter_chunks(BLOCK):
                        size += len(block)
                        if size > image.bytes:  # not what was put: it shall not fill the disk
                            break
                        file.write(block)
            finally:
                body.close()
        except (ClientError, BotoCoreError) as error:
            if _status(error) == 404:
                raise ArchiveError("archive.missing", f"{stored.uri} is not there.") from error
            raise self._translate(error, key) from error
        except OSError as error:
            raise SpoolError("spool.disk", f"{target.name} cannot be written: {error.strerror}.") from error
        if size != image.bytes:
            raise ArchiveError("archive.missing", f"{stored.uri} is not as long as what was put there.")

    def _head(
        self,
        key: str,
        version: str | None = None,
        *,
        bucket: str | None = None,
        missing: str = "archive.unavailable",
    ) -> "HeadObjectOutputTypeDef":
        try:
            return self._client.head_object(
                Bucket=bucket or self._bucket, Key=key, ChecksumMode="ENABLED", **_version(version)
            )
        except (ClientError, BotoCoreError) as error:
            if _status(error) == 404:
                raise ArchiveError(missing, f"{self._name(key, bucket)} is not there.") from error
            raise self._translate(error, key) from error

    def _look(self, key: str) -> "HeadObjectOutputTypeDef | None":
        """What stands at a key; None also where the store will not say, as S3 does without s3:ListBucket."""
        try:
            return self._head(key, missing="archive.missing")
        except ArchiveError as error:
            if error.reason in {"archive.missing", "archive.denied"}:
                return None
            raise

    def _readable(self, stored: StoredObject, image: Image) -> str | None:
        """The version to read: the job's own, and where that is gone what stands there, if it is the same.

        So it is after an operator has put a deleted image back by a copy: the version that was archived goes
        with the bucket's lifecycle, and the copy stays.

        Raises:
            ArchiveError: ``archive.missing`` if there is neither.
        """
        bucket, key = self._address(stored.uri)
        try:
            self._head(key, stored.version, bucket=bucket, missing="archive.missing")
        except ArchiveError as error:
            if stored.version is None or error.reason not in {"archive.missing", "archive.denied"}:
                raise
        else:
            return stored.version
        head = self._head(key, bucket=bucket, missing="archive.missing")
        version = head.get("VersionId")
        if not self._holds(image, key, head, version, bucket=bucket):
            raise ArchiveError("archive.missing", f"{stored.uri} holds other bytes by now.")
        return version

    def _presign(self, stored: StoredObject, image: Image) -> str:
        bucket, key = self._address(stored.uri)
        parameters = {
            "Bucket": bucket,
            "Key": key,
            "ResponseContentType": image.content_type,
            **_version(self._readable(stored, image)),
        }
        try:
            return self._client.generate_presigned_url(
                "get_object", Params=parameters, ExpiresIn=URL_LIFETIME
            )
        except BotoCoreError as error:
            raise self._translate(error, key) from error

    # What the store honours ------------------------------------------------------------------------------

    def _probe(self) -> tuple[ProbeResult, ...]:
        key = self._full(f".receiver-probe/{secrets.token_hex(8)}")
        content = secrets.token_bytes(64)
        keys = [key]
        try:
            abilities = self._first_that_is_taken(key, content)
            if abilities.conditional and not self._refuses(
                key, content[::-1], Abilities(sha256=abilities.sha256)
            ):
                abilities = Abilities(conditional=False, sha256=abilities.sha256)
                self._write(key, content, abilities)
            if abilities.sha256:
                keys.append(f"{key}-false")
                false = Abilities(conditional=False)
                if not self._refuses(keys[-1], content, false, announced=content[::-1]):
                    abilities = Abilities(conditional=abilities.conditional, sha256=False)
            self._compare_probe(key, content)
            kept = bool(self._head(key).get("ChecksumSHA256"))
        finally:
            deleted = [self._delete(key) for key in keys]
        self._abilities = abilities
        return (
            ProbeResult("write", True, f"Objects are written to {self.uri}."),
            ProbeResult("read-back", True, "What is read is what was written."),
            _finding(
                "conditional-writes",
                abilities.conditional,
                "A key that is taken is not overwritten.",
                "If-None-Match is ignored or refused: each put asks first whether the key is free.",
            ),
            _finding(
                "sha256",
                abilities.sha256,
                "Bytes that differ from their SHA-256 are refused.",
                "SHA-256 is ignored or refused: each file is hashed again here, and sent with its MD5.",
            ),
            _finding(
                "checksum-kept",
                kept,
                "The store's own SHA-256 proves each object.",
                "The store keeps no SHA-256: each object is read again whole to prove it.",
            ),
            _finding(
                "delete",
                all(deleted),
                "The probe's objects were removed.",
                "Nothing may be deleted: the probe's small objects stay under .receiver-probe/.",
            ),
            *self._clock(),
        )

    def _clock(self) -> tuple[ProbeResult, ...]:
        if self._ahead is None:
            return ()
        side = "ahead of" if self._ahead > 0 else "behind"
        return (
            _finding(
                "clock",
                abs(self._ahead) < CLOCK_SECONDS,
                "The store's clock agrees with this machine's.",
                f"The store's clock is {abs(self._ahead):.0f} seconds {side} this machine's.",
            ),
        )

    def _first_that_is_taken(self, key: str, content: bytes) -> Abilities:
        """Writes with everything, then with less and less, until the store takes it."""
        refusals: list[ArchiveError] = []
        for abilities in (
            Abilities(),
            Abilities(sha256=False),
            Abilities(conditional=False),
            Abilities(conditional=False, sha256=False),
        ):
            try:
                self._write(key, content, abilities)
            except ArchiveError as error:
                # So stores answer a header that they do not know; no other refusal goes away with less.
                if not _is_answer(error, 400, 501):
                    raise
                refusals.append(error)
            else:
                return abilities
        raise refusals[0]

    def _refuses(
        self, key: str, content: bytes, abilities: Abilities, *, announced: bytes | None = None
    ) -> bool:
        """Whether the store refuses a write that it must refuse; raises if it fails for another reason."""
        try:
            self._write(key, content, abilities, announced=announced)
        except ArchiveError as error:
            if not _is_answer(error, 400, 409, 412):
                raise
            return True
        return False

    def _write(
        self, key: str, content: bytes, abilities: Abilities, *, announced: bytes | None = None
    ) -> None:
        arguments: dict[str, Any] = {"IfNoneMatch": "*"} if abilities.conditional else {}
        if abilities.sha256:
            arguments["ChecksumSHA256"] = _base64(hashlib.sha256(announced or content).digest())
        else:
            arguments["ContentMD5"] = _base64(hashlib.md5(content, usedforsecurity=False).digest())
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=content,
                ContentType="application/octet-stream",
                **arguments,
            )
        except (ClientError, BotoCoreError) as error:
            raise self._translate(error, key) from error

    def _compare_probe(self, key: str, content: bytes) -> None:
        if self._sha256(key, None) != hashlib.sha256(content).hexdigest():
            raise ArchiveError(
                "archive.unproved", f"{self._name(key)} reads otherwise than written.", pause=True
            )

    def _delete(self, key: str) -> bool:
        try:
            self._client.delete_object(Bucket=self._bucket, Key=key)
        except (ClientError, BotoCoreError):  # rights to write and read are enough; the finding tells it
            return False
        return True

    # Names and errors ------------------------------------------------------------------------------------

    def _address(self, uri: str) -> tuple[str, str]:
        """Bucket and key of an address.

        Raises:
            ArchiveError: ``archive.missing`` if it is none of an object in S3.
        """
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not key:
            raise ArchiveError("archive.missing", f"{uri} is not in the archive {self.uri}.")
        return bucket, key

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _name(self, key: str, bucket: str | None = None) -> str:
        return f"s3://{bucket or self._bucket}/{key}"

    def _stored(self, key: str, head: "HeadObjectOutputTypeDef") -> StoredObject:
        etag = head.get("ETag", "").strip('"')
        return StoredObject(uri=self._name(key), etag=etag or None, version=head.get("VersionId"))

    def _digest_refused(self, item: Item, spooled: SpoolFile, key: str, error: Exception) -> Exception:
        """The store got other bytes than were verified: from a spool that rotted, or damaged on their way."""
        try:
            intact = digest(spooled).hex() == item.image.sha256
        except OSError:
            intact = False
        if not intact:
            return changed(item)
        return ArchiveError("archive.unavailable", f"{self._name(key)}: damaged on its way ({_code(error)}).")

    def _translate(
        self, error: ClientError | BotoCoreError, key: str, bucket: str | None = None
    ) -> ArchiveError:
        """The error as ours, with codes and kinds alone: the other words of stores can quote secrets."""
        name = self._name(key, bucket)
        if isinstance(error, ClientError):
            code, status = _code(error), _status(error)
            reason, pause = BY_CODE.get(code) or BY_CODE.get(str(status)) or ("archive.unavailable", False)
            return ArchiveError(
                reason, f"{name}: {error.operation_name} was answered {status} {code}.", pause=pause
            )
        kind = type(error).__name__
        if isinstance(error, NO_CREDENTIALS):
            return ArchiveError(
                "archive.denied", f"{name}: the AWS SDK has no credentials ({kind}).", pause=True
            )
        if isinstance(error, ParamValidationError):
            return ArchiveError("archive.misconfigured", f"{name}: the AWS SDK refuses the request.")
        endpoint = urlsplit(self._client.meta.endpoint_url)
        where = f"{endpoint.scheme}://{endpoint.netloc.rpartition('@')[2]}"
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return ArchiveError(
                "archive.misconfigured",
                f"{name}: {where} did not prove its name; see AWS_CA_BUNDLE.",
                pause=True,
            )
        if isinstance(error, SSLError) and _lacks_bundle(error):
            return ArchiveError(
                "archive.misconfigured",
                f"{name}: the file of AWS_CA_BUNDLE cannot be read, or holds no certificate.",
                pause=True,
            )
        return ArchiveError("archive.unavailable", f"{name}: {where} does not answer ({kind}).")


def _lacks_bundle(error: SSLError) -> bool:
    """Whether it was our own file of certificates that TLS failed at, before anything was asked."""
    of_urllib3 = error.kwargs.get("error")
    cause = of_urllib3.args[0] if isinstance(of_urllib3, Exception) and of_urllib3.args else None
    return isinstance(
        cause, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
    ) or "NO_CERTIFICATE_OR_CRL_FOUND" in str(cause)


def _status(error: ClientError | BotoCoreError) -> int:
    """The HTTP status of an answer; 0 if there was none."""
    return (
        int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if isinstance(error, ClientError)
        else 0
    )


def _is_answer(error: ArchiveError, *statuses: int) -> bool:
    """Whether an error stands for an answer of the store with one of these statuses."""
    return isinstance(error.__cause__, ClientError) and _status(error.__cause__) in statuses


def _code(error: Exception) -> str:
    """The store's own error code, cut to what can stand in a log line."""
    code = str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
    return "".join(c for c in code if c.isascii() and (c.isalnum() or c in "._-"))[:64]


def _version(version: str | None) -> dict[str, Any]:
    return {"VersionId": version} if version else {}


def _base64(digest_: bytes) -> str:
    return base64.b64encode(digest_).decode()


def _finding(name: str, honoured: bool, yes: str, no: str) -> ProbeResult:  # noqa: FBT001 - it is what is found
    return ProbeResult(name, honoured, yes if honoured else no)
