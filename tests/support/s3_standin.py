"""A small S3 store for the faults that a real one does not produce on demand, on a loopback port."""

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme


@dataclass
class Standin:
    """What the store holds, what it was asked, and which faults it has.

    Attributes:
        faults: answers (status, error code) to the next PUTs; the object is not kept.
        always: the answer to each PUT, as long as it is set; status 0 drops the connection instead.
        refused: a part of the keys whose PUTs are answered 403.
        lost: how many of the next PUTs are kept and then answered with 500.
        conditional, sha256: "honour", "ignore" or "refuse" of If-None-Match and x-amz-checksum-sha256.
            Conditional writes that hold "apart" do so one after another, and not at once, as Swift 2.38.3's;
            a SHA-256 that it has an "echo" of is kept and not checked, as by rclone serve s3 1.75.
        if_match: "honour", "ignore" or "refuse" of If-Match.
        metadata: how names of metadata come back: "same", "Title" (as from rclone) or "none" (JuiceFS).
        checksum_mode: whether HEAD takes x-amz-checksum-mode.
        presigned: whether it takes URLs with a signature, as pys3local does not.
        listing: of a list with a token to it; "no token" and "same token" never come to their end.
        cut: the bytes that are kept of the next PUT before its connection breaks, as s3rver does.
        corrupt: whether what is read differs from what was written.
        deletes, lists: whether DELETE, or to list, is allowed.
        hides: whether it says "forbidden" of what is not there.
        connections: how many were opened so far.
        ahead: seconds by which its clock is ahead of ours.
        modified: when all its objects were written, as it says; a Last-Modified stays what it was.
    """

    url: str = ""
    ca_bundle: Path | None = None
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    always: tuple[int, str] | None = None
    refused: str | None = None
    lost: int = 0
    conditional: str = "honour"
    sha256: str = "honour"
    if_match: str = "honour"
    metadata: str = "same"
    checksum_mode: bool = True
    presigned: bool = True
    listing: str = "whole"
    cut: int | None = None
    corrupt: bool = False
    deletes: bool = True
    lists: bool = True
    hides: bool = False
    connections: int = 0
    ahead: float = 0
    modified: float = field(default_factory=time.time)
    lock: threading.Lock = field(default_factory=threading.Lock)
    arrivals: dict[str, threading.Barrier] = field(default_factory=dict)

    def taken(self, key: str) -> bool:
        """Whether a key is taken; where that holds "apart", told to two writers at once before either."""
        with self.lock:
            if key in self.objects or self.conditional != "apart":
                return key in self.objects
            arrived = self.arrivals.setdefault(key, threading.Barrier(2))
        with contextlib.suppress(threading.BrokenBarrierError):  # nobody else came, or more than two
            arrived.wait(timeout=0.2)
        return False

    def environment(self) -> dict[str, str]:
        verify = {"AWS_CA_BUNDLE": str(self.ca_bundle)} if self.ca_bundle else {}
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIDSTANDIN",
            "AWS_SECRET_ACCESS_KEY": "standin-secret",
            **verify,
        }

    def put(self, key: str, body: bytes, headers: dict[str, str], *, taken: bool) -> tuple[int, str]:
        """The status and error code of a PUT."""
        refusal = self._refusal(key, body, headers, taken=taken)
        if refusal is not None:
            return refusal
        kept = {
            name: value
            for name, value in headers.items()
            if name.startswith("x-amz-meta-") or name == "content-type"
        }
        announced = headers.get("x-amz-checksum-sha256")
        if announced and self.sha256 in ("honour", "echo"):
            kept["x-amz-checksum-sha256"] = announced
        if self.metadata == "Title":
            kept = {name.title(): value for name, value in kept.items()}
        elif self.metadata == "none":
            kept = {name: value for name, value in kept.items() if not name.startswith("x-amz-meta-")}
        if self.cut is not None:
            self.objects[key], self.cut = (body[: self.cut], kept), None
            return 0, ""
        self.objects[key] = (body, kept)
        if self.lost:
            self.lost -= 1
            return 500, "InternalError"
        return 200, ""

    def _refusal(
        self, key: str, body: bytes, headers: dict[str, str], *, taken: bool
    ) -> tuple[int, str] | None:
        if self.always is not None:
            return self.always
        if self.refused is not None and self.refused in key:
            return 403, "AccessDenied"
        if self.faults:
            return self.faults.pop(0)
        if "content-length" not in headers:
            return 411, "MissingContentLength"
        announced, md5 = headers.get("x-amz-checksum-sha256"), headers.get("content-md5")
        if announced and self.sha256 == "refuse":
            return 400, "InvalidRequest"
        false = announced and self.sha256 == "honour" and announced != _base64(hashlib.sha256(body).digest())
        if false or (md5 and md5 != _base64(hashlib.md5(body).digest())):
            return 400, "BadDigest"
        condition, wanted = headers.get("if-none-match"), headers.get("if-match")
        if (condition and self.conditional == "refuse") or (wanted and self.if_match == "refuse"):
            return 501, "NotImplemented"
        taken |= self.conditional == "honour" and key in self.objects
        changed = wanted and self.if_match == "honour" and wanted != etag(self.objects[key][0])
        return (412, "PreconditionFailed") if (condition and taken) or changed else None


