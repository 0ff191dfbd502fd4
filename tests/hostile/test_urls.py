"""A corpus of URLs against the whole download, judged by the addresses that were dialled."""

# ruff: noqa: ASYNC240 - a test may look at a file between two awaits; nobody else waits for its loop

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from receiver.core.errors import ReceiverError
from receiver.fetch.download import DownloadLimits, Fetcher
from receiver.fetch.network_guard import Networks, Resolver
from receiver.fetch.sources import Sources
from tests.hostile import urls
from tests.hostile.urls import PUBLIC, PUBLIC_6, Hostile
from tests.support.hostile import Peer, Recorder, answer, redirect, says, serve

LIMITS = DownloadLimits(max_bytes=4096)
HOSTILE, BESIDE, WELCOME = urls.hostile(), urls.beside(), urls.welcome()
KINDS = sorted({case.kind for case in HOSTILE})
ORIGIN = "127.0.0.9"
"""The one address that is allowed although it is not public: redirects start there. The corpus has others."""
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def fetcher(
    recorder: Recorder,
    *,
    sources: Sequence[str] = (),
    networks: Networks = (),
    resolver: Resolver | None = None,
    limits: DownloadLimits = LIMITS,
    tls: ssl.SSLContext = TLS,
) -> Fetcher:
    return Fetcher(
        sources=Sources.parse(sources),
        networks=networks,
        limits=limits,
        resolver=resolver or by_the_corpus,
        backend=recorder,
        ssl_context=tls,
    )


async def by_the_corpus(host: str, port: int) -> Sequence[str]:
    return urls.NAMES.get(host) or urls.NAMES.get(host.upper()) or [PUBLIC]


async def reason(subject: Fetcher, url: str, folder: Path) -> str:
    """The reason with which the download is refused; it leaves nothing behind."""
    with pytest.raises(ReceiverError) as caught:
        await subject.fetch(url, folder / "spooled")
    assert list(folder.iterdir()) == []
    return caught.value.reason


