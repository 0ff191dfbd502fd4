"""Hosts that drip their images, against the images of others."""

import time
from collections.abc import Callable

import pytest

from tests.support.processes import Programs, completion, settings
from tests.support.source import SIZE, Answer, Source, picture, signed, source

DRIPPING = 40
TRUE = 12


def test_forty_dripping_downloads_with_near_ends_hold_up_no_true_one(
    programs: Programs, host: Source
) -> None:
    """Each may drip for 20 s: 16 at a time, the earliest deadline first, took a minute and more."""
    now, gate = time.time(), host.gate()
    dripping = {f"dripping-{number}": picture(number) for number in range(DRIPPING)}
    # Nothing is given up before the end, however long the deliveries take.
    values = settings(programs.folder, RECEIVER_LEAST_RATE="1")
    with source() as other, programs.receiver(values) as receiver:
        for job_id, image in dripping.items():
            url = signed(host.offer(job_id, Answer(image, gate=gate)), since=now, seconds=600)
            receiver.deliver(completion(job_id, url, *SIZE)).raise_for_status()
        host.until(lambda: len(host.seen) >= 4)
        for number in range(TRUE):
            url = signed(other.offer(f"true-{number}", picture(100 + number)), since=now, seconds=7200)
            receiver.deliver(completion(f"true-{number}", url, *SIZE)).raise_for_status()
        ended = [receiver.ended(f"true-{number}")["state"] for number in range(TRUE)]
        asked = len(host.seen)

    assert ended == ["archived"] * TRUE
    assert asked == 4, "none of the first four has ended, and no other has begun"


@pytest.mark.parametrize("fetches", ["2", "16"])
def test_a_host_that_was_fast_and_drips_leaves_half_of_the_downloads_to_others(
    programs: Programs, host: Source, fetches: str
) -> None:
    now, gate = time.time(), host.gate()
    share = int(fetches) // 2
    values = settings(programs.folder, RECEIVER_FETCHES=fetches)

    def deliver(where: Source, prefix: str, count: int, answer: Callable[[int], Answer | bytes]) -> list[str]:
        names = [f"{prefix}-{number}" for number in range(count)]
        for number, job_id in enumerate(names):
            life = 600 if where is host else 7200
            url = signed(where.offer(job_id, answer(number)), since=now, seconds=life)
            receiver.deliver(completion(job_id, url, *SIZE)).raise_for_status()
        return names

    def dripping() -> int:
        return sum(seen.name.startswith("dripping") for seen in host.seen)

    with (
        source() as other,
        programs.receiver(values) as receiver,
    ):
        for job_id in deliver(host, "fast", 40, picture):
            receiver.ended(job_id)
        held = other.gate()
        first = deliver(other, "held", share, lambda number: Answer(picture(100 + number), gate=held))
        other.until(lambda: len(other.seen) >= min(share, 4))
        deliver(host, "dripping", DRIPPING, lambda number: Answer(picture(200 + number), gate=gate))
        host.until(lambda: dripping() >= share)
        true = deliver(other, "true", TRUE, lambda number: picture(300 + number))
        held.set()
        ended = [receiver.ended(job_id)["state"] for job_id in first + true]

    assert ended == ["archived"] * len(first + true)
