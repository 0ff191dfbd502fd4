"""A provider that has a bad day: what is worth another try gets one, and what is not is refused at once."""

import itertools
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image

from receiver.core.errors import ImageError
from receiver.core.jobs import FINAL, Job, State
from receiver.ledger import Submission
from receiver.pipeline.spool import MAX_ASIDE_FILES
from receiver.providers.ximilar.client import Ximilar
from receiver.sandbox.pictures import draw
from receiver.verify.decoder import ExpectedSize, Limits
from receiver.verify.structure import Header
from receiver.verify.verifier import Verifier
from tests.faults.matrix import Matrix, audit
from tests.faults.steps import archive_of, asking, deliver, events, once, question, says
from tests.faults.workshop import PLAN, Workshop, at_work
from tests.support.clock import HOUR, NOW, SECOND
from tests.support.gallery import gallery
from tests.support.hostile import Peer, serve
from tests.support.images import encode
from tests.support.processes import PROVIDER_TOKEN, Programs, settings
from tests.support.source import SIZE, Answer, Source, picture, sha256
from tests.support.waiting import eventually

HTML = b"<!doctype html><title>Sign in</title><h1>Sign in to continue</h1>"
LIFETIME = "40s"
"""Short, so that retries come soon: a wait is at most an eighth of what is left."""


def aside(folder: Path) -> list[Path]:
    kept = folder / "data" / "aside"
    return sorted(kept.iterdir()) if kept.is_dir() else []


def test_what_a_retry_can_mend_is_archived(programs: Programs, host: Source, matrix: Matrix) -> None:
    bad: dict[str, list[Answer | bytes]] = {
        "cut": [Answer(picture(0), sent=500)],
        "cut-in-the-image": [picture(1)[:500]],
        "broken": [Answer(status=500), Answer(status=502)],
        "empty": [b""],
        "html": [HTML],
        "corrupt": [picture(5)[:100] + bytes(40) + picture(5)[140:]],
        "flapping": [Answer(status=503), Answer(picture(6), sent=9), HTML, Answer(status=500)],
    }
    images = {name: picture(number) for number, name in enumerate(bad)}
    with programs.receiver(settings(programs.folder, RECEIVER_URL_LIFETIME=LIFETIME)) as receiver:
        for name, answers in bad.items():
            deliver(receiver, name, host.offer(name, *answers, images[name]))
        ends = {name: receiver.ended(name) for name in bad}
        held = archive_of(programs.folder)
        for name, image in images.items():
            matrix(f"then good: {name}", audit(receiver, {name: sha256(image)}, held))

    assert {name: job["state"] for name, job in ends.items()} == dict.fromkeys(bad, "archived")
    assert held == once(images)
    reasons = {
        name: [event["reason"] for event in job["history"] if event["event"] == "attempt_failed"]
        for name, job in ends.items()
    }
    assert reasons == {
        "cut": ["fetch.cut_short"],
        "cut-in-the-image": ["image.truncated"],
        "broken": ["fetch.status", "fetch.status"],
        "empty": ["fetch.empty"],
        "html": ["image.unknown_format"],
        "corrupt": ["image.corrupt"],
        "flapping": ["fetch.status", "fetch.cut_short", "image.unknown_format", "fetch.status"],
    }
    assert {name: host.asked(name) for name in bad} == {name: len(r) + 1 for name, r in reasons.items()}


