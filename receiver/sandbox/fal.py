"""fal.ai's stand-in: the queue of any model, each of which upscales."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.sandbox import submits
from receiver.sandbox.delivery import Retries
from receiver.sandbox.faults import JobFault, OutputFault
from receiver.sandbox.hosting import MEDIA_TYPES, Hosting
from receiver.sandbox.jobs import ENDED, Clock, Event, Job, Order, Output, State
from receiver.sandbox.options import Options
from receiver.sandbox.signing import FalKeys
from receiver.sandbox.standin import StandIn
from receiver.sandbox.submits import InvalidRequestError
from receiver.sandbox.upscale import Upscaling

_STATUS: Mapping[State, str] = {State.WAITING: "IN_QUEUE", State.WORKING: "IN_PROGRESS"}
"""The queue's words; all other states are COMPLETED there."""
_FORMATS = {"png": "png", "jpeg": "jpg", "jpg": "jpg", "webp": "webp"}
_PAYLOAD_ERROR = (
    "Response payload is not JSON serializable. Either return a JSON serializable object or use the queue "
    "endpoint to retrieve the response."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRequest(Order):
    """A submit, and its model: the first two parts of the path, by which the queue's URLs name it."""

    app: str


class Fal(StandIn[QueueRequest]):
    """The API knows no list. Files have a life; what the queue answers has none."""

    retries = Retries(count=10, within=2 * 3600.0)
    patience = 15.0
    missing = "Request not found"
    picture_at = ("image_url",)

    def __init__(self, options: Options, clock: Clock) -> None:
        self._keys = FalKeys(2 if options.two_keys else 1)
        super().__init__(options, clock, self._keys)
        self._keys_from = clock() + options.keys_late

    def routes(self) -> list[Route]:
        request = "/{owner}/{alias}/requests/{id}"
        return [
            Route("/.well-known/jwks.json", self.jwks, methods=["GET"]),
            Route(request, self.guarded(self.get), methods=["GET"]),
            Route(request + "/status", self.guarded(self.status), methods=["GET"]),
            Route(request + "/cancel", self.guarded(self.cancel_request), methods=["PUT"]),
            # A model may have further parts in its path. The queue's URLs do not: a GET with them is a 405.
            Route("/{owner}/{alias}", self.guarded(self.submit), methods=["POST"]),
            Route("/{owner}/{alias}/{rest:path}", self.guarded(self.submit), methods=["POST"]),
        ]

    def hosting(self) -> Hosting:
        return Hosting("/files", 7 * 24 * 3600.0, removed=True)

    def token_of(self, request: Request) -> str | None:
        return submits.scheme_token(request, "Key")

    def parse(self, body: bytes, request: Request) -> QueueRequest:
        data = submits.json_object(body)
        wanted = data.get("output_format", "")
        if not isinstance(wanted, str):
            raise InvalidRequestError("output_format: a string is wanted")
        return QueueRequest(
            source=submits.source(data.get("image_url"), "image_url", self.options.max_source_bytes),
            upscaling=Upscaling(
                submits.factor(data, "upscale_factor", "scale"), image_format=_FORMATS.get(wanted, "auto")
            ),
            webhook=submits.webhook(request.query_params.get("fal_webhook"), "fal_webhook"),
            plan=submits.plan_in(request, self.options.provider),
            app="{owner}/{alias}".format(**request.path_params),
        )

    def submitted(self, job: Job[QueueRequest], _request: Any) -> Any:
        return {
            "status": "IN_QUEUE",
            "request_id": job.id,
            "gateway_request_id": job.id,
            **self._urls(job),
            "queue_position": 0,
        }

    def message(self, job: Job[QueueRequest], _request: Any, event: Event) -> Any:
        """Return the webhook's body; its words differ from the queue's, and there is none before the end."""
        if event is not Event.ENDED:
            return None
        tried_again = JobFault.RETRY in job.plan
        ids = {"request_id": job.id, "gateway_request_id": str(uuid.uuid4()) if tried_again else job.id}
        if job.error is not None:
            payload = {"detail": _details("image_url", job.error)}
            return {**ids, "status": "ERROR", "error": "Invalid status code: 422", "payload": payload}
        if OutputFault.PAYLOAD_ERROR in job.plan:
            return {**ids, "status": "OK", "error": None, "payload": None, "payload_error": _PAYLOAD_ERROR}
        return {**ids, "status": "OK", "error": None, "payload": self._payload(job, announced=True)}

    def message_id(self, job: Job[QueueRequest]) -> str:
        return job.id

    def refusal(self, _status: int, text: str) -> Any:
        return {"detail": text}

    def invalid(self, error: InvalidRequestError) -> Any:
        field, _, text = error.text.partition(": ")
        return {"detail": _details(field, text)}

    async def jwks(self, _request: Request) -> Response:
        """``GET /.well-known/jwks.json``, without a token."""
        if self.clock() < self._keys_from:
            return Response("Service Unavailable", 503)
        return JSONResponse(self._keys.jwks())

    async def get(self, request: Request) -> Response:
        """``GET /MODEL/requests/ID``: what the model answered, with its status."""
        job = self._request_job(request)
        if job.state not in ENDED:
            return JSONResponse({"detail": "Request is still in progress"}, 400)
        if job.error is not None:
            return JSONResponse({"detail": _details("image_url", job.error)}, 422)
        return JSONResponse(self._payload(job, announced=False))

    async def status(self, request: Request) -> Response:
        job = self._request_job(request)
        status = _STATUS.get(job.state, "COMPLETED")
        content: dict[str, Any] = {"status": status, "request_id": job.id, **self._urls(job)}
        if status == "IN_QUEUE":
            content["queue_position"] = 0
        if job.ended is not None:
            content |= {"logs": None, "metrics": {"inference_time": job.ended - (job.started or job.ended)}}
        if job.error is not None:
            content |= {"error": job.error, "error_type": "internal_server_error"}
        return JSONResponse(content, 200 if job.state in ENDED else 202)

    async def cancel_request(self, request: Request) -> Response:
        job = self._request_job(request)
        if job.state in ENDED:
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
        # What a canceled request tells afterwards is a guess.
        job.error = "Request was canceled"
        await self.cancel(job)
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

    def _request_job(self, request: Request) -> Job[QueueRequest]:
        job = self.job(request)
        if job.order.app != "{owner}/{alias}".format(**request.path_params):
            raise HTTPException(404, self.missing)
        return job

    def _urls(self, job: Job[QueueRequest]) -> dict[str, str]:
        response = f"{job.base_url}/{job.order.app}/requests/{job.id}"
        further = {f"{name}_url": f"{response}/{name}" for name in ("status", "cancel")}
        return {"response_url": response, **further}

    def _payload(self, job: Job[QueueRequest], *, announced: bool) -> dict[str, Any]:
        videos = [it for it in job.outputs if it.file.path.suffix == ".mp4"]
        images = [_file(it, announced=announced) for it in job.outputs if it not in videos]
        payload: dict[str, Any] = {"images": images} if len(images) > 1 else {"image": images[0]}
        for video in videos:
            payload["video"] = _file(video, announced=announced)
        return payload


def _file(output: Output, *, announced: bool) -> dict[str, Any]:
    path = output.file.path
    fields: dict[str, Any] = {
        "url": output.announced_url if announced else output.url,
        "content_type": MEDIA_TYPES[path.suffix],
        "file_name": f"output{path.suffix}",
        "file_size": output.file.size,
    }
    if output.file.upscaled_width:
        fields |= {"width": output.file.upscaled_width, "height": output.file.upscaled_height}
    return fields


def _details(field: str, text: str) -> list[dict[str, Any]]:
    return [{"loc": ["body", field], "msg": text, "type": "value_error"}]
