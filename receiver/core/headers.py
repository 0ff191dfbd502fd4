"""Headers of requests, as ASGI gives them."""

from collections.abc import Iterable

RawHeaders = Iterable[tuple[bytes, bytes]]
"""Header names in lower case and values."""


def single(headers: RawHeaders) -> dict[bytes, bytes]:
    """Return each header's value; empty where it is repeated, which proves as little as a missing one."""
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        given[name] = b"" if name in given else value
    return given
