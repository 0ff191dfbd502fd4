"""Parsing and checking of URLs, with the reason of each refusal."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core.completion import MAX_URL
from receiver.core.errors import ConfigError, UrlError
from receiver.fetch.network_guard import Networks
from receiver.fetch.sources import Sources, check_url

ANYWHERE = Sources()
LOOPBACK = (ip_network("127.0.0.1/32"), ip_network("::1/128"))


def reason(url: str, *, sources: Sources = ANYWHERE, networks: Networks = ()) -> str:
    try:
        check_url(url, sources, networks)
    except UrlError as exc:
        return exc.reason
    return "allowed"


def test_a_plain_url_is_taken_apart_and_kept_as_it_was_written() -> None:
    target = check_url("HTTPS://Images.Example.COM/a%2Fb//c;d?X-Sig=a%2Bb/../{}&t=|#part", ANYWHERE, ())
    assert (target.scheme, target.host, target.port) == ("https", "images.example.com", 443)
    assert target.request_target == "/a%2Fb//c;d?X-Sig=a%2Bb/../{}&t=|"
    assert target.confined is None


def test_a_url_without_a_path_asks_for_the_root() -> None:
    assert check_url("https://example.com?a=1", ANYWHERE, ()).request_target == "/?a=1"


def test_what_is_shown_of_a_url_never_holds_its_query() -> None:
    target = check_url("https://[2606:4700:0::1]/a/b?X-Amz-Signature=secret", ANYWHERE, ())
    assert str(target) == "https://[2606:4700::1]/a/b"
    assert "secret" not in repr(target)
    assert len(str(check_url("https://example.com/" + "a" * 4000, ANYWHERE, ()))) == 200


@pytest.mark.parametrize(
    "url",
    [
        "",
        "image.png",
        "//example.com/a",
        "https:",
        "https:example.com/a",
        "https:/example.com/a",
        "https:///example.com/a",
        "https://",
        "https://?a",
        "https://:443/a",
        "\thttps://example.com/a",
        "https://exa mple.com/a",
        "https://example.com/a\n",
        "https://example.com/\r\nHost: x",
        "https://example.com/\x00",
        "https://example.com/\x7f",
        "https://exa\tmple.com/",
        "https://example.com/\x85",
        "https://example.com/\ud800",
        "https://exämple.com/",
        "https://127。0。0。1/",
        "https://①②⑦.0.0.1/",
        "https://127.0.0.1\\@example.com/",
        "https:\\\\example.com\\a",
        "https://example.com\\.evil.example/",
        "https://exam%70le.com/",
        "https://example.com%2f@x/".replace("@", "."),
        "https://example.com./",
        "https://.example.com/",
        "https://example..com/",
        "https://-example.com/",
        "https://example-.com/",
        "https://exa!mple.com/",
        "https://*.example.com/",
        "https://" + "a" * 64 + ".com/",
        "https://" + "a." * 127 + "com/",
        # IPv4 in every spelling but the one.
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0X7F.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://127.0.0.01/",
        "https://127.0.0.1./",
        "https://127.0.0.256/",
        "https://1.2.3.4.5/",
        "https://example.0x7f/",
        "https://0x/",
        # IPv6.
        "https://[::1/",
        "https://::1/",
        "https://[]/",
        "https://[::1]x/",
        "https://x[::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[v1.fe]/",
        "https://[127.0.0.1]/",
        "https://[::1]:80:80/",
        "https://a:b:443/",
        "https://example.com/" + "a" * MAX_URL,
    ],
)
def test_what_is_no_plain_url_is_malformed(url: str) -> None:
    assert reason(url, networks=LOOPBACK) == "url.malformed"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "ws://example.com/",
        "http+unix://%2Fvar%2Frun%2Fx/",
        "http://example.com/a",
        "http://127.0.0.1/a",
    ],
)
def test_only_https_is_allowed_where_no_networks_are(url: str) -> None:
    assert reason(url) == "url.scheme"


@pytest.mark.parametrize(
    "url",
    [
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://example.com:443@127.0.0.1/",
        "https://127.0.0.1@example.com/",
        "https://[::1]@example.com/",
        "https://a@b@example.com/",
        "https://user%40x@example.com/",
    ],
)
def test_userinfo_is_refused(url: str) -> None:
    assert reason(url, networks=LOOPBACK) == "url.userinfo"


@pytest.mark.parametrize(
    "port", ["", "0", "-1", "+443", "0443", "65536", "99999", "1e3", "0x1bb", "4 43", "x"]
)
def test_a_port_that_is_no_port_is_refused(port: str) -> None:
    assert reason(f"https://example.com:{port}/") in {"url.port", "url.malformed"}


@pytest.mark.parametrize("port", [22, 80, 6379, 8080, 8443, 9200])
def test_another_port_than_the_default_is_refused(port: int) -> None:
    assert reason(f"https://example.com:{port}/") == "url.port"


def test_the_default_port_may_be_written_out() -> None:
    assert check_url("https://example.com:443/a", ANYWHERE, ()).origin == "https://example.com"


def test_an_at_sign_behind_the_host_is_no_userinfo() -> None:
    assert check_url("https://example.com/@a?b@c", ANYWHERE, ()).host == "example.com"
    assert check_url("https://example.com#@127.0.0.1/", ANYWHERE, ()).host == "example.com"
    assert check_url("https://example.com?@127.0.0.1/", ANYWHERE, ()).host == "example.com"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/a", "http://127.0.0.1:8090/a", "https://[::1]:8443/", "http://[0:0::1]/"]
)
def test_an_address_in_the_networks_may_be_plain_and_on_any_port(url: str) -> None:
    assert check_url(url, ANYWHERE, LOOPBACK).confined in {"url.scheme", "url.port"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.2/", "url.scheme"),
        ("http://8.8.8.8/", "url.scheme"),
        ("https://127.0.0.2:8443/", "url.port"),
    ],
)
def test_an_address_outside_the_networks_may_not(url: str, expected: str) -> None:
    assert reason(url, networks=LOOPBACK) == expected


def test_a_name_over_plain_http_is_confined_to_the_networks() -> None:
    assert check_url("http://localhost:8090/a", ANYWHERE, LOOPBACK).confined == "url.scheme"
    assert check_url("https://sandbox.example:8443/a", ANYWHERE, LOOPBACK).confined == "url.port"
    assert check_url("https://sandbox.example/a", ANYWHERE, LOOPBACK).confined is None


LISTED = Sources.parse(
    [
        "https://*.ximilar.com/",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/",
        "https://files.example:8443/out",
    ]
)


@pytest.mark.parametrize(
    "url",
    [
        "https://images.ximilar.com/a.png",
        "https://a.b.ximilar.com/",
        "https://IMAGES.XIMILAR.COM/a/../b",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/a/b.png?X=../",
        "https://files.example:8443/out",
        "https://files.example:8443/out/a",
        "https://files.example:8443/out?a",
    ],
)
def test_what_lies_under_a_source_is_allowed(url: str) -> None:
    assert reason(url, sources=LISTED) == "allowed"


@pytest.mark.parametrize(
    "url",
    [
        "https://ximilar.com/",
        "https://eximilar.com/",
        "https://x.eximilar.com/",
        "https://ximilar.com.evil.example/",
        "https://images.ximilar.com.evil.example/",
        "https://evil.example/images.ximilar.com/",
        "https://evil.example/?https://images.ximilar.com/",
        "https://evil.example/#.ximilar.com/",
        "https://s3-eu-west-1.amazonaws.com/",
        "https://s3-eu-west-1.amazonaws.com/evil-bucket/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images-evil/a",
        "https://s3-eu-west-1.amazonaws.com//ximilar-tmp-images/a",
        "https://s3-eu-west-1.amazonaws.com/XIMILAR-tmp-images/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/../evil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/./a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/%2e%2e/evil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/.%2E/evil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/..%2fevil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/%2e%2e%2fevil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/%252e%252e/evil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/..;/evil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/..;x=1/evil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/%5c..%5cevil/a",
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images%2fa",
        "https://files.example:8443/outside",
        "https://files.example:8443/",
        "https://8.8.8.8/",
    ],
)
def test_what_lies_beside_a_source_is_refused(url: str) -> None:
    assert reason(url, sources=LISTED) == "url.source"


def test_a_listed_host_on_a_port_that_no_entry_of_it_names_is_refused() -> None:
    assert reason("https://files.example/out/a", sources=LISTED) == "url.port"
    assert reason("https://images.ximilar.com:8443/a", sources=LISTED) == "url.port"


def test_where_sources_are_listed_the_networks_alone_allow_nothing() -> None:
    assert reason("http://127.0.0.1:8090/a", sources=LISTED, networks=LOOPBACK) == "url.source"
    sandbox = Sources.parse(["http://127.0.0.1:8090/"])
    assert reason("http://127.0.0.1:8090/a", sources=sandbox, networks=LOOPBACK) == "allowed"
    assert reason("http://127.0.0.1:8090/a", sources=sandbox) == "url.scheme"


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "https://",
        "https://*/",
        "https://*.com/",
        "https://*.127.0.0.1/",
        "https://a.*.example.com/",
        "https://ex*mple.com/",
        "https://user:secret@example.com/",
        "https://example.com/a/../b/",
        "https://example.com/a%2Fb/",
        "https://example.com/?secret=1",
        "https://example.com/#a",
        "https://example.com:0/",
        "https://exämple.com/",
    ],
)
def test_a_source_that_is_no_prefix_stops_the_start_and_names_its_place(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"^RECEIVER_IMAGE_SOURCES, entry 2: ") as caught:
        Sources.parse(["https://example.com/", entry])
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60) | st.text("htps:/.@[]%\\0127xa?#-_ ", max_size=40).map("https://".__add__))
def test_any_text_is_either_refused_with_a_reason_or_one_plain_target(text: str) -> None:
    try:
        target = check_url(text, ANYWHERE, LOOPBACK)
    except UrlError:
        return
    again = check_url(target.origin + target.request_target, ANYWHERE, LOOPBACK)
    assert again == target
