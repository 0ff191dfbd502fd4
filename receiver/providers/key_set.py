"""Ed25519 signatures by keys of a JWKS, which is pinned, or read from its address and kept for a day."""

import asyncio
import base64
from collections.abc import Awaitable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from receiver.core import json_text
from receiver.core.clock import Clock, milliseconds, wall_clock
from receiver.core.errors import AuthError, ConfigError
from receiver.core.headers import RawHeaders
from receiver.providers.api import DIRECT
from receiver.providers.base import Proof
from receiver.providers.signatures import SignedTemplate, refuse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KEPT_MS = milliseconds(timedelta(hours=24))
"""How long keys that were read serve without a question whether they still do."""

PAUSE_MS = milliseconds(timedelta(minutes=1))
"""The least time between two questions while there are keys: a stranger's signature is unknown, too."""

FIRST_PAUSE_MS = 1000
"""The same while there are none, so that a delivery which comes again finds them."""

READ_SECONDS = 5.0
"""How long one reading may take. Providers wait 15 s for the answer."""

MAX_BYTES = 64 * 1024
MAX_KEYS = 16

MAX_SIGNATURES = 2
"""Signatures of one delivery that are tried with each key. Each try takes as long as many hashes."""

Keys = Sequence["Ed25519PublicKey"]

_UNREADABLE = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError, ValueError)
"""What reading a key set raises."""


def parse(text: str | bytes) -> Keys:
    """Return the Ed25519 keys of a JWKS. Keys of other kinds, and broken ones, are passed over.

    Raises:
        ValueError: it is no JWKS, or holds none of these keys; the message says which.
    """
    try:
        document = json_text.loads(text)
    except ValueError:
        document = None
    rows = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise ValueError(  # noqa: TRY004 - of a value, whatever its type
            'is no JWKS such as {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "…"}]}'
        )
    keys = [key for row in rows[:MAX_KEYS] if (key := _key(row)) is not None]
    if not keys:
        raise ValueError("holds no Ed25519 key")
    return keys


def pinned(text: str, setting: str) -> Keys:
    """Return the keys of a JWKS, or of a file of one, which is read once.

    Raises:
        ConfigError: it is none; the setting is named.
    """
    try:
        if text.lstrip().startswith("{"):
            return parse(text)
        with Path(text).open("rb") as file:
            return parse(file.read(MAX_BYTES))
    except OSError as error:
        why = f"is no JSON, and no file that can be read ({type(error).__name__})"
        raise ConfigError(f"{setting}: {why}") from None
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from None


def _key(row: Any) -> "Ed25519PublicKey | None":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - 8 MB

    if not isinstance(row, dict) or row.get("kty") != "OKP" or row.get("crv", "Ed25519") != "Ed25519":
        return None
    try:
        text = row["x"].rstrip("=")
        point = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return Ed25519PublicKey.from_public_bytes(point)
    except (KeyError, AttributeError, ValueError):
        return None


@dataclass(eq=False)
class KeySet:
    """The keys that prove deliveries: those that are pinned, and those at an address, if there is one.

    Keys at the address are read when they are first needed, after a day, and for a signature by none of them,
    but once a minute at most. The last ones that were read serve while they cannot be read again.

    Attributes:
        now: ms since the epoch.
        transport: of tests.
    """

    pinned: Keys = ()
    url: str | None = None
    _: KW_ONLY
    now: Clock = wall_clock
    transport: httpx.AsyncBaseTransport | None = None
    _read: Keys = field(default=(), init=False)
    _read_at: int | None = field(default=None, init=False)
    _asked_at: int | None = field(default=None, init=False)
    _failed: bool = field(default=False, init=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def __post_init__(self) -> None:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - 8 MB, which few need

        self._invalid = InvalidSignature

    def prove(self, message: bytes, signatures: Sequence[bytes]) -> Proof | Awaitable[Proof]:
        """Refuse a message that no key has signed. Awaitable only where keys have to be read for that."""
        signatures = signatures[:MAX_SIGNATURES]
        if self._is_signed(message, signatures) and not self._is_old():
            return Proof()
        if self.url is None:
            refuse()
        return self._prove_anew(message, signatures)

    async def count(self) -> int:
        """Return how many keys there are, with those that are at the address now.

        Raises:
            AuthError: ``auth.keys_unavailable``, and why they cannot be read.
        """
        found: Keys = ()
        if self.url is not None:
            try:
                found = parse(await self._content())
            except _UNREADABLE as error:
                why = str(error) if type(error) is ValueError else f"cannot be read ({type(error).__name__})"
                raise AuthError("auth.keys_unavailable", f"The key set at {self.url} {why}.") from None
        return len({key.public_bytes_raw() for key in (*self.pinned, *found)})

    async def _prove_anew(self, message: bytes, signatures: Sequence[bytes]) -> Proof:
        async with self._lock:
            # Another delivery may have had them read meanwhile.
            if (self._is_old() or not self._is_signed(message, signatures)) and self._may_ask():
                await self._ask()
        if not self._is_signed(message, signatures):
            if self._failed:
                raise AuthError("auth.keys_unavailable")
            refuse()
        return Proof()

    def _is_signed(self, message: bytes, signatures: Sequence[bytes]) -> bool:
        for key in (*self.pinned, *self._read):
            for signature in signatures:
                try:
                    key.verify(signature, message)
                except self._invalid:
                    continue
                return True
        return False

    def _is_old(self) -> bool:
        return self.url is not None and (
            self._read_at is None or not 0 <= self.now() - self._read_at < KEPT_MS
        )

    def _may_ask(self) -> bool:
        pause = PAUSE_MS if self._read else FIRST_PAUSE_MS
        return self._asked_at is None or not 0 <= self.now() - self._asked_at < pause

    async def _ask(self) -> None:
        is_first = self._read_at is None
        try:
            found = parse(await self._content())
        except _UNREADABLE:
            self._failed, self._asked_at = True, self.now()
            return
        self._read, self._read_at, self._failed = found, self.now(), False
        # The first unknown signature after the first reading may come from a key that is new.
        self._asked_at = None if is_first else self._read_at

    async def _content(self) -> bytes:
        assert self.url is not None
        # In a thread: to load the authorities takes 20 ms.
        verify = await asyncio.to_thread(httpx.create_ssl_context) if self.transport is None else True
        async with (
            asyncio.timeout(READ_SECONDS),
            httpx.AsyncClient(verify=verify, transport=self.transport, mounts=DIRECT) as client,
            client.stream("GET", self.url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"is answered with {answer.status_code}")
            content = b""
            async for chunk in answer.aiter_raw():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ValueError("is too large")
            return content


@dataclass(eq=False, kw_only=True)
class Ed25519(SignedTemplate):
    """Ed25519 over a template by any key of a set."""

    keys: KeySet

    def check(self, headers: RawHeaders, body: bytes) -> Proof | Awaitable[Proof]:
        given, signatures = self.signatures(headers)
        return self.keys.prove(self.message(given, body), signatures)

    async def count_keys(self) -> int:
        return await self.keys.count()
