"""What the documents tell people to submit arrives, through a real sandbox and a real receiver."""

import asyncio
import base64
import io
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from receiver.cli.demo import Demo, running_demo
from receiver.sandbox.trials import XimilarTrial
from tests.docs.documents import ROOT, blocks

SECRET_HEADER = "X-Webhook-Secret"


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Demo]:
    async with running_demo(XimilarTrial(), tmp_path, 0) as run:
        yield run


async def ended(run: Demo, job_id: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {run.token}"}
    async with httpx.AsyncClient(
        base_url=run.address, headers=headers, trust_env=False, timeout=90
    ) as client:
        # Announced first, so that there is a job to wait for.
        (await client.post("/jobs", json={"id": job_id})).raise_for_status()
        answer = await client.get(f"/jobs/{job_id}", params={"wait": 60})
    found = answer.raise_for_status().json()
    assert isinstance(found, dict)
    return found


async def test_the_script_of_deploy_submits_a_picture_that_is_archived(run: Demo) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        ROOT / "deploy/submit-to-sandbox.py",
        f"{run.sandbox}/account/v2",
        env={
            "RECEIVER_WEBHOOK_HEADERS": json.dumps({SECRET_HEADER: run.trial.secret}),
            "RECEIVER_PORT": run.address.rpartition(":")[2],
            "XIMILAR_API_TOKEN": run.trial.token,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    job = await ended(run, said.decode().strip())
    assert (job["state"], job["ref"]) == ("archived", "gradient")


async def test_the_quickstarts_submission_is_archived_with_its_reference(run: Demo) -> None:
    (body,) = (document for document in map(json.loads, blocks("json")) if "records" in document)
    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "PNG")
    # The names of all fields are the quickstart's; only what leads to other machines is replaced.
    body["records"] = [{"_base64": base64.b64encode(picture.getvalue()).decode()}]
    assert body["webhook"]["endpoint"].endswith("/webhooks/ximilar")
    body["webhook"]["endpoint"] = f"{run.address}/webhooks/ximilar"
    assert SECRET_HEADER in body["webhook"]["headers"]
    body["webhook"]["headers"][SECRET_HEADER] = run.trial.secret
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{run.sandbox}/account/v2/request",
            json=body,
            headers={"Authorization": f"Token {run.trial.token}"},
        )
    job = await ended(run, answer.raise_for_status().json()["id"])
    assert (job["state"], job["ref"]) == ("archived", "order 4711")
    assert (job["image"]["width"], job["image"]["height"]) == (1024, 1024)
