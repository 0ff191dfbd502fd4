"""The commands as processes, beside a real receiver: what they list, find, try again, and how they end."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import FileIO
from itertools import dropwhile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from receiver.cli.selection import LEAST_PREFIX
from receiver.core.clock import wall_clock
from receiver.ledger import Ledger
from tests.e2e.conftest import SIZE
from tests.ledger.actions import claimed, delivery
from tests.sandbox.harness import Neighbour
from tests.support.clock import HOUR
from tests.support.forkserver import Forked
from tests.support.processes import (
    PATIENCE,
    PROOF,
    Programs,
    Receiver,
    command,
    completion,
    environment,
    fork,
    run,
    run_process,
)
from tests.support.processes import settings as settings_of
from tests.support.terminal import on_a_terminal


@dataclass
class Desk:
    """A receiver that serves, and somebody at the same machine."""

    receiver: Receiver
    folder: Path
    values: dict[str, str]

    def run(self, *arguments: str) -> "CompletedProcess[str]":
        return run(arguments, self.folder, self.values)

    def typed(self, *arguments: str, typed: str = "", columns: int = 160, **more: Any) -> tuple[int, str]:
        return on_a_terminal(arguments, self.folder, self.values, typed=typed, columns=columns, **more)

    def announce(self, *ids: str, ref: str) -> None:
        for job_id in ids:
            self.receiver.post("/jobs", json={"id": job_id, "ref": ref}).raise_for_status()

    def rejected(self, near: Neighbour, count: int, ref: str) -> list[str]:
        """Jobs whose image is none, until `near` has one."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for job_id in ids:
            url = near.serve(b"this is no image", job_id)
            self.receiver.deliver(completion(job_id, url, *SIZE), {**PROOF, "X-Receiver-Ref": ref})
        for job_id in ids:
            assert self.receiver.ended(job_id)["state"] == "rejected"
        return ids

    def failed(self, ref: str, source: str | None = None) -> str:
        """A job that the provider itself calls failed, without an image."""
        job_id = str(uuid.uuid4())
        body = completion(job_id, "https://example.com/", *SIZE)
        (record,) = body["response"]["records"]
        del record["_upscaled_image_url"]
        record |= {"_status": {"code": 400, "text": "Bad Request"}, "_url": source}
        answer = self.receiver.deliver(body, {**PROOF, "X-Receiver-Ref": ref})
        assert answer.json()["state"] == "failed"
        return job_id


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, shared_programs: Programs) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    values = settings_of(folder, RECEIVER_OVERDUE_AFTER="1h")
    with shared_programs.receiver(values, folder=folder) as receiver:
        yield Desk(receiver, folder, values)


@pytest.fixture
def ref() -> str:
    return f"ref {uuid.uuid4()}"


def rows(said: "CompletedProcess[str]") -> list[list[str]]:
    return [line.split("\t") for line in said.stdout.splitlines()]


# All commands


def test_the_version_is_shown(desk: Desk) -> None:
    assert desk.run("--version").stdout.startswith("upscale-receiver ")


def test_help_names_every_command_in_its_group(desk: Desk) -> None:
    said = desk.run("--help").stdout
    assert [group for group in ("The receiver", "Jobs, beside", "Trying it out") if group not in said] == []
    names = (
        "serve",
        "init",
        "doctor",
        "submit",
        "jobs",
        "job",
        "retry",
        "accept",
        "reconcile",
        "demo",
        "sandbox",
    )
    for name in names:
        assert f" {name} " in said
        assert "Usage: receiver" in desk.run(name, "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["jobs", "--no-such-option"],
        ["job"],
        ["jobs", "--all", "--limit", "5"],
        ["jobs", "--since", "yesterday"],
        ["jobs", "--until", ""],
        ["jobs", "--since", "999999999d"],
        ["retry"],
        ["retry", "some-id", "--state", "rejected"],
        ["retry", "--state", "archived"],
        ["retry", "--state", "submitted"],
        ["retry", "--reason", "no.such"],
        ["jobs", "--state", "no-such"],
        ["submit", "--model", "no-such", "a.png"],
    ],
)
def test_what_is_not_understood_is_told_as_usage(desk: Desk, arguments: Sequence[str]) -> None:
    said = desk.run(*arguments)
    assert (said.returncode, said.stdout) == (2, "")
    assert "Usage: receiver" in said.stderr
    assert "Traceback" not in said.stderr
    assert "Value error" not in said.stderr


