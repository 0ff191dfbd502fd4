"""``receiver doctor`` as a process: at a good installation, and at many that lack something."""

import asyncio
import json
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.cli.interruption import INTERRUPTED
from receiver.ledger import FILE_NAME, DirectoryLock, Ledger
from tests.ledger.actions import file_of
from tests.support.processes import (
    API_TOKEN,
    POWERLESS,
    PROVIDER_TOKEN,
    SECRETS,
    SIGNING_KEY,
    WEBHOOK,
    WEBHOOK_SECRET,
    Programs,
    Receiver,
    Sandbox,
    run,
    run_process,
    settings,
)
from tests.support.s3_standin import standin
from tests.support.seaweed import seaweed
from tests.support.source import Answer, Source, source
from tests.support.terminal import on_a_terminal
from tests.support.upscalers import FAL


@dataclass(frozen=True)
class Found:
    """What the doctor said.

    Attributes:
        code: its exit code.
        lines: level, check, detail and remedy of each finding.
    """

    code: int
    lines: list[list[str]]

    def of(self, check: str, level: str | None = None) -> list[str]:
        """The details of a check, and its remedies behind them."""
        return [f"{d} {r}" for lv, c, d, r in self.lines if c == check and level in (None, lv)]

    def failing(self) -> set[str]:
        return {check for level, check, _, _ in self.lines if level == "failure"}


def _run(
    arguments: Sequence[str], folder: Path, values: Mapping[str, str], under: Sequence[str]
) -> "subprocess.CompletedProcess[str]":
    if under:
        return run_process(arguments, folder, values, under=under)
    return run(arguments, folder, values)


def examined(folder: Path, values: Mapping[str, str], *options: str, under: Sequence[str] = ()) -> Found:
    said = _run(["doctor", *options], folder, values, under)
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    for secret in (*SECRETS, *(value for name, value in values.items() if "SECRET" in name)):
        assert secret not in said.stdout + said.stderr
    assert "Traceback" not in said.stderr
    for level, check, detail, remedy in lines:
        assert level in {"OK", "warning", "failure"}
        assert check
        assert detail
        assert bool(remedy) == (level != "OK")
    failures, warnings = (sum(line[0] == level for line in lines) for level in ("failure", "warning"))
    assert said.stderr == (
        f"receiver: {failures or 'no'} failure{'' if failures == 1 else 's'},"
        f" {warnings or 'no'} warning{'' if warnings == 1 else 's'}\n"
    )
    assert said.returncode == bool(failures)
    return Found(said.returncode, lines)


@pytest.fixture
def provider() -> Iterator[Source]:
    """A provider that answers the first page of an empty list."""
    with source() as it:
        it.offer("request", json.dumps({"count": 0, "next": None, "results": []}).encode())
        yield it


def asks(host: Source | Sandbox, token: str = PROVIDER_TOKEN) -> dict[str, str]:
    url = host.url if isinstance(host, Source) else str(host.base_url).rstrip("/")
    return {"XIMILAR_API_TOKEN": token, "XIMILAR_API_URL": url}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(programs: Programs, **more: str) -> Iterator[tuple[Receiver, dict[str, str]]]:
    """A receiver, and the settings of whoever looks at it."""
    values = settings(programs.folder, RECEIVER_IMAGE_SOURCES="http://127.0.0.1/", **more)
    with programs.receiver(values) as receiver:
        yield receiver, {**values, "RECEIVER_PUBLIC_URL": receiver.address}


# A good one


