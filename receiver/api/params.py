"""Validates the query parameters of the routes. `_PARSERS` has a row for each parameter.

The ``limit`` that is passed to some functions counts where the query has none.
Each unknown parameter or wrong value raises a `BodyError`, ``body.invalid_query``, that names it.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.datastructures import QueryParams

from receiver.core.completion import is_job_id, is_provider, is_ref
from receiver.core.errors import REASONS, BodyError
from receiver.core.jobs import State
from receiver.ledger import Filter, Transition

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
MAX_WAIT = 60
MAX_LINE_DIGITS = 18
SEARCH = r"[^\x00-\x1f\x7f]{1,253}"
"""A searched text; no host is longer."""

UNREAD_OUTCOMES = ("body.not_json", "body.not_a_completion", "body.unsupported_type")
"""The outcomes that ``GET /deliveries`` can be narrowed to."""

CHECKS = ("ledger",)
"""The checks that ``GET /readyz`` can be narrowed to; a balancer must not go by the archive's."""

_SECONDS = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,99})?([eE][+-]?[0-9]{1,3})?")
_SHA256 = re.compile("[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """Which page is wanted: at most ``limit`` rows, older than the position ``before``."""

    before: int | None
    limit: int


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

    def takes(self, transition: Transition) -> bool:
        return (
            (not self.states or transition.event.after in self.states)
            and (self.ref is None or transition.ref == self.ref)
            and (self.id is None or transition.id == self.id)
        )


def jobs(query: QueryParams, *, overdue_before: int, limit: int = DEFAULT_LIMIT) -> tuple[Filter, Window]:
    """Parse the parameters of ``GET /jobs``.

    Jobs submitted before ``overdue_before``, ms since the epoch, and still silent are overdue.
    """
    names = ("provider", "search", "ref", "reason", "since", "until")
    given = _parsed(query, *names, "state", "overdue", "limit", "cursor")
    wanted = Filter(
        states=given["state"],
        overdue_before=overdue_before if given["overdue"] is True else None,
        not_overdue_before=overdue_before if given["overdue"] is False else None,
        **{name: given[name] for name in names},
    )
    return wanted, _window(given, limit)


def images(query: QueryParams, *, limit: int = DEFAULT_LIMIT) -> tuple[Filter, Window]:
    """Parse the parameters of the gallery: some of those of ``GET /jobs``; archived jobs without a state."""
    names = ("provider", "ref", "since", "until")
    given = _parsed(query, *names, "state", "limit", "cursor")
    states = given["state"] or (State.ARCHIVED,)
    return Filter(states=states, **{name: given[name] for name in names}), _window(given, limit)


def deliveries(query: QueryParams, *, limit: int = DEFAULT_LIMIT) -> tuple[str | None, Window]:
    given = _parsed(query, "outcome", "limit", "cursor")
    return given["outcome"], _window(given, limit)


def wait(query: QueryParams) -> float:
    """Parse the parameters of ``GET /jobs/{id}``: seconds to wait for the job's end, 0 to 60."""
    return _parsed(query, "wait")["wait"] or 0.0


def accept(query: QueryParams) -> str:
    """Parse the parameters of ``POST /jobs/{id}/accept``: the SHA-256 of the bytes to accept."""
    sha256: str = _parsed(query, "sha256")["sha256"] or _parse("sha256", "", _PARSERS["sha256"])
    return sha256


def changes(query: QueryParams, last_event_ids: Sequence[str]) -> Changes:
    """Parse the parameters of ``GET /jobs/changes``.

    The headers ``Last-Event-ID`` win over ``after``: a browser that reconnects sends both, and its address is
    the first one.
    """
    given = _parsed(query, "after", "wait", "state", "ref", "id")
    after, source = given["after"], "after"
    if last_event_ids:
        source = "Last-Event-ID"
        if len(last_event_ids) > 1:
            raise BodyError("body.invalid_query", f"{source} is given more than once.")
        after = _parse(source, last_event_ids[0], _line)
    return Changes(after, source, given["wait"], given["state"], given["ref"], given["id"])


def checks(query: QueryParams) -> str | None:
    """Parse the parameters of ``GET /readyz``: the only check that is wanted, or ``None`` for all.

    Others are ignored, since some monitors add a parameter against caches.
    """
    known = QueryParams([(name, text) for name, text in query.multi_items() if name == "check"])
    wanted: str | None = _parsed(known, "check")["check"]
    return wanted


def nothing(query: QueryParams) -> None:
    """Refuse every parameter."""
    _parsed(query)


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


def _line(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > MAX_LINE_DIGITS:
        raise ValueError("must be the id of an event that was given out, which is a whole number")
    return int(text)


def _position(text: str) -> int:
    try:
        version, _, number = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).partition(b":")
    except ValueError:
        version, number = b"", b""
    if version != b"1" or not number.isdigit() or len(number) > MAX_LINE_DIGITS:
        raise ValueError("is no cursor that was given out")
    return int(number)


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


def _checked(is_valid: Callable[[str], bool], problem: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not is_valid(text):
            raise ValueError(problem)
        return text

    return check


def _search(text: str) -> str:
    # Bytes of a command line that are no text are surrogates, which no ledger takes.
    if not re.fullmatch(SEARCH, text) or re.search(r"[\ud800-\udfff]", text):
        raise ValueError("must be 1 to 253 characters without control characters")
    return text.strip() or text


def _choice(values: Mapping[str, Any]) -> Callable[[str], Any]:
    def choose(text: str) -> Any:
        if text not in values:
            raise ValueError("is none of " + ", ".join(values))
        return values[text]

    return choose


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "search": _search,
    "state": _choice({state.value: state for state in State}),
    "provider": _checked(is_provider, "is no provider's name"),
    "ref": _checked(is_ref, "must be 1 to 200 printable ASCII characters"),
    "id": _checked(is_job_id, "is no job's id"),
    "reason": _choice(dict(zip(REASONS, REASONS, strict=True))),
    "outcome": _choice(dict(zip(UNREAD_OUTCOMES, UNREAD_OUTCOMES, strict=True))),
    "since": moment,
    "until": moment,
    "overdue": _choice({"true": True, "false": False}),
    "sha256": _checked(lambda text: bool(_SHA256.fullmatch(text)), "must be 64 lower-case hex digits"),
    "check": _choice(dict(zip(CHECKS, CHECKS, strict=True))),
    "wait": _seconds,
    "after": _line,
    "limit": _limit,
    "cursor": _position,
}
"""How each parameter is read; a ValueError's text continues its name."""


def _parsed(query: QueryParams, *known: str) -> dict[str, Any]:
    """Return the value of each known parameter, or ``None``; of ``state``, which may be repeated, a tuple."""
    for name in query:
        if name not in known:
            takes = ", ".join(sorted(known)) or "no parameters"
            raise BodyError(
                "body.invalid_query", f"{name[:50]!r} is no parameter here; the route takes {takes}."
            )
        if name != "state" and len(query.getlist(name)) > 1:
            raise BodyError("body.invalid_query", f"{name} is given more than once.")
    values: dict[str, Any] = dict.fromkeys(known)
    values |= {name: _parse(name, text, _PARSERS[name]) for name, text in query.items()}
    return values | {
        "state": tuple(_parse("state", text, _PARSERS["state"]) for text in query.getlist("state"))
    }


def _window(given: Mapping[str, Any], limit: int) -> Window:
    return Window(given["cursor"], given["limit"] or limit)


def _parse(name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise BodyError("body.invalid_query", f"{name} {error}.") from None
