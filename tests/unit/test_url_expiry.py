"""The expiry that a URL states."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.core import serializers
from receiver.core.url_expiry import deadline, stated_expiry

END = datetime(2026, 11, 23, 9, 30, 0, tzinfo=UTC)
EPOCH = str(int(END.timestamp()))
BEGIN = (END - timedelta(hours=1)).strftime("%Y%m%dT%H%M%SZ")

S3_V4 = (
    "https://b.s3.eu-west-1.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIA%2F20261123%2Feu-west-1%2Fs3%2Faws4_request"
    f"&X-Amz-Date={BEGIN}&X-Amz-Expires=3600&X-Amz-SignedHeaders=host"
    "&X-Amz-Security-Token=a%2Bb&X-Amz-Signature=00ff"
)
GCS_V4 = (
    "https://storage.googleapis.com/b/k?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=c"
    f"&X-Goog-Date={BEGIN}&X-Goog-Expires=3600&X-Goog-SignedHeaders=host&X-Goog-Signature=00ff"
)


def url(**query: str) -> str:
    return f"https://host/image.png?{urlencode(query)}"


def cloudfront(policy: str) -> str:
    """A custom policy in CloudFront's own alphabet (Amazon CloudFront Developer Guide, "custom policy")."""
    text = base64.b64encode(policy.encode()).decode().translate(str.maketrans("+=/", "-_~"))
    return f"https://d1.cloudfront.net/image.png?Policy={text}&Signature=s&Key-Pair-Id=K"


def policy(end: Any) -> str:
    condition = {"DateLessThan": {"AWS:EpochTime": end}, "IpAddress": {"AWS:SourceIp": "0.0.0.0/0"}}
    return json.dumps({"Statement": [{"Resource": "https://d1.cloudfront.net/*?>", "Condition": condition}]})


@pytest.mark.parametrize(
    "presigned",
    [
        S3_V4,
        f"https://b.s3.amazonaws.com/k?x-amz-date={BEGIN}&x-amz-expires=3600&x-amz-signature=00ff",
        f"https://b.s3.amazonaws.com/k?AWSAccessKeyId=AKIA&Signature=a%2Bb%3D&Expires={EPOCH}",
        f"https://d1.cloudfront.net/k?Expires={EPOCH}&Signature=a-b_&Key-Pair-Id=K",
        cloudfront(policy(int(EPOCH))),
        cloudfront(policy(EPOCH)),
        GCS_V4,
        f"https://storage.googleapis.com/b/k?GoogleAccessId=a%40b&Expires={EPOCH}&Signature=a%2Bb",
        "https://a.blob.core.windows.net/c/k?sv=2024-11-04&se=2026-11-23T09%3A30%3A00Z&sr=b&sp=r&sig=a%2Bb",
        "https://a.blob.core.windows.net/c/k?se=2026-11-23T09:30Z&sr=b&sp=r&sig=a",
        "https://a.blob.core.windows.net/c/k?se=2026-11-23T10%3A30%3A00%2B01%3A00&sig=a",
        "https://a.blob.core.windows.net/c/k?se=2026-11-23T09%3A30%3A00.0000000Z&sig=a",
    ],
)
def test_a_signed_url_says_when_it_ends(presigned: str) -> None:
    when = stated_expiry(presigned)
    assert when == END
    assert when.utcoffset() == timedelta(0)


def test_an_azure_end_without_a_time_is_midnight_in_utc() -> None:
    assert stated_expiry("https://host/?se=2026-11-23&sig=a") == datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    "unsigned",
    [
        "https://s3-eu-west-1.amazonaws.com/ximilar-tmp-images/a.png",
        "https://host/?",
        "",
        "not a url",
        "https://[/?Expires=1&Signature=a",
        f"https://host/?Expires={EPOCH}",
        f"https://host/#Expires={EPOCH}&Signature=a",
        url(Expires="soon", Signature="a"),
        url(Expires="", Signature="a"),
        url(Expires="9" * 30, Signature="a"),
        url(Expires="9" * 5000, Signature="a"),
        url(Expires="-99999999999999", Signature="a"),
        url(Expires="253402300799", Signature="a"),
        url(**{"X-Amz-Date": BEGIN}),
        url(**{"X-Amz-Expires": "3600"}),
        url(**{"X-Amz-Date": "yesterday", "X-Amz-Expires": "3600"}),
        url(**{"X-Amz-Date": BEGIN, "X-Amz-Expires": "1e9"}),
        url(**{"X-Amz-Date": BEGIN, "X-Amz-Expires": "9" * 25}),
        url(se="2026-11-23T09:30:00Z"),
        url(se="tomorrow", sig="a"),
        url(se="0001-01-01T00:00:00+14:00", sig="a"),
        url(Policy="%%%", Signature="a"),
        "https://host/?" + "&".join(f"a{n}=1" for n in range(200)) + f"&Expires={EPOCH}&Signature=a",
        cloudfront("no JSON"),
        cloudfront("[" * 3000),
        cloudfront("[]"),
        cloudfront("{}"),
        cloudfront('{"Statement": []}'),
        cloudfront('{"Statement": {}}'),
        cloudfront('{"Statement": "x"}'),
        cloudfront('{"Statement": [{"Condition": []}]}'),
        cloudfront(policy(None)),
        cloudfront(policy([1])),
        cloudfront(policy(float("nan"))),
        cloudfront(policy(float("inf"))),
        cloudfront(policy(10**40)),
        cloudfront('{"Statement": "\ud7ff"}'),
    ],
)
def test_a_url_without_a_readable_end_says_nothing(unsigned: str) -> None:
    assert stated_expiry(unsigned) is None


