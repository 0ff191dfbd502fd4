"""The whole chain into a real S3 store over TLS; what its refusals and a large image do to the receiver."""

import base64
import hashlib
import os
import re
import ssl
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from receiver.sandbox.pictures import draw
from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import PROOF, Programs, ReceiverProcess, Sandbox, completion, settings
from tests.support.seaweed import Seaweed, seaweed

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


@pytest.fixture
def values(programs: Programs, store: Seaweed) -> dict[str, str]:
    """Settings of a receiver that archives into a prefix of this test's own."""
    archive = f"s3://{store.bucket}/{programs.folder.name}"
    return settings(programs.folder, RECEIVER_ARCHIVE=archive, **store.environment())


def kept(store: Seaweed, job: Any) -> Any:
    """The job's object, as an independent client sees it."""
    bucket, _, key = job["archive"]["uri"].removeprefix("s3://").partition("/")
    client = store.client()
    try:
        head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        return {**head, "Body": client.get_object(Bucket=bucket, Key=key)["Body"].read()}
    finally:
        client.close()


def test_an_upscaled_image_is_proved_in_the_bucket_and_had_through_a_presigned_url(
    programs: Programs, values: dict[str, str], store: Seaweed, box: Sandbox
) -> None:
    source = {"_base64": base64.b64encode(draw(5, SIZE, "png-alpha")).decode()}
    with programs.receiver(values) as receiver:
        job_id = box.submit(
            source, receiver.webhook, "early", headers={**PROOF, "X-Receiver-Ref": "order 77"}
        )
        job = receiver.ended(job_id)
        found = receiver.get(f"/jobs/{job_id}/image")

    offered = httpx.get(box.record(job_id)["_upscaled_image_url"], trust_env=False).content
    digest = hashlib.sha256(offered)
    assert job["state"] == "archived"
    assert job["image"]["sha256"] == digest.hexdigest()

    there = kept(store, job)
    assert there["Body"] == offered
    assert there["ContentType"] == "image/png"
    assert there["ChecksumSHA256"] == base64.b64encode(digest.digest()).decode()
    assert there["ETag"].strip('"') == job["archive"]["etag"]
    metadata = there["Metadata"]
    assert metadata.pop("received-at")[:19] == job["received_at"][:19]
    assert metadata == {
        "job-id": job_id,
        "ref": "order 77",
        "sha256": digest.hexdigest(),
        "width": str(SIZE[0] * 2),
        "height": str(SIZE[1] * 2),
        "provider": "ximilar",
    }

    assert found.status_code == 302
    assert found.headers["cache-control"] == "no-store"
    trusting = ssl.create_default_context(cafile=str(store.ca_bundle))
    redirected = httpx.get(found.headers["location"], trust_env=False, verify=trusting).raise_for_status()
    assert redirected.content == offered
    assert redirected.headers["content-type"] == "image/png"
    assert store.secret_key not in receiver.program.log


@pytest.mark.parametrize(
    "refusing",
    [
        ({"AWS_SECRET_ACCESS_KEY": "canary-of-a-wrong-secret"}, "archive.denied"),
        ({"RECEIVER_ARCHIVE": "s3://no-such-bucket"}, "archive.no_bucket"),
        ({"AWS_ENDPOINT_URL_S3": "https://127.0.0.1:9"}, "archive.unavailable"),
    ],
    ids=["wrong secret", "no bucket", "nobody there"],
)
def test_while_the_archive_refuses_deliveries_are_acknowledged_and_readiness_names_it(
    programs: Programs,
    values: dict[str, str],
    hosted: str,
    store: Seaweed,
    refusing: tuple[dict[str, str], str],
) -> None:
    wrong, reason = refusing
    with programs.receiver(values | wrong) as receiver:
        refused = receiver.program.until_event("archive refuses; uploads pause")
        assert refused["reason"] == reason
        assert receiver.deliver(completion("waits", hosted, *SIZE)).status_code == 200
        receiver.program.until_event("fetched", job="waits")

        ready = httpx.get(f"{receiver.address}/readyz", trust_env=False)
        assert ready.status_code == 503
        assert list(ready.json()["failing"]) == ["archive"]
        assert ready.json()["failing"]["archive"].startswith(f"{reason}: ")
        assert "s3:" not in ready.text  # it is asked without a token
        assert "127.0.0.1" not in ready.text
        assert httpx.get(f"{receiver.address}/healthz", trust_env=False).status_code == 200
        waiting = receiver.job("waits")
        assert waiting["state"] == "fetched"
        assert receiver.get("/stats").json()["spool_bytes"] == waiting["image"]["bytes"]
        assert "canary-of-a-wrong-secret" not in receiver.program.log + ready.text
        assert receiver.program.stop()[0] == 0

    with programs.receiver(values) as mended:
        job = mended.ended("waits")
        assert job["state"] == "archived"
        assert hashlib.sha256(kept(store, job)["Body"]).hexdigest() == waiting["image"]["sha256"]
        assert mended.get("/readyz").status_code == 200


def test_a_store_that_comes_back_takes_what_waited_without_a_restart(
    programs: Programs, hosted: str, picture: bytes
) -> None:
    with seaweed() as store:
        values = settings(programs.folder, RECEIVER_ARCHIVE=f"s3://{store.bucket}", **store.environment())
        with programs.receiver(values) as receiver:
            receiver.program.until_event("archive probed")
            store.kill()
            receiver.deliver(completion("outlives", hosted, *SIZE)).raise_for_status()
            receiver.program.until_event("archive refuses; uploads pause")
            store.start()

            job = receiver.ended("outlives")
            assert job["state"] == "archived"
            assert kept(store, job)["Body"] == picture


def test_memory_does_not_grow_with_the_size_of_an_image(
    programs: Programs, values: dict[str, str], store: Seaweed, near: Neighbour, picture: bytes
) -> None:
    side = 4730
    noise = BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(noise, "PNG", compress_level=0)
    large = noise.getvalue()
    assert len(large) > 64 * MIB
    with programs.receiver_process(values) as receiver:
        receiver.deliver(completion("small", near.serve(picture, "small"), *SIZE))
        assert receiver.ended("small")["state"] == "archived"
        before = highest_memory(receiver)

        receiver.deliver(completion("large", near.serve(large, "large"), side, side))
        job = receiver.ended("large")
        grown = highest_memory(receiver) - before

    assert job["state"] == "archived"
    assert job["image"]["sha256"] == hashlib.sha256(large).hexdigest()
    assert kept(store, job)["ContentLength"] == len(large)
    assert grown < 24 * MIB


def highest_memory(receiver: ReceiverProcess) -> int:
    """The most that the server's own process, its decoders aside, has held so far; bytes."""
    status = Path(f"/proc/{receiver.program.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
