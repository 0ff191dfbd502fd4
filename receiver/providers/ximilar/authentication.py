"""Authentication of deliveries: custom headers with accepted values, and tickets for submitted jobs.

The provider sends no signature: the headers that the submitter gave to the webhook are the only proof. Values
are compared as bytes and in constant time, and every refusal is the same.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta

from itsdangerous import BadData, TimestampSigner

from receiver.config import Config
from receiver.core.completion import is_ref
from receiver.core.errors import AuthError
from receiver.core.headers import RawHeaders, single
from receiver.providers.base import TICKET_LIFETIME, DeliveryProof, Proof
from receiver.providers.bodies import MASK, hide, spellings_in_json

TICKET_HEADER = "X-Receiver-Job"
REF_HEADER = "X-Receiver-Ref"
SUBMISSION_HEADER = "X-Receiver-Submission"
_TICKET, _REFERENCE, _SUBMISSION = (
    name.lower().encode() for name in (TICKET_HEADER, REF_HEADER, SUBMISSION_HEADER)
)
"""The names as ASGI gives them."""

CLOCK_SLACK = timedelta(minutes=5)
"""How far ahead a ticket's time may be: a clock that was set back since must not cost an image."""

_MIN_SECRET = 8
_SIGNATURE = re.compile(rb"([A-Za-z0-9_-]{22}(?:~[A-Za-z0-9_-]{1,64})?\.[A-Za-z0-9_-]{6}\.)[A-Za-z0-9_-]{43}")
"""A ticket: 16 random bytes, the mark of its submission where it has one, the seconds since the epoch while
four bytes hold them, and an HMAC-SHA-256."""
_SALT = b"upscale-receiver.ticket"


class Authenticator(DeliveryProof):
    """Checks deliveries against this installation's header values and signing keys."""

    def __init__(self, headers: Mapping[str, Sequence[str]], signing_keys: Sequence[str] = ()) -> None:
        self.names = (*headers, *((TICKET_HEADER,) if signing_keys else ()))
        self._accepted = {
            name.lower().encode("ascii"): tuple({v for value in values for v in _spellings(value)})
            for name, values in headers.items()
        }
        spelled = {
            v for vs in headers.values() for value in vs for v in _spellings(value) | spellings_in_json(value)
        }
        # Shorter ones occur by chance, and would make a body unreadable.
        self._secrets = sorted((v for v in spelled if len(v) >= _MIN_SECRET), key=len, reverse=True)
        # itsdangerous signs with the last key and verifies with all; the setting names the newest first.
        self._signer = (
            TimestampSigner(list(reversed(signing_keys)), salt=_SALT, digest_method=hashlib.sha256)
            if signing_keys
            else None
        )

    @classmethod
    def from_config(cls, config: Config) -> "Authenticator":
        return cls(
            {name: [v.get_secret_value() for v in values] for name, values in config.webhook_headers.items()},
            [key.get_secret_value() for key in config.signing_keys],
        )

    def admit(self, headers: RawHeaders) -> Proof:
        """Check that a delivery carries the headers that were given to the provider.

        Every configured header must be there exactly once, with one of its accepted values. All are compared,
        whatever the first comparison gave, so that the time taken reveals nothing.

        Raises:
            AuthError: ``auth.refused``; the same whether a header is missing, wrong or unknown.
        """
        given = single(headers)
        proved = bool(self._accepted or self._signer)
        for name, accepted in self._accepted.items():
            proved &= sum(hmac.compare_digest(given.get(name, b""), value) for value in accepted) > 0
        ticket, mark = None, _label(given.get(_SUBMISSION, b""))
        if self._signer is not None:
            ticket = self._ticket(self._signer, given.get(_TICKET, b""))
            proved &= ticket is not None
            if signed := (ticket or "").partition("~")[2]:
                proved &= mark in (None, signed)  # else the headers of two submissions are mixed
                mark = signed
        if not proved:
            raise AuthError("auth.refused")
        ref = _label(given.get(_REFERENCE, b""))
        dropped = ref is None and _REFERENCE in given
        return Proof(ticket, ref, mark, dropped)

    def redact(self, body: bytes) -> bytes:
        """Return a body without this installation's secrets, which the provider's API echoes."""
        body = hide(body, self._secrets)
        # Of a ticket only the signature is secret; its number is in the ledger.
        return body if self._signer is None else _SIGNATURE.sub(rb"\1" + MASK, body)

    def issue_ticket(self, mark: str | None = None) -> str:
        """Return a new ticket for the header of one job; raise `AuthError` without a signing key.

        With the mark of its submission, it is bound to the job that the provider names, and else to the first
        one that uses it.
        """
        if self._signer is None:
            raise AuthError("auth.refused", "RECEIVER_SIGNING_KEYS is not set, so no ticket can be signed.")
        number = secrets.token_urlsafe(16)
        return self._signer.sign(number if mark is None else f"{number}~{mark}").decode("ascii")

    def headers_for(self, body: bytes) -> dict[str, bytes]:  # noqa: ARG002 - they are the same for all
        found = {name.decode(): accepted[0] for name, accepted in self._accepted.items()}
        return found if self._signer is None else {**found, TICKET_HEADER: self.issue_ticket().encode()}

    @staticmethod
    def _ticket(signer: TimestampSigner, value: bytes) -> str | None:
        try:
            number, signed_at = signer.unsign(value, return_timestamp=True)
        except BadData:
            return None
        age = signer.timestamp_to_datetime(signer.get_timestamp()) - signed_at
        return number.decode("ascii") if -CLOCK_SLACK <= age <= TICKET_LIFETIME else None


def _spellings(value: str) -> set[bytes]:
    # Clients send non-ASCII header values in one of these two encodings.
    spellings = {value.encode("utf-8")}
    if all(ord(c) < 256 for c in value):
        spellings.add(value.encode("latin-1"))
    return spellings


def _label(value: bytes) -> str | None:
    if not value:
        return None
    # An invalid label is dropped, and not the delivery: the image matters more.
    text = value.decode("latin-1")
    return text if is_ref(text) else None
