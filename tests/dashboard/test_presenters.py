"""What the page says, in words."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import receiver.ledger
from receiver.core import serializers
from receiver.core.errors import REASONS
from receiver.core.jobs import Event, Job, Problem, State
from receiver.dashboard import presenters
from receiver.ledger import Overview, Stats
from receiver.ledger.archived_objects import REBUILT, RELOCATED
from receiver.ledger.commands.deliveries import OTHER_URL, OTHER_URLS, REF_DROPPED
from tests.dashboard.stories import HOSTILE
from tests.support.clock import NOW

LEDGER = Path(receiver.ledger.__file__).parent


def overview(*, at_risk: int = 0, overdue: int = 0, refused: int = 0, **jobs: int) -> Overview:
    counts = {state: jobs.get(state.value, 0) for state in State}
    deadline = NOW if counts[State.RECEIVED] else None
    stats = Stats(counts, dict.fromkeys(State, 0), None, deadline, overdue, at_risk, 0, refused=refused)
    return Overview(stats, (), frozenset(), (), ())


@pytest.mark.parametrize(
    ("jobs", "failing", "tone", "text"),
    [
        ({}, (), "idle", "Nothing has come yet."),
        ({}, ("ledger",), "bad", "Nothing has come yet."),
        ({"submitted": 3}, (), "idle", "No image has come yet. 3 jobs are at the provider."),
        ({"archived": 3}, (), "good", "Every image that came is archived."),
        ({"archived": 3}, ("archive",), "warn", "Every image that came is archived."),
        ({"archived": 3}, ("workers",), "bad", "Every image that came is archived."),
        (
            {"archived": 3, "rejected": 1},
            (),
            "warn",
            "1 image is not in the archive; every other that came is archived.",
        ),
        (
            {"archived": 3, "expired": 1},
            (),
            "bad",
            "1 image is not in the archive; every other that came is archived.",
        ),
        ({"archived": 3, "failed": 1}, (), "good", "Every image that came is archived."),
        ({"expired": 1}, (), "bad", "No image is archived."),
        ({"failed": 1}, (), "warn", "No image is archived."),
        (
            {"fetched": 1, "archived": 9},
            (),
            "busy",
            "Every image that came is safe; 1 waits on this disk for the archive.",
        ),
        (
            {"fetched": 2, "rejected": 1},
            ("archive",),
            "warn",
            (
                "1 image is not in the archive; every other that came is safe;"
                " 2 wait on this disk for the archive."
            ),
        ),
        ({"received": 1, "archived": 9}, (), "busy", "1 image is not safe yet."),
        (
            {"received": 1_200, "archived": 9},
            ("spool",),
            "bad",
            "1,200 images are not safe yet. Nothing can be fetched now.",
        ),
        ({"received": 5, "at_risk": 2}, (), "bad", "2 images are at risk."),
        ({"received": 1, "expired": 1}, (), "bad", "1 image is not safe yet."),
        ({"received": 1, "rejected": 1}, (), "warn", "1 image is not safe yet."),
        ({"received": 1}, ("archive",), "warn", "1 image is not safe yet."),
        ({"received": 2, "refused": 1}, (), "warn", "2 images are not safe yet."),
        (
            {"received": 5, "at_risk": 2},
            ("workers",),
            "bad",
            "2 images are at risk. Nothing can be fetched now.",
        ),
    ],
)
def test_the_headline_answers_and_never_calls_safe_what_is_not(
    jobs: dict[str, int], failing: tuple[str, ...], tone: str, text: str
) -> None:
    said = presenters.headline(overview(**jobs), dict.fromkeys(failing, "why"))

    assert (said.tone, said.text) == (tone, text)
    assert presenters.TEXTS["tones"][said.tone]
    assert said.until == (NOW if "received" in jobs else None)


def test_what_else_is_to_be_known_stands_below() -> None:
    said = presenters.headline(
        overview(received=3, at_risk=1, refused=2, overdue=1, expired=2, rejected=1, failed=4), {}
    )

    assert said.more == (
        "2 others are not safe yet.",
        "2 images: the URL answered with something else than the promised image; it is tried again.",
        "2 images were lost: the URL expired before the image was safe.",
        "1 image was rejected.",
        "4 jobs failed at the provider.",
        "1 job is overdue: no completion has come in time.",
    )


@pytest.mark.parametrize(
    ("damaged", "tone", "text", "line"),
    [
        (
            {"archive.missing": 1},
            "bad",
            "1 image is not in the archive; every other that came is archived.",
            "1 archived image: the object is missing, as the last audit found.",
        ),
        (
            {"archive.altered": 2},
            "bad",
            "2 images are not in the archive; every other that came is archived.",
            "2 archived images: the object has other bytes than were archived, as the last audit found.",
        ),
        (
            {"archive.mislabelled": 1},
            "warn",
            "Every image that came is archived.",
            "1 archived image: the object's metadata are not those of its job, as the last audit found.",
        ),
    ],
)
def test_what_an_audit_found_is_not_called_safe(
    damaged: dict[str, int], tone: str, text: str, line: str
) -> None:
    glance = overview(archived=9)
    said = presenters.headline(replace(glance, stats=replace(glance.stats, damaged=damaged)), {})

    assert (said.tone, said.text, said.more) == (tone, text, (line,))


@given(st.text())
def test_what_is_shown_of_a_strangers_text_can_do_nothing_to_what_stands_beside_it(text: str) -> None:
    shown = presenters.visible(text)

    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]", shown
    )


def test_what_cannot_be_seen_is_spelled_and_other_alphabets_are_left_alone() -> None:
    assert presenters.visible(HOSTILE).startswith(
        '"><script>alert(1)</script> \\u{001B}[31mred\\u{001B}[0m \\u{202E}gnp'
    )
    assert presenters.visible("Žluťoučký kůň 画像\n\t!") == "Žluťoučký kůň 画像\n\t!"


def test_a_body_is_shown_whatever_it_is_and_cut_where_it_is_long() -> None:
    assert presenters.body(b"\xff\x00{}") == ("\\xff\\u{0000}{}", 0)
    assert presenters.body(b"") == ("", 0)
    text, cut = presenters.body(b"x" * (presenters.BODY_SHOWN + 5))
    assert (len(text), cut) == (presenters.BODY_SHOWN, 5)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a.png?X-Amz-Signature=secret", "https://host/a.png?\N{HORIZONTAL ELLIPSIS}"),
        ("https://host/a.png#part", "https://host/a.png"),
        ("https://host/a.png", "https://host/a.png"),
        (
            "https://user:pa55word@host:8443/a.png?b@c",
            "https://\N{HORIZONTAL ELLIPSIS}@host:8443/a.png?\N{HORIZONTAL ELLIPSIS}",
        ),
        ("https://user:pa@ss@host", "https://\N{HORIZONTAL ELLIPSIS}@host"),
        ("https://host/a@b.png", "https://host/a@b.png"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_key(url: str, shown: str) -> None:
    assert serializers.plain_url(url) == shown


@pytest.mark.parametrize(
    ("url", "web"),
    [
        ("https://host/a.png", True),
        ("http://host/a.png", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//host/a.png", False),
        ("http://[", False),
        ("", False),
        (None, False),
    ],
)
def test_only_what_leads_to_a_web_server_becomes_a_link(url: str | None, web: bool) -> None:  # noqa: FBT001 - a case
    assert serializers.is_web(url) is web


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 00 min"),
        (47 * 3_600, "47 h 00 min"),
        (49 * 3_600, "2 d 1 h"),
    ],
)
def test_spans_are_said_in_their_two_largest_units(seconds: float, words: str) -> None:
    assert presenters.span(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 bytes"), (1_023, "1,023 bytes"), (1_536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_are_said_in_the_largest_unit(number: int, words: str) -> None:
    assert presenters.size(number) == words


def test_times_are_shown_in_utc() -> None:
    assert presenters.moment(NOW + 999) == "2026-11-18 11:06:40"
    assert presenters.moment(NOW, "%H:%M") == "11:06"


def test_every_event_that_the_ledger_writes_has_words() -> None:
    commands = "".join(path.read_text() for path in LEDGER.rglob("*.py"))
    written = set(re.findall(r"event = '([a-z_]+)'", commands)) | {
        "received",
        "failed",
        "found",
        "adopted",
        "submitted",
    }
    assert '"late_delivery"' in commands

    assert written | {"late_delivery", OTHER_URL, OTHER_URLS, REBUILT, REF_DROPPED, RELOCATED} == set(
        presenters.TEXTS["events"]
    )


def test_an_event_of_a_newer_version_is_named_as_it_is() -> None:
    assert presenters.words("moved_house") == "Moved house"


def test_every_state_has_a_meaning_a_word_and_a_sign_of_its_own() -> None:
    meanings, short, signs = (presenters.TEXTS[name] for name in ("meanings", "short", "signs"))
    assert set(meanings) == set(short) == set(signs) == set(State)
    assert len(set(signs.values())) == len(State)


def test_an_events_detail_is_shown_where_it_says_more_and_without_keys() -> None:
    def shown(event: str, reason: str, detail: str) -> str | None:
        return presenters.detail(Event(1, event, State.RECEIVED, State.RECEIVED, reason, detail))

    assert shown("attempt_failed", "fetch.timeout", REASONS["fetch.timeout"]) is None
    assert shown("attempt_failed", "fetch.timeout", "It took 5 s.") == "It took 5 s."
    assert (
        shown("other_url", "ledger.other_url", "https://h/x?key=1") == "https://h/x?\N{HORIZONTAL ELLIPSIS}"
    )


def test_a_problems_detail_is_shown_where_it_says_more() -> None:
    same = Job("a", State.REJECTED, problem=Problem("url.port", REASONS["url.port"], NOW))

    assert presenters.detail(same) is None
    assert (
        presenters.detail(Job("a", State.REJECTED, problem=Problem("url.port", "It is 22.", NOW)))
        == "It is 22."
    )
    assert presenters.detail(Job("a", State.ARCHIVED)) is None
