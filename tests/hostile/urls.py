"""URLs that mean harm, by class, and such as mean none. Written from the standards, not from the code.

What a name of `NAMES` resolves to is part of the corpus; any other name is public.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:4700::6810:84e5"


@dataclass(frozen=True)
class Hostile:
    """One URL, and the reasons of which one has to be given where any public https host is allowed."""

    kind: str
    url: str
    reasons: frozenset[str]


def _all(kind: str, reasons: str, urls: Iterator[str] | list[str]) -> Iterator[Hostile]:
    for url in urls:
        yield Hostile(kind, url, frozenset(f"url.{reason}" for reason in reasons.split()))


INNER = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "0.0.0.0", "100.100.100.200")
"""Addresses that attackers like to spell."""


def spellings(address: str) -> list[str]:
    """All the ways that one parser or another takes for an IPv4 address; the usual one is not among them."""
    a, b, c, d = address.split(".")
    number = int(IPv4Address(address))
    parts = [int(part) for part in (a, b, c, d)]
    full_width = address.translate({ord(str(n)): chr(0xFF10 + n) for n in range(10)})
    circled = address.translate({ord(str(n)): chr(0x245F + n) for n in range(1, 10)})
    found = [
        str(number),
        f"{number:#x}",
        f"{number:#X}",
        f"0{number:o}",
        str(number + 2**32),
        ".".join(f"{part:#x}" for part in parts),
        ".".join(f"0{part:o}" for part in parts),
        ".".join(f"{part:03}" for part in parts),
        ".".join(f"{part + 256}" for part in parts),
        f"{a}.{b}.{parts[2] << 8 | parts[3]}",
        f"{a}.{parts[1] << 16 | parts[2] << 8 | parts[3]}",
        f"{parts[0]:#x}.{b}.0{parts[2]:o}.{d}",
        f"{address}.",
        f"{address}..",
        f".{address}",
        f"00{address}",
        f"{address}%00",
        f"{address}%00.example.com",
        address.replace(".", "%2e"),
        "%" + "%".join(f"{ord(char):02x}" for char in address),
        full_width,
        circled,
        address.replace(".", "。"),
        address.replace(".", "．"),  # noqa: RUF001 - the full-width one
        address.replace(".", "｡"),
        f"[{address}]",
        f"[::{address}",
        f"{address}]",
        f"{address},example.com",
        f"{address}\u200b",
        f"{address}%2f32",
    ]
    return [spelling for spelling in found if spelling != address]


SPECIAL = (
    # IANA IPv4 special-purpose registry, each block.
    *("0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32"),
    *("192.0.0.170/32", "192.0.0.171/32", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
    *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "240.0.0.0/4", "255.255.255.255/32"),
    # Multicast, by its scopes.
    *("224.0.0.0/24", "224.0.1.0/24", "232.0.0.0/8", "233.0.0.0/8", "239.0.0.0/8"),
    # IANA IPv6 special-purpose registry, each block.
    *("::1/128", "::/128", "::ffff:0:0/112", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23"),
    *("2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32"),
    *("2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16"),
    *("2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10"),
    # Not global unicast by the IANA's address space: unassigned, deprecated, multicast by scope.
    *("::/96", "200::/7", "400::/6", "800::/5", "1000::/4", "4000::/3", "6000::/3", "8000::/3", "a000::/3"),
    *("c000::/3", "e000::/4", "f000::/5", "f800::/6", "fec0::/10", "ff00::/16", "ff02::/16", "ff05::/16"),
)


def ends_of_special_blocks() -> list[str]:
    """The first and the last address of each block."""
    ends = [str(end) for block in map(ip_network, SPECIAL) for end in (block[0], block[-1])]
    return list(dict.fromkeys(ends))


def inside_ipv6(address: str) -> list[str]:
    """An IPv4 address in each form in which IPv6 carries one."""
    number = int(IPv4Address(address))
    high, low = number >> 16, number & 0xFFFF
    return [
        f"::ffff:{address}",  # mapped, RFC 4291
        f"::ffff:{high:x}:{low:x}",
        f"0:0:0:0:0:FFFF:{high:04X}:{low:04X}",
        f"::{address}",  # compatible, RFC 4291
        f"::ffff:0:{address}",  # translated, RFC 2765
        f"64:ff9b::{address}",  # NAT64, RFC 6052
        f"64:ff9b:1::{address}",  # local NAT64, RFC 8215
        f"64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 0xFF) << 8:x}::",
        f"2002:{high:x}:{low:x}::1",  # 6to4, RFC 3056
        str(IPv6Address(0x20010000 << 96 | number << 64 | 0x8000_0000 << 32 | 1)),  # Teredo's server
        str(
            IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | 0xFFFF << 32 | number ^ 0xFFFFFFFF)
        ),  # its client
        f"2606:4700::5efe:{address}",  # ISATAP, RFC 5214
        f"2606:4700::200:5efe:{address}",
        f"fe80::5efe:{address}",
    ]


METADATA = {
    "169.254.169.254": "latest/meta-data/iam/security-credentials/",
    "169.254.170.2": "v2/credentials/",
    "169.254.170.23": "v1/credentials",
    "169.254.169.253": "",
    "169.254.42.42": "conf?format=json",
    "169.254.0.23": "latest/meta-data/",
    "100.100.100.200": "latest/meta-data/ram/security-credentials/",
    "100.88.222.5": "latest/meta-data/",
    "168.63.129.16": "machine?comp=goalstate",
    "192.0.0.192": "latest/",
    "[fd00:ec2::254]": "latest/meta-data/",
    "[fd00:ec2::23]": "v1/credentials",
    "[fd20:ce::254]": "computeMetadata/v1/",
    "[fe80::a9fe:a9fe]": "openstack/latest/meta_data.json",
}

NAMES: Mapping[str, tuple[str, ...]] = {
    "localhost": ("127.0.0.1", "::1"),
    "localhost.localdomain": ("127.0.0.1",),
    "ip6-localhost": ("::1",),
    "LOCALHOST": ("127.0.0.1",),
    "broadcasthost": ("255.255.255.255",),
    "127.0.0.1.nip.io": ("127.0.0.1",),
    "169-254-169-254.sslip.io": ("169.254.169.254",),
    "localtest.me": ("127.0.0.1", "::1"),
    "foo.lvh.me": ("127.0.0.1",),
    "metadata.google.internal": ("169.254.169.254",),
    "metadata": ("169.254.169.254",),
    "metadata.tencentyun.com": ("169.254.0.23",),
    "instance-data": ("169.254.169.254",),
    "instance-data.ec2.internal": ("169.254.169.254",),
    "kubernetes.default.svc": ("10.96.0.1",),
    "kubernetes.default.svc.cluster.local": ("10.96.0.1",),
    "host.docker.internal": ("192.168.65.254",),
    "gateway.docker.internal": ("172.17.0.1",),
    "router": ("192.168.1.1",),
    "printer.local": ("169.254.7.7",),
    "xn--80ak6aa92e.example": ("10.1.2.3",),
    "mixed-v4.example": (PUBLIC, "10.0.0.1"),
    "mixed-v6.example": (PUBLIC, PUBLIC_6, "::1"),
    "mixed-last.example": (*(f"93.184.216.{n}" for n in range(40)), "127.0.0.1"),
    "mapped.example": ("::ffff:127.0.0.1",),
    "nat64.example": ("64:ff9b::a9fe:a9fe",),
    "zone.example": ("fe80::1%eth0",),
    "public-with-zone.example": (f"{PUBLIC_6}%2",),
    "unspecified.example": ("::",),
    "zero.example": ("0.0.0.0",),
    "no-address.example": ("93.184.216.34 ",),
    "name-for-address.example": ("localhost",),
}
"""Names that do not resolve as their owner would have one believe."""


def hostile() -> list[Hostile]:
    """The corpus: every URL of it is refused where any public https host is allowed."""
    return [
        *_all("spelling", "malformed", [f"https://{s}/a" for a in INNER for s in spellings(a)]),
        *_all("address", "address", [f"https://{_host(a)}/a" for a in ends_of_special_blocks()]),
        *_all("inside-ipv6", "address", [f"https://[{s}]/a" for a in INNER for s in inside_ipv6(a)]),
        *_all("metadata", "address", [f"https://{host}/{path}" for host, path in METADATA.items()]),
        *_all("metadata", "scheme", [f"http://{host}/{path}" for host, path in METADATA.items()]),
        *_all("name", "address", [f"https://{name}/a" for name in NAMES]),
        *_all("userinfo", "userinfo", list(_userinfo())),
        *_all("international", "malformed", list(_international())),
        *_all("port", "port malformed", list(_ports())),
        *_all("scheme", "scheme malformed", list(_schemes())),
        *_all("text", "malformed userinfo", list(_texts())),
    ]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _userinfo() -> Iterator[str]:
    for inner in ("127.0.0.1", "[::1]", "169.254.169.254", "localhost", "public.example"):
        yield f"https://public.example@{inner}/"
        yield f"https://public.example:443@{inner}/"
        yield f"https://user:@{inner}/"
        yield f"https://@{inner}/"
        yield f"https://public.example%40{inner}@{inner}/"
        yield f"https://{inner}@public.example/"
        yield f"https://a@b@{inner}/"
        yield f"https://;@{inner}/"


def _international() -> Iterator[str]:
    for host in (
        "ｌｏｃａｌｈｏｓｔ",  # noqa: RUF001 - full-width letters are the point
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "𝓵𝓸𝓬𝓪𝓵𝓱𝓸𝓼𝓽",  # noqa: RUF001 - letters of another alphabet are the point
        "loc\u00adalhost",  # the soft hyphen, which IDNA drops
        "local\u200dhost",
        "localho\u017ft",  # the long s, which IDNA 2003 maps to s
        "exämple.com",
        "рublic.example",  # noqa: RUF001 - a Cyrillic letter
        "public.example\u3002",
        "public\uff0eexample",
        "127\u30020\u30020\u30021",
        "①②⑦.⓪.⓪.①",
        "faß.example",
        "☃.example",
        "public.example\u202e",
        "\ufeffpublic.example",
        "\u0660.\u0660.\u0660.\u0660",
    ):
        yield f"https://{host}/a"
    yield "https://ex\u00e4mple.com/\u00fc"
    yield "https://ex%C3%A4mple.com/a?\u00fc"
    yield "https://public.example\uff1a443/"
    yield "https:\uff0f\uff0fpublic.example/"
    yield "https://public.example\uff03@127.0.0.1/"
    yield "https://public.example\u2488com/"
    yield "https://xn--" + "a" * 64 + ".example/"


def _ports() -> Iterator[str]:
    for port in (
        1,
        21,
        22,
        23,
        25,
        53,
        80,
        110,
        111,
        389,
        444,
        2375,
        2379,
        3306,
        5432,
        5984,
        6379,
        8080,
        8443,
    ):
        yield f"https://public.example:{port}/"
    for port in (9200, 10250, 11211, 27017, 65535):
        yield f"https://{PUBLIC}:{port}/"
        yield f"https://[{PUBLIC_6}]:{port}/"
    for text in (
        "",
        "0",
        "00443",
        "0443",
        "-1",
        "+443",
        "65536",
        "443.0",
        "4e2",
        "0x1bb",
        "443:443",
        "https",
    ):
        yield f"https://public.example:{text}/"
    for text in ("18446744073709552059", "４４３", "%34%34%33", "443@127.0.0.1:443:"):  # noqa: RUF001 - on purpose
        if "@" not in text:
            yield f"https://public.example:{text}/"


def _schemes() -> Iterator[str]:
    for scheme in (
        "http",
        "ftp",
        "ftps",
        "ws",
        "wss",
        "gopher",
        "dict",
        "ldap",
        "sftp",
        "tftp",
        "telnet",
        "smb",
    ):
        yield f"{scheme}://public.example/a"
        yield f"{scheme}://127.0.0.1/a"
    yield from (
        *(
            "file:///etc/passwd",
            "file://localhost/etc/passwd",
            "FILE:///etc/passwd",
            "data:image/png;base64,AA",
        ),
        *("javascript:alert(1)", "jar:https://public.example/a!/b", "view-source:https://public.example/"),
        *("blob:https://public.example/1", "about:blank", "netdoc:///etc/hosts", "php://filter/resource=a"),
        *("unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "urn:a:b", "mailto:a@b"),
        *("httpss://public.example/", "https+insecure://public.example/", "https2://public.example/"),
        *("1https://public.example/", "://public.example/", "//public.example/", "/a", "a", "", "https"),
        *("url:https://public.example/", "https:https://public.example/", "http:://public.example/"),
    )


def _texts() -> Iterator[str]:
    for at in (
        "https:",
        "https:/",
        "https:///",
        "https:////",
        "https:\\\\",
        "https:/\\",
        "https:\\/",
        "https://",
    ):
        if at != "https://":
            yield f"{at}public.example/a"
    for inner in ("127.0.0.1", "[::1]", "169.254.169.254"):
        yield f"https://public.example\\@{inner}/"
        yield f"https://{inner}\\@public.example/"
        yield f"https://{inner}\\.public.example/"
        yield f"https://public.example\\{inner}/"
        yield f"https://{inner} .public.example/"
        yield f"https://{inner}\t.public.example/"
        yield f"https://{inner}\x00.public.example/"
        yield f"https://public.example:443\\@{inner}:443/"
        yield f"https://public.example\r\n{inner}/"
    for char in (*range(0x21), 0x7F, 0x80, 0xA0, 0xAD):
        if char not in {0x20, 0xA0, 0xAD}:  # in a path these are percent-encoded
            yield f"https://public.example/a{chr(char)}b"
        yield f"https://public{chr(char)}.example/a"
    for char in "!\"$&'()*+,;<=>^`{|}~":
        yield f"https://pub{char}lic.example/"
    yield from ("\nhttps://public.example/", "https://public.example/\t", "https://public.example/\n")
    yield from (" https://public.example /", "https: //public.example/", "https:// public.example/")
    yield from (" https://127.0.0.1\\@public.example/ ", " https://a@public.example/ ", " //public.example/")
    yield "https://public.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    yield "https://public.example/\r\nX-Injected: 1"
    yield "https://public.example/?a=\r\nSet-Cookie: b"
    yield "https://public.example/#\r\n"
    yield from (
        "https://",
        "https://?",
        "https://#",
        "https://:443/",
        "https://./",
        "https://../",
        "https://-/",
    )
    yield from ("https://.public.example/", "https://public..example/", "https://public.example./")
    yield from (
        "https://[]/",
        "https://[::1/",
        "https://::1]/",
        "https://::1/",
        "https://[[::1]]/",
        "https://[::1]a/",
    )
    yield from (
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1%25lo]/",
        "https://[v1.a:b]/",
    )
    yield from ("https://[::ffff:127.1]/", "https://[::ffff:0x7f.0.0.1]/", "https://[0:0:0:0:0:0:0:0:1]/")
    yield from ("https://[1::2::3]/", "https://[::12345]/", "https://[::127.0.0.01]/", "https://[ ::1]/")
    yield "https://" + "a" * 64 + ".example/"
    yield "https://" + "a." * 130 + "example/"
    yield "https://public.example/" + "a" * 9000


LISTED = (
    "https://*.ximilar.example/",
    "https://bucket.example/results/",
    "https://files.example:8443/out",
)
"""What is allowed where `beside` is judged."""


def beside() -> list[Hostile]:
    """URLs that come close to an entry of `LISTED`, and lie under none."""
    hosts = (
        *("ximilar.example", "evilximilar.example", "x.evilximilar.example", "ximilar.example.evil.example"),
        *("a.ximilar.example.evil.example", "ximilar-example", "a.ximilarXexample", "a-ximilar.example"),
        *("a.ximilar.exampl", "a.ximilar.example.com", "a.xn--ximilar.example", "ximilar", "a.ximilar"),
        *("bucket.example.evil.example", "evil-bucket.example", "a.bucket.example", "www.bucket.example"),
        *("bucket.exampl", "files.example.evil.example", "public.example", PUBLIC, f"[{PUBLIC_6}]"),
    )
    paths = (
        *("", "/", "/results", "/Results/a", "/resultsx/a", "/results-evil/a", "//results/a", "/a/results/a"),
        *(
            "/results/../a",
            "/results/./a",
            "/results/..",
            "/results/a/../../b",
            "/results/.../..",
            "/./results/a",
        ),
        *("/results/%2e%2e/a", "/results/.%2e/a", "/results/%2E./a", "/results/%2e/a", "/results%2fa"),
        *("/results/..%2fa", "/results/%2e%2e%2fa", "/results/%2f/a", "/results/a%2fb", "/results%2F..%2Fa"),
        *("/results/%252e%252e/a", "/results/..%252fa", "/results/%25252e%25252e/a", "/results/%5c..%5ca"),
        *(
            "/results/..%5ca",
            "/results/%255c..%255ca",
            "/results/..;/a",
            "/results/..;a=b/a",
            "/results/.;/a",
        ),
        *("/results/%2e%2e;/a", "/results/..%3b/a", "/results/%2e%2e%3bx/a", "/%72esults/a", "/results?/a"),
        *("/results#/a", "/?/results/a", "/#/results/a", "/;/results/a"),
    )
    return [
        *_all("host", "source", [f"https://{host}/results/a" for host in hosts]),
        *_all("host", "source", [f"https://{host}/?https://a.ximilar.example/" for host in hosts[:6]]),
        *_all(
            "host",
            "source",
            [f"https://public.example/{sep}.ximilar.example/" for sep in ("#", "?", ";", "")],
        ),
        *_all("path", "source", [f"https://bucket.example{path}" for path in paths]),
        *_all(
            "path", "source", [f"https://files.example:8443/{path}" for path in ("outside", "", "out/../a")]
        ),
        *_all("port", "port", ["https://a.ximilar.example:8443/a", "https://files.example/out/a"]),
        *_all("port", "port", ["https://bucket.example:444/results/a", "https://files.example:8444/out"]),
        *_all("scheme", "scheme", ["http://a.ximilar.example/a", "http://bucket.example/results/a"]),
        *_all("host", "userinfo", ["https://a.ximilar.example@evil.example/"]),
        *_all(
            "host", "malformed", ["https://evil.example\\.ximilar.example/", "https://a.ximilar.example./"]
        ),
    ]


@dataclass(frozen=True)
class Welcome:
    """A URL that has to work: what is dialled for it, and the request line's target."""

    url: str
    address: str
    port: int
    target: str