def test_the_corpus_is_as_large_as_it_is_meant_to_be() -> None:
    assert len({case.url for case in (*HOSTILE, *BESIDE)}) >= 600
    assert min(Counter(case.kind for case in HOSTILE).values()) >= 20
    assert len({case.url for case in WELCOME}) >= 30
    for address in urls.ends_of_special_blocks():
        assert ip_address(address)


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: f"{case.kind}-{case.url[:60]!a}")
async def test_nothing_is_dialled_for_a_hostile_url(case: Hostile, tmp_path: Path) -> None:
    recorder = Recorder()
    async with fetcher(recorder) as subject:
        given = await reason(subject, case.url, tmp_path)
    assert recorder.dialled == []
    assert given in case.reasons


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_more_is_dialled_where_a_network_is_allowed(kind: str, tmp_path: Path) -> None:
    recorder = Recorder()
    networks = (ip_network(f"{ORIGIN}/32"),)
    async with fetcher(recorder, networks=networks) as subject:
        for case in HOSTILE:
            if case.kind == kind:
                # With a network allowed, a name over http may lie in it; it must show that by its address.
                assert (await reason(subject, case.url, tmp_path)).startswith("url."), case.url
    assert recorder.dialled == []


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_dialled_for_a_hostile_url_where_sources_are_listed(
    kind: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    async with fetcher(recorder, sources=urls.LISTED) as subject:
        for case in HOSTILE:
            if case.kind == kind:
                assert (await reason(subject, case.url, tmp_path)).startswith("url."), case.url
    assert recorder.dialled == []


@pytest.mark.parametrize("case", BESIDE, ids=lambda case: f"{case.kind}-{case.url!a}")
async def test_nothing_is_dialled_for_a_url_beside_the_sources(case: Hostile, tmp_path: Path) -> None:
    recorder = Recorder()
    async with fetcher(recorder, sources=urls.LISTED) as subject:
        given = await reason(subject, case.url, tmp_path)
    assert recorder.dialled == []
    assert given in case.reasons


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_to_no_hostile_url(kind: str, status: int, tmp_path: Path) -> None:
    """From a real server; each status has its share of the corpus, and all of them together have all."""
    share = [case.url for case in HOSTILE if case.kind == kind and _fits_a_header(case.url)][status % 5 :: 5]
    networks = (ip_network(f"{ORIGIN}/32"),)

    async def behave(peer: Peer) -> None:
        """The number in the path says which; a Location that is a path leads back, and there is nothing."""
        number = server.heads[-1].split(b" ")[1].removeprefix(b"/from/")
        location = share[int(number)].encode() if number.isdigit() else None
        head = answer(status=404) if location is None else redirect("LOCATION", status)
        await peer.send(head.replace(b"LOCATION", location or b""))

    async with serve(behave) as server:
        recorder = Recorder({(ORIGIN, server.port): server.port})
        async with fetcher(recorder, networks=networks) as subject:
            for number, url in enumerate(share):
                given = await reason(subject, f"http://{ORIGIN}:{server.port}/from/{number}", tmp_path)
                assert set(recorder.dialled) == {(ORIGIN, server.port)}, url
                assert given.startswith("url.") or given in {
                    "fetch.gone",
                    "fetch.status",
                    "fetch.protocol",
                }, url
    assert len(server.heads) >= len(share)


def _fits_a_header(url: str) -> bool:
    """Whether a header carries the URL as it is: line ends and white space around it are the header's own."""
    return not set("\r\n\0") & set(url) and url == url.strip(" \t")


@pytest.mark.parametrize("case", BESIDE, ids=lambda case: f"{case.kind}-{case.url!a}")
async def test_a_redirect_from_a_source_leads_to_nothing_beside_it(case: Hostile, tmp_path: Path) -> None:
    networks = (ip_network(f"{ORIGIN}/32"),)
    async with serve(says(redirect("LOCATION").replace(b"LOCATION", case.url.encode()))) as server:
        start = f"http://{ORIGIN}:{server.port}/"
        recorder = Recorder({(ORIGIN, server.port): server.port})
        async with fetcher(recorder, sources=[*urls.LISTED, start], networks=networks) as subject:
            given = await reason(subject, start, tmp_path)
    assert recorder.dialled == [(ORIGIN, server.port)]
    assert given.startswith("url.")


# Names, whose addresses change


def in_turn(*answers: Sequence[str]) -> Resolver:
    """Gives another answer at each look-up, and the last one ever after."""
    waiting = list(answers)

    async def resolver(host: str, port: int) -> Sequence[str]:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return resolver


BAD_ANSWERS: list[Sequence[str]] = [
    *([address] for address in urls.ends_of_special_blocks()),
    *([address] for inner in urls.INNER for address in urls.inside_ipv6(inner)),
    *([PUBLIC, PUBLIC_6, inner] for inner in urls.INNER),
    *([inner, PUBLIC] for inner in urls.INNER),
    *([PUBLIC, form] for form in urls.spellings("127.0.0.1")),
    *(["fe80::1%eth0"], ["fe80::1%1"], [f"{PUBLIC_6}%eth0"], [""], ["localhost"], [PUBLIC, ""]),
]


async def test_a_name_with_any_bad_address_is_not_dialled(tmp_path: Path) -> None:
    for answers in BAD_ANSWERS:
        recorder = Recorder()
        async with fetcher(recorder, resolver=in_turn(answers)) as subject:
            given = await reason(subject, "https://public.example/a", tmp_path)
        assert (recorder.dialled, given) == ([], "url.address"), answers


@pytest.mark.parametrize("bad", [["127.0.0.1"], ["::1"], [PUBLIC, "169.254.169.254"], ["::ffff:10.0.0.1"]])
async def test_a_name_that_turns_bad_between_two_hops_is_not_dialled_again(
    bad: Sequence[str], tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("public.example").configure_cert(context)
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    async with serve(says(redirect("https://public.example/again")), context=context) as server:
        recorder = Recorder({(PUBLIC, 443): server.port})
        async with fetcher(recorder, resolver=in_turn([PUBLIC], bad), tls=tls) as subject:
            given = await reason(subject, "https://public.example/a", tmp_path)
    assert recorder.dialled == [(PUBLIC, 443)]
    assert given == "url.address"


async def test_a_name_that_turns_bad_between_two_downloads_is_not_dialled_again(tmp_path: Path) -> None:
    recorder = Recorder()
    turns = [[PUBLIC], ["127.0.0.1"], [PUBLIC_6], ["10.0.0.1"]]
    async with fetcher(recorder, resolver=in_turn(*turns)) as subject:
        given = [await reason(subject, "https://public.example/a", tmp_path) for _ in turns]
    assert given == ["fetch.connect", "url.address"] * 2
    assert recorder.dialled == [(PUBLIC, 443), (PUBLIC_6, 443)]


def _raises(error: OSError) -> Resolver:
    async def resolver(host: str, port: int) -> Sequence[str]:
        raise error

    return resolver


async def _stalls(host: str, port: int) -> Sequence[str]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    "resolver",
    [
        in_turn([]),
        _stalls,
        _raises(socket.gaierror(socket.EAI_NONAME, "no such name")),
        _raises(socket.gaierror(socket.EAI_AGAIN, "try again")),
        _raises(socket.gaierror(socket.EAI_FAIL, "failed")),
        _raises(OSError(24, "too many open files")),
        _raises(TimeoutError()),
        _raises(ConnectionRefusedError()),
    ],
    ids=["empty", "stall", "no-name", "again", "fail", "files", "timeout", "refused"],
)
async def test_without_an_answer_nothing_is_dialled(resolver: Resolver, tmp_path: Path) -> None:
    recorder = Recorder()
    limits = DownloadLimits(max_bytes=4096, resolve_seconds=0.02)
    async with fetcher(recorder, resolver=resolver, limits=limits) as subject:
        given = await reason(subject, "https://public.example/a", tmp_path)
    assert (recorder.dialled, given) == ([], "fetch.resolve")


# With nothing of a test's between the download and the system


@pytest.mark.parametrize(
    "url",
    [
        *(f"{{scheme}}://{host}:{{port}}/" for host in urls.spellings("127.0.0.1")),
        *(f"{{scheme}}://[{host}]:{{port}}/" for host in urls.inside_ipv6("127.0.0.1")),
        *("{scheme}://127.0.0.1:{port}/", "{scheme}://localhost:{port}/", "{scheme}://LOCALHOST:{port}/"),
        *("{scheme}://0.0.0.0:{port}/", "{scheme}://[::]:{port}/", "{scheme}://[::1]:{port}/"),
        *(
            "{scheme}://127.0.0.2:{port}/",
            "{scheme}://a@127.0.0.1:{port}/",
            "{scheme}://a\\@127.0.0.1:{port}/",
        ),
    ],
)
async def test_a_real_listener_is_never_connected_to(url: str, tmp_path: Path) -> None:
    """Its own resolver and its own sockets: the listener takes every connection, whatever comes over it."""
    async with serve(says(answer(b"secret")), waits_for_head=False) as canary:
        for scheme in ("http", "https"):
            for networks in ((), (ip_network(f"{ORIGIN}/32"),)):
                subject = Fetcher(sources=Sources(), networks=networks, limits=LIMITS, ssl_context=TLS)
                async with subject:
                    given = await reason(subject, url.format(scheme=scheme, port=canary.port), tmp_path)
                assert given.startswith("url.")
        # A connection that had been made would stand in the listener's queue before this one.
        reader, writer = await asyncio.open_connection("127.0.0.1", canary.port)
        assert await reader.read()
        writer.close()
    assert len(canary.peers) == 1


# And what is welcome


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def both_ends(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server of all names of the corpus, and for a client that trusts it."""
    hosts = {str(urlsplit(case.url).hostname) for case in WELCOME}
    # Not every name of a host is one that a certificate's maker takes.
    plain = {host for host in hosts if not host.endswith(".public.example") or host.count(".") > 2}
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*sorted(plain), "*.public.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_every_welcome_url_is_fetched_as_it_was_written(
    both_ends: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path
) -> None:
    server_tls, client_tls = both_ends
    async with serve(says(answer(b"image")), context=server_tls) as server:
        for number, case in enumerate(WELCOME):
            recorder = Recorder({(case.address, case.port): server.port})
            async with fetcher(recorder, tls=client_tls) as subject:
                download = await subject.fetch(case.url, tmp_path / str(number))
            assert download.bytes == 5
            assert recorder.dialled == [(case.address, case.port)], case.url
            assert server.heads[number].split(b"\r\n")[0] == f"GET {case.target} HTTP/1.1".encode(), case.url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://a.ximilar.example/",
            "https://a.b.ximilar.example/c/../d",
            "https://A.XIMILAR.EXAMPLE/a?b=/../",
        ),
        *("https://bucket.example/results/a", "https://bucket.example/results/a/b.png?X=%2e%2e/"),
        *(
            "https://bucket.example/results/",
            "https://bucket.example/results/a%20b",
            "https://bucket.example/results//a",
        ),
        *(
            "https://bucket.example/results/...",
            "https://bucket.example/results/..a",
            "https://bucket.example/results/a;b",
        ),
        *(
            "https://files.example:8443/out",
            "https://files.example:8443/out/a",
            "https://files.example:8443/out?a",
        ),
    ],
)
async def test_what_lies_under_a_source_is_dialled(url: str, tmp_path: Path) -> None:
    recorder = Recorder()
    async with fetcher(recorder, sources=urls.LISTED) as subject:
        given = await reason(subject, url, tmp_path)
    assert given == "fetch.connect"
    assert [address for address, _ in recorder.dialled] == [PUBLIC]
