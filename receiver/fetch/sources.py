"""Checks an image URL's text: whether it is one plain URL, which the operator allows. Pure; no look-ups.

The URL is parsed once, strictly, and the request is built from these parts. No second parser, which could
read the same text in another way, stands between the check and the request.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from receiver.core.completion import MAX_URL
from receiver.core.errors import ConfigError, UrlError
from receiver.core.urls import percent_encoded
from receiver.fetch.network_guard import Networks, check_address, in_networks

_DEFAULT_PORTS = {"https": 443, "http": 80}
_MAX_TEXT = 200
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# RFC 3986, appendix B, but scheme and authority are required.
_URL = re.compile(r"[^:/?#]+://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[^:]*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
# RFC 1123 letters, digits and hyphens, and the underscore that some buckets carry. International names come
# as A-labels ("xn--…"), which are of this form too.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a checked URL.

    ``host`` is a name in lower case, or an address in its canonical spelling, without brackets. ``path`` is
    ASCII, else as it was written, ``/`` at least. ``query`` begins with ``?`` or is empty; it may be a
    signature, so it is no part of the text. ``confined``: if only ``networks`` may be dialled, as for plain
    http, the reason for refusing any other address.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(repr=False)
    confined: str | None = None

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def request_target(self) -> str:
        """Path and query for the request line (RFC 9112, 3.2.1)."""
        return self.path + self.query

    def __str__(self) -> str:
        """Return the URL for logs and messages, without its query and at most a line long."""
        text = self.origin + self.path
        return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


@dataclass(frozen=True, slots=True)
class _Source:
    """One allowed prefix. ``subdomains`` is ``*.``: one label or more in front of ``host``."""

    scheme: str
    subdomains: bool
    host: str
    port: int
    path: str

    def covers(self, scheme: str, host: str, path: str) -> bool:
        same_host = host.endswith("." + self.host) if self.subdomains else host == self.host
        folder = self.path if self.path.endswith("/") else self.path + "/"
        within = path == self.path or path.startswith(folder)
        return scheme == self.scheme and same_host and (self.path == "/" or (within and _is_plain(path)))


@dataclass(frozen=True, slots=True)
class Sources:
    """The allowed origins of images. Without entries: any public https host."""

    entries: tuple[_Source, ...] = ()

    @classmethod
    def parse(cls, prefixes: Sequence[str]) -> Self:
        """Read ``RECEIVER_IMAGE_SOURCES``: prefixes such as ``https://*.example.com/`` or
        ``https://host/path/``.

        A path that ends in a slash allows the paths below it; any other path also allows itself. Raise a
        `ConfigError` that names the entry by its place in the list.
        """
        return cls(tuple(_parse_source(prefix, place) for place, prefix in enumerate(prefixes, 1)))

    def check(self, scheme: str, host: str, port: int, path: str) -> None:
        """Raise UrlError url.source or url.port if no entry allows these parts of a URL."""
        if not self.entries:
            return
        places = [entry for entry in self.entries if entry.covers(scheme, host, path)]
        if not places:
            raise UrlError("url.source", f"{scheme}://{host} with this path is in no entry of the list")
        if all(place.port != port for place in places):
            raise UrlError("url.port", f"no entry of RECEIVER_IMAGE_SOURCES names port {port} of {host}")


def check_url(url: str, sources: Sources, networks: Networks) -> Target:
    """Check a URL's text. The addresses that its host's name resolves to are checked when it is dialled.

    Plain http, and a port that is neither the default nor in ``sources``, are for ``networks`` only. Another
    address is refused here, and a name gets ``Target.confined``. Raise `UrlError`: url.malformed, url.scheme,
    url.userinfo, url.port, url.source or url.address.
    """
    scheme, host, port, path, query = _split(url)
    confined = None
    if scheme == "http":
        confined = "url.scheme"
    elif port != _DEFAULT_PORTS[scheme] and not sources.entries:  # where there are entries, they name ports
        confined = "url.port"
    if confined and not (in_networks(host, networks) if _is_address(host) else networks):
        raise UrlError(confined, f"{scheme} on port {port} of {host}: only RECEIVER_IMAGE_NETWORKS allow it")
    sources.check(scheme, host, port, path)
    if _is_address(host):
        check_address(host, networks)
    return Target(scheme, host, port, path, query, confined)


def _split(url: str) -> tuple[str, str, int, str, str]:
    """Return scheme, host, port, path and query of a URL, or raise UrlError."""
    url = percent_encoded(url)
    if len(url) > MAX_URL:
        raise UrlError("url.malformed", f"longer than {MAX_URL} characters")
    # Parsers disagree about these characters: "http://127.0.0.1\@example.com".
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise UrlError("url.malformed", "a backslash, a control character, or a host that is not ASCII")
    named = _SCHEME.match(url)
    if not named:
        raise UrlError("url.malformed", "no scheme")
    scheme = named[1].lower()
    if scheme not in _DEFAULT_PORTS:
        raise UrlError("url.scheme", f"the scheme is {scheme[:20]}")
    parts = _URL.fullmatch(url)
    if not parts or not parts["authority"]:
        raise UrlError("url.malformed", "no host")
    if "@" in parts["authority"]:
        raise UrlError("url.userinfo")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if not authority:
        raise UrlError("url.malformed", "host and port cannot be told apart")
    port = str(_DEFAULT_PORTS[scheme]) if authority["port"] is None else authority["port"]
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise UrlError("url.port", "the port is no number from 1 to 65535")
    return scheme, _parse_host(authority["host"]), int(port), parts["path"] or "/", parts["query"] or ""


def _parse_host(text: str) -> str:
    """Return a host in its canonical spelling, or raise UrlError."""
    try:
        if text.startswith("["):
            # A zone id (RFC 6874) names an interface of this machine.
            if "%" in text:
                raise UrlError("url.malformed", "the address has a zone id")
            return str(ipaddress.IPv6Address(text[1:-1]))
        host = text.lower()
        labels = host.split(".")
        # WHATWG URL, "ends in a number": such a host is an IPv4 address, which inet_aton would also read in
        # octal, in hex, or with parts left out. All parsers agree only about four decimal numbers.
        if _NUMBER.fullmatch(labels[-1]):
            return str(ipaddress.IPv4Address(host))
    except ipaddress.AddressValueError as exc:
        raise UrlError("url.malformed", "the host is no address in its usual spelling") from exc
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlError("url.malformed", "the host is no plain name")
    return host


def _is_address(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()


def _is_plain(path: str) -> bool:
    """Whether no server can read the path as another one, because of dot segments or encoded slashes.

    The path is decoded until nothing is left to decode, since some servers decode twice. Others drop ``;…``
    from a segment.
    """
    decoded = path
    while (once_more := unquote(decoded)) != decoded:
        decoded = once_more
    if "\\" in decoded or decoded.count("/") != path.count("/"):
        return False
    return not any(segment.partition(";")[0] in {".", ".."} for segment in decoded.split("/"))


def _parse_source(prefix: str, place: int) -> _Source:
    entry = f"RECEIVER_IMAGE_SOURCES, entry {place}"
    scheme, mark, rest = prefix.strip().partition("://")
    subdomains = rest.startswith("*.")
    try:
        scheme, host, port, path, query = _split(scheme + mark + rest.removeprefix("*."))
    except UrlError as exc:
        raise ConfigError(f"{entry}: not of the form https://host/ or https://*.host/path/") from exc
    if query or "#" in prefix:
        raise ConfigError(f"{entry}: a prefix has no query and no fragment")
    if subdomains and (_is_address(host) or "." not in host):
        raise ConfigError(f"{entry}: '*.' needs a name of two labels or more behind it")
    if not _is_plain(path):
        raise ConfigError(f"{entry}: the path has dot segments or encoded slashes")
    return _Source(scheme, subdomains, host, port, path)
