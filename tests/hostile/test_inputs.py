"""What is dropped or refused of foreign input, and where that is said."""

import pytest

from receiver.core.errors import InvalidRequestError
from receiver.submission.images import named
from tests.e2e.conftest import SIZE
from tests.faults.steps import events
from tests.support.processes import PROOF, Programs, completion, settings


@pytest.mark.parametrize("ref", ["x" * 201, "a\tb", ""])
def test_a_reference_that_is_none_is_dropped_and_its_job_says_so(programs: Programs, ref: str) -> None:
    with programs.receiver(settings(programs.folder)) as receiver:
        body = completion("job", "https://10.0.0.1/never-asked-for", *SIZE)
        assert receiver.deliver(body, {**PROOF, "X-Receiver-Ref": ref}).status_code == 200
        job = receiver.ended("job")
    assert job["ref"] is None
    assert "ref_dropped" in events(job)


def test_the_start_warns_of_weak_secrets_and_of_headers_that_proxies_drop(programs: Programs) -> None:
    headers = '{"X_Webhook.Secret": "canary"}'
    values = settings(programs.folder, RECEIVER_WEBHOOK_HEADERS=headers, RECEIVER_SIGNING_KEYS="short-key")
    with programs.receiver(values) as receiver:
        weak = receiver.program.events("secret can be guessed")
        dropped = receiver.program.events("proxies may drop this header")
    assert {line["setting"] for line in weak} == {"RECEIVER_WEBHOOK_HEADERS", "RECEIVER_SIGNING_KEYS"}
    assert [line["header"] for line in dropped] == ["X_Webhook.Secret"]
    assert "canary" not in receiver.program.log


@pytest.mark.parametrize("url", ["https://me:canary@host/x.png", "https://:canary@host/x.png"])
def test_a_source_with_a_password_is_not_sent_on(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="password") as refused:
        named([url], None)
    assert "canary" not in str(refused.value)
