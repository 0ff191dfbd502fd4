"""What the page says, as plain values: pure, so that words and order can be tested without a browser."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from receiver.core.errors import REASONS
from receiver.core.jobs import Event, Job, State
from receiver.core.serializers import detail_without_keys
from receiver.ledger import Overview, Stats

MEANINGS: Mapping[State, str] = MappingProxyType(
    {
        State.SUBMITTED: "The provider is at it; no completion has come yet.",
        State.RECEIVED: "The completion is recorded; the image is not safe yet, and its URL will end.",
        State.FETCHED: "The image is safe on this machine's disk, verified; it waits for the archive.",
        State.ARCHIVED: "The image lies in the archive, proved to be the one that was verified.",
        State.FAILED: "The provider says that it failed. There is no image.",
        State.REJECTED: "The image was not taken: it may not be fetched, or is not what was promised.",
        State.EXPIRED: "The image URL ended before the image was safe. It is lost, unless a fresh URL comes.",
    }
)

SHORT: Mapping[State, str] = MappingProxyType(
    {
        State.SUBMITTED: "at the provider",
        State.RECEIVED: "not safe yet",
        State.FETCHED: "safe on this disk",
        State.ARCHIVED: "safe in the archive",
        State.FAILED: "by the provider",
        State.REJECTED: "not the image",
        State.EXPIRED: "lost",
    }
)

SIGNS: Mapping[State, str] = MappingProxyType(
    {
        State.SUBMITTED: "\N{HORIZONTAL ELLIPSIS}",
        State.RECEIVED: "\N{DOWNWARDS ARROW}",
        State.FETCHED: "\N{UPWARDS ARROW}",
        State.ARCHIVED: "\N{CHECK MARK}",
        State.FAILED: "\N{BALLOT X}",
        State.REJECTED: "\N{CIRCLED DIVISION SLASH}",
        State.EXPIRED: "!",
    }
)
"""Beside each colour, for those who do not see it."""

EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "submitted": "Announced",
        "received": "Completion recorded",
        "found": "Completion found by asking the provider",
        "adopted": "Completion found by asking the provider, and never announced",
        "late_delivery": "The delivery of what had been found came after all",
        "confirmed": "Confirmed by the provider itself",
        "asked": "The provider was asked, and had no completion",
        "url_refreshed": "The provider named a fresh URL",
        "other_url": "A later delivery named another URL; the first one stands",
        "other_urls": "Further deliveries named other URLs, and are only counted",
        "at_risk": "Little of the image URL's life is left",
        "attempt_failed": "An attempt did not succeed",
        "fetched": "Fetched and verified",
        "cut_off": "The receiver ended in the middle of an attempt",
        "spool_lost": "The file on this disk was lost; it is fetched again",
        "archived": "Archived, and proved to be there",
        "recognised": "The archive held its image already; proved anew, and it stands",
        "rejected": "Rejected",
        "expired": "The image URL has ended",
        "failed": "The provider says that it failed",
        "retried": "Retried by an operator",
        "relocated": "Lies in another place of the archive now",
        "rebuilt": "Known from its object in the archive",
    }
)

STAGES: Mapping[str, str] = MappingProxyType(
    {
        "fetch": "downloading and verifying",
        "ask": "asking the provider for a fresh URL",
        "archive": "storing in the archive",
    }
)


DAMAGE: Mapping[str, str] = MappingProxyType(
    {
        "archive.missing": "the object is not there any more",
        "archive.altered": "the object holds other bytes than were archived",
        "archive.mislabelled": "the object's metadata are not those of its job",
    }
)

LOST = frozenset({"archive.missing", "archive.altered"})
"""What an audit may find after which an image is not safe any more."""


@dataclass(frozen=True, slots=True)
class Work:
    """Something that is being worked on.

    Attributes:
        stage: ``fetch``, ``ask`` or ``archive``.
        job: as it was when it was claimed.
        seconds: for how long already.
    """

    stage: str
    job: Job
    seconds: float

    @property
    def words(self) -> str:
        """What is being done."""
        return STAGES.get(self.stage, self.stage)


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer to the one question.

    Attributes:
        tone: ``good``, ``busy``, ``idle``, ``warn`` or ``bad``.
        text: a sentence.
        more: what else is to be known.
        until: when the first image URL ends, ms since the epoch, where images are not safe.
    """

    tone: str
    text: str
    more: tuple[str, ...] = ()
    until: int | None = None

    @property
    def sign(self) -> str:
        """Beside the colour."""
        return _TONE_SIGNS[self.tone]


_TONE_SIGNS = {
    "good": "\N{CHECK MARK}",
    "busy": "\N{DOWNWARDS ARROW}",
    "idle": "\N{HORIZONTAL ELLIPSIS}",
    "warn": "!",
    "bad": "!",
}


