"""The routes for programs and people with an API token, and those for health checks."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from receiver.api import params
from receiver.api.health import Probe
from receiver.archive.base import ImageReader
from receiver.core import json_text, serializers
from receiver.core.completion import is_job_id, is_provider_id, is_ref
from receiver.core.errors import ArchiveError, BodyError, LedgerError
from receiver.core.jobs import FINAL, Event, Job, State, overdue_cutoff
from receiver.ledger import NOTIFICATION_OUTCOMES, NOTIFICATIONS, RECONCILED, Instance, Ledger, Submission
from receiver.operations import acceptance
from receiver.pipeline.spool import Spool
from receiver.providers.base import Provider, Providers
from receiver.web.body import BODY_SECONDS, read_body
from receiver.web.refusals import RefusalCounter
from receiver.web.waiter_limit import WaiterLimit

log = structlog.get_logger("receiver.api")

MAX_BODY_BYTES = 64 * 1024

IMAGE_HEADERS = {
    # The bytes are untrusted: whatever a browser makes of them, it may run and load nothing.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-store",
    "Accept-Ranges": "none",
}

JOB_HEADERS = {"Cache-Control": "private, no-cache"}
"""The client may keep the answer, and must revalidate it each time."""

_ENTITY_TAG = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True)
class Api:
    """The routes.

    Attributes:
        stopping: set when the server is to end; waiting clients are answered then.
        providers: those that are on, of which jobs can be announced.
    """

    ledger: Ledger
    archive: ImageReader
    spool: Spool
    overdue_after: timedelta
    stopping: asyncio.Event
    checks: Mapping[str, Probe]
    refusals: RefusalCounter
    waiters: WaiterLimit
    providers: Providers
    body_seconds: float = BODY_SECONDS

    def routes(self) -> list[Route]:
        return [
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/jobs", self.jobs, methods=["GET", "POST"]),
            Route("/jobs/{id}", self.job, methods=["GET"]),
            Route("/jobs/{id}/image", self.image, methods=["GET"]),
            Route("/jobs/{id}/retry", self.retry, methods=["POST"]),
            Route("/jobs/{id}/refused", self.refused, methods=["GET"]),
            Route("/jobs/{id}/accept", self.accept, methods=["POST"]),
            Route("/deliveries", self.deliveries, methods=["GET"]),
            Route("/stats", self.stats, methods=["GET"]),
        ]

    async def jobs(self, request: Request) -> Response:
        """``GET /jobs``: a page of jobs, newest first. ``POST /jobs``: see `announce`."""
        if request.method == "POST":
            return await self.announce(request)
        wanted, window = params.jobs(request.query_params, overdue_before=self._overdue_before())
        page = await self.ledger.jobs(wanted, before=window.before, limit=window.limit)
        incomplete = {"incomplete": True} if page.incomplete else {}
        return JSONResponse(
            {
                "jobs": [serializers.job(job) for job in page.jobs],
                "next": params.cursor(page.next),
                **incomplete,
            }
        )

    async def job(self, request: Request) -> Response:
        """``GET /jobs/{id}``: one job with its history.

        With ``wait`` it answers when the job has ended. With ``If-None-Match`` too it answers as soon as the
        answer is another one.
        """
        seconds = params.wait(request.query_params)
        known = request.headers.get("if-none-match")
        job_id = request.path_params["id"]
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        with self.ledger.changes(job_id) as changed:
            job, answer = _with_tag(job_id, await self.ledger.job_with_history(job_id))
            if seconds > 0 and not self._is_due(job, answer, known):
                self.waiters.check()
                with self.waiters.waiting():
                    while not self._is_due(job, answer, known) and (left := until - loop.time()) > 0:
                        await _first(changed, self.stopping, within=left)
                        changed.clear()
                        job, answer = _with_tag(job_id, await self.ledger.job_with_history_shared(job_id))
        if known is None or not _is_known(answer, known):
            return answer
        return Response(status_code=304, headers={**JOB_HEADERS, "ETag": answer.headers["ETag"]})

    def _is_due(self, job: Job, answer: Response, known: str | None) -> bool:
        """Return whether to end the wait: the job has ended, the answer is new, or the server stops."""
        news = known is not None and not _is_known(answer, known)
        return job.state in FINAL or news or self.stopping.is_set()

    async def image(self, request: Request) -> Response:
        """``GET /jobs/{id}/image``: the archived image, or a redirect to a URL that gives it for a while."""
        params.nothing(request.query_params)
        job_id = request.path_params["id"]
        job = await self.ledger.job(job_id)
        if job is None:
            raise LedgerError("ledger.unknown_job", f"There is no job {job_id}.")
        if job.state is not State.ARCHIVED or job.stored is None or job.image is None:
            raise LedgerError("ledger.wrong_state", f"Job {job_id} is {job.state}, not archived.")
        try:
            place = await self.archive.locate(job.stored, job.image)
        except ArchiveError:
            moved = await self.ledger.job(job_id)  # such as by `receiver archive-migrate`, just now
            if moved is None or moved.stored is None or moved.stored == job.stored:
                raise
            place = await self.archive.locate(moved.stored, job.image)
        if isinstance(place, Path):
            name = f"{job_id}.{job.image.extension}" if job.image.accepted else None  # a download
            return _whole_file(request, place, job.image.content_type, name)
        return RedirectResponse(place, 302, headers={"Cache-Control": "no-store"})

    async def retry(self, request: Request) -> Response:
        params.nothing(request.query_params)
        job = await self.ledger.try_now(request.path_params["id"])
        log.info("retried", job=job.id, state=job.state)
        return JSONResponse(serializers.job(job), 202)

    async def refused(self, request: Request) -> Response:
        """``GET /jobs/{id}/refused``: the bytes that verification refused, as a download."""
        params.nothing(request.query_params)
        found = await acceptance.find_refused(self.ledger, self.spool, request.path_params["id"])
        answer = _whole_file(request, found.path, "application/octet-stream", f"{found.job.id}.bin")
        answer.headers["ETag"] = f'"{found.image.sha256}"'
        return answer

    async def accept(self, request: Request) -> Response:
        """``POST /jobs/{id}/accept``: let refused bytes be archived as they are."""
        sha256 = params.accept(request.query_params)
        job = await acceptance.accept(self.ledger, self.spool, request.path_params["id"], sha256)
        return JSONResponse(serializers.job(job), 202)

    async def announce(self, request: Request) -> Response:
        """``POST /jobs``: announce a job that another program submitted, so that it can become overdue."""
        params.nothing(request.query_params)
        too_large = f"The body is larger than {MAX_BODY_BYTES} bytes."
        body = await read_body(request, MAX_BODY_BYTES, self.body_seconds, too_large=too_large)
        submission = _submission(body, self.providers)
        new = await self.ledger.expect(submission)
        job = await self.ledger.job(submission.id)
        assert job is not None
        if new:
            log.info("announced", job=job.id)
        return JSONResponse(serializers.job(job), 201 if new else 200)

    async def deliveries(self, request: Request) -> Response:
        """``GET /deliveries``: the deliveries that were no completions, newest first."""
        outcome, window = params.deliveries(request.query_params)
        page = await self.ledger.unread_deliveries(outcome, before=window.before, limit=window.limit)
        rows = [
            {
                "id": unread.seq,
                "at": serializers.time(unread.at),
                "provider": unread.provider,
                "outcome": unread.outcome,
                "detail": unread.detail,
                **_body(unread.body),
            }
            for unread in page.deliveries
        ]
        return JSONResponse({"deliveries": rows, "next": params.cursor(page.next)})

    async def stats(self, request: Request) -> Response:
        params.nothing(request.query_params)
        stats = await self.ledger.stats(overdue_before=self._overdue_before())
        now, oldest = self.ledger.now(), stats.oldest_waiting_at
        notifications = stats.counters.get(NOTIFICATIONS, {})
        return JSONResponse(
            {
                "states": {state.value: stats.jobs[state] for state in State},
                "oldest_waiting_seconds": None if oldest is None else max(now - oldest, 0) / 1000,
                "soonest_deadline": serializers.time(stats.soonest_deadline),
                "overdue": stats.overdue,
                "at_risk": stats.at_risk,
                "refused": stats.refused,
                "bytes_archived": stats.bytes[State.ARCHIVED],
                "spool_bytes": stats.bytes[State.FETCHED],
                "instances": [_instance(it, now) for it in stats.instances],
                "damaged": _counted(stats.damaged),
                "unread_deliveries": stats.unread,
                "refusals": self.refusals.counts,
                "reconcile": {name: _counted(stats.counters.get(name, {})) for name in RECONCILED},
                "notifications": {
                    "pending": stats.notifications_pending,
                    **{outcome: notifications.get(outcome, 0) for outcome in NOTIFICATION_OUTCOMES},
                },
            }
        )

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002 - takes no parameters
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """``GET /readyz``: 200, or 503 with each failing check."""
        failing = await self.failing(params.checks(request.query_params))
        instance = {"instance": self.ledger.member.name} if self.ledger.shared else {}
        return JSONResponse(
            {"status": "failing" if failing else "ok", "failing": failing, **instance},
            503 if failing else 200,
        )

    async def failing(self, only: str | None = None) -> dict[str, str]:
        """Return each check that fails, with what is wrong in a sentence; with ``only``, of all but this one
        none is made.
        """
        probed = {name: await probe() for name, probe in self.checks.items() if only in (None, name)}
        failing = {name: wrong for name, wrong in probed.items() if wrong is not None}
        if self.stopping.is_set():
            failing["serving"] = "The receiver is shutting down."
        return failing

    def _overdue_before(self) -> int:
        return overdue_cutoff(self.ledger.now(), self.overdue_after)


def _whole_file(request: Request, path: Path, media_type: str, download_as: str | None) -> Response:
    # Asked for a part, the whole is an honest answer too (RFC 9110, 14.2), and cannot be refused.
    request.scope["headers"] = [pair for pair in request.headers.raw if pair[0] != b"range"]
    return FileResponse(path, media_type=media_type, headers=IMAGE_HEADERS, filename=download_as)


def _with_tag(job_id: str, found: tuple[Job, Sequence[Event]] | None) -> tuple[Job, Response]:
    """Return the job, and the answer with its history and its ETag."""
    if found is None:
        raise LedgerError("ledger.unknown_job", f"There is no job {job_id}.")
    job, history = found
    answer = JSONResponse(
        {**serializers.job(job), "history": [serializers.event(e) for e in history]}, headers=JOB_HEADERS
    )
    # A hash of the bytes, so that no list of what may change has to be kept.
    answer.headers["ETag"] = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
    return job, answer


def _is_known(answer: Response, known: str) -> bool:
    """Return whether an ``If-None-Match`` names this answer (RFC 9110, 13.1.2: weak comparison)."""
    return known.strip() == "*" or answer.headers["ETag"] in _ENTITY_TAG.findall(known)


async def _first(*events: asyncio.Event, within: float) -> None:
    """Wait until one of the events is set, for at most so many seconds."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _submission(body: bytes, providers: Providers) -> Submission:
    try:
        document = json_text.loads(body)
    except ValueError:
        raise BodyError("body.not_json") from None
    if not isinstance(document, dict) or not set(document) <= {"id", "ref", "provider", "endpoint"}:
        raise BodyError("body.invalid", 'The body must be an object such as {"id": "…", "ref": "…"}.')
    ref, endpoint = document.get("ref"), document.get("endpoint")
    if ref is not None and not is_ref(ref):
        raise BodyError("body.invalid", "ref must be 1 to 200 printable ASCII characters.")
    if endpoint is not None and (not is_ref(endpoint) or ".." in endpoint):
        raise BodyError("body.invalid", "endpoint must be 1 to 200 printable ASCII characters, such as a/b.")
    provider, job_id = _announced(document.get("id"), document.get("provider"), providers)
    if endpoint is not None and not provider.knows_endpoint(endpoint):
        raise BodyError("body.invalid", f"endpoint is none of {provider.title}, such as owner/model.")
    return Submission(job_id, ref, endpoint)