parameters = st.sampled_from(
    ("X-Amz-Date", "X-Amz-Expires", "X-Goog-Date", "X-Goog-Expires", "Expires", "Signature", "Policy", "se")
)
values = (
    st.text(max_size=12)
    | st.integers().map(str)
    | st.datetimes().map(lambda t: t.isoformat())
    | st.datetimes().map(lambda t: t.strftime("%Y%m%dT%H%M%SZ"))
    | st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat())
    | st.binary(max_size=30).map(lambda b: base64.b64encode(b).decode())
)


@given(st.dictionaries(parameters, values))
@example({"se": "0001-01-01T00:00:00+14:00"})
def test_nothing_in_a_query_raises_and_what_is_read_is_a_time_in_utc(query: dict[str, str]) -> None:
    when = stated_expiry(
        "https://host/?" + "sig=a&" + "&".join(f"{name}={quote(value)}" for name, value in query.items())
    )
    if when is not None:
        assert when.utcoffset() == timedelta(0)
        assert datetime.fromtimestamp(when.timestamp(), UTC).year == when.year


@given(st.text())
def test_no_text_raises(text: str) -> None:
    stated_expiry(text)


statements: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["Statement", "Condition", "DateLessThan", "AWS:EpochTime"]), inner, max_size=2
        )
    ),
    max_leaves=10,
)


@given(statements | statements.map(lambda s: {"Statement": [{"Condition": s}]}))
def test_no_policy_raises(document: Any) -> None:
    stated_expiry(cloudfront(json.dumps(document)))


def test_a_completion_at_the_end_of_all_calendars_has_a_deadline_that_can_be_shown() -> None:
    since = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)
    found = deadline(None, since=since, now=since, lifetime=timedelta(days=36_500))
    assert serializers.time(found.at) == "9999-01-01T00:00:00.000Z"


VECTORS = json.loads((Path(__file__).parent / "data" / "url_expiry.json").read_text(encoding="utf-8"))
"""URLs that real SDKs signed at 2031-05-06T07:08:09Z with dummy keys; each names its package and version."""


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['package']}-{v['variant']}")
def test_the_end_in_a_url_of_a_real_signer_is_read(vector: dict[str, str | None]) -> None:
    assert vector["url"] is not None
    end = stated_expiry(vector["url"])
    assert (end and end.strftime("%Y-%m-%dT%H:%M:%SZ")) == vector["expected_end_utc"]


H = "https://host/a.png?"
E = "1935818289"
SEEN = "2031-05-06T07:18:09+00:00"


