"""Bursts and backlogs: each delivery is answered, each 200 is kept, and memory and answers stay bounded.

By default the sizes are small; ``RECEIVER_TEST_FULL_SIZE=1`` makes them 10,000 deliveries and 100,000 jobs.
"""

import asyncio
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver.core.clock import wall_clock
from receiver.ledger import FILE_NAME, Delivery, Ledger
from receiver.pipeline.fetch_stage import FetchPlan
from receiver.pipeline.worker import COMMIT_PAUSE_SECONDS, LOOKS_AT_ONCE
from tests.faults.matrix import Matrix, Tally, audit, in_folder
from tests.faults.workshop import at_work
from tests.support.gallery import Gallery, gallery
from tests.support.load import Answers, deliver
from tests.support.processes import Programs, Receiver, ReceiverProcess, completion, settings
from tests.support.providers import completion_of
from tests.support.waiting import eventually

FULL_SIZE = bool(os.environ.get("RECEIVER_TEST_FULL_SIZE"))
DELIVERIES = 10_000 if FULL_SIZE else 1_500
BACKLOG = 100_000 if FULL_SIZE else 10_000
CONNECTIONS = 128
FETCHES = 16
SENDERS = 8
"""Connections that deliver while the backlog drains."""
DRAINED = 1_000
"""So many of the backlog are waited for."""
DRAIN = 300 if FULL_SIZE else 60
"""Seconds for what waits to drain."""
SECOND, HOUR = 1_000, 3_600_000
MIB = 1 << 20

NOT_ALLOWED = "http://192.0.2.1/picture.png"
"""Plain http to a host that is not in RECEIVER_IMAGE_NETWORKS (RFC 5737): refused without a request."""


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


def resident(receiver: ReceiverProcess, figure: str = "VmRSS") -> int:
    """Bytes of the receiver's memory; ``VmHWM``: the most that it ever had."""
    lines = Path(f"/proc/{receiver.program.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(figure)) * 1024


def known(receiver: Receiver, **wanted: str) -> set[str]:
    """The ids of all jobs, or of those with this state, page by page."""
    found: set[str] = set()
    parameters = {"limit": "1000", **wanted}
    while True:
        page = receiver.get("/jobs", params=parameters).raise_for_status().json()
        found |= {job["id"] for job in page["jobs"]}
        if page["next"] is None:
            return found
        parameters["cursor"] = page["next"]


def states(receiver: Receiver) -> dict[str, int]:
    found: dict[str, int] = receiver.get("/stats").raise_for_status().json()["states"]
    return found


def refused_jobs(name: str, count: int) -> dict[str, dict[str, Any]]:
    """Deliveries whose image may not be fetched: what they cost is the ledger's work."""
    return {f"{name}-{n}": completion(f"{name}-{n}", NOT_ALLOWED, 2, 2) for n in range(count)}


def idle(receiver: Receiver, name: str = "idle") -> Answers:
    """How the receiver answers one sender who has it to himself."""
    return asyncio.run(deliver(receiver.port, refused_jobs(name, 100), 1))


def test_in_a_burst_each_delivery_is_answered_and_each_200_is_in_the_ledger(
    programs: Programs, images: Gallery, matrix: Matrix
) -> None:
    pictured = [f"burst-{number}" for number in range(0, DELIVERIES, 25)]
    jobs = refused_jobs("burst", DELIVERIES)
    jobs |= {job_id: images.completion(job_id) for job_id in pictured}
    with programs.receiver_process(settings(programs.folder)) as receiver:
        alone = idle(receiver)
        before = resident(receiver)

        answers = asyncio.run(deliver(receiver.port, jobs, CONNECTIONS))

        assert answers.unanswered == []
        assert set(answers.statuses) <= {200, 503}
        assert set(answers.acknowledged) <= known(receiver)
        most = resident(receiver, "VmHWM")

        eventually(lambda: not states(receiver)["received"] and not states(receiver)["fetched"], DRAIN)
        p99 = max(alone.p99, idle(receiver, "after").p99)  # the machine may have become busy meanwhile
        said = (
            f"{len(jobs)} deliveries: p99 {answers.p99:.1f} ms, alone {p99:.1f} ms;"
            f" memory {before / MIB:.0f} to {most / MIB:.0f} MiB"
        )
        print(said)
        # Served one by one, each would wait for all those before it on the other connections.
        assert answers.p99 < CONNECTIONS * p99, said
        assert most - before < 96 * MIB, said

        whole = sorted(set(answers.acknowledged) & set(pictured))
        others = set(answers.acknowledged) - set(whole)
        tally = audit(receiver, images.images(whole), in_folder(programs.folder / "data" / "archive"))
        tally += Tally(
            acknowledged=len(others),
            refused=len(others & known(receiver, state="rejected")),
            lost=len(others - known(receiver)),
        )
        matrix(f"a burst over {CONNECTIONS} connections", tally)
        assert tally.kept()
        assert tally.acknowledged == tally.archived + tally.refused
        assert "Traceback" not in receiver.program.log


def empty(programs: Programs) -> tuple[float, float, int]:
    """What a receiver with nothing to do takes: s to start, ms for its answers' p99, and bytes of memory."""
    began = time.monotonic()
    with programs.receiver_process(settings(programs.folder / f"empty-{began}")) as receiver:
        return time.monotonic() - began, idle(receiver).p99, resident(receiver, "VmHWM")


async def fill(data: Path, deadlines: Iterable[tuple[str, int]]) -> None:
    """Records a completion for each id and deadline, through the ledger's own door."""
    ledger = await Ledger.serve(data)
    try:
        waiting = []
        for job_id, deadline in deadlines:
            body = json.dumps(completion(job_id, NOT_ALLOWED, 2, 2)).encode()
            waiting.append(ledger.record(Delivery(completion_of(body), body, deadline)))
            if len(waiting) == 2_000:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)
    finally:
        await ledger.close()


