"""Validates the query parameters of the routes.

Each unknown parameter or wrong value raises a `BodyError`, ``body.invalid_query``, that names it.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from starlette.datastructures import QueryParams

from receiver.core.completion import is_job_id, is_ref
from receiver.core.errors import REASONS, BodyError
from receiver.core.jobs import State
from receiver.ledger import Filter, Transition

T = TypeVar("T")

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_WAIT = 60
MAX_LINE_DIGITS = 18

UNREAD_OUTCOMES = ("body.not_json", "body.not_a_completion", "body.unsupported_type")
"""The outcomes that ``GET /deliveries`` can be narrowed to."""

_SECONDS = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,99})?([eE][+-]?[0-9]{1,3})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """Which page is wanted: at most ``limit`` rows, older than the position ``before``."""

    before: int | None
    limit: int


def jobs(query: QueryParams, *, overdue_before: int) -> tuple[Filter, Window]:
    """Parse the parameters of ``GET /jobs``.

    Jobs submitted before ``overdue_before``, ms since the epoch, and still silent are overdue.
    """
    _only_known(query, {"state", "ref", "reason", "since", "until", "overdue", "limit", "cursor"}, {"state"})
    overdue = _optional(query, "overdue", _choice({"true": True, "false": False}))
    wanted = Filter(
        states=_states(query),
        ref=_optional(query, "ref", _ref),
        reason=_optional(query, "reason", _choice({reason: reason for reason in REASONS})),
        since=_optional(query, "since", moment),
        until=_optional(query, "until", moment),
        overdue_before=overdue_before if overdue is True else None,
        not_overdue_before=overdue_before if overdue is False else None,
    )
    return wanted, _window(query)


def deliveries(query: QueryParams) -> tuple[str | None, Window]:
    """Parse the parameters of ``GET /deliveries``."""
    _only_known(query, {"outcome", "limit", "cursor"})
    outcome = _optional(query, "outcome", _choice({o: o for o in UNREAD_OUTCOMES}))
    return outcome, _window(query)


def wait(query: QueryParams) -> float:
    """Parse the parameters of ``GET /jobs/{id}``: seconds to wait for the job's end, 0 to 60."""
    _only_known(query, {"wait"})
    return _optional(query, "wait", _seconds) or 0.0


@dataclass(frozen=True, slots=True)
class Changes:
    """Which transitions are wanted. What is ``None`` or empty does not narrow.

    Attributes:
        after: the last line of the history that the client knows; ``None``: only what comes from now on.
        after_source: the header or the parameter that named it.
        wait: seconds after which the stream ends; ``None``: never.
        states: moves into any of these.
    """

    after: int | None = None
    after_source: str = "after"
    wait: float | None = None
    states: tuple[State, ...] = ()
    ref: str | None = None
    id: str | None = None

    @property
    def takes_all(self) -> bool:
        return not self.states and self.ref is None and self.id is None

    def takes(self, transition: Transition) -> bool:
        return (
            (not self.states or transition.event.after in self.states)
            and (self.ref is None or transition.ref == self.ref)
            and (self.id is None or transition.id == self.id)
        )


def changes(query: QueryParams, last_event_ids: Sequence[str]) -> Changes:
    """Parse the parameters of ``GET /jobs/changes``.

    The headers ``Last-Event-ID`` win over ``after``: a browser that reconnects sends both, and its address is
    the first one.
    """
    _only_known(query, {"after", "wait", "state", "ref", "id"}, {"state"})
    after, source = _optional(query, "after", _line), "after"
    if last_event_ids:
        source = "Last-Event-ID"
        if len(last_event_ids) > 1:
            raise BodyError("body.invalid_query", f"{source} is given more than once.")
        after = _parse(source, last_event_ids[0], _line)
    return Changes(
        after=after,
        after_source=source,
        wait=_optional(query, "wait", _seconds),
        states=_states(query),
        ref=_optional(query, "ref", _ref),
        id=_optional(query, "id", _id),
    )


def nothing(query: QueryParams) -> None:
    """Refuse every parameter."""
    _only_known(query, set())


def cursor(position: int | None) -> str | None:
    """Return a position as clients see it: opaque, so that none of them depends on it."""
    if position is None:
        return None
    return base64.urlsafe_b64encode(b"1:%d" % position).decode("ascii").rstrip("=")


def moment(text: str) -> int:
    """Parse a time; return ms since the epoch.

    Raises:
        ValueError: the text is no time.
    """
    try:
        # A plus sign that was not percent-encoded arrives as a blank.
        when = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return (when - _EPOCH) // timedelta(milliseconds=1)  # a float of seconds would be a millisecond off
    except (ValueError, OverflowError):
        raise ValueError("must be a time such as 2026-11-23T09:30:00Z") from None


def _window(query: QueryParams) -> Window:
    return Window(
        before=_optional(query, "cursor", _position),
        limit=_optional(query, "limit", _limit) or DEFAULT_LIMIT,
    )


def _states(query: QueryParams) -> tuple[State, ...]:
    state = _choice({state.value: state for state in State})
    return tuple(_parse("state", value, state) for value in query.getlist("state"))


def _line(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > MAX_LINE_DIGITS:
        raise ValueError("must be the id of an event that was given out, which is a whole number")
    return int(text)


def _id(text: str) -> str:
    if not is_job_id(text):
        raise ValueError("is no job's id")
    return text


def _position(text: str) -> int:
    try:
        version, _, number = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).partition(b":")
    except ValueError:
        raise ValueError("is no cursor that was given out") from None
    if version != b"1" or not number.isdigit() or len(number) > MAX_LINE_DIGITS:
        raise ValueError("is no cursor that was given out")
    return int(number)


def _ref(text: str) -> str:
    if not is_ref(text):
        raise ValueError("must be 1 to 200 printable ASCII characters")
    return text


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4 or not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _seconds(text: str) -> float:
    # Not what Python alone reads: other alphabets' digits, underscores, blanks, infinity.
    seconds = float(text) if _SECONDS.fullmatch(text) else -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise ValueError(f"must be a number of seconds from 0 to {MAX_WAIT}")
    return seconds


def _choice(values: dict[str, T]) -> Callable[[str], T]:
    def choose(text: str) -> T:
        if text not in values:
            raise ValueError("is none of " + ", ".join(values))
        return values[text]

    return choose


def _optional(query: QueryParams, name: str, read: Callable[[str], T]) -> T | None:
    text = query.get(name)
    return None if text is None else _parse(name, text, read)


def _parse(name: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise BodyError("body.invalid_query", f"{name} {error}.") from None


def _only_known(query: QueryParams, known: set[str], repeatable: Iterable[str] = ()) -> None:
    for name in query:
        if name not in known:
            takes = ", ".join(sorted(known)) or "no parameters"
            raise BodyError(
                "body.invalid_query", f"{name[:50]!r} is no parameter here; the route takes {takes}."
            )
        if name not in repeatable and len(query.getlist(name)) > 1:
            raise BodyError("body.invalid_query", f"{name} is given more than once.")
