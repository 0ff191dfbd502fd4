"""``receiver submit``, through a real sandbox and beside a real receiver: each image once, come what may."""

import asyncio
import json
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

import receiver as package
from receiver.core.errors import TokenRefusedError
from receiver.submission.submitter import Fate
from tests.sandbox.harness import Neighbour
from tests.support.processes import (
    PROVIDER_TOKEN,
    SECRETS,
    SIGNING_KEY,
    ForkedProgram,
    Program,
    Programs,
    Receiver,
    Sandbox,
    run,
    settings,
)
from tests.support.terminal import on_a_terminal
from tests.support.waiting import eventually


@dataclass
class Both:
    """A receiver, a sandbox, and the settings of a submitter."""

    receiver: Receiver
    box: Sandbox
    folder: Path
    values: dict[str, str]
    programs: Programs

    def submit(self, *arguments: str, **more: str) -> "CompletedProcess[str]":
        return run(["submit", *arguments], self.folder, {**self.values, **more})

    @contextmanager
    def submitting(self, *arguments: str, **more: str) -> Iterator[Program]:
        with ForkedProgram("submit", ["submit", *arguments], self.folder, {**self.values, **more}) as program:
            self.programs.started.append(program)
            yield program

    def jobs_of_the_provider(self) -> list[Any]:
        rows: list[Any] = []
        query: str | None = ""
        while query is not None:
            page = self.box.get(f"/request?{query}").raise_for_status().json()
            rows += page["results"]
            query = page["next"] and page["next"].partition("?")[2]
        return [self.box.get(f"/request/{row['id']}").raise_for_status().json() for row in rows]

    def urls_of_the_provider(self) -> Counter[str]:
        return Counter(job["request"]["records"][0]["_url"] for job in self.jobs_of_the_provider())

    def archived(self) -> int:
        count: int = self.receiver.get("/stats").raise_for_status().json()["states"]["archived"]
        return count

    def list_of(self, near: Neighbour, picture: bytes, count: int, first: int = 0) -> list[str]:
        return [near.serve(picture, f"picture-{n}") for n in range(first, first + count)]

    def write(self, lines: Sequence[str]) -> Path:
        path = self.folder / "list.txt"
        path.write_text("# pictures\n\n" + "".join(f"{line}\n" for line in lines))
        return path


@contextmanager
def both(programs: Programs, *faults: str, **more: str) -> Iterator[Both]:
    with programs.sandbox(*faults) as box:
        base = {
            **settings(programs.folder, **more),
            "XIMILAR_API_TOKEN": PROVIDER_TOKEN,
            "XIMILAR_API_URL": str(box.base_url).rstrip("/"),
        }
        with programs.receiver(base) as receiver:
            values = {**base, "RECEIVER_PUBLIC_URL": receiver.address}
            yield Both(receiver, box, programs.folder, values, programs)


def ids_of(said: "CompletedProcess[str]") -> list[str]:
    return [line.split("\t")[0] for line in said.stdout.splitlines()]


def test_files_and_urls_are_archived_with_their_reference(
    programs: Programs, hosted: str, picture: bytes
) -> None:
    with both(programs) as it:
        (it.folder / "own.png").write_bytes(picture)
        said = it.submit("own.png", hosted, "--ref", "order 7", "--scale", "4", "--wait")
        assert said.returncode == 0, said.stderr
        rows = [line.split("\t") for line in said.stdout.splitlines()]
        assert {tuple(row[1:4]) for row in rows} == {
            ("order 7", "archived", "own.png"),
            ("order 7", "archived", hosted),
        }
        jobs = {row[3]: it.receiver.job(row[0]) for row in rows}
        assert {job["endpoint"] for job in jobs.values()} == {"upscale_4x"}
        assert jobs[hosted]["source_url"] == hosted
        assert jobs["own.png"]["image"]["width"] == 256
        kept = [path.name for path in (it.folder / "data" / "archive" / ".sources").rglob("*.webp")]
        assert kept == [f"{jobs['own.png']['id']}.webp"]  # and not of a URL, without a setting that says so
        assert all(secret not in said.stdout + said.stderr for secret in SECRETS)


def test_every_option_reaches_the_provider(programs: Programs, hosted: str) -> None:
    with both(programs) as it:
        options = ("--model", "gan", "--mode", "ironed_out", "--format", "webp", "--quality", "70")
        said = it.submit(hosted, *options, "--no-tune-colors", "--json")
        (row,) = json.loads(said.stdout)["jobs"]
        request = it.box.get(f"/request/{row['id']}").json()["request"]
        assert {k: v for k, v in request.items() if k not in ("webhook", "records")} == {
            "type": "upscaler",
            "endpoint": "upscale_2x",
            "model_type": "gan",
            "mode": "ironed_out",
            "image_format": "webp",
            "image_quality": 70,
            "tune_colors": False,
        }
        assert (row["state"], row["image"], row["already"], row["error"]) == (
            "submitted",
            hosted,
            False,
            None,
        )


