"""The log: one line for each thing that happens to a job, and a job's id leads through all of them."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.faults.steps import asking, question, says
from tests.support.processes import (
    SECRETS,
    ForkedProgram,
    Output,
    Programs,
    Receiver,
    completion,
    settings,
)
from tests.support.source import SIZE, Answer, Source, picture, signed, source

SIGNATURE = "canary-of-a-signed-url"

LINES = {
    "announced": "submitted",
    "asked": "asked",
    "cut off in its download": "cut_off",
    "confirmed": "confirmed",
    "fetched": "fetched",
    "fresh URL": "url_refreshed",
    "not fetched": "attempt_failed",
    "not archived": "attempt_failed",
    "not expired yet; the provider is asked again": "attempt_failed",
    "lost from the spool": "spool_lost",
    "archived": "archived",
    "recognised": "recognised",
    "rejected": "rejected",
    "expired": "expired",
    "at risk: little of the image URL's life is left": "at_risk",
    "retried": "retried",
}
"""Log lines, and the line of a job's history that each stands for. Completions say it in ``noted``."""

COMPLETIONS = {
    "delivery",
    "completion found that was never delivered",
    "completion found that came by itself",
    "given up",
}

WITH_REASON = {"failed", "found", "asked", "attempt_failed", "spool_lost", "rejected", "expired", "other_url"}
"""What happens to a job for a reason."""


@pytest.fixture
def host() -> Iterator[Source]:
    with source() as it:
        yield it


def url_of(host: Source, name: str, *answers: Answer | bytes, life: int = 3600) -> str:
    """A URL on the host that is signed, which is a secret."""
    url = signed(host.offer(name, *answers), since=time.time(), seconds=life)
    return f"{url}&X-Amz-Signature={SIGNATURE}"


def told(program: Output, job_id: str) -> list[tuple[str, str | None]]:
    """What the log says happened to a job, with the reason where there is one."""
    found: list[tuple[str, str | None]] = []
    for line in map(json.loads, list(program.lines)):
        if line.get("job") != job_id:
            continue
        happened = line["noted"] if "noted" in line else [LINES.get(line["event"])]
        found += [(each, line.get("reason") if each in WITH_REASON else None) for each in happened if each]
    return found


def happened(job: Any) -> list[tuple[str, str | None]]:
    """The same as the job's history says it."""
    return [
        (line["event"], line["reason"] if line["event"] in WITH_REASON else None) for line in job["history"]
    ]


def assert_followed(receiver: Receiver, *job_ids: str) -> set[str]:
    """That the log tells the whole history of these jobs; gives all that happened to them.

    What two rooms do at the same moment may stand in the log in either order.
    """
    seen = set()
    for job_id in job_ids:
        history = happened(receiver.job(job_id))
        # The line comes after the record, and is read here by another thread.
        receiver.program.until(partial(told_of, receiver.program, job_id, len(history)))
        assert Counter(told(receiver.program, job_id)) == Counter(history), job_id
        seen |= {event for event, _ in history}
    return seen


def told_of(program: Output, job_id: str, times: int) -> bool:
    return len(told(program, job_id)) >= times


def assert_clean(program: Output) -> None:
    """That every line is JSON of the one form, and tells no secret."""
    for line in map(json.loads, program.lines):
        assert {"event", "level", "logger", "timestamp"} <= set(line), line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
    for secret in (*SECRETS, SIGNATURE):
        assert secret not in program.log


def test_each_job_can_be_followed_to_its_end_by_its_id(programs: Programs, host: Source) -> None:
    good = url_of(host, "good", Answer(status=500), picture(1))
    with programs.receiver(settings(programs.folder)) as receiver:
        receiver.post("/jobs", json={"id": "good"}).raise_for_status()
        receiver.deliver(completion("good", good, *SIZE))
        receiver.deliver(completion("large", url_of(host, "large", picture(2)), 4000, 3000))
        receiver.deliver(completion("late", url_of(host, "late", Answer(status=500), life=3), *SIZE))
        receiver.deliver({"id": "failed", "status": "FAILED"})
        for job_id in ("good", "large", "late", "failed"):
            receiver.ended(job_id)
        receiver.deliver(completion("good", url_of(host, "another", picture(3)), *SIZE))
        receiver.deliver(completion("good", good, *SIZE))
        receiver.post("/jobs/large/retry").raise_for_status()
        receiver.program.until(lambda: len(receiver.program.events("rejected")) == 2)
        receiver.deliver(completion("failed", url_of(host, "mended", picture(4)), *SIZE))
        receiver.ended("failed")

        seen = assert_followed(receiver, "good", "large", "late", "failed")
        duplicates = [line["duplicate"] for line in receiver.program.events("delivery")]
        receiver.program.stop()

    assert seen - {"at_risk"} == {
        "submitted",
        "received",
        "failed",
        "other_url",
        "attempt_failed",
        "fetched",
        "archived",
        "rejected",
        "expired",
        "retried",
    }
    assert duplicates == [False, False, False, False, True, True, False]
    assert_clean(receiver.program)


def test_what_the_provider_is_asked_can_be_followed_too(programs: Programs, host: Source) -> None:
    values = settings(programs.folder, RECEIVER_CONFIRM="on", **asking(host))
    dead = url_of(host, "dead", Answer(status=404))
    fresh = url_of(host, "fresh", picture(1))
    host.offer(question("dead"), says("dead", dead), says("dead", fresh))
    host.offer(question("away"), Answer(status=401), says("away", fresh))
    with programs.receiver(values) as receiver:
        for job_id in ("dead", "away"):
            receiver.deliver(completion(job_id, dead, *SIZE))
        for job_id in ("dead", "away"):
            assert receiver.ended(job_id)["state"] == "archived"

        seen = assert_followed(receiver, "dead", "away")
        receiver.program.stop()

    assert {"confirmed", "url_refreshed", "attempt_failed", "archived"} <= seen
    assert_clean(receiver.program)


