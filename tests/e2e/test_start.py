"""Starts that are refused, secrets that stay secret, and commands beside a running server."""

import json
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from receiver.providers.ximilar.authentication import Authenticator
from tests.docs.documents import blocks
from tests.e2e.conftest import SIZE
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    PROOF,
    PROVIDER_TOKEN,
    ROOT,
    SECRETS,
    SIGNING_KEY,
    Program,
    Programs,
    Receiver,
    command,
    completion,
    environment,
    run,
    run_process,
    settings,
)

CANARY = "canary-in-a-wrong-value"

WRONG = {
    "RECEIVER_WEBHOOK_HEADERS": f'{{"X-Webhook-Secret": "{CANARY}"',
    "RECEIVER_API_TOKENS": f'["{CANARY}\\u0000"]',
    "RECEIVER_DATA_DIR": "/proc/no-such-place",
    "RECEIVER_ARCHIVE": f"ftp://{CANARY}@host/",
    "RECEIVER_IMAGE_SOURCES": "ftp://host/",
    "RECEIVER_CONFIRM": "on",
    "RECEIVER_SECRETS_DIR": "/no/such/folder",
    "RECEIVER_HOST": "no-such-host.invalid",
}


def refusal(folder: Path, values: dict[str, str], *arguments: str) -> str:
    """The one line with which a command ends with 1."""
    done = run(arguments or ("serve",), folder, values)
    assert (done.returncode, done.stdout) == (1, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(("name", "value"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_setting_stops_the_start_with_one_line_that_names_it_and_not_its_value(
    tmp_path: Path, name: str, value: str
) -> None:
    line = refusal(tmp_path, settings(tmp_path, **{name: value}))

    assert re.match(rf"receiver: {name}\b", line), line
    assert CANARY not in line
    assert not any(secret in line for secret in SECRETS)
    assert not (tmp_path / "data").exists()


def test_serve_refuses_to_let_anyone_in(tmp_path: Path) -> None:
    for name in ("RECEIVER_WEBHOOK_HEADERS", "RECEIVER_API_TOKENS"):
        values = settings(tmp_path)
        del values[name]
        line = refusal(tmp_path, values)
        assert line.startswith(f"receiver: {name}: ")
        assert "receiver init" in line


def test_a_second_server_on_the_same_data_is_refused_and_the_first_goes_on(
    receiver: Receiver, shared_programs: Programs, hosted: str
) -> None:
    line = refusal(shared_programs.folder, settings(shared_programs.folder))

    assert line.startswith("receiver: ledger.in_use: ")
    receiver.deliver(completion("after-the-second", hosted, *SIZE)).raise_for_status()
    assert receiver.ended("after-the-second")["state"] == "archived"


def test_a_port_that_is_taken_ends_the_start_with_1_and_frees_the_data(
    programs: Programs, receiver: Receiver
) -> None:
    values = settings(programs.folder, RECEIVER_PORT=str(receiver.port))
    done = run(("serve",), programs.folder, values)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("receiver: RECEIVER_PORT: ")
    with programs.receiver_process(settings(programs.folder)) as again:
        assert again.get("/readyz").status_code == 200


def test_a_spool_that_cannot_be_made_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool").write_text("a file")

    line = refusal(tmp_path, settings(tmp_path))

    assert "spool" in line
    assert "listen" not in line


def test_a_ledger_that_is_none_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ledger = tmp_path / "data" / "ledger.sqlite3"
    ledger.write_bytes(b"this is no ledger " * 1000)

    line = refusal(tmp_path, settings(tmp_path))

    assert line.startswith("receiver: ledger.corrupt: ")
    assert ledger.read_bytes() == b"this is no ledger " * 1000


def test_what_init_prints_is_all_that_serve_needs(programs: Programs) -> None:
    printed = run(("init",), programs.folder, {}).stdout
    (programs.folder / ".env").write_text(f"{printed}RECEIVER_LOG=text\n")
    others = json.loads(run(("init", "--json"), programs.folder, {}).stdout)
    assert others
    assert not any(secret in printed for secret in others.values())

    with Program(
        "receiver", command("serve"), programs.folder, {"RECEIVER_PORT": "0", "RECEIVER_LOG": "json"}
    ) as program:
        programs.started.append(program)
        address = program.until_event("serving")["address"]
        assert program.until_event("setting differs from .env")["setting"] == "RECEIVER_LOG"
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
        assert httpx.get(f"{address}/jobs", trust_env=False).status_code == 401
        token = next(
            line.split("=", 1)[1].strip("'") for line in printed.splitlines() if "RECEIVER_API_TOKENS" in line
        )
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{address}/jobs", headers=headers, trust_env=False).status_code == 200
        assert program.stop()[0] == 0


def test_commands_read_the_ledger_beside_a_running_server(
    receiver: Receiver, shared_programs: Programs, hosted: str
) -> None:
    receiver.deliver(completion("asked-for", hosted, *SIZE), {**PROOF, "X-Receiver-Ref": "a ref"})
    shown = receiver.ended("asked-for")
    folder, values = shared_programs.folder, settings(shared_programs.folder)

    listed = run(("jobs", "--ref", "a ref"), folder, values)
    assert listed.returncode == 0
    cells = listed.stdout.removesuffix("\n").split("\t")
    assert cells[:4] == ["asked-for", "archived", "a ref", "64x48 png"]
    assert "\x1b" not in listed.stdout

    as_json = run(("jobs", "--ref", "a ref", "--state", "archived", "--json"), folder, values)
    assert json.loads(as_json.stdout)["jobs"] == [{k: v for k, v in shown.items() if k != "history"}]

    one = run(("job", "asked-for", "--json"), folder, values)
    assert json.loads(one.stdout) == shown
    plain = run(("job", "asked-for"), folder, values)
    assert shown["archive"]["uri"] in plain.stdout
    assert "\x1b" not in plain.stdout

    assert refusal(folder, values, "job", "nobody") == "receiver: there is no job nobody"
    assert run(("jobs", "--state", "nowhere"), folder, values).returncode == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("reason", "bogus"), ("ref", ""), ("ref", "x" * 201), ("ref", "caf\u00e9"), ("cursor", "bogus")],
)
def test_a_value_that_cannot_be_is_refused_by_name_and_as_usage(
    tmp_path: Path, option: str, value: str
) -> None:
    done = run(("jobs", f"--{option}", value), tmp_path, settings(tmp_path))

    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(rf"Invalid value(: {option} | for '--{option}': )", done.stderr)


def test_the_command_pages_as_the_api_does(
    receiver: Receiver, shared_programs: Programs, hosted: str
) -> None:
    for number in range(3):
        job = {"id": f"paged-{number}", "ref": "paged"}
        receiver.post("/jobs", json=job).raise_for_status()
    folder, values = shared_programs.folder, settings(shared_programs.folder)

    parameters = {"ref": "paged", "limit": "2"}
    options = ["jobs", "--ref", "paged", "--limit", "2", "--json"]
    first = json.loads(run(options, folder, values).stdout)
    assert first == receiver.get("/jobs", params=parameters).json()
    last = json.loads(run([*options, "--cursor", first["next"]], folder, values).stdout)
    assert last == receiver.get("/jobs", params={**parameters, "cursor": first["next"]}).json()
    assert [job["id"] for job in first["jobs"] + last["jobs"]] == ["paged-2", "paged-1", "paged-0"]
    assert last["next"] is None


def test_a_terminal_of_80_columns_is_not_overrun_and_a_wide_one_has_a_line_for_each_job(
    receiver: Receiver, shared_programs: Programs, hosted: str
) -> None:
    ids = "6b3f0c1e-0000-4000-8000-000000000001", "7c3f0c1e-0000-4000-8000-000000000002"
    proof = {**PROOF, "X-Receiver-Ref": "order 4711"}
    receiver.deliver(completion(ids[0], hosted, *SIZE), proof).raise_for_status()
    receiver.deliver(completion(ids[1], "http://user:pw@127.0.0.1/", *SIZE), proof).raise_for_status()
    updated = [receiver.ended(job_id)["updated_at"] for job_id in ids]

    long_ref = "order 4712, " + "and more " * 20
    long_id = "8d3f0c1e-0000-4000-8000-000000000003"
    receiver.post("/jobs", json={"id": long_id, "ref": long_ref}).raise_for_status()

    def lines(columns: int, ref: str = "order 4711") -> list[str]:
        terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)}
        values = {**settings(shared_programs.folder), **terminal}
        printed = run_process(("jobs", "--ref", ref), shared_programs.folder, values).stdout
        return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in printed.splitlines()]

    narrow = lines(80)
    assert max(map(len, narrow)) <= 80
    for words in ("7c3f0c1e-0000-4000", "rejected", "order 4711", "url.userinfo", "64x48 png", "archived"):
        assert any(words in line for line in narrow), words
    assert max(map(len, lines(80, long_ref))) <= 80
    _, *wide = lines(160)
    assert [" ".join(line.split()) for line in wide] == [
        f"{ids[1]} rejected order 4711 {updated[1]} url.userinfo",
        f"{ids[0]} archived order 4711 64x48 png {updated[0]}",
    ]


