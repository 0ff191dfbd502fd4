"""schemathesis against a real receiver: whatever the document allows is answered as it says."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.processes import (
    API_TOKEN,
    WEBHOOK_SECRET,
    Programs,
    Receiver,
    completion,
    environment,
    settings,
)

EXAMPLES = 10
"""Of each kind for each route, beside those that schemathesis works out from the limits."""


def configuration(receiver: Receiver) -> str:
    """What schemathesis is told; secrets stand in the file, so that no process title shows them."""
    cursor = receiver.get("/jobs", params={"limit": "1"}).json()["next"]
    return f"""
        [auth.openapi.bearer]
        bearer = "{API_TOKEN}"

        [auth.openapi.webhook0]
        api_key = "{WEBHOOK_SECRET}"

        [generation]
        # Of other letters Python knows more than JSON Schema can say which of them can be printed.
        codec = "ascii"

        # A cursor is opaque and a line of the history has a number: none can be made up.
        [parameters]
        cursor = "{cursor}"
        after = "0"
        "Last-Event-ID" = "1"

        # A wait is no fault, but takes its time; and a stream without it has no end.
        [[operations]]
        include-name = "GET /jobs/{{id}}"
        parameters = {{ wait = 0 }}

        [[operations]]
        include-name = "GET /jobs/changes"
        parameters = {{ wait = 0 }}
    """


@pytest.mark.timeout(300)  # a dozen seconds of work, on a machine that has none
def test_every_route_answers_as_the_document_says(programs: Programs) -> None:
    # Nothing is ever fetched from what is made up.
    values = settings(programs.folder, RECEIVER_IMAGE_SOURCES="https://images.invalid/")
    with programs.receiver(values) as receiver:
        for state in ("DONE", "FAILED", "no state"):
            body = completion(str(uuid.uuid4()), "https://elsewhere.invalid/", 8, 8)
            receiver.deliver({**body, "status": state})
        said = schemathesis(receiver, programs.folder)

    assert said.returncode == 0, said.stdout[-20_000:] + said.stderr[-2_000:]


def schemathesis(receiver: Receiver, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs it on the document as the receiver gives it, with every check that it has."""
    (folder / "openapi.json").write_text(json.dumps(receiver.get("/openapi.json").json()), encoding="utf-8")
    (folder / "schemathesis.toml").write_text(configuration(receiver), encoding="utf-8")
    arguments = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", receiver.address),
        *("--checks", "all", "--max-examples", str(EXAMPLES), "--seed", "1", "--workers", "1"),
        *("--request-timeout", "30", "--continue-on-failure", "--no-shrink"),
    ]
    return subprocess.run(
        arguments,
        cwd=folder,
        env=environment(folder, {}),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
