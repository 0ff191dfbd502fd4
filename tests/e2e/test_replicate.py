"""Replicate from its stand-in to the archive, with real sockets and processes."""

import base64
from collections.abc import Sequence
from pathlib import Path

import pytest

from receiver.sandbox.pictures import draw
from receiver.sandbox.submits import FAULTS_HEADER
from tests.faults.matrix import in_folder
from tests.support.processes import PROVIDER_TOKEN, Programs, Receiver, Sandbox, settings
from tests.support.waiting import eventually

SECRET = "whsec_Y2FuYXJ5LW9mLXRoZS13ZWJob29rLTAx"
OTHER = "whsec_Y2FuYXJ5LW9mLXRoZS13ZWJob29rLTAy"
PICTURE = "data:image/png;base64," + base64.b64encode(draw(3, (24, 18), "png")).decode()
SIGNED = ("--provider", "replicate", "--secret", SECRET)


def values(folder: Path, box: Sandbox, **more: str) -> dict[str, str]:
    return settings(
        folder,
        **{
            "REPLICATE_WEBHOOK_SECRET": SECRET,
            "REPLICATE_API_TOKEN": PROVIDER_TOKEN,
            "REPLICATE_API_URL": f"{origin(box)}/v1",
            "RECEIVER_OVERDUE_AFTER": "1s",
            "RECEIVER_RECONCILE_EVERY": "1s",
            "RECEIVER_RECONCILE_RATE": "500",
            **more,
        },
    )


def origin(box: Sandbox) -> str:
    return str(box.base_url.copy_with(path="/")).rstrip("/")


def webhook(receiver: Receiver) -> str:
    return f"{receiver.address}/webhooks/replicate"


def submit(box: Sandbox, target: str, *faults: str) -> str:
    """Submits a picture for a job that meets these faults; gives its id in the ledger."""
    answer = box.post(
        f"{origin(box)}/v1/predictions",
        json={"version": "any", "input": {"image": PICTURE, "scale": 2}, "webhook": target},
        headers={FAULTS_HEADER: ",".join(faults)} if faults else {},
    )
    return f"replicate:{answer.raise_for_status().json()['id']}"


def states(receiver: Receiver, ids: Sequence[str]) -> dict[str, str]:
    return {job_id: receiver.ended(job_id)["state"] for job_id in ids}


def test_each_output_is_archived_and_replays_strangers_and_early_posts_change_nothing(
    programs: Programs,
) -> None:
    with programs.sandbox(*SIGNED) as box, programs.receiver(values(programs.folder, box)) as receiver:
        several = submit(box, webhook(receiver), "several")
        mapped = submit(box, webhook(receiver), "mapped", "replay")
        failed = submit(box, webhook(receiver), "failed")
        canceled = submit(box, webhook(receiver), "canceled")
        forged = submit(box, webhook(receiver), "drop")
        good = [several, f"{several}~2", f"{several}~3", mapped, f"{mapped}~2"]
        eventually(lambda: len(receiver.get("/jobs").json()["jobs"]) == len(good) + 2)

        assert states(receiver, good) == dict.fromkeys(good, "archived")
        assert states(receiver, [failed, canceled]) == {failed: "failed", canceled: "failed"}
        assert receiver.get(f"/jobs/{forged}").status_code == 404
        assert {path.rpartition("/")[2] for path in in_folder(programs.folder / "data" / "archive")} == set(
            good
        )
        assert receiver.get("/deliveries").json()["deliveries"] == []
        job = receiver.job(f"{several}~2")
        assert (job["provider"], job["output"], job["endpoint"]) == ("replicate", 2, "sandbox/upscaler")


def test_a_video_is_rejected_beside_its_picture(programs: Programs) -> None:
    with programs.sandbox(*SIGNED) as box, programs.receiver(values(programs.folder, box)) as receiver:
        job = submit(box, webhook(receiver), "video")
        eventually(lambda: len(receiver.get("/jobs").json()["jobs"]) == 2)

        assert receiver.ended(job)["state"] == "archived"
        video = receiver.ended(f"{job}~2")
        assert (video["state"], video["error"]["reason"]) == ("rejected", "image.unknown_format")


