"""Senders that deliver completions without end through a balancer, as a provider does."""

import threading
import time
from collections import Counter

import httpx

from tests.e2e.conftest import SIZE
from tests.support.caddy import Caddy
from tests.support.processes import PATIENCE, PROOF, WEBHOOK, completion


class Deliveries:
    """Completions without end over TLS, each delivered once, as the provider would."""

    def __init__(self, door: Caddy, url: str) -> None:
        self._door = door
        self._url = url
        self._more = threading.Condition()
        self.enough = threading.Event()
        self.sent: list[str] = []
        self.answers: Counter[object] = Counter()
        self.longest = 0.0

    def run(self, sender: int) -> None:
        with httpx.Client(verify=self._door.trust, trust_env=False, timeout=PATIENCE * 2) as client:
            number = 0
            while not self.enough.is_set():
                job_id = f"job-{sender}-{number}"
                number += 1
                began = time.monotonic()
                answer: object
                try:
                    answer = client.post(
                        self._door.address + WEBHOOK,
                        json=completion(job_id, self._url, *SIZE),
                        headers=PROOF,
                    ).status_code
                except httpx.TransportError as error:
                    answer = type(error).__name__
                with self._more:
                    self.sent.append(job_id)
                    self.answers[answer] += 1
                    self.longest = max(self.longest, time.monotonic() - began)
                    self._more.notify_all()

    def until_more(self, count: int) -> None:
        """Waits for so many further answers."""
        with self._more:
            wanted = len(self.sent) + count
            assert self._more.wait_for(lambda: len(self.sent) >= wanted, PATIENCE * 2)
