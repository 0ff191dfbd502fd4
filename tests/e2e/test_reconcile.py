"""Completions that never come: real processes, and a provider that loses, doubles and delays them."""

import base64
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from receiver.sandbox.pictures import draw
from tests.faults.matrix import in_folder
from tests.support.processes import PROVIDER_TOKEN, Programs, Receiver, Sandbox, run, settings
from tests.support.waiting import eventually

PICTURE = {"_base64": base64.b64encode(draw(3, (24, 18), "png")).decode()}


def asking(folder: Path, box: Sandbox, **more: str) -> dict[str, str]:
    """The settings of a receiver that asks this sandbox, at once and quickly."""
    quick = {
        "XIMILAR_API_TOKEN": PROVIDER_TOKEN,
        "XIMILAR_API_URL": str(box.base_url).rstrip("/"),
        "RECEIVER_OVERDUE_AFTER": "1s",
        "RECEIVER_RECONCILE_EVERY": "1s",
        "RECEIVER_RECONCILE_RATE": "500",
    }
    return settings(folder, **{**quick, **more})


def announced(receiver: Receiver, box: Sandbox, webhook: str, count: int) -> list[str]:
    """Submits so many pictures, and tells the receiver of each."""
    ids = []
    for number in range(count):
        job_id = box.submit(PICTURE, webhook)
        receiver.post("/jobs", json={"id": job_id, "ref": f"order {number}"}).raise_for_status()
        ids.append(job_id)
    return ids


def counts(receiver: Receiver) -> Mapping[str, int]:
    found: Mapping[str, int] = receiver.get("/stats").raise_for_status().json()["states"]
    return found


def histories(receiver: Receiver, ids: list[str]) -> dict[str, list[str]]:
    return {job_id: [line["event"] for line in receiver.job(job_id)["history"]] for job_id in ids}


def test_with_every_completion_lost_all_jobs_are_archived_without_one_webhook(programs: Programs) -> None:
    with (
        programs.sandbox("--drop", "1", "--page-size", "20") as box,
        programs.receiver(asking(programs.folder, box)) as receiver,
    ):
        ids = announced(receiver, box, receiver.webhook, 80)
        eventually(lambda: counts(receiver)["archived"] == 80, 60)
        numbers = receiver.get("/stats").json()["reconcile"]
        assert (numbers["found"]["total"], numbers["late"]["total"], numbers["adopted"]["total"]) == (
            80,
            0,
            0,
        )
        assert receiver.program.events("delivery") == []
        assert {tuple(events) for events in histories(receiver, ids).values()} <= {
            ("submitted", "found", "fetched", "archived"),
            ("submitted", "asked", "found", "fetched", "archived"),
            ("submitted", "asked", "asked", "found", "fetched", "archived"),
        }
        assert receiver.get("/jobs", params={"overdue": "true"}).json()["jobs"] == []


@pytest.mark.timeout(240)
def test_with_half_lost_a_tenth_doubled_short_lives_and_two_kills_all_are_archived_once(
    programs: Programs,
) -> None:
    options = (
        "--drop",
        "0.5",
        "--twice",
        "0.1",
        "--url-lifetime",
        "30s",
        "--renew-urls",
        "--page-size",
        "50",
    )
    with programs.sandbox(*options, "--seed", "7") as box:
        values = asking(programs.folder, box)
        with programs.receiver_process(values) as receiver:
            values["RECEIVER_PORT"] = str(receiver.port)  # the webhook stays the same over the restarts
            webhook = receiver.webhook
            ids = announced(receiver, box, webhook, 100)
            receiver.program.kill()
        ids += [box.submit(PICTURE, webhook) for _ in range(20)]  # all of their completions meet nobody
        with programs.receiver_process(values) as receiver:
            for job_id in ids[100:]:
                receiver.post("/jobs", json={"id": job_id}).raise_for_status()
            ids += announced(receiver, box, webhook, 80)
            receiver.program.kill()
        with programs.receiver(values) as receiver:
            eventually(lambda: counts(receiver)["archived"] == 200, 120)
            told = histories(receiver, ids)
            kinds = Counter("found" if "found" in events else "received" for events in told.values())
            assert kinds["found"] >= 60
            assert kinds["received"] >= 40
            for job_id, events in told.items():
                assert (events[0], events[-1]) in {
                    ("submitted", "archived"),
                    ("received", "archived"),
                    ("submitted", "late_delivery"),
                }, (job_id, events)
                assert events.count("archived") == 1
                assert events.count("found") + events.count("received") == 1
        assert len(in_folder(programs.folder / "data" / "archive")) == 200