def test_a_good_installation_is_found_good_beside_its_server(programs: Programs, box: Sandbox) -> None:
    with serving(programs, RECEIVER_PORT=str(free_port()), **asks(box)) as (receiver, values):
        before = receiver.get("/stats").json()
        found = examined(programs.folder, values)
        assert (found.code, found.failing()) == (0, set())
        # The one thing that a test cannot choose.
        assert {check for level, check, _, _ in found.lines if level == "warning"} <= {"sqlite"}
        assert found.of("public URL") == [f"{receiver.address} leads to this installation "]
        assert found.of("webhook") == [f"{receiver.address} passes /webhooks/ximilar on, with its headers "]
        assert found.of("serve")[1:] == ["is ready "]
        assert f"as process {receiver.program.pid}" in found.of("serve")[0]
        assert found.of("clock") == ["agrees with the provider's "]
        assert "written, verified, read and removed" in found.of("archive")[0]
        # Nothing was counted, kept or left behind.
        assert receiver.get("/stats").json() == before
        assert receiver.get("/deliveries").json()["deliveries"] == []
        assert not receiver.program.events("delivery refused")
        assert [path.name for path in (programs.folder / "data" / "archive").iterdir()] == []
        deep = examined(programs.folder, values, "--deep")
        assert deep.of("ledger") == ["is of this version, and whole "]


def test_it_is_told_as_json_and_on_a_terminal(programs: Programs) -> None:
    values = settings(programs.folder)
    document = json.loads(run(["doctor", "--json"], programs.folder, values).stdout)
    assert document["ok"] is True
    assert {"check", "level", "detail", "remedy"} == set(document["checks"][0])
    shown = {line["name"]: line for line in document["settings"]}
    assert (shown["RECEIVER_API_TOKENS"]["value"], shown["RECEIVER_API_TOKENS"]["from"]) == (
        ["set"],
        "environment",
    )
    assert shown["RECEIVER_FETCHES"] == {"name": "RECEIVER_FETCHES", "value": 16, "from": "default"}
    code, said = on_a_terminal(["doctor"], programs.folder, values, colours=True)
    assert code == 0
    assert "\x1b[32mOK" in said
    assert "→ Start it: receiver serve" in said
    for secret in SECRETS:
        assert secret not in said + str(document)


def test_without_a_server_nothing_is_made_and_nothing_fails(programs: Programs) -> None:
    found = examined(programs.folder, settings(programs.folder))
    assert found.code == 0
    assert "no serve runs on this data directory" in found.of("serve", "warning")[0]
    assert not (programs.folder / "data").exists()


def test_it_takes_settings_from_where_serve_takes_them(programs: Programs) -> None:
    printed = run(["init"], programs.folder, {}).stdout
    (programs.folder / ".env").write_text(printed)
    (programs.folder / ".env").chmod(0o644)
    found = examined(programs.folder, {})
    assert found.code == 0
    assert "chmod 600 .env" in found.of(".env", "warning")[0]
    assert not [value for value in printed.split("'") if len(value) > 20 and value in str(found)]
    hiding = examined(programs.folder, {"RECEIVER_API_TOKENS": "another-token-of-the-environment"})
    assert any("RECEIVER_API_TOKENS has another value there" in it for it in hiding.of(".env", "warning"))


# Broken ones


def test_every_wrong_setting_is_named(programs: Programs) -> None:
    wrong = settings(programs.folder, RECEIVER_PORT="many", RECEIVER_FETCHES="257", RECEIVER_MAX_IMAGE="1")
    found = examined(programs.folder, wrong)
    assert found.code == 1
    assert {line.partition(":")[0] for line in found.of("settings", "failure")} == {
        "RECEIVER_PORT",
        "RECEIVER_FETCHES",
    }
    # The rest is looked at all the same.
    assert "was not looked at, because RECEIVER_PORT is wrong" in found.of("serve", "warning")[0]
    assert found.of("archive") == [
        f"{programs.folder / 'data' / 'archive'} is not there yet; serve makes it "
    ]
    (programs.folder / ".env").write_text("this is no setting\n")
    assert ".env: line 1" in examined(programs.folder, settings(programs.folder)).of("settings", "failure")[0]


def test_weak_and_shared_secrets_are_told(programs: Programs) -> None:
    values = settings(programs.folder, RECEIVER_WEBHOOK_HEADERS='{"X-Webhook-Secret": "changeme"}')
    assert examined(programs.folder, values).failing() == {"secrets"}
    values["RECEIVER_WEBHOOK_HEADERS"] = json.dumps({"X-Webhook-Secret": API_TOKEN})
    assert "share a value" in examined(programs.folder, values).of("secrets", "failure")[0]