def test_silent_jobs_are_asked_for_and_unannounced_ones_taken_from_the_list(programs: Programs) -> None:
    with programs.sandbox(*SIGNED, "--drop", "1", "--page-size", "2") as box:
        target = "http://127.0.0.1:9/webhooks/replicate"
        adopted = [submit(box, target) for _ in range(3)]
        with programs.receiver(values(programs.folder, box, RECEIVER_ADOPT="on")) as receiver:
            job = submit(box, target, "several")
            own_id = job.partition(":")[2]
            receiver.post("/jobs", json={"id": own_id, "provider": "replicate"}).raise_for_status()
            everything = [job, f"{job}~2", f"{job}~3", *adopted]
            eventually(lambda: len(receiver.get("/jobs").json()["jobs"]) == len(everything))

            assert states(receiver, everything) == dict.fromkeys(everything, "archived")


def test_a_secret_can_be_replaced_without_a_delivery_lost(programs: Programs) -> None:
    with (
        programs.sandbox("--provider", "replicate", "--secret", OTHER, "--secret", SECRET) as box,
        programs.receiver(values(programs.folder, box)) as receiver,
    ):
        assert receiver.ended(delivered(receiver, submit(box, webhook(receiver))))["state"] == "archived"
        for fault in ("altered", "wrong_signature", "old_timestamp"):
            submit(box, webhook(receiver), fault)
        receiver.program.until(lambda: len(receiver.program.events("delivery refused")) >= 1)
        assert len(receiver.get("/jobs").json()["jobs"]) == 1


def delivered(receiver: Receiver, job_id: str) -> str:
    receiver.program.until_event("delivery", job=job_id)
    return job_id


def test_an_output_whose_hour_is_over_expires_with_its_reason(programs: Programs) -> None:
    with (
        programs.sandbox(*SIGNED, "--url-lifetime", "2s") as box,
        programs.receiver(values(programs.folder, box, RECEIVER_URL_LIFETIME="replicate=2s")) as receiver,
    ):
        job = receiver.ended(delivered(receiver, submit(box, webhook(receiver), "broken")))

        assert (job["state"], job["error"]["reason"]) == ("expired", "fetch.expired")


def test_a_silent_job_whose_hour_is_over_tells_that_its_output_is_removed(programs: Programs) -> None:
    with programs.sandbox(*SIGNED, "--drop", "1", "--url-lifetime", "0s") as box:
        job = submit(box, "http://127.0.0.1:9/webhooks/replicate")
        with programs.receiver(values(programs.folder, box)) as receiver:
            receiver.post("/jobs", json={"id": job.partition(":")[2], "provider": "replicate"})

            error = receiver.ended(job)["error"]
            assert (error["reason"], "removed" in error["detail"]) == ("provider.no_output", True)


def test_with_confirm_every_output_counts_once_the_provider_has_named_it(programs: Programs) -> None:
    with programs.sandbox(*SIGNED) as box:
        given = values(programs.folder, box, RECEIVER_CONFIRM="on")
        del given["RECEIVER_WEBHOOK_HEADERS"]  # Ximilar would need a token, too
        with programs.receiver(given) as receiver:
            job = submit(box, webhook(receiver), "several")
            outputs = [job, f"{job}~2", f"{job}~3"]
            eventually(lambda: len(receiver.get("/jobs").json()["jobs"]) == 3)

            assert states(receiver, outputs) == dict.fromkeys(outputs, "archived")
            for output in outputs:
                assert "confirmed" in [line["event"] for line in receiver.job(output)["history"]]


@pytest.mark.timeout(180)
def test_a_kill_in_mid_load_loses_nothing(programs: Programs) -> None:
    with programs.sandbox(*SIGNED, "--retry-within", "30s") as box:
        given = values(programs.folder, box)
        with programs.receiver_process(given) as receiver:
            given["RECEIVER_PORT"] = str(receiver.port)
            target = webhook(receiver)
            ids = [submit(box, target, "several") for _ in range(10)]
            receiver.program.until_event("archived")
            ids += [submit(box, target) for _ in range(5)]
            receiver.program.kill()
        with programs.receiver(given) as receiver:
            for job_id in ids:  # of those that were never acknowledged, only this tells
                receiver.post("/jobs", json={"id": job_id.partition(":")[2], "provider": "replicate"})
            eventually(lambda: receiver.get("/stats").json()["states"]["archived"] == 35, 90)

        held = in_folder(programs.folder / "data" / "archive")
        assert len(held) == 35
        assert {len(sums) for sums in held.values()} == {1}
