"""PutObject and HeadObject on kept sockets, for as long as the store answers with plain success.

For each of the two requests the SDK takes more than a millisecond of CPU. It still resolves the endpoint, the
region and the credentials. It also gets every case that is not plain success: it sends the request again, and
its answer counts.
"""

import base64
import hashlib
import hmac
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import reduce
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, quote, urlsplit

from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from receiver.archive import metadata
from receiver.archive.spool_file import BLOCK, SpoolFile

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef as Head

CONNECT_SECONDS = 5
ANSWER_SECONDS = 30
"""For each read and write; the SDK has the same limits."""

PAUSE_SECONDS = 60.0
"""How long all puts are left to the SDK after one had to be. Where no success is plain, one image a minute is
sent twice, and not every image."""

MAX_ANSWER = 65536
"""Bytes of an answer."""

EMPTY = hashlib.sha256().hexdigest()

PLAIN = {"Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Security-Token", "Signature"}
"""The parameters of a plain presigned URL, without ``X-Amz-``. S3 Express, for example, has others."""

FIELDS = {"ETag": "etag", "ChecksumSHA256": "x-amz-checksum-sha256", "VersionId": "x-amz-version-id"}
"""The headers that prove an object, by the SDK's names for them."""


class DirectPut:
    """Puts images below a prefix, from any thread.

    ``presigned`` is the URL by which the SDK would put an object of this ``key``. ``credentials`` are the
    SDK's, which renew themselves. ``ca_bundle`` is the file of certificates that prove the store's name, or
    ``None`` for the SDK's own. ``answer_seconds`` is the longest wait of one read or write. Raise
    `ValueError` or `LookupError` where the SDK would not send a plain request straight to the store,
    `OSError` where the certificates cannot be read.
    """

    def __init__(
        self,
        presigned: str,
        key: str,
        credentials: Credentials,
        ca_bundle: str | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        answer_seconds: int = ANSWER_SECONDS,
    ) -> None:
        url = urlsplit(presigned)
        asked = {name.removeprefix("X-Amz-"): value for name, (value,) in parse_qs(url.query).items()}
        scope = asked["Credential"].split("/")[-3:]
        plain = (
            asked.keys() <= PLAIN
            and (asked["Algorithm"], asked["SignedHeaders"]) == ("AWS4-HMAC-SHA256", "host")
            and scope[1:] == ["s3", "aws4_request"]
            and url.path.endswith(_quoted(key))
            and "@" not in url.netloc
            and not get_environ_proxies(presigned)
        )
        if not plain or url.hostname is None:
            raise ValueError("The SDK would not send a plain request.")
        self._context: ssl.SSLContext | None = None
        if url.scheme == "https":
            self._context = ssl.create_default_context(cafile=ca_bundle or get_cert_path(verify=True))
        port = 443 if self._context else 80
        self._address = url.hostname, url.port or port
        self._host = url.netloc.removesuffix(f":{port}")  # as the SDK sends and signs it
        self._base = url.path.removesuffix(_quoted(key))
        self._region = scope[0]
        self._credentials = credentials
        self._monotonic = monotonic
        self._answer_seconds = answer_seconds
        self._paused_until = 0.0
        self._idle: list[socket.socket] = []
        self._closed = False

    @property
    def paused(self) -> bool:
        return self._monotonic() < self._paused_until

    def put(self, key: str, file: SpoolFile) -> "Head | None":
        """Put an image where nothing is, and return what the store then says of the object.

        ``None``: that was no plain success. The SDK must do it again, whatever became of the object.
        """
        connection = None
        try:
            connection = self._connection()
            version = self._put(connection, key, file)
            target = self._base + _quoted(key) + (f"?versionId={quote(version, safe='')}" if version else "")
            connection.sendall(self._head("HEAD", target, EMPTY, {"x-amz-checksum-mode": "ENABLED"}))
            answer = _answer(connection)
            head: dict[str, Any] = {"ContentLength": int(answer["content-length"])}
        except (OSError, ValueError, LookupError, BotoCoreError, ClientError):
            self._paused_until = self._monotonic() + PAUSE_SECONDS
            if connection is not None:
                connection.close()
            return None
        if answer.get("connection", "").lower() == "close":
            connection.close()
        else:
            self._idle.append(connection)
            if self._closed:
                self.close()
        return cast("Head", head | {name: answer[each] for name, each in FIELDS.items() if each in answer})

    def close(self) -> None:
        """Close the connections: those in use at the end of their put."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _put(self, connection: socket.socket, key: str, file: SpoolFile) -> str | None:
        image = file.item.image
        headers = {f"x-amz-meta-{name}": value for name, value in metadata.write(file.item).items()} | {
            "content-length": str(image.bytes),
            "content-type": image.content_type,
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(image.sha256)).decode(),
        }
        # The signed checksum covers the body. Over TLS the SDK does not sign the body once more either.
        body = "UNSIGNED-PAYLOAD" if self._context else image.sha256
        connection.sendall(self._head("PUT", self._base + _quoted(key), body, headers))
        sent = 0
        if self._context is None:
            while left := image.bytes - sent:
                if not (count := os.sendfile(connection.fileno(), file.fileno(), sent, left)):
                    break
                sent += count
        else:
            file.seek(0)
            block = memoryview(bytearray(min(BLOCK, image.bytes)))
            while sent < image.bytes and (count := file.readinto(block)):
                connection.sendall(block[:count])
                sent += count
        if sent != image.bytes:
            raise ValueError("The file has another length by now.")
        answer = _answer(connection)
        if answer["content-length"] != "0":
            raise ValueError("The answer has a body.")
        return answer.get("x-amz-version-id")

    def _connection(self) -> socket.socket:
        with suppress(IndexError):
            while True:
                kept = self._idle.pop()
                readable = select.poll()
                readable.register(kept, select.POLLIN)
                if not readable.poll(0):
                    return kept
                kept.close()  # the store has closed it
        connection = socket.create_connection(self._address, CONNECT_SECONDS)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_hostname=self._address[0])
                connection.settimeout(self._answer_seconds)
            else:
                # Limits of the kernel, so that one call sends a whole file. Python's limits make it wait and
                # send block by block.
                connection.settimeout(None)
                for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                    connection.setsockopt(
                        socket.SOL_SOCKET, limit, struct.pack("ll", self._answer_seconds, 0)
                    )
        except BaseException:
            connection.close()
            raise
        return connection

    def _head(self, method: str, target: str, body: str, headers: Mapping[str, str]) -> bytes:
        """Return a request up to its body, signed by AWS Signature Version 4."""
        credentials = self._credentials.get_frozen_credentials()
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = {**headers, "host": self._host, "x-amz-content-sha256": body, "x-amz-date": now}
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        signed = sorted(headers.keys() - {"content-length"})  # some servers keep it apart from all others
        names, scope = ";".join(signed), f"{now[:8]}/{self._region}/s3/aws4_request"
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in signed)
        path, _, query = target.partition("?")
        request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{body}"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = reduce(
            lambda secret, part: hmac.digest(secret, part.encode(), "sha256"),
            [*scope.split("/"), text],
            f"AWS4{credentials.secret_key}".encode(),
        ).hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},"
            f" SignedHeaders={names}, Signature={signature}"
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} {target} HTTP/1.1\r\n{head}user-agent: upscale-receiver\r\n\r\n".encode()


def _answer(connection: socket.socket) -> Mapping[str, str]:
    """Return the headers of plain success, by their names in lower case. Raise ValueError for all else."""
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER:
        if not (block := connection.recv(MAX_ANSWER)):
            break
        answer += block
    head, end, more = answer.decode("latin-1").partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if not status.startswith("HTTP/1.1 200 ") or "transfer-encoding" in headers or not end or more:
        raise ValueError("This is not plain success.")
    return headers


def _quoted(key: str) -> str:
    return quote(key, safe="/~")