def test_a_data_directory_that_is_open_to_others_is_told(programs: Programs) -> None:
    folder = programs.folder / "data"
    folder.mkdir()
    folder.chmod(0o755)
    found = examined(programs.folder, settings(programs.folder))
    assert f"chmod 700 {folder}" in found.of("data directory", "warning")[0]
    folder.chmod(0o777)
    assert examined(programs.folder, settings(programs.folder)).failing() == {"data directory"}


def test_a_damaged_ledger_is_told(programs: Programs) -> None:
    (programs.folder / "data").mkdir(mode=0o700)
    (programs.folder / "data" / FILE_NAME).write_bytes(b"this is no ledger " * 1000)
    found = examined(programs.folder, settings(programs.folder))
    assert found.failing() == {"ledger"}
    assert "restore a backup" in found.of("ledger", "failure")[0]


async def _make_ledger(data: Path) -> None:
    await (await Ledger.serve(data)).close()


def refused(folder: Path, values: Mapping[str, str], under: Sequence[str] = ()) -> str:
    """What serve says where it does not start."""
    said = _run(["serve"], folder, values, under)
    assert said.returncode == 1
    return said.stderr


@pytest.mark.parametrize("change", ["CREATE TABLE x (y)", "DROP INDEX jobs_by_ref"])
@pytest.mark.parametrize("options", [(), ("--deep",)])
def test_a_ledger_that_serve_refuses_for_its_structure_is_told(
    programs: Programs, change: str, options: tuple[str, ...]
) -> None:
    values = settings(programs.folder)
    (programs.folder / "data").mkdir(mode=0o700)
    asyncio.run(_make_ledger(programs.folder / "data"))
    with file_of(programs.folder / "data") as db:
        db.execute(change)
    found = examined(programs.folder, values, *options)
    assert found.failing() == {"ledger"}
    (said,) = found.of("ledger", "failure")
    assert "has not the structure of version" in said
    assert "has not the structure of version" in refused(programs.folder, values)


@pytest.mark.parametrize(
    ("name", "mode"), [(FILE_NAME, 0o400), (FILE_NAME, 0), ("serve.lock", 0), ("spool", 0o500)]
)
def test_files_that_serve_cannot_write_are_told(programs: Programs, name: str, mode: int) -> None:
    values = settings(programs.folder)
    data = programs.folder / "data"
    (data / "spool").mkdir(mode=0o700, parents=True)
    data.chmod(0o700)
    asyncio.run(_make_ledger(data))
    DirectoryLock(data).release()
    (data / name).chmod(mode)
    if name == FILE_NAME:  # as whoever opens the ledger at this moment has SQLite make it
        (data / f"{name}-shm").touch(mode)
    found = examined(programs.folder, values, under=POWERLESS)
    assert found.failing() == (
        {"data directory", "ledger"} if name == FILE_NAME and not mode else {"data directory"}
    )
    assert not [line for line in found.of("ledger") if "Start serve" in line]
    (said,) = found.of("data directory", "failure")
    assert f"{data / name} cannot be read and written by user" in said
    assert f"chmod u+rwX {data / name}" in said
    assert f"{data / name} cannot be written by this user" in refused(programs.folder, values, POWERLESS)


def test_an_address_that_is_taken_is_told_before_serve_finds_out(programs: Programs) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = settings(programs.folder, RECEIVER_PORT=str(taken.getsockname()[1]))
        found = examined(programs.folder, values)
        assert found.failing() == {"address"}
        (said,) = found.of("address", "failure")
        assert said.partition(" (")[0] in refused(programs.folder, values)


def test_before_the_first_start_an_address_that_leads_elsewhere_fails(
    programs: Programs, receiver: Receiver
) -> None:
    folder = programs.folder / "new"
    folder.mkdir()

    def at(url: str) -> Found:
        return examined(folder, settings(folder, RECEIVER_PUBLIC_URL=url))

    assert at(receiver.address).failing() == {"public URL"}
    assert at(f"{receiver.address}/webhooks/ximilar").failing() == {"public URL"}
    wrong = at(f"{receiver.address}/foo")
    assert "a receiver answers" in wrong.of("public URL", "failure")[0]
    idle = at(f"http://127.0.0.1:{free_port()}")
    assert idle.failing() == set()
    assert any("Start `receiver serve`" in line for line in idle.of("public URL", "warning"))


