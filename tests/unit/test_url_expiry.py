"""The expiry that a URL states."""

import base64
import json
from datetime import UTC, datetime, timedelta
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
    assert (
        serializers.time(deadline(None, since=since, lifetime=timedelta(days=36_500)))
        == "9999-01-01T00:00:00.000Z"
    )
