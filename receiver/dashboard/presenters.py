"""The texts of the status page as plain values, so that wording and order are tested without a browser."""

import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
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
class Work:
    """A job that a stage (``fetch``, ``ask`` or ``archive``) has been working on for so many seconds."""

    stage: str
    job: Job
    seconds: float

    @property
    def words(self) -> str:
        return TEXTS["stages"].get(self.stage, self.stage)


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
    damaged = sum(number for reason, number in stats.damaged.items() if reason in LOST)
    missing = jobs[State.EXPIRED] + jobs[State.REJECTED] + damaged
    more = [*_refused(stats.refused), *_found(stats.damaged), *_ended(jobs)]
    if stats.overdue:
        more.append(f"{_many(stats.overdue, 'job', 'is', 'are')} overdue: no completion has come in time.")
    helpless = {"ledger", "workers", "spool", "decoder"} & set(failing)
    if unsafe:
        text = f"{_many(unsafe, 'image', 'is', 'are')} not safe yet."
        if stats.at_risk:
            text = f"{_many(stats.at_risk, 'image', 'is', 'are')} at risk."
            if others := unsafe - stats.at_risk:
                more.insert(0, f"{_many(others, 'other', 'is', 'are')} not safe yet.")
        if helpless:
            text += " Nothing can be fetched now."
        tone = "bad" if stats.at_risk or helpless else _tone(stats, failing, "busy")
        return Headline(tone, text, tuple(more), stats.soonest_deadline)
    if waiting:
        which = "Every other image that came is safe" if missing else "Every image that came is safe"
        text = f"{which}; {waiting:,} {'waits' if waiting == 1 else 'wait'} on this disk for the archive."
        return Headline(_tone(stats, failing, "busy"), text, tuple(more))
    if jobs[State.ARCHIVED]:
        text = "Every other image that came is archived." if missing else "Every image that came is archived."
        return Headline(_tone(stats, failing, "good"), text, tuple(more))
    if missing or jobs[State.FAILED]:
        return Headline(_tone(stats, failing, "warn"), "No image is archived.", tuple(more))
    if jobs[State.SUBMITTED]:
        number = _many(jobs[State.SUBMITTED], "job", "is", "are")
        text = f"No image has come yet. {number} at the provider."
        return Headline(_tone(stats, failing, "warn" if stats.overdue else "idle"), text, tuple(more))
    return Headline(_tone(stats, failing, "idle"), "Nothing has come yet.", tuple(more))


def _tone(stats: Stats, failing: Mapping[str, str], at_best: str) -> str:
    if stats.jobs[State.EXPIRED] or LOST & set(stats.damaged) or {"ledger", "workers"} & set(failing):
        return "bad"
    if stats.jobs[State.REJECTED] or stats.refused or stats.damaged or failing:
        return "warn"
    # Jobs that failed at the provider do not count: no image came, and none is unsafe.
    return at_best


def _refused(number: int) -> list[str]:
    if not number:
        return []
    what = "the URL has answered with what is not the promised image, and is tried again"
    return [f"{_many(number, 'image')}: {what}."]


def _found(damaged: Mapping[str, int]) -> list[str]:
    """Return what the last audit found; the states do not show it, since an archived job stays archived."""
    found = []
    for reason, number in sorted(damaged.items()):
        what = TEXTS["damage"].get(reason, f"the object is not as it was archived ({reason})")
        found.append(f"{_many(number, 'archived image')}: {what}, as the last audit found.")
    return found


def _ended(jobs: Mapping[State, int]) -> list[str]:
    found = []
    if lost := jobs[State.EXPIRED]:
        found.append(f"{_many(lost, 'image', 'was', 'were')} lost: the URL ended before the image was safe.")
    if rejected := jobs[State.REJECTED]:
        found.append(f"{_many(rejected, 'image', 'was', 'were')} rejected.")
    if failed := jobs[State.FAILED]:
        found.append(f"{_many(failed, 'job')} failed at the provider.")
    return found


def _many(number: int, noun: str, one: str = "", several: str = "") -> str:
    """Return such as ``1 image is`` or ``2 images are``, given both forms of the verb."""
    words = f"{noun} {one}" if number == 1 else f"{noun}s {several}"
    return f"{number:,} {words}".rstrip()


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a job's timeline."""

    at: int
    title: str
    after: State | None
    reason: str | None
    sentence: str | None
    detail: str | None


def timeline(history: Sequence[Event]) -> list[Step]:
    """Return a job's history in words, oldest first. A state is named where it was entered."""
    return [
        Step(
            at=event.at,
            title=words(event.event),
            after=event.after if event.after is not event.before else None,
            reason=event.reason,
            sentence=sentence(event.reason),
            detail=_beyond(event.reason, detail_without_keys(event)),
        )
        for event in history
    ]


def words(event: str) -> str:
    """Return an event in words; an unknown one by its own name."""
    return TEXTS["events"].get(event, event.replace("_", " ").capitalize())


def sentence(reason: str | None) -> str | None:
    return REASONS.get(reason, "") if reason else None


def _beyond(reason: str | None, detail: str | None) -> str | None:
    """Return the detail, where it says more than the reason's own sentence."""
    return detail if detail and detail != sentence(reason) else None


def detail(job: Job) -> str | None:
    """Return the detail of a job's problem, where it says more than the reason's own sentence."""
    return _beyond(job.problem.reason, job.problem.detail) if job.problem else None


def can_retry(job: Job) -> bool:
    """Return whether to offer a retry; the ledger decides."""
    return job.state not in {State.SUBMITTED, State.ARCHIVED} and job.image_url is not None


def moment(at: int) -> str:
    """Format a time: UTC, to the second."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: int) -> str:
    """Format the time of day: UTC, to the minute."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%H:%M")


def field_time(at: int) -> str:
    """Format a time as a form's field takes it."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


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


@dataclass(frozen=True, slots=True)
class Body:
    """A raw body as text; ``cut`` is the number of further characters."""

    text: str
    cut: int


def body(raw: bytes) -> Body:
    """Return any raw body as text; bytes that are no UTF-8 are escaped."""
    text = raw.decode("utf-8", "backslashreplace")
    return Body(visible(text[:BODY_SHOWN]), max(len(text) - BODY_SHOWN, 0))