def test_a_token_that_the_provider_refuses_is_told(programs: Programs, box: Sandbox) -> None:
    found = examined(programs.folder, settings(programs.folder, **asks(box, "wrong-token")))
    assert found.failing() == {"provider"}
    (said,) = found.of("provider", "failure")
    assert said.startswith("provider.token_refused: ")
    assert "wrong-token" not in said
    assert "Set XIMILAR_API_TOKEN" in said


def test_an_account_without_credits_is_told(programs: Programs, provider: Source) -> None:
    provider.offer("request", Answer(b'{"detail": "No credits."}', 402))
    found = examined(programs.folder, settings(programs.folder, **asks(provider)))
    assert "Buy credits" in found.of("provider", "failure")[0]


def test_a_provider_that_is_not_there_is_told(programs: Programs) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    values = settings(programs.folder, XIMILAR_API_TOKEN=PROVIDER_TOKEN, XIMILAR_API_URL=url)
    (said,) = examined(programs.folder, values).of("provider", "failure")
    assert "nothing listens there" in said
    assert f"Is {url} right" in said


def test_a_key_set_is_read_and_its_keys_are_counted(programs: Programs) -> None:
    with programs.sandbox(*FAL.options, "--two-keys") as box:
        values = FAL.settings(programs.folder, box)
        found = examined(programs.folder, values)
        assert "2 keys prove its deliveries " in found.of("provider")
        assert found.failing() == set()
    (said,) = examined(programs.folder, {**values, "FAL_KEY": ""}).of("provider", "failure")
    assert "/.well-known/jwks.json cannot be read (ConnectError)" in said
    assert "May this machine reach it?" in said


@pytest.mark.parametrize(("seconds", "words"), [(900, "seconds behind"), (-900, "seconds ahead of")])
def test_a_clock_that_differs_from_the_providers_is_told(
    programs: Programs, provider: Source, seconds: int, words: str
) -> None:
    provider.ahead = seconds
    found = examined(programs.folder, settings(programs.folder, **asks(provider)))
    assert found.failing() == {"clock"}
    (said,) = found.of("clock", "failure")
    assert f"{words} the provider's" in said
    assert "NTP" in said


def test_a_store_that_works_refuses_or_is_gone_is_told(programs: Programs) -> None:
    with seaweed() as store:
        values = settings(programs.folder, RECEIVER_ARCHIVE=f"s3://{store.bucket}/x", **store.environment())
        found = examined(programs.folder, values)
        assert found.failing() == set()
        assert found.of("archive") == [
            f"s3://{store.bucket}/x: written, verified, read and removed a small object "
        ]
        assert found.of("clock") == ["The store's clock agrees with this machine's. "]

        wrong = examined(programs.folder, {**values, "AWS_SECRET_ACCESS_KEY": "wrong-secret-of-the-store"})
        assert wrong.of("archive", "failure")[0].startswith("archive.denied: ")
        assert "AWS_ACCESS_KEY_ID" in wrong.of("archive", "failure")[0]
        missing = examined(programs.folder, {**values, "RECEIVER_ARCHIVE": "s3://no-such-bucket"})
        assert missing.of("archive", "failure")[0].startswith("archive.no_bucket: ")
        unproved = {name: value for name, value in values.items() if name != "AWS_CA_BUNDLE"}
        assert "AWS_CA_BUNDLE" in examined(programs.folder, unproved).of("archive", "failure")[0]

        lost = examined(programs.folder, {**values, "AWS_CA_BUNDLE": "/nowhere/at/all"})
        (said,) = lost.of("archive", "failure")
        assert said.startswith("archive.misconfigured: ")
        assert "the file of AWS_CA_BUNDLE cannot be read" in said

        store.kill()
        gone = examined(programs.folder, values)
        assert gone.failing() == {"archive"}
        assert gone.of("archive", "failure")[0].startswith("archive.unavailable: ")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_a_stores_address_that_is_none_is_told_once_and_by_its_name(programs: Programs, name: str) -> None:
    values = settings(
        programs.folder, RECEIVER_ARCHIVE="s3://bucket", AWS_REGION="us-east-1", **{name: "127.0.0.1:1"}
    )
    found = examined(programs.folder, values)
    assert found.failing() == {"settings"}
    assert [line.partition(" Correct")[0] for line in found.of("settings")] == [
        f"{name}: must be a URL such as https://host or http://host:port"
    ]
    assert f"was not looked at, because {name} is wrong" in found.of("archive", "warning")[0]
    assert f"{name}: must be a URL" in refused(programs.folder, values)


