"""Terraform files and the rights in them, held against what the program asks of a store."""

import fnmatch
import functools
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hcl2
import httpx
import pytest

from receiver.archive.base import Depth
from receiver.archive.factory import open_archive
from receiver.archive.s3.archive import S3Archive
from receiver.core.errors import ArchiveError
from tests.support.items import spooled
from tests.support.seaweed import Seaweed, seaweed

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/terraform"
BUCKET = "arn:aws:s3:::archive"

NEEDS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}
"""The right that each operation needs, by Amazon's "Required permissions for Amazon S3 API operations"."""


def policy() -> dict[str, Any]:
    """The rights, as Terraform fills them in."""
    text = (FOLDER / "policy.json.tftpl").read_text()
    for name, value in {"bucket_arn": BUCKET, "images": "upscaled", "ledger": "ledger"}.items():
        text = text.replace(f"${{{name}}}", value)
    assert "${" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def allows(action: str, resource: str, *, prefix: str | None = None) -> bool:
    """Whether a statement of the policy allows this; they have no denials and one kind of condition."""
    for statement in policy()["Statement"]:
        assert statement["Effect"] == "Allow"
        prefixes = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if (
            action in listed(statement["Action"])
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
            and (prefixes is None or any(fnmatch.fnmatchcase(prefix or "", pattern) for pattern in prefixes))
        ):
            return True
    return False


@dataclass(frozen=True)
class Asked:
    """One request that the program made of the store."""

    operation: str
    key: str
    version: str | None


def needed(asked: Asked) -> str:
    right = NEEDS[asked.operation]
    return f"{right}Version" if asked.version and right == "s3:GetObject" else right


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


@pytest.fixture
async def asked(store: Seaweed, tmp_path: Path) -> set[Asked]:
    """All that the archive asks of a bucket with versions: probe, put, put again, list, look, read."""
    client = store.client()
    client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    archive = open_archive(f"s3://{store.bucket}/upscaled", environ=store.environment())
    assert isinstance(archive, S3Archive)
    seen: set[Asked] = set()

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        seen.add(Asked(model.name, params.get("Key", params.get("Prefix", "")), params.get("VersionId")))

    archive._client.sdk.meta.events.register("before-parameter-build.s3", note)
    try:
        await archive.probe()
        item = spooled(tmp_path, f"2026/11/24/{tmp_path.name}.png")
        stored = await archive.put(item)
        assert stored.version
        assert await archive.put(item) == stored
        other = spooled(tmp_path, item.key)
        with pytest.raises(ArchiveError, match="other bytes"):
            await archive.put(other)
        # What audit, rebuild, migrate and the status page do.
        assert [entry async for page in archive.entries() for entry in page]
        await archive.inspect(stored, Depth.DEEP)
        await archive.local_file(stored, item.image, tmp_path / "spare")
        url = await archive.locate(stored, item.image)
        key = item.key
        # The link's own request is made by whoever follows it, with the rights of who signed it.
        seen.add(Asked("GetObject", f"upscaled/{key}", stored.version))
        assert httpx.URL(url).params["versionId"] == stored.version
    finally:
        await archive.aclose()
    return seen


async def test_the_policy_allows_all_that_the_archive_asks(asked: set[Asked]) -> None:
    assert {each.operation for each in asked} == {*NEEDS}
    refused = {
        each
        for each in asked
        if not (
            allows("s3:ListBucket", BUCKET, prefix=each.key)
            if each.operation == "ListObjectsV2"
            else allows(needed(each), f"{BUCKET}/{each.key}")
        )
    }
    assert refused == set()


async def test_the_policy_allows_the_images_nothing_that_the_archive_does_not_ask(asked: set[Asked]) -> None:
    used = {needed(each) for each in asked}
    for action, key in itertools.product(
        ["s3:PutObject", "s3:GetObject", "s3:GetObjectVersion", "s3:DeleteObject"],
        ["upscaled/2026/11/24/job.png", "upscaled/.receiver-probe/x"],
    ):
        wanted = action in used and (action != "s3:DeleteObject" or "probe" in key)
        assert allows(action, f"{BUCKET}/{key}") == wanted, (action, key)