@pytest.mark.parametrize(
    ("url", "end"),
    [
        # The same name, once a span and once a moment.
        (f"{H}X-Tos-Algorithm=v2&X-Tos-Expires={E}&X-Tos-Signature=x", SEEN),
        (f"{H}X-Tos-Algorithm=v2&X-Tos-Date=20310506T070809Z&X-Tos-Expires={E}&X-Tos-Signature=x", SEEN),
        (f"{H}X-Date=1935817689&X-Expires=600&X-Signature=x", SEEN),  # Pinata
        (f"{H}x-expires={E}&x-signature=abc%3D", SEEN),  # ByteDance's image hosts
        # Two ends, of which the earlier counts.
        (f"{H}Expires={E}&Policy=eyJleHBpcmF0aW9uIjoiMjA0MC0wMS0wMVQwMDowMDowMFoifQ&Signature=x", SEEN),
        (f"{H}se=2031-05-07&ske=2031-05-06T07:18:09Z&sig=x", SEEN),
        (f"{H}q-sign-time=1;1935818300&q-key-time=1;{E}&q-signature=x", SEEN),
        (f"{H}sign=q-sign-algorithm%3Dsha1%26q-sign-time%3D1%3B{E}%26q-key-time%3D1%3B{E}", SEEN),
        # Seconds, milliseconds, hex, a time, and never.
        (f"{H}expires={E}000&md5=x", SEEN),
        (f"{H}exp={E}000&sig=x", SEEN),
        (f"{H}exp=2031-05-06T07:18:09.5Z&sig=x", SEEN),
        (f"{H}exp=inf&sig=x", None),
        (f"{H}expires=-1&s=x", None),
        (f"{H}expires=0&s=x", None),
        (f"{H}expires=3600&signature=x&se=2031-05-06T07:18:09Z&sig=y", SEEN),  # a span, from a time unknown
        (f"{H}ex=73623e31&is=1&hm=x", SEEN),  # Discord
        (f"{H}ksTime=73623e31&ksSecret=x", SEEN),  # Kling
        (f"{H}_upt=abcdef12{E}", SEEN),  # UpYun
        (f"{H}authorization=bce-auth-v1/AK/2031-05-06T07:08:09Z/-1/host/x", None),  # Baidu: never
        (f"{H}Authorization=3_20310506070809_a_b_000_20310506071809_0006_dnld", SEEN),  # Backblaze B2
        (f"{H}e={E}&token=AK:x", SEEN),  # Qiniu
        (f"{H}pbs=x&pbe={E}&pbt=y", SEEN),  # Pixelbin
        # A list with ~, under any name or none, in the path too.
        (f"{H}hdnea=st=1~exp={E}~acl=/*~hmac=ab", SEEN),
        (f"{H}exp={E}~acl=/*~hmac=ab", SEEN),
        (f"https://host/token=exp={E}~acl=/*~hmac=ab/a.png", SEEN),
        (f"{H}token=exp={E}~data=exp=1000000000~hmac=ab", None),  # two ends: neither is certain
        (f"{H}token=exp={E}~acl=/*", None),  # nothing proves it
        # A JWT counts seconds, even thirteen digits of them, which no calendar has.
        (f"{H}token=eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE5MzU4MTgyODl9.x", SEEN),
        (f"{H}token=eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE5MzU4MTgyODkwMDB9.x", None),
        # Somebody else's end: of a nested URL.
        (f"https://proxy/resize/https://host/a.png?Expires={E}&Signature=x", None),
        (f"https://proxy/resize/https:/host/a.png?Expires={E}&Signature=x", None),  # many merge slashes
        (f"https://host//a.png?Expires={E}&Signature=x", SEEN),
        (f"https://proxy/?url=https://host/a.png?w=1&Expires={E}&Signature=x", None),
        (f"https://proxy/?url=https%3A%2F%2Fhost%2Fa.png%3FExpires%3D{E}%26Signature%3Dx", None),
        (f"https://proxy/?Expires={E}&Signature=x&url=https://host/a.png?Expires=1&Signature=y", SEEN),
        (f"{H}response-expires=Sun%2C%2001%20Jan%202040%2000%3A00%3A00%20GMT&Signature=x", None),
        # No signature, no end.
        (f"{H}exp={E}", None),
        (f"{H}t=73623e31", None),
    ],
)
def test_a_form_is_read_with_its_trap(url: str, end: str | None) -> None:
    found = stated_expiry(url)
    assert (found and found.isoformat()) == end


NOW = int(END.timestamp() * 1000)
DAY = timedelta(days=1)
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("stated", "at", "believed"),
    [
        (None, NOW + DAY_MS, True),
        (NOW + 60_000, NOW + 60_000, True),
        (NOW + 7 * DAY_MS, NOW + 7 * DAY_MS, True),
        (NOW + 8 * DAY_MS, NOW + DAY_MS, False),
        (NOW, NOW + DAY_MS, False),
        (NOW - 10 * DAY_MS, NOW + DAY_MS, False),
    ],
)
def test_an_end_in_the_past_or_absurdly_far_is_not_believed(
    stated: int | None, at: int, *, believed: bool
) -> None:
    link = None if stated is None else f"{H}Expires={stated // 1000}&Signature=x"
    found = deadline(link, since=NOW, now=NOW, lifetime=DAY)
    assert found.at == at
    assert (found.disbelieved is None) == believed
