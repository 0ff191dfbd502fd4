"""SIGTERM and SIGKILL: nothing that was acknowledged is lost, and a stop never takes long."""

import contextlib
import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx

from tests.e2e.conftest import SIZE
from tests.sandbox.harness import Neighbour
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    PROOF,
    TRUST,
    WEBHOOK,
    WEBHOOK_SECRET,
    Programs,
    Receiver,
    completion,
    settings,
)
from tests.support.source import Answer, source
from tests.support.waiting import eventually

LONGEST_STOP = 10.0


class Load:
    """Delivers completions from several threads until the receiver takes no more.

    Args:
        receiver: to deliver to.
        url: the image of every job.
        name: what the jobs' ids begin with.
    """

    SENDERS = 4

    def __init__(self, receiver: Receiver, url: str, name: str) -> None:
        self._receiver = receiver
        self._url = url
        self._name = name
        self._some = threading.Event()
        self.acknowledged: list[str] = []
        self.answers: list[int] = []

    @contextlib.contextmanager
    def running(self) -> Any:
        """Runs beside the block, which is entered once some were acknowledged; ends when nobody answers."""
        with ThreadPoolExecutor(self.SENDERS) as pool:
            senders = [pool.submit(self._send, number) for number in range(self.SENDERS)]
            assert self._some.wait(PATIENCE)
            yield
            for sender in senders:
                sender.result(PATIENCE)

    def _send(self, sender: int) -> None:
        for number in range(100_000):
            job_id = f"{self._name}-{sender}-{number}"
            try:
                answer = httpx.post(
                    self._receiver.webhook,
                    json=completion(job_id, self._url, *SIZE),
                    headers=PROOF,
                    verify=TRUST,
                    trust_env=False,
                    timeout=PATIENCE,
                )
            except httpx.TransportError:
                return
            self.answers.append(answer.status_code)
            if answer.status_code == 200:
                self.acknowledged.append(answer.json()["id"])
            if len(self.acknowledged) >= 40:
                self._some.set()


def all_archived(receiver: Receiver, jobs: list[str]) -> None:
    ends = {job_id: receiver.ended(job_id)["state"] for job_id in jobs}
    assert ends == dict.fromkeys(jobs, "archived")


def test_under_load_sigterm_ends_with_0_in_time_and_every_acknowledged_job_is_archived_later(
    programs: Programs, hosted: str
) -> None:
    values = settings(programs.folder)
    with programs.receiver_process(values) as receiver:
        load = Load(receiver, hosted, "load")
        with load.running():
            code, seconds = receiver.program.stop()
        assert (code, seconds < LONGEST_STOP) == (0, True)
        assert set(load.answers) <= {200, 503}
        assert "Traceback" not in receiver.program.log

    with programs.receiver_process(values) as again:
        all_archived(again, load.acknowledged)
        assert again.get("/stats").json()["states"]["archived"] >= len(load.acknowledged)


def test_after_sigkill_under_load_every_acknowledged_job_is_archived(programs: Programs, hosted: str) -> None:
    values = settings(programs.folder)
    with programs.receiver_process(values) as receiver:
        load = Load(receiver, hosted, "load")
        with load.running():
            receiver.program.kill()

    with programs.receiver_process(values) as again:
        all_archived(again, load.acknowledged)


def test_a_stop_waits_for_no_poller_no_download_and_no_idle_connection(
    programs: Programs, near: Neighbour, hosted: str
) -> None:
    near.gate = threading.Event()
    values = settings(programs.folder)
    with programs.receiver_process(values) as receiver:
        receiver.deliver(completion("held", hosted, *SIZE))
        assert near.asked.wait(PATIENCE)
        poller = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=PATIENCE)
        poller.request("GET", "/jobs/held?wait=60", headers={"Authorization": f"Bearer {API_TOKEN}"})
        with (
            contextlib.closing(poller),
            socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE) as idle,
        ):
            idle.sendall(f"POST {WEBHOOK} HTTP/1.1\r\nHost: r\r\n".encode())
            assert receiver.get("/healthz").status_code == 200  # by now the others are known to the server
            code, seconds = receiver.program.stop()
            answer = poller.getresponse()
            assert (answer.status, json.load(answer)["state"]) == (200, "received")

        assert (code, seconds < LONGEST_STOP) == (0, True)
        assert "Traceback" not in receiver.program.log

    near.gate.set()
    with programs.receiver_process(values) as again:
        job = again.ended("held")
        assert again.program.stop()[0] == 0  # its spooled file goes a moment after that
    assert (job["state"], job["attempts"]) == ("archived", 1)
    assert not list((programs.folder / "data" / "spool").iterdir())


