"""When somebody is told, and how often: rules over metrics, the life of an alert, and the loop."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from receiver.alerts.alerter import EVERY_SECONDS, Alerter, read_alerts
from receiver.alerts.channels import Message, named
from receiver.alerts.rules import RULES, Labels, Rises, Rule, samples_of
from receiver.alerts.states import MINUTE, Alert
from receiver.core.concurrency import cancel
from receiver.core.errors import LedgerError
from receiver.ledger import Ledger
from tests.docs.documents import DOCUMENTS
from tests.support.clock import Clock
from tests.support.ledgers import make_empty_ledger
from tests.support.metric_names import METRICS
from tests.support.waiting import eventually

SECRET = "json://a-secret-host/token"


class World:
    """Metrics that a test sets, and channels that it breaks."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock
        self.metrics = CollectorRegistry()
        self.lost = Gauge("receiver_images_lost", "Lost.", registry=self.metrics)
        self.at_risk = Gauge("receiver_jobs_at_risk", "At risk.", registry=self.metrics)
        self.writable = Gauge("receiver_ledger_writable", "Writable.", registry=self.metrics)
        self.refusals = Counter("receiver_refusals", "Refused.", ["reason"], registry=self.metrics)
        self.refusals.labels("auth.refused")
        self.writable.set(1)
        self.broken: set[str] = set()
        self.attempts: list[str] = []
        self.sent: list[Message] = []
        self.alerter = self.another()

    def another(self, *urls: str) -> Alerter:
        """A loop as of another process, with these channels."""
        return Alerter(
            ledger=self.ledger,
            collect=self._collect,
            channels=named(urls or ("slack://a/b/c", "mailto://d:e@f.test")),
            address="https://receiver.test",
            send=self._send,
        )

    async def _collect(self) -> CollectorRegistry:
        return self.metrics

    async def _send(self, messages: Sequence[Message]) -> Mapping[str, str | None]:
        self.attempts += [message.channel for message in messages]
        self.sent += [message for message in messages if message.channel not in self.broken]
        return {it.channel: "It is away." if it.channel in self.broken else None for it in messages}

    async def pass_time(self, minutes: float) -> None:
        """Lets the loop look as often as it does in this time."""
        for _ in range(int(minutes * 60 / EVERY_SECONDS)):
            self.clock.now += int(EVERY_SECONDS * 1000)
            await self.alerter.look()

    def titles(self, channel: str = "slack 1") -> list[str]:
        return [message.title for message in self.sent if message.channel == channel]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    async with await Ledger.serve(make_empty_ledger(tmp_path), now=clock) as ledger:
        yield World(ledger, clock)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_rests_on_a_metric_with_its_labels(rule: Rule) -> None:
    assert METRICS[rule.metric] >= {*rule.only, *([rule.by] if rule.by else [])}
    assert (rule.over is None) is not (rule.equals is None)


def test_a_rule_reads_the_labels_that_it_wants() -> None:
    metrics = CollectorRegistry()
    damaged = Gauge("receiver_objects_damaged", "Damaged.", ["reason"], registry=metrics)
    damaged.labels("archive.missing").set(3)
    damaged.labels("archive.altered").set(2)
    (rule,) = [rule for rule in RULES if rule.name == "ObjectsDamaged"]
    values = rule.values(samples_of(list(metrics.collect())))
    assert values == {(("reason", "archive.altered"),): 2}
    assert "2 archived objects" in rule.text(2, (("reason", "archive.altered"),))
    assert "archive.altered at the last" in rule.text(2, (("reason", "archive.altered"),))


def test_the_spool_counts_as_its_share() -> None:
    (rule,) = [rule for rule in RULES if rule.name == "SpoolFilling"]
    samples: dict[str, dict[Labels, float]] = {"receiver_spool_bytes": {(): 85}}
    assert rule.values(samples) is None
    values = rule.values({**samples, "receiver_spool_room_bytes": {(): 15}})
    assert values == {(): 0.85}
    assert rule.is_beyond(0.85)
    assert "The spool is at 85%." in rule.text(0.85, ())
    assert rule.values({"receiver_spool_bytes": {(): 0}, "receiver_spool_room_bytes": {(): 0}}) == {(): 0}


def test_a_rise_is_that_of_the_window_and_a_new_series_rises_from_nothing() -> None:
    (rule,) = [rule for rule in RULES if rule.name == "RefusalsRising"]
    rises, old, new = Rises(), (("reason", "a"),), (("reason", "b"),)
    assert rises.since(rule, {old: 1000}, 0) == {old: 0}
    assert rises.since(rule, {old: 1010, new: 30}, 10 * MINUTE) == {old: 10, new: 30}
    assert rises.since(rule, {old: 1010, new: 30}, 30 * MINUTE) == {old: 0, new: 0}


