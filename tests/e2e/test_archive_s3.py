"""The S3 archive against a real SeaweedFS over TLS, and a stand-in for what no real store does on demand."""

import asyncio
import base64
import hashlib
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from receiver.archive.base import Archive, Depth, Inventory
from receiver.archive.factory import open_archive
from receiver.archive.metadata import decode_all, write
from receiver.core.errors import ArchiveError, ConfigError, SpoolError
from receiver.core.jobs import StoredObject
from tests.support.items import spooled
from tests.support.processes import Programs, settings
from tests.support.s3_standin import Standin, standin
from tests.support.seaweed import Seaweed, seaweed


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


UNREADABLE = Path("/proc/self/mem")
"""Opens, is of no size, and its first read fails with EIO, as a damaged disk's would."""


@pytest.fixture
def prefix() -> str:
    """A part of the bucket for one test alone."""
    return f"test/{os.urandom(6).hex()}"


@pytest.fixture
async def archive(store: Seaweed, prefix: str) -> AsyncIterator[Archive]:
    archive = open_archive(f"s3://{store.bucket}/{prefix}", environ=store.environment())
    yield archive
    await archive.aclose()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Standin]:
    with standin(tmp_path) as fake:
        yield fake


@pytest.fixture
async def fake_archive(fake: Standin) -> AsyncIterator[Inventory]:
    archive = open_archive("s3://bucket/prefix", environ=fake.environment())
    yield archive
    await archive.aclose()


class Bucket:
    """What an independent client sees below a prefix."""

    def __init__(self, store: Seaweed, prefix: str) -> None:
        self._client = store.client()
        self._bucket, self._prefix = store.bucket, prefix

    def head(self, key: str) -> dict[str, object]:
        return dict(
            self._client.head_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}", ChecksumMode="ENABLED")
        )

    def read(self, key: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")["Body"].read()

    def keys(self) -> list[str]:
        listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{self._prefix}/").get(
            "Contents", []
        )
        return [found["Key"].removeprefix(f"{self._prefix}/") for found in listed]

    def write(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}", Body=content)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def bucket(store: Seaweed, prefix: str) -> Iterator[Bucket]:
    bucket = Bucket(store, prefix)
    yield bucket
    bucket.close()


async def refusal(archive: Archive, item: object) -> ArchiveError:
    """The error of a put that must fail."""
    with pytest.raises(ArchiveError) as caught:
        await archive.put(item)  # type: ignore[arg-type]
    return caught.value


# A real store ---------------------------------------------------------------------------------------------


async def test_a_put_keeps_bytes_type_checksum_and_metadata(
    archive: Archive, bucket: Bucket, store: Seaweed, prefix: str, tmp_path: Path
) -> None:
    item = spooled(tmp_path, "2026/03/09/job-1.png", ref="two  spaces, and (more)!")
    stored = await archive.put(item)
    assert stored.uri == f"s3://{store.bucket}/{prefix}/2026/03/09/job-1.png"
    head = bucket.head(item.key)
    assert bucket.read(item.key) == item.path.read_bytes()
    assert head["ContentType"] == "image/png"
    assert head["Metadata"] == write(item)
    assert head["ETag"] == f'"{stored.etag}"'
    assert base64.b64decode(str(head["ChecksumSHA256"])).hex() == item.image.sha256


@pytest.mark.parametrize("ref", [" ", "  outer blanks ", "=?UTF-8?B?IA==?=", "žluťoučký", None])
async def test_a_reference_is_read_back_from_the_store_as_it_was(
    archive: Archive, bucket: Bucket, tmp_path: Path, ref: str | None
) -> None:
    await archive.put(spooled(tmp_path, "a.png", ref=ref))
    kept = bucket.head("a.png")["Metadata"]
    assert isinstance(kept, dict)
    assert decode_all(kept).get("ref") == ref


async def test_the_same_image_twice_is_one_success(archive: Archive, bucket: Bucket, tmp_path: Path) -> None:
    first = await archive.put(spooled(tmp_path, "a.png", b"bytes"))
    assert await archive.put(spooled(tmp_path, "a.png", b"bytes")) == first
    assert bucket.keys() == ["a.png"]


async def test_eight_puts_of_one_image_at_once_all_succeed(
    archive: Archive, bucket: Bucket, tmp_path: Path
) -> None:
    item = spooled(tmp_path, "a.png", os.urandom(1_000_000))
    stored = await asyncio.gather(*(archive.put(item) for _ in range(8)))
    assert len(set(stored)) == 1
    assert bucket.read("a.png") == item.path.read_bytes()