@contextlib.contextmanager
def standin(folder: Path | None = None) -> Iterator[Standin]:
    """Runs the store on a free port until the block ends; over TLS if given a folder for its certificates."""
    store = Standin()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store))
    scheme = "http"
    if folder is not None:
        scheme = "https"
        authority = trustme.CA()
        store.ca_bundle = folder / "standin-ca.pem"
        authority.cert_pem.write_to_path(str(store.ca_bundle))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    store.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(store: Standin) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            with store.lock:
                store.connections += 1
            super().setup()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + store.ahead)

        def log_message(self, *arguments: Any) -> None:
            """Tests read `Standin.requests` instead."""

        def answer(self, status: int, code: str = "", body: bytes = b"", **headers: str) -> None:
            if code:
                body = f"<Error><Code>{code}</Code><Message>secret words</Message></Error>".encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def note(self) -> str:
            key = self.path.partition("?")[0]
            store.requests.append((self.command, key, {n.lower(): v for n, v in self.headers.items()}))
            return key

        def do_PUT(self) -> None:
            name = self.path.partition("?")[0]
            taken = "if-none-match" in self.headers and store.conditional == "apart" and store.taken(name)
            with store.lock:
                key = self.note()
                headers = store.requests[-1][2]
                body = self.rfile.read(int(headers.get("content-length", "0")))
                self.close_connection = "content-length" not in headers
                status, code = store.put(key, body, headers, taken=taken)
            if status == 0:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.answer(status, code, ETag=etag(body))

        def do_GET(self) -> None:
            with store.lock:
                key = self.note()
                found = store.objects.get(key)
                asked = parse_qs(urlsplit(self.path).query)
                listed = sorted(key for key in store.objects if key.startswith(f"{self.path.split('?')[0]}/"))
            if "list-type" in asked:
                self.list(asked, listed)
            elif "X-Amz-Signature" in asked and not store.presigned:
                self.answer(403, "AccessDenied")
            elif "x-amz-checksum-mode" in self.headers and not store.checksum_mode:
                self.answer(400, "InvalidArgument")
            elif found is None:
                self.answer(*((403, "AccessDenied") if store.hides else (404, "NoSuchKey")))
            else:
                body = bytes(byte ^ 1 for byte in found[0]) if store.corrupt else found[0]
                modified = self.date_time_string(store.modified)
                self.answer(200, "", body, ETag=etag(found[0]), Last_Modified=modified, **found[1])

        def list(self, asked: dict[str, list[str]], paths: list[str]) -> None:
            if not store.lists:
                self.answer(403, "AccessDenied")
                return
            (prefix,) = asked["prefix"]
            keys = [key for path in paths if (key := path.split("/", 2)[2]).startswith(prefix)]
            shown = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
            if store.listing != "whole":
                shown += "<IsTruncated>true</IsTruncated>"
            if store.listing == "same token":
                shown += "<NextContinuationToken>again</NextContinuationToken>"
            self.answer(200, "", f"<ListBucketResult>{shown}</ListBucketResult>".encode())

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            with store.lock:
                key = self.note()
                if store.deletes:
                    store.objects.pop(key, None)
            self.answer(*((204, "") if store.deletes else (403, "AccessDenied")))

    return Handler


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