def test_a_question_before_a_job_expires_can_be_followed_as_well(programs: Programs, host: Source) -> None:
    with programs.receiver(settings(programs.folder, **asking(host))) as receiver:
        # Its life begins here: a URL that is dead when it comes is not believed to have had one.
        url = url_of(host, "late", Answer(status=500), life=3)
        host.offer(question("late"), Answer(status=401), says("late", url))
        receiver.deliver(completion("late", url, *SIZE))
        assert receiver.ended("late")["state"] == "expired"

        assert_followed(receiver, "late")
        assert receiver.program.events("not expired yet; the provider is asked again")
        receiver.program.stop()

    assert_clean(receiver.program)


def test_what_is_found_by_asking_can_be_followed(programs: Programs, host: Source) -> None:
    running = Answer(
        b'{"id": "silent", "status": "PROCESSING"}', headers={"Content-Type": "application/json"}
    )
    url = url_of(host, "silent", picture(1))
    host.offer(question("silent"), running, Answer(status=500), running, says("silent", url))
    often = {
        "RECEIVER_OVERDUE_AFTER": "1s",
        "RECEIVER_RECONCILE_EVERY": "1s",
        "RECEIVER_RECONCILE_RATE": "50",
    }
    with programs.receiver(settings(programs.folder, **often, **asking(host))) as receiver:
        receiver.post("/jobs", json={"id": "silent"}).raise_for_status()
        assert receiver.ended("silent")["state"] == "archived"
        receiver.deliver(completion("silent", url, *SIZE))

        seen = assert_followed(receiver, "silent")
        up = [
            line
            for line in receiver.get("/metrics").text.splitlines()
            if line.startswith(("receiver_provider_up{", "receiver_reconcile_total"))
        ]
        receiver.program.stop()

    assert seen == {"submitted", "asked", "found", "late_delivery", "fetched", "archived"}
    assert 'receiver_provider_up{provider="ximilar"} 1.0' in up
    assert 'receiver_reconcile_total{outcome="found",reason=""} 1.0' in up
    assert 'receiver_reconcile_total{outcome="late",reason=""} 1.0' in up
    assert_clean(receiver.program)


def test_a_download_in_which_the_process_was_killed_can_be_followed(programs: Programs, host: Source) -> None:
    url = url_of(host, "cut", Answer(picture(1), gate=host.gate()), picture(1))
    with programs.receiver_process(settings(programs.folder)) as receiver:
        receiver.deliver(completion("cut", url, *SIZE))
        host.until_asked("cut")
        receiver.program.kill()
    with programs.receiver(settings(programs.folder)) as again:
        job = again.ended("cut")
        again.program.until_event("archived", job="cut")

        assert [event["event"] for event in job["history"]] == ["received", "cut_off", "fetched", "archived"]
        assert told(again.program, "cut") == happened(job)[1:]
        again.program.stop()

    assert_clean(again.program)


def test_an_image_that_is_lost_from_the_spool_can_be_followed(programs: Programs, host: Source) -> None:
    place = programs.folder / "place"
    place.write_text("no folder")
    with programs.receiver(settings(programs.folder, RECEIVER_ARCHIVE=place.as_uri())) as receiver:
        receiver.program.until_event("archive refuses; uploads pause")
        receiver.deliver(completion("lost", url_of(host, "lost", picture(1)), *SIZE))
        receiver.program.until_event("fetched", job="lost")
        (spooled,) = (programs.folder / "data" / "spool").iterdir()
        spooled.unlink()
        place.unlink()
        place.mkdir()
        assert receiver.ended("lost")["state"] == "archived"

        assert "spool_lost" in assert_followed(receiver, "lost")
        receiver.program.stop()

    assert_clean(receiver.program)


def test_uvicorn_s_own_lines_have_the_same_form(receiver: Receiver) -> None:
    lines = [json.loads(line) for line in receiver.program.lines]

    assert any(line["logger"].startswith("uvicorn") for line in lines)
    assert all({"event", "level", "logger", "timestamp"} <= set(line) for line in lines)


def test_a_line_of_text_can_be_read_by_people(programs: Programs, host: Source) -> None:
    values = settings(programs.folder, RECEIVER_LOG="text")
    with ForkedProgram("receiver", ["serve"], programs.folder, values) as program:
        programs.started.append(program)
        program.until(lambda: addresses(program))
        with Receiver(program, addresses(program)[0]) as receiver:
            receiver.deliver(completion("read", url_of(host, "read", picture(1)), *SIZE))
            receiver.ended("read")
        program.stop()

    (line,) = (line for line in program.lines if " archived " in line)
    assert re.match(r"\S+T\S+Z \[info +\] archived +\[receiver\.worker\] job=read uri=file://", line), line
    assert "\x1b" not in program.log  # no colours where no terminal is
    for secret in (*SECRETS, SIGNATURE):
        assert secret not in program.log


def addresses(program: Output) -> list[str]:
    """Where a receiver that logs text says that it serves."""
    return [found[1] for line in program.lines if (found := re.search(r" serving .*address=(\S+)", line))]
