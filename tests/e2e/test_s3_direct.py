"""Puts on kept sockets: into a real SeaweedFS, and against answers that are no plain success."""

import contextlib
import hashlib
import itertools
import os
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ClientError, EndpointConnectionError

from receiver.archive.base import SpooledImage
from receiver.archive.s3.archive import S3Archive
from receiver.archive.s3.client import Address, Client
from receiver.archive.s3.direct import PAUSE_SECONDS, DirectPut
from receiver.archive.spool_file import SpoolFile
from receiver.core.errors import ArchiveError, SpoolError
from tests.support.items import spooled
from tests.support.s3_standin import Standin, standin
from tests.support.seaweed import Seaweed, seaweed

PREFIX = "a b/é+~/(1)"


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


@dataclass
class Probed:
    """An archive that was probed, and which requests the SDK has sent since."""

    archive: S3Archive
    client: Client
    bucket: str
    by_sdk: list[str] = field(default_factory=list)

    def note(self, event_name: str, **_: object) -> None:
        self.by_sdk.append(event_name.rpartition(".")[2])


async def probed(environ: dict[str, str], bucket: str, prefix: str) -> Probed:
    client = Client(uploads=8, environ=environ)
    opened = Probed(S3Archive(bucket, prefix, client=client, uploads=8), client, bucket)
    await opened.archive.probe()
    client.sdk.meta.events.register("before-send.s3", opened.note)
    return opened


@pytest.fixture(params=["https", "http"])
async def direct(store: Seaweed, request: pytest.FixtureRequest) -> AsyncIterator[Probed]:
    environ = store.environment(tls=request.param == "https")
    opened = await probed(environ, store.bucket, f"{PREFIX}/{os.urandom(6).hex()}")
    yield opened
    await opened.archive.aclose()