def test_what_a_store_does_not_honour_and_how_its_clock_is_off_is_told(programs: Programs) -> None:
    with standin(programs.folder) as store:
        store.conditional, store.deletes, store.ahead = "ignore", False, 600
        values = settings(programs.folder, RECEIVER_ARCHIVE="s3://bucket/x", **store.environment())
        found = examined(programs.folder, values)
    assert found.failing() == {"clock"}
    assert "seconds ahead of this machine's" in found.of("clock", "failure")[0]
    warnings = "\n".join(found.of("archive", "warning"))
    assert "If-None-Match is ignored" in warnings
    assert "Nothing may be deleted" in warnings


def test_an_address_that_leads_elsewhere_is_told_and_learns_no_secret(
    programs: Programs, receiver: Receiver, tmp_path: Path
) -> None:
    with serving(programs) as (_, values), source() as host:

        def at(url: str) -> str:
            found = examined(programs.folder, {**values, "RECEIVER_PUBLIC_URL": url})
            assert found.failing() <= {"public URL", "webhook"}
            return "\n".join(found.of("public URL", "failure") + found.of("webhook", "failure"))

        assert "another installation of the receiver" in at(receiver.address)
        host.offer("webhooks/ximilar", b'{"status": "ok"}')
        assert "something else than this receiver" in at(host.url)
        host.offer(
            "webhooks/ximilar",
            Answer(status=308, headers={"Location": "https://new.example/webhooks/ximilar"}),
        )
        assert "Set RECEIVER_PUBLIC_URL to where it really is: https://new.example" in at(host.url)
        host.offer("webhooks/ximilar", Answer(status=502))
        assert "does not reach the receiver behind it (502)" in at(host.url)
        host.offer("webhooks/ximilar", Answer(status=401))
        assert "asks for a login" in at(host.url)
        assert "nothing listens there" in at(f"http://127.0.0.1:{free_port()}")
        assert "which is added to it" in at(f"{host.url}/webhooks/ximilar")
        with standin(tmp_path) as tls:
            assert "its certificate does not prove its name" in at(tls.url)


