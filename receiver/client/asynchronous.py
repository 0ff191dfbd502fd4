"""The client for asyncio, of which the other is made."""

import asyncio
import hashlib
import json
import re
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from receiver.client.documents import ApiError, Change, Document, Gap, Job, Page
from receiver.core.completion import is_job_id
from receiver.providers.api import DIRECT

TIMEOUT = 30.0

PAGE = 500
"""Jobs in one answer of a list."""

MAX_WAIT = 60.0
"""Seconds that the receiver lets a client wait for a job."""

SILENCE = 45.0
"""Seconds without a byte after which a stream of changes counts as broken: a comment comes every 15."""

PATIENCE = 60.0
"""Seconds that a receiver which answered before may be away, such as during an upgrade."""

PAUSE = 1.0
"""Seconds between two tries."""

AWAY = frozenset({502, 503, 504})

D = TypeVar("D", bound=Document)


class AsyncClient:
    """A client of a receiver's HTTP API.

    Each method raises `ApiError` where the receiver refuses, `httpx.TransportError` without an answer, and
    ValueError for what is no job's id.

    Args:
        url: the receiver's address, such as ``http://127.0.0.1:8080``.
        token: one of its API tokens. A ValueError is raised for what cannot be one.
        timeout: seconds that connecting, and each silence of an answer, may take.
        verify: whom to trust over TLS, as httpx takes it.
        transport: what sends the requests, such as in tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = TIMEOUT,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ValueError("The token has a character that none can have, such as a line break at its end.")
        self._base = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._verify = verify
        self._http = httpx.AsyncClient(timeout=timeout, verify=verify, transport=transport, mounts=DIRECT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def jobs(
        self,
        *,
        state: str | Sequence[str] = (),
        provider: str | None = None,
        ref: str | None = None,
        reason: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        overdue: bool | None = None,
        search: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Job, None]:
        """Yield jobs without their history, the newest first: all of them, or ``limit``."""
        wanted = {
            "state": state,
            "provider": provider,
            "ref": ref,
            "reason": reason,
            "since": since and since.astimezone(UTC).isoformat(),
            "until": until and until.astimezone(UTC).isoformat(),
            "overdue": overdue,
            "search": search,
        }
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = await self._ask(Page, "GET", "/jobs", {**wanted, "limit": size, "cursor": cursor})
            for job in page.jobs:
                yield self._shown(job)
            left, cursor = None if left is None else left - len(page.jobs), page.next
            if cursor is None:
                return

    async def job(self, job_id: str) -> Job:
        """Return one job with its history."""
        return await self._job("GET", _path(job_id))

    async def wait(self, job_id: str, *, timeout: float | None = None) -> Job:  # noqa: ASYNC109 - of the job
        """Wait until a job has ended, and return it. A receiver that restarts meanwhile is waited for.

        Raises:
            TimeoutError: it has not ended, or nothing was answered, within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._ended(job_id)
        except TimeoutError:
            raise TimeoutError(f"Job {job_id} has not ended within {timeout:g} seconds.") from None

    async def _ended(self, job_id: str) -> Job:
        job = await self.job(job_id)
        patience = _Patience()
        patience.renew()
        while not job.is_final:
            asked = time.monotonic()
            try:
                job = await self._job("GET", _path(job_id), {"wait": MAX_WAIT}, silence=MAX_WAIT + TIMEOUT)
            except (httpx.TransportError, ApiError) as error:
                await patience.wait_out(error)
            else:
                patience.renew()
                if not job.is_final and time.monotonic() - asked < PAUSE:  # it is about to stop
                    await asyncio.sleep(PAUSE)
        return job

    async def image(self, job_id: str, to: str | PathLike[str]) -> Path:
        """Write a job's archived image to a file, or into a folder, and return where it is.

        The file is there only when its bytes have the job's SHA-256.

        Raises:
            ApiError: it is not archived (``ledger.wrong_state``), or other bytes came (``archive.altered``).
        """
        job = await self.job(job_id)
        request = self._request("GET", f"{_path(job_id)}/image")
        answer = await self._http.send(request, stream=True)
        if answer.has_redirect_location:
            await answer.aclose()
            # A bucket's address holds the right to read the image. The token is not for that host.
            place = answer.url.join(answer.headers["Location"])
            answer = await self._http.send(httpx.Request("GET", place), stream=True)
        async with aclosing(answer):
            if answer.status_code != 200 or job.image is None:
                raise await _refusal(answer)
            target = await asyncio.to_thread(_target, Path(to), job)
            part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
            try:
                if await _write(answer, part) != job.image.sha256:
                    problem = f"Other bytes came than were archived of job {job_id}."
                    raise ApiError(answer.status_code, "archive.altered", problem)
                await asyncio.to_thread(part.replace, target)
            finally:
                part.unlink(missing_ok=True)
        return target

    async def changes(
        self,
        *,
        after: int | None = None,
        state: str | Sequence[str] = (),
        ref: str | None = None,
        id: str | None = None,  # noqa: A002 - the parameter's name
    ) -> AsyncGenerator[Change, None]:
        """Yield each transition of a job as it happens, without end: from now on, or after a number.

        A stream that breaks is resumed where it was, so that none is missed.
        """
        wanted = {"state": state, "ref": ref, "id": id}
        patience = _Patience()
        position = None if after is None else str(after)
        while True:
            request = self._request("GET", "/jobs/changes", wanted, silence=SILENCE)
            if position is not None:
                request.headers["Last-Event-ID"] = position
            try:
                async with aclosing(await self._http.send(request, stream=True)) as answer:
                    if answer.status_code != 200:
                        raise await _refusal(answer)
                    event: dict[str, str] = {}
                    async for line in answer.aiter_lines():
                        name, _, value = line.partition(":")
                        if line:
                            event[name] = value.removeprefix(" ")
                            continue
                        patience.renew()
                        position = event.get("id", position)
                        if "data" in event:
                            yield _change(answer, event)
                        event = {}
                await asyncio.sleep(PAUSE)
            except (httpx.TransportError, ApiError) as error:
                await patience.wait_out(error)

    async def announce(
        self, job_id: str, *, ref: str | None = None, provider: str | None = None, endpoint: str | None = None
    ) -> Job:
        """Announce a job that another program has submitted, so that its silence is noticed."""
        given = {"id": job_id, "ref": ref, "provider": provider, "endpoint": endpoint}
        body = {name: value for name, value in given.items() if value is not None}
        return await self._job("POST", "/jobs", body=body)

    async def retry(self, job_id: str) -> Job:
        """Try a job again now."""
        return await self._job("POST", f"{_path(job_id)}/retry")

    async def _job(self, *request: Any, **more: Any) -> Job:
        return self._shown(await self._ask(Job, *request, **more))

    def _shown(self, job: Job) -> Job:
        return job.with_thumbnail(self._thumbnail)

    def _thumbnail(self, job_id: str) -> bytes | None:
        """Return a small picture of an archived image, for a notebook, which cannot wait for a coroutine."""
        try:
            with httpx.Client(timeout=self._timeout, verify=self._verify, mounts=DIRECT) as http:
                answer = http.get(f"{self._base}/page{_path(job_id)}/thumbnail", headers=self._headers)
        except (httpx.HTTPError, ValueError):  # the latter: an answer with another id than was asked for
            return None
        return answer.content if answer.headers.get("Content-Type") == "image/webp" else None

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        silence: float | None = None,
    ) -> httpx.Request:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        timeout = httpx.Timeout(self._timeout, read=silence or self._timeout)
        url = self._base + path
        return self._http.build_request(
            method, url, params=given, json=body, headers=self._headers, timeout=timeout
        )

    async def _ask(self, kind: type[D], method: str, path: str, *request: Any, **more: Any) -> D:
        answer = await self._http.send(self._request(method, path, *request, **more))
        if not answer.is_success or not answer.headers.get("Content-Type", "").startswith("application/json"):
            raise await _refusal(answer)
        return _read(kind, answer, answer.content)