def test_the_readmes_line_keeps_the_secrets_to_their_owner(tmp_path: Path) -> None:
    shown = {line for block in blocks("sh") for line in block.splitlines()}
    (line,) = (line for line in shown if re.search(r"receiver init +> \.env", line))
    script = line.replace("receiver init", shlex.join(command("init")))

    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, env=environment(tmp_path, {}), check=True)

    assert "RECEIVER_API_TOKENS" in (tmp_path / ".env").read_text()
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_libraries_are_still_loading_ends_with_0(programs: Programs, number: int) -> None:
    slow = programs.folder / "slow"
    slow.mkdir()
    (slow / "pydantic.py").write_text("import signal\nprint('loading', flush=True)\nsignal.pause()\n")
    values = {**settings(programs.folder), "PYTHONPATH": f"{slow}:{ROOT}"}

    with Program("receiver", command("serve"), programs.folder, values) as program:
        programs.started.append(program)
        program.until(lambda: "loading" in program.lines)
        program.process.send_signal(number)
        assert program.process.wait(PATIENCE) == 0


def test_commands_without_a_ledger_say_where_they_looked(tmp_path: Path) -> None:
    line = refusal(tmp_path, settings(tmp_path), "jobs")

    assert str(tmp_path / "data") in line
    assert not (tmp_path / "data").exists()


