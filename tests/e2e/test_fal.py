"""fal.ai from its stand-in to the archive, with real sockets and processes."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from receiver.sandbox.pictures import draw
from receiver.sandbox.submits import FAULTS_HEADER
from tests.faults.matrix import in_folder
from tests.support.processes import PROVIDER_TOKEN, Programs, Receiver, Sandbox, settings
from tests.support.waiting import eventually

PICTURE = "data:image/png;base64," + base64.b64encode(draw(3, (24, 18), "png")).decode()
MODEL = "fal-ai/topaz/upscale/image"
FAL = ("--provider", "fal")


def values(folder: Path, box: Sandbox, **more: str) -> dict[str, str]:
    own = {
        "FAL_JWKS_URL": f"{origin(box)}/.well-known/jwks.json",
        "FAL_KEY": PROVIDER_TOKEN,
        "FAL_API_URL": origin(box),
        "RECEIVER_OVERDUE_AFTER": "1s",
        "RECEIVER_RECONCILE_EVERY": "1s",
        "RECEIVER_RECONCILE_RATE": "500",
    }
    return settings(folder, **{**own, **more})


def origin(box: Sandbox) -> str:
    return str(box.base_url.copy_with(path="/")).rstrip("/")


def submit(box: Sandbox, target: str, *faults: str) -> str:
    """Submits a picture for a job that meets these faults; gives its id in the ledger."""
    answer = box.post(
        f"{origin(box)}/{MODEL}",
        params={"fal_webhook": target},
        json={"image_url": PICTURE},
        headers={
            "Authorization": f"Key {PROVIDER_TOKEN}",
            **({FAULTS_HEADER: ",".join(faults)} if faults else {}),
        },
    )
    return f"fal:{answer.raise_for_status().json()['request_id']}"


def announce(receiver: Receiver, job_id: str) -> Any:
    body = {"id": job_id.partition(":")[2], "provider": "fal", "endpoint": MODEL}
    return receiver.post("/jobs", json=body).raise_for_status().json()


def webhook(receiver: Receiver) -> str:
    return f"{receiver.address}/webhooks/fal"


def states(receiver: Receiver, ids: Sequence[str]) -> dict[str, str]:
    return {job_id: receiver.ended(job_id)["state"] for job_id in ids}


def test_each_file_is_archived_and_replays_and_strangers_change_nothing(programs: Programs) -> None:
    with programs.sandbox(*FAL) as box, programs.receiver(values(programs.folder, box)) as receiver:
        target = webhook(receiver)
        several = submit(box, target, "several", "replay")
        video = submit(box, target, "video")
        again = submit(box, target, "retry", "twice")
        failed = submit(box, target, "failed")
        for fault in ("altered", "wrong_signature", "old_timestamp"):
            submit(box, target, fault)
        good = [several, f"{several}~2", f"{several}~3", video, again]
        eventually(lambda: len(receiver.get("/jobs").json()["jobs"]) == len(good) + 2)

        assert states(receiver, good) == dict.fromkeys(good, "archived")
        assert receiver.ended(failed)["error"]["reason"] == "provider.job_failed"
        rejected = receiver.ended(f"{video}~2")
        assert (rejected["state"], rejected["error"]["reason"]) == ("rejected", "image.unknown_format")
        assert set(in_folder(programs.folder / "data" / "archive")) == set(good)
        job = receiver.job(several)
        image = job["image"]
        promised = {name: image[name] for name in ("width", "height", "bytes")}
        assert job["promised"] == {**promised, "type": f"image/{image['format']}"}


def test_a_size_that_is_not_as_promised_is_rejected(programs: Programs) -> None:
    with programs.sandbox(*FAL) as box, programs.receiver(values(programs.folder, box)) as receiver:
        job_id = submit(box, webhook(receiver), "wrong_size")
        receiver.program.until_event("delivery", job=job_id)

        job = receiver.ended(job_id)
        assert (job["state"], job["error"]["reason"]) == ("rejected", "image.wrong_size")


def test_missing_payloads_and_silent_jobs_are_asked_for_below_the_models_path(programs: Programs) -> None:
    with programs.sandbox(*FAL) as box, programs.receiver(values(programs.folder, box)) as receiver:
        silent = submit(box, webhook(receiver), "drop", "several")
        announce(receiver, silent)
        # It is announced before its completion comes.
        empty = submit(box, webhook(receiver), "payload_error", "late")
        announce(receiver, empty)

        good = [silent, f"{silent}~2", f"{silent}~3", empty]
        eventually(lambda: len(receiver.get("/jobs").json()["jobs"]) == len(good))
        assert states(receiver, good) == dict.fromkeys(good, "archived")


def test_a_payload_that_is_missing_is_asked_for_once_the_model_is_known(programs: Programs) -> None:
    with programs.sandbox(*FAL) as box, programs.receiver(values(programs.folder, box)) as receiver:
        job_id = submit(box, webhook(receiver), "payload_error")
        receiver.program.until_event("delivery", job=job_id)
        assert announce(receiver, job_id)["state"] == "received"

        assert receiver.ended(job_id)["state"] == "archived"


def test_while_the_keys_are_away_deliveries_wait_and_none_is_lost(programs: Programs) -> None:
    with (
        programs.sandbox(*FAL, "--keys-late", "3s", "--two-keys", "--retry-within", "20s") as box,
        programs.receiver(values(programs.folder, box)) as receiver,
    ):
        ids = [submit(box, webhook(receiver)) for _ in range(3)]
        receiver.program.until_event("delivery refused", reason="auth.keys_unavailable")
        for job_id in ids:
            receiver.program.until_event("delivery", job=job_id)

        assert states(receiver, ids) == dict.fromkeys(ids, "archived")


def test_a_file_whose_life_is_over_expires_with_its_reason(programs: Programs) -> None:
    with (
        programs.sandbox(*FAL, "--url-lifetime", "2s") as box,
        programs.receiver(values(programs.folder, box, RECEIVER_URL_LIFETIME="fal=2s")) as receiver,
    ):
        job_id = submit(box, webhook(receiver), "broken")
        receiver.program.until_event("delivery", job=job_id)

        job = receiver.ended(job_id)
        assert (job["state"], job["error"]["reason"]) == ("expired", "fetch.expired")


@pytest.mark.timeout(180)
def test_a_kill_in_mid_load_loses_nothing(programs: Programs) -> None:
    with programs.sandbox(*FAL, "--retry-within", "30s") as box:
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
                announce(receiver, job_id)
            eventually(lambda: receiver.get("/stats").json()["states"]["archived"] == 35, 90)

        held = in_folder(programs.folder / "data" / "archive")
        assert len(held) == 35
        assert {len(sums) for sums in held.values()} == {1}
