"""Real servers and commands for end-to-end tests, each with an environment of its own.

Where no process is needed, servers run in a thread of the tests' own process: the product's own server on a
real socket. Tests of kills, signals, limits and exit codes start a process instead: a fork of one that has
imported the receiver, unless the start itself is tested.

A test starts a server in a ``with``, which ends it. Waiting is done on what a server writes (its lines, its
answers), never by the clock; `PATIENCE` bounds a wait in vain.
"""

import asyncio
import contextlib
import contextvars
import functools
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn, Self, TextIO, cast

import httpx
import typer
import uvicorn
import uvloop

from receiver import config
from receiver.bootstrap.serve import serve_until
from receiver.cli.commands import run as run_command
from receiver.cli.common import Invocation
from receiver.cli.sandbox import options_of
from receiver.cli.sandbox import sandbox as sandbox_command
from receiver.sandbox.options import Options
from receiver.sandbox.server import Server as SandboxServer
from receiver.sandbox.server import stand_in
from receiver.telemetry import logs
from tests.support.forkserver import Forked, ForkServer
from tests.support.ledgers import make_empty_ledger
from tests.support.trust import AUTHORITY

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0

WEBHOOK_SECRET = "canary-of-the-webhook-header"
SIGNING_KEY = "canary-of-the-signing-key"
API_TOKEN = "canary-of-the-api-token"
PROVIDER_TOKEN = "canary-of-the-provider-token"
SECRETS = (WEBHOOK_SECRET, SIGNING_KEY, API_TOKEN, PROVIDER_TOKEN)

PROOF = {"X-Webhook-Secret": WEBHOOK_SECRET}
"""The custom headers that prove a sender to a receiver with `settings`."""

WEBHOOK = "/webhooks/ximilar"

TRUST = httpx.create_ssl_context()
"""For all clients of the tests: without it, httpx reads the hundred authorities of certifi."""


def settings(folder: Path, **more: str) -> dict[str, str]:
    """The settings of a receiver that keeps everything in a folder and fetches from loopback."""
    return {
        "RECEIVER_WEBHOOK_HEADERS": json.dumps({"X-Webhook-Secret": WEBHOOK_SECRET}),
        "RECEIVER_API_TOKENS": API_TOKEN,
        "RECEIVER_DATA_DIR": str(folder / "data"),
        "RECEIVER_IMAGE_NETWORKS": "127.0.0.1/32",
        "RECEIVER_PORT": "0",
        "RECEIVER_LOG": "json",
        "RECEIVER_REJECT_AFTER": "1s",  # the same wrong answer three times, but not over minutes
        **more,
    }


def environment(folder: Path, values: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the surroundings but what a process cannot do without."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "HOME": str(folder),
        "AWS_EC2_METADATA_DISABLED": "true",
        "SSL_CERT_FILE": str(AUTHORITY),
        "TERM": "dumb",
        **values,
    }


def command(*arguments: str) -> list[str]:
    """The command ``receiver`` with these arguments."""
    return [sys.executable, "-m", "receiver", *arguments]


POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--") if os.geteuid() == 0 else ()
"""What a command line begins with for the rights of files to hold for it, also where this is root."""


