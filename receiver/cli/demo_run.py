"""The whole thing on one machine: the sandbox, a receiver with a folder archive, and images through both.

Sandbox and receiver are processes of their own, and everything goes over HTTP, as it would in earnest. Run as
a program, this module is one of the two: the command ``receiver``, which ends when the demo does.
"""

import asyncio
import contextlib
import json
import os
import runpy
import secrets
import signal
import socket
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
from PIL import Image

from receiver.core.errors import LedgerError, ReceiverError
from receiver.core.jobs import FINAL, State
from receiver.core.paths import WEBHOOK_PATH
from receiver.intake.authentication import REF_HEADER
from receiver.ledger import DirectoryLock
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.request import Factor, Upscale, Webhook
from receiver.sandbox.pictures import SAMPLES

T = TypeVar("T")

Show = Callable[[Sequence[Mapping[str, Any]]], None]
"""Shows jobs, as the API gives them."""

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
class Child:
    """A process that the demo started.

    Attributes:
        name: for people.
        process: it itself.
        said: the file that takes what it says.
    """

    name: str
    process: Process
    said: Path


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
        children: the processes.
    """

    address: str
    provider: str
    provider_token: str
    token: str
    secret: str
    archive: Path
    children: Sequence[Child] = ()

    async def lost(self) -> NoReturn:
        """Waits for the end of a child.

        Raises:
            DemoError: it has come.
        """
        ends = {asyncio.create_task(child.process.wait()): child for child in self.children}
        try:
            ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        child = ends[ended.pop()]
        raise DemoError(f"the {child.name} has ended by itself; what it said is in {child.said}")

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """Does the work, for as long as all children live, and gives its result.

        Raises:
            DemoError: a child has ended.
        """
        working, losing = asyncio.create_task(work), asyncio.create_task(self.lost())
        try:
            await asyncio.wait((working, losing), return_when=asyncio.FIRST_COMPLETED)
            # Work that failed in the same moment failed of the loss.
            return await (losing if losing.done() else working)
        finally:
            working.cancel()
            losing.cancel()
            await asyncio.gather(working, losing, return_exceptions=True)


async def until_signal(work: Coroutine[Any, Any, T]) -> T | None:
    """Does the work and gives its result; cancels it at SIGINT, SIGTERM or SIGHUP, and gives ``None``."""
    task = asyncio.create_task(work)

    def stop() -> None:
        if not task.cancelling():  # a second signal does not hurry what ends in order
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return None


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
        DemoError: the folder or the port is in use, or one of them did not start.
    """
    token, secret, provider_token = (secrets.token_urlsafe(16) for _ in range(3))
    # Settings of the surroundings, such as a real account's token, have no place in a demo; nor has a proxy,
    # for all of it is on loopback.
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RECEIVER_", "XIMILAR_", "AWS_")) and not name.lower().endswith("_proxy")
    }
    folder = _made(folder)
    _check_free(folder, port)
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(
            _process(
                "sandbox",
                ["sandbox", "--port", "0", "--delay", "1", "--json"],
                {**clean, "XIMILAR_API_TOKEN": provider_token},
                folder,
            )
        )
        provider = await _address(sandbox, "url") + "/account/v2"
        receiver = await stack.enter_async_context(
            _process(
                "receiver",
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
                folder,
            )
        )
        address = await _address(receiver, "address")
        children = (sandbox, receiver)
        yield Running(address, provider, provider_token, token, secret, folder / "archive", children)


async def send(run: Running, pictures: Sequence[Picture], show: Show) -> bool:
    """Sends pictures through, and shows their jobs until each has ended. Gives whether all are archived.

    Raises:
        DemoError: the sandbox refuses a picture, or one of the two does not answer.
    """
    return await follow(run, await submit(run, pictures), show)


