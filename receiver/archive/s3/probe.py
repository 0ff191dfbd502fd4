"""Finds out what a store honours, with small objects below ``.receiver-probe/``."""

import hashlib
import secrets
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import httpx

from receiver.archive import metadata
from receiver.archive.base import ProbeResult
from receiver.archive.s3.client import Address, Client, answer_behind, base64_of, metadata_of
from receiver.core.errors import ArchiveError

CLOCK_SECONDS = 60.0
"""By how much the store's clock may differ. Its signatures allow 15 minutes, the deadlines of URLs less."""

PRESIGNED_TIMEOUT = 5.0
"""Seconds to connect to the host of a presigned URL, and between two reads there."""

WRITERS = 4
"""How many write to one key at once."""

ROUNDS = 5
"""How often they do. Of 20 rounds, Swift 2.38 let several of four writers win in 12, and in 19."""

METADATA = {"job-id": "probe", "received-at": "1970-01-01T00:00:00Z", "ref": " é / % " + "r" * 180}
"""Names and values such as a put writes."""

DETAILS = {
    "conditional-writes": (
        "A key that is taken is not overwritten.",
        "If-None-Match is ignored or refused: each put asks first whether the key is free.",
    ),
    "simultaneous-writes": (
        "Of several writes to one key at once, one succeeds.",
        "Of several writes to one key at once, more than one succeeds: the last one overwrites the others.",
    ),
    "metadata": (
        "Metadata come back as they were written.",
        "Metadata do not come back: `rebuild` cannot work with this store, and `audit` faults each object.",
    ),
    "sha256": (
        "Bytes that differ from their SHA-256 are refused.",
        "SHA-256 is ignored or refused: each file is hashed again here, and sent with its MD5.",
    ),
    "checksum-kept": (
        "The store's own SHA-256 proves each object.",
        "The store keeps no SHA-256 that it has checked: each object is read again whole to prove it.",
    ),
    "delete": (
        "The probe's objects were removed.",
        "Nothing may be deleted: the probe's small objects stay under .receiver-probe/.",
    ),
}
"""What was found, where the store honours it and where it does not."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Whether the store honours ``If-None-Match: *`` and checks an announced SHA-256."""

    conditional: bool = True
    sha256: bool = True


def probe(client: Client, below: Address) -> tuple[Capabilities, tuple[ProbeResult, ...]]:
    """Try what a put relies on, with objects whose keys begin with ``below``. Raise `ArchiveError` where the
    store cannot be used as it is.
    """
    at = Address(below.bucket, f"{below.key}.receiver-probe/{secrets.token_hex(8)}")
    content = secrets.token_bytes(64)
    written = [at]
    simultaneous = True
    try:
        capabilities = _negotiate(client, at, content)
        if capabilities.conditional and not _refuses(client, at, content[::-1], capabilities):
            capabilities = replace(capabilities, conditional=False)
            _write(client, at, content, capabilities)
        if capabilities.sha256:
            written.append(Address(at.bucket, f"{at.key}-false"))
            unconditional = Capabilities(conditional=False)
            if not _refuses(client, written[-1], content, unconditional, announced=content[::-1]):
                capabilities = replace(capabilities, sha256=False)
        if client.sha256(at) != hashlib.sha256(content).hexdigest():
            raise ArchiveError("archive.unproved", f"{at} reads otherwise than written.", permanent=True)
        head = client.head(at)
        presigned = _try_presigned(client, at, content)
        if capabilities.conditional:
            written += (races := [Address(at.bucket, f"{at.key}-{n}") for n in range(ROUNDS)])
            simultaneous = all(_one_write_wins(client, race, capabilities) for race in races)
    finally:
        deleted = [_try_to_delete(client, address) for address in written]
    checksum = head.get("ChecksumSHA256")
    kept = _result("checksum-kept", bool(checksum))
    if checksum and not capabilities.sha256:
        detail = "The store repeats an announced SHA-256 even if it is false, so it proves nothing:"
        kept = ProbeResult("checksum-kept", False, f"{detail} each object is read again whole.")
    return capabilities, (
        ProbeResult("write", True, f"Objects are written to {str(below).rstrip('/')}."),
        ProbeResult("read-back", True, "What is read is what was written."),
        _result("conditional-writes", capabilities.conditional),
        *([_result("simultaneous-writes", simultaneous)] if capabilities.conditional else []),
        _result("sha256", capabilities.sha256),
        kept,
        _result("metadata", METADATA.items() <= metadata_of(head).items()),
        presigned,
        _result("delete", all(deleted)),
        *_clock(client.clock_offset),
    )


