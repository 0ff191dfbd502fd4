"""The webhook of a tutorial: nothing is durable, nothing is verified, and nothing is tried again."""

import logging
import os
import tempfile
from pathlib import PurePosixPath
from typing import Any

import boto3
import requests
from fastapi import BackgroundTasks, FastAPI

app = FastAPI()
log = logging.getLogger("uvicorn.error")
s3 = boto3.client("s3")


@app.post("/webhooks/ximilar")
def webhook(job: dict[str, Any], tasks: BackgroundTasks) -> dict[str, str]:
    record = job["response"]["records"][0]
    tasks.add_task(archive, job["id"], record["_upscaled_image_url"])
    return {"status": "ok"}


def archive(job_id: str, url: str) -> None:
    with requests.get(url, stream=True, timeout=60) as answer, tempfile.NamedTemporaryFile() as file:
        answer.raise_for_status()
        for block in answer.iter_content(2**20):
            file.write(block)
        file.flush()
        key = f"{os.environ['PREFIX']}/{job_id}{PurePosixPath(url).suffix}"
        s3.upload_file(file.name, os.environ["BUCKET"], key)
    log.info("archived %s", job_id)
