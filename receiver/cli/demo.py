"""``receiver demo``: a sandbox and a receiver with a folder archive on this machine, and images through both.

Sandbox and receiver are processes of their own and talk HTTP, as in production. Run as a program, this module
is one of them: the command ``receiver``, which ends when the demo does.
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
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from PIL import Image
from rich.console import Console
from rich.live import Live

from receiver.cli import output
from receiver.cli.common import AsJson, fail
from receiver.cli.interruption import INTERRUPTED
from receiver.cli.options import choice, whole
from receiver.client import ApiError, AsyncClient
from receiver.core.concurrency import cancel
from receiver.core.errors import LedgerError
from receiver.core.jobs import State
from receiver.core.paths import webhook_path
from receiver.ledger import DirectoryLock
from receiver.providers.registry import ENTRIES
from receiver.sandbox.options import ProviderName
from receiver.sandbox.pictures import SAMPLES
from receiver.sandbox.trials import TRIALS, Trial
from receiver.submission.file_sources import FileSources

Picture = tuple[str, bytes, int]
"""The name of an image, which becomes the job's ref, the image itself, and the factor to upscale it by."""

Show = Callable[[Sequence[output.JobDocument]], None]
"""Shows jobs as the API returns them."""

_PROVIDERS = [name for name in ProviderName if name in {entry.name for entry in ENTRIES}]

_SETTINGS = ("RECEIVER_", "AWS_", *(f"{name.upper()}_" for name in ProviderName))
"""How the names of the user's own settings begin."""

START_SECONDS = 30.0
REFRESH_SECONDS = 0.2


class DemoError(Exception):
    """The demo could not run."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the demo, with the file of its log."""

    name: str
    process: Process
    log_file: Path

    async def wait_for_exit(self) -> NoReturn:
        await self.process.wait()
        raise DemoError(f"the {self.name} has ended by itself; its log is {self.log_file}")


