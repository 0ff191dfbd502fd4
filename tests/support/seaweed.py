"""A real S3 server for tests: SeaweedFS from its wheel, over TLS and plain HTTP, on ports of its own.

with seaweed() as store:
    archive = open_archive(f"s3://{store.bucket}/prefix", environ=store.environment())
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import trustme
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READY_WITHIN = 60.0
"""Seconds for the server to answer; it takes about one."""


@dataclass
class Seaweed:
    """One server, running or killed; its objects outlive `kill` and stand again after `start`."""

    folder: Path
    ports: dict[str, int]
    bucket: str = "archive"
    access_key: str = "test"
    secret_key: str = "testsecret"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _session: boto3.session.Session = field(default_factory=boto3.session.Session, repr=False)

    @property
    def https_url(self) -> str:
        return f"https://127.0.0.1:{self.ports['s3.port.https']}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    @property
    def ca_bundle(self) -> Path:
        return self.folder / "ca.pem"

    def environment(self, *, tls: bool = True) -> dict[str, str]:
        """The AWS SDK's own variables that lead to this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.https_url if tls else self.http_url,
            "AWS_CA_BUNDLE": str(self.ca_bundle),
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def start(self) -> None:
        """Starts the server and returns when its bucket answers; raises RuntimeError if it ends instead."""
        command = [
            f"{sysconfig.get_path('scripts')}/weed",
            "mini",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-bucket={self.bucket}",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",  # on by default, and it leaves the machine
            "-s3.autoCreateBucket=false",  # a missing bucket is an error, as at other stores
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.cert.file={self.folder / 'tls.crt'}",
            f"-s3.key.file={self.folder / 'tls.key'}",
            f"-s3.localSocket={self.folder / 's3.sock'}",
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "HOME": str(self.folder),
                    "TMPDIR": str(self.folder),
                    "AWS_ACCESS_KEY_ID": self.access_key,
                    "AWS_SECRET_ACCESS_KEY": self.secret_key,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, so that one signal ends all of it
            )
        deadline = time.monotonic() + READY_WITHIN
        with contextlib.closing(self.client()) as client:
            while not _has_bucket(client, self.bucket):  # which comes a moment after the port
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"SeaweedFS did not start:\n{self.log()[-4000:]}")
                time.sleep(0.05)

    def kill(self) -> None:
        """Ends the server's whole process group at once, as a crash would."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        for port in self.ports.values():  # weed puts these there whatever TMPDIR says, and a kill leaves them
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + 10_000}.sock"):
                left.unlink(missing_ok=True)

    def log(self) -> str:
        return (self.folder / "weed.log").read_text(errors="replace")

    def client(self) -> "S3Client":
        """A client of the server's own, for tests to look behind the archive's back; the caller closes it."""
        client: S3Client = self._session.client(
            "s3",
            endpoint_url=self.https_url,
            verify=str(self.ca_bundle),
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
        )
        return client


@contextlib.contextmanager
def seaweed(bucket: str = "archive") -> Iterator[Seaweed]:
    """Runs a server in a temporary folder; ends it and removes the folder on the way out."""
    folder = Path(tempfile.mkdtemp(prefix="weed-"))  # short: a socket's path may have 108 bytes only
    (folder / "data").mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(str(folder / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    store = Seaweed(folder, {}, bucket=bucket)
    try:
        for attempt in range(3):
            store.ports = _free_ports()
            try:
                store.start()
                break
            except RuntimeError:  # another process may have taken a port between the look and the start
                if attempt == 2:
                    raise
        yield store
    finally:
        store.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _has_bucket(client: "S3Client", bucket: str) -> bool:
    try:
        client.head_bucket(Bucket=bucket)
    except (ClientError, BotoCoreError):
        return False
    return True


def _free_ports() -> dict[str, int]:
    """A free port for each listener; weed also takes each one's port + 10000 for gRPC."""
    names = ["s3.port", "s3.port.https", "master.port", "volume.port", "filer.port", "admin.port"]
    ports: list[int] = []
    while len(ports) < len(names):
        # Both this port and its twin stay below 32768, where Linux begins to hand out ports by itself.
        port = random.randrange(12_000, 22_000)
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return dict(zip(names, ports, strict=True))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
