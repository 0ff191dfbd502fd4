"""Keys: whatever the values, a key stays below its prefix, and two jobs never share one."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.archive.key import MAX_COMPONENT, MAX_KEY, check_key, check_template, render_key
from receiver.core.errors import ArchiveError, ConfigError
from receiver.core.jobs import Image, Job, State

DEFAULT = "{received:%Y/%m/%d}/{id}.{ext}"
RECEIVED = datetime(2026, 3, 9, 23, 30, 5, tzinfo=UTC)
SHA256 = hashlib.sha256(b"image").hexdigest()
TEMPLATES = [
    DEFAULT,
    "{id}",
    "{ref}-{id}.{ext}",
    "{id}.{ref}",
    "{endpoint}_{id}-{ref}.{ext}",
    "{endpoint}/{ref}/{id}.{ext}",
    "{ref}/{received:%H-%M}-{id}/{sha256}.{ext}",
    "{sha256}-{id}-{id}.{ext}",
]
# Characters that matter to paths, and a few of everything, so that neighbours collide where they can.
HOSTILE = st.text(st.sampled_from("ab.-_/\\!~%{}\0\n\x1b é🖼\ud800"), max_size=12)
TEXTS = (
    HOSTILE
    | st.text(max_size=300)
    | st.sampled_from(["", ".", "..", "../..", "/etc", "a/../b", "none", "x" * 999])
)


def render(
    template: str,
    job_id: str = "job-1",
    ref: str | None = None,
    endpoint: str = "upscale_2x",
    received_at: datetime = RECEIVED,
) -> str:
    job = Job(job_id, State.FETCHED, ref=ref, endpoint=endpoint)
    return render_key(template, job, Image("jpeg", 1, 1, 1, SHA256), received_at)


def test_the_default_is_a_folder_per_day_and_a_file_per_job() -> None:
    job = "d13389bf-6762-4439-87c6-eb4d02a08bc1"
    assert render(DEFAULT, job) == f"2026/03/09/{job}.jpg"


def test_every_field_can_be_used() -> None:
    template = "{endpoint}/{ref}/{received:%Y-%j}/{sha256}_{id}.{ext}"
    assert render(template, ref="order.7") == f"upscale_2x/order.7/2026-068/{SHA256}_job-1.jpg"


def test_the_day_is_that_of_utc() -> None:
    east = RECEIVED.astimezone(timezone(timedelta(hours=9)))
    assert render("{received}/{id}", received_at=east) == "20260309T233005Z/job-1"


def test_a_missing_and_an_empty_ref_have_a_name() -> None:
    assert render("{ref}/{id}") == render("{ref}/{id}", ref="") == "none/job-1"


@pytest.mark.parametrize("template", TEMPLATES)
@given(job_id=TEXTS, ref=st.none() | TEXTS, endpoint=TEXTS)
@example(job_id="..", ref="..", endpoint="..")
@example(job_id=".hidden", ref="/root", endpoint="a\\b")
@example(job_id="🖼" * 300, ref="é" * 300, endpoint="-" * 300)
def test_a_key_stays_below_its_prefix_and_fits(
    template: str, job_id: str, ref: str | None, endpoint: str
) -> None:
    key = render(template, job_id, ref, endpoint=endpoint)
    check_key(key)
    assert key.isascii()
    assert len(key) <= MAX_KEY
    parts = key.split("/")
    assert len(parts) == render(template).count("/") + 1
    assert all(part and len(part) <= MAX_COMPONENT and not part.startswith(".") for part in parts)


@pytest.mark.parametrize("template", TEMPLATES)
@given(one=st.tuples(TEXTS, TEXTS, TEXTS), other=st.tuples(TEXTS, TEXTS, TEXTS))
@example(one=("c", "a-b", "e"), other=("b-c", "a", "e"))
@example(one=("x.y", "z", "e"), other=("x", "y.z", "e"))
@example(one=("a", "b", "e_a"), other=("a_a", "b", "e"))
@example(one=("A" * 999, "", ""), other=("A" * 998, "", ""))
@example(one=("a/b", "", ""), other=("ab", "", ""))
def test_two_ids_never_share_a_key(
    template: str, one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    keys = {render(template, job_id, ref, endpoint=endpoint) for job_id, ref, endpoint in (one, other)}
    assert len(keys) == len({one[0], other[0]}) or one[0] == other[0]


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{ext}",
        "{ref}/{sha256}.{ext}",  # without the id
        "{id.__class__}",
        "{id[0]}",
        "{id!r}",
        "{id:>10}",
        "{}/{id}",
        "{0}{id}",
        "{secret}/{id}",
        "{id",
        "{id}}",
        "/{id}",
        "{id}/",
        "a//{id}",
        "../{id}",
        "a/../{id}",
        "./{id}",
        ".{id}",
        "a\\{id}",
        "a\n{id}",
        "{received:%Y%}/{id}",
        "{received:%c}/{id}",
        "{received:%Y//%m}/{id}",
        "{received:../%Y}/{id}",
        "{received:{id}}/{id}",
        "{ref}{id}",
        "{id}{ext}",
        "{ref}a{id}",
        "a" * 241 + "/{id}",
        "a/" * 400 + "{id}",
        "{id}-{ref}-{endpoint}-{sha256}",
    ],
)
def test_a_template_that_could_mislead_is_refused_with_the_setting_s_name(template: str) -> None:
    with pytest.raises(ConfigError, match=r"^RECEIVER_ARCHIVE_KEY: [^\n]+$"):
        check_template(template)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_good_template_is_accepted(template: str) -> None:
    check_template(template)


@given(st.text(st.sampled_from("{}:%/.-ab!") | st.characters(), max_size=30))
def test_no_template_escapes_by_another_error(text: str) -> None:
    try:
        check_template(text)
    except ConfigError:
        return
    check_key(render(text))


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", ".a", "a\\b", "a\0b", "a\nb"])
def test_a_key_that_is_no_plain_relative_path_is_not_used(key: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        check_key(key)
    assert caught.value.reason == "archive.refused"
