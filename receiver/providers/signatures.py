"""Proofs over the raw body that several providers use. Every refusal is the same, whatever its cause."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, NoReturn

from receiver.core.clock import Clock, milliseconds
from receiver.core.errors import AuthError
from receiver.core.headers import RawHeaders, single

TOLERANCE = timedelta(minutes=5)
"""How much older or newer than now a signature may be."""

MAX_SIGNATURES = 16
"""Signatures of one header that are compared: providers send one for each of two or three keys."""

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


@dataclass(frozen=True, slots=True)
class StandardWebhooks:
    """The proof of https://www.standardwebhooks.com: HMAC-SHA-256 over ``ID.TIMESTAMP.BODY``.

    Any key proves a delivery, so that keys can be replaced, and any label before a signature's comma is
    taken: providers use other versions than ``v1``, also for the versions of a secret. The id may come again:
    a repeated delivery changes nothing in the ledger.

    Attributes:
        keys: the bytes of each key; `key_of` reads ``whsec_…``.
        now: ms since the epoch.
        prefix: of the header names.
        tolerance: how much older or newer than now a signature may be.
    """

    keys: Sequence[bytes] = field(repr=False)
    now: Clock
    prefix: str = "webhook"
    tolerance: timedelta = TOLERANCE

    @property
    def names(self) -> Sequence[str]:
        """The headers that prove a delivery."""
        return tuple(f"{self.prefix}-{end}" for end in ("id", "timestamp", "signature"))

    def admit(self, headers: RawHeaders) -> None:
        """Refuse headers that no body could make a proof."""
        self._parts(headers)

    def check(self, headers: RawHeaders, body: bytes) -> None:
        """Refuse a body that none of the keys has signed. All are compared, whatever the first gave."""
        head, signatures = self._parts(headers)
        proved = False
        for key in self.keys:
            expected = hmac.digest(key, head + body, hashlib.sha256)
            for given in signatures:
                proved |= hmac.compare_digest(expected, given)
        if not proved:
            refuse()

    def headers_for(self, body: bytes) -> Mapping[str, bytes]:
        """Return the headers of a body that the first key signs."""
        identifier, stamp = f"msg_{secrets.token_hex(16)}", str(self.now() // 1000)
        signature = hmac.digest(self.keys[0], f"{identifier}.{stamp}.".encode() + body, hashlib.sha256)
        values = (identifier.encode(), stamp.encode(), b"v1," + base64.b64encode(signature))
        return dict(zip(self.names, values, strict=True))

    def _parts(self, headers: RawHeaders) -> tuple[bytes, Sequence[bytes]]:
        """Return what is signed before the body, and the signatures that are given."""
        given = single(headers)
        name = self.prefix.encode("ascii")
        identifier, stamp, text = (
            given.get(name + end, b"") for end in (b"-id", b"-timestamp", b"-signature")
        )
        signatures = []
        for token in text.split()[:MAX_SIGNATURES]:
            label, comma, value = token.partition(b",")
            if label and comma and value:
                signatures += _decoded(value)
        if not identifier or not signatures:
            refuse()
        check_time(stamp, self.now(), self.tolerance)
        return b".".join((identifier, stamp, b"")), signatures


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


def keys_of(secrets: Sequence[str], forms: Sequence[KeyForm]) -> list[bytes]:
    """Return the keys of all secrets, each in all forms that it has.

    Raises:
        ValueError: one has none of the forms; the message does not hold it.
    """
    keys = []
    for secret in secrets:
        found = [key for form in forms if (key := _key(secret, form))]
        if not found:
            raise ValueError(f"has a value that is no key of the form {' or '.join(forms)}")
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


def _decoded(value: bytes) -> list[bytes]:
    try:
        return [base64.b64decode(value, validate=True)]
    except ValueError:
        return []


@dataclass(frozen=True, slots=True)
class SharedHeader:
    """A header that holds one of several secrets. All are compared, whatever the first gave."""

    name: str
    accepted: Sequence[bytes] = field(repr=False)

    @property
    def names(self) -> Sequence[str]:
        """The headers that prove a delivery."""
        return (self.name,)

    def admit(self, headers: RawHeaders) -> None:
        """Refuse headers that hold none of the secrets."""
        given, proved = single(headers).get(self.name.encode(), b""), False
        for secret in self.accepted:
            proved |= hmac.compare_digest(given, secret)
        if not proved:
            refuse()

    def check(self, headers: RawHeaders, body: bytes) -> None:  # noqa: ARG002 - the headers are the proof
        self.admit(headers)

    def headers_for(self, body: bytes) -> Mapping[str, bytes]:  # noqa: ARG002 - it is the same for all
        """Return the header with the first secret."""
        return {self.name: self.accepted[0]}


@dataclass(frozen=True, slots=True)
class Template:
    """What is signed, and the header in which signatures stand, with blanks between them.

    Attributes:
        header: in lower case, as all names.
        encoding: ``hex`` or ``base64``.
        prefix: of each signature.
        parts: texts, and between them the names of what stands there: of a header, ``body``, or ``sha256``,
            which is the body's hex digest.
        now: ms since the epoch.
        time: the header of the time, if there is one.
        unit: of that time, in ms.
    """

    header: str
    encoding: str
    prefix: str
    parts: Sequence[str]
    now: Clock
    time: str | None = None
    tolerance: timedelta = TOLERANCE
    unit: int = 1000

    @property
    def names(self) -> Sequence[str]:
        """The headers that prove a delivery."""
        return (self.header, *(name for name in self.parts[1::2] if name not in ("body", "sha256")))

    def signatures(self, headers: RawHeaders) -> tuple[dict[bytes, bytes], Sequence[bytes]]:
        """Return the headers, and the signatures in them; refuse where one is missing, or the time is old."""
        given = single(headers)
        signatures: list[bytes] = []
        for token in given.get(self.header.encode(), b"").split()[:MAX_SIGNATURES]:
            if token.startswith(self.prefix.encode()):
                signatures += self._decoded(token[len(self.prefix.encode()) :])
        if not signatures or not all(given.get(name.encode()) for name in self.names):
            refuse()
        if self.time is not None:
            check_time(given.get(self.time.encode(), b""), self.now(), self.tolerance, self.unit)
        return given, signatures

    def message(self, given: Mapping[bytes, bytes], body: bytes) -> bytes:
        """Return what is signed."""
        own = {"body": body, "sha256": hashlib.sha256(body).hexdigest().encode()}
        return b"".join(
            (own[part] if part in own else given[part.encode()]) if number % 2 else part.encode()
            for number, part in enumerate(self.parts)
        )

    def _decoded(self, text: bytes) -> list[bytes]:
        if self.encoding == "base64":
            return _decoded(text)
        try:
            return [bytes.fromhex(text.decode("ascii"))]
        except ValueError:
            return []


@dataclass(frozen=True, slots=True)
class HmacSha256:
    """HMAC-SHA-256 over a template by any of the keys. All are compared, whatever the first gave."""

    template: Template
    keys: Sequence[bytes] = field(repr=False)

    @property
    def names(self) -> Sequence[str]:
        """The headers that prove a delivery."""
        return self.template.names

    def admit(self, headers: RawHeaders) -> None:
        """Refuse headers that no body could make a proof."""
        self.template.signatures(headers)

    def check(self, headers: RawHeaders, body: bytes) -> None:
        """Refuse a body that none of the keys has signed."""
        given, signatures = self.template.signatures(headers)
        message, proved = self.template.message(given, body), False
        for key in self.keys:
            expected = hmac.digest(key, message, hashlib.sha256)
            for signature in signatures:
                proved |= hmac.compare_digest(expected, signature)
        if not proved:
            refuse()

    def headers_for(self, body: bytes) -> Mapping[str, bytes]:
        """Return the headers of a body that the first key signs; what they name beside a time is made up."""
        template = self.template
        given = {name.encode(): secrets.token_hex(8).encode() for name in template.names[1:]}
        if template.time is not None:
            given[template.time.encode()] = str(template.now() // 1000).encode()
        signature = hmac.digest(self.keys[0], template.message(given, body), hashlib.sha256)
        text = base64.b64encode(signature) if template.encoding == "base64" else signature.hex().encode()
        found = {name.decode(): value for name, value in given.items()}
        return {**found, template.header: template.prefix.encode() + text}
