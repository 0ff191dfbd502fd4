"""Alerts by the real Apprise, to stand-ins of the services on loopback."""

import asyncio
import email
import email.policy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.alerts.alerter import read_alerts
from receiver.alerts.channels import Message, named, send
from receiver.config import Config, load
from receiver.core.jobs import State
from receiver.doctor.checks import Level
from receiver.doctor.remote import check_alerts
from receiver.ledger import Ledger, LedgerReader
from tests.ledger.actions import brought_to
from tests.support.processes import Programs, run, settings
from tests.support.services import Services, mail_server, services
from tests.support.waiting import eventually

PATIENT = "cto=600&rto=600"
"""Apprise waits 4 s for a connection and for an answer, which a busy machine may take."""

SLACK = f"slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ?{PATIENT}"
DISCORD = f"discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?{PATIENT}"
TELEGRAM = f"tgram://123456789:abcdefg_hijklmnop/12315544/?{PATIENT}"
TEAMS = f"workflows://prod.logic.azure.com:443/643e69f83c8944/a-signature-of-teams?{PATIENT}"
TOKENS = (
    "T1JJ3T3L2",
    "TIiajkdnl",
    "JHMHI8qBe7",
    "abcdefg_hij",
    "a-signature-of",
    "a-secret-topic",
    "pass-w0rd",
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    with services(tmp_path) as it:
        for name, value in it.environment().items():
            monkeypatch.setenv(name, value)
        yield it


def messages(*urls: str) -> list[Message]:
    return [
        Message(name, url, "Images lost (receiver.test)", "2 images are gone.\nLook.", "failure")
        for name, url in named(urls).items()
    ]


async def test_every_service_gets_the_message_in_its_own_form(world: Services) -> None:
    with mail_server() as (port, mails):
        mail = f"mailto://user:pass-w0rd@127.0.0.1:{port}?from=a@receiver.test&to=b@people.test&mode=insecure"
        mail += f"&{PATIENT}"
        ntfy = f"ntfy://127.0.0.1:{world.port}/a-secret-topic?{PATIENT}"
        hook = f"json://127.0.0.1:{world.port}/hook?{PATIENT}"
        results = await send(messages(SLACK, DISCORD, TELEGRAM, TEAMS, mail, ntfy, hook))
    assert results == dict.fromkeys(
        ["slack 1", "discord 1", "tgram 1", "workflows 1", "mailto 1", "ntfy 1", "json 1"]
    )
    hosts = {post.host for post in world.posts}
    assert hosts == {
        *("hooks.slack.com", "discord.com", "api.telegram.org", "prod.logic.azure.com", "127.0.0.1")
    }
    assert all(b"2 images are gone" in post.body for post in world.posts)
    (hooked,) = [post for post in world.posts if post.path == "/hook"]
    assert hooked.json["title"] == "Images lost (receiver.test)"
    assert hooked.json["type"] == "failure"
    (text,) = mails
    letter = email.message_from_string(text, policy=email.policy.default)
    assert letter["subject"] == "Images lost (receiver.test)"
    assert letter["to"] == "b@people.test"
    assert "2 images are gone." in str(letter)


class HurriedLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour passes at once when child processes have written so many lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._lines = lines

    def time(self) -> float:
        return super().time() + (0 if self._lines > 0 else 3600)

    async def subprocess_exec(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        def counting() -> Any:
            protocol = protocol_factory()
            take = protocol.pipe_data_received

            def pipe_data_received(fd: int, data: bytes) -> None:
                take(fd, data)
                self._lines -= data.count(b"\n")

            protocol.pipe_data_received = pipe_data_received
            return protocol

        return await super().subprocess_exec(counting, *args, **kwargs)


def test_a_channel_that_refuses_or_hangs_keeps_no_other_from_its_message(world: Services) -> None:
    world.answers["hooks.slack.com"] = 403
    world.hang.add("discord.com")
    hook = f"json://127.0.0.1:{world.port}/hook?{PATIENT}"
    sent = messages(SLACK, DISCORD, hook, "nosuchservice://a-secret-topic")
    with asyncio.Runner(loop_factory=lambda: HurriedLoop(lines=3)) as runner:
        results = runner.run(send(sent, seconds=600))
    assert results == {
        "slack 1": "The service answers 403.",
        "discord 1": "No answer within 600 seconds.",
        "json 1": None,
        "nosuchservice 1": "Apprise cannot read its URL.",
    }
    assert [post.path for post in world.posts if post.host == "127.0.0.1"] == ["/hook"]


def test_the_command_tries_each_channel_and_shows_no_token(tmp_path: Path, world: Services) -> None:
    world.answers["discord.com"] = 401
    ntfy = f"ntfy://127.0.0.1:{world.port}/a-secret-topic?{PATIENT}"
    values = settings(
        tmp_path,
        RECEIVER_ALERT_URLS=f"{SLACK}, {DISCORD} {ntfy}",
        RECEIVER_PUBLIC_URL="https://user:pass-w0rd@receiver.test",  # which the proxy asks for
    )
    done = run(["alert", "--test"], tmp_path, values)
    assert done.returncode == 1, done.stderr
    assert done.stdout == "slack 1\tsent\ndiscord 1\tThe service answers 401.\nntfy 1\tsent\n"
    assert not any(token in done.stdout + done.stderr for token in TOKENS)
    assert {post.host for post in world.posts} == {"hooks.slack.com", "discord.com", "127.0.0.1"}
    assert all(b"https://receiver.test" in post.body for post in world.posts)


def test_the_command_says_what_is_wrong_where_no_channel_is_set(tmp_path: Path) -> None:
    assert run(["alert"], tmp_path, settings(tmp_path)).returncode == 2
    done = run(["alert", "--test"], tmp_path, settings(tmp_path))
    assert done.returncode == 1
    assert "RECEIVER_ALERT_URLS is not set" in done.stderr
    wrong = run(
        ["alert", "--test"],
        tmp_path,
        settings(tmp_path, RECEIVER_ALERT_URLS=f'["{SLACK}", "a-secret-topic"]'),
    )
    assert wrong.returncode == 1
    assert "entry 2 is no URL of Apprise" in wrong.stderr
    assert not any(token in wrong.stderr for token in TOKENS)


async def test_the_doctor_names_the_channel_that_apprise_cannot_read_and_sends_nothing(
    tmp_path: Path, world: Services
) -> None:
    urls = f"{SLACK} nosuchservice://a-secret-topic"
    found = await check_alerts(load(settings(tmp_path, RECEIVER_ALERT_URLS=urls)))
    assert [(it.level, it.detail) for it in found] == [
        (Level.FAILURE, "nosuchservice 1: Apprise cannot read its URL.")
    ]
    (good,) = await check_alerts(load(settings(tmp_path, RECEIVER_ALERT_URLS=SLACK)))
    assert good.level is Level.OK
    assert await check_alerts(load(settings(tmp_path))) == []
    assert world.posts == []


def test_a_receiver_tells_each_channel_once_of_a_lost_image_also_over_a_restart(
    tmp_path: Path, world: Services, programs: Programs
) -> None:
    (tmp_path / "data").mkdir()
    asyncio.run(lose_an_image(tmp_path / "data"))
    hook = f"json://127.0.0.1:{world.port}/a-secret-topic?{PATIENT}"
    public = "https://user:pass-w0rd@receiver.test"  # which the proxy asks for
    values = settings(tmp_path, RECEIVER_PUBLIC_URL=public, RECEIVER_ALERT_URLS=hook)
    with programs.receiver(values) as receiver:
        receiver.program.until_event("alert sent", channel="json 1", alerts=["ImagesLost"])
    (post,) = world.posts
    assert post.json["title"] == "Images lost (receiver.test)"
    assert "1 acknowledged images are gone" in post.json["message"]
    assert "https://receiver.test/#trouble" in post.json["message"]
    values["RECEIVER_ALERT_URLS"] = f"{hook} json://127.0.0.1:{world.port}/new?{PATIENT}"
    with programs.receiver(values) as receiver:
        receiver.program.until_event("alert sent", channel="json 2")
        both = {"ImagesLost": {"json 1": True, "json 2": True}}
        eventually(lambda: asyncio.run(told(load(values))) == both)
        assert not any(token in receiver.program.log for token in TOKENS)
    assert [post.path for post in world.posts] == ["/a-secret-topic", "/new"]


async def lose_an_image(data: Path) -> None:
    async with await Ledger.serve(data) as ledger:
        await brought_to(ledger, State.EXPIRED, "lost-1")


async def told(config: Config) -> dict[str, dict[str, bool]]:
    async with await LedgerReader.open(config.ledger_location) as ledger:
        return {key: dict(alert.told) for key, alert in (await read_alerts(ledger)).items()}
