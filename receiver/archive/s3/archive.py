"""The archive in a bucket.

A put is one ``PutObject`` of the spooled file under ``If-None-Match: *``, so that nothing is overwritten,
with its SHA-256, which the store checks. A ``HeadObject`` then proves what is there. A probe finds out what a
store does not honour, and later puts do without.
"""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.archive import metadata
from receiver.archive.base import MAX_PICTURE, Depth, ListedObject, ObjectInfo, ProbeResult, SpooledImage
from receiver.archive.key import check_key
from receiver.archive.pooled import PooledArchive, pooled
from receiver.archive.s3.client import Address, Client, answer_behind, base64_of, metadata_of
from receiver.archive.s3.probe import Capabilities, probe
from receiver.archive.spool_file import SpoolFile, digest
from receiver.core.errors import ArchiveError, SpoolError
from receiver.core.jobs import Image, StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef as Head
    from mypy_boto3_s3.type_defs import ObjectTypeDef as Listed


CLOSE_SECONDS = 1.0

FORMATS = {f"image/{name}": name for name in ("jpeg", "png", "webp")}
"""Image formats by the content types of objects."""

BAD_DIGEST = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
"""The store received other bytes than were announced."""


class S3Archive(PooledArchive):
    """An archive below one bucket's prefix, which has no slash at either end and may be empty. Closes its
    client.
    """

    def __init__(self, bucket: str, prefix: str, *, client: Client, uploads: int) -> None:
        super().__init__(uploads)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = client
        self._capabilities = Capabilities()

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @pooled
    def probe(self) -> tuple[ProbeResult, ...]:
        try:
            self._capabilities, results = probe(self._client, self._at(""))
        except ArchiveError as error:
            if error.reason == "archive.denied":
                # The SDK reads a credentials file once; it may have been rotated before the next probe.
                self._client.reconnect()
            raise
        # Such a store itself has just refused to overwrite, and to take other bytes than were announced.
        proves = self._capabilities.conditional and self._capabilities.sha256
        self._client.open_direct(self._at("a") if proves else None)
        return results

    @pooled
    def locate(self, stored: StoredObject, image: Image) -> str:
        """Presign a URL that serves the image as its own type. See `ImageReader.locate`."""
        version = self._readable_version(stored, image)
        more = {"ResponseContentDisposition": "attachment"} if image.accepted else {}
        at = self._address(stored.uri)
        return self._client.presign(at, version, ResponseContentType=image.content_type, **more)

    async def entries(self, after: str | None = None) -> AsyncIterator[Sequence[ListedObject]]:
        """List the objects below the prefix in the store's order. See `Inventory.entries`."""
        behind = {} if after is None else {"StartAfter": self._address(after).key}
        async for page in self._pages(self._prefix, **behind):
            found = [
                ListedObject(str(Address(self._bucket, key)), listed["Size"])
                for listed in page
                # No part of an image's key begins with a dot; some stores list their folders as well.
                if not (key := listed["Key"]).removeprefix(self._prefix).startswith(".")
                and not key.endswith("/")
            ]
            if found:
                yield found

    async def _pages(self, prefix: str, **arguments: str) -> AsyncIterator[Sequence["Listed"]]:
        arguments |= {"Bucket": self._bucket, "Prefix": prefix}
        while True:
            page = await self._run(lambda: self._client.list(arguments))
            yield page.get("Contents", [])
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

    @pooled
    def remove(self, stored: StoredObject) -> None:
        self._client.delete(self._address(stored.uri))

    @pooled
    def has_picture(self, key: str) -> bool:
        return self._client.head_or_none(self._at(key)) is not None

    async def remove_pictures(self, prefix: str, before: datetime) -> int:
        removed = 0
        async for page in self._pages(self._prefix + prefix):
            for listed in page:
                if listed["LastModified"] < before:
                    await self.remove(StoredObject(str(Address(self._bucket, listed["Key"]))))
                    removed += 1
        return removed

    async def aclose(self) -> None:
        """Wait a moment for running puts; a store that hangs must not hold up a stop."""
        if running := list(self._running):
            await asyncio.to_thread(wait, running, CLOSE_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _at(self, key: str) -> Address:
        return Address(self._bucket, self._prefix + key)

    def _address(self, uri: str) -> Address:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not key:
            raise ArchiveError("archive.missing", f"{uri} is not in the archive {self.uri}.")
        return Address(bucket, key)

    # Writing

    @pooled
    def put(self, item: SpooledImage) -> StoredObject:
        check_key(item.key)
        at = self._at(item.key)
        try:
            return self._put_spool_file(item, at)
        except SpoolError as error:
            if error.reason == "spool.lost":
                # Perhaps it was put before, and a crash came before that was recorded. A deadline runs again,
                # so a store that does not answer is not waited for.
                with suppress(ArchiveError):
                    head = self._client.head_or_none(at)
                    if head is not None and self._holds(item.image, at, head):
                        return _stored(at, head)
            raise

    def _put_spool_file(self, item: SpooledImage, at: Address) -> StoredObject:
        conditional = self._capabilities.conditional
        with SpoolFile(item) as spooled:
            head = None if conditional else self._client.head_or_none(at)
            if head is None:
                stored = self._send(spooled, at, {"IfNoneMatch": "*"} if conditional else {})
                if stored is not None:
                    return stored
                # Perhaps our own first attempt, whose answer was lost: what is there decides.
                head = self._client.head(at)
            if self._holds(item.image, at, head):
                return _stored(at, head)
            if self._is_cut(spooled, at, head) and (stored := self._replace(spooled, at, head)) is not None:
                return stored
        raise ArchiveError("archive.occupied", f"{at} holds other bytes than job {item.job_id}.")

    def _send(self, spooled: SpoolFile, at: Address, condition: Mapping[str, str]) -> StoredObject | None:
        """Put the image and prove it. Return ``None`` where the condition does not hold."""
        head = None
        if "IfNoneMatch" in condition:
            head = self._client.put_directly(at, spooled)
        head = head or self._put_by_sdk(spooled, at, condition)
        if head is not None and not self._holds(spooled.item.image, at, head):
            raise ArchiveError("archive.unproved", f"{at} does not hold the bytes that were sent.")
        return head and _stored(at, head)

    def _put_by_sdk(self, spooled: SpoolFile, at: Address, condition: Mapping[str, str]) -> "Head | None":
        item = spooled.item
        if self._capabilities.sha256:
            spooled.seek(0)
            checksum = {"ChecksumSHA256": base64_of(bytes.fromhex(item.image.sha256))}
        else:
            spooled.check()  # the store will not compare with what was verified
            checksum = {"ContentMD5": base64_of(digest(spooled, "md5"))}
        try:
            version = self._client.put(
                at,
                spooled,
                ContentLength=item.image.bytes,
                ContentType=item.image.content_type,
                Metadata=metadata.write(item),
                **checksum,
                **condition,
            )
        except ArchiveError as error:
            if spooled.failed is not None:  # the SDK reports this as a lost connection
                raise spooled.failed from error
            status, code = answer_behind(error)
            if status == 412:
                return None
            if code in BAD_DIGEST:  # the spooled file is rotten, or its bytes were damaged on the way
                spooled.check()
                raise ArchiveError("archive.unavailable", f"{at}: damaged on its way ({code}).") from error
            raise
        return self._client.head(at, version, missing="archive.unproved")

    def _is_cut(self, spooled: SpoolFile, at: Address, head: "Head") -> bool:
        """Whether an object is a part of this very image: some stores keep what came before a kill."""
        item, size, pairs = spooled.item, head["ContentLength"], metadata_of(head)
        if size == item.image.bytes:
            return False
        if (pairs.get("job-id"), pairs.get("sha256")) == (item.job_id, item.image.sha256):
            return True
        if size > item.image.bytes:
            return False
        spooled.seek(0)
        blocks = self._client.blocks(at, head.get("VersionId"))
        with self._client.translated(at), closing(blocks):
            return all(spooled.read(len(block)) == block for block in blocks)

    def _replace(self, spooled: SpoolFile, at: Address, before: "Head") -> StoredObject | None:
        """Put the image in the place of a cut object; ``None`` if that has changed meanwhile."""
        # The store may ignore If-Match, so the object is looked at once more, right before the write.
        head = self._client.head(at)
        if any(head.get(name) != before.get(name) for name in ("ETag", "ContentLength", "LastModified")):
            return None
        try:
            return self._send(spooled, at, {"IfMatch": head.get("ETag", "*")})
        except ArchiveError as error:
            if answer_behind(error)[0] not in {400, 501}:
                raise
        return self._send(spooled, at, {})

    @pooled
    def keep_picture(self, key: str, content: bytes) -> None:
        at = self._at(key)
        md5 = base64_of(digest(io.BytesIO(content), "md5"))
        conditions = ({"IfNoneMatch": "*"}, {}) if self._capabilities.conditional else ({},)
        for condition in conditions:
            try:
                self._client.put(at, content, ContentType="image/webp", ContentMD5=md5, **condition)
            except ArchiveError as error:
                status, _ = answer_behind(error)
                if status == 412:
                    return
                if not condition or status not in {400, 501}:  # else the store does not know conditions
                    raise
            else:
                return

    # Reading

    @pooled
    def picture(self, key: str) -> bytes | None:
        at, content = self._at(key), b""
        try:
            with self._client.translated(at, "archive.missing"), closing(self._client.blocks(at)) as blocks:
                for block in blocks:
                    content += block
                    if len(content) > MAX_PICTURE:
                        return None
        except ArchiveError as error:
            if error.reason in {"archive.missing", "archive.denied"}:  # S3 says so without s3:ListBucket
                return None
            raise
        return content

    def _holds(self, image: Image, at: Address, head: "Head") -> bool:
        """Whether an object is the image: by the store's own checksum, else by reading all of it again."""
        if head["ContentLength"] != image.bytes:
            return False
        return (self._kept_sha256(head) or self._client.sha256(at, head.get("VersionId"))) == image.sha256

    def _kept_sha256(self, head: "Head") -> str | None:
        """Return the store's own SHA-256, hex; ``None`` also where it only repeats what was announced.

        A dash marks the checksum of a multipart object's checksums.
        """
        checksum = head.get("ChecksumSHA256")
        if not checksum or "-" in checksum or not self._capabilities.sha256:
            return None
        return base64.b64decode(checksum).hex()

    def _is_listed(self, at: Address) -> bool:
        """Whether a listing shows this key, which is the first of all that begin with it."""
        page = self._client.list({"Bucket": at.bucket, "Prefix": at.key, "MaxKeys": 1})
        return any(found["Key"] == at.key for found in page.get("Contents", []))

    @pooled
    def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """HeadObject, and GetObject where all bytes are to be read. See `Inventory.inspect`.

        It inspects the current version: one that was deleted or replaced lasts only as long as the bucket's
        lifecycle lets it.
        """
        at = self._address(stored.uri)
        try:
            head = self._client.head(at, missing="archive.missing")
        except ArchiveError as error:
            # S3 answers "forbidden" for an absent object without s3:ListBucket, for which a condition on the
            # prefix can be enough. The list tells the two cases apart.
            if error.reason != "archive.denied" or self._is_listed(at):
                raise
            raise ArchiveError("archive.missing", f"{at} is not there.") from error
        read = depth is Depth.DEEP
        return ObjectInfo(
            _stored(at, head),
            head["ContentLength"],
            self._client.sha256(at, head.get("VersionId")) if read else self._kept_sha256(head),
            FORMATS.get(head.get("ContentType", "")),
            head["LastModified"].astimezone(UTC),
            metadata_of(head),
        )

    @pooled
    def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        at = self._address(stored.uri)
        blocks = self._client.blocks(at, self._readable_version(stored, image))
        size = 0
        try:
            with self._client.translated(at, "archive.missing"), closing(blocks), scratch.open("wb") as file:
                for block in blocks:
                    size += len(block)
                    if size > image.bytes:  # not what was put, and it must not fill the disk
                        break
                    file.write(block)
        except OSError as error:
            raise SpoolError("spool.disk", f"{scratch.name} cannot be written: {error.strerror}.") from error
        if size != image.bytes:
            raise ArchiveError("archive.missing", f"{stored.uri} is not as long as what was put there.")
        return scratch

    def _readable_version(self, stored: StoredObject, image: Image) -> str | None:
        """Return the version to read: the job's own, or else the current one, if it is the same.

        An operator who restores a deleted image by a copy makes a new version. The archived version goes with
        the bucket's lifecycle, and the copy stays.
        """
        at = self._address(stored.uri)
        try:
            self._client.head(at, stored.version, missing="archive.missing")
        except ArchiveError as error:
            if stored.version is None or error.reason not in {"archive.missing", "archive.denied"}:
                raise
        else:
            return stored.version
        head = self._client.head(at, missing="archive.missing")
        if not self._holds(image, at, head):
            raise ArchiveError("archive.missing", f"{stored.uri} holds other bytes by now.")
        return head.get("VersionId")


def _stored(at: Address, head: "Head") -> StoredObject:
    etag = head.get("ETag", "").strip('"')
    return StoredObject(str(at), etag=etag or None, version=head.get("VersionId"))