@pytest.mark.parametrize(
    ("action", "resource", "prefix"),
    [
        ("s3:PutObject", f"{BUCKET}/elsewhere/x", None),
        ("s3:GetObject", f"{BUCKET}/elsewhere/x", None),
        ("s3:DeleteObject", f"{BUCKET}/upscaled/job.png", None),
        ("s3:DeleteObjectVersion", f"{BUCKET}/upscaled/job.png", None),
        ("s3:DeleteObjectVersion", f"{BUCKET}/ledger/x", None),
        ("s3:ListBucket", BUCKET, ""),
        ("s3:ListBucket", BUCKET, "elsewhere/"),
        ("s3:PutBucketPolicy", BUCKET, None),
        ("s3:PutBucketVersioning", BUCKET, None),
        ("s3:PutLifecycleConfiguration", BUCKET, None),
    ],
)
def test_the_policy_allows_nothing_else(action: str, resource: str, prefix: str | None) -> None:
    assert not allows(action, resource, prefix=prefix)


def test_the_policy_lets_litestream_do_its_work() -> None:
    for action in ("s3:PutObject", "s3:GetObject", "s3:DeleteObject"):
        assert allows(action, f"{BUCKET}/ledger/0000/x.ltx")
    assert allows("s3:ListBucket", BUCKET, prefix="ledger/0000/")
    assert allows("s3:ListBucket", BUCKET, prefix="upscaled/2026/")


# The files themselves -----------------------------------------------------------------------------------


def bare(value: Any) -> Any:
    """What stands in a file, without the reader's own marks and quotes."""
    if isinstance(value, dict):
        return {bare(k): bare(v) for k, v in value.items() if not str(k).startswith("__")}
    if isinstance(value, list):
        return [bare(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


@functools.cache
def files() -> dict[str, Any]:
    return {path.name: bare(hcl2.loads(path.read_text())) for path in sorted(FOLDER.glob("*.tf"))}


def resources() -> dict[tuple[str, str], Any]:
    return {
        (kind, name): body
        for file in files().values()
        for block in file.get("resource", [])
        for kind, named in block.items()
        for name, body in named.items()
    }


def resource(kind: str) -> Any:
    (found,) = (body for (of, _), body in resources().items() if of == kind)
    return found


def test_every_reference_leads_somewhere() -> None:
    text = "\n".join(path.read_text() for path in FOLDER.glob("*.tf"))
    variables = {name for file in files().values() for block in file.get("variable", []) for name in block}
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    for kind, name in set(re.findall(r"\b(aws_\w+)\.(\w+)", text)):
        assert (kind, name) in resources()


def test_the_bucket_is_private_encrypted_and_keeps_what_is_deleted() -> None:
    block = resource("aws_s3_bucket_public_access_block")
    assert [block[name] for name in block if name.startswith(("block_", "ignore_", "restrict_"))] == [
        True
    ] * 4
    assert resource("aws_s3_bucket_versioning")["versioning_configuration"] == [{"status": "Enabled"}]
    (rule,) = resource("aws_s3_bucket_server_side_encryption_configuration")["rule"]
    assert rule["apply_server_side_encryption_by_default"] == [{"sse_algorithm": "AES256"}]
    (controls,) = resource("aws_s3_bucket_ownership_controls")["rule"]
    assert controls["object_ownership"] == "BucketOwnerEnforced"


def test_no_lifecycle_rule_ends_an_image_that_is_there() -> None:
    rules = resource("aws_s3_bucket_lifecycle_configuration")["rule"]
    assert {rule["id"] for rule in rules} == {"forget-what-was-deleted", "probes", "images-to-standard-ia"}
    for rule in rules:
        for expiration in rule.get("expiration", []):
            if "days" in expiration:
                assert rule["filter"] == [{"prefix": "${var.images}/.receiver-probe/"}]


def test_the_template_gets_every_value_that_it_asks_for() -> None:
    call = resource("aws_iam_policy")["policy"]
    wanted = set(re.findall(r"\$\{(\w+)\}", (FOLDER / "policy.json.tftpl").read_text()))
    assert all(re.search(rf"\b{name}\b", str(call)) for name in wanted)
