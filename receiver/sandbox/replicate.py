"""Replicate's stand-in: predictions of one model, which upscales."""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.sandbox import submits
from receiver.sandbox.delivery import Retries
from receiver.sandbox.faults import OutputFault
from receiver.sandbox.hosting import Hosting
from receiver.sandbox.jobs import Clock, Event, Job, Order, State, timestamp
from receiver.sandbox.options import Options
from receiver.sandbox.signing import PREFIX, StandardWebhooks, new_secret, secrets_of
from receiver.sandbox.standin import StandIn
from receiver.sandbox.submits import InvalidRequestError
from receiver.sandbox.upscale import Upscaling

_STATUS: Mapping[State, str] = {State.WAITING: "starting", State.WORKING: "processing"}
"""A prediction's status where it is called otherwise than the job's state."""
_FILTERS: Mapping[Event, str] = {Event.STARTED: "start", Event.OUTPUT: "output", Event.ENDED: "completed"}
_EVENTS = ("start", "output", "logs", "completed")
_UNFILTERED = ("output", "completed")
"""What is posted where no filter was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Order):
    """A submit, and the events for which its webhook is called."""

    version: str
    events: frozenset[str]


class Replicate(StandIn[Prediction]):
    """Files and output are removed when their life ends."""

    submitted_status = 201
    # The number of retries is a guess.
    retries = Retries(count=5, within=60.0)
    page_size = 100
    missing = "The requested resource could not be found."
    picture_at = ("input", "image")

    def __init__(self, options: Options, clock: Clock) -> None:
        used = secrets_of(options, new_secret)
        try:
            keys = [base64.b64decode(text.removeprefix(PREFIX), validate=True) for text in used]
            signer = StandardWebhooks(keys, ["v1"] * len(keys))
        except (binascii.Error, RuntimeError) as error:
            raise ValueError(f"a secret of Replicate is {PREFIX} and base64") from error
        super().__init__(options, clock, signer)
        self.secrets = () if options.secrets else used
        self._newest = used[-1]

    def routes(self) -> list[Route]:
        return [
            Route("/v1/predictions", self.guarded(self.submit), methods=["POST"]),
            Route("/v1/predictions", self.guarded(self.list), methods=["GET"]),
            Route("/v1/predictions/{id}", self.guarded(self.get), methods=["GET"]),
            Route("/v1/predictions/{id}/cancel", self.guarded(self.cancel_prediction), methods=["POST"]),
            Route("/v1/webhooks/default/secret", self.guarded(self.secret), methods=["GET"]),
        ]

    def hosting(self) -> Hosting:
        return Hosting("/delivery", 3600.0, removed=True, refusal=self._file_refusal)

    def token_of(self, request: Request) -> str | None:
        return submits.scheme_token(request, "Bearer", "Token")

    def new_id(self) -> str:
        return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()

    def parse(self, body: bytes, request: Request) -> Prediction:
        data = submits.json_object(body)
        fields = data.get("input")
        if not isinstance(fields, dict):
            raise InvalidRequestError("input: is required")
        if not isinstance(data.get("version"), str):
            raise InvalidRequestError("version: is required")
        events = data.get("webhook_events_filter", list(_UNFILTERED))
        if not isinstance(events, list) or any(event not in _EVENTS for event in events):
            raise InvalidRequestError("webhook_events_filter: of start, output, logs, completed")
        return Prediction(
            source=submits.source(fields.get("image"), "input.image", self.options.max_source_bytes),
            upscaling=Upscaling(submits.factor(fields, "scale", "scale_factor")),
            webhook=submits.webhook(data.get("webhook"), "webhook"),
            plan=submits.plan_in(request, self.options.provider),
            version=data["version"],
            events=frozenset(events),
        )

    def submitted(self, job: Job[Prediction], request: Any) -> Any:
        return self._form(job, request) | {"status": "starting", "output": None, "completed_at": None}

    def message(self, job: Job[Prediction], request: Any, event: Event) -> Any:
        return self._form(job, request, announced=True) if _FILTERS[event] in job.order.events else None

    def refusal(self, status: int, text: str) -> Any:
        titles = {401: "Unauthenticated", 422: "Input validation failed"}
        title = {"title": titles[status]} if status in titles else {}
        return title | {"detail": text, "status": status}

    async def list(self, request: Request) -> Response:
        """``GET /v1/predictions``: pages by a cursor, newest first, without input, output and logs."""
        jobs = self.listed()
        cursor = request.query_params.get("cursor")
        ids = [job.id for job in jobs]
        if cursor is not None and cursor not in ids:
            raise HTTPException(404, self.missing)
        first = 0 if cursor is None else ids.index(cursor)
        size = self.options.page_size or self.page_size

        def link(number: int) -> str | None:
            return self.page_link(request, cursor=ids[number]) if 0 <= number < len(ids) else None

        following, before = link(first + size), link(max(first - size, 0)) if first else None
        hidden = ("input", "output", "logs")
        rows = [self._form(job, {"input": {}}) for job in jobs[first : first + size]]
        results = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
        return JSONResponse({"next": following, "previous": before, "results": results})

    async def get(self, request: Request) -> Response:
        return await self.answer(self._form, self.job(request))

    async def cancel_prediction(self, request: Request) -> Response:
        job = self.job(request)
        await self.cancel(job)
        return await self.answer(self._form, job)

    async def secret(self, _request: Request) -> Response:
        """``GET /v1/webhooks/default/secret``: the newest one."""
        return JSONResponse({"key": self._newest})

    def _form(self, job: Job[Prediction], request: Any, *, announced: bool = False) -> dict[str, Any]:
        removed = job.ended is not None and job.ended + self.results.lifetime <= self.clock()
        started = job.started or job.ended
        api = f"{job.base_url}/v1/predictions/{job.id}"
        return {
            "id": job.id,
            "model": "sandbox/upscaler",
            "version": job.order.version,
            "input": {} if removed else request["input"],
            "logs": "",
            "output": None if removed else self._output(job, announced=announced),
            "data_removed": removed,
            "error": job.error,
            "status": _STATUS.get(job.state, job.state),
            "created_at": timestamp(job.created),
            "started_at": timestamp(job.started),
            "completed_at": timestamp(job.ended),
            "metrics": {} if job.ended is None else {"predict_time": job.ended - (started or job.ended)},
            "urls": {"get": api, "cancel": f"{api}/cancel"},
        }

    def _output(self, job: Job[Prediction], *, announced: bool) -> Any:
        """Return one URL, or several as a list or a map, or None while there is none."""
        urls = [output.announced_url if announced else output.url for output in job.outputs]
        if OutputFault.MAPPED in job.plan and urls:
            return dict(zip(("image", "preview"), urls, strict=False))
        return urls if len(urls) > 1 else next(iter(urls), None)

    def _file_refusal(self, request: Request) -> Response | None:
        if not self.options.files_want_token:
            return None
        return None if self.token_of(request) == self.options.token else Response("Unauthorized", 401)