def _announced(own_id: object, name: object, providers: Providers) -> tuple[Provider, str]:
    """Return the provider and the id of an announced job: the provider's own id with its name, or a job's."""
    if name is None:
        if not is_job_id(own_id):
            raise BodyError("body.invalid", "id is no job's id.")
        name, _, own_id = own_id.rpartition(":")
        name = name or next((it.name for it in providers.values() if it.bare_ids), None)
    provider = providers.get(name) if isinstance(name, str) else None
    if provider is None:
        raise BodyError("body.invalid", f"provider is none of those that are on: {', '.join(providers)}.")
    job_id = provider.job_id(own_id) if is_provider_id(own_id) else None
    if not is_job_id(job_id):
        raise BodyError("body.invalid", f"id is no id of a job of {provider.title}.")
    return provider, job_id


def _instance(it: Instance, now: int) -> dict[str, Any]:
    return {
        "name": it.name,
        "version": it.version,
        "state": it.state(now),
        "leads": it.leads(now),
        "started_at": serializers.time(it.started_at),
        "heartbeat_at": serializers.time(it.heartbeat_at),
        "images": it.images,
        "bytes": it.bytes,
    }


def _counted(by_reason: Mapping[str, int]) -> dict[str, Any]:
    """Return the total, and the number for each reason."""
    return {
        "total": sum(by_reason.values()),
        "reasons": {reason: times for reason, times in by_reason.items() if reason},
    }


def _body(raw: bytes) -> dict[str, str]:
    """Return a raw body as JSON can carry it: as text where it is UTF-8, else as base64."""
    try:
        return {"body": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(raw).decode("ascii")}