@contextmanager
def passing_on(receiver: Receiver, *paths: str, dropped: str = "") -> Iterator[str]:
    """The address of a proxy that passes GETs of these paths on, but for one header, and no others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in paths:
                self.send_error(404)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != dropped}
            answer = receiver.get(self.path, headers=headers)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_proxy_that_keeps_the_webhook_to_itself_is_told(programs: Programs) -> None:
    with serving(programs) as (receiver, values):
        with passing_on(receiver, "/healthz") as url:
            found = examined(programs.folder, {**values, "RECEIVER_PUBLIC_URL": url})
        assert found.failing() == {"public URL"}
        assert "let the proxy pass that path on" in found.of("public URL", "failure")[0]
        with passing_on(receiver, WEBHOOK) as url:  # the provider needs nothing else
            assert examined(programs.folder, {**values, "RECEIVER_PUBLIC_URL": url}).failing() == set()


@pytest.mark.parametrize("dropped", ["X_Secret", "X-Receiver-Job"])
def test_a_header_that_a_proxy_drops_is_named(programs: Programs, dropped: str) -> None:
    more = {
        "RECEIVER_WEBHOOK_HEADERS": json.dumps({"X-Other": "other-canary", "X_Secret": WEBHOOK_SECRET}),
        "RECEIVER_SIGNING_KEYS": SIGNING_KEY,
    }
    with serving(programs, **more) as (receiver, values):
        with passing_on(receiver, WEBHOOK, dropped=dropped.lower()) as url:
            found = examined(programs.folder, {**values, "RECEIVER_PUBLIC_URL": url})
        assert found.failing() == {"webhook"}
        assert f"{url} drops the header {dropped}, so" in found.of("webhook", "failure")[0]
        assert receiver.get("/stats").json()["refusals"] == {}


def test_a_stranger_learns_nothing_of_the_names_of_headers(receiver: Receiver) -> None:
    """The answer says which headers had the challenge as their value, and depends on nothing else."""
    challenge = {"X-Receiver-Challenge": "x" * 32}
    for name in ("X-Webhook-Secret", "X-Made-Up"):
        answers = [
            httpx.get(receiver.address + WEBHOOK, headers={**challenge, name: value}, trust_env=False)
            for value in ("x" * 32, WEBHOOK_SECRET, "wrong")
        ]
        assert [answer.headers["x-receiver-arrived"] for answer in answers] == [
            f"x-receiver-challenge, {name.lower()}",
            "x-receiver-challenge",
            "x-receiver-challenge",
        ]
    for unasked in ({}, {"X-Receiver-Challenge": "short"}):
        answer = httpx.get(receiver.address + WEBHOOK, headers=unasked, trust_env=False)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert not [header for header in answer.headers if header.startswith("x-receiver")]


def test_a_server_that_is_not_ready_is_told(programs: Programs, tmp_path: Path) -> None:
    nowhere = f"{(tmp_path / 'nowhere').as_uri()}/at/all"
    with serving(programs, RECEIVER_PORT=str(free_port()), RECEIVER_ARCHIVE=nowhere) as (receiver, values):
        receiver.program.until_event("archive refuses; uploads pause")
        found = examined(programs.folder, {**values, "RECEIVER_PUBLIC_URL": ""})
    assert "is not ready: archive: " in found.of("serve", "failure")[0]


def test_a_ledger_that_was_moved_away_beneath_its_server_is_told(programs: Programs) -> None:
    with serving(programs, RECEIVER_PORT=str(free_port())) as (receiver, values):
        ledger = receiver.data_dir / FILE_NAME
        ledger.rename(ledger.with_name("away"))
        found = examined(programs.folder, values)
        assert {"ledger", "serve"} <= found.failing()
        assert f"{ledger} is not there, though serve runs" in found.of("ledger", "failure")[0]
        assert "put it back, or restart serve" in found.of("serve", "failure")[0]
        ledger.with_name("away").rename(ledger)


def test_on_a_terminal_it_says_what_it_waits_for_and_keeps_what_is_known_when_it_is_stopped(
    programs: Programs,
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        values = settings(
            programs.folder,
            RECEIVER_ARCHIVE="s3://bucket/x",
            AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{silent.getsockname()[1]}",
            AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="a-secret-of-the-store",
        )
        code, said = on_a_terminal(
            ["doctor"], programs.folder, values, typed="\x03", at="Looking at archive …"
        )
    assert code == INTERRUPTED
    assert "archive: was not looked at to the end" in said
    assert "serve: no serve runs on this data directory" in said
    assert "receiver: stopped before the end: no failures" in said
    assert said.splitlines()[-1] == "receiver: interrupted"
    assert "Traceback" not in said


def test_everything_that_hangs_is_given_up_in_time(programs: Programs) -> None:
    """Store, provider and public address take connections, and never answer."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        values: dict[str, Any] = settings(
            programs.folder,
            RECEIVER_PUBLIC_URL=url,
            RECEIVER_ARCHIVE="s3://bucket/x",
            XIMILAR_API_TOKEN=PROVIDER_TOKEN,
            XIMILAR_API_URL=url,
            AWS_ENDPOINT_URL_S3=url,
            AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="a-secret-of-the-store",
        )
        found = examined(programs.folder, values)
    # A public URL that is not reached is a warning; a check of it that does not end in time, a failure.
    assert found.failing() - {"public URL"} == {"archive", "provider"}
    assert "no answer within 20 seconds" in found.of("archive", "failure")[0]
    assert "no answer" in found.of("public URL")[0]