def test_a_backlog_neither_slows_the_start_nor_the_answers_and_the_earliest_deadline_goes_first(
    programs: Programs,
) -> None:
    # The later a job came, the earlier its deadline: the order of arrival would be the very opposite.
    deadlines = {f"waiting-{n}": wall_clock() + HOUR + (BACKLOG - n) * SECOND for n in range(BACKLOG)}
    before = empty(programs)
    data = programs.folder / "data"
    data.mkdir()
    asyncio.run(fill(data, deadlines.items()))

    shutil.copytree(data, programs.folder / "copy" / "data")
    began = time.monotonic()
    with programs.receiver_process(settings(programs.folder / "copy")):
        start = time.monotonic() - began
    began = time.monotonic()
    with programs.receiver_process(settings(programs.folder, RECEIVER_FETCHES=str(FETCHES))) as receiver:
        start = min(start, time.monotonic() - began)  # a slow one is slow both times
        receiver.program.until_event("rejected")
        answers = asyncio.run(deliver(receiver.port, refused_jobs("meanwhile", 300), SENDERS))
        waiting = states(receiver)["received"]
        large = resident(receiver, "VmHWM")
        assert answers.statuses == {200: 300}
        assert waiting > 0  # the answers were given while the backlog drained

        eventually(lambda: states(receiver)["rejected"] >= DRAINED, DRAIN)
        assert receiver.program.stop()[0] == 0
        done = [line["job"] for line in receiver.program.events("rejected") if line["job"] in deadlines]

    after = empty(programs)  # the machine may have become busy meanwhile
    quick, p99, small = max(before[0], after[0]), max(before[1], after[1]), before[2]
    said = (
        f"{BACKLOG} waiting: start {start:.2f} s, empty {quick:.2f} s;"
        f" p99 {answers.p99:.1f} ms, alone {p99:.1f} ms;"
        f" memory {large / MIB:.0f} MiB, empty {small / MIB:.0f} MiB; {waiting} still wait"
    )
    print(said)
    assert start < 5 * quick, said
    # Beside each sender's own answer, one hop of each fetch's two commits may stand before it.
    assert answers.p99 < (SENDERS + 2 * FETCHES) * p99, said
    assert large - small < 128 * MIB, said

    # So many hands can be busy with earlier ones; nothing else overtakes them.
    rank = {job_id: number for number, job_id in enumerate(sorted(deadlines, key=deadlines.__getitem__))}
    assert len(done) > DRAINED // 2
    assert [(at, job_id) for at, job_id in enumerate(done) if rank[job_id] > at + FETCHES] == []

    with sqlite3.connect(f"file:{data / FILE_NAME}?mode=ro", uri=True) as ledger:
        (kept,) = ledger.execute("SELECT count(*) FROM jobs WHERE id LIKE 'waiting-%'").fetchone()
        (refused,) = ledger.execute(
            "SELECT count(*) FROM jobs WHERE id LIKE 'waiting-%' AND state = 'rejected'"
        ).fetchone()
    ledger.close()
    assert (kept, refused) == (BACKLOG, len(done))


async def test_a_burst_for_a_host_that_has_its_share_makes_nobody_look_at_each_commit(tmp_path: Path) -> None:
    """Each look is a read of what the spool holds and a claim. Some more reads are of the clock's loop."""
    with gallery() as images:
        images.gate = threading.Event()
        async with at_work(tmp_path, images, plan=FetchPlan(16, timedelta(minutes=10))) as shop:
            began, reads = time.monotonic(), shop.ledger.reads
            for number in range(400):
                await shop.deliver(f"job-{number}", 24 * HOUR)
            looks = shop.ledger.reads - reads
            pauses = (time.monotonic() - began) / COMMIT_PAUSE_SECONDS
            images.gate.set()
    assert looks <= 10 + LOOKS_AT_ONCE + 2 * pauses