@dataclass(frozen=True, slots=True)
class Demo:
    """A running receiver, with its address and token, and a sandbox, with its address."""

    address: str
    token: str
    sandbox: str
    trial: Trial
    archive: Path
    children: Sequence[Child] = ()

    def client(self) -> AsyncClient:
        return AsyncClient(self.address, self.token)

    async def wait_for_exit(self) -> None:
        """Wait until a process has ended, then raise `DemoError` with its name."""
        await asyncio.gather(*(child.wait_for_exit() for child in self.children))

    async def run(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Return the result of work. Cancel it, and raise `DemoError`, if a process ends."""
        task, exit_ = asyncio.create_task(work), asyncio.create_task(self.wait_for_exit())
        try:
            await asyncio.wait((task, exit_), return_when=asyncio.FIRST_COMPLETED)
            if exit_.done():  # work that failed at the same moment failed because of the exit
                await exit_
            return await task
        finally:
            await cancel((task, exit_))


def demo(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Your own pictures.")] = None,
    *,
    provider: Annotated[
        ProviderName, choice("--provider", _PROVIDERS, "The provider whose sandbox is used.")
    ] = ProviderName.XIMILAR,
    folder: Annotated[Path, typer.Option(help="The folder for ledger and images.")] = Path("receiver-demo"),
    port: Annotated[int, whole("The receiver's port; 0 for any free one.", 0, 65535)] = 8080,
    leave: Annotated[bool, typer.Option("--exit", help="End when all images are archived.")] = False,
    as_json: AsJson = False,
) -> bool:
    """Run sandbox, receiver and folder archive on this machine, with a few images through all of it."""
    try:
        pictures = read_pictures(images or [])
        run = _demo(TRIALS[provider](), pictures, folder, port, leave=leave, as_json=as_json)
        return asyncio.run(until_signal(run))
    except DemoError as error:
        fail(str(error))
    except (ApiError, httpx.TransportError) as error:
        fail(f"the receiver does not answer as it should ({type(error).__name__})")


async def _demo(
    trial: Trial, pictures: Sequence[Picture], folder: Path, port: int, *, leave: bool, as_json: bool
) -> bool:
    async with running_demo(trial, folder, port) as running:
        with _live_jobs(quiet=as_json) as show:
            archived = await running.run(send(running, pictures, show))
        if as_json:
            fields = {"archive": str(running.archive), "address": running.address, "token": running.token}
            output.print_json({"archived": archived, **fields})
        else:
            typer.echo("\nAll images are archived." if archived else "\nNot all images are archived.")
            typer.echo(f"The files:   {running.archive}")
        if not leave:
            if not as_json:
                typer.echo(f"The page:    {running.address}/   (any user name, password {running.token})")
                typer.echo(f"To compare:  {running.address}/page/gallery   (open an image there)")
                typer.echo("Ctrl-C ends the demo.")
            with contextlib.suppress(asyncio.CancelledError):  # a signal ends it
                await running.wait_for_exit()
    return archived


@contextlib.contextmanager
def _live_jobs(*, quiet: bool) -> Iterator[Show]:
    """Yield a function that shows jobs: in a live table on a terminal, else as a line for each change."""
    console = Console()
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda jobs: live.update(output.job_table(jobs), refresh=True)
    else:
        states: dict[str, str] = {}

        def show(jobs: Sequence[output.JobDocument]) -> None:
            for job in jobs:
                if states.get(job["id"]) != job["state"]:
                    states[job["id"]] = job["state"]
                    output.print_line(output.job_row(job), flush=True)

        yield show


async def until_signal(work: Coroutine[Any, Any, bool]) -> bool:
    """Return the result of work. Raise `typer.Exit` if SIGINT, SIGTERM or SIGHUP cancelled it."""
    task = asyncio.create_task(work)

    def stop() -> None:
        if not task.cancelling():  # a second signal must not interrupt the cleanup
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        raise typer.Exit(INTERRUPTED) from None


def read_pictures(paths: Sequence[Path]) -> list[Picture]:
    """Read the user's own files, to upscale them by 2; without any, draw the samples.

    Raise `DemoError` if a file cannot be read, or is no image.
    """
    if not paths:
        return [(sample.name, sample.draw(), sample.factor) for sample in SAMPLES]
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.verify()
            data = path.read_bytes()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DemoError(f"{path}: cannot be read as an image ({type(error).__name__})") from None
        ref = "".join(c if 32 <= ord(c) < 127 else "_" for c in path.name)[:200]
        pictures.append((ref, data, 2))
    return pictures


@contextlib.asynccontextmanager
async def running_demo(trial: Trial, folder: Path, port: int) -> AsyncIterator[Demo]:
    """Start a sandbox and a receiver with this data directory and port, and stop both at the end.

    Raise `DemoError` if the folder or the port is in use, or a process did not start.
    """
    token = secrets.token_urlsafe(16)
    # Without the user's settings, such as a real account's token, and without a proxy, since all of it is on
    # loopback.
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_SETTINGS) and not name.lower().endswith("_proxy")
    } | trial.shared()
    folder = _prepare(folder, port)
    arguments = ["sandbox", "--provider", trial.provider, "--port", "0", "--delay", "1", "--json"]
    async with _process("sandbox", arguments, clean, folder) as sandbox:
        provider = await _address(sandbox, "url")
        environ = {
            **clean,
            **trial.settings(provider),
            "RECEIVER_API_TOKENS": token,
            "RECEIVER_DATA_DIR": str(folder),
            "RECEIVER_ARCHIVE": (folder / "archive").as_uri(),
            "RECEIVER_IMAGE_NETWORKS": "127.0.0.1/32",
            "RECEIVER_HOST": "127.0.0.1",
            "RECEIVER_PORT": str(port),
            "RECEIVER_LOG": "text",
        }
        async with _process("receiver", ["serve", "--json"], environ, folder) as receiver:
            address = await _address(receiver, "address")
            children = (sandbox, receiver)
            yield Demo(address, token, provider, trial, folder / "archive", children)


async def send(demo: Demo, pictures: Sequence[Picture], show: Show) -> bool:
    """Submit pictures and `follow` their jobs.

    Raise `DemoError` if the sandbox refuses a picture, or one of the two does not answer.
    """
    ids = []
    trial = demo.trial
    webhook = demo.address + webhook_path(trial.provider)
    async with (
        httpx.AsyncClient(base_url=demo.sandbox, trust_env=False, timeout=30) as sandbox,
        demo.client() as client,
        FileSources(demo.archive.as_uri(), {}) as sources,
    ):
        for name, data, factor in pictures:
            try:
                answer = await sandbox.post(**trial.submit(data, factor, webhook, name))
                job_id = trial.job_id(answer.raise_for_status().json())
            except httpx.HTTPStatusError as error:
                raise DemoError(f"{name}: {error.response.text}") from None
            except httpx.HTTPError as error:
                raise DemoError(f"{name}: the sandbox does not answer ({type(error).__name__})") from None
            await client.announce(job_id, ref=name, endpoint=trial.endpoint)
            sources.keep(job_id, data)
            ids.append(job_id)
    return await follow(demo, ids, show)


async def follow(demo: Demo, ids: Collection[str], show: Show) -> bool:
    """Show jobs until each has ended. Return whether all are archived."""
    async with demo.client() as client:
        while True:
            jobs = [await client.job(job_id) for job_id in ids]
            show([job.model_dump(mode="json") for job in jobs])
            if all(job.is_final for job in jobs):
                return all(job.state == State.ARCHIVED for job in jobs)
            await asyncio.sleep(REFRESH_SECONDS)


@contextlib.asynccontextmanager
async def _process(
    name: str, arguments: Sequence[str], environ: Mapping[str, str], folder: Path
) -> AsyncIterator[Child]:
    """Run a command of the receiver, with a log file in the folder."""
    path = folder / f"{name}.log"
    with path.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            *arguments,
            stdin=PIPE,  # never written to: it closes when the demo ends
            stdout=PIPE,
            stderr=log_file,
            env=environ,
            cwd=folder,  # so that no .env of the user is read
            start_new_session=True,  # so that Ctrl-C reaches the demo alone, which ends it in order
        )
    try:
        yield Child(name, process, path)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _address(child: Child, key: str) -> str:
    """Return the address that a process announces as JSON in its first line."""
    assert child.process.stdout is not None
    try:
        line = await asyncio.wait_for(child.process.stdout.readline(), START_SECONDS)
        return str(json.loads(line)[key])
    except (TimeoutError, ValueError, KeyError):
        text = child.log_file.read_text(encoding="utf-8", errors="replace").strip()
        why = text.rpartition("\n")[2] or "it printed nothing"
        raise DemoError(f"the {child.name} did not start: {why}") from None


def _prepare(folder: Path, port: int) -> Path:
    """Create the folder; check it and the port here, where the error can name the option that helps."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{folder}: cannot be made ({error.strerror})") from None
    folder = folder.resolve()
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
    return folder


def _end_with_the_demo() -> None:
    """End this process when its standard input closes, which happens even if the demo is killed."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_demo, daemon=True).start()
    runpy.run_module("receiver", run_name="__main__", alter_sys=True)
