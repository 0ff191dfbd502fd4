"""Thousands of archived jobs made quickly: a ledger by its own verbs, and their objects past the archive.

What is put here is what `receiver.archive` puts, byte for byte, less its proofs and its fsyncs.
"""

import asyncio
import base64
import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from receiver.archive import metadata
from receiver.archive.base import SpooledImage
from receiver.core.completion import Completion
from receiver.core.jobs import Image, StoredObject
from receiver.ledger import Delivery, Ledger
from tests.support.clock import HOUR, NOW, SECOND, Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.processes import run, run_process
from tests.support.seaweed import Seaweed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONCURRENCY = 16


@dataclass(frozen=True)
class Sample:
    """One archived job and its bytes."""

    job_id: str
    ref: str | None
    received_at: int
    content: bytes

    @property
    def image(self) -> Image:
        return Image("png", 64, 48, len(self.content), hashlib.sha256(self.content).hexdigest())

    @property
    def key(self) -> str:
        return f"{self._received:%Y/%m/%d}/{self.job_id}.png"

    def metadata(self) -> dict[str, str]:
        return metadata.write(
            SpooledImage(self.job_id, Path(), self.image, self.key, self.ref, self._received)
        )

    @property
    def _received(self) -> datetime:
        return datetime.fromtimestamp(self.received_at / 1000, UTC)


def make_samples(count: int, seed: int = 1) -> list[Sample]:
    """So many jobs of the last weeks, oldest first; every third has a ref, some of them in other scripts."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        ref = [None, f"order {number}", None][number % 3]
        content = b"\x89PNG\r\n\x1a\n" + dice.randbytes(dice.randrange(100, 1500))
        made.append(
            Sample(f"{number:05}-{dice.randbytes(6).hex()}", ref, NOW + number * 600 * SECOND, content)
        )
    return made


async def fill(data: Path, images: Sequence[Sample], stored: Mapping[str, StoredObject]) -> None:
    """Makes a ledger in which each job is archived where it is stored."""
    clock = Clock()
    ledger = await Ledger.serve(make_empty_ledger(data), now=clock, monotonic=Clock(0))
    by_id = {sample.job_id: sample for sample in images}
    try:
        for sample in images:
            clock.now = sample.received_at
            said = Completion(sample.job_id, "https://host/1.png", None, 64, 48)
            await ledger.record(Delivery(said, b"{}", clock.now + HOUR, sample.ref))
        claims = await ledger.claim_to_fetch(len(images), again=0, lease=HOUR)
        await asyncio.gather(
            *(ledger.fetched(each, by_id[each.job.id].image, f"{each.job.id}.spool") for each in claims)
        )
        claims = await ledger.claim_to_archive(len(images), lease=HOUR)
        await asyncio.gather(*(ledger.archived(each, stored[each.job.id]) for each in claims))
    finally:
        await ledger.close()


class Bucket:
    """A prefix of a real store, past the archive.

    Args:
        store: the server.
        prefix: without a slash at its end.
    """

    def __init__(self, store: Seaweed, prefix: str) -> None:
        self.uri = f"s3://{store.bucket}/{prefix}"
        self._store, self._prefix = store, prefix

    def client(self) -> "S3Client":
        return self._store.client()

    def put_all(self, images: Iterable[Sample]) -> dict[str, StoredObject]:
        """Puts every job's object; gives where."""
        with closing(self.client()) as client, ThreadPoolExecutor(CONCURRENCY) as pool:
            put = list(pool.map(lambda one: (one.job_id, self.put(one, client=client)), images))
        return dict(put)

    def put(
        self,
        sample: Sample,
        *,
        client: "S3Client",
        key: str | None = None,
        content: bytes | None = None,
        metadata: Mapping[str, str] | None = None,
        checksum: bool = True,
    ) -> StoredObject:
        """Puts a job's object, or something else in its stead."""
        body = sample.content if content is None else content
        said = (
            {"ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode()} if checksum else {}
        )
        answer = client.put_object(
            Bucket=self._store.bucket,
            Key=f"{self._prefix}/{key or sample.key}",
            Body=body,
            ContentType="image/png",
            Metadata=dict(sample.metadata() if metadata is None else metadata),
            **said,  # type: ignore[arg-type]
        )
        return StoredObject(f"{self.uri}/{key or sample.key}", answer["ETag"].strip('"'))

    def delete(self, sample: Sample, *, client: "S3Client") -> None:
        client.delete_object(Bucket=self._store.bucket, Key=f"{self._prefix}/{sample.key}")

    def read(self, sample: Sample, *, client: "S3Client") -> bytes:
        key = f"{self._prefix}/{sample.key}"
        return client.get_object(Bucket=self._store.bucket, Key=key)["Body"].read()


def lay_out(root: Path, images: Iterable[Sample]) -> dict[str, StoredObject]:
    """A folder archive with every job's file and what lies beside it; gives where."""
    stored = {}
    for sample in images:
        path = root / sample.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.content)
        path.with_name(f".{path.name}.json").write_text(json.dumps(sample.metadata()))
        stored[sample.job_id] = StoredObject(path.as_uri())
    return stored


@dataclass
class JsonOutput:
    """The output of a command with ``--json``."""

    code: int
    errors: str
    findings: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def of(self, reason: str) -> list[str]:
        """The jobs, or else the objects, with this reason."""
        return sorted(one["job"] or one["uri"] for one in self.findings if one["reason"] == reason)


def run_json(
    arguments: Sequence[str], folder: Path, values: Mapping[str, str], under: Sequence[str] = ()
) -> JsonOutput:
    """Run a command with ``--json`` to its end."""
    run_it = partial(run_process, under=under) if under else run
    done = run_it([*arguments, "--json"], folder, values)
    assert "Traceback" not in done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    summary = lines.pop()["summary"] if lines else {}
    return JsonOutput(done.returncode, done.stderr, lines, summary)


def filled(data: Path, images: Sequence[Sample], stored: Mapping[str, StoredObject]) -> None:
    """`fill` in a new folder, for tests without an event loop."""
    data.mkdir(parents=True, exist_ok=True)
    asyncio.run(fill(data, images, stored))
