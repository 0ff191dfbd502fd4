"""What the doctor makes of what it sees: each of its checks, and the runner."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.archive.base import ProbeResult
from receiver.bootstrap.secrets import weakness
from receiver.config import Config, load, load_partly, origins
from receiver.core.concurrency import run_in_thread
from receiver.core.errors import ConfigError
from receiver.core.jobs import State
from receiver.doctor import diagnose
from receiver.doctor.checks import Check, Level, Result, failure, ok, run_checks
from receiver.doctor.ledger import check_jobs, check_ledger, check_server
from receiver.doctor.machine import (
    cannot_create,
    check_address,
    check_directory,
    check_disk,
    check_versions,
    mount_of,
)
from receiver.doctor.remote import (
    check_archive,
    check_clock,
    check_hostname,
    check_public_url,
    check_readiness,
    clock_offset,
    interpret_answer,
    probe_results,
    unreachable,
)
from receiver.doctor.settings import (
    check_dotenv,
    check_hidden,
    check_secret_files,
    check_secrets,
    check_settings,
    settings_report,
)
from receiver.ledger import FILE_NAME, Instance, Ledger, Stats, holder
from receiver.providers.base import Setup
from receiver.providers.registry import open_providers
from receiver.web.challenge import PROOF_HEADER, read_key
from receiver.web.reachability import Answer, explain, origin
from tests.support.clock import HOUR, NOW
from tests.support.ledgers import make_empty_ledger

GOOD = {
    "RECEIVER_WEBHOOK_HEADERS": '{"X-Webhook-Secret": "q8Zs0lB1vJx4mT7nWcYd"}',
    "RECEIVER_API_TOKENS": "hR3kP9wLz6fUe2GtNbXo",
    "RECEIVER_IMAGE_SOURCES": "https://*.ximilar.com/",
}


def config(**more: str) -> Config:
    return load({**GOOD, **more})


def levels(results: list[Result]) -> set[Level]:
    return {result.level for result in results}


def said(results: list[Result]) -> str:
    return "\n".join(f"{v.level} {v.check} {v.detail} {v.remedy}" for v in results)


# Settings


def settings_looked_at(environ: Mapping[str, str]) -> list[Result]:
    given, wrong = load_partly(environ)
    return check_settings(given, {}, wrong)


def test_every_wrong_setting_is_told_and_not_only_the_first() -> None:
    wrong = {**GOOD, "RECEIVER_PORT": "canary", "RECEIVER_FETCHES": "-1", "RECEIVER_LOG": "canary"}
    found = settings_looked_at(wrong)
    assert {v.detail.partition(":")[0] for v in found} == {
        "RECEIVER_PORT",
        "RECEIVER_FETCHES",
        "RECEIVER_LOG",
    }
    assert levels(found) == {Level.FAILURE}
    assert all(v.remedy for v in found)
    assert "canary" not in said(found)
    assert load_partly(GOOD) == (load(GOOD), ())
    # What a server lacks is told beside them, and nothing of what may only be missing because it is wrong.
    bare = settings_looked_at(
        {"RECEIVER_PORT": "canary", "RECEIVER_SIGNING_KEYS": "[1]", "RECEIVER_IMAGE_SOURCES": "["}
    )
    assert [v.detail.partition(":")[0] for v in bare] == [
        "RECEIVER_SIGNING_KEYS",
        "RECEIVER_IMAGE_SOURCES",
        "RECEIVER_PORT",
        "RECEIVER_API_TOKENS",
    ]


async def test_what_does_not_depend_on_a_wrong_setting_is_looked_at(tmp_path: Path) -> None:
    wrong = {**GOOD, "RECEIVER_PORT": "many", "RECEIVER_DATA_DIR": str(tmp_path / "data")}
    report = await diagnose(wrong, tmp_path / ".env")
    found = {result.check: result for result in report.results}
    assert found["serve"].detail == "was not looked at, because RECEIVER_PORT is wrong"
    assert found["serve"].level is Level.WARNING
    assert {"data directory", "disk", "ledger", "archive", "provider", "public URL"} <= found.keys()
    assert "not looked at" not in said([v for v in report.results if v.check != "serve"])
    shown_settings = {line["name"]: line["value"] for line in report.settings}
    assert (shown_settings["RECEIVER_PORT"], shown_settings["RECEIVER_FETCHES"]) == (None, 16)
    assert not report.good


def test_all_that_a_server_lacks_is_told() -> None:
    found = check_settings(load({"RECEIVER_ARCHIVE_KEY": "x", "RECEIVER_MAX_SPOOL_BYTES": "1"}), {})
    assert [v.detail.partition(":")[0] for v in found if v.level is Level.FAILURE] == [
        "RECEIVER_WEBHOOK_HEADERS",
        "RECEIVER_API_TOKENS",
        "RECEIVER_ARCHIVE_KEY",
        "RECEIVER_MAX_SPOOL_BYTES",
    ]


def test_no_secrets_are_not_called_good_ones() -> None:
    assert check_secrets(load({}), {}) == []


def test_where_folders_cannot_be_reading_them_finds_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert holder(file) is None
    assert read_key(file) is None
    with pytest.raises(ConfigError, match="is no folder"):
        load_partly({"RECEIVER_SECRETS_DIR": "/nowhere/at/all"})


def test_good_settings_are_told_to_be_good() -> None:
    assert levels(check_settings(config(), {})) == {Level.OK}


@pytest.mark.parametrize(
    ("more", "level", "words"),
    [
        ({"RECEIVER_IMAGE_SOURCES": ""}, Level.WARNING, "any public https host"),
        ({"FAL_KEY": "x"}, Level.WARNING, "FAL_KEY is set, but fal is off"),
        ({"REPLICATE_API_TOKEN": "x"}, Level.WARNING, "REPLICATE_API_TOKEN is set, but replicate is off"),
        ({"RECEIVER_ARCHIV": "x"}, Level.WARNING, "did you mean RECEIVER_ARCHIVE"),
        ({"RECEIVER_API_TOKENS": ""}, Level.FAILURE, "RECEIVER_API_TOKENS: not set"),
        ({"RECEIVER_WEBHOOK_HEADERS": ""}, Level.FAILURE, "anyone could deliver"),
        ({"RECEIVER_CONFIRM": "on"}, Level.FAILURE, "XIMILAR_API_TOKEN"),
        ({"RECEIVER_ARCHIVE_KEY": "{nothing}"}, Level.FAILURE, "RECEIVER_ARCHIVE_KEY"),
        ({"RECEIVER_MAX_SPOOL_BYTES": "1"}, Level.FAILURE, "RECEIVER_MAX_SPOOL_BYTES"),
        ({"RECEIVER_FETCHES": "0"}, Level.FAILURE, "RECEIVER_FETCHES"),
        ({"RECEIVER_NOTIFY_URL": "https://x.example/"}, Level.FAILURE, "RECEIVER_NOTIFY_SECRET"),
    ],
)
def test_settings_that_do_not_fit_are_told(more: dict[str, str], level: Level, words: str) -> None:
    found = check_settings(config(**more), {})
    assert [v for v in found if v.level is level and words in v.detail and v.remedy], said(found)


@pytest.mark.parametrize(
    "secret", ["changeme", "SECRET", "password1", "your-token-here", "xxxxxxxxxxxxxxxxxxxxx"]
)
def test_a_secret_from_an_example_is_as_good_as_none(secret: str) -> None:
    assert weakness(secret, least=8, good=16) == (True, "looks like a value from an example")


def test_secrets_are_measured_by_who_can_try_guesses() -> None:
    assert weakness("q8Zs0lB", least=8, good=16)[0]
    assert weakness("q8Zs0lB1vJ", least=8, good=16) == (False, "is shorter than 16 characters")
    assert weakness("ab" * 20, least=8, good=16) == (True, "has fewer than 6 different characters")
    assert weakness("q8Zs0lB1vJx4mT7nWcYd", least=8, good=16) == (False, "")
    assert levels(check_secrets(config(), {})) == {Level.OK}
    assert levels(check_secrets(config(RECEIVER_SIGNING_KEYS="q8Zs0lB1vJx4"), {})) == {Level.FAILURE}
    assert levels(check_secrets(config(RECEIVER_SIGNING_KEYS="q8Zs0lB1vJx4mT7nWc"), {})) == {Level.WARNING}
    for name, secret in (("FREEPIK_WEBHOOK_SECRET", "a"), ("REPLICATE_WEBHOOK_SECRET", "whsec_YQ==")):
        found = check_secrets(config(**{name: secret}), {})
        assert (levels(found), name in said(found)) == ({Level.FAILURE}, True)


def test_a_value_that_stands_twice_is_told() -> None:
    shared = "q8Zs0lB1vJx4mT7nWcYd"
    found = check_secrets(config(RECEIVER_API_TOKENS=shared, XIMILAR_API_TOKEN=shared), {})
    assert levels(found) == {Level.FAILURE}
    assert "RECEIVER_WEBHOOK_HEADERS and RECEIVER_API_TOKENS share" in said(found)
    assert "RECEIVER_WEBHOOK_HEADERS and XIMILAR_API_TOKEN share" in said(found)
    assert shared not in said(found)


def test_a_dotenv_that_others_can_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert check_dotenv(path) == []
    path.touch(mode=0o600)
    assert levels(check_dotenv(path)) == {Level.OK}
    path.chmod(0o644)
    (found,) = check_dotenv(path)
    assert (found.level, found.remedy) == (Level.WARNING, f"chmod 600 {path}")


def test_an_environment_that_hides_dotenv_is_told_without_a_value(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert check_hidden({"RECEIVER_PORT": "8081"}, path) == []
    path.write_text("RECEIVER_PORT=8080\nRECEIVER_HOST=::1\nXIMILAR_API_TOKEN='in the file'\nAWS_REGION=\n")
    same = {"RECEIVER_PORT": "8080", "RECEIVER_HOST": "", "AWS_REGION": "eu-central-1"}
    assert check_hidden(same, path) == []
    (found,) = check_hidden({"RECEIVER_PORT": "8081", "XIMILAR_API_TOKEN": "of the environment"}, path)
    assert found.level is Level.WARNING
    assert "RECEIVER_PORT, XIMILAR_API_TOKEN have other values" in found.detail
    assert not any(value in str(found) for value in ("8081", "in the file", "of the environment"))


def test_secret_files_that_others_can_read_are_told_but_not_those_that_were_handed_in(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    folder.chmod(0o755)
    file = folder / "RECEIVER_API_TOKENS"
    file.write_text("canary")
    file.chmod(0o644)
    (found,) = check_secret_files(folder, "x / ext4 rw 0 0\n")
    assert (found.level, found.remedy) == (Level.WARNING, f"chmod 700 {folder}")
    assert "RECEIVER_API_TOKENS" in found.detail
    assert "canary" not in said([found])
    for mount in (f"x {tmp_path} tmpfs rw", f"x {folder} ext4 ro", f"x {file} ext4 ro"):
        assert check_secret_files(folder, f"x / ext4 rw 0 0\n{mount} 0 0\n") == []
    file.chmod(0o640)
    assert check_secret_files(folder, "") == []
    file.chmod(0o644)
    folder.chmod(0o700)
    assert check_secret_files(folder, "") == []


def test_every_setting_is_shown_with_its_origin_and_without_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "XIMILAR_API_TOKEN").write_text("canary-1")
    (tmp_path / ".env").write_text("RECEIVER_FETCHES=3\nRECEIVER_UPLOADS=2\n")
    environ = {
        **GOOD,
        "RECEIVER_SECRETS_DIR": str(tmp_path / "files"),
        "RECEIVER_UPLOADS": "4",
        "RECEIVER_SIGNING_KEYS": "canary-2,canary-3",
        "RECEIVER_NOTIFY_URL": "https://user:canary-4@hooks.example.com/canary-5?canary-6",
    }
    given = origins(environ, tmp_path / ".env")
    settings = {
        line["name"]: line for line in settings_report(load({"RECEIVER_FETCHES": "3", **environ}), given)
    }
    assert settings["RECEIVER_FETCHES"]["from"] == ".env"
    assert settings["RECEIVER_UPLOADS"]["from"] == "environment"
    assert settings["XIMILAR_API_TOKEN"] == {
        "name": "XIMILAR_API_TOKEN",
        "value": "set",
        "from": "RECEIVER_SECRETS_DIR",
    }
    assert settings["RECEIVER_PORT"] == {"name": "RECEIVER_PORT", "value": 8080, "from": "default"}
    assert settings["RECEIVER_NOTIFY_URL"]["value"] == "https://hooks.example.com/…"
    for secret in ("canary", "q8Zs0lB1vJx4mT7nWcYd", "hR3kP9wLz6fUe2GtNbXo"):
        assert secret not in str(settings)


# The machine


def test_an_old_sqlite_is_told() -> None:
    assert levels(check_versions(None)) == {Level.OK}
    assert "SQLite 3.40.1" in said(check_versions("3.40.1"))
    assert Level.WARNING in levels(check_versions("3.40.1"))


def look(folder: Path, *, user: int | None = None, mounts: str = "", **more: Any) -> list[Result]:
    return check_directory(
        config(RECEIVER_DATA_DIR=str(folder)),
        user=os.geteuid() if user is None else user,
        mounts=mounts,
        **more,
    )


def test_a_data_directory_of_ones_own_is_good_and_one_that_is_to_come_too(tmp_path: Path) -> None:
    assert levels(look(tmp_path / "to" / "come")) == {Level.OK}
    (tmp_path / "data").mkdir(mode=0o700)
    assert levels(look(tmp_path / "data")) == {Level.OK}


@pytest.mark.parametrize(
    ("mode", "level"), [(0o755, Level.WARNING), (0o750, Level.WARNING), (0o777, Level.FAILURE)]
)
def test_a_data_directory_that_is_open_to_others_is_told(tmp_path: Path, mode: int, level: Level) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    (found,) = look(folder)
    assert (found.level, found.remedy) == (level, f"Shut them out: chmod 700 {folder}")
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_what_else_can_be_wrong_with_a_data_directory(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    assert "and this runs as user 4711" in said(look(folder, user=4711))
    (folder / FILE_NAME).touch(mode=0o644)
    assert "other users can read the ledger" in said(look(folder))
    file = tmp_path / "file"
    file.touch()
    assert levels(look(file)) == {Level.FAILURE}
    assert "is no folder" in said(look(file))


def test_files_of_another_user_in_ones_own_data_directory_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "spool").mkdir(parents=True)
    folder.chmod(0o700)
    files = [folder / FILE_NAME, *(folder / "spool" / str(number) for number in range(4))]
    for file in files:
        file.touch(mode=0o600)
    me = os.geteuid()
    (found,) = look(folder, owner=lambda path: 4711 if path in files else me)
    assert found.level is Level.WARNING
    assert (
        f"user {me}'s, and not all that lies in it: {FILE_NAME}, spool/0, spool/1 and 2 more" in found.detail
    )
    assert f"chown -R {me} {folder}" in (found.remedy or "")


def test_a_data_directory_that_is_mounted_read_only_is_told_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (found,) = look(folder, mounts=f"x / ext4 rw 0 0\nx {tmp_path} ext4 ro,relatime 0 0\n")
    assert found.level is Level.FAILURE
    assert "read-only" in found.detail
    assert f"mount -o remount,rw {tmp_path}" in (found.remedy or "")


def test_whether_serve_could_listen_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        # Another start that has the address, and does not listen yet, is not disturbed.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        assert check_address(config(RECEIVER_PORT=port)).level is Level.OK
        taken.listen()
        found = check_address(config(RECEIVER_PORT=port))
    assert (found.level, found.detail.partition(":")[0]) == (Level.FAILURE, "RECEIVER_PORT")
    assert check_address(config(RECEIVER_HOST="203.0.113.7")).detail.startswith("RECEIVER_HOST: ")


@pytest.mark.parametrize(
    "place", ["{file}/below", "{file}/far/below", "/proc/receiver", "/dev/null/receiver"]
)
def test_a_data_directory_that_nobody_can_make_is_told(tmp_path: Path, place: str) -> None:
    file = tmp_path / "file"
    file.touch()
    (found,) = look(Path(place.format(file=file)))
    assert found.level is Level.FAILURE
    assert "is not there, and" in found.detail
    assert found.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_to_come_leaves_nothing_where_it_was_tried(tmp_path: Path) -> None:
    assert cannot_create(tmp_path / "to" / "come") is None
    assert list(tmp_path.iterdir()) == []


async def test_an_archive_folder_is_made_by_serve_only_where_it_can_be(tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def look_at(archive: str) -> Result:
        (found,) = await check_archive(config(RECEIVER_DATA_DIR=str(data), RECEIVER_ARCHIVE=archive), {})
        return found

    for folder in (data / "archive", tmp_path / "archive"):
        assert (await look_at(folder.as_uri())).level is Level.OK
    lost = await look_at((tmp_path / "mount" / "archive").as_uri())
    assert (lost.level, "mount it" in (lost.remedy or "")) == (Level.FAILURE, True)
    assert (await look_at("file:///proc/archive")).level is Level.FAILURE
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - a test may wait for its disk


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
overlay /box overlay rw 0 0
server:/export /srv/with\\040blank nfs4 rw 0 0
tmpfs /srv/with\\040blank/tmp tmpfs rw 0 0
/dev/sdb /srv/data ext4 rw 0 0
server:/more /srv/data nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", "ext4"),
        ("/box", "overlay"),
        ("/boxes", "ext4"),
        ("/srv/with blank/x", "nfs4"),
        ("/srv/with blank/tmp/x", "tmpfs"),
        ("/srv/data/x", "nfs"),  # the later mount covers the earlier one
    ],
)
def test_what_a_folder_lies_on(path: str, kind: str) -> None:
    found = mount_of(Path(path), MOUNTS)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [
        ("nfs4", Level.FAILURE, "network file system"),
        ("cifs", Level.FAILURE, "network file system"),
        ("tmpfs", Level.WARNING, "in memory"),
        ("overlay", Level.WARNING, "Mount a volume"),
    ],
)
def test_a_disk_that_keeps_no_promises_is_told(tmp_path: Path, kind: str, level: Level, words: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    found = look(folder, mounts=f"x / ext4 rw 0 0\nx {folder} {kind} rw 0 0\n")
    assert levels(found) == {level}
    assert words in said(found)


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (100 * 2**20, Level.FAILURE),
        (300 * 2**20, Level.FAILURE),
        (2**30, Level.WARNING),
        (20 * 2**30, Level.OK),
    ],
)
def test_the_disks_room_is_measured_by_what_may_come(tmp_path: Path, free: int, level: Level) -> None:
    given = config(RECEIVER_DATA_DIR=str(tmp_path / "data"))
    assert levels(check_disk(given, room=lambda _: free)) == {level}


def test_what_the_spool_holds_already_needs_no_further_room(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with (spool / "a").open("wb") as file:
        file.truncate(9 * 2**30)
    given = config(RECEIVER_DATA_DIR=str(tmp_path))
    assert levels(check_disk(given, room=lambda _: 2 * 2**30)) == {Level.OK}


# The ledger


def stats(**more: Any) -> Stats:
    values: dict[str, Any] = {
        "jobs": dict.fromkeys(State, 0),
        "bytes": dict.fromkeys(State, 0),
        "oldest_waiting_at": None,
        "soonest_deadline": None,
        "overdue": 0,
        "at_risk": 0,
        "unread": 0,
        **more,
    }
    return Stats(**values)


def test_jobs_that_wait_too_long_are_told() -> None:
    assert levels(check_jobs(stats(), NOW)) == {Level.OK}
    found = check_jobs(
        stats(
            at_risk=2,
            soonest_deadline=NOW + 1000,
            overdue=3,
            oldest_waiting_at=NOW - 2 * HOUR,
            jobs={**dict.fromkeys(State, 0), State.EXPIRED: 1},
        ),
        NOW,
    )
    assert [v.level for v in found] == [Level.FAILURE, *[Level.WARNING] * 3]
    assert "waited for 120 minutes" in said(found)
    assert "2 are at risk" in said(found)


def test_images_on_the_disk_of_a_receiver_that_does_not_run_are_told() -> None:
    live = Instance("here", "1", NOW, NOW, NOW + 1, NOW + 1, 5, 5)
    dead = replace(live, name="there", lives_until=NOW)
    stopped = replace(live, name="empty", lives_until=None, images=0)
    found = check_jobs(stats(instances=(live, dead, stopped)), NOW)
    assert [v.level for v in found] == [Level.WARNING]
    assert "5 wait for the receiver there" in said(found)


async def test_a_ledger_is_looked_at_beside_its_server(tmp_path: Path) -> None:
    given = config(RECEIVER_DATA_DIR=str(tmp_path))
    assert levels(await check_ledger(given, now=NOW, deep=False)) == {Level.OK}
    ledger = await Ledger.serve(make_empty_ledger(tmp_path))
    for deep in (False, True):
        assert levels(await check_ledger(given, now=NOW, deep=deep)) == {Level.OK}
    await ledger.close()
    (tmp_path / FILE_NAME).write_bytes(b"this is no ledger " * 1000)
    assert levels(await check_ledger(given, now=NOW, deep=False)) == {Level.FAILURE}


async def test_what_is_no_ledger_or_was_one_is_told(tmp_path: Path) -> None:
    given = config(RECEIVER_DATA_DIR=str(tmp_path))
    (gone,) = await check_ledger(given, now=NOW, deep=False, serving=True)
    assert gone.level is Level.FAILURE
    assert "though serve runs" in gone.detail
    assert "Put it back" in (gone.remedy or "")
    (tmp_path / FILE_NAME).mkdir()
    (folder,) = await check_ledger(given, now=NOW, deep=False)
    assert (folder.level, "is no file" in folder.detail) == (Level.FAILURE, True)


def test_whether_a_server_runs_is_told() -> None:
    assert check_server(7).detail == "runs on this data directory, as process 7"
    assert check_server(0).level is Level.OK
    assert check_server(None).level is Level.WARNING


# Beyond this machine


@pytest.mark.parametrize(
    ("date", "difference"), [(100, 0), (101, 0), (105, 3), (99, 0), (90, -9), (700, 598)]
)
def test_a_clock_is_compared_with_the_time_between_question_and_answer(
    date: float, difference: float
) -> None:
    assert clock_offset(formatdate(date, usegmt=True), 100, 102) == difference


def test_a_clock_that_says_nothing_is_not_compared() -> None:
    assert clock_offset("", 100, 102) is None
    assert clock_offset("yesterday", 100, 102) is None
    assert check_clock("x", None) == []


@pytest.mark.parametrize(
    ("difference", "level"),
    [(0, Level.OK), (-9, Level.OK), (20, Level.WARNING), (-20, Level.WARNING), (600, Level.FAILURE)],
)
def test_a_clock_that_is_off_is_told(difference: float, level: Level) -> None:
    (found,) = check_clock("the provider", difference)
    assert found.level is level
    assert (found.remedy is None) == (level is Level.OK)


def test_what_a_store_does_not_do_is_told_with_what_it_means() -> None:
    findings = (
        ProbeResult("write", True, "…"),
        ProbeResult("sha256", False, "SHA-256 is ignored."),
        ProbeResult("clock", False, "The store's clock is 600 seconds behind this machine's."),
    )
    found = probe_results("s3://b", findings)
    assert [(v.check, v.level) for v in found] == [
        ("archive", Level.OK),
        ("archive", Level.WARNING),
        ("clock", Level.FAILURE),
    ]
    assert levels(probe_results("s3://b", (ProbeResult("clock", True, "agrees"),))) == {Level.OK}


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody else gets, and on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


PROOF = {PROOF_HEADER.lower(): "right"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer(301, {"location": "https://new.example/healthz?canary"}, b""),
            "redirect (301) to https://new.example,",
        ),
        (Answer(401, {}, b""), "asks for a login (401)"),
        (
            Answer(401, {}, b'{"reason": "auth.token_refused"}'),
            "a receiver answers at https://me.example, but",
        ),
        (Answer(502, {}, b""), "does not reach the receiver behind it (502)"),
        (Answer(404, {}, b""), "something else than this receiver"),
        (Answer(200, {}, b"<html>"), "something else than this receiver"),
        (Answer(200, {PROOF_HEADER.lower(): "wrong"}, b""), "another installation"),
    ],
)
def test_an_address_that_leads_elsewhere_is_told(answer: Answer, words: str) -> None:
    found = interpret_answer(answer, "https://me.example/base", "right")
    assert found.level is Level.FAILURE
    assert words in found.detail
    assert found.remedy
    assert "canary" not in said([found])


@pytest.mark.parametrize(
    ("status", "level"),
    [(502, Level.WARNING), (504, Level.WARNING), (522, Level.WARNING)]
    + [(status, Level.FAILURE) for status in (200, 301, 401, 404)],
)
def test_before_the_first_start_only_what_a_start_cures_is_excused(status: int, level: Level) -> None:
    found = interpret_answer(Answer(status, {}, b""), "https://me.example", None, serving=False)
    assert found.level is level
    assert ("Start `receiver serve`" in (found.remedy or "")) == (level is Level.WARNING)


@pytest.mark.parametrize(
    ("cause", "level"),
    [
        (ConnectionRefusedError(), Level.WARNING),
        (ExceptionGroup("x", [ConnectionRefusedError()]), Level.WARNING),
        (ConnectionResetError(), Level.WARNING),
        (socket.gaierror(), Level.FAILURE),
        (ssl.SSLError(), Level.FAILURE),
        (OSError(errno.ENETUNREACH, "x"), Level.FAILURE),
    ],
)
def test_before_the_first_start_only_silence_is_excused(cause: Exception, level: Level) -> None:
    error = httpx.ConnectError("x")
    error.__cause__ = cause
    assert unreachable(error, "https://me.example", serving=False).level is level
    found = unreachable(error, "https://me.example", serving=True)
    assert found.level is Level.FAILURE
    assert ("a certificate for this name" in (found.remedy or "")) == isinstance(cause, ssl.SSLError)


@pytest.mark.parametrize(
    ("host", "more", "level"),
    [
        ("localhost", {"XIMILAR_API_TOKEN": "x"}, Level.FAILURE),
        ("127.0.0.1", {"XIMILAR_API_TOKEN": "x"}, Level.FAILURE),
        ("::1", {}, Level.WARNING),
        ("10.1.2.3", {"XIMILAR_API_TOKEN": "x"}, Level.WARNING),
        ("localhost", {"XIMILAR_API_URL": "http://[::1]:8090/"}, None),
        ("me.example.com", {"XIMILAR_API_TOKEN": "x"}, None),
        ("8.8.8.8", {}, None),
    ],
)
def test_an_address_that_the_provider_never_reaches_is_told(
    host: str, more: dict[str, str], level: Level | None
) -> None:
    given = config(**more)
    assert levels(check_hostname(given, host, open_providers(Setup(given, {})))) == (
        {level} if level else set()
    )


async def test_an_address_on_this_machine_is_told_to_who_submits_to_a_provider_elsewhere() -> None:
    with free_port() as port:
        given = config(XIMILAR_API_TOKEN="x", RECEIVER_PUBLIC_URL=f"http://localhost:{port}")
        found = await check_public_url(given, open_providers(Setup(given, {})), serving=False)
    assert [v.level for v in found] == [Level.FAILURE, Level.WARNING]
    assert "where api.ximilar.com never gets to" in found[0].detail
    assert "Start `receiver serve`" in (found[1].remedy or "")


@pytest.mark.parametrize(("elsewhere", "level"), [(True, Level.WARNING), (False, Level.FAILURE)])
async def test_a_server_of_another_container_need_not_answer_here(*, elsewhere: bool, level: Level) -> None:
    with free_port() as port:
        (found,) = await check_readiness(config(RECEIVER_PORT=str(port)), elsewhere=elsewhere)
    assert found.level is level


def test_only_the_right_proof_is_this_installation() -> None:
    assert interpret_answer(Answer(200, PROOF, b""), "https://me.example", "right").level is Level.OK
    assert interpret_answer(Answer(200, PROOF, b""), "https://me.example", None).level is Level.FAILURE


def test_failures_of_connections_are_told_in_words() -> None:
    def raised(cause: Exception) -> str:
        error = httpx.ConnectError("x")
        error.__cause__ = cause
        return explain(error)

    expired = ssl.SSLCertVerificationError()
    expired.verify_message = "certificate has expired"
    assert raised(expired) == "TLS: its certificate does not prove its name (certificate has expired)"
    assert raised(ConnectionRefusedError()) == "nothing listens there (connection refused)"
    assert (
        raised(ExceptionGroup("x", [ConnectionRefusedError()]))
        == "nothing listens there (connection refused)"
    )
    assert raised(OSError(errno.ENETUNREACH, "x")) == "no way leads there from this network"
    assert explain(httpx.ConnectTimeout("x")) == "no answer in time"
    assert explain(httpx.ReadError("canary")) == "ReadError"


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    assert origin("https://user:canary@host:8443/canary?canary#canary") == "https://host:8443"
    assert origin("nothing") == ""


# The runner


async def test_checks_run_at_once_and_one_that_hangs_or_breaks_does_not_stop_the_others() -> None:
    both = asyncio.Barrier(2)

    async def together() -> list[Result]:
        await both.wait()
        return [ok("a", "fine")]

    async def hang() -> list[Result]:
        await asyncio.Event().wait()
        return []

    async def bug() -> list[Result]:
        raise ValueError("canary")

    async def disk() -> list[Result]:
        raise OSError(5, "Input/output error")

    found = await run_checks(
        [
            Check("one", together),
            Check("two", together),
            Check("hangs", hang, 0.01, "Wake it."),
            Check("bug", bug),
            Check("disk", disk),
        ]
    )
    assert [(v.check, v.level) for v in found] == [
        ("a", Level.OK),
        ("a", Level.OK),
        ("hangs", Level.FAILURE),
        ("bug", Level.FAILURE),
        ("disk", Level.FAILURE),
    ]
    assert found[2].remedy == "Wake it."
    assert "canary" not in said(found)


async def test_a_look_that_cannot_even_be_cut_off_is_left_behind() -> None:
    ended = asyncio.Event()

    async def stubborn() -> list[Result]:
        try:
            await asyncio.Event().wait()
        finally:
            await ended.wait()
        return []

    (found,) = await run_checks([Check("stubborn", stubborn, 0.01)])
    assert "no answer within 0.01 seconds" in found.detail
    ended.set()


async def test_who_stops_it_is_told_what_is_known() -> None:
    stopping = asyncio.Event()
    told: list[list[str]] = []

    async def quick() -> list[Result]:
        return [ok("quick", "fine")]

    async def hang() -> list[Result]:
        await asyncio.Event().wait()
        return []

    def on_waiting(names: Sequence[str]) -> None:
        told.append([*names])
        if "quick" not in names:
            stopping.set()

    found = await run_checks(
        [Check("hangs", hang), Check("quick", quick)], stopping=stopping, on_waiting=on_waiting
    )
    assert [(v.check, v.level) for v in found] == [("hangs", Level.WARNING), ("quick", Level.OK)]
    assert "not looked at to the end" in found[0].detail
    assert (told[0], told[-1]) == (["hangs", "quick"], ["hangs"])


async def test_secrets_are_masked_wherever_they_stand() -> None:
    async def leak() -> list[Result]:
        return [failure("x", "says canary-long and canary", "undo canary-long")]

    (found,) = await run_checks([Check("x", leak)], ["canary", "canary-long", "no"])
    assert found.detail == "says ********** and **********"
    assert found.remedy == "undo **********"


async def test_a_thread_that_never_ends_is_not_waited_for() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_in_thread(never.wait)
    never.set()
    assert await run_in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 // 0)


def test_a_thread_that_ends_after_the_loop_disturbs_nobody() -> None:
    hung, went_on = threading.Event(), threading.Event()

    def work() -> None:
        hung.wait()
        went_on.set()

    async def given_up() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await run_in_thread(work)

    asyncio.run(given_up())
    before = threading.enumerate()
    hung.set()
    assert went_on.wait(30)
    for thread in before:
        if thread.daemon:
            thread.join(30)  # what it raised would be a failure