class _Patience:
    """Waits out that a receiver is away which answered before."""

    def __init__(self) -> None:
        self._until = time.monotonic()

    def renew(self) -> None:
        self._until = time.monotonic() + PATIENCE

    async def wait_out(self, error: httpx.TransportError | ApiError) -> None:
        """Wait a little; raise the error if that is no help."""
        if time.monotonic() >= self._until or (isinstance(error, ApiError) and error.status not in AWAY):
            raise error
        await asyncio.sleep(PAUSE)


def _path(job_id: str) -> str:
    if not is_job_id(job_id) or job_id == "changes":  # which is the path of the stream
        raise ValueError(f"{job_id!r} is no job's id.")
    return f"/jobs/{job_id}"


async def _refusal(answer: httpx.Response) -> ApiError:
    """Return the error that an answer is."""
    try:
        problem = json.loads(await answer.aread())
        return ApiError(answer.status_code, problem["reason"], problem["detail"])
    except (ValueError, KeyError, TypeError):
        return _foreign(answer, f"{answer.status_code}, and no receiver does so.")


def _foreign(answer: httpx.Response, what: str) -> ApiError:
    where = answer.url.copy_with(query=None, fragment=None)  # a bucket's query is a key
    return ApiError(answer.status_code, "", f"{where} answers {what}")


def _read(kind: type[D], answer: httpx.Response, document: str | bytes) -> D:
    try:
        return kind.model_validate_json(document)
    except ValueError:
        remedy = "Check that the address is a receiver's, and that it and this client have one version."
        what = f"with something else than a receiver's {kind.__name__.lower()}. {remedy}"
        raise _foreign(answer, what) from None  # the values in that error may be keys


def _change(answer: httpx.Response, event: Mapping[str, str]) -> Change:
    if event.get("event") != "gap":
        return _read(Change, answer, event["data"])
    until = _read(Gap, answer, event["data"]).until
    nothing = dict.fromkeys(("from", "reason", "detail", "ref"))
    data = {**nothing, "at": datetime.now(UTC), "event": "gap", "to": "", "seq": until, "id": ""}
    return Change.model_validate(data)


def _target(to: Path, job: Job) -> Path:
    """Return the file for a job's image; in a folder, its id names it, and leads nowhere else."""
    name = "".join(c if c.isalnum() or c in "-_.~" else "_" for c in job.id)
    return to / f"{name}.{job.image.extension if job.image else ''}" if to.is_dir() else to


async def _write(answer: httpx.Response, path: Path) -> str:
    """Write a body to a new file, and return its SHA-256."""
    digest = hashlib.sha256()
    with await asyncio.to_thread(path.open, "xb") as file:
        async for block in answer.aiter_bytes():
            digest.update(block)
            await asyncio.to_thread(file.write, block)
    return digest.hexdigest()
