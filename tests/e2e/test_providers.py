"""Each further provider from its stand-in into an S3 store over TLS, with real sockets and processes."""

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from tests.faults.matrix import in_bucket
from tests.support.processes import Programs, Receiver
from tests.support.seaweed import Seaweed, seaweed
from tests.support.upscalers import DESCRIBED, EVERY, Upscaler, number_of_jobs, states
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


def archive(programs: Programs, store: Seaweed) -> dict[str, str]:
    """Settings that archive into a prefix of this test's own."""
    return {"RECEIVER_ARCHIVE": f"s3://{store.bucket}/{programs.folder.name}", **store.environment()}


def holds_what_was_offered(receiver: Receiver, programs: Programs, store: Seaweed, ids: list[str]) -> None:
    """The bucket has one object of each of these jobs, with the bytes behind its URL, and no other."""
    held = in_bucket(store, programs.folder.name)
    assert set(held) == set(ids)
    for job_id in ids:
        offered = httpx.get(receiver.job(job_id)["image_url"], trust_env=False).content
        assert held[job_id] == [hashlib.sha256(offered).hexdigest()]


@pytest.mark.parametrize("provider", [*EVERY, DESCRIBED], ids=str)
def test_each_output_is_archived_and_replays_strangers_and_early_posts_change_nothing(
    programs: Programs, store: Seaweed, provider: Upscaler
) -> None:
    with (
        programs.sandbox(*provider.options) as box,
        programs.receiver(provider.settings(programs.folder, box, **archive(programs, store))) as receiver,
    ):
        target = provider.target(receiver)
        several = provider.submit(box, target, "several", "replay")
        again = provider.submit(box, target, "twice")
        silent = provider.submit(box, target, "drop")
        provider.announce(receiver, silent)
        video = provider.submit(box, target, "video")
        failed = provider.submit(box, target, "failed")
        for fault in ("altered", "wrong_signature", "old_timestamp"):
            provider.submit(box, target, fault)
        good = [several, f"{several}~2", f"{several}~3", again, silent, video]
        eventually(lambda: number_of_jobs(receiver) == len(good) + 2)

        assert states(receiver, good) == dict.fromkeys(good, "archived")
        assert receiver.ended(failed)["error"]["reason"] == "provider.job_failed"
        rejected = receiver.ended(f"{video}~2")
        assert (rejected["state"], rejected["error"]["reason"]) == ("rejected", "image.unknown_format")
        assert "video" in rejected["error"]["detail"]
        assert [it["event"] for it in receiver.job(silent)["history"]][:2] == ["submitted", "found"]
        holds_what_was_offered(receiver, programs, store, good)
        assert receiver.get("/deliveries").json()["deliveries"] == []
        job = receiver.job(f"{several}~2")
        assert (job["provider"], job["output"]) == (provider.name, 2)


@pytest.mark.parametrize("provider", EVERY, ids=str)
def test_with_confirm_every_output_counts_once_the_provider_has_named_it(
    programs: Programs, store: Seaweed, provider: Upscaler
) -> None:
    more = {"RECEIVER_CONFIRM": "on", "RECEIVER_OVERDUE_AFTER": "1h", **archive(programs, store)}
    with (
        programs.sandbox(*provider.options, "--delay", "0.3") as box,
        programs.receiver(provider.settings(programs.folder, box, **more)) as receiver,
    ):
        job_id = provider.submit(box, provider.target(receiver), "several")
        provider.announce(receiver, job_id)
        outputs = [job_id, f"{job_id}~2", f"{job_id}~3"]
        eventually(lambda: number_of_jobs(receiver) == 3)

        assert states(receiver, outputs) == dict.fromkeys(outputs, "archived")
        for output in outputs:
            assert "confirmed" in [line["event"] for line in receiver.job(output)["history"]]


@pytest.mark.parametrize("provider", EVERY, ids=str)
def test_where_an_hour_is_a_few_seconds_all_is_archived_or_named_as_expired(
    programs: Programs, store: Seaweed, provider: Upscaler
) -> None:
    more = {"RECEIVER_URL_LIFETIME": f"{provider.name}=5s", **archive(programs, store)}
    with (
        programs.sandbox(*provider.options, "--url-lifetime", "5s") as box,
        programs.receiver(provider.settings(programs.folder, box, **more)) as receiver,
    ):
        target = provider.target(receiver)
        several, broken = provider.submit(box, target, "several"), provider.submit(box, target, "broken")
        good = [several, f"{several}~2", f"{several}~3"]
        eventually(lambda: number_of_jobs(receiver) == 4)

        assert states(receiver, good) == dict.fromkeys(good, "archived")
        job = receiver.ended(broken)
        assert (job["state"], job["error"]["reason"]) == ("expired", "fetch.expired")
        assert job["url_expires_at"] <= job["error"]["at"]
        assert set(in_bucket(store, programs.folder.name)) == set(good)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("provider", EVERY, ids=str)
def test_a_kill_in_mid_load_loses_nothing(programs: Programs, store: Seaweed, provider: Upscaler) -> None:
    with programs.sandbox(*provider.options, "--retry-within", "30s") as box:
        values = provider.settings(programs.folder, box, **archive(programs, store))
        with programs.receiver_process(values) as receiver:
            values["RECEIVER_PORT"] = str(receiver.port)
            target = provider.target(receiver)
            several = [provider.submit(box, target, "several") for _ in range(6)]
            receiver.program.until_event("archived")
            single = [provider.submit(box, target) for _ in range(3)]
            receiver.program.kill()
        good = [*single, *(f"{job_id}{output}" for job_id in several for output in ("", "~2", "~3"))]
        with programs.receiver(values) as receiver:
            for job_id in (*several, *single):  # of those that were never acknowledged, only this tells
                provider.announce(receiver, job_id)
            eventually(lambda: receiver.get("/stats").json()["states"]["archived"] == len(good), 90)

            holds_what_was_offered(receiver, programs, store, good)
