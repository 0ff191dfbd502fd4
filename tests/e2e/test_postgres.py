"""A receiver whose ledger is in PostgreSQL: every route, page and command answers as with a file."""

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.postgres import PASSWORD, Postgres
from tests.support.processes import PATIENCE, PROOF, Programs, completion, run, run_process, settings
from tests.support.proxy import proxy

ROUTES = (
    *(
        "/jobs",
        "/jobs?state=archived&limit=1",
        "/jobs?ref=order&overdue=false&provider=ximilar",
        "/jobs/good",
    ),
    "/jobs?reason=image.unknown_format&since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00Z",
    *("/deliveries", "/deliveries?outcome=body.not_json", "/jobs/good/image", "/jobs/unknown"),
    *("/jobs/bad/refused", "/readyz", "/healthz", "/stats"),
)

PAGES = ("/", "/page/jobs/good", "/page/jobs/bad", "/page/gallery", "/page/deliveries", "/page/jobs/unknown")

COMMANDS = (
    *(("jobs", "--json"), ("jobs", "--state", "archived", "--json"), ("job", "good", "--json")),
    *(("job", "goo", "--json"), ("retry", "bad", "--json"), ("accept", "bad", "--json"), ("audit", "--json")),
    *(("rebuild", "--json"), ("prune", "--dry-run", "--json"), ("prune", "--json"), ("forget", "silent")),
    *(("disk-lost", "unknown"), ("disk-lost", "unknown", "--yes")),
    *(("reconcile", "--json"), ("archive-move", "file:///nowhere", "file:///elsewhere", "--json")),
)


def shape(document: Any) -> Any:
    """A document without what no two receivers say alike: numbers, times, ports and folders."""
    if isinstance(document, dict):
        return {key: shape(value) for key, value in document.items() if key not in ("instance", "instances")}
    if isinstance(document, list):
        return [shape(each) for each in document]
    if isinstance(document, str):
        return re.sub(r"\d+|/\S+", "N", document)
    return type(document).__name__


def read(text: str) -> Any:
    try:
        return shape(json.loads(text))
    except ValueError:
        return [shape(line) for line in text.splitlines()]


def told(programs: Programs, near: Neighbour, picture: bytes, folder: Path, **more: str) -> dict[str, Any]:
    """What each route and command says after a few jobs."""
    folder.mkdir()
    values = settings(folder, **more)
    found: dict[str, Any] = {}
    with programs.receiver(values, folder=folder) as receiver:
        good = completion("good", near.serve(picture, f"{folder.name}-good"), *SIZE)
        receiver.post("/jobs", json={"id": "good", "ref": "order"}).raise_for_status()
        receiver.post("/jobs", json={"id": "silent"}).raise_for_status()
        for _ in range(2):
            answer = receiver.deliver(good, {**PROOF, "X-Receiver-Ref": "order"})
            found[f"delivered {len(found)}"] = answer.status_code, shape(answer.json())
        receiver.deliver(completion("bad", near.serve(b"no image", f"{folder.name}-bad"), *SIZE))
        receiver.deliver(b"{")
        assert receiver.ended("good")["state"] == "archived"
        assert receiver.ended("bad")["state"] == "rejected"
        for route in ROUTES:
            answer = receiver.get(route)
            body = answer.content if answer.headers["content-type"].startswith("image") else read(answer.text)
            found[route] = answer.status_code, body
        for page in PAGES:
            found[page] = receiver.get(page).status_code, None
        with receiver.stream("GET", "/jobs/changes", headers={"Last-Event-ID": "0"}) as stream:
            lines = (line for line in stream.iter_lines() if line.startswith("data:"))
            found["changes"] = sorted(json.loads(next(lines)[5:])["id"] for _ in range(7))
        metrics = re.sub(r'(receiver_instance_info\{name=)"[^"]*"', r"\1", receiver.get("/metrics").text)
        found["metrics"] = {line.split(" ")[0] for line in metrics.splitlines() if not line.startswith("#")}
        found["retried"] = receiver.post("/jobs/bad/retry").status_code
        assert receiver.ended("bad")["state"] == "rejected"
        for command in COMMANDS:
            done = run(command, folder, values)
            found[" ".join(command)] = done.returncode, read(done.stdout), read(done.stderr)
        assert receiver.ended("good")["state"] == "archived"
    return found


def test_every_route_and_command_answers_as_with_a_file(
    programs: Programs, near: Neighbour, picture: bytes, database: str, tmp_path: Path
) -> None:
    here = told(programs, near, picture, tmp_path / "file")
    there = told(programs, near, picture, tmp_path / "database", RECEIVER_LEDGER=database)
    assert here.keys() == there.keys()
    for name, answer in here.items():
        assert (name, there[name]) == (name, answer)