def kept(store: Seaweed, uri: str) -> dict[str, object]:
    """The object as an independent client sees it."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with closing(store.client()) as client:
        head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    names = ("ContentType", "Metadata", "ChecksumSHA256", "ETag")
    return {name: head.get(name) for name in names} | {"body": hashlib.sha256(body).hexdigest()}


# A real store ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300_000, 40_000_000])
async def test_an_image_is_put_and_proved_without_the_sdk_and_is_what_the_sdk_would_have_put(
    direct: Probed, store: Seaweed, tmp_path: Path, size: int
) -> None:
    item = spooled(tmp_path, "2026/03/09/job-1!~.png", os.urandom(size), ref="two  spaces, = and (more)!")
    stored = await direct.archive.put(item)
    assert direct.by_sdk == []
    client = Client(uploads=1, environ=store.environment())
    async with aclosing(S3Archive(store.bucket, f"sdk/{size}", client=client, uploads=1)) as by_sdk:
        other = await by_sdk.put(replace(item, key=f"{os.urandom(6).hex()}.png"))
    assert kept(store, stored.uri) == kept(store, other.uri)
    assert (stored.etag, stored.version) == (other.etag, other.version)


async def test_puts_go_on_directly_while_the_store_is_probed_again(direct: Probed, tmp_path: Path) -> None:
    during: list[object] = []

    def put_meanwhile(request: AWSRequest, **_: object) -> None:
        if request.context.get("is_presign_request") and not during:
            item = spooled(tmp_path, "a.png")
            with SpoolFile(item) as file:
                at = Address(direct.bucket, f"{os.urandom(6).hex()}.png")
                during.append(direct.client.put_directly(at, file))

    direct.client.sdk.meta.events.register("before-sign.s3.PutObject", put_meanwhile)
    await direct.archive.probe()
    assert during[0] is not None


async def test_a_probe_that_ends_after_the_close_opens_nothing(direct: Probed, tmp_path: Path) -> None:
    await direct.archive.aclose()
    at, item = Address(direct.bucket, "late.png"), spooled(tmp_path, "late.png")
    direct.client.open_direct(at)
    with SpoolFile(item) as file:
        assert direct.client.put_directly(at, file) is None


async def test_the_version_of_an_object_is_recorded(tmp_path: Path) -> None:
    with seaweed() as store, closing(store.client()) as client:
        client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
        opened = await probed(store.environment(), store.bucket, "")
        async with aclosing(opened.archive) as archive:
            stored = await archive.put(spooled(tmp_path, "a.png"))
            assert opened.by_sdk == []
            assert stored.version is not None
            assert (await archive.inspect(stored)).stored == stored


async def test_bytes_that_are_not_what_was_verified_are_refused(direct: Probed, tmp_path: Path) -> None:
    item = spooled(tmp_path, "a.png")
    item.path.write_bytes(item.path.read_bytes()[::-1])
    with pytest.raises(SpoolError, match=r"^spool\.lost"):
        await direct.archive.put(item)
    assert [page async for page in direct.archive.entries()] == []


async def test_an_object_that_is_there_is_recognised_or_left_alone(direct: Probed, tmp_path: Path) -> None:
    item = spooled(tmp_path, "a.png")
    first = await direct.archive.put(item)
    assert await direct.archive.put(item) == first
    assert "PutObject" in direct.by_sdk  # whose answer decides
    with pytest.raises(ArchiveError, match=r"^archive\.occupied"):
        await direct.archive.put(spooled(tmp_path, "a.png"))


async def test_connections_that_the_store_has_closed_are_replaced(tmp_path: Path) -> None:
    with seaweed() as store:
        opened = await probed(store.environment(), store.bucket, "")
        async with aclosing(opened.archive) as archive:
            await archive.put(spooled(tmp_path, "a.png"))
            store.kill()
            store.start()
            await archive.put(spooled(tmp_path, "b.png"))
            assert opened.by_sdk == []


# A stand-in ------------------------------------------------------------------------------------------------


@pytest.fixture
def fake() -> Iterator[Standin]:
    with standin() as fake:
        yield fake


def senders(fake: Standin) -> list[tuple[str, str]]:
    """The method of each request, and who sent it."""
    return [
        (method, "SDK" if "amz-sdk-request" in headers else "direct") for method, _, headers in fake.requests
    ]


@pytest.mark.parametrize("answer", [(503, "SlowDown"), (403, "AccessDenied"), (307, "TemporaryRedirect")])
async def test_whatever_is_no_success_is_sent_again_by_the_sdk_which_then_puts_alone(
    fake: Standin, tmp_path: Path, answer: tuple[int, str]
) -> None:
    opened = await probed(fake.environment(), "bucket", "prefix")
    async with aclosing(opened.archive) as archive:
        fake.requests.clear()
        await archive.put(spooled(tmp_path, "a.png"))
        fake.faults = [answer]
        await archive.put(spooled(tmp_path, "b.png"))
        await archive.put(spooled(tmp_path, "c.png"))
    assert senders(fake) == [
        ("PUT", "direct"),
        ("HEAD", "direct"),
        ("PUT", "direct"),
        *[("PUT", "SDK"), ("HEAD", "SDK")] * 2,
    ]


async def test_a_put_that_the_sdk_goes_on_with_is_no_attempt_more(fake: Standin, tmp_path: Path) -> None:
    opened = await probed(fake.environment(), "bucket", "prefix")
    async with aclosing(opened.archive) as archive:
        fake.requests.clear()
        fake.always = (503, "SlowDown")
        with pytest.raises(ArchiveError, match=r"^archive\.unavailable: .* 503 SlowDown"):
            await archive.put(spooled(tmp_path, "a.png"))
        assert senders(fake) == [("PUT", "direct"), ("PUT", "SDK"), ("PUT", "SDK")]
        fake.requests.clear()
        with pytest.raises(ArchiveError):
            await archive.put(spooled(tmp_path, "b.png"))
        assert senders(fake) == [("PUT", "SDK")] * 3


async def test_an_error_is_the_sdks_and_quotes_no_secret(fake: Standin, tmp_path: Path) -> None:
    opened = await probed(fake.environment(), "bucket", "prefix")
    async with aclosing(opened.archive) as archive:
        fake.always = (403, "AccessDenied")
        with pytest.raises(ArchiveError) as caught:
            await archive.put(spooled(tmp_path, "a.png"))
    assert caught.value.detail == "s3://bucket/prefix/a.png: PutObject was answered 403 AccessDenied."


@pytest.mark.parametrize(("name", "value"), [("sha256", "ignore"), ("conditional", "ignore")])
async def test_a_store_that_does_not_check_is_left_to_the_sdk(
    fake: Standin, tmp_path: Path, name: str, value: str
) -> None:
    opened = await probed(fake.environment(), "bucket", "prefix")
    async with aclosing(opened.archive) as archive:
        setattr(fake, name, value)
        await archive.probe()
        fake.requests.clear()
        await archive.put(spooled(tmp_path, "a.png"))
    assert {sender for _, sender in senders(fake)} == {"SDK"}


async def test_an_object_that_was_cut_is_replaced(fake: Standin, tmp_path: Path) -> None:
    opened = await probed(fake.environment(), "bucket", "prefix")
    async with aclosing(opened.archive) as archive:
        fake.cut = 10
        item = spooled(tmp_path, "a.png")
        await archive.put(item)
    assert fake.objects["/bucket/prefix/a.png"][0] == item.path.read_bytes()


# Answers, byte by byte -------------------------------------------------------------------------------------

WRITTEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FOUND = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nx-amz-checksum-sha256: abc\r\n\r\n"


@dataclass
class Script:
    """Answers requests with bytes as they are: with none it closes, and for ``None`` it stays silent."""

    answers: list[bytes | None]
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    port: int = 0


@contextlib.contextmanager
def scripted(*answers: bytes | None) -> Iterator[Script]:
    script = Script(list(answers))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            script.connections += 1
            with contextlib.suppress(ConnectionError):
                while lines := list(itertools.takewhile(bytes.strip, self.rfile)):
                    head = b"".join(lines).decode()
                    script.heads.append(head)
                    length = head.lower().partition("content-length: ")[2].split("\r\n")[0]
                    self.rfile.read(int(length or 0))
                    answer = script.answers.pop(0)
                    if answer == b"":
                        break
                    self.wfile.write(answer or b"")
            script.ended.release()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        script.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield script
        finally:
            server.shutdown()


PRESIGNED = (
    "http://127.0.0.1:{port}/bucket/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260309T000000Z"
    "&X-Amz-Credential=AKID%2F20260309%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Expires=300"
    "&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
)


def put(direct: DirectPut, item: SpooledImage) -> dict[str, object] | None:
    with SpoolFile(item) as file:
        head = direct.put(item.key, file)
    return None if head is None else dict(head)


@contextlib.contextmanager
def opened(
    script: Script,
    credentials: Credentials | None = None,
    monotonic: Callable[[], float] = lambda: 0.0,
    answer_seconds: int = 30,
) -> Iterator[DirectPut]:
    direct = DirectPut(
        PRESIGNED.format(port=script.port),
        "a",
        credentials or Credentials("AKID", "a-secret"),
        None,
        monotonic=monotonic,
        answer_seconds=answer_seconds,
    )
    with closing(direct):
        yield direct


@pytest.fixture
def item(tmp_path: Path) -> SpooledImage:
    return spooled(tmp_path, "b.png", b"four")


@pytest.mark.parametrize(
    "answers",
    [
        [b""],
        [b"HTTP/1.1 200 OK\r\nContent-Le", b""],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + WRITTEN],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nError"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nError\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\n"],
        [b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"],
        [b"x: y\r\n" * 20_000],
        [b"nonsense"],
        [WRITTEN + b"HTTP/1.1 200 OK\r\n"],
        [WRITTEN, b""],
        [WRITTEN, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"],
        [WRITTEN, b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\n"],
        [WRITTEN, b"HTTP/1.1 200 OK\r\n\r\n"],
    ],
)
def test_what_is_no_plain_success_is_left_to_the_sdk_on_a_connection_of_its_own(
    item: SpooledImage, answers: list[bytes]
) -> None:
    now = 0.0
    with scripted(*answers) as script, opened(script, monotonic=lambda: now, answer_seconds=1) as direct:
        assert put(direct, item) is None
        script.ended.acquire()  # the connection was closed
        script.answers[:] = [WRITTEN, FOUND]
        now = PAUSE_SECONDS - 1
        assert direct.paused
        now = PAUSE_SECONDS
        assert not direct.paused
        assert put(direct, item) == {"ContentLength": 4, "ChecksumSHA256": "abc"}
        assert script.connections == 2


def test_a_store_that_does_not_answer_is_waited_for_so_long_and_no_longer(item: SpooledImage) -> None:
    with scripted(None) as script, opened(script, answer_seconds=1) as direct:
        assert put(direct, item) is None


def test_a_store_that_is_not_there_is_left_to_the_sdk(item: SpooledImage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = Script([], port=server.getsockname()[1])
    with opened(script) as direct:
        assert put(direct, item) is None


def test_a_file_that_has_become_shorter_is_left_to_the_sdk(item: SpooledImage) -> None:
    with scripted(WRITTEN, FOUND) as script, opened(script) as direct, SpoolFile(item) as file:
        item.path.write_bytes(b"fou")
        assert direct.put(item.key, file) is None


def test_a_connection_is_kept_until_the_store_or_the_archive_closes_it(item: SpooledImage) -> None:
    closing_it = FOUND.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with scripted(WRITTEN, FOUND, WRITTEN, closing_it, WRITTEN, FOUND) as script:
        with opened(script) as direct:
            assert put(direct, item)
            assert put(direct, item)
            assert script.connections == 1
            assert put(direct, item)
            assert script.connections == 2
        script.ended.acquire()
        script.ended.acquire()


def test_each_request_is_signed_with_the_credentials_of_its_moment(item: SpooledImage) -> None:
    names = iter("12345678")

    def renewed() -> dict[str, str]:
        number = next(names)
        return {
            "access_key": f"AKID{number}",
            "secret_key": "a-secret",
            "token": f"token{number}",
            "expiry_time": (datetime.now(UTC) + timedelta(seconds=1)).isoformat(),
        }

    credentials = RefreshableCredentials.create_from_metadata(renewed(), renewed, "test")
    with scripted(WRITTEN, FOUND) as script, opened(script, credentials) as direct:
        assert put(direct, item)
    for number, head in enumerate(script.heads, start=2):
        assert f"Credential=AKID{number}/" in head
        assert f"x-amz-security-token: token{number}\r\n" in head
        assert "/eu-west-1/s3/aws4_request, SignedHeaders=" in head
        assert "a-secret" not in head


def test_credentials_that_cannot_be_renewed_leave_a_put_to_the_sdk_and_no_connection(
    item: SpooledImage,
) -> None:
    def refused() -> dict[str, str]:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRole")

    credentials = RefreshableCredentials("AKID", "a-secret", "token", datetime.now(UTC), refused, "test")
    with scripted() as script, opened(script, credentials) as direct:
        assert put(direct, item) is None
        script.ended.acquire()
    assert script.heads == []


@pytest.mark.parametrize(
    "change",
    [
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),  # of several regions at once
        ("SignedHeaders=host", "SignedHeaders=host%3Bx-amz-request-payer"),
        ("&X-Amz-Expires", "&X-Amz-S3session-Token=token&X-Amz-Expires"),  # S3 Express
        ("%2Fs3%2F", "%2Fs3-object-lambda%2F"),
        ("http://", "http://user:password@"),
        ("/a?", "/a%20b?"),
        ("X-Amz-Credential", "AWSAccessKeyId"),  # Signature Version 2
    ],
)
def test_what_the_sdk_does_in_another_way_is_left_to_it(change: tuple[str, str]) -> None:
    presigned = PRESIGNED.format(port=1)
    credentials = Credentials("AKID", "a-secret")
    DirectPut(presigned, "a", credentials, None).close()
    with pytest.raises((ValueError, LookupError)):
        DirectPut(presigned.replace(*change), "a", credentials, None)


def test_a_store_behind_a_proxy_is_left_to_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    with pytest.raises(ValueError, match="plain request"):
        DirectPut(
            PRESIGNED.format(port=1).replace("127.0.0.1", "store.example"), "a", Credentials("A", "s"), None
        )


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "cn-north-1"])
def test_in_each_region_of_aws_the_endpoint_is_the_one_that_the_sdk_puts_to(region: str) -> None:
    sent = []

    def stop(request: AWSPreparedRequest, **_: object) -> None:
        sent.append(request.url.partition("?")[0])
        raise EndpointConnectionError(endpoint_url=request.url)

    environ = {"AWS_REGION": region, "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "a-secret"}
    with closing(Client(uploads=1, environ=environ)) as client:
        client.sdk.meta.events.register("before-send.s3.PutObject", stop)
        at = {"Bucket": "bucket", "Key": "a"}
        with pytest.raises(EndpointConnectionError):
            client.sdk.put_object(**at)  # type: ignore[arg-type]
        presigned = client.sdk.generate_presigned_url("put_object", Params=at)
    assert presigned.partition("?")[0] in sent
    assert f"%2F{region}%2Fs3%2F" in presigned


def test_the_host_is_named_without_a_default_port_as_by_the_sdk(item: SpooledImage) -> None:
    presigned = PRESIGNED.format(port=80)
    with scripted(WRITTEN, FOUND) as script, closing(OnPort80(script.port, presigned)) as direct:
        assert put(direct, item)
    assert all("\r\nhost: 127.0.0.1\r\n" in head for head in script.heads)


class OnPort80(DirectPut):
    """Puts to what stands for a store on port 80, which a test may not open."""

    def __init__(self, port: int, presigned: str) -> None:
        super().__init__(presigned, "a", Credentials("AKID", "a-secret"), None)
        self._address = "127.0.0.1", port
