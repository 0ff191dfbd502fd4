"""Lists deliveries that were not completions."""

from dataclasses import dataclass

from receiver.ledger.connection import Connection

_PAGE_BYTES = 4 * 2**20  # of bodies, which JSON may make six times as long


@dataclass(frozen=True, slots=True)
class UnreadDelivery:
    """An authenticated body that was no completion."""

    seq: int
    at: int
    outcome: str
    detail: str
    body: bytes
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class UnreadPage:
    """Such deliveries, newest first, and where the next page begins."""

    deliveries: tuple[UnreadDelivery, ...]
    next: int | None


def unread_deliveries(
    db: Connection, outcome: str | None = None, *, before: int | None = None, limit: int = 100
) -> UnreadPage:
    """Return deliveries that were no completions, newest first; fewer than ``limit`` if they are large."""
    conditions = {"outcome = ?": outcome, "seq < ?": before}
    given = {condition: value for condition, value in conditions.items() if value is not None}
    found = db.execute(
        f"SELECT * FROM unread WHERE {' AND '.join(['true', *given])} ORDER BY seq DESC LIMIT +?",  # noqa: S608 - constants
        (*given.values(), limit + 1),
    )
    page: list[UnreadDelivery] = []
    size = 0
    for r in found:
        size += len(r["body"])
        if page and (len(page) == limit or size > _PAGE_BYTES):
            return UnreadPage(tuple(page), page[-1].seq)
        page.append(UnreadDelivery(**r))
    return UnreadPage(tuple(page), None)