def headline(overview: Overview, failing: Mapping[str, str]) -> Headline:
    """Is every image safe, and if not, until when?

    Args:
        overview: the ledger.
        failing: the checks of readiness that fail.
    """
    jobs, stats = overview.stats.jobs, overview.stats
    unsafe, waiting = jobs[State.RECEIVED], jobs[State.FETCHED]
    damaged = sum(number for reason, number in stats.damaged.items() if reason in LOST)
    missing = jobs[State.EXPIRED] + jobs[State.REJECTED] + damaged
    more = [*_found(stats.damaged), *_ended(jobs)]
    if stats.overdue:
        silent = "no completion has come in time"
        more.append(f"{_many(stats.overdue, 'job')} {_is(stats.overdue)} overdue: {silent}.")
    helpless = {"ledger", "workers", "spool"} & set(failing)
    if unsafe:
        text = f"{_many(unsafe, 'image')} {_is(unsafe)} not safe yet."
        if stats.at_risk:
            text = f"{_many(stats.at_risk, 'image')} {_is(stats.at_risk)} at risk."
            if others := unsafe - stats.at_risk:
                more.insert(0, f"{_many(others, 'other')} {_is(others)} not safe yet.")
        if helpless:
            text += " Nothing can be fetched now."
        tone = "bad" if stats.at_risk or helpless else _tone(stats, failing, "busy")
        return Headline(tone, text, tuple(more), stats.soonest_deadline)
    if waiting:
        which = "Every other image that came is safe" if missing else "Every image that came is safe"
        text = f"{which}; {waiting:,} {_wait(waiting)} on this disk for the archive."
        return Headline(_tone(stats, failing, "busy"), text, tuple(more))
    if jobs[State.ARCHIVED]:
        text = "Every other image that came is archived." if missing else "Every image that came is archived."
        return Headline(_tone(stats, failing, "good"), text, tuple(more))
    if missing or jobs[State.FAILED]:
        return Headline(_tone(stats, failing, "warn"), "No image is archived.", tuple(more))
    if jobs[State.SUBMITTED]:
        number = _many(jobs[State.SUBMITTED], "job")
        text = f"No image has come yet. {number} {_is(jobs[State.SUBMITTED])} at the provider."
        return Headline(_tone(stats, failing, "warn" if stats.overdue else "idle"), text, tuple(more))
    return Headline(_tone(stats, failing, "idle"), "Nothing has come yet.", tuple(more))


def _tone(stats: Stats, failing: Mapping[str, str], at_best: str) -> str:
    if stats.jobs[State.EXPIRED] or LOST & set(stats.damaged) or {"ledger", "workers"} & set(failing):
        return "bad"
    if stats.jobs[State.REJECTED] or stats.damaged or failing:
        return "warn"
    # What the provider failed at is said below: no image came, and none is unsafe.
    return at_best


def _found(damaged: Mapping[str, int]) -> list[str]:
    """What the last audit found, of which the states say nothing: an archived job stays archived."""
    said = []
    for reason, number in sorted(damaged.items()):
        what = DAMAGE.get(reason, f"the object is not as it was archived ({reason})")
        said.append(f"{_many(number, 'archived image')}: {what}, as the last audit found.")
    return said


def _ended(jobs: Mapping[State, int]) -> list[str]:
    said = []
    if lost := jobs[State.EXPIRED]:
        said.append(f"{_many(lost, 'image')} {_was(lost)} lost: the URL ended before the image was safe.")
    if rejected := jobs[State.REJECTED]:
        said.append(f"{_many(rejected, 'image')} {_was(rejected)} rejected.")
    if failed := jobs[State.FAILED]:
        said.append(f"{_many(failed, 'job')} failed at the provider.")
    return said


def _many(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _wait(number: int) -> str:
    return "waits" if number == 1 else "wait"


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
    """A job's history in words, oldest first. A state is named where it was entered."""
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
    """What happened, in words; the event's own name where there are none."""
    return EVENTS.get(event, event.replace("_", " ").capitalize())


def sentence(reason: str | None) -> str | None:
    """What a reason means."""
    return REASONS.get(reason, "") if reason else None


def _beyond(reason: str | None, detail: str | None) -> str | None:
    """The detail, where it says more than the reason's own sentence."""
    return detail if detail and detail != sentence(reason) else None


def detail(job: Job) -> str | None:
    """What is said of a job's problem beyond its reason's sentence."""
    return _beyond(job.problem.reason, job.problem.detail) if job.problem else None


def can_retry(job: Job) -> bool:
    """Whether a retry would be taken. The ledger decides; this only offers the button."""
    return job.state not in {State.SUBMITTED, State.ARCHIVED} and job.image_url is not None


# How values are written ----------------------------------------------------------------------------------


def moment(at: int) -> str:
    """A time as the page shows it: UTC, to the second."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: int) -> str:
    """The time of day: UTC, to the minute."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%H:%M")


def field_time(at: int) -> str:
    """A time as a form's field takes it."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def span(seconds: float) -> str:
    """A span of time in its two largest units."""
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
    """Bytes in the largest unit that leaves a number above one."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{number:,} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


UNSEEN = re.compile(r"[^\n\t\x20-\x7e]")


def visible(text: str) -> str:
    """A stranger's text with everything spelled out that is not seen, or that changes how others are seen.

    So no control sequence, no mark that turns the direction of what follows, and no blank that is none gets
    onto the page as itself.
    """
    return UNSEEN.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return f"\\u{{{ord(character):04X}}}"
    return character


BODY_SHOWN = 4_000
"""Characters of a raw body; the API has all of it."""


@dataclass(frozen=True, slots=True)
class Body:
    """A raw body as text; ``cut`` is how many characters more there are."""

    text: str
    cut: int


def body(raw: bytes) -> Body:
    """A raw body, whatever it is; bytes that are no UTF-8 are spelled."""
    text = raw.decode("utf-8", "backslashreplace")
    return Body(visible(text[:BODY_SHOWN]), max(len(text) - BODY_SHOWN, 0))
