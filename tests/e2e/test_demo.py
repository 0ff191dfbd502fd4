"""The demo as a whole: it ends with its servers, however it ends, and says what went wrong in one line."""

import asyncio
import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from receiver.cli.demo import Demo, follow
from receiver.cli.interruption import INTERRUPTED
from receiver.ledger import DirectoryLock
from receiver.providers.registry import ENTRIES
from receiver.sandbox.pictures import draw
from receiver.sandbox.trials import XimilarTrial
from tests.e2e.conftest import SIZE
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    ForkedProgram,
    Program,
    Programs,
    completion,
    run,
    settings,
)

STAYS = "Ctrl-C ends the demo."

OWN_PICTURE = "small.png"
"""One small picture, for a demo of which only the end is looked at: six take a fifth of its CPU."""


@contextmanager
def demo(programs: Programs, *options: str) -> Iterator[Program]:
    (programs.folder / OWN_PICTURE).write_bytes(draw(7, SIZE, "png"))
    arguments = ["demo", "--port", "0", "--folder", "demo", *options]
    with ForkedProgram("demo", arguments, programs.folder, {}) as program:
        programs.started.append(program)
        yield program


def children(program: Program) -> dict[str, int]:
    """A file descriptor for each of the demo's processes, to be waited for by those who are no parents."""
    pid = program.process.pid
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        name: os.pidfd_open(int(child))
        for child in pids
        for name in ("sandbox", "serve")
        if name.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    }


def assert_all_end(processes: dict[str, int]) -> None:
    assert set(processes) == {"sandbox", "serve"}
    for name, process in processes.items():
        ended, _, _ = select.select([process], [], [], PATIENCE)
        assert ended, f"{name} still runs"
        os.close(process)


def said_last(program: Program) -> str:
    """The one line of complaint that the demo has ended with."""
    with program:
        pass
    assert "Traceback" not in program.log
    (line,) = [line for line in program.lines if line.startswith("receiver: ")]
    return line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_demo_with_0_and_both_servers_in_order(programs: Programs, number: int) -> None:
    with demo(programs, OWN_PICTURE) as program:
        program.until(lambda: STAYS in program.lines)
        servers = children(program)
        program.process.send_signal(number)
        assert program.process.wait(PATIENCE) == 0
        assert_all_end(servers)
    assert "stopped" in (programs.folder / "demo" / "receiver.log").read_text()


def test_a_signal_before_all_is_archived_interrupts_it(programs: Programs) -> None:
    with demo(programs, "--exit") as program:
        program.until(lambda: any("\tsubmitted\t" in line for line in program.lines))
        servers = children(program)
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(PATIENCE) == INTERRUPTED
        assert_all_end(servers)
    assert "Traceback" not in program.log


def test_servers_do_not_outlive_a_demo_that_is_killed_and_the_next_one_runs_and_asks_no_proxy(
    programs: Programs,
) -> None:
    with demo(programs, OWN_PICTURE) as program:
        program.until(lambda: STAYS in program.lines)
        servers = children(program)
        program.kill()
        assert_all_end(servers)

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    values = {"HTTP_PROXY": f"http://127.0.0.1:{port}", "all_proxy": f"socks5://127.0.0.1:{port}"}

    again = run(("demo", "--exit", "--port", "0", "--folder", "demo", OWN_PICTURE), programs.folder, values)

    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize(
    ("moment", "server", "name"), [("\tsubmitted\t", "sandbox", "sandbox"), (STAYS, "serve", "receiver")]
)
def test_a_server_that_dies_ends_the_demo_with_1_and_one_line(
    programs: Programs, moment: str, server: str, name: str
) -> None:
    with demo(programs, OWN_PICTURE) as program:
        program.until(lambda: any(moment in line for line in program.lines))
        servers = children(program)
        signal.pidfd_send_signal(servers[server], signal.SIGKILL)
        assert program.process.wait(PATIENCE) == 1
        assert_all_end(servers)
    assert re.search(rf"\b{name}\b", said_last(program))


def test_a_port_that_is_taken_is_named_with_the_option_that_helps(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(("demo", "--exit", "--port", str(port), "--folder", "demo"), tmp_path, {})

    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"receiver: port {port} ")
    assert "--port 0" in line


def test_a_folder_in_use_is_named_with_the_option_that_helps(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    lock = DirectoryLock(folder)
    done = run(("demo", "--exit", "--port", "0", "--folder", "demo"), tmp_path, {})
    lock.release()

    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"receiver: {folder} ")
    assert "--folder" in line
    assert "RECEIVER_DATA_DIR" not in line


@pytest.mark.parametrize("provider", [entry.name for entry in ENTRIES])
def test_each_provider_has_a_demo_that_archives_six_pictures(tmp_path: Path, provider: str) -> None:
    done = run(
        ("demo", "--provider", provider, "--exit", "--json", "--port", "0", "--folder", "demo"), tmp_path, {}
    )
    assert done.returncode == 0, (done.stderr, (tmp_path / "demo" / "receiver.log").read_text())
    shown = json.loads(done.stdout)
    assert shown["archived"]
    archived = [path for path in Path(shown["archive"]).rglob("*") if path.suffix in {".jpg", ".png"}]
    assert len(archived) == 6


async def test_jobs_are_followed_to_their_end_beside_others(programs: Programs, hosted: str) -> None:
    shown: list[Sequence[Mapping[str, Any]]] = []
    with programs.receiver(settings(programs.folder)) as receiver:
        await asyncio.to_thread(receiver.deliver, completion("followed", hosted, *SIZE))
        receiver.post("/jobs", json={"id": "silent"}).raise_for_status()

        async with asyncio.timeout(PATIENCE):
            run = Demo(receiver.address, API_TOKEN, "", XimilarTrial(), programs.folder)
            assert await follow(run, {"followed"}, shown.append)

    assert [job["id"] for job in shown[-1]] == ["followed"]
