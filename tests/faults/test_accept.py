"""Bytes that verification refused, and that an operator accepts: they are archived as they are."""

import hashlib
import json
import signal
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.core.errors import ImageError, ReceiverError, UrlError
from receiver.core.jobs import State
from receiver.ledger import Ledger
from receiver.operations import acceptance
from receiver.pipeline.spool import Spool
from receiver.sandbox.pictures import draw
from tests.faults.steps import archive_of, deliver, events
from tests.ledger.actions import LEASE, delivery
from tests.support.clock import HOUR, NOW, Clock
from tests.support.processes import PATIENCE, Programs, Receiver, run, settings
from tests.support.seaweed import Seaweed, seaweed
from tests.support.source import SIZE, Answer, Source, picture, sha256
from tests.support.terminal import on_a_terminal

HTML = b"<!doctype html><script>alert(1)</script>"
OTHER = draw(1, (SIZE[0] // 2, SIZE[1] // 2), "png")
"""Not of the promised size."""


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


def rejected(receiver: Receiver, host: Source, job_id: str, content: bytes) -> Any:
    deliver(receiver, job_id, host.offer(job_id, content))
    job = receiver.ended(job_id)
    assert job["state"] == "rejected"
    return job


def of(content: bytes, form: str | None, reason: str) -> dict[str, Any]:
    """The image of a job whose refused bytes were accepted."""
    known = {"format": form, "width": None, "height": None, "bytes": len(content)}
    return {**known, "sha256": sha256(content), "accepted": reason}


def metadata_of(archived: Any) -> Any:
    path = Path(archived["archive"]["uri"].removeprefix("file://"))
    return json.loads(path.with_name(f".{path.name}.json").read_bytes())


# Beside a running server


@pytest.mark.parametrize(
    ("content", "form", "reason"),
    [(HTML, None, "image.unknown_format"), (OTHER, "png", "image.wrong_size")],
    ids=["no image", "another size"],
)
def test_refused_bytes_are_accepted_by_the_command_beside_the_server(
    programs: Programs, host: Source, content: bytes, form: str | None, reason: str
) -> None:
    values, name = settings(programs.folder), f"job.{form or 'bin'}"
    with programs.receiver(values) as receiver:
        refused = rejected(receiver, host, "job", content)
        shown = run(["accept", "job", "--dry-run", "--json"], programs.folder, values)
        told = run(["accept", "job"], programs.folder, values)
        assert receiver.job("job")["state"] == "rejected"
        done = run(["accept", "job", "--yes", "--json"], programs.folder, values)
        job = receiver.ended("job")
        again = run(["accept", "job", "--yes"], programs.folder, values)
        image = receiver.get("/jobs/job/image")
        assert receiver.program.stop()[0] == 0

    assert shown.returncode == 0
    document = json.loads(shown.stdout)
    assert document.pop("file") == str(programs.folder / "data" / "aside" / f"job.{sha256(content)}")
    assert document == {
        "accepted": False,
        "id": "job",
        "ref": None,
        "state": "rejected",
        "format": form,
        "bytes": len(content),
        "sha256": sha256(content),
        "reason": reason,
        "detail": refused["error"]["detail"],
        "refused_at": refused["error"]["at"],
    }
    assert told.returncode == 1
    assert f"sha256\t{sha256(content)}\nreason\t{reason}\n" in told.stdout
    assert "nothing was done; --yes does it" in told.stderr
    assert (done.returncode, json.loads(done.stdout)["accepted"]) == (0, True)
    assert (again.returncode, again.stderr) == (
        1,
        "receiver: ledger.wrong_state: Job job is archived: there is nothing to accept.\n",
    )

    assert job["state"] == "archived"
    assert job["image"] == of(content, form, reason)
    assert job["error"] is None
    assert events(job)[-4:] == ["rejected", "retried", "accepted", "archived"]
    (accepted,) = [event for event in job["history"] if event["event"] == "accepted"]
    assert (accepted["reason"], accepted["detail"]) == (reason, refused["error"]["detail"])
    assert job["archive"]["uri"].endswith(name)
    assert archive_of(programs.folder) == {"job": [sha256(content)]}
    kept = metadata_of(job)
    assert (kept["job-id"], kept["accepted"], kept["sha256"]) == ("job", reason, sha256(content))
    assert "width" not in kept
    assert list((programs.folder / "data" / "aside").iterdir()) == []

    assert image.content == content
    assert image.headers["content-type"] == (f"image/{form}" if form else "application/octet-stream")
    assert image.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert image.headers["x-content-type-options"] == "nosniff"

    assert run(["audit"], programs.folder, values).returncode == 0
    for path in (programs.folder / "data").glob("ledger.*"):
        path.unlink()
    rebuilt = run(["rebuild", "--json"], programs.folder, values)
    assert rebuilt.returncode == 0, rebuilt.stdout
    known = json.loads(run(["job", "job", "--json"], programs.folder, values).stdout)
    assert (known["state"], known["image"]) == ("archived", of(content, form, reason))
    assert run(["audit"], programs.folder, values).returncode == 0


def test_on_a_terminal_somebody_is_asked(programs: Programs, host: Source) -> None:
    values = settings(programs.folder)
    with programs.receiver(values) as receiver:
        rejected(receiver, host, "job", HTML)
        code, said = on_a_terminal(["accept", "job"], programs.folder, values, typed="n\n", at="[y/N]")
        assert (code, receiver.job("job")["state"]) == (1, "rejected")
        assert sha256(HTML) in said
        assert "image.unknown_format" in said
        assert "nothing was done" in said
        code, _ = on_a_terminal(["accept", "job"], programs.folder, values, typed="y\n", at="[y/N]")
        assert (code, receiver.ended("job")["state"]) == (0, "archived")


def test_refused_bytes_are_accepted_by_the_api_by_their_digest_alone(
    programs: Programs, host: Source
) -> None:
    with programs.receiver(settings(programs.folder)) as receiver:
        rejected(receiver, host, "job", HTML)
        refused = receiver.get("/jobs/job/refused")
        answers = [
            receiver.post("/jobs/job/accept"),
            receiver.post("/jobs/job/accept", params={"sha256": sha256(OTHER)}),
            receiver.post("/jobs/nobody/accept", params={"sha256": sha256(HTML)}),
            httpx.post(f"{receiver.address}/jobs/job/accept", params={"sha256": sha256(HTML)}),
            httpx.get(f"{receiver.address}/jobs/job/refused"),
            receiver.post(
                "/jobs/job/accept",
                params={"sha256": sha256(HTML)},
                headers={"Origin": "https://evil.example"},
            ),
        ]
        assert receiver.job("job")["state"] == "rejected"
        taken = receiver.post("/jobs/job/accept", params={"sha256": sha256(HTML)})
        job = receiver.ended("job")
        gone = receiver.get("/jobs/job/refused")

    assert refused.content == HTML
    assert refused.headers["etag"] == f'"{sha256(HTML)}"'
    assert refused.headers["content-type"] == "application/octet-stream"
    assert refused.headers["content-disposition"] == 'attachment; filename="job.bin"'
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert [(answer.status_code, answer.json()["reason"]) for answer in answers] == [
        (422, "body.invalid_query"),
        (409, "ledger.wrong_state"),
        (404, "ledger.unknown_job"),
        (401, "auth.token_refused"),
        (401, "auth.token_refused"),
        (403, "auth.cross_origin"),
    ]
    assert (taken.status_code, taken.json()["state"]) == (202, "fetched")
    assert (job["state"], job["image"]["accepted"]) == ("archived", "image.unknown_format")
    assert (gone.status_code, gone.json()["reason"]) == (409, "ledger.wrong_state")
    assert receiver.program.events("accepted")[0]["reason"] == "image.unknown_format"


def test_a_bucket_gets_refused_bytes_as_they_are_and_gives_them_as_a_download(
    programs: Programs, host: Source, store: Seaweed
) -> None:
    prefix = programs.folder.name
    values = settings(
        programs.folder, RECEIVER_ARCHIVE=f"s3://{store.bucket}/{prefix}", **store.environment()
    )
    with programs.receiver(values) as receiver:
        rejected(receiver, host, "job", HTML)
        receiver.post("/jobs/job/accept", params={"sha256": sha256(HTML)}).raise_for_status()
        job = receiver.ended("job")
        address = receiver.get("/jobs/job/image").headers["location"]
    assert job["state"] == "archived"
    with httpx.Client(verify=ssl.create_default_context(cafile=store.ca_bundle)) as client:
        image = client.get(address)
    assert image.content == HTML
    assert image.headers["content-type"] == "application/octet-stream"
    assert image.headers["content-disposition"] == "attachment"
    with closing(store.client()) as client_of_store:
        key = job["archive"]["uri"].removeprefix(f"s3://{store.bucket}/")
        head = client_of_store.head_object(Bucket=store.bucket, Key=key)
    assert (key.endswith("job.bin"), head["ContentType"]) == (True, "application/octet-stream")
    assert head["Metadata"]["accepted"] == "image.unknown_format"
    assert run(["audit"], programs.folder, values).returncode == 0
    for path in (programs.folder / "data").glob("ledger.*"):
        path.unlink()
    assert run(["rebuild"], programs.folder, values).returncode == 0
    known = json.loads(run(["job", "job", "--json"], programs.folder, values).stdout)
    assert known["image"] == of(HTML, None, "image.unknown_format")


@pytest.mark.parametrize("point", [None, "stored", "archived"])
def test_a_kill_at_each_step_loses_nothing_and_needs_nobody(
    programs: Programs, host: Source, point: str | None
) -> None:
    values = settings(programs.folder)
    with programs.receiver_process(values) as receiver:
        rejected(receiver, host, "job", HTML)
        receiver.program.kill()
    assert run(["accept", "job", "--yes"], programs.folder, values).returncode == 0  # without a server
    if point is not None:
        with programs.receiver_process(values | {"RECEIVER_CUT_AT": point}) as receiver:
            assert receiver.program.process.wait(PATIENCE) == -signal.SIGKILL
    with programs.receiver(values) as again:
        job = again.ended("job")
    assert (job["state"], job["image"]["accepted"]) == ("archived", "image.unknown_format")
    assert archive_of(programs.folder) == {"job": [sha256(HTML)]}
    assert events(job).count("accepted") == events(job).count("archived") == 1
    assert host.asked("job") == 3


def test_the_servers_kill_right_after_its_answer_loses_nothing(programs: Programs, host: Source) -> None:
    values = settings(programs.folder)
    with programs.receiver_process(values) as receiver:
        rejected(receiver, host, "job", HTML)
        receiver.post("/jobs/job/accept", params={"sha256": sha256(HTML)}).raise_for_status()
        receiver.program.kill()
    with programs.receiver(values) as again:
        assert again.ended("job")["state"] == "archived"
    assert archive_of(programs.folder) == {"job": [sha256(HTML)]}


def test_accepted_bytes_that_vanish_are_fetched_and_verified_anew(programs: Programs, host: Source) -> None:
    values = settings(programs.folder)
    with programs.receiver(values) as receiver:
        rejected(receiver, host, "job", HTML)
    assert run(["accept", "job", "--yes"], programs.folder, values).returncode == 0
    (programs.folder / "data" / "aside" / f"job.{sha256(HTML)}").unlink()
    host.offer("job", picture(1))
    with programs.receiver(values) as receiver:
        job = receiver.ended("job")
    assert job["state"] == "archived"
    assert "accepted" not in job["image"]
    assert archive_of(programs.folder) == {"job": [sha256(picture(1))]}


def test_harmless_bytes_behind_an_image_are_noted_on_the_job(programs: Programs, host: Source) -> None:
    values = settings(programs.folder)
    with programs.receiver(values) as receiver:
        deliver(receiver, "job", host.offer("job", picture(1) + bytes(3)))
        job = receiver.ended("job")
        page = receiver.get("/page/jobs/job").text
    note = "Harmless bytes stand behind the image's end mark: 3."
    (fetched,) = [event for event in job["history"] if event["event"] == "fetched"]
    assert (job["state"], job["error"]) == ("archived", None)
    assert (fetched["reason"], fetched["detail"]) == (None, note)
    assert note in page.replace("&#39;", "'")
    assert note in on_a_terminal(["job", "job"], programs.folder, values)[1]
    assert job["history"][-1]["detail"] is None


# What is never accepted


def test_a_job_that_was_refused_for_its_source_is_never_accepted(programs: Programs, host: Source) -> None:
    values = settings(programs.folder, RECEIVER_IMAGE_SOURCES="https://else.example/")
    with programs.receiver(values) as receiver:
        job = rejected(receiver, host, "job", HTML)
        answer = receiver.post("/jobs/job/accept", params={"sha256": sha256(HTML)})
        page = receiver.get("/page/jobs/job").text
    said = run(["accept", "job", "--yes"], programs.folder, values)
    assert job["error"]["reason"].startswith("url.")
    assert answer.status_code == 409
    assert f"was refused for {job['error']['reason']}, and not for its bytes" in answer.json()["detail"]
    assert answer.json()["detail"] in said.stderr
    assert said.returncode == 1
    assert 'id="accept"' not in page


def test_an_address_that_was_refused_last_makes_earlier_bytes_unacceptable(
    programs: Programs, host: Source
) -> None:
    away = Answer(status=302, headers={"Location": "https://10.0.0.1/"})
    with programs.receiver(settings(programs.folder)) as receiver:
        deliver(receiver, "job", host.offer("job", HTML, away))
        job = receiver.ended("job")
        answer = receiver.post("/jobs/job/accept", params={"sha256": sha256(HTML)})
    assert (job["state"], job["error"]["reason"]) == ("rejected", "url.address")
    assert (programs.folder / "data" / "aside" / f"job.{sha256(HTML)}").exists()
    assert (answer.status_code, answer.json()["reason"]) == (409, "ledger.wrong_state")


DIGEST = hashlib.sha256(HTML).hexdigest()


@pytest.fixture
async def ledger(tmp_path: Path) -> Any:
    ledger = await Ledger.serve(tmp_path, now=Clock())
    yield ledger
    await ledger.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool", max_bytes=1000, max_image_bytes=100, reserve=0)
    spool.aside.mkdir()
    (spool.aside / f"job-1.{DIGEST}").write_bytes(HTML)
    return spool


async def refused(
    ledger: Ledger, error: ReceiverError, *, rejects: bool = False, expires: bool = False
) -> None:
    """Brings a job to where its bytes were refused, and then nothing more, a rejection or its end."""
    await ledger.record(delivery())
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=LEASE)
    if rejects:
        await ledger.rejected(claim, error)
        return
    await ledger.retry_later(claim, NOW, error)
    if expires:
        (claim,) = await ledger.claim_to_fetch(1, again=1, lease=LEASE)
        await ledger.expired(claim)


@pytest.mark.parametrize("how", ["waits", "rejects", "expires"])
async def test_refused_bytes_are_accepted_before_and_after_the_jobs_end(
    ledger: Ledger, spool: Spool, how: str
) -> None:
    error = ImageError("image.truncated", "It ends.")
    await refused(ledger, error, rejects=how == "rejects", expires=how == "expires")
    job = await acceptance.accept(ledger, spool, "job-1", DIGEST)
    assert (job.state, job.spool, job.attempts) == (State.FETCHED, f"aside/job-1.{DIGEST}", 0)
    assert job.image is not None
    assert job.image.accepted == "image.truncated"
    (claim,) = await ledger.claim_to_archive(1, lease=HOUR)
    assert claim.job == job or claim.job.image == job.image


async def test_a_job_that_is_being_fetched_is_not_accepted(ledger: Ledger, spool: Spool) -> None:
    await refused(ledger, ImageError("image.truncated"))
    await ledger.claim_to_fetch(1, again=1, lease=LEASE)
    with pytest.raises(ReceiverError, match="is being fetched at this moment") as caught:
        await acceptance.accept(ledger, spool, "job-1", DIGEST)
    assert caught.value.reason == "ledger.wrong_state"


@pytest.mark.parametrize("error", [UrlError("url.address"), ReceiverError("provider.unknown_job")], ids=str)
async def test_a_job_that_was_refused_for_something_else_is_not_accepted(
    ledger: Ledger, spool: Spool, error: ReceiverError
) -> None:
    await refused(ledger, ImageError("image.truncated"))
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=LEASE)
    await ledger.rejected(claim, error)
    with pytest.raises(ReceiverError, match="and not for its bytes") as caught:
        await acceptance.accept(ledger, spool, "job-1", DIGEST)
    assert caught.value.reason == "ledger.wrong_state"


async def test_bytes_that_changed_or_are_gone_are_not_accepted(ledger: Ledger, spool: Spool) -> None:
    await refused(ledger, ImageError("image.truncated"), rejects=True)
    (spool.aside / f"job-1.{DIGEST}").write_bytes(HTML[::-1])
    with pytest.raises(ReceiverError, match="are others than"):
        await acceptance.accept(ledger, spool, "job-1", DIGEST)
    (spool.aside / f"job-1.{DIGEST}").unlink()
    with pytest.raises(ReceiverError, match="are not kept any more"):
        await acceptance.accept(ledger, spool, "job-1", DIGEST)
    job = await ledger.job("job-1")
    assert job is not None
    assert job.state is State.REJECTED
