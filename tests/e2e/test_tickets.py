"""Tickets: with signing keys, a delivery must carry one that this installation signed, for this job alone."""

from collections.abc import Iterator
from typing import Any

import pytest

from receiver.providers.ximilar.authentication import Authenticator
from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import PROOF, SIGNING_KEY, Programs, Receiver, completion, settings


@pytest.fixture(scope="module")
def ticketed(tmp_path_factory: pytest.TempPathFactory, shared_programs: Programs) -> Iterator[Receiver]:
    """A receiver that wants tickets, and is in the middle of a rotation of its keys."""
    keys = f"canary-of-a-newer-key,{SIGNING_KEY}"
    values = settings(tmp_path_factory.mktemp("ticketed"), RECEIVER_SIGNING_KEYS=keys)
    with shared_programs.receiver(values) as receiver:
        yield receiver


def ticket(key: str = SIGNING_KEY) -> str:
    return Authenticator({}, [key]).issue_ticket()


def delivery(near: Neighbour, picture: bytes, job_id: str) -> Any:
    return completion(job_id, near.serve(picture), *SIZE)


def test_a_ticket_admits_one_job_and_again_that_job_alone(
    ticketed: Receiver, near: Neighbour, picture: bytes
) -> None:
    headers = {**PROOF, "X-Receiver-Job": ticket()}

    first = ticketed.deliver(delivery(near, picture, "first"), headers)
    assert first.json() == {"id": "first", "state": "received", "duplicate": False}
    other = ticketed.deliver(delivery(near, picture, "other"), headers)
    again = ticketed.deliver(delivery(near, picture, "first"), headers)

    assert (other.status_code, other.json()["reason"]) == (401, "auth.refused")
    assert ticketed.get("/jobs/other").status_code == 404
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert ticketed.ended("first")["state"] == "archived"


def test_one_refused_ticket_does_not_refuse_those_that_came_at_the_same_time(
    ticketed: Receiver, near: Neighbour, picture: bytes
) -> None:
    used = ticket()
    ticketed.deliver(delivery(near, picture, "owner"), {**PROOF, "X-Receiver-Job": used}).raise_for_status()

    codes = [
        ticketed.deliver(
            delivery(near, picture, f"beside-{number}"),
            {**PROOF, "X-Receiver-Job": used if number % 2 else ticket()},
        ).status_code
        for number in range(6)
    ]

    assert codes == [200, 401] * 3


def test_no_ticket_a_strange_one_and_one_without_the_headers_get_the_very_same_answer(
    ticketed: Receiver, near: Neighbour, picture: bytes
) -> None:
    body = delivery(near, picture, "refused")
    good = ticket()
    answers = [
        ticketed.deliver(body, headers)
        for headers in (
            {**PROOF},
            {"X-Receiver-Job": good},
            {**PROOF, "X-Receiver-Job": ""},
            {**PROOF, "X-Receiver-Job": ticket("another installation's key")},
            # Not the last character: some of its bits are padding, and mean nothing.
            {**PROOF, "X-Receiver-Job": good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1]},
            {**PROOF, "X-Receiver-Job": good.partition(".")[0]},
            [*PROOF.items(), ("X-Receiver-Job", good), ("X-Receiver-Job", good)],
        )
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert ticketed.get("/jobs/refused").status_code == 404
    assert ticketed.deliver(body, {**PROOF, "X-Receiver-Job": good}).status_code == 200


@pytest.mark.parametrize("key", ["canary-of-a-newer-key", SIGNING_KEY])
def test_while_keys_are_rotated_tickets_of_both_are_taken(
    ticketed: Receiver, near: Neighbour, picture: bytes, key: str
) -> None:
    answer = ticketed.deliver(delivery(near, picture, f"by-{key}"), {**PROOF, "X-Receiver-Job": ticket(key)})

    assert answer.status_code == 200


def test_a_body_that_is_no_completion_does_not_use_its_ticket_up(
    ticketed: Receiver, near: Neighbour, picture: bytes
) -> None:
    headers = {**PROOF, "X-Receiver-Job": ticket()}

    assert ticketed.deliver({"id": "spoilt"}, headers).status_code == 422
    assert ticketed.deliver(delivery(near, picture, "unspoilt"), headers).status_code == 200