def test_with_signing_keys_each_job_gets_a_ticket_of_its_own(programs: Programs, hosted: str) -> None:
    with both(programs, RECEIVER_SIGNING_KEYS=SIGNING_KEY) as it:
        said = it.submit(hosted, hosted, "--wait")
        assert said.returncode == 0, said.stderr
        headers = [job["request"]["webhook"]["headers"] for job in it.jobs_of_the_provider()]
        assert len({h["X-Receiver-Job"] for h in headers}) == 2


@pytest.mark.parametrize("fault", ["--early", "--lost-answer"])
def test_whatever_comes_of_the_answer_the_job_is_whole_and_billed_once(
    programs: Programs, hosted: str, fault: str
) -> None:
    with both(programs, fault, "1") as it:
        said = it.submit(hosted, "--ref", "order 7", "--wait")
        assert said.returncode == 0, said.stderr + said.stdout
        (job_id,) = ids_of(said)
        job = it.receiver.job(job_id)
        assert (job["state"], job["ref"], job["endpoint"], job["source_url"]) == (
            "archived",
            "order 7",
            "upscale_2x",
            hosted,
        )
        assert job["history"][0]["event"] == "submitted"
        assert [found["id"] for found in it.jobs_of_the_provider()] == [job_id]


def test_a_lost_answer_is_looked_for_where_no_completion_comes_either(
    programs: Programs, hosted: str
) -> None:
    with both(programs, "--lost-answer", "1", "--drop", "1") as it:
        said = it.submit(hosted, hosted)
        assert said.returncode == 0, said.stderr
        assert set(ids_of(said)) == {job["id"] for job in it.jobs_of_the_provider()}


def test_a_list_is_submitted_once_and_what_is_added_to_it_later(
    programs: Programs, near: Neighbour, picture: bytes
) -> None:
    with both(programs) as it:
        urls = it.list_of(near, picture, 5)
        path = it.write([*urls[:3], f"{urls[3]}\torder 3", urls[0]])
        assert it.submit("--from", str(path)).returncode == 0
        again = it.submit("--from", path.name, "--json")
        rows = json.loads(again.stdout)["jobs"]
        assert all(row["already"] for row in rows)
        assert [row["ref"] for row in rows] == [None, None, None, "order 3", None], again.stdout
        it.write([urls[4], *urls[:3], f"{urls[3]}\torder 3", urls[0]])
        added = it.submit("--from", path.name, "--json")
        assert [row["already"] for row in json.loads(added.stdout)["jobs"]] == [False] + [True] * 5
        expected = Counter(urls) + Counter([urls[0]])
        assert it.urls_of_the_provider() == expected
        anew = it.submit("--from", path.name, "--again")
        assert anew.returncode == 0
        assert it.urls_of_the_provider() == expected + expected
        (name,) = re.findall("--list-name '(.+)'", anew.stderr)
        assert it.submit("--from", path.name, "--list-name", name).returncode == 0
        assert it.urls_of_the_provider() == expected + expected


ANSWERS = {
    "lost answers": ("--lost-answer", "0.2", "--seed", "7"),
    "slow answers, half of the completions lost": ("--early", "1", "--delay", "0.3", "--drop", "0.5"),
}