def test_a_stop_waits_for_no_thread_that_receives_a_large_image(programs: Programs) -> None:
    large = Answer(bytes(4 * 2**20))
    values = settings(programs.folder, RECEIVER_LEAST_RATE="1")
    with source() as host, programs.receiver_process(values) as receiver:
        for number in range(4):
            url = host.offer(f"held-{number}", replace(large, gate=host.gate()))
            receiver.deliver(completion(f"held-{number}", url, *SIZE)).raise_for_status()
        spool = programs.folder / "data" / "spool"
        eventually(lambda: sum(file.stat().st_size >= 2 * 2**20 for file in spool.iterdir()) == 4)
        code, seconds = receiver.program.stop()
        left = list(spool.iterdir())
        assert "Traceback" not in receiver.program.log

    assert (code, seconds < LONGEST_STOP, left) == (0, True, [])


def test_a_stop_takes_no_new_connections_and_what_it_still_acknowledges_is_kept(
    programs: Programs, hosted: str
) -> None:
    values = settings(programs.folder)
    body = json.dumps(completion("last", hosted, *SIZE)).encode()
    with programs.receiver_process(values) as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE) as last:
            head = (
                f"POST {WEBHOOK} HTTP/1.1\r\nHost: r\r\nContent-Length: {len(body)}\r\n"
                f"X-Webhook-Secret: {WEBHOOK_SECRET}\r\nExpect: 100-continue\r\n\r\n"
            )
            last.sendall(head.encode())
            assert last.recv(1000).startswith(b"HTTP/1.1 100 ")  # the request is under way
            receiver.program.terminate()
            receiver.program.until_event("stopping")
            refused = False
            while not refused:  # the listener closes a moment after the line
                try:
                    httpx.get(f"{receiver.address}/healthz", verify=TRUST, trust_env=False)
                except httpx.ConnectError:
                    refused = True
                except httpx.TransportError:
                    pass
            last.sendall(body)
            answer = last.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert receiver.program.process.wait(PATIENCE) == 0

    with programs.receiver_process(values) as again:
        assert again.ended("last")["state"] == "archived"


def test_a_delivery_whose_body_never_comes_is_answered_with_503_at_a_stop(programs: Programs) -> None:
    with programs.receiver_process(settings(programs.folder)) as receiver:
        sender = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=PATIENCE)
        with contextlib.closing(sender):
            sender.putrequest("POST", WEBHOOK)
            for name, value in {**PROOF, "Content-Length": "100"}.items():
                sender.putheader(name, value)
            sender.endheaders(b"{")
            assert receiver.get("/healthz").status_code == 200  # by now the other is known to the server
            code, seconds = receiver.program.stop()
            answer = sender.getresponse()
            said = json.load(answer)

    assert (answer.status, said["reason"]) == (503, "ledger.stopping")
    assert answer.headers["Retry-After"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (code, seconds < LONGEST_STOP) == (0, True)
    assert "Traceback" not in receiver.program.log


def test_an_archive_that_never_answers_does_not_hold_up_a_stop(programs: Programs, hosted: str) -> None:
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(silent.accept()[0])
                    asked.set()

        held: list[socket.socket] = []
        taking = threading.Thread(target=take)
        taking.start()
        values = settings(
            programs.folder,
            RECEIVER_ARCHIVE="s3://bucket",
            AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{silent.getsockname()[1]}",
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="secret",
            AWS_REGION="us-east-1",
        )
        try:
            with programs.receiver_process(values) as receiver:
                assert asked.wait(PATIENCE)  # by the probe
                receiver.deliver(completion("kept", hosted, *SIZE))
                receiver.program.until_event("fetched", job="kept")
                code, seconds = receiver.program.stop()
                assert (code, seconds < LONGEST_STOP) == (0, True)
        finally:
            silent.shutdown(socket.SHUT_RDWR)
            taking.join()
            for connection in held:
                connection.close()

    with programs.receiver_process(settings(programs.folder)) as again:
        assert again.ended("kept")["state"] == "archived"


def test_a_spool_file_that_a_crash_left_unfinished_is_removed_at_the_start(
    programs: Programs, near: Neighbour, hosted: str, picture: bytes
) -> None:
    values = settings(programs.folder)
    spool = programs.folder / "data" / "spool"
    near.gate = threading.Event()
    with programs.receiver_process(values) as receiver:
        receiver.deliver(completion("crashed", hosted, *SIZE))
        assert near.asked.wait(PATIENCE)
        receiver.program.kill()
    (spool / "left-over.part").write_bytes(picture[:100])
    (spool / f"unknown-job.{'0' * 64}.png").write_bytes(picture)
    near.gate.set()

    with programs.receiver_process(values) as again:
        assert again.ended("crashed")["state"] == "archived"
        assert again.program.stop()[0] == 0

    assert not list(spool.iterdir())
