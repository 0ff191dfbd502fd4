"""Ximilar's routes, and its jobs in their JSON forms."""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.sandbox.faults import Fault, JobFault
from receiver.sandbox.hosting import Hosting
from receiver.sandbox.jobs import Event, Job, State, timestamp
from receiver.sandbox.standin import StandIn
from receiver.sandbox.submits import InvalidRequestError, scheme_token
from receiver.sandbox.ximilar.validation import XimilarOrder, parse, source_of

_STATUS: Mapping[State, str] = {State.WAITING: "CREATED", State.WORKING: "PROCESSING"}
"""The page documents these and DONE; the others are known second-hand."""
_ENDS: Mapping[Fault, str] = {
    JobFault.FAILED: "FAILED",
    JobFault.FAILED_TOLD: "FAILED",
    JobFault.LIMIT: "API_LIMIT_EXCEEDED",
    JobFault.UNSUPPORTED: "NOT_SUPPORTED",
}
_ROW = ("id", "status", "type", "created", "workspace")
_SUBMITTED = ("id", "request", "type", "status", "created", "workspace")
_WHOLE = ("id", "created", "modified", "request", "response", "type", "status", "workspace")

XimilarJob = Job[XimilarOrder]


class Ximilar(StandIn[XimilarOrder]):
    """Each route exists with and without a trailing slash, and neither redirects. No retries are promised."""

    submitted_status = 201
    invalid_status = 400

    def routes(self, prefix: str = "/account/v2/request") -> list[Route]:
        paths = [
            (prefix, "POST", self.submit),
            (prefix, "GET", self.list),
            (prefix + "/{id}", "GET", self.get),
            (prefix + "/{id}/status", "GET", self.status),
        ]
        return [
            Route(path + slash, self.guarded(endpoint), methods=[method])
            for path, method, endpoint in paths
            for slash in ("", "/")
        ]

    def hosting(self) -> Hosting:
        return Hosting("/ximilar-tmp-images", 24 * 3600.0, media_type="binary/octet-stream")

    def token_of(self, request: Request) -> str | None:
        return scheme_token(request, "Token")

    def parse(self, body: bytes, _request: Request) -> XimilarOrder:
        return parse(body, self.options.max_source_bytes, self.options.workspace)

    def picture_of(self, request: Any) -> bytes:
        return source_of(request)

    def submitted(self, job: XimilarJob, request: Any) -> Any:
        return _form(job, _SUBMITTED, request) | {"status": "CREATED"}

    def message(self, job: XimilarJob, _request: Any, event: Event) -> Any:
        return _completion(job) if event is Event.ENDED else None

    def refusal(self, _status: int, text: str) -> Any:
        """Return a guess: the words of Django REST framework, which the vendor's own client expects."""
        return {"detail": text}

    def invalid(self, error: InvalidRequestError) -> Any:
        """Return a guess: the vendor's own client expects this form as well."""
        if not error.readable:
            return {"detail": error.text}
        return {"status": {"code": 400, "text": error.text, "request_id": str(uuid.uuid4())}}

    async def list(self, request: Request) -> Response:
        """``GET /request``: pages of all jobs, by ``type`` and ``status`` where these are given."""
        query = request.query_params
        text = query.get("page", "1")
        page = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
        # The page does not state the order; newest first is a guess.
        jobs = [
            job
            for job in self.listed()
            if query.get("type", "upscaler") == "upscaler"
            and query.get("status", _status_of(job)) == _status_of(job)
        ]
        size = self.options.page_size or self.page_size
        pages = max(1, -(-len(jobs) // size))
        if not 1 <= page <= pages:
            raise HTTPException(404, "Invalid page.")
        return JSONResponse(
            {
                "count": len(jobs),
                "next": self.page_link(request, page=page + 1) if page < pages else None,
                "previous": self.page_link(request, page=page - 1) if page > 1 else None,
                "results": [_form(job, _ROW) for job in jobs[(page - 1) * size : page * size]],
            }
        )

    async def get(self, request: Request) -> Response:
        return await self.answer(lambda job, submit: _form(job, _WHOLE, submit), self.job(request))

    async def status(self, request: Request) -> Response:
        """``GET /request/{id}/status``. The page shows no answer; the vendor's client reads ``status``."""
        job: XimilarJob = self.job(request)
        return JSONResponse({"id": job.id, "status": _status_of(job)})


def _status_of(job: XimilarJob) -> str:
    """Return a job's status. One whose source cannot be used is DONE all the same, with a bad record."""
    if job.state is State.WORKING and JobFault.RETRY in job.plan:
        return "RETRY"
    if job.state in _STATUS:
        return _STATUS[job.state]
    return next((_ENDS[fault] for fault in job.plan & _ENDS.keys()), "DONE")


def _form(job: XimilarJob, names: Sequence[str], request: Any = None) -> dict[str, Any]:
    """Return these members of a job, in their order on the page; an end that is not DONE has no response."""
    status = _status_of(job)
    values = {
        "id": job.id,
        "status": status,
        "type": "upscaler",
        "created": timestamp(job.created),
        "modified": timestamp(job.modified),
        "workspace": job.order.workspace,
        "request": request,
    }
    if status == "DONE":
        values["response"] = {"records": [_record(job, announced=False)]}
    return {name: values[name] for name in names if name in values}


def _completion(job: XimilarJob) -> dict[str, Any] | None:
    """Return the body of the completion, whose record has an ``_id``, or None for a silent end."""
    status = _status_of(job)
    answer: dict[str, Any] = {"status": status, "id": job.id, "type": "upscaler"}
    if status == "DONE":
        record_id = job.order.record_id or str(uuid.uuid5(uuid.UUID(job.id), "record"))
        answer["response"] = {"records": [{"_id": record_id} | _record(job, announced=True)]}
    elif JobFault.FAILED_TOLD not in job.plan:
        return None
    return answer


def _record(job: XimilarJob, *, announced: bool) -> dict[str, Any]:
    """Return the one record. The request_id of its status differs from the job's id."""
    record: dict[str, Any] = {}
    if job.order.source is not None:
        record["_url"] = job.order.source
    for output in job.outputs:
        record |= {"_width": output.file.width, "_height": output.file.height}
    code = 200 if job.error is None else 500 if job.outputs else 400
    request_id = str(uuid.uuid5(uuid.UUID(job.id), "request"))
    record["_status"] = {"code": code, "text": job.error or "OK", "request_id": request_id}
    for output in job.outputs if code == 200 else ():
        record |= {
            "_upscaled_width": output.file.upscaled_width,
            "_upscaled_height": output.file.upscaled_height,
            "_upscaled_image_url": output.announced_url if announced else output.url,
        }
    return record
