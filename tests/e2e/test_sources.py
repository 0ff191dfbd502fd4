"""Sources that are kept: behind the acknowledgement, and in nobody's way."""

import uuid
from pathlib import Path

from receiver.archive.key import source_key
from tests.support.processes import Programs, completion, settings
from tests.support.source import SIZE, Answer, picture, source
from tests.support.waiting import eventually


def test_a_source_that_hangs_delays_no_delivery_and_is_kept_when_it_comes(programs: Programs) -> None:
    with source() as host, programs.receiver(settings(programs.folder, RECEIVER_KEEP_SOURCES="small")) as it:
        gate = host.gate()
        hanging = host.offer("hanging.png", Answer(picture(0), gate=gate))
        ids = [str(uuid.uuid4()) for _ in range(12)]
        for number, job_id in enumerate(ids):
            body = completion(job_id, host.offer(f"{number}.png", picture(number)), *SIZE)
            body["response"]["records"][0]["_url"] = hanging
            it.deliver(body).raise_for_status()
        assert {it.ended(job_id)["state"] for job_id in ids} == {"archived"}
        assert not kept(programs.folder, ids[0]).exists()
        gate.set()
        for job_id in ids:
            eventually(kept(programs.folder, job_id).is_file)


def test_without_the_setting_no_source_is_asked_for(programs: Programs) -> None:
    with source() as host, programs.receiver(settings(programs.folder)) as it:
        job_id = str(uuid.uuid4())
        body = completion(job_id, host.offer("image.png", picture(1)), *SIZE)
        body["response"]["records"][0]["_url"] = host.offer("source.png", picture(2))
        it.deliver(body).raise_for_status()
        assert it.ended(job_id)["state"] == "archived"
        assert host.asked("source.png") == 0


def kept(folder: Path, job_id: str) -> Path:
    return folder / "data" / "archive" / source_key(job_id)
