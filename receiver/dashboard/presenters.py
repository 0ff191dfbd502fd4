"""The texts of the status page as plain values, so that wording and order are tested without a browser."""

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from receiver.core.errors import REASONS
from receiver.core.jobs import Event, Job, State
from receiver.core.serializers import detail_without_keys
from receiver.ledger import Overview, Stats

TEXTS: Mapping[str, Mapping[str, str]] = tomllib.loads(
    Path(__file__).with_name("texts.toml").read_text(encoding="utf-8")
)

LOST = frozenset({"archive.missing", "archive.altered"})
"""Findings of an audit after which an image is not safe any more."""


@dataclass(frozen=True, slots=True)
class Headline:
    """Whether every image is safe, in a sentence.

    Attributes:
        tone: ``good``, ``busy``, ``idle``, ``warn`` or ``bad``.
        until: when the first image URL ends, ms since the epoch, where images are not safe.
    """

    tone: str
    text: str
    more: tuple[str, ...] = ()
    until: int | None = None


def headline(overview: Overview, failing: Mapping[str, str]) -> Headline:
    """Return whether every image is safe, and if not, until when. The failing readiness checks count too."""
    jobs, stats = overview.stats.jobs, overview.stats
    unsafe, waiting = jobs[State.RECEIVED], jobs[State.FETCHED]
    damaged = sum(stats.damaged.get(reason, 0) for reason in LOST)
    missing = jobs[State.EXPIRED] + jobs[State.REJECTED] + damaged
    every = "Every image that came is"
    if missing:
        every = f"{_many(missing, 'image', 'is', 'are')} not in the archive; every other that came is"
    until = None
    if unsafe:
        number, what = (stats.at_risk, "at risk") if stats.at_risk else (unsafe, "not safe yet")
        text, until = f"{_many(number, 'image', 'is', 'are')} {what}.", stats.soonest_deadline
        if helpless := {"ledger", "workers", "spool", "decoder"} & set(failing):
            text += " Nothing can be fetched now."
        tone = "bad" if stats.at_risk or helpless else "busy"
    elif waiting:
        verb = "waits" if waiting == 1 else "wait"
        text, tone = f"{every} safe; {waiting:,} {verb} on this disk for the archive.", "busy"
    elif jobs[State.ARCHIVED]:
        text, tone = f"{every} archived.", "good"
    elif missing or jobs[State.FAILED]:
        text, tone = "No image is archived.", "warn"
    elif submitted := jobs[State.SUBMITTED]:
        text = f"No image has come yet. {_many(submitted, 'job', 'is', 'are')} at the provider."
        tone = "warn" if stats.overdue else "idle"
    else:
        text, tone = "Nothing has come yet.", "idle"
    # Jobs that failed at the provider do not count: no image came, and none is unsafe.
    if jobs[State.REJECTED] or stats.refused or stats.damaged or failing:
        tone = "bad" if tone == "bad" else "warn"
    if jobs[State.EXPIRED] or LOST & set(stats.damaged) or {"ledger", "workers"} & set(failing):
        tone = "bad"
    return Headline(tone, text, tuple(_more(stats)), until)


def _more(stats: Stats) -> Iterator[str]:
    """Yield what else is wrong. The states do not show damage, since an archived job stays archived."""
    jobs = stats.jobs
    if stats.at_risk and (others := jobs[State.RECEIVED] - stats.at_risk):
        yield f"{_many(others, 'other', 'is', 'are')} not safe yet."
    if number := stats.refused:
        what = "the URL answered with something else than the promised image; it is tried again"
        yield f"{_many(number, 'image')}: {what}."
    for reason, number in sorted(stats.damaged.items()):
        what = TEXTS["damage"].get(reason, f"the object is not as it was archived ({reason})")
        yield f"{_many(number, 'archived image')}: {what}, as the last audit found."
    if number := jobs[State.EXPIRED]:
        yield f"{_many(number, 'image', 'was', 'were')} lost: the URL expired before the image was safe."
    if number := jobs[State.REJECTED]:
        yield f"{_many(number, 'image', 'was', 'were')} rejected."
    if number := jobs[State.FAILED]:
        yield f"{_many(number, 'job')} failed at the provider."
    if number := stats.overdue:
        yield f"{_many(number, 'job', 'is', 'are')} overdue: no completion has come in time."


def _many(number: int, noun: str, one: str = "", several: str = "") -> str:
    """Return such as ``1 image is`` or ``2 images are``, given both forms of the verb."""
    words = f"{noun} {one}" if number == 1 else f"{noun}s {several}"
    return f"{number:,} {words}".rstrip()


def words(event: str) -> str:
    """Return an event in words; an unknown one by its own name."""
    return TEXTS["events"].get(event, event.replace("_", " ").capitalize())


def sentence(reason: str | None) -> str | None:
    return REASONS.get(reason, "") if reason else None


def detail(of: Job | Event) -> str | None:
    """Return the detail of a job's problem or of an event, where it says more than the reason's sentence."""
    if isinstance(of, Event):
        reason, text = of.reason, detail_without_keys(of)
    elif of.problem is not None:
        reason, text = of.problem.reason, of.problem.detail
    else:
        return None
    return text if text != sentence(reason) else None


def moment(at: int, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Format a time in UTC."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime(form)


def span(seconds: float) -> str:
    """Format a span of time in its two largest units."""
    left = int(seconds)
    if left < 60:
        return f"{left} s"
    minutes, left = divmod(left, 60)
    if minutes < 60:
        return f"{minutes} min {left:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def took(milliseconds: int) -> str:
    """Format a duration; a short one with tenths of a second."""
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 9_950 else span(milliseconds / 1000)


def size(number: int) -> str:
    """Format bytes in the largest unit that leaves a number above one."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{number:,} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


NOT_PLAIN = re.compile(r"[^\n\t\x20-\x7e]")


def visible(text: str) -> str:
    """Escape invisible characters of untrusted text, and those that change how others are seen.

    No control sequence, no mark of text direction and no unusual blank gets onto the page as itself.
    """
    return NOT_PLAIN.sub(_escaped, text.replace("\r\n", "\n"))


def _escaped(match: re.Match[str]) -> str:
    invisible = unicodedata.category(match[0]) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return f"\\u{{{ord(match[0]):04X}}}" if invisible else match[0]


BODY_SHOWN = 4_000
"""Characters of a raw body that are shown; the API has all of it."""


def body(raw: bytes) -> tuple[str, int]:
    """Return any raw body as text, its non-UTF-8 bytes escaped; and how many characters are left out."""
    text = raw.decode("utf-8", "backslashreplace")
    return visible(text[:BODY_SHOWN]), max(len(text) - BODY_SHOWN, 0)
