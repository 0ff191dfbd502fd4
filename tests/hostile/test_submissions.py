"""Headers of one submission under the id of another: refused as soon as the provider has named the jobs."""

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from receiver.config import load
from receiver.ledger import Intent, Ledger
from receiver.providers.ximilar.authentication import SUBMISSION_HEADER
from receiver.submission.webhook_template import WebhookTemplate
from tests.support.processes import SIGNING_KEY, Programs, completion, settings

NOWHERE = "https://10.0.0.1/never-asked-for"


def done(job_id: str) -> dict[str, Any]:
    return completion(job_id, NOWHERE, 8, 8)


class Submitter:
    """What `receiver submit` writes into the ledger and sends, beside a receiver."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        config = load(environ)
        self._folder: Path = config.data_dir
        self._template = WebhookTemplate.from_config(config)

    def submit(self, key: str) -> dict[str, str]:
        """Headers of a submission that the provider has not answered yet."""
        mark = secrets.token_urlsafe(16)
        self._write(lambda ledger: ledger.record_intent(Intent(key, mark)))
        return dict(self._template.webhook(mark, None).headers)

    def answered(self, key: str, job_id: str) -> None:
        self._write(lambda ledger: ledger.confirm_intent(key, job_id))

    def _write(self, command: Any) -> None:
        async def write() -> None:
            ledger = await Ledger.open_beside(self._folder)
            try:
                await command(ledger)
            finally:
                await ledger.close()

        asyncio.run(write())


@pytest.mark.parametrize("keys", [{"RECEIVER_SIGNING_KEYS": SIGNING_KEY}, {}], ids=["tickets", "marks"])
def test_the_headers_of_one_job_do_not_deliver_another(programs: Programs, keys: dict[str, str]) -> None:
    environ = settings(programs.folder, RECEIVER_PUBLIC_URL="https://receiver.example", **keys)
    with programs.receiver(environ) as receiver:
        submitter = Submitter(environ)
        one, two = submitter.submit("one"), submitter.submit("two")
        submitter.answered("one", "job-1")
        submitter.answered("two", "job-2")

        crossed = receiver.deliver(done("job-2"), one)
        assert (crossed.status_code, crossed.json()["reason"]) == (401, "auth.refused")
        assert receiver.job("job-2")["state"] == "submitted"
        assert receiver.deliver(done("job-1"), one).status_code == 200
        assert receiver.deliver(done("job-2"), two).status_code == 200


def test_the_ticket_of_one_submission_with_the_mark_of_another_binds_neither(programs: Programs) -> None:
    environ = settings(
        programs.folder, RECEIVER_PUBLIC_URL="https://receiver.example", RECEIVER_SIGNING_KEYS=SIGNING_KEY
    )
    with programs.receiver(environ) as receiver:
        submitter = Submitter(environ)
        one, two = submitter.submit("one"), submitter.submit("two")
        submitter.answered("one", "job-1")

        mixed = {**one, SUBMISSION_HEADER: two[SUBMISSION_HEADER]}
        assert receiver.deliver(done("job-1"), mixed).status_code == 401
        assert receiver.deliver(done("job-2"), two).status_code == 200
        assert receiver.deliver(done("job-1"), one).status_code == 200


def test_a_ticket_that_was_used_before_the_answer_admits_its_own_job_after_it(programs: Programs) -> None:
    environ = settings(
        programs.folder, RECEIVER_PUBLIC_URL="https://receiver.example", RECEIVER_SIGNING_KEYS=SIGNING_KEY
    )
    with programs.receiver(environ) as receiver:
        submitter = Submitter(environ)
        headers = submitter.submit("one")

        assert receiver.deliver(done("forged"), headers).status_code == 200  # what is left
        assert receiver.deliver(done("job-1"), headers).status_code == 401
        submitter.answered("one", "job-1")
        assert receiver.deliver(done("job-1"), headers).status_code == 200
        assert receiver.deliver(done("forged"), headers).status_code == 401
