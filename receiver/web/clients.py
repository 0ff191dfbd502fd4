"""Limits what one client can occupy with requests that prove nothing and whose bodies do not end."""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from receiver.core.headers import RawHeaders

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IsProved = Callable[[RawHeaders], bool]
"""Whether the headers of a request prove its sender."""

MAX_UNPROVED_BODIES = 64
"""Of one client at a time. A proved sender's do not count."""

IPV6_PREFIX = 64
"""Bits of an IPv6 address that name the client: it has all addresses that begin with them."""


def client_of(peer: str, headers: RawHeaders, trusted: Sequence[Network]) -> str:
    """Return the address that a request is counted under.

    That is the peer's, or where the peer is a trusted proxy, the last address in ``X-Forwarded-For`` that is
    none. What stands before it may have been made up by the client.
    """
    address = _parse(peer)
    if address is None or not _is_in(address, trusted):
        return _name(address, peer)
    values = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    for text in reversed(",".join(values).split(",")):
        forwarded = _parse(text.strip())
        if forwarded is None:
            break
        address = forwarded
        if not _is_in(address, trusted):
            break
    return _name(address, peer)


class Connection(Protocol):
    """A connection that can be ended at once."""

    def end(self) -> None:
        """End it."""


@dataclass(eq=False)
class UnfinishedBodies:
    """The requests whose body has not come whole yet, by client.

    Whether a request is proved is looked at only where a client has too many.

    Attributes:
        is_proved: says which requests are never ended.
        trusted: networks of proxies that name their clients.
        most: unproved ones of one client.
    """

    is_proved: IsProved = lambda _headers: False
    trusted: Sequence[Network] = ()
    most: int = MAX_UNPROVED_BODIES
    _by_client: dict[str, dict[Connection, RawHeaders]] = field(default_factory=dict, init=False, repr=False)
    _clients: dict[Connection, str] = field(default_factory=dict, init=False)

    def add(self, connection: Connection, peer: str, headers: RawHeaders) -> None:
        """Count a request, and end the oldest unproved one of its client where that has too many."""
        client = client_of(peer, headers, self.trusted)
        unfinished = self._by_client.setdefault(client, {})
        unfinished[connection] = headers
        self._clients[connection] = client
        if len(unfinished) > self.most:
            self._end_oldest(client)

    def discard(self, connection: Connection) -> None:
        """Count a connection's request no more."""
        client = self._clients.pop(connection, None)
        if client is not None:
            unfinished = self._by_client[client]
            del unfinished[connection]
            if not unfinished:
                del self._by_client[client]

    def end_one(self) -> bool:
        """End the oldest unproved request of the client that has the most; return whether there was one."""
        clients = sorted(self._by_client, key=lambda client: len(self._by_client[client]), reverse=True)
        return any(self._end_oldest(client) for client in clients)

    def _end_oldest(self, client: str) -> bool:
        for connection, headers in list(self._by_client[client].items()):
            self.discard(connection)
            if not self.is_proved(headers):
                connection.end()
                return True
        return False


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _name(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, peer: str) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
    return peer if address is None else str(address)
