"""What is Replicate's alone, from its stand-in to the archive, with real sockets."""

from tests.support.processes import Programs, Receiver
from tests.support.upscalers import REPLICATE, number_of_jobs, states
from tests.support.waiting import eventually

OTHER = "whsec_Y2FuYXJ5LW9mLXRoZS13ZWJob29rLTAy"
NOWHERE = "http://127.0.0.1:9/webhooks/replicate"


def test_a_map_of_outputs_is_archived_and_what_was_canceled_or_aborted_has_failed(programs: Programs) -> None:
    with (
        programs.sandbox(*REPLICATE.options) as box,
        programs.receiver(REPLICATE.settings(programs.folder, box)) as receiver,
    ):
        target = REPLICATE.target(receiver)
        mapped = REPLICATE.submit(box, target, "mapped")
        bad = [REPLICATE.submit(box, target, fault) for fault in ("canceled", "aborted")]
        good = [mapped, f"{mapped}~2"]
        eventually(lambda: number_of_jobs(receiver) == 4)

        assert states(receiver, good) == dict.fromkeys(good, "archived")
        assert states(receiver, bad) == dict.fromkeys(bad, "failed")
        assert receiver.job(mapped)["endpoint"] == "sandbox/upscaler"


def test_jobs_that_nobody_announced_are_taken_from_the_list(programs: Programs) -> None:
    with programs.sandbox(*REPLICATE.options, "--drop", "1", "--page-size", "2") as box:
        adopted = [REPLICATE.submit(box, NOWHERE) for _ in range(3)]
        with programs.receiver(REPLICATE.settings(programs.folder, box, RECEIVER_ADOPT="on")) as receiver:
            eventually(lambda: number_of_jobs(receiver) == 3)

            assert states(receiver, adopted) == dict.fromkeys(adopted, "archived")


def test_a_secret_can_be_replaced_without_a_delivery_lost(programs: Programs) -> None:
    with (
        programs.sandbox("--provider", "replicate", "--secret", OTHER, "--secret", REPLICATE.secret) as box,
        programs.receiver(REPLICATE.settings(programs.folder, box)) as receiver,
    ):
        target = REPLICATE.target(receiver)
        assert receiver.ended(delivered(receiver, REPLICATE.submit(box, target)))["state"] == "archived"


def delivered(receiver: Receiver, job_id: str) -> str:
    receiver.program.until_event("delivery", job=job_id)
    return job_id


def test_a_silent_job_whose_hour_is_over_tells_that_its_output_is_removed(programs: Programs) -> None:
    with programs.sandbox(*REPLICATE.options, "--drop", "1", "--url-lifetime", "0s") as box:
        job = REPLICATE.submit(box, NOWHERE)
        with programs.receiver(REPLICATE.settings(programs.folder, box)) as receiver:
            REPLICATE.announce(receiver, job)

            error = receiver.ended(job)["error"]
            assert (error["reason"], "removed" in error["detail"]) == ("provider.no_output", True)