def welcome() -> list[Welcome]:
    """URLs that are strange, and do no harm, where any public https host is allowed."""
    name, paths = "public.example", ("/", "/a", "/a/b.png", "/a//b", "/a/../b", "/./a", "/%2e%2e/a", "/a%2Fb")
    more = ("/a;b=c", "/@a", "/a:b", "/~a", "/{a}", "/a|b", "/'a'", "/a%00b", "/a%0d%0ab", "/[a]", "/a+b%20c")
    raw = {
        "/a b": "/a%20b",
        "/B\u00fccher/\u732b.png?t=\u00fc b#\u00fc": "/B%C3%BCcher/%E7%8C%AB.png?t=%C3%BC%20b",
        "/\u00fc?a/../b": "/%C3%BC?a/../b",
        "/a\u00a0\u00ad\u200bb": "/a%C2%A0%C2%AD%E2%80%8Bb",
        "/\uff0e\uff0e/\uff20": "/%EF%BC%8E%EF%BC%8E/%EF%BC%A0",
        "/100%\u00fc%zz": "/100%%C3%BC%zz",
        "?q=\u00fc": "/?q=%C3%BC",
    }
    """What is percent-encoded by the URL standard (url.spec.whatwg.org), and is not ASCII or a blank."""
    queries = (
        "?",
        "?a=b",
        "?a=b?c",
        "?X-Amz-Signature=a%2Fb%3D&X-Amz-Expires=60",
        "?u=http://127.0.0.1/",
        "?@a",
    )
    hosts = {
        f"{PUBLIC}": PUBLIC,
        f"[{PUBLIC_6}]": PUBLIC_6,
        "[2606:4700:0:0:0:0:6810:84E5]": PUBLIC_6,
        "[64:ff9b::5db8:d822]": "64:ff9b::5db8:d822",
        "public.example:443": PUBLIC,
        "PUBLIC.Example": PUBLIC,
        "a.b.c.public.example": PUBLIC,
        "xn--bcher-kva.public.example": PUBLIC,
        "1.2.3.4.public.example": PUBLIC,
        "127.0.0.1.public.example": PUBLIC,
        "0x7f.public.example": PUBLIC,
        "localhost.public.example": PUBLIC,
        "bucket--x.s3.public.example": PUBLIC,
        "a" * 63 + ".public.example": PUBLIC,
        "single": PUBLIC,
    }
    return [
        *(Welcome(f"https://{name}{path}", PUBLIC, 443, path) for path in (*paths, *more)),
        *(Welcome(f" https://{name}{path} ", PUBLIC, 443, sent) for path, sent in raw.items()),
        *(Welcome(f"https://{name}/{query}", PUBLIC, 443, f"/{query}") for query in queries),
        *(Welcome(f"https://{host}/a", address, 443, "/a") for host, address in hosts.items()),
        Welcome(f"HTTPS://{name}/a", PUBLIC, 443, "/a"),
        Welcome(f"https://{name}", PUBLIC, 443, "/"),
        Welcome(f"https://{name}?a", PUBLIC, 443, "/?a"),
        Welcome(f"https://{name}#@127.0.0.1/", PUBLIC, 443, "/"),
        Welcome(f"https://{name}/a#b?c", PUBLIC, 443, "/a"),
        Welcome(f"https://{name}/" + "a" * 4000, PUBLIC, 443, "/" + "a" * 4000),
    ]
