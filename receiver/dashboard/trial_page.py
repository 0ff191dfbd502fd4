"""The page of test deliveries: sends one, shows its steps as they happen, and has the picture of each."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from receiver.api import params
from receiver.api.sse import HEADERS as STREAM_HEADERS
from receiver.core.concurrency import cancel
from receiver.core.errors import BodyError, LedgerError
from receiver.dashboard.templates import Templates
from receiver.operations.delivery_trial import STEPS, DeliveryTrials, Trial, is_ticket, picture, read_trial
from receiver.web.waiter_limit import WaiterLimit

log = structlog.get_logger("receiver.page")

PATH = "/page/test-delivery"
POLL_SECONDS = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class TrialPage:
    trials: DeliveryTrials
    waiters: WaiterLimit
    templates: Templates
    _running: set[asyncio.Task[object]] = field(default_factory=set, init=False)

    async def show(self, request: Request) -> Response:
        """``GET /page/test-delivery``: the last test delivery, and a button for another."""
        params.nothing(request.query_params)
        trial = await read_trial(self.trials.ledger)
        return await self.templates.answer(
            "test_delivery",
            trial=trial,
            running=self._is_running(trial),
            to_come=list(STEPS.values())[len(trial.steps) :] if self._is_running(trial) and trial else [],
            address=self.trials.address,
            json=f"/jobs/{trial.job}" if trial else "/jobs",
        )

    async def start(self, request: Request) -> Response:
        """``POST /page/test-delivery/send/{provider}``: send one, and lead to its steps."""
        params.nothing(request.query_params)
        name = request.path_params["provider"]
        if name not in self.trials.providers:
            raise BodyError("body.no_such_route", "No provider of this name is on.")
        trial = await self.trials.begin(name)
        log.info("test delivery", job=trial.job)
        task = asyncio.create_task(self._run(trial), name="test delivery")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return RedirectResponse(PATH, 303)

    async def events(self, request: Request) -> Response:
        """``GET /page/test-delivery/events``: an event for each change until the test delivery ends."""
        params.nothing(request.query_params)
        self.waiters.check()
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=STREAM_HEADERS)

    async def picture(self, request: Request) -> Response:
        """``GET`` of a webhook: the picture of a test delivery, for its ticket; for everybody else a 405."""
        ledger, ticket = self.trials.ledger, request.query_params.get("signature")
        if ticket is None or not await is_ticket(ledger, ticket, ledger.now()):
            raise HTTPException(405, headers={"Allow": "POST"})
        return Response(picture(), media_type="image/jpeg", headers={"Cache-Control": "private, no-store"})

    async def aclose(self) -> None:
        await cancel(self._running)

    async def _events(self) -> AsyncIterator[str]:
        known: Trial | None = None
        with self.waiters.waiting():
            while True:
                trial = await read_trial(self.trials.ledger)
                if not self._is_running(trial):
                    yield "event: end\ndata:\n\n"
                    return
                if trial != known:
                    known = trial
                    yield "data:\n\n"
                await asyncio.sleep(POLL_SECONDS)

    def _is_running(self, trial: Trial | None) -> bool:
        return trial is not None and trial.is_running(self.trials.ledger.now())

    async def _run(self, trial: Trial) -> None:
        try:
            await self.trials.run(trial)
        except LedgerError as error:
            log.error("the ledger cannot be read", reason=error.reason, detail=error.detail)  # noqa: TRY400 - not a bug
        except Exception:
            log.exception("unexpected error")