async def test_of_eight_images_at_once_one_is_kept_and_seven_are_refused(
    archive: Archive, bucket: Bucket, tmp_path: Path
) -> None:
    items = [spooled(tmp_path, "a.png", bytes([n]) * 100_000) for n in range(8)]
    results = await asyncio.gather(*(archive.put(item) for item in items), return_exceptions=True)
    winners = [item for item, result in zip(items, results, strict=True) if isinstance(result, StoredObject)]
    refused = [result.reason for result in results if isinstance(result, ArchiveError)]
    assert len(winners) == 1
    assert refused == ["archive.occupied"] * 7
    assert bucket.read("a.png") == winners[0].path.read_bytes()


@pytest.mark.parametrize("other", [b"other bytes", b"BYTES"])
async def test_other_bytes_at_the_key_are_never_overwritten(
    archive: Archive, bucket: Bucket, tmp_path: Path, other: bytes
) -> None:
    bucket.write("a.png", other)
    error = await refusal(archive, spooled(tmp_path, "a.png", b"bytes"))
    assert (error.reason, error.permanent) == ("archive.occupied", False)
    assert bucket.read("a.png") == other


async def test_the_same_bytes_that_another_program_put_without_a_checksum_are_read_and_accepted(
    archive: Archive, bucket: Bucket, tmp_path: Path
) -> None:
    content = os.urandom(2_500_000)
    bucket.write("a.png", content)
    assert "ChecksumSHA256" not in bucket.head("a.png")
    assert (await archive.put(spooled(tmp_path, "a.png", content))).uri.endswith("/a.png")


async def test_a_spooled_file_that_changed_is_lost_and_not_archived(
    archive: Archive, bucket: Bucket, tmp_path: Path
) -> None:
    item = spooled(tmp_path, "a.png")
    content = item.path.read_bytes()
    for changed in (content[::-1], content[:-1], content + b"!"):
        item.path.write_bytes(changed)
        with pytest.raises(SpoolError, match=r"^spool\.lost"):
            await archive.put(item)
    item.path.unlink()
    with pytest.raises(SpoolError, match=r"^spool\.lost"):
        await archive.put(item)
    assert bucket.keys() == []


@pytest.mark.parametrize("state", ["lost", "changed"])
async def test_a_spooled_file_that_is_lost_after_it_was_put_is_a_success(
    archive: Archive, bucket: Bucket, tmp_path: Path, state: str
) -> None:
    item = spooled(tmp_path, "a.png", b"bytes")
    first = await archive.put(item)
    if state == "lost":
        item.path.unlink()
    else:
        item.path.write_bytes(b"other")
    assert await archive.put(item) == first
    assert bucket.read("a.png") == b"bytes"
    with pytest.raises(SpoolError, match=r"^spool\.lost"):
        await archive.put(replace(item, key="b.png"))