def _negotiate(client: Client, at: Address, content: bytes) -> Capabilities:
    """Write with everything, then with less and less, until the store accepts it."""
    refusals: list[ArchiveError] = []
    for conditional in (True, False):
        for sha256 in (True, False):
            capabilities = Capabilities(conditional, sha256)
            try:
                _write(client, at, content, capabilities)
            except ArchiveError as error:
                # Stores answer so to an unknown header; no other refusal goes away with less.
                if answer_behind(error)[0] not in {400, 501}:
                    raise
                refusals.append(error)
            else:
                return capabilities
    raise refusals[0]


def _refuses(
    client: Client, at: Address, content: bytes, capabilities: Capabilities, *, announced: bytes | None = None
) -> bool:
    """Whether the store refuses a write that it must refuse; raises if it fails for another reason."""
    try:
        _write(client, at, content, capabilities, announced=announced)
    except ArchiveError as error:
        if answer_behind(error)[0] not in {400, 409, 412}:
            raise
        return True
    return False


def _write(
    client: Client, at: Address, content: bytes, capabilities: Capabilities, *, announced: bytes | None = None
) -> None:
    arguments = {"IfNoneMatch": "*"} if capabilities.conditional else {}
    if capabilities.sha256:
        arguments["ChecksumSHA256"] = base64_of(hashlib.sha256(announced or content).digest())
    else:
        arguments["ContentMD5"] = base64_of(hashlib.md5(content, usedforsecurity=False).digest())
    client.put(
        at,
        content,
        ContentType="application/octet-stream",
        Metadata=metadata.encode_all(METADATA),
        **arguments,
    )


def _one_write_wins(client: Client, at: Address, capabilities: Capabilities) -> bool:
    ready = threading.Barrier(WRITERS)

    def write(_: int) -> bool:
        ready.wait()
        try:
            _write(client, at, secrets.token_bytes(64), capabilities)
        except ArchiveError:
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(write, range(WRITERS))) <= 1


def _try_presigned(client: Client, at: Address, content: bytes) -> ProbeResult:
    """Read an object as a person does who was sent there."""
    url = client.presign(at)
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=client.verify) if isinstance(client.verify, str) else True
    try:
        with httpx.stream("GET", url, verify=context, timeout=PRESIGNED_TIMEOUT) as answer:
            works = answer.status_code == 200 and next(answer.iter_raw(len(content) + 1), b"") == content
            how = "works" if works else f"is answered {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        works, how = False, f"is not answered ({type(error).__name__})"
    detail = f"A presigned URL to {parts.scheme}://{parts.netloc} {how}"
    effect = "." if works else ": nobody gets an image by `GET /jobs/ID/image`."
    return ProbeResult("presigned-urls", works, detail + effect)


def _try_to_delete(client: Client, at: Address) -> bool:
    try:
        client.delete(at)
    except ArchiveError:  # the rights to write and read are enough
        return False
    return True


def _clock(offset: float | None) -> tuple[ProbeResult, ...]:
    if offset is None:
        return ()
    if abs(offset) < CLOCK_SECONDS:
        return (ProbeResult("clock", True, "The store's clock agrees with this machine's."),)
    side = "ahead of" if offset > 0 else "behind"
    detail = f"The store's clock is {abs(offset):.0f} seconds {side} this machine's."
    return (ProbeResult("clock", False, detail),)


def _result(name: str, honoured: bool) -> ProbeResult:  # noqa: FBT001 - it is the result
    return ProbeResult(name, honoured, DETAILS[name][0 if honoured else 1])