@pytest.mark.parametrize(
    ("arguments", "help"),
    [
        (["jobs", "--state", "archivd"], "there is no state archivd; did you mean archived"),
        (
            ["jobs", "--state", "zzz"],
            "there are submitted, received, fetched, archived, failed, rejected, expired",
        ),
        (["retry", "--reason", "fetch.gon"], "there is no reason fetch.gon; did you mean fetch.gone"),
        (["submit", "--format", "gif", "a.png"], "there is no format gif; there are png, jpg, webp"),
        (["jobs", "--limit", "0"], "0 is not a whole number from 1 to 1000"),
        (["jobs", "--limit", "abc"], "abc is not a whole number from 1 to 1000"),
        (["jobs", "--limit", "1.5"], "1.5 is not a whole number from 1 to 1000"),
        (["audit", "--rate", "x"], "x is not a number from 0.001 to 100000"),
        (["reconcile", "--rate", "inf"], "inf is not a number from 0.001 to 1000"),
        (["submit", "--scale", "3", "a.png"], "there is no scale 3; there are 2, 4, 8"),
        (["submit", "--quality", "101", "a.png"], "101 is not a whole number from 1 to 100"),
        (["demo", "--port", "65536"], "65536 is not a whole number from 0 to 65535"),
        (["sandbox", "--port", "x"], "x is not a whole number from 0 to 65535"),
        (["sandbox", "--drop", "2"], "2 is not a number from 0 to 1"),
        (["sandbox", "--page-size", "0"], "0 is not a whole number of at least 1"),
        (["sandbox", "--error-shape", "guess"], "there is no error-shape guess; did you mean guessed?"),
        (["jobs", "--since", "yesterday"], "no time such as 2026-11-23T09:30:00Z, or 2h for 2 h ago"),
        (["jobs", "--since", "5"], "no time such as 2026-11-23T09:30:00Z, or 2h for 2 h ago"),
        (["jobs", "--until", "99999999999d"], "99999999999d ago was before all time"),
        (["--json", "jobs"], "options stand behind the command, such as: receiver jobs --json"),
        (["job"], "Missing argument 'ID'"),
        (["jbos"], "Did you mean"),
    ],
)
def test_a_mistaken_word_gets_help(desk: Desk, arguments: Sequence[str], help: str) -> None:  # noqa: A002 - that is what it is
    ended = desk.run(*arguments)
    said = " ".join(ended.stderr.replace("│", " ").split())
    assert help in said
    assert ended.returncode == 2
    assert not any(words in said for words in ("Input should", "Value error"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs"],
        ["job", "some-id"],
        ["retry", "some-id"],
        ["retry", "--state", "failed"],
        ["accept", "some-id"],
    ],
)
def test_without_a_ledger_one_line_says_so_and_none_is_made(tmp_path: Path, arguments: Sequence[str]) -> None:
    said = run(arguments, tmp_path, settings_of(tmp_path, RECEIVER_DATA_DIR="data"))
    assert said.returncode == 1
    assert said.stderr.startswith(f"receiver: ledger.unavailable: There is no ledger in {tmp_path / 'data'};")
    assert len(said.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_goes_early_ends_the_command_quietly(desk: Desk, ref: str, more: Sequence[str]) -> None:
    desk.announce(*(f"{ref[4:12]}-{number}" for number in range(300)), ref=ref * 4)
    with piped(desk, "jobs", "--all", *more) as (process, stdout, stderr):
        stdout.read(1)
        stdout.close()
        assert stderr.read() == b""
        assert process.wait(PATIENCE) in (0, 1)


@pytest.mark.parametrize(
    ("line", "closed"),
    [
        ("jobs", "<&-"),
        ("jobs", ">&-"),
        ("jobs", "2>&-"),
        ("jobs", "<&- >&- 2>&-"),
        ("retry --state rejected", "<&- >&- 2>&-"),
        ("prune --dry-run", "<&- >&- 2>&-"),
        ("doctor", "<&- >&- 2>&-"),
    ],
)
def test_a_closed_stream_is_one_that_leads_nowhere(desk: Desk, line: str, closed: str) -> None:
    said = subprocess.run(
        ["sh", "-c", f"{shlex.join(command())} {line} {closed}"],
        cwd=desk.folder,
        env=environment(desk.folder, desk.values),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert said.returncode == desk.run(*line.split()).returncode
    assert "Traceback" not in said.stderr
    assert "Error" not in said.stderr


def test_the_shell_completes_commands_states_reasons_and_ids(
    desk: Desk, ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = f"completed-{uuid.uuid4()}"
    desk.announce(job_id, ref=ref)

    def asking(*words: str) -> dict[str, str]:
        return {
            "_RECEIVER_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["receiver", *words]),
            "COMP_CWORD": str(len(words)),
        }

    def completed(*words: str) -> list[str]:
        for name, value in asking(*words).items():  # which the library reads from the process itself
            monkeypatch.setenv(name, value)
        said = desk.run()
        assert said.stderr == ""
        return said.stdout.split()

    of_the_shell = run_process([], desk.folder, {**desk.values, **asking("jo")})
    assert of_the_shell.stderr == ""
    assert {"jobs", "job"} <= set(of_the_shell.stdout.split())
    assert completed("jobs", "--state", "rej") == ["rejected"]
    assert completed("jobs", "--reason", "image.trunc") == ["image.truncated"]
    assert completed("job", "completed-") == [job_id]
    assert completed("retry", "no-such") == []
    script = run_process(["--show-completion", "bash"], desk.folder, {**desk.values, "SHELL": "/bin/bash"})
    assert "_RECEIVER_COMPLETE" in script.stdout


# jobs


def test_all_jobs_are_listed_page_after_page(desk: Desk, ref: str) -> None:
    ids = [f"{ref[4:12]}-{number:04}" for number in range(520)]  # more than are read at a time
    desk.announce(*ids, ref=ref)
    said = desk.run("jobs", "--all", "--ref", ref)
    assert said.returncode == 0
    assert [row[0] for row in rows(said)] == ids[::-1]
    document = json.loads(desk.run("jobs", "--all", "--ref", ref, "--json").stdout)
    assert [job["id"] for job in document["jobs"]] == ids[::-1]
    assert document["next"] is None
    page = json.loads(desk.run("jobs", "--limit", "2", "--ref", ref, "--json").stdout)
    assert page == desk.receiver.get("/jobs", params={"ref": ref, "limit": 2}).json()
    rest = desk.run("jobs", "--all", "--ref", ref, "--cursor", page["next"])
    assert [row[0] for row in rows(rest)] == ids[-3::-1]
    none = json.loads(desk.run("jobs", "--ref", f"no {ref}", "--json").stdout)
    assert none == {"jobs": [], "next": None}


def test_jobs_are_listed_by_time_and_by_silence(desk: Desk, ref: str) -> None:
    desk.announce(f"timed-{ref[4:]}", ref=ref)

    def listed(*options: str) -> int:
        said = desk.run("jobs", "--ref", ref, *options)
        assert said.returncode == 0, said.stderr
        return len(rows(said))

    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert listed("--since", "2h") == 1
    assert listed("--until", "2h") == 0
    assert listed("--since", soon) == 0
    assert listed("--until", soon) == 1
    assert listed("--overdue") == 0
    assert listed("--no-overdue") == 1
    impatient = {**desk.values, "RECEIVER_OVERDUE_AFTER": "0.001s"}
    assert len(rows(run(["jobs", "--overdue", "--ref", ref], desk.folder, impatient))) == 1


def test_a_table_on_a_terminal_has_colours_a_head_and_columns_that_fit(desk: Desk, ref: str) -> None:
    job_id = f"shown-{uuid.uuid4()}"
    desk.announce(job_id, ref=ref)
    code, wide = desk.typed("jobs", "--ref", ref)
    assert code == 0
    assert wide.splitlines()[0].split() == ["job", "state", "ref", "image", "updated", "reason"]
    assert job_id in wide
    assert ref in wide
    for columns in (80, 60, 40):
        _, narrow = desk.typed("jobs", "--ref", ref, columns=columns)
        assert max(len(line.rstrip()) for line in narrow.splitlines()) <= columns
        lines = list(dropwhile(lambda line: not line.startswith("job"), narrow.splitlines()))
        head = lines.pop(0)
        assert head.split()[:3] == ["job", "state", "ref"]
        assert "".join(line[: head.index("state")].rstrip() for line in lines) == job_id
        assert lines[0].startswith(job_id[:LEAST_PREFIX])
    coloured = on_a_terminal(["jobs", "--ref", ref], desk.folder, desk.values, colours=True)[1]
    assert "\x1b[36msubmitted" in coloured


# job


def test_a_job_is_shown_by_the_beginning_of_its_id(desk: Desk, ref: str) -> None:
    job_id = str(uuid.uuid4())
    desk.announce(job_id, ref=ref)
    shown = desk.receiver.job(job_id)
    for text in (job_id, job_id[:13], job_id[:13].upper()):
        assert json.loads(desk.run("job", text, "--json").stdout) == shown
    plain = [line.split("\t") for line in desk.run("job", job_id).stdout.splitlines()]
    assert ["id", job_id] in plain
    assert ["ref", ref] in plain
    assert plain[-1][1:4] == ["announced", "", "submitted"] or plain[-1][3] == "submitted"
    code, table = desk.typed("job", job_id[:13])
    assert (code, job_id in table, "submitted" in table) == (0, True, True)


def test_a_terminal_is_shown_no_keys(desk: Desk, near: Neighbour, ref: str) -> None:
    job_id = str(uuid.uuid4())
    url = near.serve(b"no image", job_id) + "?X-Amz-Signature=canary-of-a-signature"
    body = completion(job_id, url, *SIZE)
    body["response"]["records"][0]["_url"] = "https://user:canary-of-a-password@shop.example.com/scan.png"
    assert desk.receiver.deliver(body, {**PROOF, "X-Receiver-Ref": ref}).status_code == 200
    later = "https://user:canary-of-a-password@example.com/later.png?X-Amz-Signature=canary-of-a-signature"
    desk.receiver.deliver(completion(job_id, later, *SIZE))
    _, said = desk.typed("job", job_id)
    assert "https://…@shop.example.com/scan.png" in said
    assert "?…" in said
    assert "canary" not in said
    assert json.loads(desk.run("job", job_id, "--json").stdout)["image_url"] == url


def test_a_mistaken_id_gets_help(desk: Desk, ref: str) -> None:
    first, second = "d13e4b0c-aaaa", "d13e4b0c-bbbb"
    desk.announce(first, second, ref=ref)

    def mistake(text: str) -> str:
        said = desk.run("job", text)
        assert (said.returncode, said.stdout) == (1, "")
        assert len(said.stderr.splitlines()) == 1
        return said.stderr

    assert "begins several jobs" in mistake("d13e4b0c")
    assert mistake("zzzzzzzz") == "receiver: there is no job zzzzzzzz\n"
    assert "the first 4 characters of an id are enough" in mistake("zz")
    assert "there is no job" in mistake("\udcff\udcfe")
    assert mistake("%%%%") == "receiver: there is no job %%%%\n"


# retry


def test_jobs_chosen_by_a_filter_are_shown_first_and_tried_again_beside_the_server(
    desk: Desk, near: Neighbour, picture: bytes, ref: str
) -> None:
    ids = desk.rejected(near, 3, ref)
    options = ["retry", "--state", "rejected", "--ref", ref]

    shown = desk.run(*options)  # in a pipe, without --yes
    assert shown.returncode == 1
    assert {row[0] for row in rows(shown)} == set(ids)
    assert all(row[1:4] == [ref, "rejected", "image.unknown_format"] for row in rows(shown))
    assert shown.stderr.splitlines() == [
        "receiver: 3 jobs would be tried again",
        "receiver: nothing was done; --yes does it",
    ]
    dry = desk.run(*options, "--dry-run", "--json")
    assert dry.returncode == 0
    assert {job["id"] for job in json.loads(dry.stdout)["jobs"]} == set(ids)
    assert {desk.receiver.job(job_id)["state"] for job_id in ids} == {"rejected"}

    for job_id in ids:
        near.serve(picture, job_id)
    done = desk.run(*options, "--yes")
    assert done.returncode == 0, done.stderr
    assert {(row[0], row[2], row[3]) for row in rows(done)} == {(i, "rejected", "received") for i in ids}
    assert {desk.receiver.ended(job_id)["state"] for job_id in ids} == {"archived"}

    nothing = desk.run(*options, "--yes")
    assert (nothing.returncode, nothing.stdout) == (0, "")


def test_on_a_terminal_somebody_is_asked(desk: Desk, near: Neighbour, picture: bytes, ref: str) -> None:
    (job_id,) = desk.rejected(near, 1, ref)
    near.serve(picture, job_id)
    code, said = desk.typed("retry", "--ref", ref, typed="n\n")
    assert code == 1
    assert "Try 1 job again? [y/N]" in said
    assert "nothing was done" in said
    assert desk.receiver.job(job_id)["state"] == "rejected"
    code, said = desk.typed("retry", "--ref", ref, typed="y\n")
    assert code == 0
    assert "1 job is tried again" in said
    assert desk.receiver.ended(job_id)["state"] == "archived"


def test_a_mistyped_announcement_is_forgotten_and_its_completion_is_taken_all_the_same(
    desk: Desk, near: Neighbour, picture: bytes, ref: str
) -> None:
    job_id = str(uuid.uuid4())
    desk.announce(job_id, ref=ref)
    piped = desk.run("forget", job_id[:13])
    assert (piped.returncode, piped.stdout) == (1, "")
    assert "nothing was done; --yes does it" in piped.stderr
    code, said = desk.typed("forget", job_id, typed="n\n")
    assert (code, "Give this job up? [y/N]" in said, ref in said) == (1, True, True)
    assert desk.receiver.job(job_id)["state"] == "submitted"

    with ThreadPoolExecutor(1) as pool:  # who waits for the job learns of it at once
        waiting = pool.submit(desk.receiver.get, f"/jobs/{job_id}?wait=60")
        code, said = desk.typed("forget", job_id, typed="y\n")
        assert (code, "is given up" in said) == (0, True)
        job = waiting.result(PATIENCE).json()
    assert (job["state"], job["error"]["reason"]) == ("failed", "ledger.forgotten")
    assert [line["event"] for line in job["history"]] == ["submitted", "forgotten"]
    again = desk.run("forget", job_id, "--yes")
    assert (again.returncode, "is failed, so it is not forgotten" in again.stderr) == (1, True)

    desk.receiver.deliver(completion(job_id, near.serve(picture, job_id), *SIZE)).raise_for_status()
    assert desk.receiver.ended(job_id)["state"] == "archived"


def test_a_forgotten_job_is_printed_as_json(desk: Desk, ref: str) -> None:
    job_id = str(uuid.uuid4())
    desk.announce(job_id, ref=ref)
    said = desk.run("forget", job_id, "--yes", "--json")
    assert (said.returncode, json.loads(said.stdout)["state"]) == (0, "failed")
    unknown = desk.run("forget", "none-of-this-id", "--yes")
    assert (unknown.returncode, "there is no job none-of-this-id" in unknown.stderr) == (1, True)


def test_the_disk_of_a_receiver_that_is_not_known_to_be_dead_is_not_given_up(desk: Desk) -> None:
    piped = desk.run("disk-lost", "other")
    assert (piped.returncode, "nothing was done; --yes does it" in piped.stderr) == (1, True)
    unknown = desk.run("disk-lost", "other", "--yes")
    assert (unknown.returncode, "no receiver named other is dead" in unknown.stderr) == (1, True)


def test_jobs_are_tried_again_by_id_and_each_says_what_came_of_it(
    desk: Desk, near: Neighbour, picture: bytes, ref: str
) -> None:
    good, missing, silent = desk.rejected(near, 1, ref)[0], desk.failed(ref), f"silent-{uuid.uuid4()}"
    desk.announce(silent, ref=ref)
    near.serve(picture, good)
    said = desk.run("retry", good[:13], missing, silent, "nobody-knows", "--json")
    assert said.returncode == 1
    document = json.loads(said.stdout)
    assert document["dry_run"] is False
    told = {job["id"]: job for job in document["jobs"]}
    assert (told[good]["from"], told[good]["to"], told[good]["obstacle"]) == ("rejected", "received", None)
    assert told[missing]["to"] is None
    assert told[missing]["obstacle"].endswith("named no image to fetch; submit the picture again")
    assert "`receiver reconcile` asks about it" in told[silent]["obstacle"]
    assert told["nobody-knows"]["obstacle"] == "there is no job nobody-knows"
    assert "1 job is tried again; 3 are not" in said.stderr
    assert desk.receiver.ended(good)["state"] == "archived"
    again = desk.run("retry", good)
    assert again.returncode == 1
    assert len(rows(again)) == 1
    assert "its image lies in the archive already" in again.stdout


@pytest.mark.parametrize("more", [["--dry-run"], ["--yes"]])
def test_rows_go_to_the_file_and_progress_to_the_terminal(
    desk: Desk, tmp_path: Path, ref: str, more: Sequence[str]
) -> None:
    for _ in range(60):  # more than share a commit, so that progress is shown of the writes as well
        body = completion(job_id := f"{ref[4:12]}-{uuid.uuid4()}", "http://10.0.0.7/x.png", *SIZE)
        desk.receiver.deliver(body, {**PROOF, "X-Receiver-Ref": ref})
    desk.receiver.ended(job_id)
    out = tmp_path / "out"
    code, said = desk.typed("retry", "--ref", ref, *more, output=out)
    lines = out.read_text().splitlines()
    assert (code, len(lines)) == (0, 60)
    assert all(line.count("\t") == 4 for line in lines)
    assert "\t" not in said


def test_a_job_that_is_named_twice_is_tried_again_once(desk: Desk, near: Neighbour, ref: str) -> None:
    (job_id,) = desk.rejected(near, 1, ref)
    said = desk.run("retry", job_id[:8], job_id, job_id[:13].upper())
    assert (said.returncode, len(rows(said))) == (0, 1)
    assert said.stderr == "receiver: 1 job is tried again\n"
    assert desk.receiver.ended(job_id)["state"] == "rejected"
    events = [line["event"] for line in desk.receiver.get(f"/jobs/{job_id}").json()["history"]]
    assert events.count("retried") == 1


def test_what_cannot_be_tried_is_left_out_of_a_filter_and_told(
    desk: Desk, near: Neighbour, picture: bytes, ref: str
) -> None:
    missing, (good,) = desk.failed(ref), desk.rejected(near, 1, ref)
    near.serve(picture, good)
    said = desk.run("retry", "--ref", ref, "--yes")
    assert said.returncode == 0, "all was done that can be"
    assert "1 job is tried again; 1 is not: the provider has named no image to fetch" in said.stderr
    assert desk.receiver.ended(good)["state"] == "archived"
    assert desk.receiver.job(missing)["state"] == "failed"
    for more in (["--yes"], [], ["--dry-run"], ["--dry-run", "--json"]):
        assert desk.run("retry", "--ref", ref, "--state", "failed", *more).returncode == 0
    for more in ([], ["--dry-run"]):
        assert desk.run("retry", missing, *more).returncode == 1, "it was asked for by its name"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_is_asked_stands_beside_the_output(
    desk: Desk, near: Neighbour, ref: str, tmp_path: Path, more: Sequence[str]
) -> None:
    (job_id,) = desk.rejected(near, 1, ref)
    out = tmp_path / "out"
    code, asked = desk.typed("retry", "--ref", ref, *more, typed="n\n", output=out)
    assert (code, out.read_text()) == (1, "")
    assert job_id in asked
    code, asked = desk.typed("retry", "--ref", ref, *more, typed="y\n", output=out)
    assert (code, "Try 1 job again?" in asked) == (0, True)
    if more:
        document = json.loads(out.read_text())
        assert [(job["id"], job["to"]) for job in document["jobs"]] == [(job_id, "received")]
    else:
        assert [line.split("\t")[0] for line in out.read_text().splitlines()] == [job_id]


def test_the_look_at_many_jobs_shows_how_far_it_is(desk: Desk, ref: str) -> None:
    desk.failed(ref)
    for more in (["--dry-run"], ["--yes"], ["--yes", "--json"]):
        assert "looked at" in desk.typed("retry", "--ref", ref, *more)[1]


def test_a_narrow_terminal_keeps_ids_whole(desk: Desk, near: Neighbour, picture: bytes, ref: str) -> None:
    first, second = desk.rejected(near, 2, ref)
    missing = desk.failed(ref)
    for job_id in (first, second):
        near.serve(picture, job_id)
    _, dry = desk.typed("retry", "--ref", ref, "--dry-run", columns=60)
    _, done = desk.typed("retry", first, second, missing, columns=60)
    for shown in (dry, done):
        head, *lines = shown[shown.index("job  ") : shown.index("\nreceiver: ")].splitlines()
        ids = "".join(line[: head.index("ref")].rstrip() for line in lines)
        assert all(job_id in ids for job_id in (first, second, missing))
        assert max(len(line.rstrip()) for line in (head, *lines)) <= 60


@pytest.mark.parametrize(
    ("source", "suggested"),
    [
        ("https://shop.example.com/a b.png", "receiver submit 'https://shop.example.com/a b.png'"),
        ("https://shop.example.com/a.png?key=secret", None),
        ("--from=/etc/passwd", None),
        ("/etc/hostname", None),
        ("--again", None),
        ("file:///etc/hostname", None),
    ],
)
def test_a_command_is_suggested_for_a_picture_of_the_web_alone(
    desk: Desk, ref: str, source: str, suggested: str | None
) -> None:
    said = desk.run("retry", desk.failed(ref, source))
    assert "submit the picture again" in said.stderr
    if suggested is None:
        assert source not in said.stdout + said.stderr
    else:
        assert suggested in said.stdout
        assert suggested in said.stderr


def test_without_a_server_the_next_start_takes_them_up(
    programs: Programs, near: Neighbour, picture: bytes, ref: str
) -> None:
    values = settings_of(programs.folder)
    with programs.receiver(values) as receiver:
        (job_id,) = Desk(receiver, programs.folder, values).rejected(near, 1, ref)
        receiver.program.stop()
    near.serve(picture, job_id)
    assert run(["retry", job_id[:8]], programs.folder, values).returncode == 0
    with programs.receiver(values) as receiver:
        assert receiver.ended(job_id)["state"] == "archived"


def test_a_job_that_is_being_worked_on_is_not_counted_as_tried_again(tmp_path: Path) -> None:
    async def claim() -> None:
        ledger = await Ledger.serve(tmp_path)
        await ledger.record(delivery("busy", deadline=wall_clock() + HOUR))
        await claimed(ledger)
        await ledger.close()

    asyncio.run(claim())
    said = run(["retry", "busy", "--json"], tmp_path, settings_of(tmp_path, RECEIVER_DATA_DIR=str(tmp_path)))
    (row,) = json.loads(said.stdout)["jobs"]
    assert (said.returncode, row["to"], row["obstacle"]) == (1, None, "it is being worked on at this moment")
    assert "0 jobs are tried again; 1 is not" in said.stderr


def test_many_are_tried_again_while_deliveries_go_on(
    desk: Desk, near: Neighbour, picture: bytes, hosted: str, ref: str
) -> None:
    ids = desk.rejected(near, 120, ref)  # more than share a commit
    for job_id in ids:
        near.serve(picture, job_id)
    with ThreadPoolExecutor() as pool:
        retrying = pool.submit(run_process, ["retry", "--ref", ref, "--yes"], desk.folder, desk.values)
        while not retrying.done():
            assert desk.receiver.deliver(completion(str(uuid.uuid4()), hosted, *SIZE)).status_code == 200
    assert len(retrying.result().stdout.splitlines()) == len(ids)
    assert retrying.result().returncode == 0
    for job_id in ids:
        assert desk.receiver.ended(job_id)["state"] == "archived"


# Ctrl-C

INTERRUPTED = 130


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("jobs", "typer"),
        ("jobs", "pydantic"),
        ("jobs", "receiver.config"),
        ("jobs", "receiver.cli.output"),
        ("audit", "receiver.cli.output"),
    ],
)
def test_a_command_can_be_interrupted_while_it_is_loaded(desk: Desk, name: str, module: str) -> None:
    python, *arguments = command(name)
    with subprocess.Popen(
        [python, "-X", "importtime", *arguments],
        cwd=desk.folder,
        env=environment(desk.folder, desk.values),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline().split("|")[-1].strip() != module:
            pass
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert "Traceback" not in rest
        assert process.wait(PATIENCE) == INTERRUPTED, rest
        assert rest.splitlines()[-1] == "receiver: interrupted"


def test_a_listing_that_is_interrupted_says_so(desk: Desk, ref: str) -> None:
    desk.announce(*(f"{ref[4:12]}-{number}" for number in range(300)), ref=ref * 4)
    assert interrupted(desk, "jobs", "--all") == (INTERRUPTED, ["receiver: interrupted"])


def test_jobs_are_tried_again_up_to_an_interruption(desk: Desk, ref: str) -> None:
    long_ref = (ref * 5)[:200]
    for _ in range(399):
        desk.failed(long_ref)
    code, said = interrupted(desk, "retry", "--ref", long_ref, "--yes")
    assert (code, said[-1]) == (INTERRUPTED, "receiver: interrupted")


def test_a_question_can_be_answered_by_an_interruption(desk: Desk, near: Neighbour, ref: str) -> None:
    (job_id,) = desk.rejected(near, 1, ref)
    code, said = desk.typed("retry", "--ref", ref, typed="\x03", at="[y/N]")
    assert (code, said.splitlines()[-1]) == (INTERRUPTED, "receiver: interrupted")
    code, said = desk.typed("retry", "--ref", ref, typed="\x04", at="[y/N]")
    assert (code, said.splitlines()[-1]) == (1, "receiver: nothing was done")
    assert desk.receiver.job(job_id)["state"] == "rejected"


def interrupted(desk: Desk, *arguments: str) -> tuple[int, list[str]]:
    """The exit code and last words of a command that is interrupted at its work.

    It cannot go on while nobody reads more of it than the first byte.
    """
    with piped(desk, *arguments) as (process, stdout, stderr):
        stdout.read(1)
        process.send_signal(signal.SIGINT)
        stdout.read()
        return process.wait(PATIENCE), stderr.read().decode().splitlines()


@contextlib.contextmanager
def piped(desk: Desk, *arguments: str) -> Iterator[tuple[Forked, FileIO, FileIO]]:
    """A command, and what it writes to its standard output and errors."""
    (stdout, its_stdout), (stderr, its_stderr) = os.pipe(), os.pipe()
    with FileIO(stdout) as output, FileIO(stderr) as errors, Path(os.devnull).open() as null:
        process = fork(arguments, desk.folder, desk.values, [null.fileno(), its_stdout, its_stderr])
        os.close(its_stdout)
        os.close(its_stderr)
        yield process, output, errors
        process.kill()
