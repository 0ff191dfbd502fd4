"""The proofs of deliveries, as a description names them."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from receiver.core.clock import Clock
from receiver.providers import key_set, signatures
from receiver.providers.base import DeliveryProof
from receiver.providers.signatures import PLACEHOLDER
from receiver.providers.tables import UNITS, HeaderName, SecureUrl, Setting, Span, Table, TimeUnit


def _tolerance(span: timedelta) -> timedelta:
    if not timedelta(0) < span <= signatures.TOLERANCE:
        raise ValueError("must be 5m or less: an older signature may be a replayed one")
    return span


Tolerance = Annotated[Span, AfterValidator(_tolerance)]


def _template(text: str) -> str:
    names = set(PLACEHOLDER.findall(text))
    if re.search(r"[{}]", PLACEHOLDER.sub("", text)):
        raise ValueError("has a brace that belongs to no {name}")
    if names.isdisjoint({"body", "sha256"}):
        raise ValueError("must hold {body} or {sha256}: otherwise the signature does not prove the body")
    return text


class Header(Table):
    """A secret that is sent as it is, in a header of any name."""

    kind: Literal["header"]
    header: HeaderName
    secret: Setting


class Bearer(Table):
    """A secret that is sent as it is, as ``Authorization: Bearer SECRET``."""

    kind: Literal["bearer"]
    secret: Setting


class StandardWebhooks(Table):
    """The proof of Standard Webhooks, with header names of any beginning."""

    kind: Literal["standard-webhooks"]
    secret: Setting
    key: tuple[signatures.KeyForm, ...] = Field(("base64",), min_length=1)
    headers: HeaderName = "webhook"
    tolerance: Tolerance = signatures.TOLERANCE


class _Signed(Table):
    header: HeaderName
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = Field("", pattern=r"^[\x21-\x7e]*$")
    time: HeaderName | None = None
    time_unit: TimeUnit = "s"
    tolerance: Tolerance = signatures.TOLERANCE
    signed: Annotated[str, AfterValidator(_template)] = Field("{body}", validate_default=True)

    @field_validator("signed")
    @classmethod
    def _holds_the_time(cls, text: str, info: ValidationInfo) -> str:
        time = info.data.get("time")
        if time is not None and time not in {name.lower() for name in PLACEHOLDER.findall(text)}:
            raise ValueError(f"must hold {{{time}}}: otherwise anybody could change the time")
        return text

    def template(self) -> dict[str, Any]:
        """Return the fields of `signatures.SignedTemplate` that the table has."""
        names = {"header", "encoding", "prefix", "signed", "time", "tolerance"}
        return {**self.model_dump(include=names), "unit": UNITS[self.time_unit]}


class Hmac(_Signed):
    """HMAC-SHA-256 over the body, or over a template of headers and the body."""

    kind: Literal["hmac-sha256"]
    secret: Setting
    key: tuple[signatures.KeyForm, ...] = Field(("text",), min_length=1)


class Ed25519(_Signed):
    """Ed25519 over a template, with the keys of a JWKS."""

    kind: Literal["ed25519"]
    jwks: Setting | None = None
    jwks_url: SecureUrl | None = None

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if (self.jwks is None) == (self.jwks_url is None):
            raise ValueError("needs jwks or jwks_url, and not both")
        return self


Written = Annotated[Header | Bearer | StandardWebhooks | Hmac | Ed25519, Field(discriminator="kind")]


def open_proof(
    written: Written, secrets: Callable[[str], tuple[str, ...]], text_of: Callable[[str], str], now: Clock
) -> DeliveryProof:
    """Return the proof of a description, with its keys: from secrets, or from the text of a variable."""

    def keys_of(proof: StandardWebhooks | Hmac) -> list[bytes]:
        return signatures.keys_of(proof.secret, secrets(proof.secret), proof.key)

    match written:
        case Header():
            return signatures.SharedHeader(
                written.header, [text.encode() for text in secrets(written.secret)]
            )
        case Bearer():
            accepted = [f"Bearer {text}".encode() for text in secrets(written.secret)]
            return signatures.SharedHeader("authorization", accepted)
        case StandardWebhooks():
            return signatures.StandardWebhooks(keys_of(written), now, written.headers, written.tolerance)
        case Hmac():
            return signatures.HmacSha256(keys=keys_of(written), now=now, **written.template())
        case Ed25519(jwks=str(name)):
            keys = key_set.KeySet(key_set.pinned(text_of(name), name), now=now)
        case Ed25519():
            keys = key_set.KeySet(url=str(written.jwks_url), now=now)
    return key_set.Ed25519(keys=keys, now=now, **written.template())
