"""Real processes for end-to-end tests: the receiver and the sandbox, each with an environment of its own.

Whoever starts a process here does it in a ``with``: its whole process group ends with the block. Waiting is
done on what a process says (its lines, its answers), never by the clock; `PATIENCE` bounds a wait in vain.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import httpx

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


def settings(folder: Path, **more: str) -> dict[str, str]:
    """The settings of a receiver that keeps everything in a folder and fetches from loopback."""
    return {
        "RECEIVER_WEBHOOK_HEADERS": json.dumps({"X-Webhook-Secret": WEBHOOK_SECRET}),
        "RECEIVER_API_TOKENS": API_TOKEN,
        "RECEIVER_DATA_DIR": str(folder / "data"),
        "RECEIVER_IMAGE_NETWORKS": "127.0.0.1/32",
        "RECEIVER_PORT": "0",
        "RECEIVER_LOG": "json",
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
        "TERM": "dumb",
        **values,
    }


def command(*arguments: str) -> list[str]:
    """The command ``receiver`` with these arguments."""
    return [sys.executable, "-m", "receiver", *arguments]


POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--") if os.geteuid() == 0 else ()
"""What a command line begins with for the rights of files to hold for it, also where this is root."""


def run(
    arguments: Sequence[str], folder: Path, values: Mapping[str, str], *, under: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Runs a command of the receiver to its end; ``under`` is what its command line begins with."""
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


class Program:
    """A running process, and every line that it has said so far, of both its streams.

    Args:
        name: for reports.
        arguments: the command line.
        folder: its working directory.
        values: its environment, beside what `environment` gives.
    """

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, values: Mapping[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.values = values
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._silent = 0
        self.process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment(folder, values),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a group of its own, so that one signal ends all of it
        )
        streams = [stream for stream in (self.process.stdout, self.process.stderr) if stream is not None]
        self._readers = [threading.Thread(target=self._read, args=(stream,)) for stream in streams]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for reader in self._readers:
            reader.join()

    @property
    def log(self) -> str:
        """All that it said."""
        return "\n".join(self.lines)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The JSON lines of this event so far."""
        return [line for line in map(_json, list(self.lines)) if line.get("event") == event]

    def until(self, found: Callable[[], object]) -> None:
        """Returns when the condition holds; it is looked at for every line that the process says.

        Raises:
            AssertionError: the process has ended, or said nothing of the kind within `PATIENCE`.
        """
        with self._said:
            self._said.wait_for(lambda: found() or self._silent == len(self._readers), PATIENCE)
            assert found(), f"{self.name} never said it:\n{self.log[-4000:]}"

    def until_event(self, event: str, **values: object) -> dict[str, Any]:
        """The first JSON line of this event with these values, waited for."""

        def matching() -> list[dict[str, Any]]:
            return [line for line in self.events(event) if values.items() <= line.items()]

        self.until(matching)
        return matching()[0]

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
                with self._said:
                    self.lines.append(line.rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._silent += 1
            self._said.notify_all()


@dataclass
class Programs:
    """Starts processes and keeps them for the report of a test that fails."""

    folder: Path
    started: list[Program] = field(default_factory=list)

    @contextlib.contextmanager
    def receiver(self, values: Mapping[str, str], *, folder: Path | None = None) -> Iterator["Receiver"]:
        """A receiver that serves."""
        program = Program("receiver", command("serve"), folder or self.folder, values)
        with program:
            self.started.append(program)
            address = program.until_event("serving")["address"]
            with Receiver(program, address) as receiver:
                yield receiver

    @contextlib.contextmanager
    def sandbox(self, *options: str) -> Iterator["Sandbox"]:
        """A provider's stand-in."""
        arguments = [*command("sandbox"), "--port", "0", "--delay", "0", *options]
        says = "sandbox listens on "
        with Program("sandbox", arguments, self.folder, {"XIMILAR_API_TOKEN": PROVIDER_TOKEN}) as program:
            self.started.append(program)
            program.until(lambda: any(line.startswith(says) for line in program.lines))
            line = next(line for line in program.lines if line.startswith(says))
            with Sandbox(program, line.removeprefix(says)) as sandbox:
                yield sandbox


class Receiver(httpx.Client):
    """A client of a running receiver, with its API token.

    Args:
        program: the process.
        address: its own.
    """

    def __init__(self, program: Program, address: str) -> None:
        super().__init__(
            base_url=address,
            headers={"Authorization": f"Bearer {API_TOKEN}"},
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
        with httpx.Client(trust_env=False, timeout=PATIENCE) as stranger:
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


class Sandbox(httpx.Client):
    """A client of a running sandbox, with its token.

    Args:
        program: the process.
        address: its own.
    """

    def __init__(self, program: Program, address: str) -> None:
        super().__init__(
            base_url=f"{address}/account/v2",
            headers={"Authorization": f"Token {PROVIDER_TOKEN}"},
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
