"""Resolves submissions whose answer was lost, by asking the provider for the jobs that carry their marks."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from receiver.core.clock import milliseconds
from receiver.ledger import Intent, Ledger
from receiver.providers.base import Client

log = structlog.get_logger("receiver.submitting")

GRACE_MS = milliseconds(timedelta(minutes=20))
"""Age from which on a submission is not in progress any more, and one answer that there is no such job is
believed: longer than the provider's client ever waits for an answer."""

MAX_OPEN = 1000
"""Open submissions that are resolved at a time."""


@dataclass(slots=True)
class SettleProgress:
    """What earlier calls of `settle` have found; kept by its caller.

    ``asked`` has when each submission was looked for last, by its key; ms since the epoch. ``strangers`` are
    the ids of jobs that are none of them, whose headers need not be asked for again.
    """

    asked: dict[str, int] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)

    def take_due(self, intents: Sequence[Intent], now: int, lifetime: timedelta) -> list[Intent]:
        """Return those of all open intents that are due now, and record that they were looked for."""
        keys = {intent.key for intent in intents}
        self.asked = {key: at for key, at in self.asked.items() if key in keys}
        if not keys:
            self.strangers.clear()
        due = []
        for intent in intents:
            last = self.asked.get(intent.key)
            outlived = intent.at < now - milliseconds(lifetime)
            if last is None or now - last >= (GRACE_MS if outlived else last - intent.at):
                due.append(intent)
        self.asked |= {intent.key: now for intent in due}
        return due


async def settle(
    ledger: Ledger,
    provider: Client,
    *,
    now: int,
    lifetime: timedelta = timedelta(hours=24),
    progress: SettleProgress | None = None,
) -> int:
    """Resolve submissions whose answer was lost and whose process is gone. Return how many.

    Those that the provider knows become jobs. Those that it does not know are withdrawn once an image URL's
    life is over, when no image could be fetched any more. All are looked for in one pass through the jobs
    since then, with a question for each job that is not known. With the ``progress`` of earlier calls, which
    is updated, a submission is looked for again when it is twice as old; without it, every time. ``now`` is
    ms since the epoch.

    Raises:
        ProviderError: the provider does not answer.
    """
    progress = progress or SettleProgress()
    intents = await ledger.open_intents(before=now - GRACE_MS, limit=MAX_OPEN)
    left = {intent.mark: intent for intent in progress.take_due(intents, now, lifetime)}
    if not left:
        return 0
    first = min(intent.at for intent in left.values())
    since = datetime.fromtimestamp(first / 1000, UTC)
    others = progress.strangers | await ledger.job_ids_submitted_since(first - GRACE_MS)
    settled = 0
    async with contextlib.aclosing(provider.submitted_since(since, others)) as jobs:
        async for found in jobs:
            if found.mark in left:
                if await ledger.confirm_intent(left.pop(found.mark).key, found.id):
                    log.info("announced", job=found.id)
                settled += 1
            elif found.read:
                progress.strangers.add(found.id)
            if not left:
                break
    for intent in left.values():
        if intent.at < now - milliseconds(lifetime):
            await ledger.withdraw_intent(intent.key)
            settled += 1
    return settled
