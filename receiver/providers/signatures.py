"""Proofs of deliveries that several providers use. Every refusal is the same, whatever its cause."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, NoReturn

from receiver.core.clock import Clock, milliseconds
from receiver.core.errors import AuthError, ConfigError
from receiver.core.headers import RawHeaders, single
from receiver.providers.base import DeliveryProof, Proof

TOLERANCE = timedelta(minutes=5)
"""How much older or newer than now a signature may be."""

MAX_SIGNATURES = 16
"""Signatures of one header that are compared: providers send one for each of two or three keys."""

PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_-]+)\}")
"""A name in a text, for what stands there."""

_MAX_STAMP = 16
"""Digits of a time; beyond them its meaning is in doubt, and Python may take long."""


def refuse() -> NoReturn:
    """Raise the one refusal of all wrong, old and missing proofs."""
    raise AuthError("auth.refused")


def check_time(stamp: bytes, now: int, tolerance: timedelta = TOLERANCE, unit: int = 1000) -> None:
    """Refuse a time since the epoch, in whole units of so many ms, that is further than the tolerance from
    ``now`` (ms).
    """
    if (
        not stamp.isdigit()
        or len(stamp) > _MAX_STAMP
        or abs(now - int(stamp) * unit) > milliseconds(tolerance)
    ):
        refuse()


def key_of(secret: str) -> bytes:
    """Return the key of a secret of Standard Webhooks: base64, with or without ``whsec_`` before it.

    Raises:
        ValueError: it is none; the message does not hold it.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("must be whsec_ and base64")
    return key


KeyForm = Literal["text", "text-after-whsec", "base64", "whsec"]
"""How a key is read from a secret: its own bytes; the bytes behind ``whsec_``; base64, with or without
``whsec_`` before it; base64 behind ``whsec_``."""


def keys_of(setting: str, secrets: Sequence[str], forms: Sequence[KeyForm]) -> list[bytes]:
    """Return the keys of all secrets of a setting, each in all forms that it has.

    Raises:
        ConfigError: one has none of the forms; the setting is named, and the secret is not.
    """
    keys = []
    for secret in secrets:
        found = [key for form in forms if (key := _key(secret, form))]
        if not found:
            raise ConfigError(f"{setting}: has a value that is no key of the form {' or '.join(forms)}")
        keys += found
    return keys


def _key(secret: str, form: KeyForm) -> bytes:
    if form == "text":
        return secret.encode()
    if form == "text-after-whsec":
        return secret.removeprefix("whsec_").encode()
    try:
        return key_of(secret) if form == "base64" or secret.startswith("whsec_") else b""
    except ValueError:
        return b""


def _decoded(encoding: str, value: bytes) -> list[bytes]:
    try:
        if encoding == "base64":
            return [base64.b64decode(value, validate=True)]
        return [bytes.fromhex(value.decode("ascii"))]
    except ValueError:
        return []


@dataclass(eq=False)
class SharedHeader(DeliveryProof):
    """A header that holds one of several secrets."""

    name: str
    accepted: Sequence[bytes] = field(repr=False)

    def __post_init__(self) -> None:
        self.names = (self.name,)

    def admit(self, headers: RawHeaders) -> Proof:
        given, proved = single(headers).get(self.name.encode(), b""), False
        for secret in self.accepted:
            proved |= hmac.compare_digest(given, secret)
        if not proved:
            refuse()
        return Proof()

    def headers_for(self, body: bytes) -> Mapping[str, bytes]:  # noqa: ARG002 - it is the same for all
        return {self.name: self.accepted[0]}