def test_whatever_a_host_answers_for_a_while_the_image_is_archived_in_the_end(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    """With the settings as they are, so that three times the same within seconds rejects nothing."""
    host.offer("maintenance", HTML)
    blank = Image.linear_gradient("L").resize(SIZE)
    for_a_while: dict[str, Answer | bytes] = {
        "maintenance": Answer(status=302, headers={"Location": "/maintenance"}),
        "forbidden": Answer(status=302, headers={"Location": "http://169.254.169.254/sorry"}),
        "userinfo": Answer(status=307, headers={"Location": "https://user@example.com/"}),
        "malformed": Answer(status=302, headers={"Location": "/a\\b"}),
        "round": Answer(status=302, headers={"Location": "/round"}),
        "placeholder": draw(1, (1, 1), "png"),
        "animated": encode(blank, "PNG", save_all=True, append_images=[blank.rotate(90)]),
        "script": picture(1) + b"<script>alert(1)</script>",
        "a-byte-too-many": picture(1) + b"x",
        "large": Answer(bytes(2_000_000)),
        "encoded": Answer(b"?", headers={"Content-Encoding": "zstd"}),
    }
    times = {"maintenance": 4, "placeholder": 4, "round": 8}  # of "round" each attempt follows three
    images = {name: picture(number) for number, name in enumerate(for_a_while)}
    values = settings(programs.folder, RECEIVER_URL_LIFETIME=LIFETIME, RECEIVER_MAX_IMAGE_BYTES="1MB")
    del values["RECEIVER_REJECT_AFTER"]
    with programs.receiver(values) as receiver:
        for name, answer in for_a_while.items():
            where = f"at-{name}" if name == "maintenance" else name
            deliver(receiver, name, host.offer(where, *[answer] * times.get(name, 1), images[name]))
        eventually(lambda: receiver.get("/stats").json()["refused"] > 0)
        ends = {name: receiver.ended(name) for name in for_a_while}
        held = archive_of(programs.folder)
        for name, image in images.items():
            matrix(f"for a while: {name}", audit(receiver, {name: sha256(image)}, held))
        assert receiver.get("/stats").json()["refused"] == 0

    assert {name: job["state"] for name, job in ends.items()} == dict.fromkeys(for_a_while, "archived")
    assert held == once(images)
    reasons = {
        name: {event["reason"] for event in job["history"] if event["event"] == "attempt_failed"}
        for name, job in ends.items()
    }
    assert reasons == {
        "maintenance": {"image.unknown_format"},
        "forbidden": {"url.scheme"},
        "userinfo": {"url.userinfo"},
        "malformed": {"url.malformed"},
        "round": {"url.redirects"},
        "placeholder": {"image.wrong_size"},
        "animated": {"image.animated"},
        "script": {"image.trailing_data"},
        "a-byte-too-many": {"image.trailing_data"},
        "large": {"fetch.too_large"},
        "encoded": {"fetch.encoded"},
    }


@pytest.mark.parametrize("stays", [True, False], ids=["it stays", "the image comes"])
async def test_what_a_host_answers_is_counted_over_a_restart_and_rejected_after_five_minutes(
    tmp_path: Path,
    stays: bool,  # noqa: FBT001 - a parameter
) -> None:
    async def attempt(shop: Workshop, number: int, seconds: int) -> Job:
        shop.pass_(seconds * SECOND)
        await shop.ledger.expect(Submission(f"rings-{number}"))  # a commit wakes the worker at once
        return await shop.until(
            "job", lambda job: (job.attempts == number and job.next_attempt_at) or job.state in FINAL
        )

    with gallery() as images:
        images.never["job"] = "page"
        async with at_work(tmp_path, images) as shop:
            await shop.deliver("job", 24 * HOUR)
            for number, seconds in enumerate((0, 60, 60, 60), 1):
                job = await attempt(shop, number, seconds)
            assert (job.state, job.suspects, job.suspect_since) == (State.RECEIVED, 4, NOW)
        async with at_work(tmp_path, images) as shop:  # its clock begins anew
            job = await attempt(shop, 5, 235)
            assert (job.state, job.suspects, job.suspect_since) == (State.RECEIVED, 5, NOW)
            if not stays:
                del images.never["job"]
            await attempt(shop, 6, 65)
            end = await shop.ended("job")
    assert end.state is (State.REJECTED if stays else State.ARCHIVED)
    assert len(images.asked) == 6


def test_the_same_bad_bytes_again_and_again_are_rejected_and_kept_aside(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    bad = {"html": HTML, "half": picture(1)[:500]}
    with programs.receiver(settings(programs.folder, RECEIVER_URL_LIFETIME=LIFETIME)) as receiver:
        for name, body in bad.items():
            deliver(receiver, name, host.offer(name, body))
        ends = {name: receiver.ended(name) for name in bad}
        held = archive_of(programs.folder)
        matrix("the same bad bytes again and again", audit(receiver, dict.fromkeys(bad), held))
        assert receiver.program.stop()[0] == 0

    assert {name: (job["state"], job["error"]["reason"]) for name, job in ends.items()} == {
        "html": ("rejected", "image.unknown_format"),
        "half": ("rejected", "image.truncated"),
    }
    assert {name: host.asked(name) for name in bad} == {"html": 3, "half": 3}
    assert held == {}
    assert {path.name.partition(".")[0]: path.read_bytes() for path in aside(programs.folder)} == bad
    assert not list((programs.folder / "data" / "spool").iterdir())


def test_another_image_s_dimensions_and_an_endless_body_are_rejected_when_they_stay(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    other = draw(1, (SIZE[0] // 2, SIZE[1] // 2), "png")
    urls = {
        "wrong-size": host.offer("wrong-size", other),
        "endless": host.offer("endless", Answer(picture(1) * 100, endless=True)),
        "declared": host.offer("declared", Answer(bytes(2_000_000))),
    }
    with programs.receiver(settings(programs.folder, RECEIVER_MAX_IMAGE_BYTES="1MB")) as receiver:
        for name, url in urls.items():
            deliver(receiver, name, url)
        ends = {name: receiver.ended(name) for name in urls}
        held = archive_of(programs.folder)
        matrix("another image, an endless body", audit(receiver, dict.fromkeys(urls), held))
        assert receiver.program.stop()[0] == 0

    assert {name: (job["state"], job["error"]["reason"]) for name, job in ends.items()} == {
        "wrong-size": ("rejected", "image.wrong_size"),
        "endless": ("rejected", "fetch.too_large"),
        "declared": ("rejected", "fetch.too_large"),
    }
    assert {name: host.asked(name) for name in urls} == dict.fromkeys(urls, 3)
    assert held == {}
    assert [path.read_bytes() for path in aside(programs.folder)] == [other]
    assert not list((programs.folder / "data" / "spool").iterdir())


def test_bad_bytes_aside_are_capped_and_the_newest_stay(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    other = draw(1, (SIZE[0] // 2, SIZE[1] // 2), "png")
    url = host.offer("other", other)
    names = [f"job-{number}" for number in range(MAX_ASIDE_FILES + 5)]
    with programs.receiver(settings(programs.folder, RECEIVER_FETCHES="1")) as receiver:
        states = []
        for some in (names[:4], names[4:-1], names[-1:]):
            for name in some:
                deliver(receiver, name, url)
            states += [receiver.ended(name)["state"] for name in some]
        matrix("more bad bytes than are kept", audit(receiver, dict.fromkeys(names), {}))

    assert states == ["rejected"] * len(names)
    kept = {path.name.partition(".")[0] for path in aside(programs.folder)}
    assert len(kept) == MAX_ASIDE_FILES
    assert names[-1] in kept
    assert names[0] not in kept


def test_a_forged_completion_of_an_unknown_job_is_refused_without_a_look_at_its_url(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    forged = host.offer("forged", picture(1))
    values = settings(programs.folder, RECEIVER_CONFIRM="on", **asking(host))
    with programs.receiver(values) as receiver:
        deliver(receiver, "nobodys", forged)
        job = receiver.ended("nobodys")
        matrix("a forged completion", audit(receiver, {"nobodys": None}, {}))

    assert (job["state"], job["error"]["reason"]) == ("rejected", "provider.unknown_job")
    assert [seen.name for seen in host.seen] == ["api/request/nobodys"]


def test_a_delivery_that_says_that_a_job_failed_is_only_a_hint_as_well(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    image = picture(1)
    host.offer(question("running"), says("running", host.offer("image", image)))
    failed = {"id": "failed", "status": "FAILED"}
    host.offer(question("failed"), Answer(json.dumps(failed).encode()))
    values = settings(programs.folder, RECEIVER_CONFIRM="on", **asking(host))
    with programs.receiver(values) as receiver:
        for name in ("nobodys", "running", "failed"):
            assert receiver.deliver({"id": name, "status": "FAILED"}).json()["state"] == "received"
        ends = {name: receiver.ended(name) for name in ("nobodys", "running", "failed")}
        held = archive_of(programs.folder)
        sums = {"nobodys": None, "running": sha256(image), "failed": None}
        matrix("forged and true failures, confirmed", audit(receiver, sums, held))

    assert {name: (job["state"], (job["error"] or {}).get("reason")) for name, job in ends.items()} == {
        "nobodys": ("rejected", "provider.unknown_job"),
        "running": ("archived", None),
        "failed": ("rejected", "provider.job_failed"),
    }


def test_where_the_provider_confirms_its_url_is_used_and_not_the_posted_one(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    image = picture(1)
    posted = host.offer("posted", picture(2))
    asked = question("job")
    host.offer(asked, says("job", host.offer("confirmed", image)))
    values = settings(programs.folder, RECEIVER_CONFIRM="on", **asking(host))
    with programs.receiver(values) as receiver:
        deliver(receiver, "job", posted)
        job = receiver.ended("job")
        held = archive_of(programs.folder)
        matrix("a completion that names another URL", audit(receiver, {"job": sha256(image)}, held))

    assert (job["state"], job["image_url"]) == ("archived", f"{host.url}/confirmed")
    assert [seen.name for seen in host.seen] == [asked, "confirmed"]
    assert "confirmed" in events(job)
    assert held == {"job": [sha256(image)]}


def test_a_provider_that_is_away_is_asked_again_before_anything_is_fetched(
    programs: Programs, host: Source, matrix: Matrix
) -> None:
    image = picture(1)
    url = host.offer("image", image)
    asked = question("job")
    host.offer(asked, Answer(status=502, body=b"<html>Bad gateway</html>"), says("job", url))
    values = settings(programs.folder, RECEIVER_CONFIRM="on", **asking(host))
    with programs.receiver(values) as receiver:
        deliver(receiver, "job", url)
        job = receiver.ended("job")
        held = archive_of(programs.folder)
        matrix("a provider that does not confirm at first", audit(receiver, {"job": sha256(image)}, held))

    assert job["state"] == "archived"
    assert [seen.name for seen in host.seen] == [asked, asked, "image"]


async def test_a_provider_whose_answer_never_ends_holds_nothing_up(tmp_path: Path) -> None:
    async def drips(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        await peer.drip(itertools.repeat(b" "))

    plan = replace(PLAN, confirm=True, asking=timedelta(milliseconds=300))
    with gallery() as images:
        async with (
            serve(drips) as api,
            Ximilar(api.url, PROVIDER_TOKEN) as provider,
            at_work(tmp_path, images, plan=plan, provider=provider) as shop,
        ):
            await shop.deliver("asked", HOUR)
            job = await shop.waiting("asked")
    assert job.problem is not None
    assert job.problem.reason == "provider.unavailable"


class Strained(Verifier):
    """A verifier on a machine that has no memory for the first so many images."""

    def __init__(self, times: int) -> None:
        super().__init__(Limits(max_pixels=1 << 20))
        self._left = times

    async def verify(self, path: Path, promise: ExpectedSize) -> Header:
        if self._left > 0:
            self._left -= 1
            raise ImageError("image.undecodable", "The image ends the process that decodes it.")
        return await super().verify(path, promise)


@pytest.mark.parametrize(("times", "end"), [(9, State.ARCHIVED), (10, State.REJECTED)])
async def test_a_machine_that_is_short_of_memory_for_a_while_costs_no_image(
    tmp_path: Path, times: int, end: State
) -> None:
    with gallery() as images:
        async with at_work(tmp_path, images, verifier=Strained(times)) as shop:
            await shop.deliver("job", 24 * HOUR)
            for attempt in range(1, 12):
                job = await shop.until("job", lambda job: job.next_attempt_at or job.state in FINAL)
                if job.state in FINAL:
                    break
                assert (job.attempts, job.problem and job.problem.reason) == (attempt, "image.undecodable")
                shop.pass_(HOUR // 2)
                await shop.ledger.expect(Submission(f"rings-{attempt}"))  # a commit wakes the worker at once
                await shop.until("job", lambda job: job.attempts > attempt or job.state in FINAL)  # noqa: B023 - awaited at once
            assert job.state is end
