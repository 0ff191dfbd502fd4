"""The whole thing on one machine: the sandbox, a receiver with a folder archive, and images through both.

Sandbox and receiver are processes of their own, and everything goes over HTTP, as it would in earnest.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from receiver.errors import ReceiverError
from receiver.sandbox.pictures import SAMPLES
from receiver.sender import REF_HEADER
from receiver.states import FINAL, State
from receiver.ximilar import Factor, Upscale, Webhook, Ximilar

START_SECONDS = 30.0
REFRESH_SECONDS = 0.2

SECRET_HEADER = "X-Webhook-Secret"  # noqa: S105 - a header's name


class DemoError(Exception):
    """The demo could not run; its text says why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to send through.

    Attributes:
        name: for people; it becomes the job's ref.
        data: the file's bytes.
        factor: how many times larger each side is to be.
    """

    name: str
    data: bytes
    factor: Factor


@dataclass(frozen=True, slots=True)
class Running:
    """A receiver and a sandbox that run.

    Attributes:
        address: of the receiver.
        provider: the address of the sandbox's API.
        provider_token: what the sandbox takes.
        token: the receiver's API token.
        secret: the value of the webhook's header.
        archive: the folder that images end up in.
    """

    address: str
    provider: str
    provider_token: str
    token: str
    secret: str
    archive: Path


def own_pictures() -> list[Picture]:
    """Six drawn pictures of different format, size and factor."""
    return [Picture(sample.name, sample.draw(), sample.factor) for sample in SAMPLES]


def read_pictures(paths: Sequence[Path]) -> list[Picture]:
    """The user's own files, to be made twice as large.

    Raises:
        DemoError: one cannot be read, or is no image.
    """
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.verify()
            data = path.read_bytes()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DemoError(f"{path}: cannot be read as an image ({type(error).__name__})") from None
        pictures.append(Picture(_ref(path.name), data, 2))
    return pictures


@contextlib.asynccontextmanager
async def running(folder: Path, port: int) -> AsyncIterator[Running]:
    """Starts the sandbox and a receiver, and stops both at the end.

    Args:
        folder: the receiver's data directory.
        port: of the receiver; 0 for any free one.

    Raises:
        DemoError: one of them did not start; its own message has been printed.
    """
    token, secret, provider_token = (secrets.token_urlsafe(16) for _ in range(3))
    # Settings of the surroundings, such as a real account's token, have no place in a demo.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RECEIVER_", "XIMILAR_", "AWS_"))}
    folder = _made(folder)
    async with contextlib.AsyncExitStack() as stack:
        said = folder / "sandbox.log"
        sandbox = await stack.enter_async_context(
            _process(
                ["sandbox", "--port", "0", "--delay", "1", "--json"],
                {**clean, "XIMILAR_API_TOKEN": provider_token},
                said,
            )
        )
        provider = await _address(sandbox, "url", said) + "/account/v2"
        said = folder / "receiver.log"
        receiver = await stack.enter_async_context(
            _process(
                ["serve", "--json"],
                {
                    **clean,
                    "RECEIVER_WEBHOOK_HEADERS": json.dumps({SECRET_HEADER: secret}),
                    "RECEIVER_API_TOKENS": token,
                    "RECEIVER_DATA_DIR": str(folder),
                    "RECEIVER_ARCHIVE": (folder / "archive").as_uri(),
                    "RECEIVER_IMAGE_NETWORKS": "127.0.0.1/32",
                    "RECEIVER_HOST": "127.0.0.1",
                    "RECEIVER_PORT": str(port),
                    "RECEIVER_LOG": "text",
                    "XIMILAR_API_TOKEN": provider_token,
                    "XIMILAR_API_URL": provider,
                },
                said,
            )
        )
        address = await _address(receiver, "address", said)
        yield Running(address, provider, provider_token, token, secret, folder / "archive")


async def submit(run: Running, pictures: Sequence[Picture]) -> dict[str, Picture]:
    """Asks the sandbox for a job a picture, each of which tells the receiver. Gives the jobs' ids.

    Raises:
        DemoError: the sandbox refuses a picture.
    """
    jobs = {}
    async with Ximilar(run.provider, run.provider_token) as provider, _client(run) as client:
        for picture in pictures:
            headers = {SECRET_HEADER: run.secret, REF_HEADER: picture.name}
            webhook = Webhook(f"{run.address}/webhooks/ximilar", headers)
            try:
                job_id = await provider.submit(Upscale(picture.data, picture.factor, webhook))
            except ReceiverError as error:
                raise DemoError(f"{picture.name}: {error.detail}") from None
            await client.post("/jobs", json={"id": job_id, "ref": picture.name})
            jobs[job_id] = picture
    return jobs


async def follow(
    run: Running, ids: Collection[str], show: Callable[[Sequence[Mapping[str, Any]]], None]
) -> bool:
    """Shows the jobs, as the API gives them, until each has ended. Gives whether all are archived."""
    async with _client(run) as client:
        while True:
            answer = await client.get("/jobs", params={"limit": 1000})
            jobs = [job for job in reversed(answer.json()["jobs"]) if job["id"] in ids]
            show(jobs)
            if len(jobs) == len(ids) and all(State(job["state"]) in FINAL for job in jobs):
                return all(job["state"] == State.ARCHIVED for job in jobs)
            await asyncio.sleep(REFRESH_SECONDS)


def _client(run: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=run.address, headers={"Authorization": f"Bearer {run.token}"}, trust_env=False, timeout=30
    )


@contextlib.asynccontextmanager
async def _process(
    arguments: Sequence[str], environ: Mapping[str, str], said: Path
) -> AsyncIterator[Process]:
    """Runs a command of ours; what it says goes to a file."""
    with said.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "receiver",
            *arguments,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=log,
            env=environ,
            cwd=said.parent,  # a .env of the surroundings has no place here either
            start_new_session=True,  # a Ctrl-C is the demo's to pass on, in order
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _address(process: Process, key: str, said: Path) -> str:
    """The address that a process announces as JSON in its first line."""
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        return str(json.loads(line)[key])
    except (TimeoutError, ValueError, KeyError):
        raise DemoError(f"a process did not start: {_last_line(said) or 'it said nothing'}") from None


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{folder}: cannot be made ({error.strerror})") from None
    return folder.resolve()


def _last_line(said: Path) -> str:
    return said.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]


def _ref(name: str) -> str:
    return "".join(c if 32 <= ord(c) < 127 else "_" for c in name)[:200]
