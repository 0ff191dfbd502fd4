"""The image URL's life decides: when is tried again, who goes first, and when it is over."""

import json
import threading
import time
from pathlib import Path

from receiver.core.jobs import FINAL, State
from receiver.ledger import Delivery, Submission
from tests.faults.matrix import Matrix, Tally, audit
from tests.faults.steps import archive_of, asking, at, deliver, events, once, question, says, sums
from tests.faults.workshop import at_work
from tests.support.clock import SECOND
from tests.support.gallery import gallery
from tests.support.processes import PROVIDER_TOKEN, Programs, completion, settings
from tests.support.providers import completion_of
from tests.support.source import SIZE, Answer, Source, picture, sha256, signed
from tests.support.waiting import eventually

HOUR = 3600.0
LONG_WAIT = {"Retry-After": "86400"}

HELD = {"RECEIVER_LEAST_RATE": "1"}
"""A download behind a gate is not given up, however long the test takes."""

FIRST_CEILING = 4.0
"""Seconds: the longest wait after a first failure for which the host asks none."""


# When it is tried again -----------------------------------------------------------------------------------


def test_the_wait_that_a_host_asks_for_is_honoured_as_far_as_half_of_the_time_left(
    programs: Programs, host: Source
) -> None:
    urls = {
        "short": host.offer("short", Answer(status=503, headers={"Retry-After": "60"})),
        "long": host.offer("long", Answer(status=429, headers=LONG_WAIT)),
        "none": host.offer("none", Answer(status=500)),
    }
    with programs.receiver(settings(programs.folder, RECEIVER_URL_LIFETIME="1h")) as receiver:
        for job_id, url in urls.items():
            deliver(receiver, job_id, url)
        jobs = {job_id: receiver.attempted(job_id) for job_id in urls}

    # The receiver chose between the request that the host saw and the failure that it recorded.
    asked = {job_id: host.times(job_id)[0] for job_id in urls}
    failed = {job_id: at(job["error"]["at"]) for job_id, job in jobs.items()}
    again = {job_id: at(job["next_attempt_at"]) for job_id, job in jobs.items()}
    end = at(jobs["long"]["url_expires_at"])
    # The ledger's times are whole milliseconds, so the host's can be a part of one later.
    assert asked["short"] + 60 <= again["short"] + 0.001 <= failed["short"] + 60.002
    assert (asked["long"] + end) / 2 <= again["long"] + 0.001 <= (failed["long"] + end) / 2 + 0.002
    assert asked["none"] + 1 <= again["none"] + 0.001 <= failed["none"] + FIRST_CEILING + 0.002


async def test_attempts_become_denser_towards_the_deadline_and_end_with_it(
    tmp_path: Path, host: Source, matrix: Matrix
) -> None:
    body = json.dumps(completion("busy", host.offer("busy", Answer(status=503, headers=LONG_WAIT)), *SIZE))
    tried: list[int] = []
    with gallery() as images:
        async with at_work(tmp_path, images) as shop:
            start = shop.wall.now
            end = start + 8 * SECOND
            await shop.ledger.record(Delivery(completion_of(body.encode()), body.encode(), end))
            while True:
                job = await shop.until(
                    "busy",
                    lambda job: job.state in FINAL or (job.attempts > len(tried) and job.next_attempt_at),
                )
                if job.state in FINAL or job.next_attempt_at is None:
                    break
                tried.append(shop.wall.now - start)
                shop.pass_(job.next_attempt_at - shop.wall.now)
                await shop.ledger.expect(
                    Submission(f"rings-{len(tried)}")
                )  # a commit wakes the worker at once
            ended = shop.wall.now
    expired = job.state is State.EXPIRED
    tally = Tally(acknowledged=1, refused=expired, human=job.state not in FINAL)
    matrix("a host that answers 503 to the end", tally)

    assert (job.state, job.problem and job.problem.reason) == (State.EXPIRED, "fetch.expired")
    # Although the host asks for a day: that is honoured as far as half of what was left.
    assert tried == [0, 4 * SECOND, 6 * SECOND, 7 * SECOND]
    assert host.asked("busy") == len(tried)
    assert ended >= end


