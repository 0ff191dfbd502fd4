"""What the tests of faults do again and again."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.faults.matrix import Archive, in_folder
from tests.support.processes import PROVIDER_TOKEN, Receiver, completion
from tests.support.source import SIZE, Answer, Source, sha256


def deliver(receiver: Receiver, job_id: str, url: str, size: tuple[int, int] = SIZE) -> None:
    """Delivers a good completion, which has to be acknowledged."""
    answer = receiver.deliver(completion(job_id, url, *size))
    assert answer.status_code == 200, answer.text


def at(text: str) -> float:
    """A time of the API, as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def events(job: Any) -> list[str]:
    """What happened to a job, oldest first; that it was at risk aside, which depends on when one looks."""
    return [event["event"] for event in job["history"] if event["event"] != "at_risk"]


def archive_of(folder: Path) -> Archive:
    """What the folder archive of a receiver with its data in this folder holds."""
    return in_folder(folder / "data" / "archive")


def sums(images: Mapping[str, bytes]) -> dict[str, str | None]:
    """The SHA-256 of each job's image."""
    return {job_id: sha256(image) for job_id, image in images.items()}


def once(images: Mapping[str, bytes]) -> dict[str, list[str]]:
    """An archive that holds each job's image exactly once, and nothing else."""
    return {job_id: [sha256(image)] for job_id, image in images.items()}


# A host of images that stands for the provider's API as well.


def asking(host: Source) -> dict[str, str]:
    """The settings of a receiver whose provider the host is."""
    return {"XIMILAR_API_TOKEN": PROVIDER_TOKEN, "XIMILAR_API_URL": f"{host.url}/api"}


def question(job_id: str) -> str:
    """The name under which the host counts questions for a job."""
    return f"api/request/{job_id}"


def says(job_id: str, url: str) -> Answer:
    """The provider's answer that names this URL."""
    body = json.dumps(completion(job_id, url, *SIZE)).encode()
    return Answer(body, headers={"Content-Type": "application/json"})