def run(
    arguments: Sequence[str], folder: Path, values: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Runs a command of the receiver to its end, in the tests' own process.

    A ``serve`` must refuse to start.
    """
    assert threading.current_thread() is threading.main_thread()  # whose streams these are
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(3)]
    environ, umask = dict(os.environ), os.umask(0o022)
    code: object = 0
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(streams[1]),
            contextlib.redirect_stderr(streams[2]),
        ):
            stdin, sys.stdin = sys.stdin, streams[0]
            try:
                contextvars.copy_context().run(
                    run_command, arguments, Invocation(environment(folder, values), leave)
                )
            except (SystemExit, _Left) as end:
                code = end.code
            finally:
                sys.stdin = stdin
    finally:
        os.umask(umask)
        os.environ.clear()
        os.environ.update(environ)
        if "serve" in arguments:
            logs.configure("json", cast("TextIO", _ROUTED))
    output, errors = (stream.buffer.getvalue().decode() for stream in streams[1:])
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code or 0, output, errors)


class _Left(Exception):  # noqa: N818 - an end, and no error
    """A command has ended at once."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def leave(code: int) -> NoReturn:
    """Ends a command that runs in the tests' own process."""
    raise _Left(code)


def run_process(
    arguments: Sequence[str], folder: Path, values: Mapping[str, str], *, under: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Runs a command of the receiver to its end, in a process of its own.

    Args:
        arguments: of the command.
        folder: its working directory.
        values: its environment, beside what `environment` gives.
        under: what its command line begins with.
    """
    if under:
        return subprocess.run(
            [*under, *command(*arguments)],
            cwd=folder,
            env=environment(folder, values),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    with (
        Path(os.devnull).open() as null,
        tempfile.TemporaryFile("w+") as stdout,
        tempfile.TemporaryFile("w+") as stderr,
    ):
        streams = [stream.fileno() for stream in (null, stdout, stderr)]
        process = fork(arguments, folder, values, streams)
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


class Output:
    """Every line that a program has written so far.

    Args:
        name: for reports.
        folder: where the program works.
        values: its environment, beside what `environment` gives.
    """

    def __init__(self, name: str, folder: Path, values: Mapping[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.values = values
        self.lines: list[str] = []
        self._documents: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._ended = False

    @property
    def log(self) -> str:
        """All that it wrote."""
        return "\n".join(self.lines)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The JSON lines of this event so far."""
        return [line for line in list(self._documents) if line.get("event") == event]

    def until(self, found: Callable[[], object], patience: float = PATIENCE) -> None:
        """Returns when the condition holds; it is looked at for every line that the program writes.

        Raises:
            AssertionError: the program has ended, or wrote nothing of the kind within ``patience`` seconds.
        """
        with self._news:
            self._news.wait_for(lambda: found() or self._ended, patience)
            assert found(), f"{self.name} never wrote it:\n{self.log[-4000:]}"

    def until_event(self, event: str, **values: object) -> dict[str, Any]:
        """The first JSON line of this event with these values, waited for."""

        def matching() -> list[dict[str, Any]]:
            return [line for line in self.events(event) if values.items() <= line.items()]

        self.until(matching)
        return matching()[0]

    def add(self, lines: Sequence[str]) -> None:
        """Adds lines, and wakes those who wait for them."""
        with self._news:
            self.lines.extend(lines)
            self._documents.extend(map(_json, lines))
            self._news.notify_all()

    def end(self) -> None:
        """Wakes those who wait for lines that will not come any more."""
        with self._news:
            self._ended = True
            self._news.notify_all()


def fork(
    arguments: Sequence[str],
    folder: Path,
    values: Mapping[str, str],
    streams: Sequence[int],
    *,
    terminal: bool = False,
) -> Forked:
    """Starts a command of the receiver in a process of its own, at a tenth of the price of a `command`.

    Args:
        arguments: of the command.
        folder: its working directory.
        values: its environment, beside what `environment` gives.
        streams: its standard input, output and errors.
        terminal: whether standard input is a terminal, which becomes its own.
    """
    return _fork_server().start(arguments, folder, environment(folder, values), streams, terminal=terminal)


@functools.cache
def _fork_server() -> ForkServer:
    return ForkServer(environment(ROOT, {}))


class Program(Output):
    """A running process, and every line that it has written so far, to both its streams.

    Args:
        name: for reports.
        arguments: the command line.
        folder: its working directory.
        values: its environment, beside what `environment` gives.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, values: Mapping[str, str]) -> None:
        super().__init__(name, folder, values)
        pipes = os.pipe(), os.pipe()
        with Path(os.devnull).open() as null:
            streams = [null.fileno(), *(its for _, its in pipes)]
            self.process = self._start(arguments, streams)
        for _, its in pipes:
            os.close(its)
        self._open_streams = len(pipes)
        self._readers = [
            threading.Thread(target=self._read, args=(os.fdopen(own, errors="replace"),)) for own, _ in pipes
        ]
        for reader in self._readers:
            reader.start()

    def _start(self, arguments: Sequence[str], streams: Sequence[int]) -> "subprocess.Popen[bytes] | Forked":
        stdin, stdout, stderr = streams
        return subprocess.Popen(
            arguments,
            cwd=self.folder,
            env=environment(self.folder, self.values),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # a group of its own, so that one signal ends all of it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for reader in self._readers:
            reader.join()

    @property
    def pid(self) -> int:
        return self.process.pid

    def terminate(self) -> None:
        """Asks it to end, and does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> tuple[int, float]:
        """Asks it to end. Gives its exit code, and how many seconds that took."""
        began = time.monotonic()
        self.terminate()
        return self.process.wait(PATIENCE), time.monotonic() - began

    def kill(self) -> None:
        """Ends it without a word, as a crash would."""
        self.process.kill()
        self.process.wait()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.add([line.rstrip("\n")])
        self._open_streams -= 1
        if not self._open_streams:
            self.end()


class ForkedProgram(Program):
    """A command of the receiver with these arguments, started by `fork`."""

    def _start(self, arguments: Sequence[str], streams: Sequence[int]) -> Forked:
        return fork(arguments, self.folder, self.values, streams)


class ThreadServer(Output):
    """A server in a thread of the tests' own process, with an event loop of its own.

    It is the product's own server on a real socket. What belongs to a process is missing: signals, exit codes
    and limits. Tests of those take a `Program`.

    Args:
        name: for reports.
        folder: where its files are.
        values: its settings.
        work: serves until the event is set.
        loop_factory: of the event loop.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        values: Mapping[str, str],
        work: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        super().__init__(name, folder, values)
        self._work = work
        self._loop_factory = loop_factory
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        route_logs()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return os.getpid()

    def terminate(self) -> None:
        """Asks it to end, and does not wait."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def stop(self) -> tuple[int, float]:
        """Asks it to end. Gives 0 where it ended in order, else 1, and how many seconds that took."""
        began = time.monotonic()
        self.terminate()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"{self.name} does not stop:\n{self.log[-4000:]}"
        return int(self._failed), time.monotonic() - began

    def _run(self) -> None:
        _WRITER.set(self)
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                self._loop = runner.get_loop()
                runner.run(self._work(self._stopping))
        except BaseException:  # noqa: BLE001 - whoever waits for a line sees it, and `stop` says that it failed
            self._failed = True
            self.add(traceback.format_exc().splitlines())
        finally:
            self.end()


Server = Program | ThreadServer


_WRITER: ContextVar[Output | None] = ContextVar("writer", default=None)
"""Whose lines are written in this thread or task."""


class _Routed(io.TextIOBase):
    """A stream that gives each line to the server that wrote it.

    A line from a thread outside the server's context, such as an executor's, is lost.
    """

    def write(self, text: str, /) -> int:
        writer = _WRITER.get()
        if writer is not None:
            writer.add(text.splitlines())
        return len(text)


def route_logs() -> None:
    """Has the lines of all servers in this process formatted as `serve` does, and given to their `Output`."""
    if not any(getattr(handler, "stream", None) is _ROUTED for handler in logging.getLogger().handlers):
        logs.configure("json", cast("TextIO", _ROUTED))


_ROUTED = _Routed()


@dataclass
class Programs:
    """Starts servers and keeps them for the report of a test that fails."""

    folder: Path
    started: list[Server] = field(default_factory=list)

    @contextlib.contextmanager
    def receiver(self, values: Mapping[str, str], *, folder: Path | None = None) -> Iterator["Receiver"]:
        """A receiver that serves in a thread, from an empty ledger where its folder has no data yet."""
        folder = folder or self.folder
        data = folder / values.get("RECEIVER_DATA_DIR", "data")
        if "RECEIVER_LEDGER" not in values and not data.exists():
            make_empty_ledger(data)

        async def work(stopping: asyncio.Event) -> None:
            environ = config.environment({"HOME": str(folder), **values}, folder / ".env")
            await serve_until(stopping, config.load(environ), environ, on_ready=lambda _address: None)

        with ThreadServer("receiver", folder, values, work, uvloop.new_event_loop) as server:
            self.started.append(server)
            with Receiver(server, server.until_event("serving")["address"]) as receiver:
                yield receiver

    @contextlib.contextmanager
    def receiver_process(
        self, values: Mapping[str, str], *, folder: Path | None = None, cold: bool = False
    ) -> Iterator["ReceiverProcess"]:
        """A receiver that serves in a process of its own: for kills, signals, limits and exit codes.

        A ``cold`` one is started by the interpreter, as it is by its users.
        """
        folder = folder or self.folder
        if cold:
            program = Program("receiver", command("serve"), folder, values)
        else:
            program = ForkedProgram("receiver", ["serve"], folder, values)
        with program:
            self.started.append(program)
            with ReceiverProcess(program, program.until_event("serving")["address"]) as receiver:
                yield receiver

    @contextlib.contextmanager
    def sandbox(self, *options: str) -> Iterator["Sandbox"]:
        """A provider's stand-in, in a thread; the options are those of the command."""
        chosen = sandbox_options(options)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ready = threading.Event()

            async def work(stopping: asyncio.Event) -> None:
                settings = uvicorn.Config(
                    stand_in(chosen).app(), log_config=None, access_log=False, timeout_graceful_shutdown=1
                )
                server = SandboxServer(settings, ready.set)
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                await stopping.wait()
                server.should_exit = True
                await serving

            with ThreadServer("sandbox", self.folder, {}, work) as server:
                self.started.append(server)
                assert ready.wait(PATIENCE), server.log
                with Sandbox(server, f"http://127.0.0.1:{listener.getsockname()[1]}") as sandbox:
                    yield sandbox


def sandbox_options(options: Sequence[str]) -> Options:
    """The options of the command ``sandbox``, read as it reads them; without a delay, and with a token."""
    app = typer.Typer()
    app.command()(sandbox_command)
    given = ["--token", PROVIDER_TOKEN, "--delay", "0", *options]
    values = typer.main.get_command(app).make_context("sandbox", given).params
    return options_of({**values, "secrets": tuple(values["secret"] or ())})


class Receiver(httpx.Client):
    """A client of a running receiver, with its API token.

    Args:
        program: what serves.
        address: its own.
    """

    def __init__(self, program: Server, address: str) -> None:
        super().__init__(
            base_url=address,
            headers={"Authorization": f"Bearer {API_TOKEN}"},
            verify=TRUST,
            trust_env=False,
            timeout=PATIENCE + 5,
        )
        self.program = program
        self.address = address
        self.port = int(address.rsplit(":", 1)[1])

    @property
    def data_dir(self) -> Path:
        """Its data directory, as its settings name it."""
        return self.program.folder / self.program.values["RECEIVER_DATA_DIR"]

    @property
    def webhook(self) -> str:
        return self.address + WEBHOOK

    def deliver(
        self, body: Any, headers: Mapping[str, str] | Sequence[tuple[str, str]] = tuple(PROOF.items())
    ) -> httpx.Response:
        """POSTs a completion as the provider would: without an API token; bytes go as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        with httpx.Client(verify=TRUST, trust_env=False, timeout=PATIENCE) as stranger:
            return stranger.post(
                self.webhook, content=content, headers=[("Content-Type", "application/json"), *pairs]
            )

    def job(self, job_id: str, *, wait: float = 0) -> Any:
        """The job with its history."""
        parameters = {"wait": str(wait)} if wait else {}
        return self.get(f"/jobs/{job_id}", params=parameters).raise_for_status().json()

    def ended(self, job_id: str) -> Any:
        """The job once it is final."""
        job = self.job(job_id, wait=PATIENCE)
        assert job["state"] in {"archived", "failed", "rejected", "expired"}, job
        return job

    def attempted(self, job_id: str) -> Any:
        """The job once an attempt at it has failed."""
        self.program.until_event("not fetched", job=job_id)
        return self.job(job_id)


class ReceiverProcess(Receiver):
    """A client of a receiver that runs in a process of its own."""

    program: Program


class Sandbox(httpx.Client):
    """A client of a running sandbox, with its token.

    Args:
        program: what serves.
        address: its own.
    """

    def __init__(self, program: Server, address: str) -> None:
        super().__init__(
            base_url=f"{address}/account/v2",
            headers={"Authorization": f"Token {PROVIDER_TOKEN}"},
            verify=TRUST,
            trust_env=False,
            timeout=PATIENCE,
        )
        self.program = program

    def submit(
        self, source: Mapping[str, str], webhook: str, *faults: str, headers: Mapping[str, str] = PROOF
    ) -> str:
        """Submits one picture, whose job meets these faults; gives the job's id."""
        record = {**source, "_sandbox": {"fault": list(faults)}} if faults else dict(source)
        body = {
            "type": "upscaler",
            "endpoint": "upscale_2x",
            "records": [record],
            "webhook": {"endpoint": webhook, "headers": dict(headers)},
        }
        job_id: str = self.post("/request", json=body).raise_for_status().json()["id"]
        return job_id

    def record(self, job_id: str) -> Any:
        """The one record in the job's response."""
        return self.get(f"/request/{job_id}").raise_for_status().json()["response"]["records"][0]


def completion(job_id: str, url: str, width: int, height: int) -> dict[str, Any]:
    """The body of a good delivery."""
    return {
        "status": "DONE",
        "id": job_id,
        "type": "upscaler",
        "response": {
            "records": [
                {
                    "_id": f"record of {job_id}",
                    "_url": "https://example.com/source.jpg",
                    "_width": width // 2,
                    "_height": height // 2,
                    "_status": {"code": 200, "text": "OK", "request_id": f"request of {job_id}"},
                    "_upscaled_width": width,
                    "_upscaled_height": height,
                    "_upscaled_image_url": url,
                }
            ]
        },
    }


def _json(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
