"""Which addresses are allowed, and a network backend that dials no others."""

import asyncio
import os
import resource
import socket
from collections.abc import Sequence
from ipaddress import ip_network

import httpcore
import pytest

from receiver.core.errors import FetchError, UrlError
from receiver.fetch.network_guard import NetworkGuard, Networks, check_address, system_resolver
from tests.support.hostile import Recorder, says, serve

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:4700::6810:84e5"
LOOPBACK = (ip_network("127.0.0.1/32"),)


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        PUBLIC_6,
        "2001:200::1",
        "2001:4860:4860::8888",
        "2a00:1450::1",
        "::ffff:93.184.216.34",
        "64:ff9b::93.184.216.34",
        "2606:4700::5efe:93.184.216.34",
    ],
)
def test_public_addresses_pass(address: str) -> None:
    check_address(address, ())


@pytest.mark.parametrize(
    "address",
    [
        # IPv4, first and last of each block.
        *["0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255"],
        *["127.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254", "169.254.255.255"],
        *[
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.0.170",
            "192.0.0.192",
        ],
        *["192.0.0.255", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.0"],
        *["192.168.255.255", "192.175.48.1", "198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.1"],
        *["224.0.0.0", "224.0.0.251", "239.255.255.255", "240.0.0.0", "255.255.255.254", "255.255.255.255"],
        *["100.100.100.200", "168.63.129.16"],
        # IPv6 outside of 2000::/3.
        *["::", "::1", "::2", "100::1", "100:0:0:1::1", "1fff:ffff::", "4000::", "5f00::1", "fc00::1"],
        *[
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::1",
            "fe80::a9fe:a9fe",
            "febf::1",
            "fec0::1",
            "ff00::1",
            "ff02::1",
        ],
        # IPv6 special blocks inside of it.
        *["2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:1::1", "2001:2::1", "2001:3::1"],
        *["2001:4:112::1", "2001:10::1", "2001:20::1", "2001:30::1", "2001:1ff:ffff::", "2001:db8::1"],
        *["2002::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1"],
        # IPv4 inside IPv6.
        *["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::ffff:0:0"],
        *["::127.0.0.1", "::93.184.216.34", "::ffff:0:127.0.0.1", "::ffff:0:93.184.216.34"],
        *["64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b:1::1"],
        *["64:ff9b:1::93.184.216.34", "2606:4700::5efe:127.0.0.1", "2606:4700::200:5efe:10.0.0.1"],
        # Special prefixes with the interface id of an ISATAP tunnel to a public address.
        *["2002:7f00:1::5efe:808:808", "2002:a00:1::200:5efe:808:808", "2001:db8::5efe:808:808"],
        *["2001:0:7f00:1:0:5efe:808:808", "2620:4f:8000::5efe:808:808", "3fff::5efe:1.1.1.1"],
        # Zone ids, and what is no address.
        *["fe80::1%eth0", "fe80::1%2", "::1%1", f"{PUBLIC_6}%eth0"],
        *[
            "",
            "localhost",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0177.0.0.1",
            "93.184.216.34 ",
            "[::1]",
            "1.2.3.4/8",
        ],
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(UrlError) as caught:
        check_address(address, ())
    assert caught.value.reason == "url.address"


def test_every_address_that_ipaddress_calls_not_global_is_refused() -> None:
    for first in range(0, 2**32, 2**18 + 4099):
        address = socket.inet_ntoa(first.to_bytes(4, "big"))
        if not ip_network(address).is_global:
            with pytest.raises(UrlError):
                check_address(address, ())


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_network_that_is_named_is_allowed(address: str) -> None:
    check_address(address, LOOPBACK)


@pytest.mark.parametrize("address", ["127.0.0.2", "::1", "::127.0.0.1", "64:ff9b::127.0.0.1", "10.0.0.1"])
def test_a_network_that_is_named_allows_nothing_else(address: str) -> None:
    with pytest.raises(UrlError):
        check_address(address, LOOPBACK)


def test_a_zone_id_is_refused_even_in_a_network_that_is_named() -> None:
    with pytest.raises(UrlError):
        check_address("fe80::1%eth0", (ip_network("fe80::/10"),))


async def dial(
    guard: NetworkGuard, host: str, port: int = 443, *, confined: bool = False, seconds: float = 5
) -> httpcore.AsyncNetworkStream:
    addresses = await guard.addresses(host, port, confined=confined)
    stream, address = await guard.connect(host, port, addresses, seconds)
    assert address in addresses
    return stream


def guard(*answers: str, networks: Networks = (), backend: Recorder) -> NetworkGuard:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return answers

    return NetworkGuard(networks, resolver=resolver, backend=backend)


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        [PUBLIC, PUBLIC_6, "::1"],
        [PUBLIC, "169.254.169.254"],
        [PUBLIC, "fe80::1%2"],
        [PUBLIC, *[f"93.184.216.{n}" for n in range(20)], "10.0.0.1"],
    ],
)
async def test_one_bad_answer_condemns_the_name_and_nothing_is_dialled(answers: list[str]) -> None:
    recorder = Recorder()
    with pytest.raises(UrlError) as caught:
        await dial(guard(*answers, backend=recorder), "images.example")
    assert caught.value.reason == "url.address"
    assert recorder.dialled == []


async def test_a_confined_target_may_not_even_have_public_addresses() -> None:
    recorder = Recorder()
    guarded = guard("127.0.0.1", PUBLIC, networks=LOOPBACK, backend=recorder)
    with pytest.raises(UrlError):
        await dial(guarded, "images.example", 80, confined=True)
    assert recorder.dialled == []


async def test_the_judged_addresses_are_dialled_as_literals_until_one_takes_the_connection() -> None:
    async with serve(says(b"")) as server:
        recorder = Recorder({("93.184.216.35", 443): server.port})
        guarded = guard(PUBLIC_6, PUBLIC, PUBLIC, "93.184.216.35", "93.184.216.36", backend=recorder)
        stream = await dial(guarded, "images.example")
        await stream.aclose()
    assert recorder.dialled == [(PUBLIC_6, 443), (PUBLIC, 443), ("93.184.216.35", 443)]


async def test_a_name_with_a_thousand_addresses_is_not_dialled_a_thousand_times() -> None:
    recorder = Recorder()
    answers = [f"93.184.{n // 250}.{n % 250}" for n in range(1000)]
    with pytest.raises(FetchError) as caught:
        await dial(guard(*answers, backend=recorder), "images.example")
    assert caught.value.reason == "fetch.connect"
    assert len(recorder.dialled) == 8


async def test_a_literal_is_judged_without_a_look_up() -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        raise AssertionError("asked")

    recorder = Recorder()
    guarded = NetworkGuard(resolver=resolver, backend=recorder)
    for host in ["127.0.0.1", "::1", "169.254.169.254"]:
        with pytest.raises(UrlError):
            await dial(guarded, host)
    with pytest.raises(FetchError):
        await dial(guarded, PUBLIC)
    assert recorder.dialled == [(PUBLIC, 443)]


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, "again"), OSError("broken")])
async def test_a_failing_resolver_fails_closed(error: OSError) -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        raise error

    recorder = Recorder()
    with pytest.raises(FetchError) as caught:
        await dial(NetworkGuard(resolver=resolver, backend=recorder), "images.example")
    assert caught.value.reason == "fetch.resolve"
    assert recorder.dialled == []


