"""Who listens to a real receiver: every transition once, in order, over cuts, kills and restarts."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from receiver.ledger import FILE_NAME
from receiver.ledger.sqlite.driver import sqlite3
from tests.e2e.conftest import SIZE
from tests.e2e.test_queries import is_problem
from tests.e2e.test_stop import Load
from tests.sandbox.harness import Neighbour
from tests.support.listener import Listener
from tests.support.processes import PROOF, Programs, Receiver, completion, settings
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory, shared_programs: Programs) -> Iterator[Receiver]:
    with shared_programs.receiver(settings(tmp_path_factory.mktemp("heard"))) as receiver:
        yield receiver


def ids(number: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(number)]


def moves(events: list[Any]) -> list[tuple[str, str | None, str]]:
    return [(event["event"], event["from"], event["to"]) for event in events]


def test_each_transition_is_one_event_with_all_that_the_history_says(
    heard: Receiver, near: Neighbour, picture: bytes
) -> None:
    (job_id,) = ids(1)
    with Listener(heard.address) as listener:
        assert heard.post("/jobs", json={"id": job_id, "ref": "a ref"}).status_code == 201
        heard.deliver(completion(job_id, near.serve(picture), 1, 1))
        heard.ended(job_id)
        heard.deliver(completion(job_id, near.serve(picture, "another"), *SIZE))
        listener.until(lambda: len(listener.transitions) >= 6)

    assert moves(listener.transitions) == [
        ("submitted", None, "submitted"),
        ("received", "submitted", "received"),
        ("rejected", "received", "rejected"),
        ("received", "rejected", "received"),
        ("fetched", "received", "fetched"),
        ("archived", "fetched", "archived"),
    ]
    history = [line for line in heard.job(job_id)["history"] if line["from"] != line["to"]]
    assert [
        {key: value for key, value in event.items() if key not in ("seq", "id", "ref")}
        for event in listener.transitions
    ] == history
    assert {(event["id"], event["ref"]) for event in listener.transitions} == {(job_id, "a ref")}
    assert [event.id for event in listener.events] == [str(event.data["seq"]) for event in listener.events]
    assert listener.headers["content-type"].startswith("text/event-stream")
    assert listener.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in listener.headers
    assert listener.retry is not None


def test_without_a_place_it_begins_at_now_and_a_place_is_known_before_the_first_event(
    heard: Receiver,
) -> None:
    first, second, third = ids(3)
    heard.deliver({"id": first, "status": "FAILED"})
    with Listener(heard.address) as listener:
        place = listener.last
    heard.deliver({"id": second, "status": "FAILED"})
    with Listener(heard.address, place) as listener:
        heard.deliver({"id": third, "status": "FAILED"})
        listener.until(lambda: len(listener.transitions) >= 2)
    assert [event["id"] for event in listener.transitions] == [second, third]


def test_the_place_may_be_a_parameter_and_a_header_wins_over_it(heard: Receiver) -> None:
    (job_id,) = ids(1)
    heard.deliver({"id": job_id, "status": "FAILED"})
    with Listener(heard.address, after="0", wait="0") as listener:
        listener.until_ended()
    assert listener.transitions[0]["seq"] == 1
    assert listener.transitions[-1]["id"] == job_id
    last = listener.events[-1].id
    with Listener(heard.address, last, after="0", wait="0") as listener:
        listener.until_ended()
    assert listener.transitions == []


def test_filters_narrow_and_the_place_moves_on_all_the_same(heard: Receiver) -> None:
    one, other = ids(2)
    with Listener(heard.address) as listener:
        place = listener.last
        assert place is not None
    heard.deliver({"id": one, "status": "FAILED"}, {**PROOF, "X-Receiver-Ref": "r " + one})
    heard.post("/jobs", json={"id": other, "ref": "r " + one})
    for parameters, found in (
        ({"id": one}, [one]),
        ({"ref": "r " + one}, [one, other]),
        ({"state": "submitted"}, [other]),
        ({"ref": "r " + one, "state": "failed"}, [one]),
        ({"ref": "nobody's"}, []),
    ):
        with Listener(heard.address, after=place, wait="0", **parameters) as listener:
            listener.until_ended()
        assert [event["id"] for event in listener.transitions] == found, parameters
        assert listener.last is not None
        assert int(listener.last) == int(place) + 2


@pytest.mark.parametrize(
    ("headers", "query", "named"),
    [
        ({"Last-Event-ID": "999999999"}, "", "Last-Event-ID is 999999999, ahead of the ledger"),
        ({}, "after=999999999", "after is 999999999, ahead of the ledger"),
        ({"Last-Event-ID": "x"}, "", "Last-Event-ID must be"),
        ({"Last-Event-ID": ""}, "", "Last-Event-ID must be"),
        ({"Last-Event-ID": "-1"}, "after=1", "Last-Event-ID must be"),
        ({}, "after=1.5", "after must be"),
        ({}, "after=" + "9" * 40, "after must be"),
        ({}, "wait=61", "wait must be"),
        ({}, "state=lost", "state is none of"),
        ({}, "id=..", "id is no job's id"),
        ({}, "since=1", "'since' is no parameter here"),
    ],
)
def test_a_place_that_cannot_be_is_refused_by_name(
    heard: Receiver, headers: dict[str, str], query: str, named: str
) -> None:
    answer = heard.get(f"/jobs/changes?{query}", headers=headers)
    assert is_problem(answer, 422, "body.invalid_query")
    assert named in answer.json()["detail"]


def test_who_asks_for_the_head_alone_gets_it(heard: Receiver) -> None:
    answer = heard.head("/jobs/changes")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_what_a_command_commits_beside_the_server_is_heard(heard: Receiver) -> None:
    (job_id,) = ids(1)
    heard.deliver(completion(job_id, "http://127.0.0.1:1/", 8, 8))
    heard.attempted(job_id)
    with Listener(heard.address) as listener:
        with closing(sqlite3.connect(heard.data_dir / FILE_NAME, isolation_level=None, timeout=30)) as db:
            db.execute(
                "UPDATE jobs SET state = 'rejected', event = 'rejected', holder = NULL,"
                " next_attempt_at = NULL WHERE id = ?",
                (job_id,),
            )
        listener.until(lambda: listener.transitions)
    assert listener.transitions[0]["to"] == "rejected"


def test_who_was_away_longer_than_the_history_is_kept_is_told_of_the_gap(heard: Receiver) -> None:
    for job_id in ids(3):
        heard.deliver({"id": job_id, "status": "FAILED"})
    with closing(sqlite3.connect(heard.data_dir / FILE_NAME, isolation_level=None, timeout=30)) as db:
        (last,) = db.execute("SELECT max(seq) FROM history").fetchone()
        db.execute("DELETE FROM history WHERE seq = ?", (last - 1,))
    with Listener(heard.address, str(last - 3), wait="0") as listener:
        listener.until_ended()
    assert listener.events[0].name == "gap"
    assert listener.events[0].data == {"after": last - 3, "until": last - 1}
    assert [event["seq"] for event in listener.transitions] == [last - 2, last]
    with Listener(heard.address, str(last - 1), wait="0") as listener:
        listener.until_ended()
    assert [event.name for event in listener.events] == ["transition"]


def test_a_stop_lets_everyone_go(programs: Programs) -> None:
    with (
        programs.receiver(settings(programs.folder)) as receiver,
        Listener(receiver.address) as one,
        Listener(receiver.address, after="0") as other,
    ):
        code, seconds = receiver.program.stop()
        one.until_ended()
        other.until_ended()
    assert (code, seconds < 10) == (0, True)
    assert "Traceback" not in receiver.program.log


def test_a_listener_who_is_cut_off_again_and_again_under_load_misses_nothing(
    programs: Programs, near: Neighbour, picture: bytes
) -> None:
    """Over cuts, a kill -9 and a restart: what it heard is the history, in order, each line once."""
    values = settings(programs.folder)
    url = near.serve(picture)
    heard: list[Any] = []
    last: str | None = "0"
    with programs.receiver_process(values) as receiver:
        values["RECEIVER_PORT"] = str(receiver.port)
        load = Load(receiver, url, "load")
        with load.running():
            for _ in range(10):
                with Listener(receiver.address, last) as listener:
                    listener.until(lambda: len(listener.transitions) >= 20)
                last, heard = listener.last, heard + listener.transitions
            receiver.program.kill()
    with programs.receiver(values) as receiver:
        for job_id in load.acknowledged:
            receiver.ended(job_id)
        with Listener(receiver.address, last) as listener:
            stats = receiver.get("/stats").json()["states"]
            listener.until(lambda: int(listener.last or 0) >= last_history_seq(receiver))
        heard += listener.transitions
        history = lines(receiver)
    assert stats["archived"] >= len(set(load.acknowledged))
    assert [event["seq"] for event in heard] == history


def lines(receiver: Receiver) -> list[int]:
    with closing(sqlite3.connect(receiver.data_dir / FILE_NAME, timeout=30)) as db:
        found = db.execute("SELECT seq FROM history WHERE before IS NOT after ORDER BY seq")
        return [seq for (seq,) in found]


def last_history_seq(receiver: Receiver) -> int:
    return eventually(lambda: lines(receiver))[-1]
