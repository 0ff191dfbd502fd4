"""Proofs over the raw body that several providers use. Every refusal is the same, whatever its cause."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn

from receiver.core.clock import Clock, milliseconds
from receiver.core.errors import AuthError
from receiver.core.headers import RawHeaders, single

TOLERANCE = timedelta(minutes=5)
"""How much older or newer than now a signature may be."""

MAX_SIGNATURES = 16
"""Signatures of one header that are compared: providers send one for each of two or three keys."""

_MAX_STAMP = 16
"""Digits of a time in seconds; beyond them its meaning is in doubt, and Python may take long."""


def refuse() -> NoReturn:
    """Raise the one refusal of all wrong, old and missing proofs."""
    raise AuthError("auth.refused")


def check_time(stamp: bytes, now: int, tolerance: timedelta = TOLERANCE) -> None:
    """Refuse a time in whole seconds since the epoch that is further than the tolerance from ``now`` (ms)."""
    if (
        not stamp.isdigit()
        or len(stamp) > _MAX_STAMP
        or abs(now - int(stamp) * 1000) > milliseconds(tolerance)
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
    """

    keys: Sequence[bytes] = field(repr=False)
    now: Clock
    prefix: str = "webhook"

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
        check_time(stamp, self.now())
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


def _decoded(value: bytes) -> list[bytes]:
    try:
        return [base64.b64decode(value, validate=True)]
    except ValueError:
        return []
