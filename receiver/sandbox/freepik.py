"""Freepik's stand-in: its image upscaler."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.sandbox import submits
from receiver.sandbox.delivery import Retries
from receiver.sandbox.hosting import Hosting
from receiver.sandbox.jobs import Clock, Event, Job, Order, State
from receiver.sandbox.options import Options
from receiver.sandbox.signing import StandardWebhooks, secrets_of
from receiver.sandbox.standin import StandIn
from receiver.sandbox.submits import InvalidRequestError
from receiver.sandbox.upscale import Upscaling

_STATUS: Mapping[State, str] = {
    State.WAITING: "CREATED",
    State.WORKING: "IN_PROGRESS",
    State.SUCCEEDED: "COMPLETED",
}
"""A task's status; all other states are FAILED."""
_PATH = "/v1/ai/image-upscaler"


class Freepik(StandIn[Order]):
    """Each change of a task's status is posted, in the form of the answers without their ``data``."""

    invalid_status = 400
    # Retries are not documented; these are a guess.
    retries = Retries(count=3, within=60.0)
    picture_at = ("image",)

    def __init__(self, options: Options, clock: Clock) -> None:
        self._url_key = secrets.token_bytes(32)
        used = secrets_of(options, lambda: secrets.token_urlsafe(24))
        # The key is the secret's own bytes, which Standard Webhooks would decode from base64.
        keys = [secret.encode() for secret in used]
        signer = StandardWebhooks(keys, [f"v{number}" for number in range(1, len(keys) + 1)])
        super().__init__(options, clock, signer)
        self.secrets = () if options.secrets else used

    def routes(self) -> list[Route]:
        return [
            Route(_PATH, self.guarded(self.submit), methods=["POST"]),
            Route(_PATH, self.guarded(self.list), methods=["GET"]),
            Route(_PATH + "/{id}", self.guarded(self.get), methods=["GET"]),
        ]

    def hosting(self) -> Hosting:
        return Hosting("/files", 12 * 3600.0, query=self._token, refusal=self._file_refusal)

    def token_of(self, request: Request) -> str | None:
        return request.headers.get("x-freepik-api-key") or request.headers.get("x-magnific-api-key")

    def parse(self, body: bytes, request: Request) -> Order:
        data = submits.json_object(body)
        return Order(
            source=submits.source(data.get("image"), "image", self.options.max_source_bytes),
            upscaling=Upscaling(submits.factor(data, "scale_factor")),
            webhook=submits.webhook(data.get("webhook_url"), "webhook_url"),
            plan=submits.plan_in(request, self.options.provider),
        )

    def submitted(self, job: Job[Order], _request: Any) -> Any:
        return {"data": {"task_id": job.id, "status": "CREATED", "generated": []}}

    def message(self, job: Job[Order], _request: Any, event: Event) -> Any:
        return None if event is Event.OUTPUT else _task(job, announced=True)

    def refusal(self, _status: int, text: str) -> Any:
        return {"message": text}

    def invalid(self, error: InvalidRequestError) -> Any:
        field, _, reason = error.text.partition(": ")
        return {"message": "Validation error", "invalid_params": [{"field": field, "reason": reason}]}

    async def list(self, _request: Request) -> Response:
        """``GET /v1/ai/image-upscaler``: all tasks, newest first. That there are no pages is a guess."""
        return JSONResponse({"data": [_task(job) for job in self.listed()]})

    async def get(self, request: Request) -> Response:
        return JSONResponse({"data": _task(self.job(request))})

    def _token(self, name: str, expires: float) -> str:
        return f"?token=exp={int(expires)}~hmac={self._proof(name, str(int(expires)))}"

    def _proof(self, name: str, expires: str) -> str:
        return hmac.new(self._url_key, f"{expires}~{name}".encode(), hashlib.sha256).hexdigest()

    def _file_refusal(self, request: Request) -> Response | None:
        """Refuse a URL whose token is not this file's own, as it was given."""
        end, _, proof = request.query_params.get("token", "").removeprefix("exp=").partition("~hmac=")
        wanted = self._proof(request.path_params["name"], end)
        return None if hmac.compare_digest(proof.encode(), wanted.encode()) else Response("Forbidden", 403)


def _task(job: Job[Order], *, announced: bool = False) -> dict[str, Any]:
    return {
        "task_id": job.id,
        "status": _STATUS.get(job.state, "FAILED"),
        "generated": [output.announced_url if announced else output.url for output in job.outputs],
    }