@pytest.mark.parametrize("faults", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_list_that_is_interrupted_at_any_point_is_submitted_exactly_once(
    programs: Programs, near: Neighbour, picture: bytes, how: signal.Signals, faults: tuple[str, ...]
) -> None:
    dice = random.Random(how)
    with both(programs, *faults) as it:
        urls = it.list_of(near, picture, 40)
        path = it.write(urls)
        for _ in range(4):
            with it.submitting("--from", str(path), "--rate", "60/s") as program:
                program.until(partial(_submitted_at_least, program, dice.randrange(1, 8)))
                program.process.send_signal(how)
                code = program.process.wait(30)
                assert code == (130 if how is signal.SIGINT else -signal.SIGKILL)
            if how is signal.SIGINT:
                assert any("the same command goes on from here" in line for line in program.lines)
        rest = it.submit("--from", str(path))
        assert rest.returncode == 0, rest.stderr
        assert it.urls_of_the_provider() == Counter(urls)
        if "--drop" not in faults:
            eventually(lambda: it.archived() == len(urls))


def _submitted_at_least(program: Program, count: int) -> bool:
    return _submitted(program) >= count


def _submitted(program: Program) -> int:
    return sum(line.split("\t")[2:3] == ["submitted"] for line in program.lines)


def test_a_list_of_files_that_is_interrupted_is_submitted_exactly_once(
    programs: Programs, picture: bytes
) -> None:
    with both(programs) as it:
        names = [f"photo-{n}.png" for n in range(3)]
        for name in names:
            (it.folder / name).write_bytes(picture)
        path = it.write(names)
        with it.submitting("--from", str(path), "--rate", "1/h") as program:
            program.until(lambda: _submitted(program) == 1)
            program.process.send_signal(signal.SIGINT)
            assert program.process.wait(30) == 130
            assert "1 of 3 are submitted; 2 not begun; the same command goes on from here" in program.log
            assert "bill" not in program.log
        assert it.submit("--from", str(path)).returncode == 0
        assert len(it.jobs_of_the_provider()) == 3


@pytest.mark.parametrize(
    ("more", "left"),
    [(("--rate", "1/h"), "1 of 2 are submitted; 1 not begun; "), (("--wait",), "2 of 2 are submitted; ")],
    ids=["submitting", "waiting"],
)
def test_interrupted_arguments_say_that_they_would_be_billed_again(
    programs: Programs, hosted: str, more: tuple[str, ...], left: str
) -> None:
    with both(programs, "--delay", "1h") as it:
        with it.submitting(hosted, hosted, *more) as program:
            count = 2 if "--wait" in more else 1
            eventually(lambda: it.box.get("/request").json()["count"] == count)
            if "--wait" in more:
                eventually(lambda: it.receiver.get("/stats").json()["states"]["submitted"] == count)
            else:
                program.until(lambda: _submitted(program) == 1)
            program.process.send_signal(signal.SIGINT)
            assert program.process.wait(30) == 130
        assert f"{left}repeated, the command would submit, and bill, all its arguments again" in program.log
        assert it.submit(hosted, hosted).returncode == 0
        assert it.urls_of_the_provider()[hosted] == count + 2


def test_a_list_is_not_submitted_by_two_at_once(programs: Programs, near: Neighbour, picture: bytes) -> None:
    with both(programs) as it:
        urls = it.list_of(near, picture, 3)
        path = it.write(urls)
        with it.submitting("--from", str(path), "--rate", "1/h") as program:
            program.until(lambda: _submitted(program) == 1)
            other = it.submit("--from", str(path))
            assert (other.returncode, "ledger.in_use" in other.stderr) == (1, True)
            program.process.send_signal(signal.SIGINT)
            assert program.process.wait(30) == 130
            assert "2 not begun" in program.log
        assert it.submit("--from", str(path)).returncode == 0
        assert it.urls_of_the_provider() == Counter(urls)
        assert not list((it.folder / "data").glob("*submit*"))


def test_a_wrong_token_ends_the_run_and_leaves_nothing_open(
    programs: Programs, near: Neighbour, picture: bytes
) -> None:
    with both(programs) as it:
        path = it.write(it.list_of(near, picture, 20))
        said = it.submit("--from", str(path), XIMILAR_API_TOKEN="not-the-providers-token")
        assert said.returncode == 1
        states = Counter(line.split("\t")[2] for line in said.stdout.splitlines())
        assert set(states) == {"refused"}
        assert states["refused"] <= 4
        assert "provider refuses" in said.stderr or "401" in said.stderr
        assert "open" not in said.stderr.splitlines()[-1]
        assert it.submit("--from", str(path)).returncode == 0


def test_too_many_requests_are_waited_out(programs: Programs, near: Neighbour, picture: bytes) -> None:
    with both(programs, "--throttle", "0.4", "--retry-after", "0", "--seed", "3") as it:
        urls = it.list_of(near, picture, 12)
        path = it.write(urls)
        said = it.submit("--from", str(path))
        assert said.returncode == 0
        assert said.stderr.startswith("receiver: waiting: ")
        assert said.stderr.count("429") == 1


def test_waiting_for_a_job_that_is_not_archived_is_no_success(programs: Programs, hosted: str) -> None:
    with both(programs, "--failed-told", "1") as it:
        said = it.submit(hosted, "--wait", "--json")
        (row,) = json.loads(said.stdout)["jobs"]
        assert (said.returncode, row["state"], row["error"]["reason"]) == (
            1,
            "failed",
            "provider.job_failed",
        )


def test_on_a_terminal_there_is_a_bar_and_a_table(programs: Programs, hosted: str) -> None:
    with both(programs) as it:
        arguments = ["submit", hosted, hosted, "--wait", "--ref", "order 7"]
        code, said = on_a_terminal(arguments, it.folder, it.values)
        assert code == 0
        assert re.search(r"submitted .*2/2", said)
        assert re.search(r"ended .*2/2", said)
        assert re.search(r"job +ref +state +image +reason", said)
        assert len(re.findall(r"order 7 +archived", said)) == 2


def test_without_a_receiver_that_runs_the_jobs_are_in_the_ledger(
    programs: Programs, hosted: str, tmp_path: Path
) -> None:
    with programs.sandbox() as box:
        values = {
            **settings(tmp_path / "fresh"),
            "XIMILAR_API_TOKEN": PROVIDER_TOKEN,
            "XIMILAR_API_URL": str(box.base_url).rstrip("/"),
            "RECEIVER_PUBLIC_URL": "http://127.0.0.1:9/",
        }
        (job_id,) = ids_of(run(["submit", hosted], tmp_path, values))
        listed = json.loads(run(["jobs", "--json"], tmp_path, values).stdout)["jobs"]
        assert [(job["id"], job["state"]) for job in listed] == [(job_id, "submitted")]


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ({"RECEIVER_PUBLIC_URL": ""}, "RECEIVER_PUBLIC_URL"),
        ({"XIMILAR_API_TOKEN": ""}, "XIMILAR_API_TOKEN"),
        ({"RECEIVER_WEBHOOK_HEADERS": ""}, "RECEIVER_WEBHOOK_HEADERS"),
        ({"RECEIVER_WEBHOOK_HEADERS": '{"X-Webhook-Secret": "ümlaut-secret"}'}, "RECEIVER_WEBHOOK_HEADERS"),
        ({"RECEIVER_PUBLIC_URL": "https://host/?a=b"}, "RECEIVER_PUBLIC_URL"),
    ],
)
def test_a_setting_that_is_missing_is_named_in_one_line(
    tmp_path: Path, missing: dict[str, str], named: str
) -> None:
    values = {
        **settings(tmp_path),
        "XIMILAR_API_TOKEN": PROVIDER_TOKEN,
        "XIMILAR_API_URL": "http://127.0.0.1:9",
        "RECEIVER_PUBLIC_URL": "http://127.0.0.1:9",
        **missing,
    }
    said = run(["submit", "http://127.0.0.1:9/a.png"], tmp_path, values)
    assert said.returncode == 1
    assert said.stderr.startswith(f"receiver: {named}:")
    assert said.stderr.count("\n") == 1
    assert "secret" not in said.stderr.replace("X-Webhook-Secret", "")


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--scale", "3"],
        ["--model", "best"],
        ["--mode", "best"],
        ["--format", "gif"],
        ["--format", "png", "--quality", "0"],
        ["--quality", "50"],
        ["--ref", "ü"],
        ["--rate", "fast"],
        ["--rate", "0/s"],
    ],
    ids=" ".join,
)
def test_an_option_that_cannot_be_is_a_matter_of_usage(tmp_path: Path, wrong: list[str]) -> None:
    images = ["http://127.0.0.1:9/a.png"] if wrong else []
    assert run(["submit", *images, *wrong], tmp_path, settings(tmp_path)).returncode == 2