def doctor(folder: Path, values: Mapping[str, str]) -> dict[str, Any]:
    done = run(("doctor", "--json"), folder, values)
    assert PASSWORD not in done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {check["check"]: check for check in reversed(found["checks"])}


def test_doctor_says_what_a_database_lacks_and_backup_what_copies_it(
    programs: Programs, postgres_server: Postgres, database: str, tmp_path: Path
) -> None:
    values = settings(tmp_path, RECEIVER_LEDGER=database)
    before = doctor(tmp_path, values)
    assert before["ledger"]["level"] == "warning"
    assert "There is no ledger" in before["ledger"]["detail"]
    with programs.receiver(values):
        found = doctor(tmp_path, values)
        assert found["ledger"]["level"] == found["jobs"]["level"] == "OK"
        assert found["database"]["level"] == "failure"  # the tests' server takes no care of a power cut
        assert "fsync" in found["database"]["detail"]
        assert found["clock"]["level"] == "OK"
        name = database.rpartition("/")[2]
        postgres_server.execute("REVOKE INSERT ON upscale_receiver.jobs FROM receiver", database=name)
        assert "INSERT on jobs" in doctor(tmp_path, values)["database"]["detail"]
        done = run(("backup", "copy"), tmp_path, values)
        assert (done.returncode, "pg_dump" in done.stderr) == (1, True)
        postgres_server.execute("ALTER SCHEMA upscale_receiver RENAME TO gone", database=name)
        ledger = doctor(tmp_path, values)["ledger"]
        assert (ledger["level"], "There is no ledger" in ledger["detail"]) == ("failure", True)
        postgres_server.execute("ALTER SCHEMA gone RENAME TO upscale_receiver", database=name)
    postgres_server.execute("ALTER TABLE upscale_receiver.totals RENAME TO gone", database=name)
    ledger = doctor(tmp_path, values)["ledger"]
    assert (ledger["level"], "42P01" in ledger["detail"]) == ("failure", True)
    values["RECEIVER_LEDGER"] = database.replace(name, "absent")
    found = doctor(tmp_path, values)
    assert (found["database"]["level"], "does not exist" in found["database"]["detail"]) == ("failure", True)


@pytest.mark.parametrize("url", ["postgresql://user:a-canary@127.0.0.1:1/absent"])
def test_a_start_without_its_database_says_why_and_not_the_password(tmp_path: Path, url: str) -> None:
    done = run(("serve",), tmp_path, settings(tmp_path, RECEIVER_LEDGER=url))
    assert done.returncode == 1
    assert "ledger.unavailable" in done.stdout + done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_without_its_database_a_receiver_refuses_deliveries_and_then_goes_on(
    programs: Programs, postgres_server: Postgres, near: Neighbour, picture: bytes, database: str
) -> None:
    with proxy(postgres_server.port) as way:
        far = database.replace(f":{postgres_server.port}/", f":{way.port}/")
        with programs.receiver(settings(programs.folder, RECEIVER_LEDGER=far)) as receiver:
            near.gate = threading.Event()
            receiver.deliver(completion("before", near.serve(picture, "before"), *SIZE)).raise_for_status()
            assert near.asked.wait(PATIENCE)
            way.down.set()
            way.cut()
            near.gate.set()  # the download ends, and cannot be recorded yet
            refusal = receiver.deliver(completion("while", near.serve(picture, "while"), *SIZE))
            assert (refusal.status_code, refusal.json()["reason"]) == (503, "ledger.unavailable")
            assert refusal.headers["retry-after"]
            assert receiver.get("/readyz").status_code == receiver.get("/jobs").status_code == 503
            receiver.program.until_event("ledger cannot be written")
            way.down.clear()
            again = receiver.deliver(completion("while", near.serve(picture, "while"), *SIZE))
            assert (again.status_code, again.json()["duplicate"]) == (200, False)
            assert [receiver.ended(job)["state"] for job in ("before", "while")] == ["archived"] * 2


def test_the_password_may_stand_in_a_dotenv_as_libpq_names_it(
    programs: Programs, database: str, tmp_path: Path
) -> None:
    values = settings(tmp_path, RECEIVER_LEDGER=database)
    with programs.receiver(values):
        values["RECEIVER_LEDGER"] = database.replace(f":{PASSWORD}@", "@")
        refused = run_process(("jobs", "--json"), tmp_path, values)
        assert (refused.returncode, "no password supplied" in refused.stderr) == (1, True)
        (tmp_path / ".env").write_text(f"PGPASSWORD={PASSWORD}\n")
        assert run_process(("jobs", "--json"), tmp_path, values).returncode == 0
