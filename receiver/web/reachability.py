"""Asks whether the receiver answers at its public address, and says in words why not."""

import contextlib
import errno
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from receiver.core.paths import WEBHOOKS
from receiver.providers.api import DIRECT

MAX_ANSWER = 64 * 1024

SECONDS = 8.0

PROXY_ERRORS = frozenset({502, 503, 504, *range(520, 528), 530})
"""Answers of proxies that do not reach their target; those from 520 on are Cloudflare's."""

_WRONG_PATH = frozenset({"auth.token_refused", "body.no_such_route"})
"""A receiver's reasons for a path that it does not know."""

Headers = Mapping[str, str] | Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, with the beginning of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        """The reason in a receiver's error; an empty text if the answer is no such error."""
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(self.body).get("reason", ""))
        return ""


async def ask(
    url: str,
    headers: Headers,
    *,
    content: bytes | None = None,
    max_bytes: int = MAX_ANSWER,
    seconds: float = SECONDS,
) -> Answer:
    """GET an address, or POST to it. Follow no redirect, and read only the beginning of the body.

    Raises:
        httpx.HTTPError, httpx.InvalidURL, OSError: there is no answer.
    """
    method = "GET" if content is None else "POST"
    sent = {b"Accept-Encoding": b"identity"}
    sent |= {name.encode(): it if isinstance(it, bytes) else it.encode() for name, it in headers.items()}
    async with (
        httpx.AsyncClient(timeout=seconds, trust_env=True, mounts=DIRECT) as client,
        client.stream(method, url, headers=sent, content=content) as answer,
    ):
        body = bytearray()
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > max_bytes:
                break
        return Answer(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, bytes(body))


def why_not(answer: Answer, url: str) -> tuple[str, str] | None:
    """Return why an answer is none of the receiver at a public URL, and what to do; ``None`` if it may be."""
    where, status = origin(url), answer.status
    if 300 <= status < 400:
        target = origin(answer.headers.get("location", "")) or "nowhere"
        return (
            f"{where} answers with a redirect ({status}) to {target}, which a POST may not follow",
            f"Set RECEIVER_PUBLIC_URL to where it really is: {target}",
        )
    if status in (401, 403, 404) and answer.reason in _WRONG_PATH:
        return (
            f"a receiver answers at {where}, but knows no such path as RECEIVER_PUBLIC_URL names there",
            f"Correct its path, or let the proxy take it away; without one it is {where}",
        )
    if status in (401, 403, 407) and answer.reason != "auth.refused":
        return (
            f"{where} asks for a login ({status}), which the provider does not have",
            f"Let the proxy pass {WEBHOOKS} on without one.",
        )
    if status in PROXY_ERRORS and not answer.reason:
        return (
            f"something answers at {where}, but does not reach the receiver behind it ({status})",
            "Look at the proxy's target: host and port must be RECEIVER_HOST and RECEIVER_PORT.",
        )
    return None


def explain(error: BaseException) -> str:
    """Return in words why a connection failed."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: its certificate does not prove its name ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {getattr(cause, 'reason', None) or 'the handshake failed'}"
        if isinstance(cause, socket.gaierror):
            return "its name is not known to the name server"
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there (connection refused)"
        if isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return "no way leads there from this network"
    return "no answer in time" if isinstance(error, httpx.TimeoutException) else type(error).__name__


def tls_remedy(error: BaseException) -> str:
    """Return what to do about a connection on which TLS failed; an empty text where that is not why."""
    if not any(isinstance(cause, ssl.SSLError) for cause in causes(error)):
        return ""
    return (
        "Let the proxy speak TLS at this port, with a certificate for this name and its whole chain, from an"
        " authority that the provider trusts."
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that led to it."""
    yield error
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for cause in (*parts, error.__cause__ or error.__context__):
        if cause is not None:
            yield from causes(cause)


def origin(url: str) -> str:
    """Return scheme, host and port of a URL, without credentials; an empty text if it has none."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