def test_completions_that_were_sent_while_the_receiver_was_down_are_found(programs: Programs) -> None:
    with programs.sandbox() as box:
        values = asking(programs.folder, box)
        with programs.receiver(values) as receiver:
            webhook = receiver.webhook
            assert receiver.program.stop()[0] == 0
        ids = [box.submit(PICTURE, webhook) for _ in range(10)]
        box.program.until(lambda: box.program.log.count("completion lost") == 10)
        with programs.receiver(values) as receiver:
            for job_id in ids:
                receiver.post("/jobs", json={"id": job_id}).raise_for_status()
            for job_id in ids:
                assert receiver.ended(job_id)["state"] == "archived"


def test_jobs_that_nobody_announced_are_adopted_where_that_is_wanted_and_only_there(
    programs: Programs,
) -> None:
    with programs.sandbox("--drop", "1") as box:
        ids = [box.submit(PICTURE, "http://127.0.0.1:9/webhooks/ximilar") for _ in range(5)]
        with programs.receiver(asking(programs.folder, box)) as receiver:
            known = announced(receiver, box, receiver.webhook, 5)
            for job_id in known:
                assert receiver.ended(job_id)["state"] == "archived"
            assert sum(counts(receiver).values()) == 5
        values = asking(programs.folder, box, RECEIVER_ADOPT="on")
        with programs.receiver(values) as receiver:
            eventually(lambda: counts(receiver)["archived"] == 10)
            for job_id in ids:
                assert receiver.job(job_id)["history"][0]["event"] == "adopted"
            assert receiver.get("/stats").json()["reconcile"]["adopted"]["total"] == 5


@pytest.mark.parametrize("fault", ["failed", "limit", "unsupported"])
def test_a_failure_that_nobody_is_told_of_ends_the_job(programs: Programs, fault: str) -> None:
    with programs.sandbox() as box, programs.receiver(asking(programs.folder, box)) as receiver:
        job_id = box.submit(PICTURE, receiver.webhook, fault)
        receiver.post("/jobs", json={"id": job_id}).raise_for_status()
        job = receiver.ended(job_id)
        assert (job["state"], job["error"]["reason"]) == ("failed", "provider.job_failed")


def test_a_job_that_runs_for_ever_is_overdue_and_says_what_the_provider_says(programs: Programs) -> None:
    with programs.sandbox() as box, programs.receiver(asking(programs.folder, box)) as receiver:
        job_id = box.submit(PICTURE, receiver.webhook, "stuck")
        receiver.post("/jobs", json={"id": job_id}).raise_for_status()

        def said() -> Any:
            return [line["detail"] for line in receiver.job(job_id)["history"] if line["event"] == "asked"]

        eventually(lambda: "The provider says PROCESSING." in said())
        overdue = receiver.get("/jobs", params={"overdue": "true"}).json()["jobs"]
        assert [job["id"] for job in overdue] == [job_id]


def test_a_provider_that_throttles_and_breaks_now_and_then_delays_and_loses_nothing(
    programs: Programs,
) -> None:
    with (
        programs.sandbox("--drop", "1", "--seed", "3") as box,
        programs.sandbox("--drop", "1", "--seed", "3", "--throttle", "1") as closed,
    ):
        values = asking(programs.folder, box)
        with programs.receiver({**values, "XIMILAR_API_URL": str(closed.base_url)}) as receiver:
            ids = announced(receiver, box, receiver.webhook, 5)
            receiver.program.until_event(
                "the provider does not answer our questions", reason="provider.rate_limited"
            )
            assert (
                receiver.get("/stats").json()["reconcile"]["asked"]["reasons"]["provider.rate_limited"] >= 1
            )
            assert counts(receiver)["submitted"] == 5
        with programs.receiver(values) as receiver:
            for job_id in ids:
                assert receiver.ended(job_id)["state"] == "archived"


def test_nothing_that_was_found_shows_our_secrets(programs: Programs) -> None:
    with (
        programs.sandbox("--drop", "1") as box,
        programs.receiver(asking(programs.folder, box)) as receiver,
    ):
        (job_id,) = announced(receiver, box, receiver.webhook, 1)
        assert receiver.ended(job_id)["state"] == "archived"
        shown = json.dumps(receiver.job(job_id)) + receiver.program.log
        assert "canary" not in shown