def test_a_job_expires_when_its_time_is_over_without_another_attempt(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    url = host.offer("short", Answer(status=500))
    with programs.receiver(settings(programs.folder, RECEIVER_URL_LIFETIME="1s")) as receiver:
        deliver(receiver, "short", url)
        waiting = receiver.attempted("short")
        job = receiver.ended("short")
        matrix("a URL that ends before the next attempt", audit(receiver, {"short": None}, {}))

    if waiting["state"] == "received":  # else the end came before our question
        assert at(waiting["next_attempt_at"]) > at(waiting["url_expires_at"])
    assert (job["state"], job["error"]["reason"]) == ("expired", "fetch.expired")
    assert events(job) == ["received", "attempt_failed", "expired"]
    assert host.asked("short") == 1


def test_a_download_that_is_under_way_when_the_url_ends_is_brought_to_its_end(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    image = picture(1)
    gate = host.gate()
    url = host.offer("slow", Answer(image, gate=gate), Answer(status=403))
    with programs.receiver(settings(programs.folder, RECEIVER_URL_LIFETIME="1s")) as receiver:
        deliver(receiver, "slow", url)
        host.until_asked("slow")
        end = at(receiver.job("slow")["url_expires_at"])
        eventually(lambda: time.time() > end + 1)
        assert receiver.job("slow")["state"] == "received"
        gate.set()
        job = receiver.ended("slow")
        held = archive_of(programs.folder)
        matrix("a URL that ends during its download", audit(receiver, {"slow": sha256(image)}, held))

    assert job["state"] == "archived"
    assert host.asked("slow") == 1


# Asking the provider --------------------------------------------------------------------------------------


def test_a_dead_url_is_replaced_by_the_provider_s_fresh_one(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    now = time.time()
    statuses = {"403": 403, "404": 404, "410": 410, "403-and-over": 403}
    images = {name: picture(number) for number, name in enumerate(statuses)}
    with programs.receiver(settings(programs.folder, **asking(host))) as receiver:
        for name, status in statuses.items():
            since = now - (24 * HOUR if name == "403-and-over" else 0)
            dead = signed(host.offer(name, Answer(status=status)), since=since, seconds=3600)
            host.offer(question(name), says(name, host.offer(f"{name}-fresh", images[name])))
            deliver(receiver, name, dead)
        ends = {name: receiver.ended(name) for name in statuses}
        held = archive_of(programs.folder)
        matrix("403, 404, 410 at the image, a fresh URL", audit(receiver, sums(images), held))

    for name, job in ends.items():
        assert (job["state"], job["image_url"]) == ("archived", f"{host.url}/{name}-fresh")
        assert events(job) == ["received", "url_refreshed", "fetched", "archived"]
        assert [host.asked(each) for each in (name, question(name), f"{name}-fresh")] == [1, 1, 1]
    assert held == once(images)


def test_without_a_provider_s_token_a_dead_url_expires_with_its_reason(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    dead = {str(status): host.offer(str(status), Answer(status=status)) for status in (403, 404, 410)}
    with programs.receiver(settings(programs.folder, RECEIVER_URL_LIFETIME="2s")) as receiver:
        for job_id, url in dead.items():
            deliver(receiver, job_id, url)
        ends = {job_id: receiver.ended(job_id) for job_id in dead}
        matrix("403, 404, 410 at the image, no token", audit(receiver, dict.fromkeys(dead), {}))

    for job_id, job in ends.items():
        assert (job["state"], job["error"]["reason"]) == ("expired", "fetch.expired")
        failed = next(event for event in job["history"] if event["event"] == "attempt_failed")
        assert failed["reason"] == "fetch.gone"
        assert job_id in failed["detail"]


def test_before_a_job_expires_the_provider_is_asked_once_more(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    image = picture(1)
    saved = host.offer("saved", Answer(status=500))
    fresh = signed(host.offer("fresh", image), since=time.time(), seconds=600)
    lost = host.offer("lost", Answer(status=500))
    questions = {job_id: question(job_id) for job_id in ("saved", "lost")}
    host.offer(questions["saved"], says("saved", fresh))
    host.offer(questions["lost"], says("lost", lost))
    values = settings(programs.folder, RECEIVER_URL_LIFETIME="1s", **asking(host))
    with programs.receiver(values) as receiver:
        deliver(receiver, "saved", saved)
        deliver(receiver, "lost", lost)
        ends = {job_id: receiver.ended(job_id) for job_id in questions}
        held = archive_of(programs.folder)
        images = {"saved": sha256(image), "lost": None}
        matrix("a URL's end, the provider asked", audit(receiver, images, held))

    assert ends["saved"]["state"] == "archived"
    assert (ends["lost"]["state"], ends["lost"]["error"]["reason"]) == ("expired", "fetch.expired")
    assert {name: host.asked(name) for name in questions.values()} == dict.fromkeys(questions.values(), 1)
    for job_id, job in ends.items():  # not before its time was over
        received = at(job["received_at"])
        assert host.times(questions[job_id])[0] >= received + 1


def test_a_provider_that_is_away_when_a_url_ends_is_asked_on(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    image = picture(1)
    dead = host.offer("dead", Answer(status=500))
    fresh = signed(host.offer("fresh", image), since=time.time(), seconds=600)
    host.offer(question("saved"), Answer(status=502), Answer(status=502), says("saved", fresh))
    with programs.receiver(settings(programs.folder, RECEIVER_URL_LIFETIME="1s", **asking(host))) as receiver:
        deliver(receiver, "saved", dead)
        job = receiver.ended("saved")
        held = archive_of(programs.folder)
        matrix("a URL's end, the provider away", audit(receiver, {"saved": sha256(image)}, held))
    assert job["state"] == "archived"
    assert host.asked(question("saved")) == 3


def test_the_url_of_a_delivery_that_was_stale_from_the_start_is_renewed(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    original = {"_url": host.offer("original", picture(1))}
    with programs.sandbox() as box:
        api = {"XIMILAR_API_TOKEN": PROVIDER_TOKEN, "XIMILAR_API_URL": str(box.base_url).rstrip("/")}
        with programs.receiver(settings(programs.folder, **api)) as receiver:
            stale = box.submit(original, receiver.webhook, "stale", "early")
            job = receiver.ended(stale)
            served = box.get(box.record(stale)["_upscaled_image_url"], headers={}).content
            held = archive_of(programs.folder)
            matrix("a stale URL from the sandbox", audit(receiver, {stale: sha256(served)}, held))

    assert job["state"] == "archived"
    assert events(job) == ["received", "url_refreshed", "fetched", "archived"]
    assert held == {stale: [sha256(served)]}


# Who goes first -------------------------------------------------------------------------------------------


def test_the_earliest_deadline_is_fetched_first_also_of_those_that_failed_before(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    now = time.time()
    hours = [5, 2, 7, 1, 6, 3, 4]
    images = {"failed-before": picture(0), "held": picture(8)}
    images |= {f"in-{number}-hours": picture(number) for number in hours}
    gate = host.gate()
    with programs.receiver(settings(programs.folder, RECEIVER_FETCHES="1", **HELD)) as receiver:
        busy = Answer(status=503, headers={"Retry-After": "600"})
        url = host.offer("failed-before", busy, images["failed-before"])
        deliver(receiver, "failed-before", signed(url, since=now, seconds=1800))
        receiver.attempted("failed-before")
        deliver(receiver, "held", host.offer("held", Answer(images["held"], gate=gate)))
        host.until_asked("held")
        for number in hours:
            name = f"in-{number}-hours"
            url = signed(host.offer(name, images[name]), since=now, seconds=number * 3600)
            deliver(receiver, name, url)
        receiver.post("/jobs/failed-before/retry").raise_for_status()
        gate.set()
        ends = {job_id: receiver.ended(job_id) for job_id in images}
        held = archive_of(programs.folder)
        matrix("a queue with other deadlines than its order", audit(receiver, sums(images), held))

    assert {job["state"] for job in ends.values()} == {"archived"}
    order = [seen.name for seen in host.seen]
    sorted_out = ["failed-before", *(f"in-{number}-hours" for number in sorted(hours))]
    assert order == ["failed-before", "held", *sorted_out]


def test_failing_jobs_with_earlier_deadlines_do_not_keep_fresh_ones_waiting(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    now = time.time()
    gate = host.gate()
    failing = {f"failing-{number}": picture(number) for number in range(12)}
    fresh = {f"fresh-{number}": picture(100 + number) for number in range(5)}
    with programs.receiver(settings(programs.folder, RECEIVER_FETCHES="4", **HELD)) as receiver:
        for job_id, image in failing.items():
            # Each fails at first; then it comes, but not before the gate opens.
            url = host.offer(job_id, Answer(status=503), Answer(image, gate=gate))
            deliver(receiver, job_id, signed(url, since=now, seconds=3600))
        host.until(lambda: stalled(host, failing) >= 3)
        for job_id, image in fresh.items():
            deliver(receiver, job_id, signed(host.offer(job_id, image), since=now, seconds=7200))
        early = [receiver.ended(job_id)["state"] for job_id in fresh]
        hands = stalled(host, failing)
        opened = not gate.is_set()
        gate.set()
        late = [receiver.ended(job_id)["state"] for job_id in failing]
        held = archive_of(programs.folder)
        matrix("failing jobs before fresh ones", audit(receiver, sums(failing | fresh), held))

    assert early == ["archived"] * len(fresh)
    assert opened
    assert hands == 3, "one hand of the four is for those that were never tried"
    assert late == ["archived"] * len(failing)


def stalled(host: Source, jobs: dict[str, bytes]) -> int:
    """How many of the jobs were tried again, and wait at the gate."""
    return sum(host.asked(job_id) >= 2 for job_id in jobs)


def test_jobs_at_risk_are_counted_and_told_of_once(programs: Programs, host: Source, matrix: Matrix) -> None:
    images = {"first": picture(1), "second": picture(2), "healthy": picture(3)}
    gate = host.gate()
    urls = {job_id: host.offer(job_id, Answer(image, gate=gate)) for job_id, image in images.items()}
    told = "at risk: little of the image URL's life is left"
    with programs.receiver(settings(programs.folder)) as receiver:
        assert receiver.get("/stats").json()["at_risk"] == 0
        deliver(receiver, "healthy", urls["healthy"])
        deliver(receiver, "first", signed(urls["first"], since=time.time(), seconds=2))
        receiver.program.until_event(told, job="first")
        deliver(receiver, "second", signed(urls["second"], since=time.time(), seconds=2))
        receiver.program.until_event(told, job="second")  # in a later round, which sees the first as well
        assert receiver.get("/stats").json()["at_risk"] == 2
        assert sorted(line["job"] for line in receiver.program.events(told)) == ["first", "second"]
        gate.set()
        ends = {job_id: receiver.ended(job_id) for job_id in images}
        assert receiver.get("/stats").json()["at_risk"] == 0
        held = archive_of(programs.folder)
        matrix("jobs at risk", audit(receiver, sums(images), held))

    assert {job["state"] for job in ends.values()} == {"archived"}
    marks = {
        job_id: [event["event"] for event in job["history"]].count("at_risk") for job_id, job in ends.items()
    }
    assert marks == {"first": 1, "second": 1, "healthy": 0}


async def test_an_image_that_comes_whole_after_its_claim_and_its_urls_life_have_ended_is_kept(
    tmp_path: Path,
) -> None:
    """Such as after a disk, or a crowd of images before it, held it up for longer than its lease."""
    with gallery() as images:
        images.gate = threading.Event()
        async with at_work(tmp_path, images) as shop:
            await shop.deliver("late", 30 * 60 * SECOND)
            await shop.until("late", lambda _: images.asked)
            shop.pass_(60 * 60 * SECOND)
            assert (await shop.ended("late")).state is State.EXPIRED

            images.gate.set()
            await shop.until("late", lambda job: job.state is State.ARCHIVED)
            assert images.asked == ["late"]
            assert (await shop.tally("late")).kept()
