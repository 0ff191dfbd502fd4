"""Checks addresses before they are dialled.

A name is resolved once, every resolved address is checked, and the connection goes to one of those addresses
as a literal. There is no second look-up that could answer differently (DNS rebinding).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpcore

from receiver.core.concurrency import run_in_thread
from receiver.core.errors import FetchError, UrlError
from receiver.fetch.asyncio_backend import AsyncioBackend

Networks = tuple[IPv4Network | IPv6Network, ...]
"""Networks that are allowed although they are not public."""

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host name and port to addresses; raises OSError."""

_MAX_DIALLED = 8
"""Addresses of one name that are tried: a name with a thousand must not make us dial each."""

# IANA IPv4 Special-Purpose Address Registry (RFC 6890), with the blocks that it calls globally reachable too:
# they are anycast services of the network, which host no images.
# https://www.iana.org/assignments/iana-ipv4-special-registry
_SPECIAL_V4: Mapping[IPv4Network, str] = {
    IPv4Network("0.0.0.0/8"): "this network",
    IPv4Network("10.0.0.0/8"): "private use",
    IPv4Network("100.64.0.0/10"): "shared address space (CGNAT)",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local, cloud metadata",
    IPv4Network("172.16.0.0/12"): "private use",
    IPv4Network("192.0.0.0/24"): "IETF protocol assignments",
    IPv4Network("192.0.2.0/24"): "documentation",
    IPv4Network("192.31.196.0/24"): "AS112-v4",
    IPv4Network("192.52.193.0/24"): "AMT",
    IPv4Network("192.88.99.0/24"): "6to4 relay anycast",
    IPv4Network("192.168.0.0/16"): "private use",
    IPv4Network("192.175.48.0/24"): "AS112",
    IPv4Network("198.18.0.0/15"): "benchmarking",
    IPv4Network("198.51.100.0/24"): "documentation",
    IPv4Network("203.0.113.0/24"): "documentation",
    IPv4Network("240.0.0.0/4"): "reserved, limited broadcast",
    # Not in that registry.
    IPv4Network("224.0.0.0/4"): "multicast",  # RFC 5771
    IPv4Network("168.63.129.16/32"): "the wire server of Azure",  # public by its number only
}

# IANA IPv6 Address Space: global unicast is 2000::/3 and nothing else, which leaves out loopback, ::/96,
# 64:ff9b:1::/48, 100::/64, 5f00::/16, fc00::/7 (with fd00:ec2::254), fe80::/10, fec0::/10 and ff00::/8.
# https://www.iana.org/assignments/ipv6-address-space
_GLOBAL_V6 = IPv6Network("2000::/3")

# IANA IPv6 Special-Purpose Address Registry (RFC 6890), the blocks inside 2000::/3.
# https://www.iana.org/assignments/iana-ipv6-special-registry
_SPECIAL_V6: Mapping[IPv6Network, str] = {
    IPv6Network("2001::/23"): "IETF protocol assignments (Teredo, ORCHID, benchmarking)",
    IPv6Network("2001:db8::/32"): "documentation",
    IPv6Network("2002::/16"): "6to4",
    IPv6Network("2620:4f:8000::/48"): "AS112",
    IPv6Network("3fff::/20"): "documentation",
}

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052; how a host with IPv6 only sees the IPv4 Internet
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})  # RFC 5214, 6.1: bits 64 to 95 of the address


def check_address(address: str, networks: Networks) -> None:
    """Check that an address is public, or in ``networks``. Raise a url.address that names the block."""
    if in_networks(address, networks):
        return
    try:
        ip = ipaddress.ip_address(address)
    except ValueError as exc:
        raise UrlError("url.address", f"{address[:60]!r} is no address") from exc
    if block := _special_block(ip):
        raise UrlError("url.address", f"{ip} is not public: {block}")


