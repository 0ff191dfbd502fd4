"""Receivers that share a ledger, each a process: one is killed, starts again, and another has its name."""

import re
from pathlib import Path

from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import Programs, completion, run, settings


def test_a_killed_receiver_takes_its_place_again_at_once_and_no_other_takes_its_name(
    programs: Programs, near: Neighbour, picture: bytes, database: str, tmp_path: Path
) -> None:
    def place(name: str, folder: str) -> tuple[dict[str, str], Path]:
        (tmp_path / folder).mkdir(exist_ok=True)
        values = settings(tmp_path / folder, RECEIVER_LEDGER=database, RECEIVER_INSTANCE=name)
        return values | {"RECEIVER_ARCHIVE": (tmp_path / "archive").as_uri()}, tmp_path / folder

    here, folder = place("here", "one")
    there, other_folder = place("there", "two")
    with programs.receiver(there, folder=other_folder) as b:
        with programs.receiver_process(here, folder=folder) as a:
            assert a.get("/readyz").json() == {"status": "ok", "failing": {}, "instance": "here"}
            found = a.get("/stats").json()["instances"]
            assert [(it["name"], it["state"], it["leads"]) for it in found] == [
                ("here", "live", False),
                ("there", "live", True),
            ]
            same_name, third = place("here", "three")
            refused = run(("serve",), third, same_name)
            assert refused.returncode == 1
            assert "RECEIVER_INSTANCE" in refused.stderr + refused.stdout
            a.program.kill()
        with programs.receiver_process(here, folder=folder) as a:  # no minute is waited for
            a.deliver(completion("job-1", near.serve(picture, "job-1"), *SIZE)).raise_for_status()
            assert b.ended("job-1")["state"] == "archived"
            assert a.job("job-1") == b.job("job-1")
            assert 'receiver_instance_info{name="here"} 1.0' in a.get("/metrics").text
            page = re.sub(r"<[^>]+>", "", a.get("/").text)
            assert "Shown by the receiver here" in page
            assert "there" in page
            assert a.program.stop()[0] == 0
        states = {it["name"]: it["state"] for it in b.get("/stats").json()["instances"]}
        assert states == {"here": "stopped", "there": "live"}