def test_the_page_says_when_the_provider_cannot_be_asked(programs: Programs) -> None:
    with programs.sandbox() as box:
        values = asking(programs.folder, box)
        with programs.receiver({**values, "XIMILAR_API_TOKEN": "wrong"}) as receiver:
            receiver.post("/jobs", json={"id": "a-silent-job"}).raise_for_status()
            said = "The provider gave no answer when it was last asked, or refused the token"
            eventually(lambda: said in receiver.get("/").text)
        with programs.receiver(values) as receiver:
            eventually(
                lambda: 'receiver_provider_up{provider="ximilar"} 1.0' in receiver.get("/metrics").text
            )
            assert "The provider gave no answer" not in receiver.get("/").text
        with programs.receiver(settings(programs.folder)) as receiver:
            assert "XIMILAR_API_TOKEN is not set" in receiver.get("/").text


# By hand.


def by_hand(folder: Path, values: Mapping[str, str], *options: str) -> tuple[int, Any, str]:
    done = run(["reconcile", "--json", *options], folder, values)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_one_round_by_hand_finds_what_was_missed_while_serve_was_down(programs: Programs) -> None:
    with programs.sandbox() as box:
        values = asking(programs.folder, box, RECEIVER_OVERDUE_AFTER="1h")
        with programs.receiver(values) as receiver:
            ids = announced(receiver, box, "http://127.0.0.1:9/webhooks/ximilar", 10)
            box.program.until(lambda: box.program.log.count("completion lost") == 10)
        code, said, _ = by_hand(programs.folder, values)
        assert (code, said["found"], said["error"]) == (0, 10, None)
        with programs.receiver(values) as receiver:
            for job_id in ids:
                assert receiver.ended(job_id)["state"] == "archived"
        assert by_hand(programs.folder, values)[1]["asked"] == 0


def test_a_round_by_hand_beside_a_running_serve_wakes_it(programs: Programs) -> None:
    with programs.sandbox("--drop", "1") as box:
        values = asking(programs.folder, box, RECEIVER_OVERDUE_AFTER="1h", RECEIVER_RECONCILE_EVERY="1h")
        with programs.receiver(values) as receiver:
            (job_id,) = announced(receiver, box, receiver.webhook, 1)
            eventually(lambda: box.get(f"/request/{job_id}/status").json()["status"] == "DONE")
            assert by_hand(programs.folder, values)[:1] == (0,)
            assert receiver.ended(job_id)["state"] == "archived"


def test_a_round_by_hand_says_in_numbers_and_words_what_it_found(programs: Programs) -> None:
    with programs.sandbox("--drop", "1") as box:
        values = asking(programs.folder, box, RECEIVER_OVERDUE_AFTER="1h")
        box.submit(PICTURE, "http://127.0.0.1:9/")
        eventually(lambda: box.get("/request", params={"status": "DONE"}).json()["count"] == 1)
        done = run(["reconcile", "--adopt"], programs.folder, values)
        assert (done.returncode, done.stderr) == (0, "")
        assert "0  adopted that nobody had announced" in done.stdout


def test_a_round_by_hand_that_the_provider_refuses_says_so_and_exits_with_1(programs: Programs) -> None:
    with programs.sandbox() as box:
        values = asking(programs.folder, box) | {"XIMILAR_API_TOKEN": "wrong"}
        code, said, _ = by_hand(programs.folder, values, "--adopt")
        assert (code, said["error"]["reason"]) == (1, "provider.token_refused")
        code, said, _ = by_hand(programs.folder, values)
        assert (code, said["asked"]) == (0, 0), "there was nothing to ask"


def test_a_round_by_hand_where_there_is_no_ledger_makes_none_and_says_so(programs: Programs) -> None:
    values = settings(programs.folder, XIMILAR_API_TOKEN="token")
    done = run(["reconcile"], programs.folder, values)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("receiver: ledger.unavailable: There is no ledger in ")
    assert not (programs.folder / "data").exists()


def test_a_round_by_hand_needs_a_token(programs: Programs) -> None:
    done = run(["reconcile"], programs.folder, settings(programs.folder))
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["receiver: XIMILAR_API_TOKEN: is needed to ask the provider with"],
    )
