"""An upgrade behind the real Caddy: the old process drains, a new one takes over, no delivery is refused."""

import http.server
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from tests.support.caddy import CADDYFILE, PROGRAM, Caddy, caddy, free_port
from tests.support.deliveries import Deliveries
from tests.support.processes import (
    API_TOKEN,
    PATIENCE,
    PROOF,
    WEBHOOK,
    WEBHOOK_SECRET,
    Program,
    Programs,
    settings,
)

SENDERS = 4
UPGRADES = 2
BEFORE_EACH = 15


@pytest.mark.timeout(300)
def test_no_delivery_is_lost_or_refused_while_a_new_version_takes_over(
    programs: Programs, hosted: str, tmp_path: Path
) -> None:
    port = free_port()
    values = settings(programs.folder, RECEIVER_PORT=str(port))
    with caddy(tmp_path / "caddy", f"127.0.0.1:{port}") as door:
        programs.started.append(door.program)
        deliveries = Deliveries(door, hosted)
        with ThreadPoolExecutor(SENDERS) as pool:
            try:
                with programs.receiver_process(values, cold=True) as receiver:
                    senders = [pool.submit(deliveries.run, number) for number in range(SENDERS)]
                    deliveries.until_more(BEFORE_EACH)
                    code, _ = receiver.program.stop()
                    assert code == 0
                for _ in range(UPGRADES):
                    # Nothing listens now. What is delivered meanwhile waits at Caddy for the next one.
                    with programs.receiver_process(values, cold=True) as receiver:
                        deliveries.until_more(BEFORE_EACH)
                        code, _ = receiver.program.stop()
                        assert code == 0
                with programs.receiver_process(values, cold=True) as receiver:
                    deliveries.until_more(BEFORE_EACH)
                    deliveries.enough.set()
                    for sender in senders:
                        sender.result(PATIENCE)
                    assert deliveries.answers == {200: len(deliveries.sent)}
                    ends = {job_id: receiver.ended(job_id)["state"] for job_id in deliveries.sent}
            finally:
                deliveries.enough.set()
    assert ends == dict.fromkeys(deliveries.sent, "archived")
    assert deliveries.longest < 30  # lb_try_duration: what a sender has to wait at most


@pytest.fixture
def door(programs: Programs, tmp_path: Path) -> Iterator[tuple[Caddy, int]]:
    """Caddy before a receiver that is not there."""
    port = free_port()
    text = CADDYFILE.read_text()
    assert "lb_try_duration 30s" in text
    with caddy(
        tmp_path / "caddy",
        f"127.0.0.1:{port}",
        caddyfile=text.replace("lb_try_duration 30s", "lb_try_duration 1s"),
    ) as it:
        programs.started.append(it.program)
        yield it, port


def test_caddy_lets_nothing_through_but_the_webhook_and_the_questions(
    programs: Programs, door: tuple[Caddy, int]
) -> None:
    it, port = door
    with (
        programs.receiver_process(settings(programs.folder, RECEIVER_PORT=str(port))),
        httpx.Client(base_url=it.address, verify=it.trust, trust_env=False, timeout=PATIENCE) as client,
    ):
        token = {"Authorization": f"Bearer {API_TOKEN}"}
        answers = {
            path: client.get(path, headers=token).status_code for path in ("/jobs", "/stats", "/deliveries")
        }
        inside = {
            path: client.get(path, headers=token).status_code for path in ("/metrics", "/healthz", "/readyz")
        }
        unproved = client.post(WEBHOOK, json={})
        proved = client.post(WEBHOOK, json={"no": "completion"}, headers=PROOF)
        try:
            large = client.post(WEBHOOK, content=b"x" * 2_000_000, headers=PROOF).status_code
        except httpx.WriteError:  # it hangs up on who goes on sending
            large = 413
    assert set(answers.values()) == {200}
    assert set(inside.values()) == {404}
    assert (unproved.status_code, unproved.json()["reason"]) == (401, "auth.refused")
    assert large == 413
    assert (proved.status_code, proved.json()["reason"]) == (422, "body.not_a_completion")


def test_a_trial_without_containers_needs_no_rights_and_changes_nothing_of_what_the_machine_trusts(
    tmp_path: Path,
) -> None:
    http, https, port = free_port(), free_port(), free_port()
    values = {"HTTP_PORT": str(http), "HTTPS_PORT": str(https), "RECEIVER_UPSTREAM": f"127.0.0.1:{port}"}
    home = {"HOME": str(tmp_path), "PATH": os.environ.get("PATH", "")}
    arguments = [PROGRAM, "run", "--config", str(CADDYFILE)]
    with Program("caddy", arguments, tmp_path, {**values, **home}) as trial:
        trial.until(lambda: "certificate obtained successfully" in trial.log)
        trial.until(lambda: "serving initial configuration" in trial.log)
        assert "installing root certificate" not in trial.log
        answer = httpx.get(f"http://localhost:{http}/jobs", trust_env=False, timeout=PATIENCE)
        assert answer.is_redirect
    assert (tmp_path / ".local/share/caddy/pki/authorities/local/root.crt").is_file()


def test_caddy_says_when_nobody_answers_and_not_what_was_in_the_headers(door: tuple[Caddy, int]) -> None:
    it, _ = door
    with httpx.Client(verify=it.trust, trust_env=False, timeout=PATIENCE) as client:
        answer = client.post(it.address + WEBHOOK, json={}, headers=PROOF)
    assert answer.status_code == 502
    it.program.until(lambda: '"status":502' in it.program.log)
    assert WEBHOOK_SECRET not in it.program.log


class Breaking(http.server.BaseHTTPRequestHandler):
    """Reads the first delivery and ends the connection without an answer, as a process that ends does."""

    bodies: ClassVar[list[bytes]]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        if len(self.bodies) > 1:
            self.send_response(200)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def breaking(port: int) -> Iterator[None]:
    Breaking.bodies = []
    with http.server.HTTPServer(("127.0.0.1", port), Breaking) as upstream:
        serving = threading.Thread(target=upstream.serve_forever)
        serving.start()
        try:
            yield
        finally:
            upstream.shutdown()
            serving.join()


def test_a_delivery_whose_connection_broke_is_sent_again_whole(door: tuple[Caddy, int]) -> None:
    it, port = door
    body = b"x" * 200_000
    with breaking(port), httpx.Client(verify=it.trust, trust_env=False, timeout=PATIENCE) as client:
        answer = client.post(it.address + WEBHOOK, content=body)
    assert answer.status_code == 200
    assert Breaking.bodies == [body, body]


def test_a_body_over_the_limit_is_sent_once(door: tuple[Caddy, int]) -> None:
    it, port = door
    with (
        breaking(port),
        httpx.Client(verify=it.trust, trust_env=False, timeout=PATIENCE) as client,
        suppress(httpx.TransportError),  # Caddy hangs up on a client that goes on sending
    ):
        client.post(it.address + WEBHOOK, content=b"x" * 2_000_000)
    assert len(Breaking.bodies) <= 1