async def submit(run: Running, pictures: Sequence[Picture]) -> dict[str, Picture]:
    """Asks the sandbox for a job a picture, each of which tells the receiver. Gives the jobs' ids.

    Raises:
        DemoError: the sandbox refuses a picture, or one of the two does not answer.
    """
    jobs = {}
    # With a transport of its own the client takes no proxy from the environment.
    direct = httpx.AsyncHTTPTransport()
    async with (
        Ximilar(run.provider, run.provider_token, transport=direct) as provider,
        _client(run) as client,
    ):
        for picture in pictures:
            headers = {SECRET_HEADER: run.secret, REF_HEADER: picture.name}
            webhook = Webhook(run.address + WEBHOOK_PATH, headers)
            try:
                taken = await provider.submit(Upscale(picture.data, picture.factor, webhook))
            except ReceiverError as error:
                raise DemoError(f"{picture.name}: {error.detail}") from None
            await _ask(client, "POST", json={"id": taken.id, "ref": picture.name})
            jobs[taken.id] = picture
    return jobs


async def follow(run: Running, ids: Collection[str], show: Show) -> bool:
    """Shows the jobs, the oldest first, until each has ended. Gives whether all are archived.

    Raises:
        DemoError: the receiver does not answer.
    """
    async with _client(run) as client:
        while True:
            jobs = await _jobs(client, ids)
            show(jobs)
            if len(jobs) == len(ids) and all(State(job["state"]) in FINAL for job in jobs):
                return all(job["state"] == State.ARCHIVED for job in jobs)
            await asyncio.sleep(REFRESH_SECONDS)


async def _jobs(client: httpx.AsyncClient, ids: Collection[str]) -> Sequence[Mapping[str, Any]]:
    """Those of the jobs that the receiver knows, the oldest first; asks for no more pages than it takes."""
    found: list[Mapping[str, Any]] = []
    page = {"limit": "1000"}
    while True:
        answer = await _ask(client, "GET", params=page)
        found += [job for job in answer["jobs"] if job["id"] in ids]
        if len(found) == len(ids) or answer["next"] is None:
            return found[::-1]
        page["cursor"] = answer["next"]


async def _ask(client: httpx.AsyncClient, method: str, **request: Any) -> Any:
    try:
        return (await client.request(method, "/jobs", **request)).raise_for_status().json()
    except httpx.HTTPError as error:
        raise DemoError(f"the receiver does not answer as it should ({type(error).__name__})") from None


def _client(run: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=run.address, headers={"Authorization": f"Bearer {run.token}"}, trust_env=False, timeout=30
    )


@contextlib.asynccontextmanager
async def _process(
    name: str, arguments: Sequence[str], environ: Mapping[str, str], folder: Path
) -> AsyncIterator[Child]:
    """Runs a command of ours; what it says goes to a file in the folder."""
    said = folder / f"{name}.log"
    with said.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            *arguments,
            stdin=PIPE,  # nothing is written to it: its end tells that the demo is no more
            stdout=PIPE,
            stderr=log,
            env=environ,
            cwd=folder,  # a .env of the surroundings has no place here either
            start_new_session=True,  # a Ctrl-C is the demo's to pass on, in order
        )
    try:
        yield Child(name, process, said)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _address(child: Child, key: str) -> str:
    """The address that a process announces as JSON in its first line."""
    assert child.process.stdout is not None
    try:
        line = await asyncio.wait_for(child.process.stdout.readline(), START_SECONDS)
        return str(json.loads(line)[key])
    except (TimeoutError, ValueError, KeyError):
        why = _last_line(child.said) or "it said nothing"
        raise DemoError(f"the {child.name} did not start: {why}") from None


def _check_free(folder: Path, port: int) -> None:
    """Looks before anything is started, since here alone it is known which options would help."""
    try:
        DirectoryLock(folder).release()
    except LedgerError:
        raise DemoError(f"{folder} is in use by another demo or receiver; --folder names another") from None
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise DemoError(
            f"port {port} cannot be listened on ({error.strerror}); --port 0 takes any free one"
        ) from None


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


def _end_with_the_demo() -> None:
    """Ends this process with its standard input, whose other end the kernel takes even from a killed demo."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_demo, daemon=True).start()
    runpy.run_module("receiver", run_name="__main__", alter_sys=True)