async def test_an_alert_is_told_once_and_once_again_when_it_is_over(world: World) -> None:
    world.lost.set(2)
    await world.pass_time(60)
    world.lost.set(3)
    await world.pass_time(60)
    (first,) = [message for message in world.sent if message.channel == "slack 1"]
    assert first.title == "Images lost (receiver.test)"
    assert first.body.startswith("Images lost: 2 acknowledged images are gone")
    assert "What to do: `receiver audit` names those that the archive lacks" in first.body
    assert first.body.endswith("\nhttps://receiver.test/#trouble")
    assert first.kind == "failure"
    world.lost.set(0)
    await world.pass_time(9)
    assert len(world.sent) == 2
    await world.pass_time(60)
    assert world.titles() == ["Images lost (receiver.test)", "Over: Images lost (receiver.test)"]
    assert world.titles("mailto 1") == world.titles()
    assert world.sent[-1].kind == "success"


async def test_a_disk_that_something_else_has_filled_is_told_of(world: World) -> None:
    Gauge("receiver_spool_bytes", "Held.", registry=world.metrics)
    Gauge("receiver_spool_room_bytes", "Room.", registry=world.metrics).set(0)
    await world.pass_time(10)
    assert world.titles() == ["Spool full (receiver.test)"]


async def test_a_process_that_cannot_be_started_at_first_silences_no_alert(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = iter([True, False])

    async def check(_: object) -> dict[str, None]:
        if next(fails):
            raise OSError("no memory for another process")
        return {}

    monkeypatch.setattr("receiver.alerts.alerter.check", check)
    monkeypatch.setattr("receiver.alerts.alerter.EVERY_SECONDS", 0.01)
    world.lost.set(1)
    loop = asyncio.create_task(world.alerter.run())
    await asyncio.to_thread(eventually, lambda: bool(world.titles()))
    await cancel([loop])
    assert world.titles() == ["Images lost (receiver.test)"]


async def test_one_receiver_tells_and_hands_over_what_it_could_not_keep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a database is away, after which another receiver leads."""

    async def fail(*_: object) -> None:
        raise LedgerError("ledger.unavailable")

    first, second = world.alerter, world.another()
    leader = first
    first.leads, second.leads = (lambda: leader is first), (lambda: leader is second)
    await second.look()
    world.writable.set(0)
    with monkeypatch.context() as away:
        away.setattr(world.ledger, "save_checkpoint", fail)
        for _ in range(5):
            world.clock.now += MINUTE
            with contextlib.suppress(LedgerError):
                await first.look()
            await second.look()
    assert world.titles() == ["Ledger unwritable (receiver.test)"]
    leader = second
    world.writable.set(1)
    await first.look()
    for _ in range(12):
        world.clock.now += MINUTE
        await first.look()
        await second.look()
    assert world.titles() == ["Ledger unwritable (receiver.test)", "Over: Ledger unwritable (receiver.test)"]


async def test_an_alert_is_told_again_when_its_number_has_doubled(world: World) -> None:
    for lost in (1, 2, 3, 500, 900, 0):
        world.lost.set(lost)
        await world.pass_time(60)
    bodies = [message.body for message in world.sent if message.channel == "slack 1"]
    numbers = [body.removeprefix("Images lost: ").partition(" acknowledged")[0] for body in bodies]
    assert numbers[:-1] == ["1", "2", "500"]
    assert numbers[-1].startswith("over since")


async def test_the_documentation_shows_both_messages(world: World) -> None:
    world.at_risk.set(2)
    await world.pass_time(2)
    world.at_risk.set(0)
    await world.pass_time(11)
    sent = [it for it in world.sent if it.channel == "slack 1"]
    assert len(sent) == 2
    page = DOCUMENTS["docs/operations/monitoring.md"]
    for message in sent:
        text = f"{message.title}\n\n{message.body}\n".replace("receiver.test", "receiver.example.com")
        assert text in page, text


async def test_a_condition_that_passes_at_once_is_told_to_nobody(world: World) -> None:
    world.at_risk.set(1)
    await world.pass_time(0.5)
    world.at_risk.set(0)
    await world.pass_time(60)
    assert world.sent == []
    assert await read_alerts(world.ledger) == {}


async def test_what_begins_together_is_one_message(world: World) -> None:
    world.lost.set(1)
    world.refusals.labels("auth.refused").inc(5)
    await world.pass_time(0.5)
    world.refusals.labels("auth.refused").inc(100)
    world.refusals.labels("body.too_large").inc(100)
    world.lost.set(0)
    await world.pass_time(20)
    assert world.titles()[1:] == [
        "2 alerts, 0 over (receiver.test)",
        "Over: Images lost (receiver.test)",
    ] or (world.titles()[1:] == ["2 alerts, 1 over (receiver.test)"])
    (message, *_) = [it for it in world.sent if it.title.startswith("2 alerts")]
    assert "Refusals rising, auth.refused: 10" in message.body
    assert "Refusals rising, body.too_large: 100 requests in 15 minutes" in message.body


async def test_what_comes_and_goes_for_a_day_is_no_flood(world: World) -> None:
    for _ in range(24):  # 12 minutes of each hour, and each minute of those another way
        for minute in range(12):
            world.lost.set(minute % 2)
            await world.pass_time(1)
        world.lost.set(0)
        await world.pass_time(48)
    assert 2 <= len(world.titles()) <= 12


@pytest.mark.parametrize("minutes", [1, 11, 21, 45, 90])
def test_a_condition_that_changes_at_any_pace_makes_at_most_a_dozen_messages_a_day(minutes: int) -> None:
    alert, changes = Alert(), 0
    for minute in range(24 * 60):
        before = alert.active
        alert = alert.after("It is." if (minute // minutes) % 2 else None, minute * MINUTE, 0)
        changes += alert.active is not before
    assert changes <= 13


async def test_a_restart_repeats_nothing_and_misses_nothing(world: World) -> None:
    world.lost.set(1)
    await world.pass_time(1)
    world.alerter = world.another()
    await world.pass_time(60)
    assert len(world.titles()) == 1
    world.alerter = world.another()
    world.lost.set(0)
    await world.pass_time(5)
    world.alerter = world.another()
    await world.pass_time(7)
    assert world.titles()[1:] == ["Over: Images lost (receiver.test)"]


async def test_another_receiver_that_takes_over_repeats_nothing(world: World) -> None:
    first, second = world.another(), world.another()
    await second.look()
    world.lost.set(1)
    await first.look()
    await second.look()
    assert len(world.titles()) == 1


async def test_a_channel_that_fails_is_told_later_how_things_are_by_then(world: World) -> None:
    world.broken.add("slack 1")
    world.lost.set(1)
    await world.pass_time(6 * 60)
    assert world.titles("mailto 1") == ["Images lost (receiver.test)"]
    assert 5 <= world.attempts.count("slack 1") <= 15
    world.broken.clear()
    await world.pass_time(61)
    assert world.titles() == ["Images lost (receiver.test)"]
    world.broken.add("slack 1")
    world.lost.set(0)
    await world.pass_time(60)
    assert len(world.titles("mailto 1")) == 2
    world.lost.set(1)  # again, before that it was over could be told
    await world.pass_time(120)
    world.broken.clear()
    await world.pass_time(61)
    assert world.titles() == ["Images lost (receiver.test)"]


async def test_a_new_channel_is_told_of_what_is_active(world: World) -> None:
    world.lost.set(1)
    await world.pass_time(1)
    world.alerter = world.another("slack://a/b/c", "ntfy://host/topic")
    await world.pass_time(1)
    assert world.titles("ntfy 1") == ["Images lost (receiver.test)"]
    assert len(world.titles()) == 1
    (alert,) = (await read_alerts(world.ledger)).values()
    assert alert.told == {"slack 1": True, "ntfy 1": True}


async def test_what_is_not_known_ends_and_begins_nothing(world: World) -> None:
    world.lost.set(1)
    await world.pass_time(1)
    world.metrics.unregister(world.lost)
    await world.pass_time(120)
    assert len(world.titles()) == 1


async def test_a_ledger_that_cannot_be_written_is_told_of_once(world: World, tmp_path: Path) -> None:
    class Full(Ledger):
        async def save_checkpoint(self, *_: Any) -> None:
            raise LedgerError("ledger.unavailable")

        async def checkpoint(self, *_: Any) -> str | None:
            raise LedgerError("ledger.unavailable")

    world.ledger = object.__new__(Full)
    world.ledger.now = world.clock
    world.alerter = world.another()
    world.writable.set(0)
    for _ in range(20):
        world.clock.now += int(EVERY_SECONDS * 1000)
        with pytest.raises(LedgerError):
            await world.alerter.look()
    assert world.titles() == ["Ledger unwritable (receiver.test)"]


async def test_alerts_of_another_version_are_forgotten(world: World) -> None:
    kept = {"ImagesLost": {"text": "x", "colour": "red"}}
    await world.ledger.save_checkpoint("alerts", json.dumps(kept))
    world.lost.set(1)
    await world.pass_time(1)
    assert len(world.titles()) == 1


def test_channels_are_named_by_their_services_alone() -> None:
    assert named(["slack://a/b/c", SECRET, "SLACK://d/e/f"]) == {
        "slack 1": "slack://a/b/c",
        "json 1": SECRET,
        "slack 2": "SLACK://d/e/f",
    }
    assert "token" not in repr(Message("json 1", SECRET, "t", "b"))
