"""Every command line of the README and of docs/, typed as it stands there beside a live receiver.

A line that is new there is run without further ado, and fails here until it works.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from receiver.sandbox.pictures import draw
from tests.docs.documents import blocks
from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour, neighbour
from tests.support.caddy import free_port
from tests.support.processes import (
    PATIENCE,
    PROVIDER_TOKEN,
    Program,
    Programs,
    Receiver,
    completion,
    environment,
    run_process,
    settings,
)
from tests.support.seaweed import seaweed
from tests.support.waiting import eventually

IDS = ("d13e8a4c-5f0e-4c0b-9e57-6a9b7b1d2c01", "8e5848d5-256f-4775-a2a5-969f3cb5b87e")
REFUSED = "5a1f0c1e-3b51-4d0e-9d5e-2f6f1a0c7b44"
MISTYPED = "77aa0c1e-3b51-4d0e-9d5e-2f6f1a0c7b44"
"""Jobs that the documents' examples speak of."""

(COMPLETION,) = (block for block in blocks("json") if '"_upscaled_image_url"' in block)

LINES = list(
    dict.fromkeys(
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if re.search(r"(?:^|[;&|(])\s*receiver\s", line)
    )
)


STAYS = "receiver (serve|sandbox)"
"""What begins the lines of the commands that stay."""

SHELL = re.compile(r"[^\w\s./:=,-]")
"""What only a shell understands."""


@dataclass(frozen=True)
class Place:
    """Where the lines are typed.

    Attributes:
        folder: the working folder.
        values: the environment.
        further: what else stands in the environment of a line with this word.
        receiver: the one that runs.
        replaced: what stands in the documents for things of the reader's own, and what is there in its place.
    """

    folder: Path
    values: Mapping[str, str]
    further: Mapping[str, Mapping[str, str]]
    receiver: Receiver
    replaced: Mapping[str, str]

    def typed(self, line: str) -> "subprocess.CompletedProcess[str]":
        eventually(self.is_idle)
        for shown, own in self.replaced.items():
            line = line.replace(shown, own)
        more = next((more for word, more in self.further.items() if word in line), {})
        if line.startswith("receiver ") and not SHELL.search(line):
            return run_process(shlex.split(line)[1:], self.folder, {**self.values, **more})
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={**self.values, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    def is_idle(self) -> bool:
        """Whether no image is on its way, of which an audit would say that its job is not archived yet."""
        states = self.receiver.get("/stats").raise_for_status().json()["states"]
        return not states["received"] + states["fetched"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shared_programs: Programs) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "bin").mkdir()
    (folder / "bin" / "receiver").write_text(f'#!/bin/sh\nexec {sys.executable} -m receiver "$@"\n')
    (folder / "bin" / "receiver").chmod(0o755)
    picture = draw(7, SIZE, "jpg")
    (folder / "backup").mkdir()
    (folder / "photo.jpg").write_bytes(picture)
    acme = next(block for block in blocks("toml") if 'name = "acme"' in block)
    (folder / "acme.toml").write_text(acme)
    (folder / "body.json").write_text(
        '{"id": "1", "status": "succeeded", "images": [{"url": "https://a.example/1"}]}'
    )
    (folder / "completion.json").write_text(COMPLETION)
    with neighbour() as near, shared_programs.sandbox() as box, seaweed() as store:
        url = near.serve(picture, "scan.png")
        (folder / "list.txt").write_text(f"{url}\n")
        values = settings(
            folder,
            XIMILAR_API_TOKEN=PROVIDER_TOKEN,
            XIMILAR_API_URL=str(box.base_url).rstrip("/"),
        )
        with shared_programs.receiver(values, folder=folder) as receiver:
            values["RECEIVER_PUBLIC_URL"] = receiver.address
            values = environment(folder, values)
            values["PATH"] = f"{folder / 'bin'}:{values['PATH']}"
            made(receiver, near)
            bucket = {"RECEIVER_ARCHIVE": f"s3://{store.bucket}/readme", **store.environment()}
            replaced = {
                "https://shop.example.com/scan.png": url,
                "/srv/": f"{folder}/",
                "/backup/": f"{folder}/backup/",
            }
            described = {"RECEIVER_PROVIDERS": "acme.toml"}
            further = {"archive-migrate": bucket, "--provider acme": described}
            yield Place(folder, values, further, receiver, replaced)


def made(receiver: Receiver, near: Neighbour) -> None:
    """The jobs that the examples speak of: rejected ones, of which two have an image, and a silent one."""
    receiver.post("/jobs", json={"id": MISTYPED}).raise_for_status()
    for job_id in (*IDS, REFUSED):
        receiver.deliver(completion(job_id, near.serve(b"no image", job_id), *SIZE)).raise_for_status()
    for job_id in (*IDS, REFUSED):
        assert receiver.ended(job_id)["state"] == "rejected"
    for job_id in IDS:
        near.serve(draw(7, SIZE, "png"), job_id)


@pytest.mark.parametrize("line", [line for line in LINES if not re.match(STAYS, line)])
def test_a_line_of_the_documents_does_what_it_says(place: Place, line: str) -> None:
    said = place.typed(line)
    assert said.returncode == 0, f"{line}\n{said.stdout}\n{said.stderr}"
    assert "Traceback" not in said.stderr


def test_serve_is_typed_as_it_stands_there(place: Place, programs: Programs) -> None:
    assert "receiver serve" in LINES
    values = {**place.values, "RECEIVER_DATA_DIR": str(programs.folder / "data")}
    with Program("receiver", ["receiver", "serve"], programs.folder, values) as program:
        programs.started.append(program)
        program.until_event("serving")
        assert program.stop()[0] == 0


@pytest.mark.parametrize("line", [line for line in LINES if re.match("receiver sandbox", line)])
def test_a_sandbox_is_typed_as_it_stands_there(place: Place, programs: Programs, line: str) -> None:
    own_port = [*shlex.split(line), f"--port={free_port()}"]
    with Program("sandbox", own_port, programs.folder, place.values) as program:
        programs.started.append(program)
        program.until(lambda: "http://127.0.0.1" in program.log)
        assert program.stop()[0] == 0


def test_the_completion_of_the_documents_becomes_an_archived_image(place: Place, near: Neighbour) -> None:
    body = json.loads(COMPLETION)
    (record,) = body["response"]["records"]
    size = record["_upscaled_width"], record["_upscaled_height"]
    record["_upscaled_image_url"] = near.serve(draw(7, size, "jpg"))
    answer = place.receiver.deliver(body)
    assert (answer.status_code, answer.json()["state"]) == (200, "received")
    assert place.receiver.ended(body["id"])["state"] == "archived"
    assert place.typed("receiver job 0b8f").returncode == 0


def test_the_documents_show_what_the_lines_print(place: Place) -> None:
    """That its examples find the jobs which they speak of."""
    assert IDS[0] in place.typed("receiver job d13e").stdout
    jobs = json.loads(place.typed("receiver jobs --all --json").stdout)["jobs"]
    assert set(IDS) <= {job["id"] for job in jobs}