def in_networks(address: str, networks: Networks) -> bool:
    """Whether an address, or the IPv4 address that is mapped into it, lies in one of ``networks``."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            return False
        ip = ip.ipv4_mapped or ip
    return any(ip in network for network in networks)


def _special_block(ip: IPv4Address | IPv6Address) -> str | None:
    """Return the block that makes an address not public, or None."""
    if isinstance(ip, IPv4Address):
        return next((f"{block}, {use}" for block, use in _SPECIAL_V4.items() if ip in block), None)
    if ip.scope_id is not None:
        return "an address with a zone id"
    # RFC 4291, 2.5.5.2: the kernel dials the IPv4 address that is mapped into ::ffff:0:0/96.
    if ip.ipv4_mapped:
        return _special_block(ip.ipv4_mapped)
    if ip in _NAT64:
        return _special_block(_embedded_v4(ip))
    if ip not in _GLOBAL_V6:
        return f"outside of {_GLOBAL_V6}"
    # The prefix before the interface's id: ISATAP below 6to4 is two tunnels, and both are checked.
    if found := next((f"{block}, {use}" for block, use in _SPECIAL_V6.items() if ip in block), None):
        return found
    return _special_block(_embedded_v4(ip)) if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP else None


def _embedded_v4(ip: IPv6Address) -> IPv4Address:
    return IPv4Address(int(ip) & 0xFFFFFFFF)


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Resolve a name by the system's getaddrinfo. Raise `OSError`.

    A look-up cannot be cancelled, and a stalled one lasts for half a minute. On a thread of its own it holds
    up neither other look-ups, nor the loop's executor, nor the end of the process.
    """
    # As bytes, so that Python does not encode the name by IDNA 2003.
    name = host.encode("ascii")
    found = await run_in_thread(lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
    return [str(sockaddr[0]) for *_, sockaddr in found]


@dataclass(frozen=True, slots=True, eq=False)
class NetworkGuard:
    """Resolves names, checks the addresses, and connects to checked ones only.

    ``networks`` are allowed although they are not public. ``resolve_seconds`` are for one look-up.
    ``backend`` connects to addresses, never to names.
    """

    networks: Networks = ()
    _: KW_ONLY
    resolver: Resolver = system_resolver
    resolve_seconds: float = 10
    backend: httpcore.AsyncNetworkBackend = field(default_factory=AsyncioBackend)

    async def addresses(self, host: str, port: int, *, confined: bool = False) -> Sequence[str]:
        """Resolve a name, and return the addresses to dial once every one of them is checked.

        ``host`` may be an address, which is checked alike. ``confined`` allows no address outside of
        ``networks``. Raise url.address or fetch.resolve.
        """
        addresses = list(dict.fromkeys(await self._resolve(host, port)))
        if not addresses:
            raise FetchError("fetch.resolve", f"{host} has no address")
        # All of them before the first is dialled: one forbidden address makes the name untrustworthy.
        for address in addresses:
            if confined and not in_networks(address, self.networks):
                raise UrlError("url.address", f"{host} has {address}, which RECEIVER_IMAGE_NETWORKS lacks")
            check_address(address, self.networks)
        return addresses[:_MAX_DIALLED]

    async def connect(
        self, host: str, port: int, addresses: Sequence[str], seconds: float
    ) -> tuple[httpcore.AsyncNetworkStream, str]:
        """Connect to the first of a host's checked addresses that accepts; return it with the stream.

        They share the time: each gets an equal part of what is left, so that one dead address cannot use up
        the others' time. Raise fetch.connect.
        """
        now = asyncio.get_running_loop().time
        end = now() + seconds
        failure: Exception | None = None
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            share = max((end - now()) / left, 0)
            try:
                return await self.backend.connect_tcp(address, port, share), address
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        tried = ", ".join(addresses)
        raise FetchError("fetch.connect", f"{host} port {port} at {tried} did not answer") from failure

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        with suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        try:
            async with asyncio.timeout(self.resolve_seconds):
                return await self.resolver(host, port)
        except TimeoutError as exc:
            raise FetchError("fetch.resolve", f"no answer for {host} in {self.resolve_seconds} s") from exc
        except OSError as exc:
            raise FetchError("fetch.resolve", f"{host}: {exc.strerror or exc}") from exc
