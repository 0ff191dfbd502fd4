"""Looks at the conditions, and tells each channel what began and what is over, once.

Alerts, with what each channel was told, are kept in the ledger: a restart repeats nothing. A channel that
fails is tried again with a growing pause, and is then told how things are at that time. Nothing waits for it.
"""

import json
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from urllib.parse import urlsplit

import structlog
from prometheus_client.registry import Collector

from receiver.alerts.channels import Kind, Message, check, send
from receiver.alerts.rules import RULES, Rises, Rule, Samples, samples_of
from receiver.alerts.states import MINUTE, Alert
from receiver.core import serializers
from receiver.core.backoff import SECOND, DoublingWait
from receiver.core.concurrency import run_forever
from receiver.core.errors import LedgerError
from receiver.ledger import Ledger, LedgerReader

log = structlog.get_logger("receiver.alerts")

EVERY_SECONDS = 30.0
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 60.0, 3600.0
"""Until a channel that failed is tried again."""

_CHECKPOINT = "alerts"
_BY_NAME = {rule.name: rule for rule in RULES}

Alerts = Mapping[str, Alert]
"""By the rule's name, with the series' labels behind it where there are several."""

Send = Callable[[Sequence[Message]], Awaitable[Mapping[str, str | None]]]
"""Sends messages, and returns by channel what went wrong, or ``None``."""


@dataclass(kw_only=True, eq=False)
class Alerter:
    """The loop; with several receivers on one ledger, one of them tells.

    Attributes:
        collect: reads the metrics.
        channels: their URLs by name.
        address: the receiver's public address, for links; empty without one.
        leads: whether this receiver tells, also while the ledger is away.
    """

    ledger: Ledger
    collect: Callable[[], Awaitable[Collector]]
    channels: Mapping[str, str] = field(repr=False)
    address: str
    leads: Callable[[], bool] = lambda: True
    send: Send = send

    def __post_init__(self) -> None:
        self._alerts: Alerts = {}
        self._saved = True
        self._rises = Rises()
        self._pauses = {channel: DoublingWait(PAUSE_SECONDS, MAX_PAUSE_SECONDS) for channel in self.channels}
        self._next_at = dict.fromkeys(self.channels, 0)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        await run_forever(self._check, log, retry=EVERY_SECONDS)
        await run_forever(self.look, log, retry=EVERY_SECONDS)

    async def _check(self) -> None:
        for channel, error in (await check(self.channels)).items():
            if error is not None:
                log.error("alert channel cannot be used", channel=channel, detail=error)

    async def look(self) -> float:
        """Look once, and tell what is new; return the seconds until the next time."""
        if not self.leads():
            if not self._saved:  # what began while the ledger was away is over at another receiver
                await self._save({**self._alerts, **await read_alerts(self.ledger)})
            self._rises = Rises()
            return EVERY_SECONDS
        if self._saved:  # else what is here is newer than what is kept
            with suppress(LedgerError):  # a ledger that cannot be read is told of, too
                self._alerts = await read_alerts(self.ledger)
        known = self._alerts
        samples = samples_of(list((await self.collect()).collect()))
        self._alerts = await self._tell(self._judge(known, samples))
        self._saved = self._saved and self._alerts == known
        if not self._saved:
            await self._save(self._alerts)
        return EVERY_SECONDS

    async def _save(self, alerts: Alerts) -> None:
        kept = {key: asdict(alert) for key, alert in alerts.items()}
        await self.ledger.save_checkpoint(_CHECKPOINT, json.dumps(kept))
        self._saved = True

    def _judge(self, known: Alerts, samples: Samples) -> dict[str, Alert]:
        now = self.ledger.now()
        judged: dict[str, Alert] = {}
        for rule in RULES:
            of_rule = {key: alert for key, alert in known.items() if key.partition(" ")[0] == rule.name}
            values = rule.values(samples)
            if values is None:
                judged |= of_rule
                continue
            if rule.minutes is not None:
                values = self._rises.since(rule, values, now)
            beyond = {
                " ".join((rule.name, *(text for name, text in labels if name not in rule.only))): (
                    rule.text(value, labels),
                    value,
                )
                for labels, value in values.items()
                if rule.is_beyond(value)
            }
            for key in {**of_rule, **beyond}:
                before = known.get(key, Alert())
                text, value = beyond.get(key, (None, 0))
                alert = before.after(text, now, rule.wait * MINUTE, value)
                if (alert.active, alert.text) != (before.active, before.text):
                    line = "alert" if alert.active else "alert over"
                    log.warning(line, alert=key, detail=alert.text)
                if not alert.is_over(now):
                    judged[key] = alert
        return judged

    async def _tell(self, alerts: dict[str, Alert]) -> Alerts:
        now = self.ledger.now()
        due: dict[str, list[str]] = {}
        messages = []
        for channel in self.channels:
            changed = {key: alert for key, alert in alerts.items() if alert.is_due(channel)}
            if changed and self._next_at[channel] <= now:
                due[channel] = list(changed)
                messages.append(self._message(channel, changed))
        if not messages:
            return alerts
        for channel, error in (await self.send(messages)).items():
            if error is not None:
                self._next_at[channel] = now + int(self._pauses[channel].grow() * SECOND)
                log.warning("alert not sent", channel=channel, detail=error)
                continue
            self._pauses[channel].reset()
            log.info("alert sent", channel=channel, alerts=due[channel])
            for key in due[channel]:
                told = {it: active for it, active in alerts[key].told.items() if it in self.channels}
                alerts[key] = replace(alerts[key], told={**told, channel: alerts[key].active})
        return alerts

    def _message(self, channel: str, alerts: Alerts) -> Message:
        severities = [_rule_of(key).severity for key, alert in alerts.items() if alert.active]
        kind: Kind = "failure" if "page" in severities else "warning" if severities else "success"
        title = f"{len(severities)} alerts, {len(alerts) - len(severities)} over"
        if len(alerts) == 1:
            (key,) = alerts
            title = _title(key) if severities else f"Over: {_title(key)}"
        host = urlsplit(self.address).hostname or socket.gethostname()
        body = "\n\n".join(self._paragraph(key, alert) for key, alert in alerts.items())
        return Message(channel, self.channels[channel], f"{title} ({host})", body, kind)

    def _paragraph(self, key: str, alert: Alert) -> str:
        if not alert.active:
            return f"{_title(key)}: over since {serializers.time(alert.at)}. It was: {alert.text}"
        rule = _rule_of(key)
        link = f"\n{self.address}{rule.page}" if self.address else ""
        return f"{_title(key)}: {alert.text}\nWhat to do: {rule.what_to_do}{link}"


async def read_alerts(ledger: LedgerReader) -> Alerts:
    """Return the alerts that are kept in the ledger; of another version's, none."""
    try:
        kept = json.loads(await ledger.checkpoint(_CHECKPOINT) or "{}")
        return {key: Alert(**alert) for key, alert in kept.items()}
    except (TypeError, ValueError):
        return {}


def _rule_of(key: str) -> Rule:
    return _BY_NAME[key.partition(" ")[0]]


def _title(key: str) -> str:
    labels = key.partition(" ")[2]
    return f"{_rule_of(key).title}, {labels}" if labels else _rule_of(key).title