def test_no_secret_shows_in_the_command_line_or_in_the_log(programs: Programs, hosted: str) -> None:
    values = settings(
        programs.folder,
        RECEIVER_SIGNING_KEYS=SIGNING_KEY,
        XIMILAR_API_TOKEN=PROVIDER_TOKEN,
        XIMILAR_API_URL="http://127.0.0.1:9/account/v2",  # where nobody answers
    )
    sender = Authenticator({}, [SIGNING_KEY])
    with programs.receiver_process(values, cold=True) as receiver:
        for job_id, url in {
            "archived": hosted,
            "gone": f"{hosted}/gone?X-Amz-Signature={CANARY}",
            "refused": f"http://user:{CANARY}@127.0.0.2/",
        }.items():
            proof = {**PROOF, "X-Receiver-Job": sender.issue_ticket()}
            receiver.deliver(completion(job_id, url, *SIZE), proof).raise_for_status()
            receiver.deliver(completion(job_id, url, *SIZE), {**proof, "X-Webhook-Secret": CANARY})
        receiver.deliver(CANARY.encode(), proof)
        receiver.attempted("gone")
        receiver.ended("refused")
        receiver.ended("archived")
        httpx.get(f"{receiver.address}/jobs", headers={"Authorization": "Bearer wrong"}, trust_env=False)
        httpx.get(f"{receiver.address}/jobs?token={API_TOKEN}", trust_env=False)
        with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
            connection.sendall(f"no HTTP {API_TOKEN}\r\n\r\n".encode())
            connection.recv(1000)
        line = Path(f"/proc/{receiver.program.process.pid}/cmdline").read_bytes().decode()
        assert receiver.program.stop()[0] == 0

    assert not any(secret in line for secret in SECRETS)
    assert [secret for secret in (*SECRETS, CANARY) if secret in receiver.program.log] == []


def test_what_the_receiver_makes_is_its_owners_alone(programs: Programs, hosted: str) -> None:
    with programs.receiver_process(settings(programs.folder)) as receiver:
        receiver.deliver(completion("private", hosted, *SIZE))
        receiver.ended("private")

        made = [programs.folder / "data", *(programs.folder / "data").rglob("*")]
        assert {path for path in made if path.stat().st_mode & 0o077} == set()
        assert len(made) > 4


def test_a_data_directory_that_was_there_keeps_the_rights_that_it_had(programs: Programs) -> None:
    data = programs.folder / "data"
    data.mkdir()
    data.chmod(0o755)
    with programs.receiver_process(settings(programs.folder)):
        assert data.stat().st_mode & 0o777 == 0o755
        assert (data / "ledger.sqlite3").stat().st_mode & 0o077 == 0
