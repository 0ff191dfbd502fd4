"""Freepik from its stand-in to the archive; and a description of one's own that does the same."""

import base64
from pathlib import Path
from typing import Any

import pytest

from receiver.sandbox.pictures import draw
from receiver.sandbox.submits import FAULTS_HEADER
from tests.faults.matrix import in_folder
from tests.support.processes import PROVIDER_TOKEN, Programs, Receiver, Sandbox, settings
from tests.support.waiting import eventually

PICTURE = base64.b64encode(draw(3, (24, 18), "png")).decode()
SECRET = "fixture-of-freepik-secret"
FREEPIK = ("--provider", "freepik", "--secret", SECRET)
SHIPPED = Path(__file__).parents[2] / "receiver" / "providers" / "freepik" / "freepik.toml"


def origin(box: Sandbox) -> str:
    return str(box.base_url.copy_with(path="/")).rstrip("/")


def values(name: str, folder: Path, box: Sandbox) -> dict[str, str]:
    """Settings for the provider that is shipped, or for one that is described like it."""
    prefix = name.upper()
    own = {
        f"{prefix}_WEBHOOK_SECRET": f"another-secret,{SECRET}",
        f"{prefix}_API_KEY": PROVIDER_TOKEN,
        "RECEIVER_OVERDUE_AFTER": "1s",
        "RECEIVER_RECONCILE_EVERY": "1s",
        "RECEIVER_RECONCILE_RATE": "500",
    }
    if name == "freepik":
        return settings(folder, **own, FREEPIK_API_URL=origin(box))
    path = folder / f"{name}.toml"
    text = SHIPPED.read_text("utf-8").replace("FREEPIK_", f"{prefix}_").replace('"freepik"', f'"{name}"')
    path.write_text(text.replace("https://api.freepik.com", origin(box)), "utf-8")
    return settings(folder, **own, RECEIVER_PROVIDERS=str(path))


def submit(box: Sandbox, receiver: Receiver, name: str, *faults: str) -> str:
    """Submits a picture for a job that meets these faults; gives its id in the ledger."""
    answer = box.post(
        f"{origin(box)}/v1/ai/image-upscaler",
        json={"image": PICTURE, "webhook_url": f"{receiver.address}/webhooks/{name}"},
        headers={
            "x-freepik-api-key": PROVIDER_TOKEN,
            **({FAULTS_HEADER: ",".join(faults)} if faults else {}),
        },
    )
    return f"{name}:{answer.raise_for_status().json()['data']['task_id']}"


def jobs(receiver: Receiver) -> list[Any]:
    found: list[Any] = receiver.get("/jobs").json()["jobs"]
    return found


@pytest.mark.parametrize("name", ["freepik", "mine"])
def test_each_file_is_archived_and_strangers_and_posts_that_are_no_end_change_nothing(
    programs: Programs, name: str
) -> None:
    with (
        programs.sandbox(*FREEPIK) as box,
        programs.receiver(values(name, programs.folder, box)) as receiver,
    ):
        several = submit(box, receiver, name, "several", "replay")
        again = submit(box, receiver, name, "twice")
        failed = submit(box, receiver, name, "failed")
        for fault in ("altered", "wrong_signature", "old_timestamp"):
            submit(box, receiver, name, fault)
        good = [several, f"{several}~2", f"{several}~3", again]
        eventually(lambda: len(jobs(receiver)) == len(good) + 1)

        ended = [receiver.ended(job_id) for job_id in good]
        assert [job["state"] for job in ended] == ["archived"] * len(good)
        assert all("exp=" in job["image_url"] for job in ended)
        assert receiver.ended(failed)["error"]["reason"] == "provider.job_failed"
        assert set(in_folder(programs.folder / "data" / "archive")) == set(good)
        assert receiver.get("/deliveries").json()["deliveries"] == []


@pytest.mark.parametrize("name", ["freepik", "mine"])
def test_a_silent_job_that_was_announced_is_asked_for(programs: Programs, name: str) -> None:
    with (
        programs.sandbox(*FREEPIK, "--drop", "1") as box,
        programs.receiver(values(name, programs.folder, box)) as receiver,
    ):
        job_id = submit(box, receiver, name)
        body = {"id": job_id.partition(":")[2], "provider": name}
        assert receiver.post("/jobs", json=body).raise_for_status().json()["id"] == job_id
        job = receiver.ended(job_id)
        assert (job["state"], [it["event"] for it in job["history"]][:2]) == (
            "archived",
            ["submitted", "found"],
        )