def test_a_file_that_is_none_or_no_image_or_a_line_that_is_no_url_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "list.txt").write_text("https://host/a.png\nftp://host/b.png\n")
    (tmp_path / "files.txt").write_text("gone.png\n")
    values = settings(tmp_path)
    for arguments, words in (
        (["gone.png"], "gone.png: there is no such file"),
        (["text.png"], "text.png: is no image"),
        (["ftp://host/a.png"], "ftp://host/a.png: is no http(s) URL"),
        (["--from", "list.txt"], "list.txt: line 2: is no http(s) URL"),
        (["--from", "files.txt"], "files.txt: line 1: gone.png: there is no such file"),
        (["--from", "gone.txt"], "gone.txt: cannot be read"),
    ):
        said = run(["submit", *arguments], tmp_path, values)
        assert (said.returncode, words in said.stderr) == (1, True), said.stderr


async def test_a_program_submits_and_waits_as_the_command_does(programs: Programs, hosted: str) -> None:
    with both(programs) as it:
        first, second = await package.submit(hosted, hosted, ref="order 7", wait=True, config=it.values)
        assert (first.fate, second.fate) == (Fate.SUBMITTED, Fate.SUBMITTED)
        assert first.job is not None
        assert (first.job.state, first.job.ref) == ("archived", "order 7")
        (refused,) = await package.submit(hosted, config={**it.values, "XIMILAR_API_TOKEN": "wrong-token"})
        assert (refused.fate, refused.id, type(refused.error)) == (Fate.REFUSED, None, TokenRefusedError)


async def test_a_program_that_is_cancelled_leaves_no_job_twice(
    programs: Programs, near: Neighbour, picture: bytes
) -> None:
    with both(programs) as it:
        urls = it.list_of(near, picture, 12)
        path = it.write(urls)
        some = asyncio.Event()
        task = asyncio.create_task(
            package.submit(from_file=path, rate=50, config=it.values, tell=lambda _: some.set())
        )
        await some.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outcomes = await package.submit(from_file=path, config=it.values)
        assert all(outcome.id for outcome in outcomes)
        assert it.urls_of_the_provider() == Counter(urls)