async def test_a_resolver_without_an_answer_fails_closed() -> None:
    with pytest.raises(FetchError) as caught:
        await dial(guard(backend=Recorder()), "images.example")
    assert caught.value.reason == "fetch.resolve"


async def test_a_stalled_resolver_is_given_up() -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return [PUBLIC]

    recorder = Recorder()
    guarded = NetworkGuard(resolver=resolver, resolve_seconds=0.02, backend=recorder)
    with pytest.raises(FetchError) as caught:
        await dial(guarded, "images.example")
    assert caught.value.reason == "fetch.resolve"
    assert recorder.dialled == []


async def test_a_dead_address_does_not_use_up_the_time_of_the_others() -> None:
    recorder = Recorder()
    with pytest.raises(FetchError):
        await dial(guard(PUBLIC, PUBLIC_6, backend=recorder), "images.example", seconds=1000)
    first, second = recorder.timeouts
    assert first is not None
    assert second is not None
    assert 400 < first <= 500 < second <= 1000


async def test_the_system_resolver_knows_loopback() -> None:
    assert "127.0.0.1" in await system_resolver("127.0.0.1", 80)


async def test_the_system_resolver_raises_what_the_system_says() -> None:
    with pytest.raises(socket.gaierror):
        await system_resolver("a..invalid", 80)


async def test_an_address_for_which_the_system_has_no_socket_does_not_answer() -> None:
    """A system without IPv6 refuses the socket itself, as one without a free descriptor does."""
    guard = NetworkGuard(LOOPBACK)
    descriptor = os.open("/", os.O_RDONLY)
    os.close(descriptor)  # the next one to be given
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, before[1]))
    try:
        with pytest.raises(FetchError) as caught:
            await guard.connect("h.test", 9, ["127.0.0.1"], 5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.reason == "fetch.connect"
