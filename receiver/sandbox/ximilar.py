"""Ximilar's stand-in, written from its page alone.

Where the page says nothing (error bodies, ordering, further states), it guesses, and a comment marks the
guess.
"""

import base64
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.sandbox.faults import Fault, JobFault, Plan, plan_of
from receiver.sandbox.hosting import Hosting
from receiver.sandbox.jobs import Event, Job, Order, State, timestamp
from receiver.sandbox.loopback import loopback_url
from receiver.sandbox.standin import StandIn
from receiver.sandbox.submits import InvalidRequestError, json_object, scheme_token
from receiver.sandbox.upscale import Upscaling

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
_RESAMPLING: Mapping[str | None, Image.Resampling] = {
    None: Image.Resampling.BICUBIC,
    "artifact_removal": Image.Resampling.BICUBIC,
    "ironed_out": Image.Resampling.BILINEAR,
    "high_fidelity": Image.Resampling.LANCZOS,
}
_CLIENT_HEADERS = {"host", "content-length", "transfer-encoding", "connection"}


@dataclass(frozen=True, slots=True, kw_only=True)
class XimilarOrder(Order):
    """A submit with what comes back in the answers."""

    workspace: str
    record_id: str | None


def _encodable(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair")
    return text


def _on_loopback(url: str) -> str:
    loopback_url(url)
    return url


def _allowed(header: str) -> str:
    if header.lower() in _CLIENT_HEADERS:
        raise ValueError("a name that the HTTP client sets itself")
    return header


def _decoded_size(encoded: object) -> int | None:
    if encoded is not None and not isinstance(encoded, str):
        raise ValueError("must be a string")
    return None if encoded is None else len(base64.b64decode(encoded, validate=True))


def _plan(data: object) -> Plan | None:
    if data is None:
        return None
    fault = data.get("fault") if isinstance(data, dict) else None
    names = [fault] if isinstance(fault, str) else fault
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError('must be {"fault": NAME} or {"fault": [NAME, …]}')
    return plan_of(names)


_Text = Annotated[str, AfterValidator(_encodable)]
_Url = Annotated[_Text, AfterValidator(_on_loopback)]
# RFC 9110: token (section 5.6.2), field-value (5.5) without obs-text.
_HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"), AfterValidator(_allowed)]
_HeaderValue = Annotated[str, Field(pattern=r"^([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?$")]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())


class Webhook(_Model):
    """The endpoint of the completion, and the headers to send with it."""

    endpoint: _Url
    headers: dict[_HeaderName, _HeaderValue] | None = None


class Record(_Model):
    """The source: its URL, or the size of the picture that the body holds in base64.

    ``plan`` has the faults that ``_sandbox`` names.
    """

    id: _Text | None = Field(None, alias="_id")
    url: _Url | None = Field(None, alias="_url")
    size: Annotated[int | None, BeforeValidator(_decoded_size)] = Field(None, alias="_base64")
    plan: Annotated[Any, BeforeValidator(_plan)] = Field(None, alias="_sandbox")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.size is None):
            raise ValueError("the record needs one of _url and _base64")
        return self


class Submission(_Model):
    """A valid submit, by the names of the provider's page, without a picture in base64."""

    type: Literal["upscaler"]
    endpoint: Literal["upscale_2x", "upscale_4x", "upscale_8x"]
    mode: Literal["artifact_removal", "ironed_out", "high_fidelity"] | None = None
    model_type: Literal["classic", "gan"] | None = None
    image_format: Literal["auto", "png", "jpg", "webp"] | None = None
    image_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    tune_colors: bool | None = None
    workspace: _Text | None = None
    webhook: Webhook | None = None
    records: Annotated[list[Record], Field(min_length=1, max_length=1)]

    @model_validator(mode="after")
    def _quality_of_a_format(self) -> Self:
        if self.image_quality is not None and self.image_format is None:
            raise ValueError("image_quality: only available together with image_format")
        return self

    def upscaling(self) -> Upscaling:
        """Return what to do. ``tune_colors`` has no effect, since resizing does not change the colours."""
        return Upscaling(
            factor=int(self.endpoint[-2]),
            resampling=_RESAMPLING[self.mode],
            sharpen=self.model_type == "gan",
            image_format=self.image_format or "auto",
            image_quality=self.image_quality or 85,
        )


def parse(body: bytes, max_source_bytes: int, workspace: str) -> XimilarOrder:
    """Parse the body of a submit. It may hold a whole picture: call it in a thread.

    Raises:
        InvalidRequestError: the provider's page does not allow it.
    """
    try:
        submission = Submission.model_validate(json_object(body))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        # Of the webhook, its header's name is left out, which may be any text.
        place = fault["loc"][2:3] if fault["loc"][:1] == ("records",) else fault["loc"][:2]
        name = ".".join(map(str, place or fault["loc"][:1]))
        message = fault["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"{name}: {message}" if name else message) from error
    (record,), webhook = submission.records, submission.webhook
    if (record.size or 0) > max_source_bytes:
        raise InvalidRequestError(f"_base64: larger than {max_source_bytes} bytes")
    return XimilarOrder(
        source=record.url,
        upscaling=submission.upscaling(),
        webhook=None if webhook is None else webhook.endpoint,
        headers={} if webhook is None else webhook.headers or {},
        plan=record.plan,
        workspace=submission.workspace or workspace,
        record_id=record.id,
    )


XimilarJob = Job[XimilarOrder]


class Ximilar(StandIn[XimilarOrder]):
    """Each route exists with and without a trailing slash, and neither redirects. No retries are promised."""

    submitted_status = 201
    invalid_status = 400
    picture_at = ("records", 0, "_base64")

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