@pytest.mark.skipif(not UNREADABLE.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("tls", [True, False])
async def test_a_spooled_file_that_its_disk_cannot_read_is_lost_and_no_fault_of_the_store(
    store: Seaweed, prefix: str, tmp_path: Path, *, tls: bool
) -> None:
    archive = open_archive(f"s3://{store.bucket}/{prefix}", environ=store.environment(tls=tls))
    empty = spooled(tmp_path, "a.png", b"")
    # Another sum, for a store might take an object of no bytes before any is sent.
    item = replace(empty, path=UNREADABLE, image=replace(empty.image, sha256="00" * 32))
    with pytest.raises(SpoolError, match=r"^spool\.lost: .*Input/output error"):
        await archive.put(item)
    await archive.aclose()


async def test_a_wrong_secret_is_denied_for_all_and_not_quoted(store: Seaweed, tmp_path: Path) -> None:
    environ = store.environment() | {"AWS_SECRET_ACCESS_KEY": "a-wrong-secret"}
    archive = open_archive(f"s3://{store.bucket}", environ=environ)
    error = await refusal(archive, spooled(tmp_path, "a.png"))
    with pytest.raises(ArchiveError, match=r"^archive\.denied"):
        await archive.probe()
    await archive.aclose()
    assert (error.reason, error.permanent) == ("archive.denied", True)
    assert error.detail == f"s3://{store.bucket}/a.png: PutObject was answered 403 SignatureDoesNotMatch."


async def test_a_missing_bucket_is_named_and_pauses(store: Seaweed, tmp_path: Path) -> None:
    archive = open_archive("s3://no-such-bucket/prefix", environ=store.environment())
    error = await refusal(archive, spooled(tmp_path, "a.png"))
    await archive.aclose()
    assert (error.reason, error.permanent) == ("archive.no_bucket", True)
    assert "s3://no-such-bucket/prefix/a.png" in error.detail


async def test_a_store_with_an_unknown_certificate_is_not_spoken_to(store: Seaweed, tmp_path: Path) -> None:
    environ = store.environment()
    del environ["AWS_CA_BUNDLE"]
    archive = open_archive(f"s3://{store.bucket}", environ=environ)
    error = await refusal(archive, spooled(tmp_path, "a.png"))
    await archive.aclose()
    assert (error.reason, error.permanent) == ("archive.misconfigured", True)
    assert "AWS_CA_BUNDLE" in error.detail


async def test_plain_http_works_as_well(store: Seaweed, bucket: Bucket, prefix: str, tmp_path: Path) -> None:
    archive = open_archive(f"s3://{store.bucket}/{prefix}", environ=store.environment(tls=False))
    item = spooled(tmp_path, "a.png")
    await archive.put(item)
    await archive.aclose()
    assert bucket.read("a.png") == item.path.read_bytes()


async def test_without_a_prefix_keys_begin_at_the_bucket(store: Seaweed, prefix: str, tmp_path: Path) -> None:
    archive = open_archive(f"s3://{store.bucket}", environ=store.environment())
    assert archive.uri == f"s3://{store.bucket}"
    stored = await archive.put(spooled(tmp_path, f"{prefix}/a.png"))
    await archive.aclose()
    assert stored.uri == f"s3://{store.bucket}/{prefix}/a.png"


async def test_the_probe_finds_all_honoured_and_leaves_nothing(archive: Archive, bucket: Bucket) -> None:
    findings = await archive.probe()
    assert [finding.name for finding in findings] == [
        "write",
        "read-back",
        "conditional-writes",
        "simultaneous-writes",
        "sha256",
        "checksum-kept",
        "metadata",
        "presigned-urls",
        "delete",
        "clock",
    ]
    assert all(finding.honoured for finding in findings)
    assert bucket.keys() == []


async def test_the_probe_tells_how_far_the_stores_clock_is_off(fake_archive: Archive, fake: Standin) -> None:
    assert {f.name: f.honoured for f in await fake_archive.probe()}["clock"]
    fake.ahead = -600
    (clock,) = (f for f in await fake_archive.probe() if f.name == "clock")
    assert not clock.honoured
    assert re.fullmatch(r"The store's clock is (599|60[01]) seconds behind this machine's\.", clock.detail)


async def test_a_located_image_is_served_as_its_own_type_from_a_signed_url(
    archive: Archive, bucket: Bucket, store: Seaweed, tmp_path: Path
) -> None:
    item = spooled(tmp_path, "folder/a")
    bucket.write(item.key, item.path.read_bytes())  # as another program might: neither type nor ending tells
    url = await archive.locate(await archive.put(item), item.image)
    assert isinstance(url, str)
    context = ssl.create_default_context(cafile=store.ca_bundle)
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        answer = await client.get(url)
        tampered = await client.get(url.replace("folder/a?", "folder/b?"))
    assert answer.content == item.path.read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert httpx.URL(url).params["X-Amz-Expires"] == "300"
    assert tampered.status_code == 403


async def test_an_object_that_is_gone_is_missing(archive: Archive, bucket: Bucket, tmp_path: Path) -> None:
    item = spooled(tmp_path, "a.png")
    stored = await archive.put(item)
    bucket.delete("a.png")
    for gone in (stored, StoredObject("file:///folder/a.png"), StoredObject("s3://bucket")):
        with pytest.raises(ArchiveError, match=r"^archive\.missing"):
            await archive.locate(gone, item.image)


async def test_a_deleted_object_of_a_bucket_with_versions_is_missing_and_a_replaced_one_is_another(
    tmp_path: Path,
) -> None:
    with seaweed() as store, closing(store.client()) as client:
        client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
        async with aclosing(open_archive(f"s3://{store.bucket}", environ=store.environment())) as archive:
            deleted, replaced = [await archive.put(spooled(tmp_path, f"{n}.png")) for n in range(2)]
            assert deleted.version is not None
            assert (await archive.inspect(deleted)).stored == deleted
            client.delete_object(Bucket=store.bucket, Key="0.png")
            client.put_object(Bucket=store.bucket, Key="1.png", Body=b"other")
            for depth in Depth:
                with pytest.raises(ArchiveError) as caught:
                    await archive.inspect(deleted, depth)
                assert caught.value.reason == "archive.missing"
                assert (await archive.inspect(replaced, depth)).bytes == len(b"other")


async def test_an_image_that_was_put_back_by_a_copy_is_read_when_its_first_version_is_gone(
    tmp_path: Path,
) -> None:
    item = spooled(tmp_path, "a.png")
    with seaweed() as store, closing(store.client()) as client:
        client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
        async with aclosing(open_archive(f"s3://{store.bucket}", environ=store.environment())) as archive:
            stored = await archive.put(item)
            assert stored.version is not None
            client.delete_object(Bucket=store.bucket, Key=item.key)
            client.put_object(Bucket=store.bucket, Key=item.key, Body=item.path.read_bytes())
            client.delete_object(Bucket=store.bucket, Key=item.key, VersionId=stored.version)
            trusting = ssl.create_default_context(cafile=store.ca_bundle)
            async with httpx.AsyncClient(verify=trusting) as reader:
                answer = await reader.get(str(await archive.locate(stored, item.image)))
            assert answer.content == item.path.read_bytes()
            scratch = await archive.local_file(stored, item.image, tmp_path / "spare")
            assert scratch.read_bytes() == item.path.read_bytes()
            client.put_object(Bucket=store.bucket, Key=item.key, Body=b"other")
            with pytest.raises(ArchiveError) as caught:
                await archive.locate(stored, item.image)
            assert caught.value.reason == "archive.missing"


async def test_an_absent_object_is_missing_where_the_store_says_forbidden_of_it(
    fake_archive: Inventory, fake: Standin, tmp_path: Path
) -> None:
    stored = await fake_archive.put(spooled(tmp_path, "a.png"))
    await fake_archive.put(spooled(tmp_path, "a.png.png"))
    fake.objects.pop("/bucket/prefix/a.png")
    fake.hides = True
    with pytest.raises(ArchiveError) as caught:
        await fake_archive.inspect(stored)
    assert (caught.value.reason, caught.value.permanent) == ("archive.missing", False)
    fake.lists = False
    with pytest.raises(ArchiveError) as caught:
        await fake_archive.inspect(stored)
    assert (caught.value.reason, caught.value.permanent) == ("archive.denied", True)


async def test_a_store_that_was_killed_is_unavailable_and_works_again_when_it_is_back(tmp_path: Path) -> None:
    with seaweed() as store:
        archive = open_archive(f"s3://{store.bucket}", environ=store.environment())
        await archive.probe()
        item = spooled(tmp_path, "a.png")
        store.kill()
        error = await refusal(archive, item)
        assert (error.reason, error.permanent) == ("archive.unavailable", False)
        assert store.https_url in error.detail
        store.start()
        await archive.put(item)
        await archive.aclose()


PUT = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from receiver.archive.factory import open_archive
from tests.support.items import spooled

async def main(uri, folder):
    archive = open_archive(uri)
    await archive.put(spooled(folder, "a.png"))
    await archive.aclose()

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


def test_the_sdk_s_own_files_and_profiles_work_from_the_process_s_environment(
    store: Seaweed, bucket: Bucket, prefix: str, tmp_path: Path
) -> None:
    credentials, config = tmp_path / "credentials", tmp_path / "config"
    credentials.write_text(
        f"[kept]\naws_access_key_id = {store.access_key}\naws_secret_access_key = {store.secret_key}\n"
    )
    config.write_text(
        "[profile kept]\nregion = us-east-1\n"
        f"ca_bundle = {store.ca_bundle}\nendpoint_url = {store.https_url}\n"
    )
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_CONFIG_FILE": str(config),
        "AWS_PROFILE": "kept",
    }
    subprocess.run(
        [sys.executable, "-c", PUT, f"s3://{store.bucket}/{prefix}", tmp_path],
        env={**others, **files},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert bucket.keys() == ["a.png"]


def test_the_sdk_s_variables_of_a_dotenv_file_reach_it(store: Seaweed, prefix: str, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[kept]\naws_access_key_id = {store.access_key}\naws_secret_access_key = {store.secret_key}\n"
    )
    variables = {
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_PROFILE": "kept",
        "AWS_CA_BUNDLE": str(store.ca_bundle),
        "AWS_ENDPOINT_URL_S3": store.https_url,
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    values = settings(tmp_path, RECEIVER_ARCHIVE=f"s3://{store.bucket}/{prefix}")
    with Programs(tmp_path).receiver_process(values) as receiver:
        receiver.program.until_event("archive probed", what="write", honoured=True)


PEAK = """
import asyncio, sys
from dataclasses import replace
from dataclasses import replace
from pathlib import Path
from receiver.archive.factory import open_archive
from tests.support.items import spooled

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

async def main(uri, folder):
    archive = open_archive(uri)
    small, large = (spooled(folder, f"{size}.png", b"x" * size) for size in (1_000_000, 64_000_000))
    await archive.put(small)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: making the files took memory
    before = peak()
    await archive.put(large)
    await archive.put(replace(large, key="read-again.png"))
    await archive.aclose()
    print(peak() - before)

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_image_sent_or_read_again(
    store: Seaweed, bucket: Bucket, prefix: str, tmp_path: Path
) -> None:
    bucket.write("read-again.png", b"x" * 64_000_000)  # without a SHA-256, so the archive must read it whole
    done = subprocess.run(
        [sys.executable, "-c", PEAK, f"s3://{store.bucket}/{prefix}", tmp_path],
        env={**os.environ, **store.environment()},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 64_000_000 / 8


# What a real store will not do on demand --------------------------------------------------------------------


async def test_over_tls_a_body_is_sent_plain_with_its_length_and_sha256(
    fake_archive: Archive, fake: Standin, tmp_path: Path
) -> None:
    item = spooled(tmp_path, "a.png")
    await fake_archive.put(item)
    headers = next(headers for method, _, headers in fake.requests if method == "PUT")
    assert headers["content-length"] == str(item.image.bytes)
    assert headers["if-none-match"] == "*"
    assert headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert {"transfer-encoding", "content-encoding", "x-amz-trailer"}.isdisjoint(headers)


async def test_over_plain_http_the_body_is_signed(tmp_path: Path) -> None:
    with standin() as fake:
        archive = open_archive("s3://bucket", environ=fake.environment())
        item = spooled(tmp_path, "a.png")
        await archive.put(item)
        await archive.aclose()
    headers = next(headers for method, _, headers in fake.requests if method == "PUT")
    assert headers["x-amz-content-sha256"] == item.image.sha256


async def test_an_attempt_that_came_through_unheard_is_recognised(
    fake_archive: Archive, fake: Standin, tmp_path: Path
) -> None:
    fake.lost = 1
    stored = await fake_archive.put(spooled(tmp_path, "a.png"))
    assert [method for method, _, _ in fake.requests] == ["PUT", "PUT", "HEAD"]
    assert stored.uri == "s3://bucket/prefix/a.png"


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ((503, "SlowDown"), ("archive.unavailable", False)),
        ((500, "InternalError"), ("archive.unavailable", False)),
        ((429, "TooManyRequests"), ("archive.unavailable", False)),
        ((409, "ConditionalRequestConflict"), ("archive.unavailable", False)),
        ((400, "NeverHeardOf"), ("archive.unavailable", False)),
        ((507, "XMinioStorageFull"), ("archive.full", False)),
        ((403, "AccessDenied"), ("archive.denied", True)),
        ((400, "ExpiredToken"), ("archive.denied", True)),
        ((403, "InvalidAccessKeyId"), ("archive.denied", True)),
        ((403, "RequestTimeTooSkewed"), ("archive.clock_skew", True)),
        ((404, "NoSuchBucket"), ("archive.no_bucket", True)),
        ((400, "EntityTooLarge"), ("archive.too_large", True)),
        ((411, "MissingContentLength"), ("archive.misconfigured", True)),
        ((400, "AuthorizationHeaderMalformed"), ("archive.misconfigured", True)),
        ((400, "KeyTooLongError"), ("archive.refused", False)),
        ((400, "MetadataTooLarge"), ("archive.refused", False)),
        ((400, "BadDigest"), ("archive.unavailable", False)),
    ],
)
async def test_an_answer_has_a_reason_and_pauses_all_only_if_all_would_meet_it(
    fake_archive: Archive, fake: Standin, tmp_path: Path, answer: tuple[int, str], meaning: tuple[str, bool]
) -> None:
    fake.faults = [answer] * 3
    error = await refusal(fake_archive, spooled(tmp_path, "a.png"))
    assert (error.reason, error.permanent) == meaning
    assert error.detail.startswith("s3://bucket/prefix/a.png: ")
    assert answer[1] in error.detail
    assert "secret words" not in str(error)


async def test_a_store_that_reads_back_other_bytes_proves_nothing(
    fake_archive: Archive, fake: Standin, tmp_path: Path
) -> None:
    fake.sha256 = "ignore"
    fake.corrupt = True
    error = await refusal(fake_archive, spooled(tmp_path, "a.png"))
    assert error.reason == "archive.unproved"
    with pytest.raises(ArchiveError) as caught:
        await fake_archive.probe()
    assert (caught.value.reason, caught.value.permanent) == ("archive.unproved", True)


async def test_without_a_checksum_of_the_stores_own_the_object_is_read_again(
    fake_archive: Archive, fake: Standin, tmp_path: Path
) -> None:
    fake.sha256 = "ignore"
    await fake_archive.put(spooled(tmp_path, "a.png"))
    assert [method for method, _, _ in fake.requests] == ["PUT", "HEAD", "GET"]


@pytest.mark.parametrize("conditional", ["ignore", "refuse"])
async def test_without_conditional_writes_a_put_looks_first_and_overwrites_nothing(
    fake_archive: Archive, fake: Standin, tmp_path: Path, conditional: str
) -> None:
    fake.conditional = conditional
    findings = {finding.name: finding.honoured for finding in await fake_archive.probe()}
    assert findings == {
        "write": True,
        "read-back": True,
        "conditional-writes": False,
        "sha256": True,
        "checksum-kept": True,
        "metadata": True,
        "presigned-urls": True,
        "delete": True,
        "clock": True,
    }
    assert fake.objects == {}
    item = spooled(tmp_path, "a.png", b"bytes")
    stored = await fake_archive.put(item)
    assert await fake_archive.put(item) == stored
    error = await refusal(fake_archive, spooled(tmp_path, "a.png", b"other"))
    assert error.reason == "archive.occupied"
    assert fake.objects["/bucket/prefix/a.png"][0] == b"bytes"


@pytest.mark.parametrize("sha256", ["ignore", "refuse"])
async def test_without_sha256_files_are_hashed_here_sent_with_md5_and_read_again(
    fake_archive: Archive, fake: Standin, tmp_path: Path, sha256: str
) -> None:
    fake.sha256 = sha256
    findings = {finding.name: finding.honoured for finding in await fake_archive.probe()}
    assert findings["conditional-writes"]
    assert not findings["sha256"]
    assert not findings["checksum-kept"]
    item = spooled(tmp_path, "a.png")
    fake.requests.clear()
    await fake_archive.put(item)
    method, _, headers = fake.requests[0]
    assert (method, "content-md5" in headers, "x-amz-checksum-sha256" in headers) == ("PUT", True, False)
    assert [method for method, _, _ in fake.requests] == ["PUT", "HEAD", "GET"]
    rotten = spooled(tmp_path, "b.png")
    rotten.path.write_bytes(rotten.path.read_bytes()[::-1])
    with pytest.raises(SpoolError, match=r"^spool\.lost"):
        await fake_archive.put(rotten)
    assert "/bucket/prefix/b.png" not in fake.objects


async def test_a_store_that_knows_neither_is_still_used(
    fake_archive: Archive, fake: Standin, tmp_path: Path
) -> None:
    fake.sha256 = fake.conditional = "refuse"
    await fake_archive.probe()
    await fake_archive.put(spooled(tmp_path, "a.png"))
    assert list(fake.objects) == ["/bucket/prefix/a.png"]


async def test_a_probe_that_may_not_delete_says_so_and_is_no_failure(
    fake_archive: Archive, fake: Standin
) -> None:
    fake.deletes = False
    findings = {finding.name: finding for finding in await fake_archive.probe()}
    assert not findings["delete"].honoured
    assert all(key.startswith("/bucket/prefix/.receiver-probe/") for key in fake.objects)


async def test_a_store_that_mends_its_ways_is_believed_at_the_next_probe(
    fake_archive: Archive, fake: Standin
) -> None:
    fake.sha256 = fake.conditional = "ignore"
    assert not all(finding.honoured for finding in await fake_archive.probe())
    fake.sha256 = fake.conditional = "honour"
    assert all(finding.honoured for finding in await fake_archive.probe())


async def unsupported(archive: Archive) -> dict[str, str]:
    """What the probe says that the store does not give."""
    return {finding.name: finding.detail for finding in await archive.probe() if not finding.honoured}


async def test_a_store_like_rclones_has_its_names_read_and_its_echoed_checksum_believed_by_nobody(
    fake_archive: Inventory, fake: Standin, tmp_path: Path
) -> None:
    fake.metadata, fake.sha256, fake.conditional = "Title", "echo", "ignore"  # rclone serve s3 1.75.2
    found = await unsupported(fake_archive)
    assert found.keys() == {"conditional-writes", "sha256", "checksum-kept"}
    assert "repeats an announced SHA-256 even if it is false" in found["checksum-kept"]

    item = spooled(tmp_path, "a.png")
    stored = await fake_archive.put(item)
    body, kept = fake.objects["/bucket/prefix/a.png"]
    fake.objects["/bucket/prefix/a.png"] = (body[::-1], {**kept, "x-amz-checksum-sha256": sha256_of(body)})
    error = await refusal(fake_archive, item)
    assert error.reason == "archive.occupied"
    info = await fake_archive.inspect(stored)
    assert (info.sha256, info.metadata["job-id"]) == (None, "job-1")


def sha256_of(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


async def test_a_store_that_drops_metadata_or_refuses_signed_urls_is_named_with_what_that_costs(
    fake_archive: Archive, fake: Standin
) -> None:
    fake.metadata, fake.presigned = "none", False  # the JuiceFS gateway 1.4.2, and pys3local
    found = await unsupported(fake_archive)
    assert found.keys() == {"metadata", "presigned-urls"}
    assert "`rebuild` cannot work with this store, and `audit` faults each object" in found["metadata"]
    assert found["presigned-urls"].startswith(f"A presigned URL to {fake.url} is answered 403: ")


async def test_conditions_that_do_not_hold_at_once_are_found_by_writing_at_once(
    fake_archive: Archive, fake: Standin
) -> None:
    fake.conditional = "apart"  # Swift 2.38.3
    assert (await unsupported(fake_archive)).keys() == {"simultaneous-writes"}
    assert fake.objects == {}


async def test_a_store_that_refuses_to_be_asked_for_a_checksum_is_not_asked(
    fake_archive: Inventory, fake: Standin, tmp_path: Path
) -> None:
    fake.checksum_mode = False
    stored = await fake_archive.put(spooled(tmp_path, "a.png"))
    assert (await fake_archive.inspect(stored)).metadata["job-id"] == "job-1"
    heads = [headers for method, key, headers in fake.requests if method == "HEAD" and key.endswith(".png")]
    asked = ["x-amz-checksum-mode" in headers for headers in heads]
    assert asked == [True, False, False]
    with pytest.raises(ArchiveError, match=r"^archive\.missing"):
        await fake_archive.inspect(StoredObject("s3://bucket/prefix/none.png"))


@pytest.mark.parametrize("listing", ["no token", "same token"])
async def test_a_listing_that_says_that_it_goes_on_and_not_how_is_an_error_and_no_end(
    fake_archive: Inventory, fake: Standin, tmp_path: Path, listing: str
) -> None:
    await fake_archive.put(spooled(tmp_path, "a.png"))
    fake.listing = listing
    with pytest.raises(ArchiveError, match=r"^archive\.misconfigured: .*goes on, and not how"):
        async for _ in fake_archive.entries():
            pass


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"if_match": "ignore", "metadata": "none"},
        {"if_match": "refuse", "metadata": "none"},
        {"if_match": "refuse", "conditional": "ignore"},
    ],
)
async def test_an_object_that_a_kill_cut_off_is_replaced_by_the_whole_image(
    fake_archive: Archive, fake: Standin, tmp_path: Path, kind: dict[str, str]
) -> None:
    for name, value in kind.items():
        setattr(fake, name, value)
    await fake_archive.probe()
    item = spooled(tmp_path, "a.png")
    fake.cut = 40_000
    await fake_archive.put(item)
    assert fake.objects["/bucket/prefix/a.png"][0] == item.path.read_bytes()


async def test_what_is_no_part_of_the_image_is_not_replaced(
    fake_archive: Archive, fake: Standin, tmp_path: Path
) -> None:
    item = spooled(tmp_path, "a.png")
    content = item.path.read_bytes()
    foreign: list[tuple[bytes, dict[str, str]]] = [
        (content[1:], {}),  # shorter, and no beginning
        (content + b"more", {}),  # longer, and it does not say whose it is
        (content[::-1], {"x-amz-meta-job-id": "job-1", "x-amz-meta-sha256": item.image.sha256}),  # as long
        (b"other", {"x-amz-meta-job-id": "job-1", "x-amz-meta-sha256": "0" * 64}),  # another image of it
    ]
    for body, headers in foreign:
        fake.objects["/bucket/prefix/a.png"] = (body, headers)
        assert (await refusal(fake_archive, item)).reason == "archive.occupied"
        assert fake.objects["/bucket/prefix/a.png"] == (body, headers)


async def test_a_cut_object_of_a_real_store_is_replaced(
    archive: Archive, bucket: Bucket, tmp_path: Path
) -> None:
    item = spooled(tmp_path, "a.png")
    bucket.write("a.png", item.path.read_bytes()[:-1])
    await archive.put(item)
    assert bucket.read("a.png") == item.path.read_bytes()


async def test_presigned_urls_are_of_version_4_and_lead_to_the_public_endpoint(
    store: Seaweed, prefix: str, tmp_path: Path
) -> None:
    environ = {**store.environment(tls=False), "AWS_REGION": "eu-west-1"}
    uri = f"s3://{store.bucket}/{prefix}"
    public = store.https_url.replace("127.0.0.1", "localhost")
    async with aclosing(open_archive(uri, environ=environ, public_url=public)) as archive:
        assert await unsupported(archive) == {}
        item = spooled(tmp_path, "a.png")
        url = await archive.locate(await archive.put(item), item.image)
    assert isinstance(url, str)
    assert url.startswith(f"{public}/{store.bucket}/")
    assert httpx.URL(url).params["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    context = ssl.create_default_context(cafile=store.ca_bundle)
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        assert (await client.get(url)).content == item.path.read_bytes()


async def test_a_long_reference_is_kept_in_parts_that_every_store_takes(
    archive: Inventory, bucket: Bucket, tmp_path: Path
) -> None:
    for number, ref in enumerate(["%" * 200, " " + "é" * 99, "a" * 200, "a b " * 50]):
        item = spooled(tmp_path, f"{number}.png", ref=ref)
        stored = await archive.put(item)
        head = bucket.head(f"{number}.png")
        assert isinstance(head["Metadata"], dict)
        assert max(len(quote(value, safe="")) for value in head["Metadata"].values()) <= 256
        assert (await archive.inspect(stored)).metadata["ref"] == ref


async def test_no_more_connections_are_used_than_uploads(fake: Standin, tmp_path: Path) -> None:
    archive = open_archive("s3://bucket", uploads=2, environ=fake.environment())
    items = [spooled(tmp_path, f"{n}.png") for n in range(6)]
    await asyncio.gather(*(archive.put(item) for item in items))
    await archive.aclose()
    assert 1 <= fake.connections <= 2  # one, where the first upload ends before the second begins
    assert {hashlib.sha256(body).hexdigest() for body, _ in fake.objects.values()} == {
        item.image.sha256 for item in items
    }


def test_settings_that_the_sdk_cannot_use_stop_the_start_without_being_quoted() -> None:
    with pytest.raises(ConfigError, match=r"^AWS_ENDPOINT_URL: must be a URL") as caught:
        open_archive("s3://bucket", environ={"AWS_ENDPOINT_URL": "not a secret url"})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^AWS_\*: ") as caught:
        open_archive("s3://bucket", environ={"AWS_REGION": "no secret region"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_USE_DUALSTACK_ENDPOINT",
    ],
)
def test_a_variable_that_the_sdk_would_not_see_is_refused_rather_than_ignored(
    name: str, fake: Standin
) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: [^\n]+$") as caught:
        open_archive("s3://bucket", environ={**fake.environment(), name: "secret"})
    assert "secret" not in str(caught.value)


def test_boto3_is_loaded_only_for_s3(tmp_path: Path) -> None:
    code = (
        "import sys; from receiver.archive.factory import open_archive; open_archive(sys.argv[1]);"
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path.as_uri()], check=False).returncode == 0