@dataclass(eq=False, kw_only=True)
class SignedTemplate(DeliveryProof):
    """A signature of a text, in a header with blanks between several.

    Attributes:
        header: in lower case, as all names.
        encoding: ``hex`` or ``base64``.
        prefix: of each signature.
        signed: the text, with names in braces for what stands there: of a header, ``body``, or ``sha256``,
            which is the body's hex digest.
        now: ms since the epoch.
        time: the header of the time, if there is one.
        unit: of that time, in ms.
        any_label: whether any text before a comma is taken for the prefix.
    """

    header: str
    encoding: str = "hex"
    prefix: str = ""
    signed: str
    now: Clock
    time: str | None = None
    tolerance: timedelta = TOLERANCE
    unit: int = 1000
    any_label: bool = False

    def __post_init__(self) -> None:
        parts = [part.lower() if at % 2 else part for at, part in enumerate(PLACEHOLDER.split(self.signed))]
        self.names = (self.header, *(name for name in parts[1::2] if name not in ("body", "sha256")))
        self._needed = [name.encode() for name in self.names]
        self._parts = [part.encode() for part in parts]

    def admit(self, headers: RawHeaders) -> None:
        self.signatures(headers)

    def signatures(self, headers: RawHeaders) -> tuple[dict[bytes, bytes], Sequence[bytes]]:
        """Return the headers, and the signatures in them; refuse where one is missing, or the time is old."""
        given = single(headers)
        signatures: list[bytes] = []
        prefix = self.prefix.encode()
        for token in given.get(self.header.encode(), b"").split()[:MAX_SIGNATURES]:
            if self.any_label:
                label, _, value = token.partition(b",")
                signatures += _decoded(self.encoding, value) if label and value else ()
            elif token.startswith(prefix):
                signatures += _decoded(self.encoding, token[len(prefix) :])
        if not signatures or not all(map(given.get, self._needed)):
            refuse()
        if self.time is not None:
            check_time(given.get(self.time.encode(), b""), self.now(), self.tolerance, self.unit)
        return given, signatures

    def message(self, given: Mapping[bytes, bytes], body: bytes) -> bytes:
        found = self._parts.copy()
        for at in range(1, len(found), 2):
            if found[at] == b"body":
                found[at] = body
            elif found[at] == b"sha256":
                found[at] = hashlib.sha256(body).hexdigest().encode()
            else:
                found[at] = given[found[at]]
        return b"".join(found)


@dataclass(eq=False, kw_only=True)
class HmacSha256(SignedTemplate):
    """HMAC-SHA-256 over a template by any of the keys."""

    keys: Sequence[bytes] = field(repr=False)

    def check(self, headers: RawHeaders, body: bytes) -> Proof:
        given, signatures = self.signatures(headers)
        message, proved = self.message(given, body), False
        for key in self.keys:
            expected = hmac.digest(key, message, hashlib.sha256)
            for signature in signatures:
                proved |= hmac.compare_digest(expected, signature)
        if not proved:
            refuse()
        return Proof()

    def headers_for(self, body: bytes) -> Mapping[str, bytes]:
        """Return the headers of a body that the first key signs; what they name beside a time is made up."""
        given = {name.encode(): secrets.token_hex(8).encode() for name in self.names}
        if self.time is not None:
            given[self.time.encode()] = str(self.now() // 1000).encode()
        signature = hmac.digest(self.keys[0], self.message(given, body), hashlib.sha256)
        text = base64.b64encode(signature) if self.encoding == "base64" else signature.hex().encode()
        found = {name.decode(): value for name, value in given.items()}
        return {**found, self.header: self.prefix.encode() + text}


class StandardWebhooks(HmacSha256):
    """The proof of https://www.standardwebhooks.com: HMAC-SHA-256 over ``ID.TIMESTAMP.BODY``.

    Any key proves a delivery, so that keys can be replaced, and any label before a signature's comma is
    taken: providers use other versions than ``v1``, also for the versions of a secret. The id may come again:
    a repeated delivery changes nothing in the ledger. `key_of` reads a key. ``prefix`` is of the headers.
    """

    def __init__(
        self, keys: Sequence[bytes], now: Clock, prefix: str = "webhook", tolerance: timedelta = TOLERANCE
    ) -> None:
        super().__init__(
            header=f"{prefix}-signature",
            encoding="base64",
            prefix="v1,",
            signed=f"{{{prefix}-id}}.{{{prefix}-timestamp}}.{{body}}",
            now=now,
            time=f"{prefix}-timestamp",
            tolerance=tolerance,
            any_label=True,
            keys=keys,
        )
        self.names = (f"{prefix}-id", f"{prefix}-timestamp", f"{prefix}-signature")
