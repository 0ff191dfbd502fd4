"""A client of ``GET /jobs/changes`` that reads events as browsers do (HTML Standard, 9.2.6)."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.processes import API_TOKEN, PATIENCE, TRUST


@dataclass(frozen=True, slots=True)
class Event:
    """One event, with the id that the client had by then."""

    id: str
    name: str
    data: Any


class Listener:
    """Listens in a thread of its own until it is cut off, and keeps what it heard.

    Args:
        address: of the receiver.
        last: the id to go on from, as a browser that comes back says it.
        parameters: of the query.
    """

    def __init__(self, address: str, last: str | None = None, **parameters: str) -> None:
        self.events: list[Event] = []
        self.last = last
        self.comments = 0
        self.retry: int | None = None
        self.headers: Mapping[str, str] = {}
        self.ended = False
        self._news = threading.Condition()
        self._cut = False
        self._client = httpx.Client(verify=TRUST, trust_env=False, timeout=PATIENCE)
        self._request = self._client.build_request(
            "GET",
            f"{address}/jobs/changes",
            params=parameters,
            headers={
                "Authorization": f"Bearer {API_TOKEN}",
                **({} if last is None else {"Last-Event-ID": last}),
            },
        )
        self._answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._answer = self._client.send(self._request, stream=True)
        assert self._answer.status_code == 200, self._answer.read()
        self.headers = self._answer.headers
        self._thread.start()
        self.until(lambda: self.last is not None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """Ends the connection in the middle of whatever comes."""
        self._cut = True
        assert self._answer is not None
        stream = self._answer.extensions["network_stream"]
        sock = stream.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.shutdown(2)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._client.close()

    @property
    def transitions(self) -> list[Any]:
        """The data of all transitions so far."""
        return [event.data for event in list(self.events) if event.name == "transition"]

    def until(self, found: Any) -> None:
        """Returns when the condition holds; it is looked at for every block that comes."""
        with self._news:
            self._news.wait_for(lambda: found() or self.ended, PATIENCE)
            assert found(), f"never came; only {self.events[-20:]}, ended: {self.ended}"

    def until_ended(self) -> None:
        """Returns when the receiver has ended the stream."""
        self._thread.join(PATIENCE)
        assert self.ended

    def _listen(self) -> None:
        block: list[str] = []
        try:
            assert self._answer is not None
            for line in self._answer.iter_lines():
                if line:
                    block.append(line)
                else:
                    self._take(block)
                    block = []
        except httpx.TransportError:
            pass  # cut off: what is not whole does not count
        with self._news:
            self.ended = True
            self._news.notify_all()

    def _take(self, block: list[str]) -> None:
        fields: dict[str, str] = {}
        for line in block:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        with self._news:
            self.comments += "" in fields
            self.retry = int(fields["retry"]) if "retry" in fields else self.retry
            self.last = fields.get("id", self.last)
            if "data" in fields:
                assert self.last is not None
                self.events.append(
                    Event(self.last, fields.get("event", "message"), json.loads(fields["data"]))
                )
            self._news.notify_all()
