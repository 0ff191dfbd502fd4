"""The check that the sandbox connects to this machine only."""

import ipaddress

import httpx


def loopback_url(text: str) -> httpx.URL:
    """Parse a URL on this machine.

    The host is checked as httpx parses it, because httpx connects to it. Names are not resolved; only
    ``localhost`` is loopback by definition (RFC 6761, section 6.3).

    Raises:
        ValueError: it is no http(s) URL, or its host is not loopback.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("no http(s) URL")
    if not is_loopback(url.host):
        raise ValueError(f"the sandbox speaks to loopback only, and {url.host} is elsewhere")
    return url


def is_loopback(host: str) -> bool:
    """Return whether a host is 127.0.0.0/8, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
